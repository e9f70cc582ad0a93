r"""The critical surface, its limits, and paths across it."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicHermiteSpline, CubicSpline

from grokutils.hermite import activation as activation_of
from grokutils.problems import TeacherStudent
from grokutils.theory._saturation import _force, _level, _spinodal

AXES = {"noise_variance": (-2, -1), "samples": (2, 1), "width": (-1, 0), "dimension": (-1, -1), "readout_variance": (1, 1)}
"""How ln u and ln(kappa/d) grow with the logarithm of a parameter; samples and noise enter only as n / noise."""


def limits(norm: str = "exact", activation="erf", weight_variance: float = 0.5) -> dict:
    r"""Closed forms and constants of the surface for a teacher $H_1+\varepsilon H_3$.

    Returns:
        softening: U_0, where the centre itself would soften.
        merging: $x_0=-\frac12-\frac{\sigma_w^2}4\frac{m_3}{m_1}$ (fixed norm: -1/2), the ratio at which the well merges into the centre.
        floor: $u_c\varepsilon^2=U_0x_0^2$ at $\kappa/d\to0$ and small $|\varepsilon|$ (on the side of x_0).
        ceiling: $u_c\varepsilon^2$ of the teacher $H_3$ alone, reached at $\kappa/d\to\infty$.
    """
    force = _force(norm, activation_of(activation), weight_variance, 3)
    bend = float(force.moment(3, np.array(force.var))) / force.slope
    merging = -0.5 - (force.var / 4 * bend if norm == "exact" else 0.0)
    far = math.copysign(1e7, merging)
    ceiling = float(_level(force, far).coupling) * far**2
    return dict(softening=force.softening, merging=merging, floor=force.softening * merging**2, ceiling=ceiling)


def _two(problem):
    degrees = [k for k, c in problem.teacher.items() if c]
    if len(degrees) != 2 or degrees[0] != 1:
        raise ValueError(f"the teacher must have degree 1 and one higher degree, got {problem.teacher!r}")
    return degrees[1], problem.teacher[1], problem.teacher[degrees[1]]


@lru_cache(maxsize=64)
def _curve(force, sign, kind):
    """(ln|x| from which there is a well, interpolant of ln U in ln|x|, flat beyond its end in x^2 U), or None if there never is one."""

    def is_there(log_x):
        x = sign * np.exp(np.atleast_1d(log_x))
        return np.isfinite(_level(force, x).overlap if kind == "level" else _spinodal(force, x))

    ladder = np.linspace(math.log(0.02), math.log(2e3), 60)
    there = is_there(ladder)
    if not there.any():
        return None
    i = int(np.argmax(there))
    low, high = (ladder[i - 1], ladder[i]) if i else (ladder[0] - 1e-9, ladder[0])
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_there(middle)[0] else (middle, high)
    nodes = high + np.concatenate([[0], np.geomspace(1e-5, 12, 260)])
    x = sign * np.exp(nodes)
    if kind == "spinodal":
        value = _spinodal(force, x)
        good = np.isfinite(value)
        return nodes[good][0], CubicSpline(nodes[good], np.log(value[good]))
    well = _level(force, x)
    good = np.isfinite(well.overlap)
    one, more = force.parts(well.overlap[good], well.transverse_norm[good])
    slope = -2 * x[good] * more / (one + x[good] * more)  # d ln U / d ln|x|, by the envelope theorem
    return nodes[good][0], CubicHermiteSpline(nodes[good], np.log(well.coupling[good]), slope)


def _solve_ratio(force, target, excess, kind):
    """x on the untrained branch, and U there, where ``excess(ln|x|, U)`` (cases, ladder) first becomes positive; b = c_k / x is below c_1."""
    first, higher = target
    sign, start = math.copysign(1, higher / first), math.log(abs(higher / first))
    curve = _curve(force, sign, kind)
    if curve is None:
        return np.nan, np.nan
    begin, spline = curve
    end = spline.x[-1]

    def coupling(log_x):
        flat = np.exp(spline(np.clip(log_x, begin, end)) - 2 * np.maximum(log_x - end, 0))
        return np.where(log_x < begin, force.softening, flat)

    ladder = max(start, begin) + np.concatenate([[1e-12], np.geomspace(1e-7, 40, 500)])
    table = excess(ladder[None, :], coupling(ladder)[None, :])
    ok = np.isfinite(table) & (table > 0)
    i, none = np.argmax(ok, axis=1), ~ok.any(axis=1)
    low, high = ladder[np.maximum(i - 1, 0)], ladder[i]
    for _ in range(50):
        middle = ((low + high) / 2)[:, None]
        value = excess(middle, coupling(middle))[:, 0]
        up = np.isfinite(value) & (value > 0)
        low, high = np.where(up, low, middle[:, 0]), np.where(up, middle[:, 0], high)
    return np.where(none, np.nan, sign * np.exp(high)), np.where(none, np.nan, coupling(high))


def critical_surface(
    epsilons, kappa_over_d, norm: str = "exact", activation="erf", weight_variance: float = 0.5, degree: int = 3, kind: str = "level"
) -> np.ndarray:
    r"""The critical interaction $u_c(\varepsilon,\kappa/d)$ of the teacher $H_1+\varepsilon H_k$ in the limit $\beta\to\infty$.

    Args:
        epsilons, kappa_over_d: one-dimensional, positive kappa/d.
        kind: "level" (the transition) or "spinodal".

    Returns:
        (len(epsilons), len(kappa_over_d)); nan where a well never comes down. Relative accuracy 1e-7, but 3e-3 at kappa/d so small that the well
        stands within 0.02 of the centre.
    """
    if kind not in ("level", "spinodal"):
        raise ValueError(f"kind must be 'level' or 'spinodal', got {kind!r}")
    epsilons, g = np.atleast_1d(np.asarray(epsilons, float)), np.atleast_1d(np.asarray(kappa_over_d, float))
    if not (g > 0).all() or not np.isfinite(epsilons).all() or (epsilons == 0).any():
        raise ValueError("kappa_over_d must be positive, and epsilons finite and not 0")
    force, out = _force(norm, activation_of(activation), weight_variance, degree), np.empty((len(epsilons), len(g)))
    for row, epsilon in zip(out, epsilons, strict=True):

        def excess(log_x, coupling, epsilon=epsilon):
            b = abs(epsilon) * np.exp(-log_x)
            return (1 / b - 1) * (force.softening - coupling) - g[:, None]

        x, coupling = _solve_ratio(force, (1.0, epsilon), excess, kind)
        row[:] = coupling * x**2 / epsilon**2
    return out


def boundary(
    problem: TeacherStudent, axis: str = "noise_variance", other: str | None = None, values=None, norm: str = "exact", kind: str = "level"
) -> np.ndarray:
    r"""The value of ``axis`` at the transition of the limit $\beta\to\infty$ (or the spinodal), for each value of the parameter ``other``.

    On the way from the untrained side it is the first crossing; parameters not named are those of the problem.

    Args:
        problem: teacher with degree 1 and one higher degree.
        axis, other: keys of ``AXES``; ``other`` may also be "epsilon", the higher coefficient of the teacher.
        values: of ``other``; None: the problem's own.
        kind: "level" or "spinodal".

    Returns:
        As many as values (one if None); nan where there is no transition.
    """
    if axis not in AXES:
        raise ValueError(f"axis must be one of {tuple(AXES)}, got {axis!r}")
    if other is None:
        return np.array([_on_path(problem, axis, norm, kind)[0]])
    if other not in (*AXES, "epsilon") or other == axis:
        raise ValueError(f"other must be one of {(*AXES, 'epsilon')} and not the axis, got {other!r}")
    degree = _two(problem)[0]
    if other != "epsilon":
        return _many(problem, axis, other, np.asarray(values, float), norm, kind)
    return np.array([_on_path(problem.replace(teacher={**problem.teacher, degree: float(v)}), axis, norm, kind)[0] for v in values])


def _many(problem, axis, other, values, norm, kind):
    degree, first, higher = _two(problem)
    force = _force(norm, problem.phi, problem.weight_variance, degree)
    grow = AXES[other]
    log_u = math.log(problem.interaction) + grow[0] * np.log(values / getattr(problem, other))
    log_g = math.log(problem.kappa / problem.dimension) + grow[1] * np.log(values / getattr(problem, other))
    x, coupling = _path_ratio(force, first, higher, axis, log_u, log_g, kind)
    move = (np.log(coupling * (x / higher) ** 2) - log_u) / AXES[axis][0]
    return getattr(problem, axis) * np.exp(move)


def _path_ratio(force, first, higher, axis, log_u, log_g, kind):
    steep = AXES[axis][1] / AXES[axis][0]

    def excess(log_x, coupling):
        b = abs(higher) * np.exp(-log_x)
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.log(np.maximum(first / b - 1, 0)) + np.log(np.maximum(force.softening - coupling, 0))
            return needed - (log_g[:, None] + steep * (np.log(coupling / b**2) - log_u[:, None]))

    if first < 0:
        raise ValueError("the coefficient of H_1 must be positive")
    return _solve_ratio(force, (first, higher), excess, kind)


def _on_path(problem, axis, norm, kind):
    degree, first, higher = _two(problem)
    force = _force(norm, problem.phi, problem.weight_variance, degree)
    log_u, log_g = np.log([problem.interaction]), np.log([problem.kappa / problem.dimension])
    x, coupling = _path_ratio(force, first, higher, axis, log_u, log_g, kind)
    move = (np.log(coupling * (x / higher) ** 2) - log_u) / AXES[axis][0]
    return float((getattr(problem, axis) * np.exp(move))[0]), float(np.ravel(x)[0]), force
