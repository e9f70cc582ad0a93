"""What else moves the phases: the size of mini-batches, of the initial embeddings, and their weight decay (Liu et al., Figs. 13 to 15)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils.descent import AdamW, representation
from grokutils.experiments._run import Run
from grokutils.experiments.representation import LEVELS, SECONDS, _first, ideal_accuracy, quality, training_sets
from grokutils.problems import ToyAddition

RATES = (1e-4, 3.2e-4, 1e-3)
BATCHES, SCALES, DECAYS = (5, 10, 20, None), (0.1, 0.3, 1.0, 3.0), (0.0, 1.0, 3.0, 10.0)
SEEDS = (0, 1, 2, 3, 4, 6, 9, 10, 11, 12, 13, 14)  # the first twelve whose training set leaves at most one validation pair unlearnable


def phase_sweep(
    problem: ToyAddition, batch: int | None = None, embedding_scale: float = 1.0, embedding_decay: float = 0.0, *, decoder_rates=RATES,
    seeds=SEEDS, pairs: int = 45, embedding_rate: float = 1e-3, steps: int = 5000, width: int = 200, every: int = 25,
) -> xr.Dataset:
    """Networks of every seed at every learning rate of the decoder, frozen once all that can be inferred is learnt.

    A seed has one training set and one initial network in all runs, so that they can be compared seed by seed. Dims (seed, decoder_rate):
    first_train (.., level), first_test (.., count of validation pairs right), first_rqi: steps, NaN if never; quality at the end;
    ``spread``, the standard deviation of the embeddings at the end; ``unlearnable`` (seed) as in ``phases``.
    """
    grid = np.array([(s, rate) for s in range(len(seeds)) for rate in decoder_rates])
    sets, held_out = training_sets(problem, pairs, seeds), problem.table_size - pairs
    best = np.array([round(problem.table_size * ideal_accuracy(problem, chosen)) for chosen in sets])
    member = grid[:, 0].astype(int)

    def done(measured):
        reachable = (best[member[measured["member"]]] - pairs) / held_out
        return (measured["train_accuracy"] > 1 - 1e-6) & (measured["test_accuracy"] >= reachable - 1e-6)

    ds = representation.train(
        problem, [sets[s] for s in member], [seeds[s] for s in member], steps, embedding=AdamW(embedding_rate, embedding_decay),
        decoder=AdamW(grid[:, 1]), width=width, embedding_scale=embedding_scale, batch=batch, every=every, stop=done, progress=False)
    clock, counts = ds.step.values, np.arange(1, held_out + 1)
    rqi = quality(problem, ds.embedding.values)
    last = np.searchsorted(clock, ds.last_step.values)
    end = ds.embedding.values[np.arange(len(grid)), last]
    found = {
        "first_train": (("level",), np.stack([_first(ds.train_accuracy.values, x, clock) for x in LEVELS], -1)),
        "first_test": (("count",), np.stack([_first(ds.test_accuracy.values, x / held_out, clock) for x in counts], -1)),
        "first_rqi": ((), _first(rqi, 0.95, clock)), "rqi_at_end": ((), rqi[np.arange(len(grid)), last]), "spread": ((), end.std((1, 2), ddof=1)),
        "last_step": ((), ds.last_step.values),
    }
    shape = (len(seeds), len(decoder_rates))
    data = {name: (("seed", "decoder_rate", *dims), value.reshape(*shape, *value.shape[1:])) for name, (dims, value) in found.items()}
    coordinates = dict(seed=list(seeds), decoder_rate=list(decoder_rates), level=list(LEVELS), count=counts)
    return xr.Dataset(data, coordinates, ds.attrs | {"every": every}).assign(unlearnable=("seed", problem.table_size - best))


phase_sweep.version = 1
phase_sweep.seconds = lambda problem, batch=None, seeds=SEEDS, decoder_rates=RATES, steps=5000, **_: SECONDS * len(seeds) * len(decoder_rates) * steps


def phase_sweeps() -> list[Run]:
    """Ten runs: all as published, and each of three quantities changed in turn."""
    settings = [{}]
    settings += [dict(batch=batch) for batch in BATCHES if batch]
    settings += [dict(embedding_scale=scale) for scale in SCALES if scale != 1]
    settings += [dict(embedding_decay=decay) for decay in DECAYS if decay]
    return [Run(ToyAddition(10), s, phase_sweep) for s in settings]
