"""``sample``: an ensemble of networks from the posterior, measured as it goes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

import grokutils.summary  # noqa: F401  registers the .grok accessor
from grokutils._threads import one_thread
from grokutils.problems import Problem, positive
from grokutils.sampling._drivers import DRIVERS
from grokutils.sampling._measure import assemble
from grokutils.sampling.posterior import seed_of
from grokutils.sampling.systems import SYSTEMS, posterior_of, system_of

METHODS = tuple(DRIVERS)
STARTS = tuple(dict.fromkeys(start for system in SYSTEMS.values() for start in system.starts))
ALGORITHM_VERSION = {"underdamped": 1, "langevin": 1, "hmc": 3, "relocation": 1}  # raise one when its numbers for a given seed change
_UNIT = 150_000  # elements n N of the networks of one unit of work on a CPU: one network, or several small ones
_log = logging.getLogger(__name__)


def sample(
    problem: Problem, datasets: int = 4, chains: int = 2, draws: int = 200, *, warmup: int = 200, thin: int = 5,
    method: str = "underdamped", start: str = "prior", seed: int = 0, device: str = "cpu", dtype: str = "float32",
    step_size: float | None = None, friction: float = 0.5, temperature: float = 1.0, keep_neurons: bool = False, progress: bool = True,
    jobs: int | None = None,
) -> xr.Dataset:
    r"""Sample networks from the posterior $p(W,a|D)\propto e^{-E}$ of the problem, each chain its own network.

    Args:
        problem: a ``TeacherStudent`` with whole sizes (``problem.rounded()``; its energy: ``TeacherStudentPosterior``) or a
            ``ModularAddition`` with a whole width (``ModularAdditionPosterior``).
        datasets: independent training sets. Modular addition has but one, the whole table: there they are independent repetitions.
        chains: networks per training set, independent given it.
        draws: measurements a chain.
        warmup: gradients before the first measurement; the step size is tuned only then.
        thin: gradients between measurements.
        method: "underdamped" (BAOAB, whitened), "relocation" (the same, with moves that make and remove droplets: for low noise, where
            their number is the slowest mode), "langevin" (the paper's, in the network's own coordinates; teacher-student only), "hmc" (exact).
        start: "prior", or "teacher": a tenth of the neurons at overlap +-1 and readouts drawn given the weights. For modular addition
            "prior", or "droplets": half of the neuron-modes in the well.
        seed: data set j and chain c depend on (seed, j, c) alone, not on what else is sampled (but for hmc, whose number of steps a
            trajectory is common to the chains of a data set).
        device: "cpu", "cuda" or "auto" (logs what it took).
        dtype: "float32" or "float64".
        step_size: None = tuned: underdamped 1.2/sqrt(largest Hessian eigenvalue), whose bias is measured in the book,
            hmc to 80 % acceptance; langevin: learning rate on the loss averaged over the training set (the paper's 2e-3).
        friction: of underdamped Langevin.
        temperature: 1 samples the posterior; anything else is a deliberate mistake, for mutation controls.
        keep_neurons: also return overlap q and norm2 of every neuron at every draw (modular addition: power and phase of every mode).
        progress: show a progress bar.
        jobs: threads on the CPU; the numbers do not depend on it. None: all cores this process may use, but 1 in a worker process
            or thread, such as those of ``sweep``'s executors.

    Returns:
        Dataset with dims (dataset, chain, draw[, degree | bin | neuron]): learned, train_learned (Hermite coefficients of the output),
        second_moment <q^2>, tail_fraction P(|q|>1/2), train_loss and test_loss (mean squared errors; noise not included), energy,
        histogram of q. Modular addition: residual (1 = nothing learned), kernel_product <Phi Psi> over neuron-modes, droplet_fraction
        (beyond the barrier at the measured residual), tail_fraction (beyond half a droplet's power at the transition), train_loss,
        energy, joint histogram of (Phi, Psi), histogram_droplets (neurons by their number of modes in the tail).
        attrs hold the provenance. ``ds.grok.summary()`` gives errors, ESS and R-hat.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
        RuntimeError: the chain diverged (step size too large for an unadjusted method).
    """
    counts = dict(datasets=datasets, chains=chains, draws=draws, thin=thin)
    system = system_of(problem)
    _check_settings(counts, warmup, friction, temperature, step_size, method, start, dtype, seed, system.methods, tuple(system.starts))
    system.require_whole(problem)
    device, jobs = _device(device), _jobs(jobs)
    units = _units(problem, datasets, chains, DRIVERS[method].per_dataset, device)

    def run(unit: _Unit, bar: _Bar) -> tuple:
        posterior = posterior_of(problem, unit.datasets, seed, len(unit.chains), device, dtype)
        seeds = [[seed_of(seed, 1 + what, j, c) for j in unit.datasets for c in unit.chains] for what in range(2)]
        with torch.no_grad():
            theta = getattr(posterior, system.starts[start])(seeds[0])
            sampler = DRIVERS[method](posterior, theta, seeds[1], step_size, friction, temperature)
            sampler.warm_up(warmup, bar)
            measure, records = system.measure(problem, posterior, seed, keep_neurons), []
            for _ in range(draws):
                sampler.advance(thin, bar)
                records.append(measure(sampler.theta, sampler.energy))
        size = posterior.networks  # a step size a network, however many the sampler has
        return records, sampler.gradients, np.broadcast_to(np.ravel(sampler.step_size), size), np.full(size, sampler.acceptance)

    total = warmup + draws * thin
    with (
        one_thread(device),
        tqdm(total=total * datasets * chains, disable=not progress, unit="gradient", desc=f"{method} σ²={problem.noise_variance:g}") as bar,
    ):
        results = _run_all(run, units, jobs, bar, total)
    pieces, gradients, step_sizes, accepted = zip(*results)
    records = [{name: np.concatenate([r[name] for r in draw]) for name in draw[0]} for draw in zip(*pieces)]
    provenance = dict(
        problem=str(problem.as_dict()), problem_hash=problem.hash, **counts, warmup=warmup, method=method, start=start, seed=seed,
        dtype=dtype, device=str(device), friction=friction, temperature=temperature, gradients_per_chain=round(np.mean(gradients)),
        step_size=float(np.mean(np.concatenate(step_sizes))), acceptance=float(np.mean(np.concatenate(accepted))),
        algorithm_version=ALGORITHM_VERSION[method], **{f"version_{m}": version(m) for m in ("grokutils", "torch", "numpy")},
    )
    return assemble(records, system.measure.dims, system.measure.coordinates(problem), datasets, chains).assign_attrs(provenance)


class _Unit(NamedTuple):
    """What one thread samples at a time: chains of data sets."""

    datasets: range
    chains: range


def _units(problem, datasets, chains, per_dataset, device) -> list[_Unit]:
    """The ensemble in pieces, data set by data set, which depend on the problem, the chains and the method, never on the number of threads."""
    size = chains if per_dataset else datasets * chains if device.type == "cuda" else max(1, _UNIT // system_of(problem).elements(problem))
    if size >= chains:
        return [_Unit(js, range(chains)) for js in _pieces(datasets, size // chains)]
    return [_Unit(range(j, j + 1), cs) for j in range(datasets) for cs in _pieces(chains, size)]


def _pieces(total, size):
    return [range(first, min(first + size, total)) for first in range(0, total, size)]


class _Stopped(Exception):
    """Another unit failed or the user interrupted."""


class _Bar:
    """A unit's share of the common progress bar, and where its thread learns that it must stop."""

    def __init__(self, common, networks, total, lock, stop):
        self._common, self._networks, self._lock, self._stop = common, networks, lock, stop
        self.n, self.total = 0, total

    def update(self, n=1):
        if self._stop.is_set():
            raise _Stopped
        self.n += n
        with self._lock:
            self._common.update(n * self._networks)


def _run_all(run, units, jobs, common, total) -> list:
    """The results of all units in order; the first failure, or Ctrl-C, stops the others and is raised."""
    lock, stop = threading.Lock(), threading.Event()
    tasks = [(unit, _Bar(common, len(unit.datasets) * len(unit.chains), total, lock, stop)) for unit in units]
    if min(jobs, len(units)) == 1:
        return [run(*task) for task in tasks]
    with ThreadPoolExecutor(min(jobs, len(units)), "sample", torch.set_num_threads, (1,)) as pool:
        try:
            with lock:  # no unit goes far before all threads are there
                futures = [pool.submit(run, *task) for task in tasks]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future in done:
                    future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _check_settings(counts, warmup, friction, temperature, step_size, method, start, dtype, seed, methods=METHODS, starts=STARTS):
    for name, value in counts.items():
        positive(name, value, whole=True)
    positive("warmup", warmup, minimum=-1, whole=True)
    positive("friction", friction), positive("temperature", temperature)
    if step_size is not None:
        positive("step_size", step_size)
    for name, value, allowed in (("method", method, methods), ("start", start, starts), ("dtype", dtype, ("float32", "float64"))):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        _log.info("device: %s", name)
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'auto', got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda' but this torch sees no GPU")
    return torch.device(name)


def _jobs(jobs: int | None) -> int:
    if jobs is not None:
        return positive("jobs", jobs, whole=True)
    if multiprocessing.parent_process() is not None or threading.current_thread() is not threading.main_thread():
        return 1  # somebody else's worker: the cores are shared out already
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
