"""Small transformers on addition modulo P: time of generalisation, effective dimension, dropout, weight decay against learning rate."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils import embeddings
from grokutils.descent import AdamW
from grokutils.descent import transformer as networks
from grokutils.descent.transformer import TransformerAddition
from grokutils.experiments._run import Run

SMALL = TransformerAddition(23, 0.8, dimension=32)
PAPER = TransformerAddition(53, 0.8, dimension=256, layers=2)
RATE, DECAY = 3e-3, 3.0  # of the decoder, where they are not swept
SEEDS, PAIRED, CELL = 20, 8, 5  # networks of the main ensemble, of those that are compared with it seed by seed, of a cell of the phase diagram
STEPS, EVERY = 1600, 25
DROPOUTS = (0.1, 0.2, 0.4)
EMBEDDING_DECAYS = (0.01, 0.625)  # the optimiser's default; one that in 1600 steps does about what the default does in 10^5
RATES, DECAYS = (1e-3, 3e-3, 1e-2), (0.0, 3.0, 10.0)


def trained(
    problem: TransformerAddition, seeds: int = SEEDS, steps: int = STEPS, decoder_rate: float = RATE, weight_decay: float = DECAY,
    dropout: float = 0.0, embedding_rate: float = 1e-3, embedding_decay: float = 0.0, every: int = EVERY, until: float | None = None,
    read: bool = False, first_seed: int = 0,
) -> xr.Dataset:
    """Transformers with seeds 0, 1, ... (from ``first_seed`` on): curves (member, step), and when they learnt.

    first_train, first_test (member): the first recorded step with an accuracy of 0.9 on training pairs, and on the others. With ``until`` a
    member ends once it has that accuracy on both parts. With ``read`` also ring_share, the last embeddings, and the accuracy on training
    and on other pairs with embeddings restricted to their first principal components (member, part, components).
    """
    def done(measured):
        return (measured["train_accuracy"] >= until) & (measured["test_accuracy"] >= until)

    ds = networks.train(
        problem, range(first_seed, first_seed + seeds), steps, embedding=AdamW(embedding_rate, embedding_decay),
        decoder=AdamW(decoder_rate, weight_decay), dropout=dropout, every=every, stop=None if until is None else done, progress=False)
    table, clock = ds.embedding.values, ds.step.values
    found = ds[["test_accuracy", "effective_dimension"]].drop_vars(["dropout", "laziness", "seed"])  # a variable costs 4 kB, whatever its size
    found["effective_frequencies"] = ("member", "step"), embeddings.effective_frequencies(table)
    for name in ("train", "test"):
        reached = ds[f"{name}_accuracy"].values >= 0.9 - 1e-6
        found[f"first_{name}"] = "member", np.where(reached.any(1), clock[reached.argmax(1)], np.nan)
    if read:
        last = table[:, -1]
        numbers = np.arange(min(problem.modulus - 1, problem.dimension) + 1)
        found["ring_share"] = ("member", "step"), embeddings.ring(table).share
        found["embedding"] = ("member", "symbol", "coordinate"), last
        found["accuracy_within"] = ("member", "part", "components"), accuracy_within(problem, ds, last, numbers)
        found = found.assign_coords(components=numbers, part=["train", "test"])
    return found.assign_attrs(ds.attrs)


def accuracy_within(problem, ds: xr.Dataset, table, numbers) -> np.ndarray:
    """Accuracies (member, part, number) with the embeddings restricted to their first principal components; ``ds`` is what ``train`` returned."""
    parameters, components, mask = networks.parameters_of(problem, ds), embeddings.principal_components(table), ds.mask.values
    found = []
    for number in numbers:
        hits = networks.right(problem, parameters, embeddings.restricted(table, components, int(number)))
        found.append([(hits & part).sum((1, 2)) / np.maximum(part.sum((1, 2)), 1) for part in (mask, ~mask)])
    return np.moveaxis(np.array(found), (0, 1, 2), (2, 1, 0))


def _seconds(problem, seeds=SEEDS, steps=STEPS, dropout=0.0, until=None, **_):
    """As measured on one core, with about two thirds of the steps where members end early."""
    size = (problem.modulus / 23) ** 2 * problem.training_fraction / 0.8 * problem.layers * (problem.dimension / 32) ** 1.5
    return 2e-3 * (1.5 if dropout else 1) * (1 if until is None else 0.65) * seeds * steps * size


trained.version = 1
trained.seconds = _seconds


def transformer() -> list[Run]:
    """Everything the chapter on transformers stores; ``chosen`` picks."""
    main = [Run(SMALL, dict(read=True), trained)]
    grid = [(rate, decay) for rate in RATES for decay in DECAYS if (rate, decay) != (RATE, DECAY)]
    cells = [dict(decoder_rate=rate, weight_decay=decay) for rate, decay in grid]
    # two clocks: what the sum of two times, fitted to two cells, says about three other settings; and whether time alone does it without decay
    clocks = [dict(embedding_rate=1e-2), dict(embedding_rate=1e-2, decoder_rate=1e-2), dict(decoder_rate=1e-3, steps=5000)]
    waiting = [dict(weight_decay=0.0, steps=5000)]
    strong = [dict(seeds=PAIRED, dropout=x) for x in DROPOUTS]
    weak = [dict(seeds=PAIRED, weight_decay=1.0, steps=3000) | (dict(dropout=x) if x else {}) for x in (0.0, *DROPOUTS)]
    decays = [dict(seeds=PAIRED, embedding_decay=x) for x in EMBEDDING_DECAYS]
    small = [Run(SMALL, dict(seeds=CELL, until=0.95) | x, trained) for x in (*cells, *clocks, *waiting, *strong, *weak, *decays)]
    deeper = [Run(SMALL.replace(layers=2), dict(seeds=CELL, until=0.95), trained)]
    larger = [Run(SMALL.replace(modulus=p), dict(seeds=3, steps=1200, until=0.95), trained) for p in (53, 59)]
    wide = SMALL.replace(dimension=128, hidden=128)
    wider = [Run(wide, dict(seeds=3, until=0.95, decoder_rate=1e-3, weight_decay=0.0, steps=3000) | x, trained) for x in ({}, dict(dropout=0.2))]
    return main + small + deeper + larger + wider


def chosen(**settings) -> xr.Dataset | None:
    """The stored run of ``transformer`` with these settings, the others at their defaults, or None.

    Args:
        settings: arguments of ``trained`` and fields of the problem, except how many networks there are and when they end; ``steps`` if there
            are two runs that differ in nothing else.
    """
    shape = {name: settings.pop(name) for name in ("modulus", "layers", "dimension", "hidden") if name in settings}
    for run in transformer():
        free = {"seeds", "until", "read"} | ({"steps"} - set(settings))
        if run.problem == SMALL.replace(**shape) and {k: v for k, v in run.settings.items() if k not in free} == settings:
            return run.load()
    return None


def transformer_paper() -> list[Run]:
    """The paper's sizes: 100 networks over time, dropouts and a phase diagram; days of a GPU."""
    long = dict(steps=100_000, every=100, decoder_rate=1e-3, until=0.999)
    main = [Run(PAPER, dict(seeds=10, first_seed=10 * k, weight_decay=1.0, **long), trained) for k in range(10)]
    dropouts = [Run(PAPER, dict(seeds=3, weight_decay=0.0, dropout=round(float(x), 4), **long), trained) for x in np.linspace(0, 0.5, 10)[1:]]
    decays = [round(float(x), 5) for x in np.exp(np.linspace(-4, 3, 19))]
    rates = [float(f"{x:.3g}") for x in 10 ** np.linspace(-9, -1, 15)]
    cells = [Run(PAPER, dict(seeds=1, weight_decay=w, **long | dict(decoder_rate=r)), trained) for r in rates for w in decays]
    return main + dropouts + cells
