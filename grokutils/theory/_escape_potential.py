r"""One neuron at a fixed residual: the potential it moves in, its stationary points, its forces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from grokutils.hermite import derivative_expectation, second_moment
from grokutils.problems import TeacherStudent
from grokutils.theory._neuron_law import NeuronLaw
from grokutils.theory.teacher_student import _check, _vector


@dataclass(frozen=True)
class Neuron:
    r"""One neuron of an odd teacher's student at a given residual: its potential and the stationary points of it.

    Args:
        problem: what the neuron belongs to; ``problem.noise_variance`` is the ridge that acts on the population.
        residual: {degree: r_k}.
        norm: "exact" follows the transverse norm, "fixed" holds s = sigma_w^2.
        dressing: None, or (c1, c2) of the neuron's own term, $Y=c_1\alpha+c_2\varrho$ with alpha the power of phi in the linear functions
            across the teacher and varrho what remains beyond those and v.
        converged: the residual solves what it should (set by ``untrained``).

    Raises:
        ValueError: an argument is not what it must be, or the law is not even in q.
    """

    problem: TeacherStudent
    residual: Mapping
    norm: str = "exact"
    dressing: tuple | None = None
    converged: bool = True
    _law: NeuronLaw = field(init=False, repr=False, compare=False)
    _vector: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        degrees = _check(self.problem, self.norm)
        law = NeuronLaw(self.problem, degrees, self.norm, 0.2, self.dressing)
        if not law.even:
            raise ValueError(f"teacher must be odd or even, so that the wells at q and -q are alike, got degrees {degrees}")
        object.__setattr__(self, "_law", law)
        object.__setattr__(self, "_vector", _vector(self.residual, degrees))

    def signal(self, q, rho):
        r"""$m(q,\rho)$, what a unit of readout gains."""
        p = self.problem
        return p.samples / p.noise_variance * self._law._bare(np.asarray(q, float), np.asarray(rho, float) ** 2) @ self._vector

    def own(self, q, rho):
        """1 + Y, the stiffness of the readout in units of its prior's."""
        q, rho = np.broadcast_arrays(np.asarray(q, float), np.asarray(rho, float))
        return np.ones(q.shape) if self.dressing is None else self._law.one_plus_y(q, rho**2)

    def potential(self, q, rho=None):
        r"""$U(q,\rho)=-\ln\int e^{-E}da$ up to a constant, 0 nowhere in particular; rho None: its prior value (the fixed norm)."""
        p, q = self.problem, np.asarray(q, dtype=float)
        rho = np.asarray(math.sqrt(p.weight_variance) if rho is None else rho, dtype=float)
        own = self.own(q, rho)
        value = self._law.precision * q**2 / 2 + np.log(own) / 2 - p.readout_variance / p.width * self.signal(q, rho) ** 2 / (2 * own)
        return value if self.norm == "fixed" else value + self._law.precision * rho**2 / 2 - (p.dimension - 2) * np.log(rho)

    def energy(self, x):
        """E at points x (..., 3) = (q, rho, a), or (..., 2) = (q, a) at the fixed norm."""
        p, x = self.problem, np.asarray(x, dtype=float)
        q, a = x[..., 0], x[..., -1]
        rho = x[..., 1] if self.norm == "exact" else np.full(q.shape, math.sqrt(p.weight_variance))
        value = self._law.precision * q**2 / 2 + p.width / (2 * p.readout_variance) * self.own(q, rho) * a**2 - a * self.signal(q, rho)
        return value if self.norm == "fixed" else value + self._law.precision * rho**2 / 2 - (p.dimension - 2) * np.log(rho)

    def valley(self, q):
        """The rho that minimises the potential at each overlap."""
        q = np.asarray(q, dtype=float)
        base = math.sqrt(self.problem.weight_variance)
        if self.norm == "fixed":
            return np.full(q.shape, base)
        t = np.linspace(-2.5, 1.0, 141)
        t = t[np.argmin(self.potential(q[..., None], base * np.exp(t)), axis=-1)]
        for h in (0.02, 0.005, 1e-3, 1e-3):  # vertices of ever narrower parabolas
            low, mid, high = (self.potential(q, base * np.exp(t + x)) for x in (-h, 0, h))
            bend = low - 2 * mid + high
            t = t + np.clip(np.where(bend > 0, h * (low - high) / (2 * np.where(bend > 0, bend, 1)), 0), -2 * h, 2 * h)
        return base * np.exp(t)

    @cached_property
    def _points(self):
        """(q, rho) of the centre, the saddle and the well (None where there is none) and the potential along the valley."""
        def slope(q, h=1e-4):
            rho = self.valley(q)
            return (self.potential(q + h, rho) - self.potential(q - h, rho)) / (2 * h)

        q = np.linspace(0, 3 * max(1.0, math.sqrt(self.problem.weight_variance)), 301)[1:]
        signs = np.sign(slope(q))
        turns = [brentq(slope, q[i], q[i + 1], xtol=1e-10) for i in np.flatnonzero(signs[1:] != signs[:-1])]
        places = [(x, float(self.valley(x))) for x in turns]
        return (0.0, float(self.valley(0.0))), *(places[:2] if signs[0] > 0 and len(places) > 1 else (None, None))

    @property
    def centre_is_hilltop(self) -> bool:
        """True where the centre is a hilltop: a neuron leaves it without any barrier."""
        h = 1e-3
        return bool(self.potential(h, self.centre[1]) < self.potential(0.0, self.centre[1]))

    @property
    def centre(self) -> tuple:
        """(0, rho) of the untrained minimum."""
        return self._points[0]

    @property
    def saddle(self) -> tuple | None:
        """(q, rho) of the barrier with q > 0; None if there is none."""
        return self._points[1]

    @property
    def well(self) -> tuple | None:
        """(q, rho) of the droplet with q > 0; None if there is none."""
        return self._points[2]

    def edge(self, drop: float = 2.0) -> float:
        """The overlap beyond the saddle where U along the valley has fallen by ``drop`` (the well, if that is shallower): it has escaped."""
        if self.saddle is None:
            raise ValueError("neuron must have a barrier, this one has none")
        top = float(self.potential(*self.saddle)) - drop
        if float(self.potential(*self.well)) > top:
            return self.well[0]
        return brentq(lambda q: float(self.potential(q, self.valley(q))) - top, self.saddle[0], self.well[0])

    @property
    def barrier(self) -> float | None:
        """Height of the saddle of U above the centre."""
        return None if self.saddle is None else float(self.potential(*self.saddle) - self.potential(*self.centre))

    def gradient(self, q, rho, vector=None):
        """m, its derivatives in q and s = rho^2, 1 + Y and its derivatives, v (..., degrees); ``vector`` (..., degrees) replaces the residual."""
        p, law, s = self.problem, self._law, rho**2
        r = (self._vector if vector is None else vector) * (p.samples / p.noise_variance)
        Q, orders = q**2 + s, sorted({j for k in law.degrees for j in (k, k + 2)} | ({1, 3} if self.dressing else set()))
        moments = {j: derivative_expectation(p.phi, j, Q) for j in orders}
        v, v_q, v_s = [], [], []
        for k, factor in zip(law.degrees, law._factors, strict=True):
            power = q**k / factor
            v.append(power * moments[k])
            v_s.append(power * moments[k + 2] / 2)  # dE[phi^(k)]/dQ = E[phi^(k+2)]/2
            v_q.append((k * q ** (k - 1) / factor if k else 0.0) * moments[k] + power * q * moments[k + 2])
        v, v_q, v_s = (np.stack(x, axis=-1) for x in (v, v_q, v_s))
        signal = [(x * r).sum(-1) for x in (v, v_q, v_s)]
        if self.dressing is None:
            return *signal, 1.0, 0.0, 0.0, v
        c1, c2 = self.dressing
        linear, linear_Q = moments[1] ** 2 * s, moments[1] * moments[3] * s
        power, power_Q = second_moment(p.phi, Q), _power_slope(p.phi, Q)
        own = 1 + c1 * linear + c2 * (power - (v**2).sum(-1) - linear)
        own_q = c1 * 2 * q * linear_Q + c2 * (2 * q * (power_Q - linear_Q) - 2 * (v * v_q).sum(-1))
        linear_s = linear_Q + moments[1] ** 2
        return *signal, own, own_q, c1 * linear_s + c2 * (power_Q - linear_s - 2 * (v * v_s).sum(-1)), v

    def force(self, q, rho):
        """(-dU/dq, -dU/drho) at overlaps and transverse lengths of one shape."""
        m, m_q, m_s, own, own_q, own_s, _ = self.gradient(q, rho)
        tau, prior, d = self.problem.readout_variance / self.problem.width, self._law.precision, self.problem.dimension
        pull, cost = tau * m / own, (1 / own + tau * (m / own) ** 2) / 2
        return pull * m_q - cost * own_q - prior * q, 2 * rho * (pull * m_s - cost * own_s) - prior * rho + (d - 2) / rho


def _power_slope(phi, Q):
    """d E[phi(g)^2] / dQ."""
    if phi.name == "erf":
        return 4 / (math.pi * (1 + 2 * Q) * np.sqrt(1 + 4 * Q))
    h = 1e-4 * Q
    return (second_moment(phi, Q + h) - second_moment(phi, Q - h)) / (2 * h)
