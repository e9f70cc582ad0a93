"""The one-neuron law p(q, s) at a given residual, on a quadrature grid that follows its mass."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln, logsumexp

from grokutils.hermite import derivative_expectation, second_moment
from grokutils.problems import TeacherStudent

_CUT = 45.0  # natural logs below the maximum at which the density is left out
_WIDEST = 300.0  # half-width in q, in units of sigma_w, beyond which a law counts as not normalisable


class NeuronLaw:
    r"""Overlap q and transverse norm s of one neuron whose readout feels a residual (Rubin et al., eqs. 13, A.7, with the d of the prior).

    $$-\ln p(q,s)=\frac{d(q^2+s)}{2\sigma_w^2}-\frac{d-3}2\ln s-\frac{n^2\sigma_a^2}{2N\sigma^4}\Big(\sum_kr_kv_k\Big)^2,
      \quad v_k=q^kE[\phi^{(k)}(g)],\ g\sim N(0,q^2+s)$$

    Integrals over q and t = ln s are trapezoidal sums, exponentially accurate for a smooth law. ``norm="fixed"`` holds s = sigma_w^2.
    Residuals are vectors in the orthonormal basis H_k / sqrt(k!).

    Args:
        problem: what the neuron belongs to.
        degrees: Hermite degrees of the residual.
        norm: "exact" or "fixed".
        spacing: grid spacing in units of the prior's widths.
        dressing: None for the mean-field law, or (c1, c2) of the leading finite-size correction: the action gains $\tfrac12\ln(1+Y)$ and its
            data term is divided by $1+Y$, where $Y=c_1E[\phi']^2s+c_2(E[\phi^2]-\sum_kv_k^2/k!-E[\phi']^2s)$.

    Raises:
        ValueError: the law cannot be normalised for any residual, because the data term outgrows the prior.
    """

    def __init__(self, problem: TeacherStudent, degrees, norm: str, spacing: float = 0.3, dressing=None):
        self.problem, self.degrees, self.norm, self.spacing = problem, tuple(degrees), norm, spacing
        d, var = float(problem.dimension), float(problem.weight_variance)
        self.strength = problem.samples**2 * problem.readout_variance / (problem.noise_variance**2 * problem.width)
        self.precision = d / var
        self.dressing = dressing
        self._factors = np.array([math.sqrt(math.factorial(k)) for k in self.degrees])
        # wells at q and -q carry equal weight when the features have one parity
        self.even = len({k % 2 for k in self.degrees}) == 1
        self._steps = spacing * math.sqrt(var / d), spacing * math.sqrt(2 / (d - 1))
        centre = math.log(var)
        if norm == "exact":
            self._low, self._high = centre - 5 - 90 / (d - 1), centre + math.log(1 + 14 / math.sqrt(d) + 110 / d)
            self._log_prior = 0.5 * math.log(2 * math.pi / self.precision) + gammaln((d - 1) / 2) + (d - 1) / 2 * math.log(2 / self.precision)
        else:
            self._low = self._high = centre
            self._log_prior = 0.5 * math.log(2 * math.pi / self.precision)
        self._require_normalisable()
        self._wide, self._grid = None, None
        self._widen(4 * max(1.0, math.sqrt(var)))

    def _bare(self, q, s):
        Q = q**2 + s
        return np.stack([q**k * derivative_expectation(self.problem.phi, k, Q) for k in self.degrees], axis=-1) / self._factors

    def features(self, q, s):
        """v_k / sqrt(k!) at overlaps q and transverse norms s (broadcast), over sqrt(1 + Y) if dressed; shape (..., degrees)."""
        q, s = np.asarray(q, dtype=float), np.asarray(s, dtype=float)
        v = self._bare(q, s)
        return v if self.dressing is None else v / np.sqrt(self.one_plus_y(q, s))[..., None]

    def powers(self, q, s):
        """Power of phi in the linear functions across the teacher, and in all functions beyond those and v."""
        Q = q**2 + s
        linear = derivative_expectation(self.problem.phi, 1, Q) ** 2 * s
        return linear, second_moment(self.problem.phi, Q) - np.sum(self._bare(q, s) ** 2, axis=-1) - linear

    def one_plus_y(self, q, s):
        """1 + Y of the dressing; floored at 0.05, far below where the correction means anything."""
        linear, rest = self.powers(q, s)
        return np.maximum(1 + self.dressing[0] * linear + self.dressing[1] * rest, 0.05)

    def _require_normalisable(self):
        far = np.array([1e3, 1e4]) * math.sqrt(self.problem.weight_variance)
        self._far = far[0], self.features(far[:1] * [[1], [-1]], self.problem.weight_variance)[:, 0]
        # Bessel: sum v_k^2 <= E[phi^2]; where phi grows fast, what round-off leaves of a feature that vanishes must not count
        bound = second_moment(self.problem.phi, far**2)
        power = np.sum(self.features(far, self.problem.weight_variance) ** 2, axis=-1)
        if bound[1] > 130 * bound[0] and np.all(power > 1e-8 * bound) and power[1] > 130 * power[0]:
            raise ValueError(
                f"activation {self.problem.phi.name!r} with teacher degrees {self.degrees} has a one-neuron law that cannot be normalised: "
                "its overlap with the teacher grows faster than the weight, so the data term outgrows the Gaussian prior"
            )

    def log_prior(self, q, t):
        """Log of the prior's density in (q, ln s), not normalised; in q alone for the fixed norm."""
        log = -self.precision * q**2 / 2 + 0 * t
        if self.norm == "exact":
            log = log - self.precision * np.exp(t) / 2 + (self.problem.dimension - 1) / 2 * t
        return log if self.dressing is None else log - np.log(self.one_plus_y(q, np.exp(t))) / 2

    def _nodes(self, q_low, q_high, t_low, t_high, factor=1.0):
        hq, ht = self._steps[0] * factor, self._steps[1] * factor
        q = hq * (np.arange(math.floor(q_low / hq), math.ceil(q_high / hq) + 1) + 0.5)
        t = np.array([t_low]) if self.norm == "fixed" else ht * np.arange(math.floor(t_low / ht), math.ceil(t_high / ht) + 1)
        q = q[:, None]
        return q, t[None, :], self.log_prior(q, t[None, :]), self.features(q, np.exp(t)[None, :])

    def _widen(self, half_width):
        """The coarse grid that looks for wells wherever they may be."""
        self._half = half_width
        self._wide = self._nodes(0 if self.even else -half_width, half_width, self._low, self._high, factor=max(1.0, 1.5 / self.spacing))

    def _cover(self, residual):
        """Make the fine grid cover all mass at this residual; False if the mass runs off to infinity."""
        far, v = self._far
        if np.max(self.strength * (v @ residual) ** 2) > self.precision * far**2 * (1 - 1e-9):
            return False  # the data term outgrows the prior along the teacher
        while True:
            q, t, log_prior, features = self._wide
            log = log_prior + self.strength / 2 * (features @ residual) ** 2
            rows, columns = np.nonzero(log > log.max() - _CUT)
            top, right = rows.max() == len(q) - 1, self.norm == "exact" and columns.max() == t.size - 1
            bottom = not self.even and rows.min() == 0
            if not (top or bottom or right):
                break
            if self._half > _WIDEST * math.sqrt(self.problem.weight_variance):
                return False
            self._high += 1.0 if right else 0.0
            self._widen(self._half * (2 if top or bottom else 1))
        margin_q, margin_t = 2 * float(q[1, 0] - q[0, 0]), 2 * float(t[0, 1] - t[0, 0]) if t.size > 1 else 0.0
        box = [q[rows.min(), 0] - margin_q, q[rows.max(), 0] + margin_q, t[0, columns.min()] - margin_t, t[0, columns.max()] + margin_t]
        if self.even:
            box[0] = 0.0
        if self._grid is not None:
            old = self._box
            if box[0] >= old[0] and box[1] <= old[1] and box[2] >= old[2] and box[3] <= old[3]:
                return True
            box = [min(box[0], old[0]), max(box[1], old[1]), min(box[2], old[2]), max(box[3], old[3])]
        self._box = box
        q, t, log_prior, features = self._nodes(*box)
        # matrix products over all nodes at once
        self._grid = q, t, log_prior.ravel(), features.reshape(-1, len(self.degrees))
        return True

    def integrate(self, residual):
        r"""ln Z, its gradient $A\langle vv^T\rangle r$, its Hessian and $\langle vv^T\rangle$ at a residual; ln Z = inf where it diverges.

        Z is relative to the prior: $Z=\langle\exp[\tfrac A2(r\cdot v)^2]\rangle_0$, $A=n^2\sigma_a^2/(N\sigma^4)$.
        """
        if not self._cover(residual):
            return math.inf, None, None, None
        _, _, log_prior, v = self._grid
        field = v @ residual
        log = log_prior + self.strength / 2 * field**2
        top = log.max()
        weight = np.exp(log - top)
        total = weight.sum()
        cell = self._steps[0] * (self._steps[1] if self.norm == "exact" else 1) * (2 if self.even else 1)
        log_z = top + math.log(total * cell) - self._log_prior
        weight /= total
        weighted = v * weight[:, None]
        second = v.T @ weighted
        pull = self.strength * second @ residual
        fourth = v.T @ (weighted * (field**2)[:, None])
        hessian = self.strength * second + self.strength**2 * fourth - np.outer(pull, pull)
        return log_z, pull, hessian, second

    def average(self, residual, function):
        """Mean of function(q, s, (r . v)^2), each (q nodes, s nodes), under the law at a residual that ``integrate`` has covered."""
        q, t, log_prior, v = self._grid
        field2 = (v @ residual) ** 2
        log = log_prior + self.strength / 2 * field2
        weight = np.exp(log - log.max()).reshape(q.size, t.size)
        return float(np.sum(weight * function(q, np.exp(t), field2.reshape(q.size, t.size))) / weight.sum())

    def _t_nodes(self):
        if self.norm == "fixed":
            return np.array([self._low])
        return np.arange(self._low, self._high + self._steps[1], self._steps[1])

    def log_marginal(self, q, residual):
        """ln p(q), normalised up to ln Z of ``integrate``: subtract it for the density on the real line."""
        q, t = np.asarray(q, dtype=float), self._t_nodes()
        flat = q.reshape(-1, 1)
        out = np.empty(flat.shape[0])
        for block in np.array_split(np.arange(flat.shape[0]), 1 + flat.size * t.size // 2_000_000):
            v = self.features(flat[block], np.exp(t))
            log = self.log_prior(flat[block], t) + self.strength / 2 * (v @ residual) ** 2
            out[block] = logsumexp(log, axis=1)
        step = math.log(self._steps[1]) if self.norm == "exact" else 0.0
        return out.reshape(q.shape) + step - self._log_prior

    def conditional(self, q, residual):
        """E[s | q] (...,) and E[v v^T | q] (..., degrees, degrees)."""
        q, t = np.asarray(q, dtype=float), self._t_nodes()
        v = self.features(q[..., None], np.exp(t))
        log = self.log_prior(q[..., None], t) + self.strength / 2 * (v @ residual) ** 2
        weight = np.exp(log - logsumexp(log, axis=-1, keepdims=True))
        return weight @ np.exp(t), np.einsum("...t,...tj,...tk->...jk", weight, v, v)

    def q_range(self):
        """Overlaps (low, high) between which the mass found so far lies."""
        return (-self._box[1] if self.even else self._box[0]), self._box[1]
