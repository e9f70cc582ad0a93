r"""One neuron, or coupled neurons, in time: stochastic simulation with the closed-form force."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grokutils.theory._escape_potential import Neuron
from grokutils.theory._escape_rates import DYNAMICS, threshold_of
from grokutils.theory.teacher_student import _target


@dataclass(frozen=True)
class Record:
    """What happened in time.

    Attributes:
        time: (T,) ends of the recorded intervals.
        events: (networks, T) passages of the threshold in each interval.
        residual: (networks, T, degrees) mean over the interval, as {degree} coefficients in the problem's order.
        exposure: neuron-time of one interval of one network.
    """

    time: np.ndarray
    events: np.ndarray
    residual: np.ndarray
    exposure: float

    def rate(self, warmup: float = 0.0) -> tuple[float, float]:
        """Passages per neuron and time after ``warmup``, and the standard error from the counts."""
        counted = self.events[:, self.time > warmup]
        total, exposure = counted.sum(), counted.size * self.exposure
        return float(total / exposure), float(math.sqrt(max(total, 1)) / exposure)


def simulate(
    neuron: Neuron, neurons: int, time: float, step: float, dynamics: str = "langevin", *, threshold: float | None = None, replace: bool = True,
    networks: int | None = None, intervals: int = 50, friction: float = 0.5, seed: int = 0,
) -> Record:
    r"""Simulate neurons with the closed-form force, from the prior; one that reaches the threshold is counted and, with ``replace``, drawn anew.

    The stationary stream of replaced neurons is one over the mean first-passage time from the prior. Without ``networks`` all feel the
    neuron's fixed residual. With ``networks``, each network of ``neurons`` has its own residual, which it changes as it learns: mean field
    in time. The length across the teacher moves as that of a vector in d - 1 dimensions.

    Args:
        neuron: problem, residual (fixed, or only the scale of the threshold), dressing.
        neurons: how many; of one network where they interact.
        time, step: in the units of the dynamics.
        dynamics: "langevin" (the readout follows at once), "whitened" or "underdamped" (BAOAB).
        threshold: None: ``neuron.edge()``.
        replace: False: a neuron goes on, and counts once.
        networks: number of networks, or None for independent neurons at fixed residual.
        intervals: of the record.
        friction: of "underdamped".
        seed: of the noise.
    """
    if dynamics not in DYNAMICS:
        raise ValueError(f"dynamics must be one of {DYNAMICS}, got {dynamics!r}")
    if neuron.norm != "exact":
        raise ValueError(f"neuron must have the norm 'exact', got {neuron.norm!r}")
    threshold, rng, p = threshold_of(neuron, threshold), np.random.default_rng(seed), neuron.problem
    shape, d, tau, prior = (networks or 1, neurons), p.dimension, p.readout_variance / p.width, neuron._law.precision
    gain, target, fast = p.samples / p.noise_variance, _target(p, neuron._law.degrees), dynamics == "langevin"
    step_w, step_a = (step, 0.0) if fast else (step / prior, step * tau)

    def fresh(count):
        q, a = rng.standard_normal(count) / math.sqrt(prior), math.sqrt(tau) * rng.standard_normal(count)
        return q, np.sqrt(rng.chisquare(d - 1, count) / prior), a

    def push(q, rho, a):
        """Forces on q, rho (no entropy: that is the noise's) and a, and the residual."""
        vector = neuron._vector
        if networks is not None:
            if fast:
                *_, own, _, _, v = neuron.gradient(q, rho, np.zeros(len(target)))
                kernel = tau * gain * np.einsum("bnk,bnl->bkl", v / np.broadcast_to(own, q.shape)[..., None], v)
                vector = np.linalg.solve(np.eye(len(target)) + kernel, np.broadcast_to(target[:, None], (len(q), len(target), 1)))[..., 0]
            else:
                vector = target - np.einsum("bn,bnk->bk", a, neuron._law._bare(q, rho**2))
        m, m_q, m_s, own, own_q, own_s, _ = neuron.gradient(q, rho, vector[..., None, :] if networks is not None else None)
        if fast:
            a, square = tau * m / own, 1 / own / 2 + tau * (m / own) ** 2 / 2
        else:
            square = a**2 / (2 * tau)
        return a * m_q - square * own_q - prior * q, 2 * rho * (a * m_s - square * own_s) - prior * rho, m - own * a / tau, vector

    q, rho, a = fresh(shape)
    momenta = [rng.standard_normal(shape) for _ in range(3)] + [np.sqrt(rng.chisquare(d - 2, shape))]  # of q, rho, a; across
    events, residuals = np.zeros((shape[0], intervals), dtype=int), np.zeros((shape[0], intervals, len(target)))
    steps = math.ceil(time / step / intervals)
    alive, keep = np.ones(shape, dtype=bool), math.exp(-friction * step)
    forces = push(q, rho, a)
    for i in range(intervals):
        for _ in range(steps):
            if dynamics == "underdamped":
                q, rho, a, forces, momenta = _baoab(q, rho, a, forces, momenta, push, step, keep, (prior**-0.5, tau**0.5), d, rng)
            else:
                q = q + step_w * forces[0] + math.sqrt(2 * step_w) * rng.standard_normal(shape)
                along = rho + step_w * forces[1] + math.sqrt(2 * step_w) * rng.standard_normal(shape)
                rho = np.sqrt(along**2 + 2 * step_w * rng.chisquare(d - 2, shape))
                if not fast:
                    a = a + step_a * forces[2] + math.sqrt(2 * step_a) * rng.standard_normal(shape)
                forces = push(q, rho, a)
            out = (np.abs(q) >= threshold) & alive
            residuals[:, i] += forces[3] / steps
            if out.any():
                events[:, i] += out.sum(1)
                if replace:
                    count = int(out.sum())
                    q[out], rho[out], a[out] = fresh(count)
                    for x in momenta[:3]:
                        x[out] = rng.standard_normal(count)
                    forces = push(q, rho, a)
                else:
                    alive &= ~out
    times = steps * step * np.arange(1, intervals + 1)
    return Record(times, events, residuals / neuron._law._factors, neurons * steps * step)


def _baoab(q, rho, a, forces, momenta, push, h, keep, widths, d, rng):
    """A step of BAOAB in whitened coordinates; the vector across the teacher by its length, its radial and its tangential momentum."""
    (wide, wide_a), (pq, pr, pa, pt), mix = widths, momenta, math.sqrt(1 - keep**2)

    def drift(q, rho, a, pr, pt):
        y, turned = rho / wide + h / 2 * pr, h / 2 * pt
        new = np.hypot(y, turned)
        speed2 = pr**2 + pt**2
        pr = (y * pr + turned * pt) / new
        return q + h / 2 * wide * pq, new * wide, a + h / 2 * wide_a * pa, pr, np.sqrt(np.maximum(speed2 - pr**2, 0))

    pq, pr, pa = pq + h / 2 * wide * forces[0], pr + h / 2 * wide * forces[1], pa + h / 2 * wide_a * forces[2]
    q, rho, a, pr, pt = drift(q, rho, a, pr, pt)
    pq, pr, pa = (keep * x + mix * rng.standard_normal(q.shape) for x in (pq, pr, pa))
    pt = np.sqrt((keep * pt + mix * rng.standard_normal(q.shape)) ** 2 + mix**2 * rng.chisquare(d - 3, q.shape))
    q, rho, a, pr, pt = drift(q, rho, a, pr, pt)
    forces = push(q, rho, a)
    pq, pr, pa = pq + h / 2 * wide * forces[0], pr + h / 2 * wide * forces[1], pa + h / 2 * wide_a * forces[2]
    return q, rho, a, forces, [pq, pr, pa, pt]
