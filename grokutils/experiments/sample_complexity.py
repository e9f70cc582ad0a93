"""How many samples the cubic component needs: networks at n ~ d; the infinitely wide network's kernel on their data and at n ~ d^3."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils.experiments._run import Run
from grokutils.kernel_regression import response, samples_needed
from grokutils.problems import TeacherStudent

NOISE = 0.1  # at the paper's size, d = 150
RATIO = 0.002  # sigma^2 / sigma_a^2 of the kernel at n ~ d^3: about the power that the kernel has beyond degree 3, so close to noiseless
# d: (data sets, chains, draws, gradients between draws, warm-up gradients) of the networks
_NETWORKS = {50: (24, 2, 30, 20, 400), 75: (20, 1, 30, 20, 400), 106: (16, 1, 25, 20, 300), 212: (6, 1, 15, 10, 150), 300: (3, 1, 8, 8, 110)}
_PAPER = 150, 20  # networks of this size and number of data sets are those of Fig. 2
_CUBE = {8: 60, 10: 40, 12: 30, 16: 20, 20: 16, 26: 8, 32: 4, 40: 2}  # d: data sets of the kernel at n ~ d^3
_AROUND = (0.8, 1.0, 1.25)  # of the predicted number of samples


def on_the_path(dimension: float, noise_variance: float = NOISE) -> TeacherStudent:
    r"""The paper's problem carried to another dimension at fixed n/d, u and kappa/d: $\alpha=\sqrt\beta$, $\beta=(d/150)^2$."""
    beta = (dimension / 150) ** 2
    return TeacherStudent.paper(noise_variance).scaled(alpha=beta**0.5, beta=beta).rounded()


def wide(dimension: int, samples: int = 1, ratio: float = RATIO) -> TeacherStudent:
    """The infinitely wide network: sigma_a^2 = 1 sets the unit, the width plays no part."""
    return TeacherStudent(samples, dimension, 1, ratio, 1.0, 0.5, {1: 1.0, 3: -0.3})


def kernel_response(problem, datasets: int = 1, seed: int = 0, samples: tuple = ()) -> xr.Dataset:
    """``kernel_regression.response`` on the data sets that ``sample`` draws, the mean over all coordinate axes as teachers.

    Args:
        problem: whole sizes.
        datasets, seed: as in ``sample``.
        samples: numbers of samples to do; none: the problem's own.
    """
    from grokutils.sampling import draw_data

    numbers = [int(n) for n in samples] or [problem.samples]
    every = []
    for n in numbers:
        p = problem.replace(samples=n)
        every.append([response(p, draw_data(p, range(j, j + 1), seed)[0][0]).mean(0) for j in range(datasets)])
    dims = ("samples", "dataset", "learned_degree", "target_degree")
    return xr.Dataset({"response": (dims, np.array(every))}, coords={"samples": numbers, "learned_degree": [1, 3], "target_degree": [1, 3]})


def _kernel_gradients(problem, datasets: int = 1, seed: int = 0, samples: tuple = ()) -> int:
    """About the time of the Cholesky factors in gradients of a network of this size; a network of width 1 costs next to nothing."""
    d, size = problem.dimension, 4 * problem.samples * problem.dimension * problem.width
    return max(1, round(sum(datasets * n**2 * (n / 3 + 2 * d) / size for n in samples or [problem.samples])))


kernel_response.version = 1
kernel_response.gradients = _kernel_gradients


def learned_shares(
    problem, datasets: int = 4, chains: int = 2, draws: int = 200, warmup: int = 200, thin: int = 5, seed: int = 0
) -> xr.Dataset:
    """Sample networks and keep what is learned at every draw; arguments as in ``sample``."""
    from grokutils.sampling import sample

    ds = sample(problem, datasets, chains, draws, warmup=warmup, thin=thin, seed=seed, progress=False)
    return ds[["learned"]].drop_vars("bin", errors="ignore")


learned_shares.version = 1


def _seed(problem) -> int:
    return int(problem.hash[:7], 16)


def network_runs() -> list[Run]:
    """Networks at n = 20 d."""
    runs = []
    for d, (datasets, chains, draws, thin, warmup) in _NETWORKS.items():
        p = on_the_path(d)
        settings = dict(datasets=datasets, chains=chains, draws=draws, thin=thin, warmup=warmup, seed=_seed(p))
        runs.append(Run(p, settings, learned_shares))
    return runs


def kernel_runs() -> list[Run]:
    """The kernel on the networks' data sets."""
    sizes = {d: settings[0] for d, settings in _NETWORKS.items()} | {_PAPER[0]: _PAPER[1]}
    return [Run(p, dict(datasets=sets, seed=_seed(p)), kernel_response) for d, sets in sorted(sizes.items()) for p in [on_the_path(d)]]


def cubic_runs() -> list[Run]:
    """The kernel around the number of samples at which, by the usual learning curve, it should have learned half of H3."""
    runs = []
    for d, sets in _CUBE.items():
        centre = samples_needed(wide(d), 0.5, ridge="uniform")
        numbers = tuple(round(f * centre) for f in _AROUND)
        runs.append(Run(wide(d, numbers[-1]), dict(datasets=sets, seed=1, samples=numbers), kernel_response))
    return runs


def sample_complexity() -> list[Run]:
    """Everything the chapter on sample complexity stores."""
    return kernel_runs() + cubic_runs() + network_runs()
