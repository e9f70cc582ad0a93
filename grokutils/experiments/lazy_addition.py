"""Quadratic networks that learn modular addition by plain gradient descent (Kumar et al., Figs. 2 and 16), seen through all lenses."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from grokutils import lenses
from grokutils.descent.quadratic import linearised as lazy_twin
from grokutils.experiments._run import Run
from grokutils.modular import AdditionTask

SMALL, LARGE = AdditionTask(13, 100, 0.9), AdditionTask(23, 100, 0.9)
LEVELS = (0.5, 0.95)  # accuracies whose times are kept
DENSE = 3  # records of accuracies for each record of everything
# alpha: steps of 400 / alpha^2, for the modulus 23; the paper has 10^5 steps of 100 / alpha^2
LAZINESS = {0.25: 5000, 1.0: 12_500, 2.25: 25_000, 4.0: 40_000}


def followed(
    problem: AdditionTask, *, learning_rate: float, steps: int, laziness: float = 1.0, seeds: int = 10, records: int = 56,
) -> xr.Dataset:
    """``lenses.follow`` of networks with the seeds 0, 1, ... at about so many steps that grow geometrically, and times of accuracies.

    Args:
        learning_rate: for alpha = 1; the rate is this over alpha^2.

    Returns:
        Dataset over (member, step), with train_time and test_time (member, level): the first step at which an accuracy is reached,
        from three times as many records; NaN if never.
    """
    from grokutils.descent import GradientDescent, first_reached, train

    dense = np.unique(np.geomspace(steps / 400, steps, DENSE * records).round().astype(int))
    kept = np.r_[0, dense[:: -DENSE][::-1]]
    times, found = [], []
    for seed in range(seeds):  # one at a time: the weights at all records are large
        descent = GradientDescent(learning_rate / laziness**2)
        run = train(problem, [seed], steps, descent, record=np.r_[0, dense], laziness=laziness, follow=True, progress=False)
        times.append([[float(first_reached(run[f"{part}_accuracy"], level)[0]) for level in LEVELS] for part in ("train", "test")])
        found.append(lenses.follow(run.sel(step=kept)))
    ds = xr.concat(found, "member").drop_vars("laziness").assign_coords(level=list(LEVELS))
    ds["histogram"] = ds.histogram.astype("int16")
    for k, part in enumerate(("train", "test")):
        ds[f"{part}_time"] = (("member", "level"), np.array(times)[:, k])
    return ds


followed.version = 1
followed.seconds = lambda problem, steps, seeds=10, **_: seeds * (steps * 9e-9 * problem.modulus**2 * problem.width * problem.training_fraction + 3)


def lazy(problem: AdditionTask, *, learning_rate: float, steps: int, seeds: int = 10, records: int = 40) -> xr.Dataset:
    """``descent.quadratic.linearised`` of the networks of ``followed`` with alpha = 1, at about so many steps, and at infinity."""
    record = np.unique(np.r_[0, np.geomspace(steps / 400, steps, records).round()])
    return lazy_twin(problem, range(seeds), np.r_[record, np.inf], learning_rate)


lazy.version = 1
lazy.seconds = lambda problem, seeds=10, **_: seeds * (problem.training_pairs * problem.modulus) ** 3 * 1.5e-9


def lazy_addition() -> list[Run]:
    """In this order: modulus 13 with 20 seeds; 23 at four laziness; 23 with the paper's step, three seeds; the lazy limit of 13."""
    sweep = [Run(LARGE, dict(learning_rate=400.0, steps=steps, laziness=a), followed) for a, steps in LAZINESS.items()]
    return [
        Run(SMALL, dict(learning_rate=100.0, steps=16_000, seeds=20), followed), *sweep,
        Run(LARGE, dict(learning_rate=100.0, steps=32_000, seeds=3), followed), Run(SMALL, dict(learning_rate=100.0, steps=160_000), lazy),
    ]


# what rises while the network learns, in the order of the book's table
PROGRESS = (
    "train_accuracy", "norm", "centred_alignment", "spike", "hidden_share", "concentration", "matched", "unseen_share", "test_accuracy",
)


