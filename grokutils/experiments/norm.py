"""The transverse norm of sampled neurons against their overlap: which closure of the theory do the networks obey?"""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils.experiments._run import Run
from grokutils.experiments.ensembles import scaled
from grokutils.problems import TeacherStudent

EDGES = np.linspace(0, 1.5, 61)  # of |q|
NORM_EDGES = np.linspace(0, 1, 101)  # of s
BULK, DROPLET = 0.25, 0.6  # populations: |q| below the first, above the second
# beta: (data sets, chains, draws, gradients between draws, warm-up gradients, noise variances)
_ENSEMBLES = {
    1 / 8: (40, 2, 60, 10, 250, (0.15,)),
    1 / 4: (24, 2, 50, 8, 200, (0.15,)),
    1 / 2: (16, 2, 50, 6, 200, (0.15,)),
    1.0: (8, 2, 24, 5, 100, (0.15, 0.2)),
}


def transverse_norms(
    problem: TeacherStudent, datasets: int = 4, chains: int = 2, draws: int = 200, warmup: int = 200, thin: int = 5, seed: int = 0
) -> xr.Dataset:
    r"""Sample networks and keep of every neuron's transverse norm $s=|w|^2-q^2$ what a table over the overlap can hold.

    Args:
        problem: whole sizes; the other arguments are those of ``sample``.

    Returns:
        Dataset over (dataset, chain): over bins of |q| the number of neurons (all draws together), their mean |q|, and mean and variance
        of s, nan where there is none; over bins of s the number of neurons of the bulk and of the droplets; and the mean over draws of
        the Hermite coefficients of the output, on the population (``learned``) and on the training points (``train_learned``).
    """
    from grokutils.sampling import sample

    ds = sample(problem, datasets, chains, draws, warmup=warmup, thin=thin, seed=seed, keep_neurons=True, progress=False)
    q = np.abs(ds.overlap.values.astype(float)).reshape(datasets * chains, -1)
    s = ds.norm2.values.astype(float).reshape(q.shape) - q**2

    def table(values, edges, weights=None):
        pairs = zip(values, values if weights is None else weights, strict=True)
        rows = [np.histogram(x, edges, weights=None if weights is None else w)[0] for x, w in pairs]
        return np.array(rows).reshape(datasets, chains, -1)

    count = table(q, EDGES)
    with np.errstate(invalid="ignore"):
        mean_q, mean_s, mean_s2 = (table(q, EDGES, x) / count for x in (q, s, s * s))
    histograms = np.stack([table(s, NORM_EDGES, inside.astype(float)) for inside in (q < BULK, q > DROPLET)], axis=2)
    over = ("dataset", "chain")
    return xr.Dataset(
        dict(
            count=((*over, "bin"), count.astype(np.int32)), overlap=((*over, "bin"), mean_q), mean=((*over, "bin"), mean_s),
            variance=((*over, "bin"), mean_s2 - mean_s**2), histogram=((*over, "population", "norm_bin"), histograms.astype(np.int32)),
            learned=ds.learned.mean("draw"), train_learned=ds.train_learned.mean("draw"),
        ),
        coords=dict(bin=(EDGES[1:] + EDGES[:-1]) / 2, norm_bin=(NORM_EDGES[1:] + NORM_EDGES[:-1]) / 2, population=["bulk", "droplet"]),
        attrs=ds.attrs,
    )


transverse_norms.version = 1


def norm_profile() -> list[Run]:
    """Transverse norms at one noise and sizes from an eighth of the paper's to the paper's; there also between the two theories' transitions."""
    # training sets of their own, not those of figure2: an independent experiment
    return scaled(_ENSEMBLES, transverse_norms, seed_offset=1)
