"""Drivers: an algorithm, its noise, its tuning during warm-up, and its count of gradients."""

from __future__ import annotations

import math

import numpy as np
import torch

from grokutils.sampling import hmc, langevin, underdamped
from grokutils.sampling._device_loop import Loop
from grokutils.sampling.posterior import seed_of
from grokutils.sampling.systems import system_of

PAPER_RATE = 2e-3  # learning rate of the paper's training, on the loss averaged over the training set


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
    """What the methods share: noise, counts, tuning on three occasions during warm-up."""

    acceptance = 1.0
    per_dataset = False  # True: the networks of a batch are exactly the chains of one data set

    def __init__(self, posterior, theta, seeds, step_size, friction, temperature):
        self.posterior, self.fixed, self.friction, self.temperature = posterior, step_size, friction, temperature
        self.noise, self.gradients, self._vector = self.noise_of(posterior, seeds), 0, None
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

    def noise_of(self, posterior, seeds):
        return _Noise(posterior, seeds)


class _Unadjusted(_Sampler):
    """One gradient a step; with the kernels of a GPU a step is a replayed graph."""

    _loop = None

    def noise_of(self, posterior, seeds):
        return _Noise(posterior, seeds) if posterior.kernels is None else posterior.kernels.Noise(posterior, seeds)

    def advance(self, gradients, bar):
        done = self.gradients
        if self._loop is None and self.posterior.kernels is not None:
            self._loop = Loop(self.step, self.state, [self.noise.count])
        for _ in range(gradients):
            self.state = self._loop() if self._loop else self.step(self.state)
            bar.update()
        self.gradients = done + gradients  # a replay does not pass here


class _Underdamped(_Unadjusted):
    def start(self, theta):
        self.step_size = np.array([self.fixed or np.nan])
        return underdamped.init(theta, self.energy_gradient, self.noise)

    def tune(self, iterations):
        h = self.fixed
        if h is None:
            value, self._vector = largest_eigenvalue(self.energy_gradient, self.theta, iterations, self._vector)
            h = 1.2 / value.sqrt()
        self.step_size = np.asarray(h.cpu() if torch.is_tensor(h) else h)
        self._h, self._loop = torch.as_tensor(h, dtype=self.theta.dtype, device=self.theta.device), None

    def step(self, state):
        return underdamped.step(state, self.energy_gradient, self.noise, self._h, self.friction)


class _Langevin(_Unadjusted):
    def start(self, theta):
        post, rate = self.posterior, self.fixed or PAPER_RATE
        self.step_size = np.array([rate])
        # rate on the mean loss, noise at temperature sigma^2/n: in whitened coordinates a step per layer
        step = torch.empty(1, post.size, dtype=post.dtype, device=post.device)
        u, v = post.unpack(step)
        base = rate * post.problem.noise_variance / post.problem.samples
        u[:], v[:] = base / post.scale_w**2, base / post.scale_a**2
        self._h = step
        return langevin.init(theta, self.energy_gradient, self.noise)

    def step(self, state):
        return langevin.step(state, self.energy_gradient, self.noise, self._h)


class _HMC(_Sampler):
    target = 0.8
    per_dataset = True  # the steps of a trajectory are common to the batch: chains of one data set, whatever else is sampled

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


class _Relocation(_Underdamped):
    """Underdamped Langevin dynamics with a block of droplet relocations every few gradients; a block costs about as much as ten at beta = 1."""

    period = 6

    def __init__(self, posterior, theta, seeds, step_size, friction, temperature):
        if temperature != 1:
            raise ValueError(f"temperature must be 1 for method 'relocation', got {temperature!r}")
        super().__init__(posterior, theta, seeds, step_size, friction, temperature)
        self.relocation, self.trials = system_of(posterior.problem).moves(posterior)
        self._streams = [posterior.generator(seed_of(s, 1)) for s in seeds]
        self._steps = 0

    def advance(self, gradients, bar):
        for _ in range(gradients):
            super().advance(1, bar)
            self._steps += 1
            if self._steps % self.period == 0:
                self.relocation.block(self.theta, self._streams, self.trials)
                energy, gradient = self.energy_gradient(self.theta)
                self.state.energy.copy_(energy), self.state.gradient.copy_(gradient)

    def warm_up(self, gradients, bar):
        super().warm_up(gradients, bar)
        self.relocation.tried = self.relocation.accepted = 0

    @property
    def acceptance(self):
        return self.relocation.accepted / self.relocation.tried if self.relocation.tried else math.nan


DRIVERS = {"relocation": _Relocation, "underdamped": _Underdamped, "langevin": _Langevin, "hmc": _HMC}
