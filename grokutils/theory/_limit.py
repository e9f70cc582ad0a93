r"""The limit $\beta\to\infty$ (N, n, d, and 1/sigma_a^2 to infinity at fixed u and kappa/d): critical point, spinodal, mixed phase."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, root

from grokutils.hermite import derivative_expectation
from grokutils.problems import TeacherStudent


@dataclass(frozen=True)
class CriticalPoint:
    """Where a side well of the scaled action first reaches the centre as the noise falls.

    Attributes:
        noise_variance, interaction: sigma_c^2 and u_c.
        residual: {degree: r_k} there.
        overlap, transverse_norm: q* and s* of the well.
        spinodal: the larger noise variance at which the well first exists; None if it exists at every larger noise.
    """

    noise_variance: float
    interaction: float
    residual: dict
    overlap: float
    transverse_norm: float
    spinodal: float | None


@dataclass(frozen=True)
class MixedPhase:
    """The limiting state at a given noise: a finite number of droplets holds the well level with the centre.

    Attributes:
        residual: {degree: r_k}.
        droplets: M = kappa times the droplet fraction; 0 before the transition.
        overlap, transverse_norm: q* and s* of the droplets; None before the transition.
        converged: the equations hold to 1e-9.
    """

    residual: dict
    droplets: float
    overlap: float | None
    transverse_norm: float | None
    converged: bool


class _Limit:
    r"""The scaled action minus its value at the centre, minimised over s.

    $$\hat S(q,s)=\frac{q^2+s}{2\sigma_w^2}-\frac12\ln s-\frac u2(\hat r\cdot v)^2$$
    """

    def __init__(self, problem: TeacherStudent, norm: str):
        if not isinstance(problem, TeacherStudent):
            raise ValueError(f"problem must be a TeacherStudent, got {problem!r}")
        if norm not in ("exact", "fixed"):
            raise ValueError(f"norm must be 'exact' or 'fixed', got {norm!r}")
        from grokutils.theory._neuron_law import NeuronLaw

        self.problem, self.norm, self.var = problem, norm, float(problem.weight_variance)
        self.degrees = tuple(problem.teacher)
        law = NeuronLaw(problem, self.degrees, norm)
        self.features, self.signs = law.features, (1,) if law.even else (1, -1)
        self.factors = np.array([math.sqrt(math.factorial(k)) for k in self.degrees])
        self.target = np.array([problem.teacher[k] for k in self.degrees]) * self.factors
        self.slope = float(derivative_expectation(problem.phi, 1, self.var))
        self.reach, self._coarse = 4 * max(1.0, math.sqrt(self.var)), None

    def centre_kernel(self, problem, r):
        r"""$\kappa\langle vv^T\rangle$ of the centre's Gaussian fluctuations: degree 1 alone survives the limit, and degree 0 is learned outright."""
        kernel = np.zeros(len(self.degrees))
        for i, k in enumerate(self.degrees):
            if k == 1:
                stiffness = 1 / self.var - problem.interaction * r[i] ** 2 * self.slope**2
                kernel[i] = problem.kappa / problem.dimension * self.slope**2 / stiffness if stiffness > 0 else math.inf
            elif k == 0 and abs(float(self.features(0.0, self.var)[i])) > 1e-14:
                kernel[i] = math.inf
        return kernel

    def untrained(self, problem) -> np.ndarray:
        """The residual while only the centre is populated (GFL): r_k = c_k but for degrees 0 and 1."""
        r = self.target.copy()
        for i, k in enumerate(self.degrees):
            if k == 0 and math.isinf(self.centre_kernel(problem, r)[i]):
                r[i] = 0.0
            if k == 1 and r[i] and self.slope:
                size, edge = abs(r[i]), 1 / (math.sqrt(problem.interaction * self.var) * abs(self.slope))
                group = problem.kappa / problem.dimension * self.slope**2
                curvature = problem.interaction * self.slope**2

                def gap(x, size=size, group=group, curvature=curvature):
                    return (x - size) * (1 / self.var - curvature * x * x) + x * group

                r[i] = math.copysign(brentq(gap, 0, min(size, edge), xtol=1e-16), r[i])
        return r

    def scaled_action(self, problem, r, q, t):
        s = np.exp(t)
        value = q**2 / (2 * self.var) - problem.interaction / 2 * (self.features(q, s) @ r) ** 2
        zero = 0.0
        if 0 in self.degrees:  # a residual at degree 0 would act at the centre too; it is 0 in the limit unless phi has mean 0
            zero = problem.interaction / 2 * float(self.features(0.0, self.var) @ r) ** 2
        return value + (s / self.var - t + math.log(self.var) - 1) / 2 + zero

    def profile(self, problem, r, q):
        """min over s of the scaled action at overlaps q (array), and ln s there."""
        q = np.asarray(q, dtype=float)
        centre = math.log(self.var)
        if self.norm == "fixed":
            t = np.full(q.shape, centre)
            return self.scaled_action(problem, r, q, t), t
        grid = np.linspace(centre - 6, centre + 2, 41)
        t = grid[np.argmin(self.scaled_action(problem, r, q[..., None], grid), axis=-1)]
        for h in (0.2, 0.05, 0.01, 1e-3, 1e-3):  # vertices of ever narrower parabolas
            low, mid, high = (self.scaled_action(problem, r, q, t + x) for x in (-h, 0, h))
            bend = low - 2 * mid + high
            t = t + np.clip(np.where(bend > 0, h * (low - high) / (2 * np.where(bend > 0, bend, 1)), 0), -2 * h, 2 * h)
        return self.scaled_action(problem, r, q, t), t

    def glance(self, problem, r) -> float:
        """A quick look at ``least(..., "level")``: the minimum over a fixed grid whose features are kept."""
        if self._coarse is None:
            q = np.linspace(0.02, 1, 120) * self.reach
            q, t = np.concatenate([sign * q for sign in self.signs])[:, None], np.array([math.log(self.var)])
            if self.norm == "exact":
                t = t + np.linspace(-6, 2, 81)
            self._coarse = q, t, self.features(q, np.exp(t))
        q, t, v = self._coarse
        value = q**2 / (2 * self.var) - problem.interaction / 2 * (v @ r) ** 2 + (np.exp(t) / self.var - t + math.log(self.var) - 1) / 2
        level = np.min(value / q**2, axis=1).reshape(len(self.signs), -1)
        inside = level.argmin(axis=1) < level.shape[1] - 1  # a minimum at the end is a runaway, not a well
        return float(np.min(level.min(axis=1)[inside], initial=math.inf))

    def least(self, problem, r, kind: str):
        """(value, q, ln s) of the least profile/q^2 ("level": negative once a well is below the centre) or profile'/q ("slope": once one exists)."""

        def ratio(q):
            value, t = self.profile(problem, r, q)
            if kind == "level":
                return value / q**2, t
            h = 1e-5
            return (self.scaled_action(problem, r, q + h, t) - self.scaled_action(problem, r, q - h, t)) / (2 * h * q), t

        best = (math.inf, math.nan, math.nan)
        for sign in self.signs:
            reach, i = self.reach, 159
            while i == 159 and reach <= 16 * self.reach:
                q = sign * np.linspace(reach / 160, reach, 160)
                value, _ = ratio(q)
                i, reach = int(np.argmin(value)), 2 * reach
            if i == 159:  # falls for ever: a runaway, not a well
                continue
            for _ in range(5):
                i = int(np.clip(np.argmin(value), 1, len(q) - 2))
                q = np.linspace(q[i - 1], q[i + 1], 41)
                value, t = ratio(q)
            i = int(np.argmin(value))
            best = min(best, (float(value[i]), float(q[i]), float(t[i])))
        return best

    def mapping(self, r) -> dict:
        return {k: float(x) for k, x in zip(self.degrees, r / self.factors, strict=True)}


