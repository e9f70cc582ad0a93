"""Networks that wait for their first droplet: neurons counted as they cross the barrier, on finite data and on the whole population."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr

from grokutils import observables
from grokutils.experiments._run import Run
from grokutils.hermite import derivative_expectation
from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data, langevin, underdamped
from grokutils.sampling.posterior import require_whole, seed_of

DYNAMICS = ("langevin", "whitened", "underdamped")
FRICTION = 0.5


class Population:
    r"""The posterior's energy with the sum over training points replaced by its mean, for the error function: infinite n at fixed $n/\sigma^2$.

    $$E=\frac n{2\sigma^2}\Big[E[y^2]-2\sum_ia_iE[y\phi_i]+\sum_{ij}a_ia_j\tfrac2\pi\arcsin\frac{2C_{ij}}{\sqrt{s_is_j}}\Big]
      +\tfrac12|U|^2+\tfrac12|V|^2$$

    with $C=WW^T$ and $s_i=1+2C_{ii}$; the state is that of ``TeacherStudentPosterior``.
    """

    def __init__(self, problem: TeacherStudent, networks: int, dtype: str = "float32"):
        require_whole(problem)
        if problem.phi.name != "erf":
            raise ValueError(f"problem must have the activation 'erf', got {problem.phi.name!r}")
        self.problem, self.networks, self.dtype = problem, networks, getattr(torch, dtype)
        self.size = problem.width * (problem.dimension + 1)
        self.scale_w = math.sqrt(problem.weight_variance / problem.dimension)
        self.scale_a = math.sqrt(problem.readout_variance / problem.width)
        self._cosine, self._slope = (torch.empty(problem.width, problem.width, dtype=self.dtype) for _ in range(2))

    unpack, weights = TeacherStudentPosterior.unpack, TeacherStudentPosterior.weights

    def prior_draw(self, seeds):
        return torch.stack([torch.randn(self.size, generator=torch.Generator().manual_seed(s), dtype=self.dtype) for s in seeds])

    def energy_gradient(self, theta):
        """E (networks,) and its gradient (networks, size)."""
        p, (weights, readouts), gradient = self.problem, self.weights(theta), torch.empty_like(theta)
        gain, (grad_u, grad_v), energy = p.samples / p.noise_variance, self.unpack(gradient), []
        for w, a, grad_w, grad_a in zip(weights, readouts, grad_u, grad_v, strict=True):
            norm2 = w.square().sum(1)
            s = (1 + 2 * norm2).unsqueeze(1)
            unit = w * torch.sqrt(2 / s)
            cosine, slope = torch.mm(unit, unit.T, out=self._cosine), self._slope
            power = 2 / math.pi * torch.mv(torch.asin(cosine, out=slope), a)
            torch.mul(cosine, cosine, out=slope).neg_().add_(1).rsqrt_()  # dK/dC is 4/pi of it over sqrt(s_i s_j)
            pull = torch.mm(slope, a.unsqueeze(1) * unit)
            align, align_q, align_norm = self._alignment(w[:, 0], norm2)
            shrink = 4 / math.pi / s * (unit * pull).sum(1, keepdim=True) + 2 * align_norm.unsqueeze(1)
            torch.mul(pull, 4 / math.pi / torch.sqrt(2 * s), out=grad_w).sub_(shrink * w)
            grad_w[:, 0] -= align_q
            grad_w *= gain * self.scale_w * a.unsqueeze(1)
            torch.mul(power - align, gain * self.scale_a, out=grad_a)
            energy.append(gain / 2 * (p.teacher_norm2 + (a * (power - 2 * align)).sum(dtype=torch.float64)))
        return torch.stack(energy) + 0.5 * theta.square().sum(1, dtype=torch.float64), gradient.add_(theta)

    def _alignment(self, q, norm2):
        """E[y phi] and its derivatives in q and |w|^2."""
        total, by_q, by_norm = 0.0, 0.0, 0.0
        for k, c in self.problem.teacher.items():
            moment, higher = self._moment(k, norm2), self._moment(k + 2, norm2)
            total, by_norm = total + c * q**k * moment, by_norm + c * q**k * higher / 2
            by_q = by_q + (c * k * q ** (k - 1) * moment if k else 0.0)
        return total, by_q, by_norm

    def _moment(self, k, norm2):
        base = float(derivative_expectation("erf", k, 0.0))
        return base * (1 + 2 * norm2) ** (-k / 2) if base else torch.zeros_like(norm2)


def escapes(
    problem: TeacherStudent, *, networks: int, time: float, step: float, threshold: float, dynamics: str = "whitened", population: bool = False,
    warmup: float = 0.0, replace: bool = True, intervals: int = 40, seed: int = 0,
) -> xr.Dataset:
    r"""Networks from the prior, in which each neuron that reaches the threshold is counted and, while ``replace``, drawn anew from the prior.

    So a network stays without droplets, and the passages of its neurons are a stationary stream.

    Args:
        problem: whole sizes.
        networks: each with its own training set.
        time, step: in the units of the dynamics: Langevin time for "langevin" (step = learning rate times sigma^2/n); whitened time otherwise.
        threshold: the |q| at which a neuron counts.
        dynamics: "langevin" (the paper's), "whitened" (overdamped, in units of the prior's widths) or "underdamped" (BAOAB, the same units).
        population: infinitely many training points at the same n/sigma^2.
        warmup: time before the record begins, always with replacement.
        replace: False: after the warm-up neurons go on, and count once.
        intervals: of the record.
        seed: of data and noise.

    Returns:
        Dataset: events (network, interval), residual (network, interval, degree) = teacher - learned, time (interval: ends), first (network: time
        of the first passage after the warm-up, inf if none), and attrs exposure (neuron-time of one interval of one network), step, gradients.
    """
    if dynamics not in DYNAMICS:
        raise ValueError(f"dynamics must be one of {DYNAMICS}, got {dynamics!r}")
    with torch.no_grad():
        if population:
            post = Population(problem, networks)
        else:
            post = TeacherStudentPosterior(problem, *draw_data(problem, networks, seed))
        theta = post.prior_draw([seed_of(seed, 1, j) for j in range(networks)])
        generator = torch.Generator().manual_seed(seed_of(seed, 2))

        def noise():
            return torch.randn(theta.shape, generator=generator, dtype=theta.dtype)

        h = torch.full((1, post.size), step, dtype=theta.dtype)
        if dynamics == "langevin":
            u, v = post.unpack(h)
            u /= post.scale_w**2
            v /= post.scale_a**2
        module = underdamped if dynamics == "underdamped" else langevin
        state = module.init(theta, post.energy_gradient, noise)
        extra = (step, FRICTION) if dynamics == "underdamped" else (h,)
        return _watch(problem, post, state, lambda s: module.step(s, post.energy_gradient, noise, *extra), generator,
                      time, step, threshold, warmup, replace, intervals)


escapes.version = 1
escapes.gradients = lambda problem, **s: round(s["networks"] * (s["time"] + s.get("warmup", 0.0)) / s["step"] * (
    problem.width / problem.samples if s.get("population") else 1.0))


def _watch(problem, post, state, advance, generator, time, step, threshold, warmup, replace, intervals):
    per, before, degrees = max(1, round(time / step / intervals)), round(warmup / step), list(problem.teacher)
    alive = torch.ones(post.networks, problem.width, dtype=torch.bool)
    events, learned = np.zeros((post.networks, intervals), dtype=np.int64), np.zeros((post.networks, intervals, len(degrees)))
    first, every = np.full(post.networks, np.inf), max(1, per // 20)
    for i in range(before + per * intervals):
        state = advance(state)
        u, v = post.unpack(state.theta)
        out = ((post.scale_w * u[..., 0]).abs() >= threshold) & alive
        now = (i - before) // per
        if out.any():
            count = out.sum(1).numpy()
            if i >= before:
                events[:, now] += count
                first = np.where((count > 0) & np.isinf(first), (i - before + 1) * step, first)
            if replace or i < before:
                grad_u, grad_v = post.unpack(state.gradient)
                u[out] = torch.randn(u[out].shape, generator=generator, dtype=u.dtype)
                v[out] = torch.randn(v[out].shape, generator=generator, dtype=u.dtype)
                grad_u[out], grad_v[out] = u[out], v[out]  # for one step the newcomer feels the prior alone
                if hasattr(state, "momentum"):
                    for part in post.unpack(state.momentum):
                        part[out] = torch.randn(part[out].shape, generator=generator, dtype=part.dtype)
            else:
                alive &= ~out
        if i >= before and (i - before) % every == 0:
            w, a = post.weights(state.theta)
            q, norm2, a = w[..., 0].double().numpy(), w.square().sum(-1).double().numpy(), a.double().numpy()
            learned[:, now] += np.stack([observables.learned(problem, k, a, q, norm2) for k in degrees], axis=-1)
    records = math.ceil(per / every)
    residual = np.array([problem.teacher[k] for k in degrees]) - learned / records
    data = dict(events=(("network", "interval"), events), residual=(("network", "interval", "degree"), residual),
                first=("network", first), time=("interval", step * per * np.arange(1, intervals + 1)))
    attrs = dict(exposure=problem.width * per * step, step=step, threshold=threshold, gradients=before + per * intervals)
    if not np.isfinite(residual).all():
        raise RuntimeError("the networks have diverged: give a smaller step")
    return xr.Dataset(data, coords={"degree": degrees}, attrs=attrs)


# width of the reduced problem: (threshold, time of the overdamped and of the underdamped stream); thresholds: two below the saddle of ``untrained``
_SCAN = {400: (0.449, 8.0, 12.0), 475: (0.518, 12.0, 20.0), 575: (0.588, 24.0, 40.0), 700: (0.687, 60.0, 100.0), 800: (0.876, 120.0, 200.0)}
_SEED = 16
WIDTHS, RATIOS, LEARNING_RATES = tuple(_SCAN), (8, 16, 32, 64, 128), (0.0375, 0.075)


def reduced(width: int, ratio: float = 4.0) -> TeacherStudent:
    """Appendix D with half the dimension and the same u and kappa/d as at four times the width; n = ratio d at fixed n/sigma^2."""
    problem = TeacherStudent.appendix_d(4 * width).scaled(alpha=0.5, beta=0.25)
    return problem.replace(samples=ratio * problem.dimension, noise_variance=problem.noise_variance * ratio / 4).rounded()


def _stream(width, ratio=None, networks=8, **settings) -> Run:
    threshold, slow, fast = _SCAN[width]
    settings = dict(dynamics="underdamped", step=0.3, time=fast) | settings
    if settings["dynamics"] == "whitened":
        settings["time"] = slow
    common = dict(networks=networks, threshold=threshold, warmup=6.0, seed=_SEED)
    return Run(reduced(width, ratio or 4.0), common | dict(population=ratio is None) | settings, escapes)


def escape() -> list[Run]:
    """Streams of escaping neurons against width (barrier), dynamics, step and samples; then networks that are left alone."""
    runs = [_stream(width) for width in WIDTHS]
    runs += [_stream(475, ratio) for ratio in RATIOS]
    runs += [_stream(width, dynamics="whitened", step=0.04) for width in WIDTHS[:-1]] + [_stream(475, dynamics="whitened", step=0.02)]
    for rate in reversed(LEARNING_RATES):  # time is then that of the Langevin equation, where w relaxes in 1/150
        problem = reduced(475)
        step = rate * problem.noise_variance / problem.samples
        runs.append(_stream(475, dynamics="langevin", networks=4, step=step, time=0.05, warmup=0.02))
    runs += [_stream(700, ratio, networks=4, time=60.0) for ratio in (32, 128)]
    runs.append(_stream(800, networks=24, time=40.0, replace=False))
    for population in (False, True):
        for width in (700, 1400, 2800):
            settings = dict(networks=2, time=24.0, step=0.3, threshold=0.6, dynamics="underdamped", population=population, replace=False, seed=_SEED)
            runs.append(Run(TeacherStudent.appendix_d(width), settings, escapes))
    return runs
