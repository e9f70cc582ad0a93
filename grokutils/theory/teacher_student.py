"""The mean-field theory of the teacher-student model: self-consistent residual, one-neuron action, wells and phases."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral

import numpy as np
from scipy.optimize import minimize_scalar, root

from grokutils.problems import TeacherStudent
from grokutils.theory._limit import CriticalPoint, MixedPhase, critical_point, mixed_phase, scaled_action
from grokutils.theory._neuron_law import NeuronLaw

__all__ = [
    "CriticalPoint", "MixedPhase", "Solution", "action", "critical_point", "dual", "gaussian_process", "mixed_phase",
    "scaled_action", "self_consistency", "solve",
]

NORMS = ("exact", "fixed")
METHODS = ("quadrature", "saddle")
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Solution:
    r"""The self-consistent residual $y-\bar f=\sum_kr_kH_k$ (eq. 12) and the law of one neuron at it.

    Attributes:
        problem, norm, method, degrees: what was solved.
        residual: {degree: r_k}; b = residual[1], c = residual[3].
        converged: the fixed point holds to 1e-9 and the grid was fine enough.
        error: largest change of r_k / |y| under one more application of the fixed-point map and a finer grid.
        iterations: Newton steps (or evaluations of the saddle map).
        kernel: $\tilde Q=\sigma_a^2\langle vv^T\rangle$ in the basis H_k / sqrt(k!) (eq. 9, A.10).
    """

    problem: TeacherStudent
    norm: str
    method: str
    degrees: tuple
    residual: dict
    converged: bool
    error: float
    iterations: int
    kernel: np.ndarray = field(repr=False)
    _law: NeuronLaw = field(repr=False, compare=False)
    _vector: np.ndarray = field(repr=False, compare=False)
    _log_z: float = field(repr=False, compare=False)

    @property
    def learnability(self) -> dict:
        """{degree of the teacher: 1 - r_k / c_k}, the learned share of the component (eq. 11); degrees with c_k = 0 are left out."""
        return {k: 1 - self.residual[k] / c for k, c in self.problem.teacher.items() if c}

    @property
    def test_loss(self) -> float:
        r"""$E_x[(y-\bar f)^2]=\sum_kk!\,r_k^2$ of the mean output, within the degrees spanned."""
        return float(self._vector @ self._vector)

    def density(self, q):
        """p(q), the marginal over the transverse norm, normalised on the real line; q of any shape."""
        return np.exp(self._law.log_marginal(q, self._vector) - self._log_z)

    def action(self, q):
        """-ln(p(q) / p(0)); q of any shape."""
        return self._law.log_marginal(0.0, self._vector) - self._law.log_marginal(q, self._vector)

    def transverse_norm(self, q):
        """E[s | q], the mean squared length of a neuron's weights orthogonal to the teacher; q of any shape."""
        return self._law.conditional(q, self._vector)[0]

    @cached_property
    def _landscape(self):
        return _landscape(self.action, *self._law.q_range(), self._law._steps[0], self._law.even)

    @property
    def minima(self) -> np.ndarray:
        """Overlaps of all minima of the action, ascending."""
        return self._landscape[0]

    @property
    def barrier(self) -> float | None:
        """Height of the action's barrier above the centre, the higher one if the two sides differ; None without a side well."""
        return max((height for _, _, height in self._landscape[1]), default=None)

    @property
    def barrier_overlap(self) -> float | None:
        """|q| of the barrier (the higher one); None without a side well."""
        return max(((height, abs(q)) for _, q, height in self._landscape[1]), default=(None, None))[1]

    @cached_property
    def droplet_fraction(self) -> float:
        """Probability that a neuron lies beyond the barrier; 0 without a side well."""
        return min(1.0, sum(self._mass(q, side) for side, q, _ in self._landscape[1]))

    @cached_property
    def tail_fraction(self) -> float:
        """P(|q| > 1/2)."""
        return self._mass(0.5, 1) + self._mass(-0.5, -1)

    def _mass(self, start: float, side: float) -> float:
        """Probability beyond ``start`` on the side +1 or -1, by Gauss-Legendre panels about as wide as the prior."""
        low, high = self._law.q_range()
        end = high if side > 0 else low
        if (end - start) * side <= 0:
            return 0.0
        panels = max(4, math.ceil(abs(end - start) / (3 * self._law._steps[0] / self._law.spacing)))
        x, w = np.polynomial.legendre.leggauss(12)
        edges = np.linspace(start, end, panels + 1)
        half = np.diff(edges)[:, None] / 2
        return float(np.sum(np.abs(half) * w * self.density(edges[:-1, None] + half * (1 + x))))

    @cached_property
    def second_moment(self) -> float:
        r"""$\langle q^2\rangle$ under the one-neuron law."""
        low, high = self._law.q_range()
        h = self._law._steps[0] / 2
        q = h * np.arange(math.floor(low / h), math.ceil(high / h) + 1)
        return float(h * np.sum(q**2 * self.density(q)))

    @property
    def phase(self) -> str:
        """GFL while fewer than one droplet a network is expected, GMFL-II while fewer than one neuron outside droplets is, else GMFL-I."""
        width, fraction = self.problem.width, self.droplet_fraction
        if width * fraction < 1:
            return "GFL"
        return "GMFL-II" if width * (1 - fraction) < 1 else "GMFL-I"


