r"""Where a side well is level with the centre and where it first exists, as functions of the ratio of the residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicSpline

from grokutils.hermite import activation as activation_of
from grokutils.hermite import derivative_expectation

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
