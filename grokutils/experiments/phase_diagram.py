"""Ensembles that cross the boundary of the mixed phase by data, by noise and by width, and the readouts of droplets."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils.experiments._run import Run
from grokutils.problems import TeacherStudent

BETA = 1 / 8  # an eighth of the paper's network: N = 88, d = 53, n = 375
RATIO_NOISE = (0.2, 0.25, 0.3, 0.35, 0.4)  # noise at n = 375; the rays n / noise of the boundary along n
OTHER_NOISE = (0.1, 0.8)  # where the same rays are crossed by other n
WIDTHS = (44, 62, 125, 176)
WIDTH_NOISE = 0.25
READOUT_NOISE = (0.1, 0.15, 0.2, 0.25, 0.3)
_SIZES = dict(datasets=30, chains=2, draws=60, warmup=300, thin=10)


class _Silent:
    def update(self, n=1):
        pass


def readouts(problem: TeacherStudent, datasets: int = 10, draws: int = 40, warmup: int = 200, thin: int = 10, seed: int = 0) -> xr.Dataset:
    r"""Sample the posterior and sort all neurons by $|q|$: how many, and the means of $V^2=Na^2/\sigma_a^2$ and of the transverse norm s.

    V is the readout in units of its prior width, so that V^2 averages to 1 where a neuron feels no data.

    Returns:
        Dataset with dims (dataset, bin): count, readout2 (sum of V^2), transverse (sum of s), bins of |q| of width 0.05; and
        (dataset, draw): droplets, the number of neurons with |q| > 1/2.
    """
    import torch

    from grokutils.sampling._drivers import DRIVERS
    from grokutils.sampling.posterior import TeacherStudentPosterior, draw_data, seed_of

    edges = np.linspace(0, 2, 41)
    rows, droplets = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for j in range(datasets):
                posterior = TeacherStudentPosterior(problem, *draw_data(problem, range(j, j + 1), seed), 1, "cpu", "float32")
                theta = posterior.prior_draw([seed_of(seed, 1, j, 0)])
                sampler = DRIVERS["underdamped"](posterior, theta, [seed_of(seed, 2, j, 0)], None, 0.5, 1.0)
                sampler.warm_up(warmup, _Silent())
                row, number = np.zeros((3, len(edges) - 1)), []
                for _ in range(draws):
                    sampler.advance(thin, _Silent())
                    weights, a = (t[0].double().cpu().numpy() for t in posterior.weights(sampler.theta))
                    q = np.abs(weights[:, 0])
                    s, v2 = np.sum(weights**2, axis=1) - q**2, problem.width * a**2 / problem.readout_variance
                    row += [np.histogram(np.minimum(q, 1.999), edges, weights=w)[0] for w in (np.ones_like(q), v2, s)]
                    number.append(np.sum(q > 0.5))
                rows.append(row)
                droplets.append(number)
    finally:
        torch.set_num_threads(threads)
    data = dict(zip(("count", "readout2", "transverse"), np.moveaxis(rows, 1, 0), strict=True))
    return xr.Dataset(
        {name: (("dataset", "bin"), values) for name, values in data.items()} | {"droplets": (("dataset", "draw"), np.array(droplets))},
        coords={"bin": (edges[1:] + edges[:-1]) / 2},
        attrs=dict(problem_hash=problem.hash, datasets=datasets, draws=draws, warmup=warmup, thin=thin, seed=seed),
    )


def averages(
    problem: TeacherStudent, datasets: int = 30, chains: int = 2, draws: int = 60, warmup: int = 300, thin: int = 10, seed: int = 0
) -> xr.Dataset:
    """``sample`` with all but the means over each chain thrown away: learned (dataset, chain, degree) and tail_fraction (dataset, chain)."""
    from grokutils.sampling import sample

    return _reduce(sample(problem, datasets=datasets, chains=chains, draws=draws, warmup=warmup, thin=thin, seed=seed, progress=False))


def _reduce(ds):
    kept = ("problem_hash", "step_size", "gradients_per_chain", "version_grokutils", "version_torch", "version_numpy")
    rhat = float(ds.grok.summary().loc["tail_fraction", "rhat"])
    means = ds[["learned", "tail_fraction"]].astype(float).mean("draw")
    return means.drop_attrs().assign_attrs({name: ds.attrs[name] for name in kept}, rhat_of_tail_fraction=rhat)


averages.version = 1
averages.gradients = lambda problem, datasets=30, chains=2, draws=60, warmup=300, thin=10, **_: datasets * chains * (24 + warmup + draws * thin)
readouts.version = 1
readouts.gradients = lambda problem, datasets=10, draws=40, warmup=200, thin=10, **_: datasets * (24 + warmup + draws * thin)


def _run(problem, **settings) -> Run:
    return Run(problem, _SIZES | settings | dict(seed=int(problem.hash[:7], 16)), averages)


def phase_diagram() -> list[Run]:
    """At an eighth of the paper's size: the same rays n / noise at three noises, the boundary along the width, and the readouts of droplets."""
    base = TeacherStudent.paper(0.2, BETA).rounded()
    runs = [_run(base.replace(noise_variance=noise)) for noise in RATIO_NOISE if noise > 0.3]
    for noise in OTHER_NOISE:
        runs += [_run(base.replace(noise_variance=noise, samples=round(base.samples * noise / ratio))) for ratio in RATIO_NOISE]
    runs += [_run(base.replace(noise_variance=WIDTH_NOISE, width=width)) for width in WIDTHS]
    for noise in READOUT_NOISE:
        problem = base.replace(noise_variance=noise)
        runs.append(Run(problem, dict(datasets=30, draws=60, warmup=300, seed=int(problem.hash[:7], 16)), readouts))
    return runs
