"""How many droplets one network has: the law of the count beyond independent neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.special import gammaln

from grokutils.problems import TeacherStudent
from grokutils.theory._solution import Solution
from grokutils.theory.teacher_student import solve

__all__ = ["DropletNumber", "droplet_number"]


@dataclass(frozen=True)
class DropletNumber:
    r"""Law of the number k of neurons with $|q|$ beyond a border, within the posterior of one training set.

    Attributes:
        mean, variance: of k, at finite width.
        saddle_mean, saddle_ratio: mean field's N rho, and variance over mean to leading order in 1/N.
        solution: the mean-field solution at whose residual the integrals were taken.
        probability: P(k) for k = 0, 1, ...; None if not asked for.
    """

    mean: float
    variance: float
    saddle_mean: float
    saddle_ratio: float
    solution: Solution = field(repr=False)
    probability: np.ndarray | None = field(repr=False)

    @property
    def ratio(self) -> float:
        """Variance over mean; 1 for a Poisson number."""
        return self.variance / self.mean


def droplet_number(
    problem: TeacherStudent, norm: str = "exact", border: float = 0.5, finite_size: bool = False, points: int = 33, width: float = 8.0,
    probability: bool = False,
) -> DropletNumber:
    r"""Law of the number of neurons with $|q|>$ ``border``, by an integral that is exact at any width within the teacher's degrees.

    With all readouts integrated out, the target is Gaussian given the weights; a Fourier integral makes the neurons independent:

    $$p(y)\propto\int d\mathbf x\;e^{-D(\hat r-i\mathbf x)},\qquad P(k)=\Big\langle\binom Nk\rho^k(1-\rho)^{N-k}\Big\rangle_{\mathbf x},\quad
      \rho=\rho(\hat r-i\mathbf x)$$

    with the dual D of ``teacher_student.dual``. To leading order, with $\nabla\rho$ and $D''$ at the saddle point,

    $$\operatorname{Var}k=N\rho(1-\rho)-N^2\,\nabla\rho^T(D'')^{-1}\nabla\rho.$$

    Args:
        problem: a whole width of at least 1; the teacher may have one or two degrees.
        norm, finite_size: as for ``teacher_student.solve``.
        border: overlap beyond which a neuron counts.
        points: nodes of the integral per degree; 0: the saddle point alone (``mean`` and ``variance`` are then its values).
        width: of the integration range, in standard deviations; a network of one or two neurons needs about 30.
        probability: also P(k).

    Raises:
        ValueError: the teacher has more than two degrees, or the border or the number of points is not what it must be.
    """
    if len(problem.teacher) > 2:
        raise ValueError(f"the teacher may have one or two degrees, got {tuple(problem.teacher)}")
    if not (isinstance(border, (int, float)) and 0 <= border < math.inf):
        raise ValueError(f"border must be a number >= 0, got {border!r}")
    if points != 0 and points < 5:
        raise ValueError(f"points must be 0 (saddle point) or at least 5, got {points!r}")
    if probability and points == 0:
        raise ValueError("probability needs the integral: points must not be 0")
    solution = solve(problem, norm, finite_size=finite_size)
    law, r, size = solution._law, solution._vector, problem.width
    v, log_prior, tail = _nodes(law, r, border)
    scale = problem.samples / solution.ridge
    target = np.array([math.sqrt(math.factorial(k)) * problem.teacher[k] for k in solution.degrees])
    field = v @ r
    weight = np.exp(log_prior + law.strength / 2 * field**2)
    weight /= weight.sum()
    rho = float(weight @ tail)
    pull = law.strength * v * field[:, None]  # the derivative of the log weight with respect to r
    mean_pull = weight @ pull
    slope = (weight * tail) @ pull - rho * mean_pull
    spread = pull - mean_pull
    curvature = scale * np.eye(len(r)) + size * (law.strength * (v.T * weight) @ v + (spread.T * weight) @ spread)
    saddle = size * rho * (1 - rho) - size**2 * slope @ np.linalg.solve(curvature, slope)
    saddle_ratio = float(saddle / (size * rho)) if rho > 0 else 1.0
    if points == 0:
        return DropletNumber(size * rho, float(saddle), size * rho, saddle_ratio, solution, None)
    x = np.linspace(-width, width, points)
    grid = np.stack(np.meshgrid(*[x] * len(r))).reshape(len(r), -1)
    half = grid[:, grid[-1] >= -1e-12] if points % 2 else grid  # x and -x are complex conjugates
    fold = np.where(half[-1] > 1e-12, 2.0, 1.0) if points % 2 else np.ones(half.shape[1])
    shifted = r[:, None] - 1j * np.linalg.cholesky(np.linalg.inv(curvature)) @ half
    logs, rhos, top = [], [], (log_prior + law.strength / 2 * field**2).max()
    for z in shifted.T:
        w = np.exp(log_prior + law.strength / 2 * (v @ z) ** 2 - top)
        total = w.sum()
        logs.append(size * np.log(total) - scale * (z @ target - z @ z / 2))
        rhos.append((w @ tail) / total)
    logs, rhos = np.array(logs), np.array(rhos)
    mass = fold * np.exp(logs - logs.real.max())
    mass /= mass.sum().real
    average = lambda a: float((mass * a).sum().real)  # noqa: E731
    mean = size * average(rhos)
    variance = mean + size * (size - 1) * average(rhos**2) - mean**2
    law_of_k = _binomial_mixture(size, rhos, mass, mean, variance) if probability else None
    return DropletNumber(mean, variance, size * rho, saddle_ratio, solution, law_of_k)


def _nodes(law, r, border):
    """Features, log weights of the prior and the share of each node's cell beyond the border, where the law at r has mass."""
    law.integrate(r)
    q, t, log_prior, v = law._grid
    share = np.clip((np.abs(q) - border) / law._steps[0] + 0.5, 0, 1)
    tail = np.broadcast_to(share, (q.size, t.size)).ravel()
    log = log_prior + law.strength / 2 * (v @ r) ** 2
    keep = log > log.max() - 40
    return v[keep], log_prior[keep] - log_prior.max(), tail[keep]


def _binomial_mixture(size, rho, mass, mean, variance):
    """P(k): binomial laws of complex probability, averaged."""
    size = round(size)
    last = min(size, math.ceil(mean + 12 * math.sqrt(max(variance, mean)) + 10))
    k = np.arange(last + 1)
    log = gammaln(size + 1) - gammaln(k + 1) - gammaln(size - k + 1)
    terms = np.exp(log[:, None] + k[:, None] * np.log(rho) + (size - k[:, None]) * np.log1p(-rho))
    return (terms @ mass).real
