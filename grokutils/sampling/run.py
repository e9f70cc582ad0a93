"""``sample``: an ensemble of networks from the posterior, measured as it goes."""

from __future__ import annotations

import contextlib
import logging
import math
from importlib.metadata import version

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

import grokutils.summary  # noqa: F401  registers the .grok accessor
from grokutils import observables
from grokutils.hermite import hermite
from grokutils.problems import TeacherStudent, positive
from grokutils.sampling import hmc, langevin, underdamped
from grokutils.sampling.posterior import TeacherStudentPosterior, draw_data, seed_of

METHODS = ("underdamped", "langevin", "hmc")
STARTS = ("prior", "teacher")
ALGORITHM_VERSION = {"underdamped": 1, "langevin": 1, "hmc": 2}  # raise one when its numbers for a given seed change
_TEST_POINTS = 4000  # only for activations without a closed-form kernel
_PAPER_RATE = 2e-3
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
        seed: data set j and chain c depend on (seed, j, c) alone, not on how networks are batched.
        device: "cpu", "cuda" or "auto" (logs what it took).
        dtype: "float32" or "float64".
        step_size: None = tuned: underdamped 1.2/sqrt(largest Hessian eigenvalue), hmc to 80 % acceptance; langevin: learning rate
            on the loss averaged over the training set (the paper's 2e-3).
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
    device = _device(device)
    inputs, targets = draw_data(problem, datasets, seed)
    posterior = TeacherStudentPosterior(problem, inputs, targets, chains, device, dtype)
    seeds = [[seed_of(seed, 1 + what, j, c) for j in range(datasets) for c in range(chains)] for what in range(3)]
    with _one_thread(device), torch.no_grad():
        theta = posterior.prior_draw(seeds[0]) if start == "prior" else posterior.teacher_draw(seeds[0])
        sampler = _SAMPLERS[method](posterior, theta, seeds[1], step_size, friction, temperature)
        bar = tqdm(total=warmup + draws * thin, disable=not progress, unit="gradient", desc=f"{method} σ²={problem.noise_variance:g}")
        with bar:
            sampler.warm_up(warmup, bar)
            measure = _Measure(problem, posterior, seed, keep_neurons)
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
    return _dataset(records, measure, datasets, chains).assign_attrs(provenance)


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


class _Noise:
    """Standard normal numbers (networks, size), every network from its own stream."""

    def __init__(self, posterior, seeds):
        self._generators = [posterior.generator(s) for s in seeds]
        self._buffer = torch.empty(posterior.networks, posterior.size, dtype=posterior.dtype, device=posterior.device)

    def __call__(self):
        for row, generator in zip(self._buffer, self._generators, strict=True):
            torch.randn(row.shape, generator=generator, out=row)
        return self._buffer

    def uniform(self):
        draws = [torch.rand(1, generator=g, dtype=torch.float64, device=self._buffer.device) for g in self._generators]
        return torch.cat(draws)


def largest_eigenvalue(energy_gradient, theta, iterations: int = 12, vector=None, seed: int = 0):
    """Largest Hessian eigenvalue (networks, 1) by power iteration on differences of gradients, and its vector; a gradient an iteration."""
    _, base = energy_gradient(theta)
    if vector is None:
        generator = torch.Generator(theta.device).manual_seed(seed)
        # one vector for every network, so that the result does not depend on the batch
        vector = torch.randn(1, theta.shape[1], generator=generator, dtype=theta.dtype, device=theta.device).expand_as(theta)
    delta = 1e-2 if theta.dtype == torch.float32 else 1e-4
    value = None
    for _ in range(iterations):
        vector = vector / vector.norm(dim=1, keepdim=True)
        change = (energy_gradient(theta + delta * vector)[1] - base) / delta
        value, vector = change.norm(dim=1, keepdim=True), change
    return value, vector


class _Sampler:
    """What the three methods share: noise, counts, tuning on three occasions during warm-up."""

    acceptance = 1.0

    def __init__(self, posterior, theta, seeds, step_size, friction, temperature):
        self.posterior, self.fixed, self.friction, self.temperature = posterior, step_size, friction, temperature
        self.noise, self.gradients, self._vector = _Noise(posterior, seeds), 0, None
        self.state = self.start(theta)

    def energy_gradient(self, theta):
        self.gradients += 1
        return self._tempered(*self.posterior.energy_gradient(theta))

    def _tempered(self, energy, gradient):
        return (energy, gradient) if self.temperature == 1 else (energy / self.temperature, gradient / self.temperature)

    @property
    def theta(self):
        return self.state.theta

    @property
    def energy(self):
        return self.state.energy

    def warm_up(self, gradients, bar):
        pieces = np.diff(np.linspace(0, gradients, 4).astype(int)) if gradients else [0]
        for i, piece in enumerate(pieces):
            self.tune(iterations=12 if i == 0 else 6)
            self.advance(int(piece), bar)

    def tune(self, iterations):
        """Set the step size; nothing to do where it is given."""

    def advance(self, gradients, bar):
        for _ in range(gradients):
            self.state = self.one_step()
            bar.update()


class _Underdamped(_Sampler):
    def start(self, theta):
        self.step_size = np.array([self.fixed or np.nan])
        return underdamped.init(theta, self.energy_gradient, self.noise)

    def tune(self, iterations):
        h = self.fixed
        if h is None:
            value, self._vector = largest_eigenvalue(self.energy_gradient, self.theta, iterations, self._vector)
            h = 1.2 / value.sqrt()
        self._h, self.step_size = h, np.asarray(h.cpu() if torch.is_tensor(h) else h)

    def one_step(self):
        return underdamped.step(self.state, self.energy_gradient, self.noise, self._h, self.friction)


class _Langevin(_Sampler):
    def start(self, theta):
        post, rate = self.posterior, self.fixed or _PAPER_RATE
        self.step_size = np.array([rate])
        # rate on the mean loss, noise at temperature sigma^2/n: in whitened coordinates a step per layer
        step = torch.empty(1, post.size, dtype=post.dtype, device=post.device)
        u, v = post.unpack(step)
        base = rate * post.problem.noise_variance / post.problem.samples
        u[:], v[:] = base / post.scale_w**2, base / post.scale_a**2
        self._h = step
        return langevin.init(theta, self.energy_gradient, self.noise)

    def one_step(self):
        return langevin.step(self.state, self.energy_gradient, self.noise, self._h)


class _HMC(_Sampler):
    target = 0.8

    def start(self, theta):
        if self.temperature != 1:
            raise ValueError(f"temperature must be 1 for method 'hmc', got {self.temperature!r}")
        self._accepted, self._tuning = [], False
        self.step_size = np.array([self.fixed or np.nan])
        return hmc.init(theta, self.likelihood, self.noise)

    def likelihood(self, theta):
        self.gradients += 1
        return self.posterior.likelihood(theta)

    @property
    def energy(self):
        return self.state.energy + 0.5 * self.theta.square().sum(1, dtype=torch.float64)

    def tune(self, iterations):
        if self.fixed is None and self._vector is None:
            value, self._vector = largest_eigenvalue(self.likelihood, self.theta, iterations)
            self._h = (0.7 / value.sqrt()).clamp(max=0.8)
        elif self.fixed is not None:
            self._h = torch.full((self.posterior.networks, 1), self.fixed, dtype=self.theta.dtype, device=self.theta.device)

    def advance(self, gradients, bar):
        steps = max(1, math.ceil(1.0 / float(self._h.median())))
        for _ in range(math.ceil(gradients / steps)):
            # a trajectory of one length can be half a period of some mode, which then never mixes
            jitter = 0.8 + 0.4 * self.noise.uniform().unsqueeze(1).to(self._h.dtype)
            self.state = hmc.step(self.state, self.likelihood, self.noise, self.noise.uniform, self._h * jitter, steps)
            if self._tuning:
                self._h = (self._h * torch.exp(0.2 * (self.state.accepted.unsqueeze(1) - self.target)).to(self._h.dtype)).clamp(max=0.8)
            else:
                self._accepted.append(self.state.accepted.mean())
            bar.update(min(steps, bar.total - bar.n))
        self.step_size = self._h.cpu().numpy()

    def warm_up(self, gradients, bar):
        self._tuning = self.fixed is None
        super().warm_up(gradients, bar)
        self._tuning, self._accepted = False, []

    @property
    def acceptance(self):
        return float(torch.stack(self._accepted).mean()) if self._accepted else math.nan


_SAMPLERS = dict(zip(METHODS, (_Underdamped, _Langevin, _HMC), strict=True))


class _Measure:
    """All observables of one draw as arrays (networks, ...)."""

    def __init__(self, problem, posterior, seed, keep_neurons):
        self.problem, self.posterior, self.keep = problem, posterior, keep_neurons
        self.degrees = list(problem.teacher)
        self._regression = [observables.hermite_regression(x, self.degrees) for x in posterior.inputs.double().cpu().numpy()]
        self._test = None
        if problem.phi.kernel is None:
            x = np.random.default_rng(seed_of(seed, 9)).standard_normal((_TEST_POINTS, problem.dimension))
            self._test = x, sum(c * hermite(k, x[:, 0]) for k, c in problem.teacher.items())

    def __call__(self, theta, energy) -> dict:
        # theta is standard normal under the prior; nothing near equilibrium is ten times longer
        if not bool((theta.square().sum(1) < 100 * theta.shape[1]).all()):
            raise RuntimeError("the chain has diverged: give a smaller step_size, or use method='hmc', which cannot")
        weights, readouts = (t.double().cpu().numpy() for t in self.posterior.weights(theta))
        overlap, norm2 = weights[..., 0], np.einsum("bij,bij->bi", weights, weights)
        outputs, targets = self.posterior.outputs(theta).double().cpu().numpy(), self.posterior.targets.double().cpu().numpy()
        chains = self.posterior.chains
        fits = np.stack([self._regression[b // chains] @ f for b, f in enumerate(outputs)])
        record = dict(
            learned=np.stack([observables.learned(self.problem, k, readouts, overlap, norm2) for k in self.degrees], axis=-1),
            train_learned=fits, second_moment=np.mean(overlap**2, axis=-1), tail_fraction=np.mean(np.abs(overlap) > 0.5, axis=-1),
            train_loss=np.mean((outputs - np.repeat(targets, chains, axis=0)) ** 2, axis=-1), test_loss=self._test_loss(theta, weights, readouts),
            energy=energy.cpu().numpy(), histogram=observables.overlap_histogram(overlap),
        )
        return record | (dict(overlap=overlap, norm2=norm2) if self.keep else {})

    def _test_loss(self, theta, weights, readouts):
        if self._test is None:
            return observables.population_loss(self.problem, weights, readouts)
        x, y = self._test
        return np.mean((self.posterior.outputs(theta, x).double().cpu().numpy() - y) ** 2, axis=-1)


def _dataset(records, measure, datasets, chains) -> xr.Dataset:
    """Stack the records of all draws into labelled arrays; the histogram is summed over draws."""
    last = {"learned": ("degree",), "train_learned": ("degree",), "overlap": ("neuron",), "norm2": ("neuron",)}
    data = {}
    for name in records[0]:
        stacked = np.stack([r[name] for r in records], axis=1)  # networks, draw, ...
        stacked = stacked.reshape(datasets, chains, *stacked.shape[1:])
        if name == "histogram":
            data[name] = (("dataset", "chain", "bin"), stacked.sum(axis=2))
        else:
            data[name] = (("dataset", "chain", "draw", *last.get(name, ())), stacked)
    return xr.Dataset(data, coords={"degree": measure.degrees, "bin": observables.BIN_CENTRES})
