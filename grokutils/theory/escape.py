r"""How long a neuron stays untrained: barriers of the one-neuron law and rates of escape over them.

A neuron at a fixed residual moves in the potential (prior and data in units of kT, the readout in its own coordinate)

$$E(q,\rho,a)=\frac{d(q^2+\rho^2)}{2\sigma_w^2}-(d-2)\ln\rho+\frac{N(1+Y)}{2\sigma_a^2}a^2-a\,m(q,\rho),\qquad m=\frac n{\sigma^2}\sum_k\hat r_kv_k$$

with $\rho=\sqrt s$ the length of w across the teacher: in these coordinates the noise of Langevin dynamics is the same everywhere. Rates are
per neuron, over both barriers, at $q_\ddagger$ and $-q_\ddagger$; time is that of $d\theta=-\nabla E\,dt+\sqrt2\,dW$.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.optimize import brentq
from scipy.sparse.linalg import eigsh, splu

from grokutils.hermite import derivative_expectation, second_moment
from grokutils.problems import TeacherStudent
from grokutils.theory._neuron_law import NeuronLaw
from grokutils.theory.teacher_student import _check, _mapping, _regress, _target, _vector, gaussian_process

__all__ = ["DYNAMICS", "Neuron", "Passage", "Record", "kramers", "passage", "simulate", "time_step", "untrained"]

DYNAMICS = ("langevin", "whitened", "underdamped")


def time_step(problem: TeacherStudent, learning_rate: float = 2e-3) -> float:
    r"""Langevin time of one step of ``sample(method="langevin", step_size=learning_rate)``: $\Delta t=\eta\,\sigma^2/n$, for w and a alike."""
    return learning_rate * problem.noise_variance / problem.samples


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


def _hessian(function, x, h):
    n, eye = len(x), np.eye(len(x)) * h
    out = np.empty((n, n))
    for i in range(n):
        for j in range(i, n):
            pp, pm, mp, mm = (function(x + s * eye[i] + t * eye[j]) for s in (1, -1) for t in (1, -1))
            out[i, j] = out[j, i] = (pp - pm - mp + mm) / (4 * h[i] * h[j])
    return out


def kramers(neuron: Neuron, dynamics: str = "langevin", readout: bool = True, friction: float = 0.5) -> float:
    r"""Rate of escape by the formula of Kramers and Langer, for barriers well above 1.

    $$k=2\,\frac{\lambda_-}{2\pi}\sqrt{\frac{\det H_0}{|\det H_\ddagger|}}\;e^{-\Delta E}$$

    H are Hessians at the centre and at a saddle, the factor 2 counts the saddles at q and -q, and $\lambda_-$ is the rate at which a small
    deviation from the saddle grows: the negative eigenvalue of $MH_\ddagger$, M the mobilities, or, with momentum, the positive root of
    $\lambda^2+\gamma\lambda=|\mu|$ with $\mu$ that eigenvalue.

    Args:
        neuron: has a barrier.
        dynamics: "langevin" in the network's own coordinates (M = 1), "whitened" in units of the prior's widths, "underdamped" with momentum
            and friction in whitened coordinates. Time is the dynamics' own.
        readout: keep the readout as a coordinate; False: it follows at once (only for "langevin").
        friction: of "underdamped".

    Raises:
        ValueError: the neuron has no barrier, or the arguments do not fit.
    """
    if dynamics not in DYNAMICS:
        raise ValueError(f"dynamics must be one of {DYNAMICS}, got {dynamics!r}")
    if not readout and dynamics != "langevin":
        raise ValueError(f"readout must be kept for dynamics {dynamics!r}: there it is not fast")
    if neuron.saddle is None:
        raise ValueError("neuron must have a barrier, this one has none")
    p, places = neuron.problem, []
    tau = p.readout_variance / p.width
    widths = [math.sqrt(p.weight_variance / p.dimension)] * (1 if neuron.norm == "fixed" else 2)
    for q, rho in (neuron.centre, neuron.saddle):
        x = [q] if neuron.norm == "fixed" else [q, rho]
        places.append(np.array([*x, tau * float(neuron.signal(q, rho) / neuron.own(q, rho))] if readout else x))
    widths = np.array([*widths, math.sqrt(tau)] if readout else widths)
    function = neuron.energy if readout else lambda x: neuron.potential(*x)
    centre, saddle = (_hessian(function, x, 1e-3 * widths) for x in places)
    mobility = np.ones(len(widths)) if dynamics == "langevin" else widths**2
    root = np.sqrt(mobility)
    growth = -np.linalg.eigvalsh(root[:, None] * saddle * root).min()
    if dynamics == "underdamped":
        growth = -friction / 2 + math.sqrt(friction**2 / 4 + growth)
    height = float(function(places[1]) - function(places[0]))
    return growth / math.pi * math.sqrt(np.linalg.det(centre) / abs(np.linalg.det(saddle))) * math.exp(-height)


@dataclass(frozen=True)
class Passage:
    """First passage of |q| to a threshold, from the backward Fokker-Planck equation; the readout follows at once.

    Attributes:
        threshold: the overlap.
        rate: slowest decay rate of the survival probability (the quasi-stationary rate).
        mean_time: mean first-passage time of a neuron drawn from its prior.
        nodes: of the grid.
    """

    threshold: float
    rate: float
    mean_time: float
    nodes: int


def passage(neuron: Neuron, threshold: float | None = None, points: int = 160) -> Passage:
    r"""Solve $\nabla U\cdot\nabla T-\nabla^2T=1$ with $T=0$ at $|q|$ = threshold, on a grid of finite volumes with exponential fitting.

    Args:
        neuron: at the exact norm in two dimensions (q, rho), at the fixed norm in one.
        threshold: where a neuron counts as escaped; None: ``neuron.edge()``.
        points: in q; the error falls with its square.
    """
    threshold = _threshold(neuron, threshold)
    h = threshold / points
    q = (np.arange(points) + 0.5) * h  # the law is even: a mirror at q = 0
    if neuron.norm == "fixed":
        rho, k = np.array([math.sqrt(neuron.problem.weight_variance)]), 1.0
    else:
        bottom, width = neuron.valley(q), math.sqrt(neuron.problem.weight_variance / neuron.problem.dimension)
        low, high = max(bottom.min() - 7 * width, 0.02), bottom.max() + 7 * width
        cells = max(24, math.ceil((high - low) / max(h, width / 12)))
        k = (high - low) / cells
        rho = low + (np.arange(cells) + 0.5) * k
    potential = neuron.potential(q[:, None], rho)
    last = neuron.potential(np.full(1, threshold)[:, None], rho)[0]
    index = np.arange(potential.size).reshape(potential.shape)
    pairs = [(index[:-1], index[1:], h), (index[:, :-1], index[:, 1:], k)]
    rows, columns, rates = [], [], []
    for one, other, step in pairs:
        for a, b in ((one, other), (other, one)):
            rows.append(a.ravel()), columns.append(b.ravel())
            rates.append(_bernoulli((potential.flat[b] - potential.flat[a]).ravel()) / step**2)
    leave = np.zeros(potential.shape)
    leave[-1] = 2 * _bernoulli(last - potential[-1]) / h**2  # half a cell to the absorbing end: twice the gradient
    rows, columns, rates = map(np.concatenate, (rows, columns, rates))
    total = np.bincount(rows, rates, potential.size) + leave.ravel()
    generator = sparse.csc_matrix((-rates, (rows, columns)), shape=(potential.size,) * 2) + sparse.diags(total)
    mean = splu(generator.tocsc()).solve(np.ones(potential.size)).reshape(potential.shape)
    root = np.exp(-(potential - potential.min()) / 2).ravel().clip(1e-150)
    symmetric = sparse.diags(root) @ generator @ sparse.diags(1 / root)
    rate = eigsh(((symmetric + symmetric.T) / 2).tocsc(), k=1, sigma=0, which="LM", return_eigenvectors=False)[0]
    d, var = neuron.problem.dimension, neuron.problem.weight_variance
    prior = d * q[:, None] ** 2 / (2 * var) + np.zeros(potential.shape)
    if neuron.norm == "exact":
        prior += d * (rho**2 - var) / (2 * var) - (d - 2) * np.log(rho / var**0.5)
    prior = np.exp(-prior)
    return Passage(threshold, float(rate), float((mean * prior).sum() / prior.sum()), potential.size)


def _bernoulli(x):
    """x / (e^x - 1)."""
    small = np.abs(x) < 1e-8
    x = np.where(small, 1.0, np.clip(x, -500, 500))
    return np.where(small, 1.0, x / np.expm1(x))


def _threshold(neuron, threshold):
    if threshold is None:
        return neuron.edge()
    if not threshold > 0:
        raise ValueError(f"threshold must be > 0, got {threshold!r}")
    return float(threshold)


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
    threshold, rng, p = _threshold(neuron, threshold), np.random.default_rng(seed), neuron.problem
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


def untrained(problem: TeacherStudent, norm: str = "exact", finite_size: bool = False) -> Neuron:
    r"""A neuron of a network without droplets: the self-consistent theory in which all neurons are confined to $|q|<q_\ddagger$.

    At a wall e the residual maximises the concave dual of the confined law; the saddle at that residual lies at $q_\ddagger(e)$. The state is
    the wall $e=q_\ddagger(e)$ to which a displaced wall returns when it is moved to the saddle again and again.

    Args:
        problem: sizes may be real.
        norm: "exact" or "fixed".
        finite_size: with the leading corrections in 1/n and 1/N, as in ``teacher_student.solve``: ridge and dressing of the neuron are set.

    Returns:
        the neuron; ``converged`` is False, and the residual means nothing, where there is no such state: no wall stands still, or nothing
        lies beyond it.
    """
    degrees = _check(problem, norm)
    target, r = _target(problem, degrees), _vector(gaussian_process(problem, norm), degrees)
    law = NeuronLaw(problem, degrees, norm, 0.2)
    state = [r]

    def excess(edge):
        state[0] = _confined(problem, law, target, state[0], edge)[0]
        neuron = Neuron(problem, _mapping(state[0], degrees), norm)
        if neuron.saddle is None:  # the centre is a hilltop, or there is no well
            return -edge if neuron.centre_is_hilltop else 1.0
        return neuron.saddle[0] - edge

    walls = math.sqrt(2 * problem.weight_variance) * np.r_[np.linspace(0.05, 0.6, 12), 0.7, 0.8, 0.9, 1.0, 1.2]
    before = excess(walls[0])
    for low, high in itertools.pairwise(walls):  # noqa: B007  both are used after the loop
        after = excess(high)
        if before > 0 > after:
            break
        before = after
    else:
        return Neuron(problem, _mapping(state[0], degrees), norm, None, False)
    edge = brentq(excess, low, high, xtol=1e-9)
    excess(edge)
    neuron = Neuron(problem, _mapping(state[0], degrees), norm, None, True)
    if neuron.saddle is None or abs(neuron.saddle[0] - edge) > 1e-6:  # the sign changed by a jump
        return dataclasses.replace(neuron, converged=False)
    return _dressed(neuron, target, edge) if finite_size else neuron


def _dressed(neuron, target, edge):
    """The untrained neuron with ridge and dressing, by iteration from the plain one."""
    problem, norm, r, degrees = neuron.problem, neuron.norm, neuron._vector, neuron._law.degrees
    n, across, variance = problem.samples, problem.dimension - 1, problem.readout_variance
    slope = float(derivative_expectation(problem.phi, 1, problem.weight_variance))
    ridge, eigenvalue = problem.noise_variance, variance * slope**2 * problem.weight_variance / problem.dimension
    for _ in range(150):
        stiff, old = ridge + n * eigenvalue, (r, ridge, eigenvalue, edge)
        power = r @ r / max(1 - across * n * (eigenvalue / stiff) ** 2, 1e-3)
        dressing = tuple(float(x) for x in n * variance / problem.width * np.array([(1 - power / stiff) / stiff, 1 / ridge]))
        neuron = Neuron(problem.replace(noise_variance=ridge), _mapping(r, degrees), norm, dressing)
        if neuron.saddle is None:
            return dataclasses.replace(neuron, converged=False)
        edge = (edge + neuron.saddle[0]) / 2
        r, defect, average = _confined(neuron.problem, neuron._law, target, r, edge)
        pull = neuron._law.strength
        response = variance / across * average(lambda own, linear, rest, field2, pull=pull: linear * (1 + pull * field2) / own)
        unlearned = variance * average(lambda own, linear, rest, field2: rest / own)
        ridge = (ridge + problem.noise_variance + across * eigenvalue * ridge / stiff + unlearned) / 2
        eigenvalue = (eigenvalue + response) / 2
        change = max(abs(edge - old[3]), np.linalg.norm(r - old[0]), abs(ridge / old[1] - 1), abs(eigenvalue / old[2] - 1), defect)
        if change < 1e-7:
            break
    return Neuron(problem.replace(noise_variance=ridge), _mapping(r, degrees), norm, dressing, bool(change < 1e-5))


def _confined(problem, law, target, r, edge):
    """Damped Newton on the concave dual of the law confined to |q| < edge; returns r, its defect and an average over the confined law."""
    scale, best = problem.samples / problem.noise_variance, None

    def at(r):
        if not law._cover(r):
            return None
        q, t, log_prior, v = law._grid
        inside = np.repeat(np.clip((edge - q.ravel()) / law._steps[0] + 0.5, 0, 1), t.size)
        field = v @ r
        log = log_prior + law.strength / 2 * field**2
        top = log[inside > 0].max()
        weight = inside * np.exp(np.where(inside > 0, log - top, -math.inf))
        return scale * (r @ target - r @ r / 2) - problem.width * (top + math.log(weight.sum())), weight / weight.sum(), field

    now = at(r)
    while now is None:
        r = r / 2
        now = at(r)
    for _ in range(100):
        best, weight, field = now
        q, t, _, v = law._grid
        weighted = v * weight[:, None]
        second, pull = v.T @ weighted, law.strength * weighted.T @ field
        hessian = law.strength * second + law.strength**2 * v.T @ (weighted * (field**2)[:, None]) - np.outer(pull, pull)
        gradient = scale * (target - r) - problem.width * pull
        step, size = np.linalg.solve(scale * np.eye(len(r)) + problem.width * hessian, gradient), 1.0
        if np.linalg.norm(step) < 1e-12:
            break
        new = at(r + step)
        while new is None or (new[0] < best + 1e-4 * size * (gradient @ step) and np.linalg.norm(step) * size > 1e-8):
            size /= 2
            new = at(r + size * step)
        r, now = r + size * step, new

    def average(function):
        s = np.exp(t)
        linear, rest = law.powers(q, s)
        values = function(law.one_plus_y(q, s), linear, rest, (field**2).reshape(q.size, t.size))
        return float((weight.reshape(q.size, t.size) * values).sum())

    return r, float(np.linalg.norm(_regress(problem, second, target) - r)), average
