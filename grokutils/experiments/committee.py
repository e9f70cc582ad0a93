"""Committee machines over laziness, curvature and number of samples: gradient descent by its exact closure, ten seeds a point."""

from __future__ import annotations

import dataclasses

import numpy as np
import xarray as xr

from grokutils.experiments._run import Run
from grokutils.problems import Committee
from grokutils.theory import committee as theory

REDUCED = Committee(dimension=40, samples=200, width=100, laziness=1.0, curvature=0.05, step_size=5.0)
PAPER_SIZE = Committee.paper(1, step_size=20.0)  # twenty of the paper's steps in one
STEPS, PAPER_STEPS = 12_000, 6000
SHARES = (0.3, 0.1)  # of the initial loss
SWEEPS = {
    "laziness": ("laziness", (1 / 16, 1 / 4, 1, 4, 16, 64)),
    "curvature": ("curvature", (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)),
    "samples": ("samples", (40, 80, 120, 160, 200, 400, 800)),
    "paper_size": ("laziness", (0.25, 0.5, 1, 2, 4)),
}


def curves(problem: Committee, *, steps: int, seeds: int = 10, records: int = 50) -> xr.Dataset:
    """``theory.committee.ensemble`` at about so many steps that grow geometrically, and the times at which the losses fall.

    Returns:
        Dataset over (seed, step), with train_time and test_time (seed, share): ``first_below`` for the shares 0.3 and 0.1 of the initial
        loss, from eight times as many records.
    """
    kept, dense = (np.unique(np.r_[0, np.geomspace(1, steps, k).round().astype(int)]) for k in (records, 8 * records))
    ds = theory.ensemble(problem, steps, seeds, record=np.union1d(kept, dense))
    for name in ("train", "test"):
        times = [[theory.first_below(ds[f"{name}_loss"].sel(seed=s), share) for share in SHARES] for s in ds.seed]
        ds[f"{name}_time"] = (("seed", "share"), np.array(times))
    ds = ds.assign_coords(share=list(SHARES)).sel(step=kept)
    return ds.drop_vars(["largest_step", "largest_final_step", "final_norm"])  # at hand from ``theory.committee`` without any training


curves.version = 1
curves.seconds = lambda problem, **s: (
    s.get("seeds", 10) * s["steps"] * (3e-5 + (4 * problem.samples + 4 * problem.dimension) * problem.dimension**2 / 2.5e10))


def committee(sweep: str | None = None) -> list[Run]:
    """The runs of one sweep, a key of ``SWEEPS``, in the order of its values; None: all runs, each once.

    The first three sweeps meet in the reduced problem.
    """
    if sweep is None:
        return list(dict.fromkeys(run for name in SWEEPS for run in committee(name)))
    if sweep not in SWEEPS:
        raise ValueError(f"sweep must be one of {sorted(SWEEPS)}, got {sweep!r}")
    base, steps = (PAPER_SIZE, PAPER_STEPS) if sweep == "paper_size" else (REDUCED, STEPS)
    name, values = SWEEPS[sweep]
    return [Run(dataclasses.replace(base, **{name: value}), dict(steps=steps), curves) for value in values]