def _landscape(action, low, high, step, even):
    """All minima of the action, and (side, overlap, height) of the barrier between the centre and the first well on each side."""
    q = np.linspace(low, high, 1 + 2 * math.ceil((high - low) / step))
    s = action(q)
    inside = np.arange(1, len(q) - 1)

    def refine(i, sign):
        found = minimize_scalar(lambda x: sign * float(action(x)), bounds=(q[i - 1], q[i + 1]), method="bounded", options={"xatol": 1e-9})
        return found.x

    wells = np.array([refine(i, 1) for i in inside if s[i] < s[i - 1] and s[i] <= s[i + 1]])
    if len(wells) == 0:
        wells = np.array([q[np.argmin(s)]])
    centre = wells[np.argmin(np.abs(wells))]
    if even and abs(centre) > step / 2:  # the centre itself is a maximum: nothing is left of the untrained population
        return wells, [(-1, 0.0, 0.0), (1, 0.0, 0.0)]
    if abs(centre) < step / 2 and even:
        wells[np.argmin(np.abs(wells))] = centre = 0.0
    barriers = []
    for side in (-1, 1):
        beyond = wells[(wells - centre) * side > 1e-6]
        if len(beyond):
            well = beyond[np.argmin(np.abs(beyond - centre))]
            between = inside[(q[inside] > min(centre, well)) & (q[inside] < max(centre, well))]
            peak = refine(between[np.argmax(s[between])], -1)
            barriers.append((side, peak, float(action(peak)) - float(action(centre))))
    return wells, barriers