def scaled_action(problem: TeacherStudent, residual: dict, q, norm: str = "exact"):
    r"""The action over d as d goes to infinity, $\hat S(q)-\hat S(0)$; q of any shape.

    $$\hat S(q)=\min_s\Big[\frac{q^2+s}{2\sigma_w^2}-\frac12\ln s-\frac u2\Big(\sum_kr_kv_k\Big)^2\Big]$$

    ``norm="fixed"`` holds s = sigma_w^2. The residual {degree: r_k} need not be self-consistent.
    """
    limit = _Limit(problem, norm)
    if set(residual) != set(limit.degrees):
        raise ValueError(f"residual must give a number for each degree of {limit.degrees}, got {residual!r}")
    return limit.profile(problem, np.array([residual[k] for k in limit.degrees]) * limit.factors, q)[0]


def critical_point(problem: TeacherStudent, norm: str = "exact") -> CriticalPoint | None:
    r"""The transition of the limit $\beta\to\infty$ along ``noise_variance``, all else held.

    It is the largest noise at which a side well of $\hat S(q,s)$ is level with the centre while nothing beyond degree 1 is learned.

    Args:
        problem: its own noise variance does not matter.
        norm: "exact" minimises over s, "fixed" holds s = sigma_w^2.

    Returns:
        None where there is no transition at any u below 10^5.
    """
    limit = _Limit(problem, norm)
    unit = problem.noise_variance * math.sqrt(problem.interaction)  # sigma^2 sqrt(u) does not change along the path

    def state(noise):
        at = problem.replace(noise_variance=float(noise))
        return at, limit.untrained(at)

    def margin(log_noise, kind):
        return limit.least(*state(math.exp(log_noise)), kind)[0]

    path = np.log(unit) - np.linspace(math.log(1e-2), math.log(1e5), 140) / 2
    level = _first_zero(lambda x: margin(x, "level"), path, lambda x: limit.glance(*state(math.exp(x))))
    if level is None:
        return None
    # a well exists before it is level: its birth lies at a larger noise, usually a little larger
    slope = _first_zero(lambda x: margin(x, "slope"), np.r_[level, level + np.geomspace(0.01, 4, 24)])
    at, r = state(math.exp(level))
    _, q, t = limit.least(at, r, "level")
    spinodal = None if slope is None else math.exp(slope)
    return CriticalPoint(at.noise_variance, at.interaction, limit.mapping(r), abs(q) if len(limit.signs) == 1 else q, math.exp(t), spinodal)


