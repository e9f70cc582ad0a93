"""The stored ensembles that the book shows: what they are, how they are made, where they lie."""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import xarray as xr

from grokutils.problems import TeacherStudent
from grokutils.step_bias import plan
from grokutils.store import Store
from grokutils.sweep import settings_of, sweep

NOISE = (0.1, 0.12, 0.135, 0.15, 0.165, 0.18, 0.2, 0.225, 0.25, 0.3)
# beta: (data sets, chains, draws, gradients between draws, warm-up gradients, noise variances)
_ENSEMBLES = {
    1 / 8: (40, 2, 100, 10, 300, NOISE),
    1 / 2: (24, 2, 80, 6, 200, NOISE),
    1.0: (20, 2, 30, 5, 120, NOISE),
    2.0: (4, 2, 30, 5, 120, (0.1, 0.15, 0.18, 0.2, 0.25, 0.3)),
}
_LOW_NOISE = (0.1,)  # where a network remembers its number of droplets longest at beta = 1


@dataclass(frozen=True)
class Run:
    """One stored ensemble: its problem, the settings of ``sample``, and how to load it."""

    beta: float
    noise_variance: float
    start: str
    method: str
    problem: TeacherStudent
    settings: dict = field(hash=False)

    @property
    def key(self) -> str:
        return Store.key(self.problem, settings_of(self.problem, **self.settings))

    def load(self, store: Store | None = None) -> xr.Dataset | None:
        """The stored dataset, or None if it has not been made."""
        return (store or Store()).load(self.key)

    @property
    def gradients(self) -> int:
        """What this run costs, in gradients of one network."""
        s = dict(datasets=4, chains=2, draws=200, warmup=200, thin=5) | self.settings
        steps = s["warmup"] + s["draws"] * s["thin"]
        return s["datasets"] * s["chains"] * (24 + round(steps * (RELOCATION_COST if self.method == "relocation" else 1)))


HALF_STEP = "underdamped, half step"
RELOCATION_COST = 2.4  # for estimates: about the time of a gradient with its share of a block over a plain one, beta = 1; see make bench


def _run(beta, noise_variance, start="prior", method="underdamped", **settings) -> Run:
    problem = TeacherStudent.paper(noise_variance, beta).rounded()
    datasets, chains, draws, thin, warmup, _ = _ENSEMBLES[beta]
    # the same data sets for every start and method: they can be compared set by set
    if method == "hmc":  # a Metropolis test needs shorter steps: more gradients for one independent draw
        thin, warmup = 4 * thin, 300
    if method == HALF_STEP:  # half of what tuning gives at beta = 1: how large is the step bias?
        thin, warmup = 2 * thin, 2 * warmup
    if method == "relocation":  # a draw after every block
        draws, thin = 25, 6
    sizes = dict(datasets=datasets, chains=chains, draws=draws, thin=thin, warmup=warmup)
    own = dict(method="underdamped", step_size=0.33) if method == HALF_STEP else dict(method=method)
    return Run(beta, noise_variance, start, method, problem, sizes | own | dict(start=start, seed=int(problem.hash[:7], 16)) | settings)


def figure2() -> list[Run]:
    """Ensembles behind the paper's Figs. 1 and 2: every beta and noise from the prior; at beta = 1 also from the teacher.

    At beta = 1 and low noise also with the relocation of droplets, from both starts; at noise 0.25 also by exact HMC and by
    underdamped Langevin at half the step.
    """
    runs = [_run(beta, noise) for beta, (*_, noises) in _ENSEMBLES.items() for noise in noises]
    runs += [_run(1.0, noise, start="teacher") for noise in (0.1, 0.12, 0.15, 0.2, 0.25)]
    runs += [_run(1.0, noise, method="relocation") for noise in _LOW_NOISE] + [_run(1.0, 0.1, start="teacher", method="relocation")]
    return [*runs, _run(1.0, 0.25, method="hmc"), _run(1.0, 0.25, method=HALF_STEP)]


def slow_mode() -> list[Run]:
    """The slowest observable at the paper's size and the lowest noise, with and without relocation, each for the cost of about 5000 gradients."""
    common = dict(datasets=4, chains=2)
    return [
        _run(1.0, 0.1, **common, draws=470, thin=10, warmup=300),
        _run(1.0, 0.1, method="relocation", **common, draws=325, thin=6, warmup=120),
    ]


STEPS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)


def step_bias() -> list[Run]:
    """Underdamped Langevin at many steps against exact HMC (first) on the same data sets; the tuned step comes second."""
    problem = TeacherStudent.paper(0.2, 1 / 8).rounded()
    return [Run(1 / 8, 0.2, "prior", s.get("method", "underdamped"), problem, s) for s in plan(STEPS)]


EXPERIMENTS = {"figure2": figure2, "slow_mode": slow_mode, "step_bias": step_bias}


def cost(runs: list[Run]) -> float:
    """Estimated seconds on one core: a gradient of each size is timed on this machine."""
    import torch

    from grokutils.sampling import TeacherStudentPosterior, draw_data

    seconds, total = {}, 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for run in runs:
        size = run.problem.samples, run.problem.dimension, run.problem.width
        if size not in seconds:
            posterior = TeacherStudentPosterior(run.problem, *draw_data(run.problem, 1))
            theta = posterior.prior_draw([0])
            posterior.energy_gradient(theta)
            start = time.perf_counter()
            posterior.energy_gradient(theta)
            seconds[size] = time.perf_counter() - start
        total += 1.25 * run.gradients * seconds[size]  # noise and measurements add about a quarter
    torch.set_num_threads(threads)
    return total


def make(name: str, store: Store | None = None, jobs: int | None = None) -> None:
    """Make what is missing of an experiment, one process a core; say beforehand what it costs. Safe to stop and start again."""
    store = store or Store()
    runs = EXPERIMENTS[name]()
    missing = [run for run in runs if run.load(store) is None]
    jobs = jobs or os.cpu_count() or 1
    print(f"{name}: {len(runs)} ensembles, {len(runs) - len(missing)} stored in {store.root}")
    if not missing:
        return
    print(f"about {cost(missing) / jobs / 60:.0f} minutes on {jobs} processes; each ensemble is stored as it ends, a second call resumes", flush=True)
    with ProcessPoolExecutor(jobs) as pool:
        sweep([(run.problem, run.settings) for run in missing], store, pool)


def main(arguments: list[str] | None = None) -> None:
    """``python -m grokutils.experiments run figure2 [--jobs N]``, ``... run all``, ``... list figure2``."""
    parser = argparse.ArgumentParser(prog="python -m grokutils.experiments", description=__doc__)
    parser.add_argument("action", choices=["run", "list"])
    parser.add_argument("name", choices=[*EXPERIMENTS, "all"])
    parser.add_argument("--jobs", type=int, default=None, help="processes (default: one a core)")
    options = parser.parse_args(arguments)
    for name in EXPERIMENTS if options.name == "all" else [options.name]:
        make(name, jobs=options.jobs) if options.action == "run" else show(name)


def show(name: str) -> None:
    """Print what an experiment consists of and what is stored."""
    for run in EXPERIMENTS[name]():
        state = "stored " if run.load() is not None else "missing"
        method = run.method + (f", step {run.settings['step_size']:g}" if "step_size" in run.settings else "")
        print(f"{state} {run.key} beta={run.beta:<6g} noise_variance={run.noise_variance:<6g} start={run.start:<8} method={method}")


if __name__ == "__main__":
    main()
