"""Digits learnt by perceptrons with large initial weights: curves, phases, and how long it takes, for ten seeds each."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils.descent.images import ImageClassification
from grokutils.experiments._run import Run

SEEDS = 10
REDUCED = ImageClassification("digits", 100, 64)
RATE = 3e-3  # of all layers unless the last has its own
SCALE = 6.0  # of the initial weights, in units of the usual ones
LEVELS = {"train": 0.9, "test": 0.6}  # accuracies that count as learnt; the second is the paper's for images
SCALES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
DECAYS = ((5.0, 0.1), (6.0, 0.03), (6.0, 0.1), (6.0, 0.3), (8.0, 0.1), (10.0, 0.1))  # (initial scale, weight decay)
SIZES = (10, 15, 20, 25, 30, 40, 60, 100, 200)
PHASE_DECAYS, PHASE_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), (1e-4, 1e-3, 1e-2, 1e-1)


def done(measured) -> np.ndarray:
    """Whether both levels are reached, for ``stop``."""
    return np.logical_and(*(measured[f"{part}_accuracy"] >= level - 1e-6 for part, level in LEVELS.items()))


def trained(
    problem: ImageClassification, steps: int, weight_decay=0.0, initial_scale=SCALE, head_rate=None, samples=None, rate: float = RATE,
    centred: bool = False, batch: int | None = None, seeds: int = SEEDS, every: int | None = None, until_done: bool = False, keep: tuple = (),
) -> xr.Dataset:
    """Networks with seeds 0, 1, ... for each of several cells, (cell, seed, step); a cell has its decay, scale, rate of the last layer and size.

    Args:
        weight_decay, initial_scale, head_rate, samples: one number, or a list with one for each cell. head_rate None: ``rate``.
        every: measure every so many steps; None: at about a hundred steps, evenly in the logarithm.
        until_done: stop a network when both ``LEVELS`` are reached.
        keep: names of what is kept; none: everything.
    """
    from grokutils.descent import AdamW
    from grokutils.descent.images import train

    lists = dict(weight_decay=weight_decay, initial_scale=initial_scale, head_rate=rate if head_rate is None else head_rate,
                 samples=problem.samples if samples is None else samples)
    cells = len(np.broadcast_arrays(*map(np.atleast_1d, lists.values()))[0])
    each = {name: np.repeat(np.broadcast_to(np.atleast_1d(value), cells), seeds) for name, value in lists.items()}
    record = np.unique(np.r_[0, np.round(np.geomspace(1, steps, 120)).astype(int)]) if every is None else None
    ds = train(
        problem, np.tile(np.arange(seeds), cells), steps, body=AdamW(rate, each["weight_decay"]), head=AdamW(each["head_rate"], each["weight_decay"]),
        samples=each["samples"], initial_scale=each["initial_scale"], centred=centred, batch=batch, every=every or 1, record=record,
        stop=done if until_done else None, progress=False,
    )
    ds = ds[list(keep)] if keep else ds.drop_vars("last_step")
    folded = {name: (("cell", "seed", "step"), v.values.reshape(cells, seeds, -1)) for name, v in ds.data_vars.items()}
    coordinates = {name: ("cell", value[::seeds]) for name, value in each.items()} | {"seed": np.arange(seeds), "step": ds.step.values}
    return xr.Dataset(folded, coordinates, {name: v for name, v in ds.attrs.items() if "optimiser" not in name} | {"rate": rate})


def _seconds(problem, steps, samples=None, seeds=SEEDS, batch=None, **lists) -> float:
    """On one core, if nobody stops early."""
    cells = max(np.size(value) for value in (1, *lists.values()))
    weights = sum(a * b for a, b in zip(problem.sizes, problem.sizes[1:]))
    images = batch or np.mean(problem.samples if samples is None else samples)
    return float(max(cells, np.size(samples)) * seeds * steps * (5e-5 + 6 * images * weights / 3e10))


trained.version = 1
trained.seconds = _seconds
_ACCURACIES = ("train_accuracy", "test_accuracy")


def images(problem: ImageClassification = REDUCED, stretch: int = 1, **settings) -> list[Run]:
    """Curves with and without decay; what the initial scale does, also centred; times with decay; training-set size; phases.

    Args:
        stretch: factor of all numbers of steps; settings: for all runs.
    """
    scale, decay = (list(x) for x in zip(*DECAYS))
    decays, rates = (x.ravel().tolist() for x in np.meshgrid(PHASE_DECAYS, PHASE_RATES, indexing="ij"))
    runs = [
        dict(steps=20000, weight_decay=[0.0, 0.02]),
        dict(steps=2000, initial_scale=list(SCALES)),
        dict(steps=600, initial_scale=list(SCALES), centred=True),
        dict(steps=8000, initial_scale=scale, weight_decay=decay, every=20, until_done=True, keep=(*_ACCURACIES, "norm", "spread")),
        dict(steps=12000, samples=list(SIZES), weight_decay=0.1, every=40, until_done=True, keep=_ACCURACIES),
        dict(steps=2500, weight_decay=decays, head_rate=rates, every=25, until_done=True, keep=_ACCURACIES),
    ]
    return [Run(problem, run | {"steps": stretch * run["steps"]} | settings, trained) for run in runs]


def images_paper() -> list[Run]:
    """The same with 1000 images of MNIST (which are fetched), 784-200-200-10, mini-batches of 200 and ten times the steps: days of a core."""
    runs = images(ImageClassification.paper(), stretch=10, batch=200, rate=1e-3)
    sizes = [200, 300, 500, 700, 1000, 2000, 5000]
    return [Run(r.problem, r.settings | ({"samples": sizes} if "samples" in r.settings else {}), trained) for r in runs]
