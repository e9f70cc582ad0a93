"""The mean-field theory of the teacher-student model: self-consistent residual, one-neuron action, wells and phases."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from numbers import Integral

import numpy as np
from scipy.optimize import root

from grokutils.hermite import derivative_expectation
from grokutils.problems import TeacherStudent, is_finite
from grokutils.theory._limit import CriticalPoint, MixedPhase, critical_point, mixed_phase, scaled_action
from grokutils.theory._neuron_law import NeuronLaw
from grokutils.theory._solution import Solution, landscape

__all__ = [
    "CriticalPoint", "MixedPhase", "Solution", "action", "critical_point", "dual", "gaussian_process", "mixed_phase",
    "scaled_action", "self_consistency", "solve",
]

NORMS = ("exact", "fixed")
METHODS = ("quadrature", "saddle")
_TOLERANCE = 1e-9


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
    if not isinstance(residual, Mapping) or set(residual) != set(degrees) or not all(is_finite(x) for x in residual.values()):
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
    for iteration in range(1, 201):  # noqa: B007  its last value is returned
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


def _refine(problem, degrees, norm, target, r, dressing=None):
    """Maximise the dual on ever finer grids until the maximum stands still; returns the law, r, its error and the Newton steps."""
    law = NeuronLaw(problem, degrees, norm, 0.3 if norm == "exact" else 0.2, dressing)
    r, iterations, defect = _maximise(problem, law, target, r)
    for _ in range(4):
        law = NeuronLaw(problem, degrees, norm, law.spacing / 1.5, dressing)
        new, more, defect = _maximise(problem, law, target, r)
        change, r, iterations = np.linalg.norm(new - r) / np.linalg.norm(target), new, iterations + more
        if change < _TOLERANCE:
            break
    return law, r, max(change, defect), iterations


def _dressed(problem, degrees, norm, target, r):
    r"""The solution with the leading corrections in 1/n and 1/N (relative order $\beta^{-1/2}$); derived in the chapter on theory and experiment.

    Power that the kernel does not learn acts as noise, $\sigma^2\to\kappa$, the renormalised ridge of kernel regression. A neuron's readout
    pays for all else its function contains (screening), and neurons align with accidental transverse correlations of the residual:

    $$Y=\frac{n\sigma_a^2}N\Big\{\frac{\alpha}{\kappa+n\lambda}\Big[1-\frac e{\kappa+n\lambda}\Big]+\frac\rho\kappa\Big\},\quad
      \kappa=\sigma^2+\frac{(d-1)\lambda\kappa}{\kappa+n\lambda}+\sigma_a^2\Big\langle\frac\rho{1+Y}\Big\rangle,\quad
      e=\frac{|\hat r|^2}{1-(d-1)n\lambda^2/(\kappa+n\lambda)^2}$$

    with $\alpha=E[\phi']^2s$, $\rho=E[\phi^2]-|v|^2-\alpha$, and
    $\lambda=\frac{\sigma_a^2}{d-1}\langle\alpha[\frac1{1+Y}+\frac{\sigma_a^2m^2}{N(1+Y)^2}]\rangle$, $m=\frac n\kappa\hat r\cdot v$.
    """
    n, across, variance = problem.samples, problem.dimension - 1, problem.readout_variance
    slope = float(derivative_expectation(problem.phi, 1, problem.weight_variance))
    ridge, eigenvalue, total = problem.noise_variance, variance * slope**2 * problem.weight_variance / problem.dimension, 0
    for _ in range(200):
        stiff = ridge + n * eigenvalue
        excess = r @ r / max(1 - across * n * (eigenvalue / stiff) ** 2, 1e-3)
        dressing = n * variance / problem.width * np.array([(1 - excess / stiff) / stiff, 1 / ridge])
        law = NeuronLaw(problem.replace(noise_variance=ridge), degrees, norm, 0.2, dressing)
        new, iterations, _ = _maximise(law.problem, law, target, r)

        def linear_response(q, s, field2, law=law):
            y = law.one_plus_y(q, s)  # field2 is (r . v)^2 / (1 + Y)
            return law.powers(q, s)[0] * (1 + law.strength * field2) / y

        response = variance / across * law.average(new, linear_response)
        unlearned = variance * law.average(new, lambda q, s, _, law=law: law.powers(q, s)[1] / law.one_plus_y(q, s))
        next_ridge = problem.noise_variance + across * eigenvalue * ridge / stiff + unlearned
        change = max(np.linalg.norm(new - r) / np.linalg.norm(target), abs(next_ridge / ridge - 1), abs(response / eigenvalue - 1))
        # half steps: the response to alignment overshoots
        r, ridge, eigenvalue, total = new, (ridge + next_ridge) / 2, (eigenvalue + response) / 2, total + iterations
        if change < _TOLERANCE / 10:
            break
    law, new, error, iterations = _refine(law.problem, degrees, norm, target, r, dressing)
    return law, new, max(error, change, np.linalg.norm(new - r) / np.linalg.norm(target)), total + iterations


def solve(
    problem: TeacherStudent, norm: str = "exact", method: str = "quadrature", degrees=None, start: Mapping | None = None, finite_size: bool = False
) -> Solution:
    r"""Solve the self-consistent equations of the mean-field theory (Rubin et al., eqs. 9, 10, 12, 13, A.12, corrected).

    $$\hat r=\frac{\sigma^2}n\Big[\tilde Q(\hat r)+\frac{\sigma^2}n\Big]^{-1}\hat y,\qquad\tilde Q=\sigma_a^2\langle vv^T\rangle_{p(q,s|\hat r)}$$

    The quadrature solution maximises the strictly concave dual, so it is unique and found from any start.

    Args:
        problem: sizes may be real.
        norm: "exact" integrates over the transverse norm s; "fixed" holds s = sigma_w^2, the paper's closure.
        method: "quadrature" or "saddle", the paper's mixture of Gaussians at the minima of the action.
        degrees: Hermite degrees the residual may span; None: the teacher's.
        start: residual to start from; None: 0, whose first step is the Gaussian process.
        finite_size: add the leading corrections in 1/N and 1/n, which the paper neglects: renormalised ridge, screening by a neuron's own
            readout, alignment with accidental correlations of the data; quadrature only.

    Raises:
        ValueError: an argument is not what it must be, or the one-neuron law cannot be normalised.

    Warns:
        RuntimeWarning: no solution was found (``converged`` is False).
    """
    degrees = _check(problem, norm, method, degrees)
    target = _target(problem, degrees)
    r = np.zeros(len(degrees)) if start is None else _vector(start, degrees, "start")
    if finite_size and method != "quadrature":
        raise ValueError(f"finite_size needs method='quadrature', got {method!r}")
    if finite_size:
        law, r, error, iterations = _dressed(problem, degrees, norm, target, r)
    else:
        law, r, error, iterations = _refine(problem, degrees, norm, target, r)
    if method == "saddle":
        r, error, calls = _saddle(problem, law, target, r)
        iterations += calls
    log_z, _, _, second = law.integrate(r)
    solution = Solution(
        problem, norm, method, degrees, _mapping(r, degrees), bool(error < _TOLERANCE), float(error), iterations, law.problem.noise_variance,
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
        wells, _ = landscape(lambda q: -law.log_marginal(q, x), *law.q_range(), law._steps[0], law.even)
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
    degrees = _check(problem, norm)
    if isinstance(residual, Mapping) and set(residual) >= set(degrees) and all(isinstance(k, Integral) and k >= 0 for k in residual):
        degrees = tuple(sorted(int(k) for k in residual))
    law = NeuronLaw(problem, degrees, norm, 0.2)
    return law, degrees, _vector(residual, degrees)


def action(problem: TeacherStudent, residual: Mapping, q, norm: str = "exact"):
    """-ln(p(q)/p(0)) of one neuron at any residual {degree: r_k}, self-consistent or not (eqs. 13, A.7); q of any shape."""
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
