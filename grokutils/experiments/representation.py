"""Embeddings and decoders trained together: against the size of the training set, and over the phase diagrams of Liu et al."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils.descent import AdamW, representation
from grokutils.experiments._run import Run
from grokutils.problems import PermutationGroup, ToyAddition
from grokutils.theory import groups, toy_addition

SEEDS = 20  # of the runs against the training fraction; phase diagrams have 10
LEVELS = (0.8, 0.9, 0.95, 1.0)  # of training accuracy
SECONDS = 3e-4  # a step of one member of width 200 on one core
_RATES = [float(f"{10 ** (-5 + k / 3):.3g}") for k in range(10)]


def training_sets(problem, pairs: int, seeds) -> list[np.ndarray]:
    """The training set of each seed: n pairs of the table, drawn without replacement; not related to the initial weights of that seed."""
    table = representation.table_of(problem)[0]
    return [table[np.sort(np.random.default_rng([seed, pairs, 58]).permutation(len(table))[:pairs])] for seed in seeds]


def ideal_accuracy(problem, pairs) -> float:
    """The best accuracy on the whole table that the relations between training pairs allow."""
    if isinstance(problem, ToyAddition):
        return toy_addition.ideal_accuracy(problem, pairs)
    return groups.ideal_accuracy(groups.symmetric(problem.degree)[0], pairs)


def quality(problem, embedding: np.ndarray) -> np.ndarray:
    """The representation quality index of embeddings (..., symbol, coordinate) or (..., symbol, row, column); NaN where they are.

    Matrices count as obeying a parallelogram if the squared distance of the two products is below .01 of the spread of all products.
    """
    shape = embedding.shape[: -(3 if isinstance(problem, PermutationGroup) else 2)]
    flat = embedding.reshape(-1, *embedding.shape[len(shape) :])
    good = np.isfinite(flat).all(axis=tuple(range(1, flat.ndim)))
    found = np.full(len(flat), np.nan)
    if not good.any():
        return found.reshape(shape)
    if isinstance(problem, ToyAddition):
        found[good] = toy_addition.rqi(problem, flat[good])
    else:
        table = groups.symmetric(problem.degree)[0]
        products = np.einsum("...aij,...bjk->...abik", flat[good], flat[good])
        spread = products.var((1, 2)).sum((1, 2))
        found[good] = (groups.mismatch(table, flat[good]) < 0.01 * spread[:, None]).mean(-1)
    return found.reshape(shape)


def _first(curve: np.ndarray, level, steps: np.ndarray) -> np.ndarray:
    """The first of ``steps`` at which curves (..., records) reach a level, NaN where never."""
    reached = curve >= np.asarray(level) - 1e-6
    return np.where(reached.any(-1), steps[reached.argmax(-1)], np.nan)


def _last(curve: np.ndarray) -> np.ndarray:
    """The last number of curves (..., records) that is not NaN."""
    place = np.isfinite(curve).cumsum(-1).argmax(-1)
    return np.take_along_axis(curve, place[..., None], -1)[..., 0]


def fraction(
    problem: ToyAddition | PermutationGroup, pairs: int, seeds: int = SEEDS, steps: int = 10_000, embedding_rate: float = 1e-3,
    decoder_rate: float = 1e-4, width: int = 200, embedding_scale: float = 1.0, penalty: float = 0.0, every: int = 20,
) -> xr.Dataset:
    """Networks trained on ``pairs`` pairs: accuracies, quality and embeddings at the start, half-way and the end; when they were reached."""
    sets = training_sets(problem, pairs, range(seeds))
    how = dict(embedding=AdamW(embedding_rate), decoder=AdamW(decoder_rate), width=width, embedding_scale=embedding_scale, penalty=penalty)
    ds = representation.train(problem, sets, steps=steps, every=every, progress=False, **how)
    rqi = quality(problem, ds.embedding.values)
    count = ds.training.sum("pair")
    table = len(ds.pair)
    test = ds.test_accuracy.fillna(0.0)  # no pair is left when all are for training
    ds["accuracy"] = (ds.train_accuracy * count + test * (table - count)) / table
    ds["rqi"] = (("member", "step"), rqi)
    clock = ds.step.values
    firsts = {f"first_{n}": ("member", _first(c, level, clock)) for n, c, level in (
        ("train", ds.train_accuracy.values, 0.9), ("test", ds.test_accuracy.values, 0.9), ("rqi", rqi, 0.95))}
    kept = ds[["train_accuracy", "test_accuracy", "accuracy", "rqi", "embedding"]].sel(step=[0, steps // 2, steps])
    ideal = ("member", [ideal_accuracy(problem, pairs) for pairs in sets])
    return kept.assign(correct=ds.correct, training=ds.training, ideal_accuracy=ideal, **firsts).assign_attrs(ds.attrs | {"every": every})


fraction.version = 1
fraction.seconds = lambda problem, pairs, seeds=SEEDS, steps=10_000, **_: SECONDS * seeds * steps


def phases(
    problem: ToyAddition | PermutationGroup, seeds=(0, 1), pairs: int = 45, embedding_rates=(1e-3,), decoder_rates=(1e-4,), decoder_decays=(0.0,),
    loss: str = "regression", steps: int = 10_000, width: int = 200, embedding_scale: float = 1.0, penalty: float = 0.0, every: int = 20,
    keep_embeddings: bool = False,
) -> xr.Dataset:
    """A phase diagram as one batch: every cell with every seed, frozen once all that can be inferred is learnt.

    A seed has one training set and one initial network for all cells. Dims (seed, embedding_rate, decoder_rate, decoder_decay):
    first_train (.., level), first_test (.., count of validation pairs right), first_rqi: steps, NaN if never; last accuracies; accuracies over
    time (.., record). ``unlearnable`` (seed): validation pairs that no relation links to a training pair.
    """
    grid = np.array([(s, e, d, w) for s in range(len(seeds)) for e in embedding_rates for d in decoder_rates for w in decoder_decays])
    sets = training_sets(problem, pairs, seeds)
    table = problem.table_size
    best = np.array([round(table * ideal_accuracy(problem, pairs)) for pairs in sets])
    member, held_out = grid[:, 0].astype(int), table - pairs

    def done(measured):
        reachable = (best[member[measured["member"]]] - pairs) / held_out
        return (measured["train_accuracy"] > 1 - 1e-6) & (measured["test_accuracy"] >= reachable - 1e-6)

    ds = representation.train(
        problem, [sets[s] for s in member], [seeds[s] for s in member], steps, embedding=AdamW(grid[:, 1]), decoder=AdamW(grid[:, 2], grid[:, 3]),
        loss=loss, width=width, embedding_scale=embedding_scale, penalty=penalty, every=every, stop=done, progress=False)
    clock = ds.step.values
    counts = np.arange(1, held_out + 1)
    rqi = quality(problem, ds.embedding.values)
    found = {f"{part}_at_end": ("member", _last(ds[part].values)) for part in ("train_accuracy", "test_accuracy")} | {
        "first_train": (("member", "level"), np.stack([_first(ds.train_accuracy.values, x, clock) for x in LEVELS], -1)),
        "first_test": (("member", "count"), np.stack([_first(ds.test_accuracy.values, x / held_out, clock) for x in counts], -1)),
        "first_rqi": ("member", _first(rqi, 0.95, clock)), "rqi_at_end": ("member", _last(rqi)), "last_step": ds.last_step,
    }
    curves = ds[["train_accuracy", "test_accuracy", *(["embedding"] if keep_embeddings else [])]].sel(step=clock[:: max(1, 200 // every)])
    axes = dict(seed=list(seeds), embedding_rate=list(embedding_rates), decoder_rate=list(decoder_rates), decoder_decay=list(decoder_decays))
    out = curves.assign(found).drop_vars(["seed", "member", "first", "second"], errors="ignore")
    index = {name: (name, np.asarray(values)) for name, values in axes.items()}
    shape = tuple(len(v) for v in axes.values())
    data = {name: ((*axes, *v.dims[1:]), v.values.reshape(*shape, *v.shape[1:])) for name, v in out.data_vars.items()}
    coordinates = index | {"level": list(LEVELS), "count": counts, "step": out.step.values}
    attributes = {name: value for name, value in ds.attrs.items() if "optimiser" not in name}  # their rates are coordinates
    return xr.Dataset(data, coordinates, attributes | {"every": every, "pairs": pairs}).assign(unlearnable=("seed", table - best))


def _seconds(problem, seeds=(0, 1), embedding_rates=(1e-3,), decoder_rates=(1e-4,), decoder_decays=(0.0,), steps=10_000, **_):
    return 0.75 * SECONDS * len(seeds) * len(embedding_rates) * len(decoder_rates) * len(decoder_decays) * steps


phases.version, phases.seconds = 1, _seconds


def training_fraction() -> list[Run]:
    """Figures 3, 4, 5, 10: ten symbols, eleven sizes of the training set."""
    return [Run(ToyAddition(10), dict(pairs=n), fraction) for n in (*range(5, 51, 5), 54)]


def _diagram(problem, **settings) -> list[Run]:
    """Five runs of two seeds each; the first keeps the embeddings over time."""
    return [Run(problem, settings | dict(seeds=[2 * k, 2 * k + 1]) | ({"keep_embeddings": True} if k == 0 else {}), phases) for k in range(5)]


def phase_rates() -> list[Run]:
    """Figure 6a: learning rates of embeddings and decoder, without weight decay."""
    return _diagram(ToyAddition(10), embedding_rates=_RATES, decoder_rates=_RATES)


def phase_regression() -> list[Run]:
    """Figure 6b: the decoder's learning rate and weight decay, regression."""
    return _diagram(ToyAddition(10), decoder_rates=_RATES, decoder_decays=[0.0, 2.0, 4.0, 6.0, 8.0, 10.0])


def phase_classification() -> list[Run]:
    """Figure 6c: the decoder's learning rate and weight decay, classification."""
    return _diagram(ToyAddition(10), decoder_rates=_RATES, decoder_decays=[0.0, 5.0, 10.0, 20.0], loss="classification")


def phase_group() -> list[Run]:
    """Figure 6d: the decoder's learning rate and weight decay, permutations; with the penalty and the small start of the paper's code."""
    settings = dict(pairs=24, decoder_rates=_RATES, decoder_decays=[0.0, 1.0, 10.0, 100.0], embedding_scale=0.1, penalty=1e-3)
    return _diagram(PermutationGroup(3), **settings)
