r"""Mean field for a teacher of two directions, $y=\sum_{jk}c_{jk}H_j(z_1)H_k(z_2)$: a neuron has two overlaps, and its action does not separate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from grokutils.hermite import derivative_expectation
from grokutils.problems import TeacherStudent


@dataclass(frozen=True)
class TwoIndexSolution:
    r"""The self-consistent residual and averages of one neuron.

    Attributes:
        residual: {(j, k): r_jk}, what is left unlearned of $H_j(z_1)H_k(z_2)$.
        teacher: {(j, k): c_jk}.
        second_moment: $\langle q_1^2\rangle,\langle q_2^2\rangle$.
        converged, error: whether the fixed point holds, and by how much of |y| it misses.
    """

    residual: dict
    teacher: dict
    second_moment: tuple
    converged: bool
    error: float
    _law: tuple = field(repr=False, compare=False)

    @property
    def learned(self) -> dict:
        """{(j, k): coefficient of the mean output}."""
        return {key: self.teacher.get(key, 0.0) - r for key, r in self.residual.items()}

    def tail_fraction(self, direction: int) -> float:
        """P(|q_1| > 1/2) or P(|q_2| > 1/2)."""
        overlaps, weight = self._law
        return float(weight[np.abs(overlaps[direction - 1]) > 0.5].sum())


def solve(problem: TeacherStudent, teacher: Mapping, span=None, reach: float = 1.9, spacing: float = 0.45) -> TwoIndexSolution:
    r"""Maximise the concave dual of the two-index problem on a grid over (q1, q2, ln s).

    $$-\ln p(q_1,q_2,s)=\frac{d(q_1^2+q_2^2+s)}{2\sigma_w^2}-\frac{d-4}2\ln s
      -\frac{n^2\sigma_a^2}{2N\sigma^4}\Big(\sum_{jk}r_{jk}\,q_1^jq_2^k\,E[\phi^{(j+k)}]\Big)^2$$

    Args:
        problem: sizes and activation; its own teacher is not used.
        teacher: {(j, k): c_jk}.
        span: pairs of degrees the residual may have; None: the teacher's.
        reach: overlaps beyond it are left out.
        spacing: of the grid, in units of the prior's widths.

    Raises:
        ValueError: the span leaves out a part of the teacher.

    Warns:
        RuntimeWarning: not converged, or the law has weight at the edge of the grid.
    """
    span = tuple(span or teacher)
    if not set(teacher) <= set(span):
        raise ValueError(f"span must contain the teacher's pairs of degrees {tuple(teacher)}, got {span!r}")
    d, var = float(problem.dimension), float(problem.weight_variance)
    step, t_step = spacing * math.sqrt(var / d), spacing * math.sqrt(2 / (d - 2))
    q = step * (np.arange(-math.ceil(reach / step), math.ceil(reach / step)) + 0.5)
    t = math.log(var) + np.arange(-2 - 60 / (d - 2), math.log(1 + 10 / math.sqrt(d) + 60 / d), t_step)
    even = len({(j + k) % 2 for j, k in span}) == 1  # then (q1, q2) and (-q1, -q2) are alike
    q1, q2, t = (x.ravel() for x in np.meshgrid(q[q > 0] if even else q, q, t, indexing="ij"))
    s = np.exp(t)
    log_prior = -d / (2 * var) * (q1**2 + q2**2 + s) + (d - 2) / 2 * t
    size = q1**2 + q2**2 + s
    moment = {n: derivative_expectation(problem.phi, n, size) for n in {j + k for j, k in span}}
    norm = np.array([math.sqrt(math.factorial(j) * math.factorial(k)) for j, k in span])
    v = np.stack([q1**j * q2**k * moment[j + k] for j, k in span], axis=1) / norm
    keep = log_prior + 0 * size > log_prior.max() - 120  # far below what any data term here could lift
    q1, q2, log_prior, v = q1[keep], q2[keep], log_prior[keep], v[keep]
    y = np.array([teacher.get(key, 0.0) for key in span]) * norm
    scale, width = problem.samples / problem.noise_variance, problem.width
    strength = scale**2 * problem.readout_variance / width
    base = np.log(np.sum(np.exp(log_prior - log_prior.max())))

    def dual(r):
        force = v @ r
        log = log_prior + strength / 2 * force**2
        weight = np.exp(log - log.max())
        log_z = log.max() - log_prior.max() + math.log(weight.sum()) - base
        weight /= weight.sum()
        second = v.T @ (v * weight[:, None])
        pull = strength * second @ r
        hessian = strength * second + strength**2 * v.T @ (v * (weight * force**2)[:, None]) - np.outer(pull, pull)
        value = scale * (r @ y - r @ r / 2) - width * log_z
        return value, scale * (y - r) - width * pull, scale * np.eye(len(r)) + width * hessian, second, weight

    r = np.zeros(len(span))
    value, gradient, curvature, second, weight = dual(r)
    for _ in range(200):
        move, length = np.linalg.solve(curvature, gradient), 1.0
        if np.linalg.norm(move) < 1e-11 * np.linalg.norm(y):
            break
        while length > 1e-9:
            new = dual(r + length * move)
            if new[0] >= value + 1e-4 * length * (gradient @ move) or np.linalg.norm(move) < 1e-7 * np.linalg.norm(y):
                break
            length /= 2
        r, (value, gradient, curvature, second, weight) = r + length * move, new
    ridge = 1 / scale
    error = float(np.linalg.norm(ridge * np.linalg.solve(problem.readout_variance * second + ridge * np.eye(len(r)), y) - r) / np.linalg.norm(y))
    edge = weight[(np.abs(q1) > reach - 2 * step) | (np.abs(q2) > reach - 2 * step)].sum()
    converged = bool(error < 1e-8 and edge < 1e-6)
    if not converged:
        warnings.warn(f"no solution on this grid: the equations miss by {error:.1e}, weight {edge:.1e} at its edge", RuntimeWarning, stacklevel=2)
    residual = {key: float(x) for key, x in zip(span, r / norm, strict=True)}
    moments = tuple(float(weight @ x**2) for x in (q1, q2))
    return TwoIndexSolution(residual, dict(teacher), moments, converged, error, ((q1, q2), weight))