def _check(problem, norm, method="quadrature", degrees=None):
    if not isinstance(problem, TeacherStudent):
        raise ValueError(f"problem must be a TeacherStudent, got {problem!r}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if degrees is None:
        return tuple(problem.teacher)
    degrees = list(degrees) if not isinstance(degrees, (str, Mapping)) and hasattr(degrees, "__iter__") else [degrees]
    if any(isinstance(k, bool) or not isinstance(k, Integral) or k < 0 for k in degrees) or not set(problem.teacher) <= set(degrees):
        raise ValueError(f"degrees must be whole numbers >= 0 that include the teacher's {tuple(problem.teacher)}, got {degrees!r}")
    return tuple(sorted({int(k) for k in degrees}))


def _vector(residual, degrees, name="residual") -> np.ndarray:
    if not isinstance(residual, Mapping) or set(residual) != set(degrees) or not all(np.isfinite(list(residual.values()))):
        raise ValueError(f"{name} must give a finite number for each degree of {degrees}, got {residual!r}")
    return np.array([residual[k] * math.sqrt(math.factorial(k)) for k in degrees], dtype=float)


def _mapping(vector, degrees) -> dict:
    return {k: float(x / math.sqrt(math.factorial(k))) for k, x in zip(degrees, vector, strict=True)}


def _target(problem, degrees) -> np.ndarray:
    return _vector({k: problem.teacher.get(k, 0.0) for k in degrees}, degrees, "teacher")


def _regress(problem, second, target) -> np.ndarray:
    """The GPR residual (sigma^2/n) [Q~ + sigma^2/n]^{-1} y (eq. A.12 with its missing factor)."""
    ridge = problem.noise_variance / problem.samples
    return ridge * np.linalg.solve(problem.readout_variance * second + ridge * np.eye(len(target)), target)


def _dual(problem, law, target, r):
    log_z, pull, hessian, second = law.integrate(r)
    scale = problem.samples / problem.noise_variance
    if not math.isfinite(log_z):
        return -math.inf, None, None, None
    value = scale * (r @ target - r @ r / 2) - problem.width * log_z
    return value, scale * (target - r) - problem.width * pull, scale * np.eye(len(r)) + problem.width * hessian, second


def _maximise(problem, law, target, r):
    """Damped Newton on the concave dual from r; returns r, the step count and the last fixed-point defect."""
    value, gradient, curvature, second = _dual(problem, law, target, r)
    while not math.isfinite(value):
        r = r / 2
        value, gradient, curvature, second = _dual(problem, law, target, r)
    size = np.linalg.norm(target)
    for iteration in range(1, 201):
        step = np.linalg.solve(curvature, gradient)
        if np.linalg.norm(step) < 1e-13 * size:
            break
        scale = 1.0
        while scale > 1e-9:
            new = _dual(problem, law, target, r + scale * step)
            # near the maximum round-off hides the gain: trust Newton there
            trusted = math.isfinite(new[0]) and np.linalg.norm(step) * scale < 1e-7 * size
            if trusted or new[0] >= value + 1e-4 * scale * (gradient @ step):
                break
            scale /= 2
        else:  # pressed against the edge of normalisability: no solution with a well-behaved neuron
            break
        r, (value, gradient, curvature, second) = r + scale * step, new
    return r, iteration, np.linalg.norm(_regress(problem, second, target) - r) / size


def solve(problem: TeacherStudent, norm: str = "exact", method: str = "quadrature", degrees=None, start: Mapping | None = None) -> Solution:
    r"""Solve the self-consistent equations of the mean-field theory (Rubin et al., eqs. 8, 12-14, A.12, corrected).

    $$\hat r=\frac{\sigma^2}n\Big[\tilde Q(\hat r)+\frac{\sigma^2}n\Big]^{-1}\hat y,\qquad\tilde Q=\sigma_a^2\langle vv^T\rangle_{p(q,s|\hat r)}$$

    The quadrature solution maximises the strictly concave dual, so it is unique and found from any start.

    Args:
        problem: sizes may be real.
        norm: "exact" integrates over the transverse norm s; "fixed" holds s = sigma_w^2, the paper's closure.
        method: "quadrature" or "saddle", the paper's mixture of Gaussians at the minima of the action.
        degrees: Hermite degrees the residual may span; None: the teacher's.
        start: residual to start from; None: 0, whose first step is the Gaussian process.

    Raises:
        ValueError: an argument is not what it must be, or the one-neuron law cannot be normalised.

    Warns:
        RuntimeWarning: no solution was found (``converged`` is False).
    """
    degrees = _check(problem, norm, method, degrees)
    target = _target(problem, degrees)
    r = np.zeros(len(degrees)) if start is None else _vector(start, degrees, "start")
    spacing = 0.3 if norm == "exact" else 0.2
    law = NeuronLaw(problem, degrees, norm, spacing)
    r, iterations, defect = _maximise(problem, law, target, r)
    for _ in range(4):
        finer = NeuronLaw(problem, degrees, norm, law.spacing / 1.5)
        new, more, defect = _maximise(problem, finer, target, r)
        change, r, law = np.linalg.norm(new - r) / np.linalg.norm(target), new, finer
        iterations += more
        if change < _TOLERANCE:
            break
    error = max(change, defect)
    if method == "saddle":
        r, error, calls = _saddle(problem, law, target, r)
        iterations += calls
    log_z, _, _, second = law.integrate(r)
    solution = Solution(
        problem, norm, method, degrees, _mapping(r, degrees), bool(error < _TOLERANCE), float(error), iterations,
        problem.readout_variance * second, law, r, log_z,
    )
    if not solution.converged:
        edge = np.linalg.norm(r) > 0 and not math.isfinite(law.integrate(1.02 * r)[0])
        why = "; the one-neuron law is at the edge of normalisability, where single neurons run away" if edge else ""
        warnings.warn(f"no {method} solution found: the equations miss by {error:.1e} of |y|{why}", RuntimeWarning, stacklevel=2)
    return solution


def _saddle(problem, law, target, r):
    """Root of the mixture map nearest to r; returns it, its defect and the number of map evaluations."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    weights = weights / weights.sum()
    law.integrate(target)  # the map is asked far from the solution: cover that too

    def gap(x):
        calls[0] += 1
        law.integrate(x)
        wells, _ = _landscape(lambda q: -law.log_marginal(q, x), *law.q_range(), law._steps[0], law.even)
        h = law._steps[0] / 4
        action = -law.log_marginal(wells[:, None] + h * np.array([-1, 0, 1]), x)
        curvature = np.maximum((action[:, 0] - 2 * action[:, 1] + action[:, 2]) / h**2, 1e-3 * law.precision)
        mass = np.exp(action[:, 1].min() - action[:, 1]) / np.sqrt(curvature)
        second = law.conditional(wells[:, None] + nodes / np.sqrt(curvature)[:, None], x)[1]
        mixture = np.einsum("i,j,ijkl->kl", mass / mass.sum(), weights, second)
        return _regress(problem, mixture, target) - x

    calls, best = [0], (math.inf, r)
    for begin in (r, 1.05 * r, 0.95 * r, _regress(problem, law.integrate(0 * r)[3], target)):
        found = root(gap, begin, method="hybr", options={"xtol": 1e-12, "maxfev": 60})
        defect = np.linalg.norm(gap(found.x)) / np.linalg.norm(target)
        best = min(best, (defect, found.x), key=lambda pair: pair[0])
        if best[0] < _TOLERANCE:
            break
    return best[1], best[0], calls[0]


def _law_at(problem, residual, norm):
    degrees = _check(problem, norm, degrees=tuple(residual) if isinstance(residual, Mapping) else None)
    law = NeuronLaw(problem, degrees, norm, 0.2)
    return law, degrees, _vector(residual, degrees)


def action(problem: TeacherStudent, residual: Mapping, q, norm: str = "exact"):
    """-ln(p(q)/p(0)) of one neuron at any residual {degree: r_k}, self-consistent or not (eqs. 13-14); q of any shape."""
    law, _, r = _law_at(problem, residual, norm)
    return law.log_marginal(0.0, r) - law.log_marginal(q, r)


def dual(problem: TeacherStudent, residual: Mapping, norm: str = "exact") -> float:
    r"""The concave dual, whose maximum is the solution; -inf where Z diverges.

    $$D(r)=\frac n{\sigma^2}\Big[\hat r\cdot\hat y-\tfrac12|\hat r|^2\Big]-N\ln Z(\hat r)$$
    """
    law, degrees, r = _law_at(problem, residual, norm)
    return float(_dual(problem, law, _target(problem, degrees), r)[0])


def self_consistency(problem: TeacherStudent, residual: Mapping, norm: str = "exact") -> dict:
    """One application of the fixed-point map: the residual that Gaussian-process regression leaves with the kernel at ``residual``."""
    law, degrees, r = _law_at(problem, residual, norm)
    second = law.integrate(r)[3]
    if second is None:
        raise ValueError(f"residual {dict(residual)!r} gives a one-neuron law that cannot be normalised")
    return _mapping(_regress(problem, second, _target(problem, degrees)), degrees)


def gaussian_process(problem: TeacherStudent, norm: str = "exact") -> dict:
    """Residual {degree: r_k} of the infinitely wide network (NNGP): the kernel of the prior, no feature learning."""
    return self_consistency(problem, dict.fromkeys(_check(problem, norm), 0.0), norm)
