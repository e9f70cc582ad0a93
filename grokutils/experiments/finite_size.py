"""How many droplets has a network? Counts, draw by draw, at sizes and noises that fill the gaps of ``figure2`` around the transition."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils.experiments._run import Run
from grokutils.experiments.ensembles import scaled
from grokutils.problems import TeacherStudent

# beta: (data sets, chains, draws, gradients between draws, warm-up gradients, noise variances)
_ENSEMBLES = {
    1 / 16: (40, 2, 60, 10, 250, (0.15, 0.2, 0.25, 0.35, 0.45)),
    1 / 8: (40, 2, 60, 10, 250, (0.35,)),
    1 / 4: (16, 2, 40, 8, 200, (0.15, 0.18, 0.2, 0.225, 0.25, 0.3)),
}


def droplet_counts(
    problem: TeacherStudent, datasets: int = 4, chains: int = 2, draws: int = 200, warmup: int = 200, thin: int = 5, seed: int = 0
) -> xr.Dataset:
    """Sample networks and keep, of each draw, only the number of neurons with |q| > 1/2.

    Args:
        problem: whole sizes; the other arguments are those of ``sample``.

    Returns:
        Dataset: ``count`` over (dataset, chain, draw); ``learned`` over (dataset, chain, degree), the mean over draws.
    """
    from grokutils.sampling import sample

    ds = sample(problem, datasets, chains, draws, warmup=warmup, thin=thin, seed=seed, progress=False)
    count = np.rint(problem.width * ds.tail_fraction).astype(np.int16)
    return xr.Dataset(dict(count=count, learned=ds.learned.mean("draw")), attrs=ds.attrs)


droplet_counts.version = 1


def droplet_number() -> list[Run]:
    """Numbers of droplets at sizes and noises that ``figure2`` leaves out."""
    return scaled(_ENSEMBLES, droplet_counts)
