r"""Phase diagrams of the teacher-student network: the critical surface, paths across it, kinks and latent heat.

The teacher is $y=c_1H_1+c_kH_k$ with one higher degree k. In the limit $\beta\to\infty$ the critical surface $u_c(\varepsilon,\kappa/d)$ is one
function of one variable. With $x=r_k/r_1$ the ratio of the two residuals while only $H_1$ is learned, and $U=u\,r_1^2$,

$$U(x)=\min_{q,s}\frac{2\hat C(q,s)}{[q\,m_1(q^2+s)+x\,q^k\,m_k(q^2+s)]^2},\quad
  \hat C=\frac{q^2+s}{2\sigma_w^2}-\frac12\ln\frac s{\sigma_w^2}-\frac12,$$
$$u_c=\frac{x^2U(x)}{c_k^2},\qquad\frac\kappa d=\Big(\frac{c_1}{r_1}-1\Big)\big(U_0-U(x)\big),\qquad U_0=\frac1{m_1^2\sigma_w^2}.$$
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from scipy.optimize import brentq

from grokutils.hermite import activation as activation_of
from grokutils.hermite import derivative_expectation
from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student
from grokutils.theory._solution import Solution

__all__ = [
    "AXES", "Kink", "Level", "boundary", "critical_surface", "crossing", "droplet_readout2", "expected_droplets", "kink", "level", "limits", "losses",
    "response", "spinodal",
]

AXES = {"noise_variance": (-2, -1), "samples": (2, 1), "width": (-1, 0), "dimension": (-1, -1), "readout_variance": (1, 1)}
"""How ln u and ln(kappa/d) grow with the logarithm of a parameter; samples and noise enter only as n / noise."""
_GRID = 200


@dataclass(frozen=True)
class Level:
    """Where a side well is level with the centre, for each ratio x of the residuals.

    Attributes:
        coupling: U = u r_1^2; U_0 where no well comes down before the centre itself softens.
        overlap, transverse_norm: q* and s* of the well; nan where there is none.
    """

    coupling: np.ndarray
    overlap: np.ndarray
    transverse_norm: np.ndarray


class _Force:
    """q m_1 + x q^k m_k and its derivatives; moments without a closed form are splined once in ln Q."""

    def __init__(self, norm, activation, weight_variance, degree):
        if norm not in ("exact", "fixed"):
            raise ValueError(f"norm must be 'exact' or 'fixed', got {norm!r}")
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 2:
            raise ValueError(f"degree must be a whole number >= 2, got {degree!r}")
        self.phi, self.var, self.degree, self.norm = activation_of(activation), float(weight_variance), degree, norm
        self._splines = {}
        self.slope = float(self.moment(1, np.array(self.var)))
        self.softening = 1 / (self.slope**2 * self.var)  # U_0

    def moment(self, k, Q):
        if self.phi.moment:
            return derivative_expectation(self.phi, k, Q)
        if k not in self._splines:
            log_q = np.linspace(math.log(1e-3 * self.var), math.log(200 * max(1, self.var)), 500)
            self._splines[k] = CubicSpline(log_q, derivative_expectation(self.phi, k, np.exp(log_q)))
        return self._splines[k](np.log(Q))

    def parts(self, q, s):
        """The two features q m_1 and q^k m_k."""
        return q * self.moment(1, q**2 + s), q**self.degree * self.moment(self.degree, q**2 + s)

    def slopes(self, q, s, x):
        """Force, its derivative in q and in s (dm_k/dQ = m_{k+2}/2)."""
        Q, k = q**2 + s, self.degree
        m1, m3, mk, mk2 = (self.moment(j, Q) for j in (1, 3, k, k + 2))
        by_s = (q * m3 + x * q**k * mk2) / 2
        return q * m1 + x * q**k * mk, m1 + x * k * q ** (k - 1) * mk + 2 * q * by_s, by_s

    def cost(self, q, t):
        s = np.exp(t)
        return (q**2 + s) / (2 * self.var) - (t - math.log(self.var)) / 2 - 0.5

    def grid(self):
        reach = 4 * max(1.0, math.sqrt(self.var))
        q = np.linspace(reach / _GRID, reach, _GRID)
        if self.degree % 2 == 0:
            q = np.concatenate([q, -q])
        t = np.array([math.log(self.var)]) if self.norm == "fixed" else math.log(self.var) + np.linspace(-4, 1, 76)
        return q[:, None], t[None, :]


@lru_cache(maxsize=32)
def _force(norm, phi, weight_variance, degree):
    return _Force(norm, phi, weight_variance, degree)


def _ratio(force, x, q, t):
    one, more = force.parts(q, np.exp(t))
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * force.cost(q, t) / (one + x * more) ** 2


def level(x, norm: str = "exact", activation="erf", weight_variance: float = 0.5, degree: int = 3) -> Level:
    """The coupling U(x) at which a well is level with the centre, and the well; x = r_k / r_1 of any shape."""
    return _level(_force(norm, activation_of(activation), weight_variance, degree), x)


def _level(force, x) -> Level:
    x = np.asarray(x, dtype=float)
    flat, (q_grid, t_grid) = x.ravel(), force.grid()
    one, more = force.parts(q_grid, np.exp(t_grid))
    cost, rows = np.log(2 * force.cost(q_grid, t_grid)), np.arange(len(q_grid))
    q, t, inside = np.empty_like(flat), np.empty_like(flat), np.empty(flat.shape, bool)
    for n, ratio in enumerate(flat):
        with np.errstate(divide="ignore"):
            value = cost - 2 * np.log(np.abs(one + ratio * more))
        j = value.argmin(axis=1)
        least = value[rows, j]
        if t_grid.size > 1:  # vertex of the parabola in ln s: a shallow well must not hide between the nodes
            j = np.clip(j, 1, t_grid.size - 2)
            low, mid, high = value[rows, j - 1], value[rows, j], value[rows, j + 1]
            bend = low - 2 * mid + high
            least = np.where(bend > 0, mid - (low - high) ** 2 / (8 * np.where(bend > 0, bend, 1)), least)
        i = int(least.argmin())
        q[n], t[n], inside[n] = q_grid[i, 0], t_grid[0, j[i]], 0 < i % _GRID < _GRID - 1
    q, t = _polish(force, flat, q, t, inside, abs(q_grid[1, 0] - q_grid[0, 0]))
    coupling = _ratio(force, flat, q, t)
    found = inside & np.isfinite(coupling) & (coupling < force.softening) & (np.abs(q) > 0.02)
    coupling = np.where(found, coupling, force.softening)
    return Level(*(np.where(found, a, b).reshape(x.shape) for a, b in ((coupling, coupling), (q, np.nan), (np.exp(t), np.nan))))


def _polish(force, x, q, t, inside, h):
    """Newton on a stencil that narrows, for all x at once."""
    with np.errstate(all="ignore"):  # where there is no well anything may happen, and is thrown away
        return _newton(force, x, q, t, inside, h)


def _newton(force, x, q, t, inside, h):
    k = 0.0 if force.norm == "fixed" else 0.05
    for _ in range(14):
        at = {(a, b): np.log(_ratio(force, x, q + a * h, t + b * k)) for a in (-1, 0, 1) for b in ((-1, 0, 1) if k else (0,))}
        gq, hqq = (at[1, 0] - at[-1, 0]) / 2, at[1, 0] - 2 * at[0, 0] + at[-1, 0]
        step_q = np.where(hqq > 0, -gq / np.where(hqq > 0, hqq, 1), -np.sign(gq))
        if k:
            gt, htt = (at[0, 1] - at[0, -1]) / 2, at[0, 1] - 2 * at[0, 0] + at[0, -1]
            hqt = (at[1, 1] - at[1, -1] - at[-1, 1] + at[-1, -1]) / 4
            det = hqq * htt - hqt**2
            good = (hqq > 0) & (det > 0)
            step_q = np.where(good, (hqt * gt - htt * gq) / np.where(good, det, 1), step_q)
            step_t = np.where(good, (hqt * gq - hqq * gt) / np.where(good, det, 1), -np.sign(gt))
            t = np.where(inside, t + k * np.clip(np.nan_to_num(step_t), -2, 2), t)
        q = np.where(inside, q + h * np.clip(np.nan_to_num(step_q), -2, 2), q)
        q = np.where(np.abs(q) < 0.01, 0.01, q)  # gone to the centre: no well
        h, k = max(h / 2, 2e-4), max(k / 2, 1e-3) if k else 0.0
    return q, t


def spinodal(x, norm: str = "exact", activation="erf", weight_variance: float = 0.5, degree: int = 3) -> np.ndarray:
    r"""The coupling U(x) at which a side well first exists, the least U with $\partial_q\hat S=\partial_s\hat S=0$ at q > 0.

    nan where a well exists for no U below that at which the centre softens.
    """
    return _spinodal(_force(norm, activation_of(activation), weight_variance, degree), x)


def _spinodal(force, x):
    x = np.asarray(x, dtype=float)
    flat = x.ravel()[:, None]

    def stationary(q):
        low, high = np.full(q.shape, math.log(force.var) - 5), np.full(q.shape, math.log(force.var) + 1.5)
        t = np.full(q.shape, math.log(force.var))
        for _ in range(50 if force.norm == "exact" else 0):
            t = (low + high) / 2
            _, fq, fs = force.slopes(q, np.exp(t), flat)
            above = (1 / force.var - np.exp(-t)) / 2 - q / force.var * fs / np.where(fq == 0, 1e-300, fq) > 0
            low, high = np.where(above, low, t), np.where(above, t, high)
        f, fq, _ = force.slopes(q, np.exp(t), flat)
        with np.errstate(divide="ignore"):
            coupling = q / (force.var * f * fq)
        return np.where(coupling > 0, coupling, np.inf)

    half = np.linspace(0.02, 2.5 * max(1.0, math.sqrt(force.var)), 251)
    rows, best = np.arange(len(flat)), np.full(len(flat), np.inf)
    for side in (1,) if force.degree % 2 else (1, -1):
        q = side * half[None, :] + 0 * flat
        least, inside = np.inf, True
        for zoom in range(4):
            value = stationary(q)
            i = np.argmin(np.where(np.isnan(value), np.inf, value), axis=1)
            least = np.fmin(least, value[rows, i])
            if zoom == 0:  # a minimum at an end is the softening of the centre or a runaway, not a well
                inside = (i > 0) & (i < q.shape[1] - 1)
            i = np.clip(i, 1, q.shape[1] - 2)
            low, high = q[rows, i - 1], q[rows, i + 1]
            q = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 33)[None, :]
        best = np.fmin(best, np.where(inside, least, np.inf))
    return np.where(best < force.softening, best, np.nan).reshape(x.shape)


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


@dataclass(frozen=True)
class Kink:
    r"""One-sided derivatives at the transition of the limit $\beta\to\infty$, with respect to $\ln$ of the axis, by implicit differentiation.

    Attributes:
        value: of the axis at the transition.
        residual, overlap, transverse_norm: there.
        untrained, mixed: {degree: d r_k / d ln axis} of the branch without and with droplets.
        droplet_rate: dM / d ln axis in the mixed phase, M = kappa times the droplet fraction.
        stiffness: Lambda, by how much the centre resists a change of r_1 (1: not at all beyond the target itself).
        latent_heat: $u(\hat r\cdot v_*)^2$, energy a droplet gives off, over T = sigma^2 and over d: multiply by d for nats.
        prior_cost: $\hat C(q_*,s_*)$, half of it.
    """

    value: float
    residual: dict
    overlap: float
    transverse_norm: float
    untrained: dict
    mixed: dict
    droplet_rate: float
    stiffness: float
    latent_heat: float
    prior_cost: float


def kink(problem: TeacherStudent, axis: str = "noise_variance", norm: str = "exact") -> Kink | None:
    """The kink of the residuals where the problem crosses the boundary along ``axis``; None where it does not."""
    if axis not in AXES:
        raise ValueError(f"axis must be one of {tuple(AXES)}, got {axis!r}")
    degree, first, higher = _two(problem)
    value, x, force = _on_path(problem, axis, norm, "level")
    if not math.isfinite(value):
        return None
    well = _level(force, np.array([x]))
    at = problem.replace(**{axis: value})
    a_u, a_g = AXES[axis]
    b, q, s = higher / x, float(well.overlap[0]), float(well.transverse_norm[0])
    root = math.sqrt(math.factorial(degree))
    e = np.array([b, higher * root])
    v = np.array(force.parts(q, s)) / [1, root]
    pull = v @ e
    centre = first / b - 1
    soft = float(well.coupling[0]) / (force.softening - float(well.coupling[0]))
    stiff = np.array([1 + centre + 2 * centre * soft, 1.0])
    before = np.array([-b * centre * (a_g + soft * a_u) / stiff[0], 0.0])
    rate = (v @ before + a_u * pull / 2) / (pull * np.sum(v**2 / stiff))
    after = before - rate * pull * v / stiff
    named = lambda vector: {1: float(vector[0]), degree: float(vector[1] / root)}  # noqa: E731
    return Kink(
        value, named(e), abs(q), s, named(before), named(after), float(rate), float(stiff[0]), float(at.interaction * pull**2),
        float(force.cost(q, math.log(s))),
    )


def response(solution: Solution) -> dict:
    r"""{degree: $\mathrm dr_k/\mathrm d\ln\sigma^2$} at finite $\beta$, exact for the mean field: $X=n/\sigma^2$, $\mathcal H=\nabla^2\ln Z$,

    $$\frac{\mathrm d\hat r}{\mathrm d\ln\sigma^2}=[X+N\mathcal H]^{-1}N\mathcal H\,\hat r .$$

    Raises:
        ValueError: the solution has finite-size corrections or is the saddle's, for which this is not the derivative.
    """
    p = solution.problem
    if solution.ridge != p.noise_variance or solution.method != "quadrature":
        raise ValueError("response needs a solution by quadrature without finite-size corrections")
    hessian = p.width * solution._law.integrate(solution._vector)[2]
    change = np.linalg.solve(p.samples / p.noise_variance * np.eye(len(hessian)) + hessian, hessian @ solution._vector)
    return {k: float(c / math.sqrt(math.factorial(k))) for k, c in zip(solution.degrees, change, strict=True)}


def losses(solution: Solution) -> tuple[float, float]:
    r"""Mean squared error on the training points and on fresh ones, of one posterior network, noise not included.

    Without finite-size corrections both are $|\hat r|^2$. With them the residual on training points is shrunk by $\sigma^2/\kappa$, and the
    posterior's own scatter is added:

    $$L_{\rm train}=\frac{\sigma^4}{\kappa^2}e+\sigma^2\Big(1-\frac{\sigma^2}\kappa\Big),\qquad L_{\rm test}=e+\kappa-\sigma^2 .$$
    """
    p, law, r = solution.problem, solution._law, solution._vector
    noise, ridge = p.noise_variance, solution.ridge
    if law.dressing is None:
        return solution.test_loss, solution.test_loss

    def linear_response(q, s, field2):
        return law.powers(q, s)[0] * (1 + law.strength * field2) / law.one_plus_y(q, s)

    law.integrate(r)
    eigenvalue = p.readout_variance / (p.dimension - 1) * law.average(r, linear_response)
    error = r @ r / (1 - (p.dimension - 1) * p.samples * (eigenvalue / (ridge + p.samples * eigenvalue)) ** 2)
    return float(noise**2 / ridge**2 * error + noise * (1 - noise / ridge)), float(error + ridge - noise)


def droplet_readout2(solution: Solution, beyond: float = 0.5) -> float:
    r"""Mean of $V^2=Na^2/\sigma_a^2$ over neurons with $|q|$ larger than ``beyond``: 1 from the prior, the rest is the latent heat in nats."""
    law, r = solution._law, solution._vector
    law.integrate(r)

    def inside(q, s):
        edge = law._steps[0] / 2  # a node counts by the part of its cell that lies beyond
        return np.clip((np.abs(q) - beyond) / (2 * edge) + 0.5, 0, 1) + 0 * s

    def readout2(q, s, field2):
        stiff = 1.0 if law.dressing is None else law.one_plus_y(q, s)
        return inside(q, s) * (1 + law.strength * field2) / stiff

    return law.average(r, readout2) / law.average(r, lambda q, s, _: inside(q, s))


def expected_droplets(problem: TeacherStudent, axis: str, values, other: str, other_values, norm: str = "fixed") -> dict:
    """Expected neurons of one network in droplets and outside them on a grid of two parameters ("epsilon" for the higher coefficient).

    Returns:
        {"droplets", "centre", "tail"}: arrays (len(other_values), len(values)); droplets lie beyond the barrier (0 without one), tail is |q| > 1/2.
    """
    degree = _two(problem)[0]
    out = {name: np.zeros((len(other_values), len(values))) for name in ("droplets", "centre", "tail")}

    def moved(p, name, value):
        return p.replace(teacher={**p.teacher, degree: float(value)}) if name == "epsilon" else p.replace(**{name: float(value)})

    for i, y in enumerate(other_values):
        for j, x in enumerate(values):
            p = moved(moved(problem, other, y), axis, x)
            s = teacher_student.solve(p, norm=norm)
            out["droplets"][i, j], out["centre"][i, j] = p.width * s.droplet_fraction, p.width * (1 - s.droplet_fraction)
            out["tail"][i, j] = p.width * s.tail_fraction
    return out


def crossing(problem: TeacherStudent, axis: str = "noise_variance", count: float = 1.0, around: float = 2.0, **solver) -> float:
    """Value of ``axis`` at which ``count`` neurons of a network are expected at |q| > 1/2; keywords go to ``teacher_student.solve``.

    It is looked for within a factor ``around`` of the problem's own value.

    Raises:
        ValueError: there is no crossing there.
    """
    if axis not in AXES:
        raise ValueError(f"axis must be one of {tuple(AXES)}, got {axis!r}")
    own = math.log(getattr(problem, axis))

    def excess(log_value):
        p = problem.replace(**{axis: math.exp(log_value)})
        return math.log(p.width * teacher_student.solve(p, **solver).tail_fraction / count)

    low, high = own - math.log(around), own + math.log(around)
    if excess(low) * excess(high) > 0:
        raise ValueError(f"{axis} between {math.exp(low):.4g} and {math.exp(high):.4g} gives no crossing of {count:g} neurons")
    return math.exp(brentq(excess, low, high, xtol=1e-5))
