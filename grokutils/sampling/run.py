"""``sample``: an ensemble of networks from the posterior, measured as it goes."""

from __future__ import annotations

import contextlib
import logging
from importlib.metadata import version

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

import grokutils.summary  # noqa: F401  registers the .grok accessor
from grokutils.problems import TeacherStudent, positive
from grokutils.sampling._drivers import DRIVERS
from grokutils.sampling._measure import Measure, assemble
from grokutils.sampling.posterior import TeacherStudentPosterior, draw_data, seed_of

METHODS = tuple(DRIVERS)
STARTS = ("prior", "teacher")
ALGORITHM_VERSION = {"underdamped": 1, "langevin": 1, "hmc": 2}  # raise one when its numbers for a given seed change
_log = logging.getLogger(__name__)


def sample(
    problem: TeacherStudent, datasets: int = 4, chains: int = 2, draws: int = 200, *, warmup: int = 200, thin: int = 5,
    method: str = "underdamped", start: str = "prior", seed: int = 0, device: str = "cpu", dtype: str = "float32",
    step_size: float | None = None, friction: float = 0.5, temperature: float = 1.0, keep_neurons: bool = False, progress: bool = True,
) -> xr.Dataset:
    r"""Sample networks from the posterior $p(W,a|D)\propto e^{-E}$ of ``TeacherStudentPosterior``, each chain its own network.

    Args:
        problem: whole sizes (``problem.rounded()``).
        datasets: independent training sets.
        chains: networks per training set, independent given it.
        draws: measurements a chain.
        warmup: gradients before the first measurement; the step size is tuned only then.
        thin: gradients between measurements.
        method: "underdamped" (BAOAB, whitened), "langevin" (the paper's, in the network's own coordinates), "hmc" (exact).
        start: "prior", or "teacher": a tenth of the neurons at overlap +-1 and readouts drawn given the weights.
        seed: data set j and chain c depend on (seed, j, c) alone, not on how networks are batched (but for hmc, whose number of
            steps a trajectory is common to the batch).
        device: "cpu", "cuda" or "auto" (logs what it took).
        dtype: "float32" or "float64".
        step_size: None = tuned: underdamped 1.2/sqrt(largest Hessian eigenvalue), whose bias is measured in the book,
            hmc to 80 % acceptance; langevin: learning rate on the loss averaged over the training set (the paper's 2e-3).
        friction: of underdamped Langevin.
        temperature: 1 samples the posterior; anything else is a deliberate mistake, for mutation controls.
        keep_neurons: also return overlap q and norm2 of every neuron at every draw.
        progress: show a progress bar.

    Returns:
        Dataset with dims (dataset, chain, draw[, degree | bin | neuron]): learned, train_learned (Hermite coefficients of the output),
        second_moment <q^2>, tail_fraction P(|q|>1/2), train_loss and test_loss (mean squared errors; noise not included), energy,
        histogram of q. attrs hold the provenance. ``ds.grok.summary()`` gives errors, ESS and R-hat.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
        RuntimeError: the chain diverged (step size too large for an unadjusted method).
    """
    counts = dict(datasets=datasets, chains=chains, draws=draws, thin=thin)
    _check_settings(counts, warmup, friction, temperature, step_size, method, start, dtype, seed)
    device = _device(device)
    inputs, targets = draw_data(problem, datasets, seed)
    posterior = TeacherStudentPosterior(problem, inputs, targets, chains, device, dtype)
    seeds = [[seed_of(seed, 1 + what, j, c) for j in range(datasets) for c in range(chains)] for what in range(3)]
    with _one_thread(device), torch.no_grad():
        theta = posterior.prior_draw(seeds[0]) if start == "prior" else posterior.teacher_draw(seeds[0])
        sampler = DRIVERS[method](posterior, theta, seeds[1], step_size, friction, temperature)
        bar = tqdm(total=warmup + draws * thin, disable=not progress, unit="gradient", desc=f"{method} σ²={problem.noise_variance:g}")
        with bar:
            sampler.warm_up(warmup, bar)
            measure = Measure(problem, posterior, seed, keep_neurons)
            records = []
            for _ in range(draws):
                sampler.advance(thin, bar)
                records.append(measure(sampler.theta, sampler.energy))
    provenance = dict(
        problem=str(problem.as_dict()), problem_hash=problem.hash, **counts, warmup=warmup, method=method, start=start, seed=seed,
        dtype=dtype, device=str(device), friction=friction, temperature=temperature, gradients_per_chain=sampler.gradients,
        step_size=float(np.mean(sampler.step_size)), acceptance=sampler.acceptance, algorithm_version=ALGORITHM_VERSION[method],
        **{f"version_{m}": version(m) for m in ("grokutils", "torch", "numpy")},
    )
    return assemble(records, measure, datasets, chains).assign_attrs(provenance)


def _check_settings(counts, warmup, friction, temperature, step_size, method, start, dtype, seed):
    for name, value in counts.items():
        positive(name, value, whole=True)
    positive("warmup", warmup, minimum=-1, whole=True)
    positive("friction", friction), positive("temperature", temperature)
    if step_size is not None:
        positive("step_size", step_size)
    for name, value, allowed in (("method", method, METHODS), ("start", start, STARTS), ("dtype", dtype, ("float32", "float64"))):
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


@contextlib.contextmanager
def _one_thread(device: torch.device):
    """One thread on the CPU: on these operators two threads lose to their barriers; run one process a core instead."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
