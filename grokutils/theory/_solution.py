"""What a solution of the mean-field theory tells: the law of one neuron, its wells, droplets and phase."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.optimize import minimize_scalar

from grokutils.problems import TeacherStudent
from grokutils.theory._neuron_law import NeuronLaw


@dataclass(frozen=True)
class Solution:
    r"""The self-consistent residual $y-\bar f=\sum_kr_kH_k$ (eq. 12) and the law of one neuron at it.

    Attributes:
        problem, norm, method, degrees: what was solved.
        residual: {degree: r_k}; b = residual[1], c = residual[3].
        converged: the fixed point holds to 1e-9 and the grid was fine enough.
        error: largest change of r_k / |y| under one more application of the fixed-point map and a finer grid.
        iterations: Newton steps (or evaluations of the saddle map).
        ridge: noise variance that acts on the population: sigma^2, or more with ``finite_size``.
        kernel: $\tilde Q=\sigma_a^2\langle vv^T\rangle$ in the basis H_k / sqrt(k!) (eqs. 10, A.10).
    """

    problem: TeacherStudent
    norm: str
    method: str
    degrees: tuple
    residual: dict
    converged: bool
    error: float
    iterations: int
    ridge: float
    kernel: np.ndarray = field(repr=False)
    _law: NeuronLaw = field(repr=False, compare=False)
    _vector: np.ndarray = field(repr=False, compare=False)
    _log_z: float = field(repr=False, compare=False)

    @property
    def learnability(self) -> dict:
        """{degree of the teacher: 1 - r_k / c_k}, the learned share of the component (eq. A.4); degrees with c_k = 0 are left out."""
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
        return landscape(self.action, *self._law.q_range(), self._law._steps[0], self._law.even)

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


def landscape(action, low, high, step, even):
    """All minima of the action, and (side, overlap, height) of the barrier between the centre and the outermost well on each side."""
    q = np.linspace(low, high, 1 + 2 * math.ceil((high - low) / step))
    s = action(q)
    inside = np.arange(1, len(q) - 1)

    def refine(i, sign):
        found = minimize_scalar(lambda x: sign * float(action(x)), bounds=(q[i - 1], q[i + 1]), method="bounded", options={"xatol": 1e-9})
        return found.x

    wells = np.array([refine(i, 1) for i in inside if s[i] < s[i - 1] and s[i] <= s[i + 1]])
    if len(wells) == 0:
        wells = np.array([q[np.argmin(s)]])
    nearest = np.argmin(np.abs(wells))
    if even and abs(wells[nearest]) < step / 2:
        wells[nearest] = 0.0
    centre = 0.0 if even else wells[nearest]
    barriers = []
    for side in (-1, 1):
        beyond = wells[(wells - centre) * side > 1e-6]
        if len(beyond):
            # up to the outermost well: a bulk that has split into two humps is still one population if droplets stand apart from it
            outer = beyond[np.argmax(np.abs(beyond - centre))]
            between = inside[(q[inside] > min(centre, outer)) & (q[inside] < max(centre, outer))]
            top = between[np.argmax(s[between])] if len(between) else None
            if top is None or s[top] <= float(action(centre)):  # the centre is a hilltop and nothing stands apart
                barriers.append((side, centre, 0.0))
            else:
                peak = refine(top, -1)
                barriers.append((side, peak, float(action(peak)) - float(action(centre))))
    return wells, barriers
