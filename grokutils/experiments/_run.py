"""One stored run, what it costs, and the command that makes what is missing."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import xarray as xr

from grokutils.problems import Problem
from grokutils.store import Store
from grokutils.sweep import settings_of, sweep

RELOCATION_COST = 2.4  # for estimates: about the time of a gradient with its share of a block over a plain one, beta = 1; see make bench
_SIZES = dict(datasets=4, chains=2, draws=200, warmup=200, thin=5)  # the defaults of ``sample``


@dataclass(frozen=True)
class Run:
    """One stored result: its problem, the settings, the function that makes it (None: ``sample``), and how to load it."""

    problem: Problem
    settings: dict = field(hash=False)
    function: Callable | None = None

    @property
    def key(self) -> str:
        return Store.key(self.problem, settings_of(self.problem, self.function, **self.settings))

    def load(self, store: Store | None = None) -> xr.Dataset | None:
        """The stored dataset, or None if it has not been made."""
        return (store or Store()).load(self.key)

    @property
    def noise_variance(self) -> float:
        return self.problem.noise_variance

    @property
    def start(self) -> str:
        return self.settings.get("start", "prior")

    @property
    def method(self) -> str:
        return self.settings.get("method", "underdamped")

    @property
    def gradients(self) -> int:
        """What this run costs, in gradients of one network; a function that does more than sample says it by ``gradients(problem, **settings)``."""
        return getattr(self.function, "gradients", sampled_gradients)(self.problem, **self.settings)

    def __str__(self) -> str:
        name = "sample" if self.function is None else self.function.__name__
        return f"{name}({self.problem}, {', '.join(f'{k}={v!r}' for k, v in self.settings.items())})"


def sampled_gradients(problem: Problem, **settings) -> int:
    """Gradients of one network that ``sample`` takes with these settings, tuning included."""
    s = _SIZES | settings
    steps = s["warmup"] + s["draws"] * s["thin"]
    return s["datasets"] * s["chains"] * (24 + round(steps * (RELOCATION_COST if s.get("method") == "relocation" else 1)))


def cost(runs: list[Run]) -> float:
    """Estimated seconds on one core: a gradient of each size is timed here, unless a run's function has ``seconds(problem, **settings)``."""
    import torch

    from grokutils.sampling.systems import posterior_of

    seconds, total = {}, 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for run in runs:
        if hasattr(run.function, "seconds"):
            total += run.function.seconds(run.problem, **run.settings)
            continue
        size = run.problem.replace(noise_variance=1.0)
        if size not in seconds:
            posterior = posterior_of(run.problem)
            theta = posterior.prior_draw([0])
            posterior.energy_gradient(theta)
            start = time.process_time()  # on a busy machine the clock on the wall says too much
            posterior.energy_gradient(theta)
            seconds[size] = time.process_time() - start
        total += 1.25 * run.gradients * seconds[size]  # noise and measurements add about a quarter
    torch.set_num_threads(threads)
    return total


def make(name: str, runs: list[Run], store: Store | None = None, jobs: int | None = None) -> None:
    """Make what is missing of an experiment, one process a core; say beforehand what it costs. Safe to stop and start again."""
    store = store or Store()
    missing = [run for run in runs if run.load(store) is None]
    jobs = jobs or os.cpu_count() or 1
    print(f"{name}: {len(runs)} runs, {len(runs) - len(missing)} stored in {store.root}")
    if not missing:
        return
    print(f"about {cost(missing) / jobs / 60:.0f} minutes on {jobs} processes; each run is stored as it ends, a second call resumes", flush=True)
    with ProcessPoolExecutor(jobs) as pool:
        for function in dict.fromkeys(run.function for run in missing):
            sweep([(run.problem, run.settings) for run in missing if run.function is function], store, pool, function=function)


def show(runs: list[Run]) -> None:
    """Print what an experiment consists of and what is stored."""
    for run in runs:
        print("stored " if run.load() is not None else "missing", run.key, run)


def main(experiments: dict, on_demand: dict, arguments: list[str] | None = None, description: str | None = None) -> None:
    """The command: {name: function that lists its runs}, and the same for those that "all" leaves out."""
    parser = argparse.ArgumentParser(prog="python -m grokutils.experiments", description=description)
    parser.add_argument("action", choices=["run", "list"])
    parser.add_argument("name", choices=[*experiments, *on_demand, "all"])
    parser.add_argument("--jobs", type=int, default=None, help="processes (default: one a core)")
    options = parser.parse_args(arguments)
    for name in experiments if options.name == "all" else [options.name]:
        runs = (experiments | on_demand)[name]()
        make(name, runs, jobs=options.jobs) if options.action == "run" else show(runs)