def crossing_times(ds: xr.Dataset, names=PROGRESS, level: float = 0.5) -> xr.DataArray:
    """Steps (observable, member) at which each observable, rescaled to 0 at the start and 1 at the end, first reaches a level.

    Between records it is interpolated linearly in the logarithm of the step.
    """
    log, rows = np.log1p(ds.step.values), []
    for name in names:
        x = ds[name].values
        x = (x - x[:, :1]) / (x[:, -1:] - x[:, :1])
        k = np.maximum((x >= level).argmax(axis=1), 1)
        b = np.arange(len(x))
        share = (level - x[b, k - 1]) / (x[b, k] - x[b, k - 1])
        rows.append(np.expm1(log[k - 1] + share * (log[k] - log[k - 1])))
    return xr.DataArray(np.array(rows), dims=("observable", "member"), coords={"observable": list(names), "member": ds.member})


def interval(values, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values and the ends of its interval by Student's t."""
    values = np.asarray(values, dtype=float)
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def crossing_order(ds: xr.Dataset, names=PROGRESS, level: float = 0.5, confidence: float = 0.95) -> pd.DataFrame:
    """Which observable reaches a level before which other, for every pair.

    A row has the geometric mean over seeds of the ratio of the two times, its interval, and a verdict: "before", "after" or "undecided". The
    confidence is that of all verdicts together: each interval is widened for the number of pairs (Bonferroni).
    """
    times, pairs = np.log(crossing_times(ds, names, level)), list(combinations(names, 2))
    single, rows = 1 - (1 - confidence) / len(pairs), []
    for first, second in pairs:
        mean, low, high = interval(times.sel(observable=second) - times.sel(observable=first), single)
        rows.append((first, second, np.exp(mean), np.exp(low), np.exp(high), "before" if low > 0 else "after" if high < 0 else "undecided"))
    return pd.DataFrame(rows, columns=["first", "second", "ratio", "low", "high", "verdict"])


def delays(runs: list[tuple[Run, xr.Dataset]], level: float = 0.95) -> pd.DataFrame:
    """For each run: the times at which accuracies reach a level, their difference and ratio, with intervals; seeds that never do are counted."""
    rows = []
    for run, ds in runs:
        train, test = (ds[f"{part}_time"].sel(level=level, method="nearest").values for part in ("train", "test"))
        both = np.isfinite(train) & np.isfinite(test)
        row = dict(laziness=run.settings.get("laziness", 1.0), rate=run.settings["learning_rate"], seeds=len(both), never=int((~both).sum()))
        columns = dict(train=np.log(train), test=np.log(test), delay=test - train, ratio=np.log(test / train))
        for name, values in columns.items():
            found = np.array(interval(values[both])) if both.sum() > 1 else np.full(3, np.nan)
            found = found if name == "delay" else np.exp(found)
            row |= {name: found[0], f"{name}_low": found[1], f"{name}_high": found[2]}
        rows.append(row)
    return pd.DataFrame(rows)


def populations(ds: xr.Dataset, draws: int = 2000) -> pd.DataFrame:
    """Whether the histogram of concentrations, all seeds together, has two humps: over the step, the depth of the valley between them.

    Counts in three windows of two bins that are fixed beforehand: around the mean of the first record, at the upper end, and halfway between.
    depth is the count in the middle over the smaller of the others, below 1 if there are two humps; low and high are the ends of its 95 %
    interval by resampling seeds. pure and mixed are the shares of halves of neurons with q above 3/4 and below 1/2.
    """
    counts, bins = ds.histogram.values.astype(float), ds.bin.values
    first = counts[:, 0].sum(axis=0)
    low = int(np.clip(round(float(bins @ first) / first.sum() * len(bins)), 1, len(bins) - 4))  # the edge next to the mean
    middle = round((low + len(bins) - 1) / 2)
    windows = np.stack([counts[..., k - 1 : k + 1].sum(axis=-1) for k in (low, middle, len(bins) - 1)])

    def depth(x):
        with np.errstate(divide="ignore", invalid="ignore"):
            return x[1] / np.minimum(x[0], x[2])

    rng = np.random.default_rng(0)
    drawn = np.array([depth(windows[:, rng.integers(len(counts), size=len(counts))].sum(axis=1)) for _ in range(draws)])
    ends = np.quantile(np.where(np.isfinite(drawn), drawn, 1e9), [0.025, 0.975], axis=0)
    shares = {"pure": counts[..., bins > 0.75].sum(axis=(0, 2)), "mixed": counts[..., bins < 0.5].sum(axis=(0, 2))}
    total = counts.sum(axis=(0, 2))
    table = dict(depth=depth(windows.sum(axis=1)), low=ends[0], high=ends[1]) | {name: x / total for name, x in shares.items()}
    return pd.DataFrame(table, index=pd.Index(ds.step.values, name="step"))