def _first_zero(function, path, cheap=None):
    """The first zero of ``function`` along ``path``, or None; ``cheap`` approximates it and narrows the search to a few steps."""
    if cheap is not None:
        signs = np.array([cheap(x) for x in path]) > 0
        change = np.flatnonzero(signs[1:] != signs[:-1])
        if len(change) == 0:
            return None
        path = path[max(change[0] - 1, 0) : change[0] + 4]
    before = function(path[0])
    for x, y in itertools.pairwise(path):
        after = function(y)
        if before * after <= 0:
            return brentq(function, min(x, y), max(x, y), xtol=1e-13)
        before = after
    return None


def mixed_phase(problem: TeacherStudent, norm: str = "exact") -> MixedPhase:
    r"""The state at $\beta\to\infty$ and the problem's own noise: the well is pinned level with the centre by M droplets.

    $$\hat r=[1+\kappa\langle vv^T\rangle_{centre}+M\,v_*v_*^T]^{-1}\hat y,\qquad\hat S(q_*,s_*)=\hat S(0)$$
    """
    limit = _Limit(problem, norm)
    r = limit.untrained(problem)
    if limit.least(problem, r, "level")[0] >= 0:
        return MixedPhase(limit.mapping(r), 0.0, None, None, True)

    def equations(x):
        r, droplets = x[:-1], x[-1]
        value, q, t = limit.least(problem, r, "level")
        v = limit.features(q, math.exp(t))
        kernel = limit.centre_kernel(problem, r)
        known = np.where(np.isfinite(kernel), r * (1 + np.where(np.isfinite(kernel), kernel, 0)) - limit.target + droplets * v * (v @ r), r)
        return np.r_[known, value]

    from grokutils.theory.teacher_student import solve

    for beta in (64.0, 16.0, 4.0, 256.0):
        near = solve(problem.scaled(alpha=beta, beta=beta), norm)
        guess = np.array([near.residual[k] for k in limit.degrees]) * limit.factors
        found = root(equations, np.r_[guess, near.droplet_fraction * near.problem.kappa], method="hybr", options={"xtol": 1e-13})
        miss = float(np.max(np.abs(equations(found.x))))
        if miss < 1e-9:
            break
    _, q, t = limit.least(problem, found.x[:-1], "level")
    return MixedPhase(limit.mapping(found.x[:-1]), float(found.x[-1]), abs(q) if len(limit.signs) == 1 else q, math.exp(t), miss < 1e-9)
