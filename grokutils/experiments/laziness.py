"""Laziness, curvature and scale of the start of committee machines, and how many data they need: by the exact recursion, over seeds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import xarray as xr

from grokutils.descent import GradientDescent
from grokutils.descent import committee as networks
from grokutils.experiments._run import Run
from grokutils.experiments.committee import REDUCED, curves
from grokutils.problems import Committee
from grokutils.theory import committee as theory

THRESHOLD = 0.1
RULES = ("absolute", "relative")  # a loss below THRESHOLD, or below THRESHOLD of its initial value
MAP_LAZINESS, MAP_CURVATURE = (0.4, 1.0, 2.4, 5.6), (0.02, 0.05, 0.12, 0.28)
SCALES, PRODUCTS = (0.5, 1.0, 2.0), {0.25: 1200, 1.0: 3000, 4.0: 8000}  # steps for each value of the product
SCALED = REDUCED.replace(step_size=3.0)
FEW = Committee.paper(9, step_size=4.0)  # eight of the paper's steps in one
FEW_SAMPLES = (50, 120, 200, 500)
MOMENTUM = 0.95


def reached(ds: xr.Dataset) -> np.ndarray:
    """The steps at which train and test loss fall by both rules, (train or test, rule); NaN if never."""
    share = {"absolute": lambda curve: THRESHOLD / float(curve[0]), "relative": lambda curve: THRESHOLD}
    return np.array([[theory.first_below(ds[f"{name}_loss"], share[rule](ds[f"{name}_loss"])) for rule in RULES] for name in ("train", "test")])


def delays(problem: Committee, *, curvatures: tuple, horizon: int, seeds: int = 10) -> xr.Dataset:
    """Times to learn and to generalise for one laziness and several curvatures, in steps of the problem's step_size.

    They are trained with steps up to twice as large, where seven tenths of ``theory.committee.largest_step`` at the end allow it, and times are
    multiplied accordingly. A run is ten times as long as the time law says, or forty times if the test loss has not fallen by both rules by
    then, and never longer than the horizon.

    Returns:
        Dataset over (curvature, seed): train_time, test_time (curvature, seed, rule), NaN if never; time_law; peak, the largest test loss
        over the initial one; final_loss, the test loss at the end of the run; and length, the time of it.
    """
    rows = []
    for curvature in curvatures:
        for seed in range(problem.seed, problem.seed + seeds):
            p = problem.replace(curvature=curvature, seed=seed)
            given = theory.draw(p)
            law = theory.time_law(p, given)
            fast = min(2.0, 0.7 * theory.largest_step(p, given, *theory.final_state(p, given)) / p.step_size)
            p = p.replace(step_size=fast * p.step_size)
            for length in sorted({math.ceil(min(factor * law, horizon) / fast) for factor in (10, 40)}):
                record = np.unique(np.r_[0, np.geomspace(1, length, 200).round()].astype(int))
                ds = theory.run(p, length, record=record, given=given)
                times = fast * reached(ds)
                if np.isfinite(times).all():
                    break
            peak = float(ds.test_loss.max() / ds.test_loss[0])
            rows.append((*times.ravel(), law, peak, float(ds.test_loss[-1]), fast * length))
    table = np.array(rows).reshape(len(curvatures), seeds, -1)
    dims = ("curvature", "seed")
    return xr.Dataset(
        {"train_time": ((*dims, "rule"), table[..., :2]), "test_time": ((*dims, "rule"), table[..., 2:4])}
        | {name: (dims, table[..., 4 + k]) for k, name in enumerate(("time_law", "peak", "final_loss", "length"))},
        coords=dict(curvature=list(curvatures), seed=problem.seed + np.arange(seeds), rule=list(RULES)))


delays.version = 1
delays.seconds = lambda problem, **s: s.get("seeds", 10) * len(s["curvatures"]) * s["horizon"] / 4 * 1e-4


def momentum(problem: Committee, *, steps: int, momentum: float, seeds: int = 10, records: int = 60) -> xr.Dataset:
    """Neurons trained with momentum and the learning rate that makes the speed that of the problem, and plain gradient descent.

    Returns:
        Dataset over (optimiser, seed, step) with train_loss, test_loss, linear_power, weight_norm, excess_kurtosis, and over (optimiser, seed, share)
        train_time, test_time: when the losses fall below 30 % and 10 % of the initial ones.
    """
    kept, dense = (np.unique(np.r_[0, np.geomspace(1, steps, k).round()].astype(int)) for k in (records, 8 * records))
    found = []
    for mu in (0.0, momentum):
        rate = GradientDescent((1 - mu) * problem.learning_rate, momentum=mu)
        ds = networks.train(problem, seeds, steps, rate, record=np.union1d(kept, dense), progress=False)
        ds = ds.squeeze("direction", drop=True).assign_coords(member=ds.seed.values).drop_vars("seed").rename(member="seed")
        for name in ("train", "test"):
            times = [[theory.first_below(curve, share) for share in (0.3, 0.1)] for curve in ds[f"{name}_loss"]]
            ds[f"{name}_time"] = (("seed", "share"), np.array(times))
        names = ["train_loss", "test_loss", "linear_power", "weight_norm", "excess_kurtosis", "train_time", "test_time"]
        found.append(ds[names].assign_coords(share=[0.3, 0.1]).sel(step=kept))
    return xr.concat(found, xr.DataArray(["plain", "momentum"], dims="optimiser", name="optimiser"), combine_attrs="drop")


momentum.version = 1
momentum.seconds = lambda problem, **s: 2 * s.get("seeds", 10) * s["steps"] * 1e-3


def losses(problem: Committee, *, steps: int, seeds: int = 10, records: int = 40) -> xr.Dataset:
    """The part of ``experiments.committee.curves`` that is needed here: losses and their parts, norm, times, time law."""
    parts = ["train_loss", "test_loss", "variance_error", "misalignment", "linear_power", "weight_norm", "train_time", "test_time", "time_law"]
    return curves(problem, steps=steps, seeds=seeds, records=records)[parts]


losses.version = 1
losses.seconds = curves.seconds


def laziness(part: str | None = None) -> list[Run]:
    r"""The runs of one part, or of all.

    Args:
        part: "map": laziness and curvature, one run for each laziness; "scale": $(\alpha,\sigma)$ with $\alpha\sigma^2$ in ``PRODUCTS`` and
            sigma in ``SCALES``, products first, each as the problem with $\sigma=1$ that is the same to the last digit (``scaled``);
            "samples": the decomposition for several P; "momentum".
    """
    parts = {
        "map": [Run(REDUCED.replace(laziness=a), dict(curvatures=MAP_CURVATURE, horizon=40_000), delays) for a in MAP_LAZINESS],
        "scale": [
            Run(scaled(SCALED, product / sigma**2, sigma), dict(steps=steps, records=20), losses)
            for product, steps in PRODUCTS.items() for sigma in SCALES
        ],
        "samples": [Run(FEW.replace(samples=n), dict(steps=6000, seeds=20), losses) for n in FEW_SAMPLES],
        "momentum": [Run(REDUCED, dict(steps=2000, momentum=MOMENTUM), momentum)],
    }
    if part is not None and part not in parts:
        raise ValueError(f"part must be one of {sorted(parts)}, got {part!r}")
    return [run for name in parts if part in (None, name) for run in parts[name]]


def scaled(problem: Committee, laziness: float, scale: float) -> Committee:
    r"""The problem with weights of variance one that is the same as one with initial weights of standard deviation $\sigma$.

    With $w=\sigma u$ the output is $\frac{\alpha\sigma}N\sum\big(u\cdot x+\frac{\epsilon\sigma}2(u\cdot x)^2\big)$, and a step of w with the
    learning rate $\eta/\sigma^2$ is one of u with $\eta/\sigma^4$. So $(\alpha,\epsilon,\eta_0)$ become
    $(\alpha\sigma,\epsilon\sigma,\eta_0/\sigma^2)$.
    """
    return dataclasses.replace(problem, laziness=laziness * scale, curvature=problem.curvature * scale, step_size=problem.step_size / scale**2)
