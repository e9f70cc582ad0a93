r"""The mean-field theory of modular addition: one unknown, the residual, and the law of one Fourier mode of one neuron.

A neuron's weights are $w_n=\sum_kw_ke^{-2\pi ikn/P}$ and $v_m$ alike; a *mode* is the complex number (w_k, v_k) of one pair of indices
k and -k, with the magnitudes $\Phi=|w_k|^2$, $\Psi=|v_k|^2$; a neuron has (P - 1)/2 modes that matter. With $y-\bar f=\mathrm{residual}\cdot y$,

$$p(\Phi,\Psi)\propto e^{-2S},\quad S=P\big[\tfrac12(\Phi+\Psi)-U\,\Phi\Psi+\tfrac\gamma6(\Phi^3+\Psi^3)\big],\quad U=u\,\mathrm{residual}^2,\quad
  \mathrm{residual}=\frac{\sigma^2}{\lambda+\sigma^2},\quad \lambda=4P^2\sigma_a^2\langle\Phi\Psi\rangle .$$
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from grokutils.problems import ModularAddition
from grokutils.theory._mode_law import ModeLaw
from grokutils.theory._modular_finite import Finite, solve_finite
from grokutils.theory._modular_saddle import (
    action,
    check,
    check_residual,
    critical_interaction,
    end_of_mixed_phase,
    gain,
    onset,
    saddles,
    spinodal,
    tail_power,
)

__all__ = [
    "Solution", "action", "critical_interaction", "end_of_mixed_phase", "gaussian_process", "onset", "saddles", "self_consistency", "solve",
    "spinodal",
]

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class _Moments:
    r"""What the equations need of one mode: E[Phi], E[Phi Psi], E[(Phi Psi)^2] and the shares of droplets and of the tail."""

    power: float
    product: float
    square: float
    droplets: float
    tail: float


def _point_saddle(problem, residual, kernel) -> _Moments:
    """The two-state law: centre and well. Paper: weight 4 exp(-S), nothing at the centre. Corrected: the ring's weight, the prior at the centre."""
    p, gamma = problem.modulus, problem.sextic_decay
    centre = (1 / p, 1 / p**2, 4 / p**4) if kernel == "corrected" else (0.0, 0.0, 0.0)
    points = saddles(problem, residual)
    if points is None:
        return _Moments(*centre, 0.0, 0.0)
    x = points[1]
    depth = -float(action(problem, residual, x, x, kernel))
    if kernel == "corrected":
        u = problem.interaction * residual**2
        log_odds = depth + math.log(math.pi * p / math.sqrt((gamma * x) ** 2 - u * u))
    else:
        log_odds = depth + math.log(4)
    share = 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else math.exp(log_odds)
    return _Moments(*(c + share * (x**k - c) for c, k in zip(centre, (1, 2, 4), strict=True)), share, share)


def _exact(problem, residual, droplets=False) -> _Moments:
    law = ModeLaw(problem.modulus, problem.sextic_decay, problem.interaction * residual**2)
    _, (power, product, square) = law.integrate()
    scale = law.b / law.modulus
    share = law.beyond(law.wells[0]) if droplets and law.wells is not None else 0.0
    tail = law.beyond(tail_power(problem) / scale) if droplets else 0.0
    return _Moments(float(power * scale), float(product * scale**2), float(square * scale**4), share, tail)


def _moments(problem, residual, kernel, method, droplets=False) -> _Moments:
    return _point_saddle(problem, residual, kernel) if method == "saddle" else _exact(problem, residual, droplets)


@dataclass(frozen=True)
class Solution:
    r"""The self-consistent residual and the law of one mode of one neuron at it.

    Attributes:
        problem, kernel, method: what was solved; ``method`` is always "saddle" with ``kernel="paper"``.
        residual: $|a|$ in $y-\bar f=|a|\,y$, from 1 (nothing learned) towards 0; the paper's a is its negative.
        eigenvalue: $\lambda$, of the averaged kernel on the target.
        mode_power: $\langle\Phi\rangle=\langle|w_k|^2\rangle$, which the prior alone puts near 1/P.
        product: $\langle\Phi\Psi\rangle$.
        droplet_fraction: probability that a mode of a neuron is a droplet: $\Phi\Psi$ beyond its value at the barrier; 0 without a well.
        tail_fraction: probability of $\sqrt{\Phi\Psi}>\tfrac12\sqrt{3/\gamma}$, half a droplet's power at the transition.
        converged: the equation for the residual holds to a relative 1e-9 (1e-5 with ``finite_size``).
        error: bound on the relative error of the residual.
        iterations: evaluations of the law of a mode.
    """

    problem: ModularAddition
    kernel: str
    method: str
    residual: float
    eigenvalue: float
    mode_power: float
    product: float
    droplet_fraction: float
    tail_fraction: float
    converged: bool
    error: float
    iterations: int
    finite_size: bool = False
    _finite: Finite | None = field(repr=False, compare=False, default=None)

    @property
    def learnability(self) -> float:
        """1 - residual, the learned share of the target."""
        return 1 - self.residual

    @property
    def interaction(self) -> float:
        r"""$U=u\,\mathrm{residual}^2$ at the solution."""
        return self.problem.interaction * self.residual**2

    @property
    def modes(self) -> float:
        """Number of neuron-modes of the network, N (P - 1) / 2."""
        return self.problem.width * (self.problem.modulus - 1) / 2

    @property
    def droplets_per_neuron(self) -> float:
        """Expected droplets of one neuron, (P - 1)/2 times the droplet fraction."""
        return self.droplet_fraction * (self.problem.modulus - 1) / 2

    def action(self, phi, psi):
        """-ln(p(phi, psi) / p(0, 0)) of one mode; phi and psi of any shapes that go together."""
        if self._finite is not None:
            return self._finite.log_density(0.0, 0.0) - self._finite.log_density(phi, psi)
        return action(self.problem, self.residual, phi, psi, self.kernel)

    def density(self, phi, psi):
        """p(phi, psi), normalised over the quarter plane of squared magnitudes in the flat measure."""
        if self._finite is not None:
            return np.exp(self._finite.log_density(phi, psi))
        return np.exp(-self.action(phi, psi) - self._norm)

    def beyond(self, power: float) -> float:
        r"""Probability that $\sqrt{\Phi\Psi}$ of a mode exceeds ``power``."""
        if self._finite is not None:
            return self._finite.beyond(power)
        if self.kernel == "paper":
            return self.droplet_fraction if self.well is not None and self.well > power else 0.0
        law = ModeLaw(self.problem.modulus, self.problem.sextic_decay, self.interaction)
        return law.beyond(power * law.modulus / law.b)

    @cached_property
    def _norm(self) -> float:
        if self.kernel == "paper":  # exp(-S) is the law of half the modulus: e^{-2 (P/2) [...]}
            law = ModeLaw(self.problem.modulus / 2, self.problem.sextic_decay, self.interaction)
        else:
            law = ModeLaw(self.problem.modulus, self.problem.sextic_decay, self.interaction)
        return law.integrate()[0] + 2 * math.log(law.b / law.modulus)

    @cached_property
    def _points(self):
        return saddles(self.problem, self.residual) if self._finite is None else self._finite.saddles(self.action)

    @property
    def barrier(self) -> float | None:
        """Height of the action's barrier between centre and well, from the centre; None without a well."""
        return None if self._points is None else float(self.action(self._points[0], self._points[0]))

    @property
    def well(self) -> float | None:
        r"""$w_+^2$, the squared magnitude at which a droplet sits; None without a well."""
        return None if self._points is None else self._points[1]

    @property
    def well_action(self) -> float | None:
        """The action at the bottom of the well; 0 when well and centre are degenerate, None without a well."""
        return None if self.well is None else float(self.action(self.well, self.well))

    @property
    def phase(self) -> str:
        """GFL while fewer than one neuron-mode of the network is a droplet, GMFL-II while fewer than one is none, else GMFL-I."""
        if self.modes * self.droplet_fraction < 1:
            return "GFL"
        return "GMFL-II" if self.modes * (1 - self.droplet_fraction) < 1 else "GMFL-I"


def solve(problem: ModularAddition, kernel: str = "corrected", method: str = "quadrature", finite_size: bool = False) -> Solution:
    r"""Solve the self-consistent equation for the residual (Rubin et al., eqs. 16, B.34-B.42, corrected).

    $$\mathrm{residual}\,\big(\sigma^2+4P^2\sigma_a^2\langle\Phi\Psi\rangle_{U=u\,\mathrm{residual}^2}\big)=\sigma^2$$

    The left side grows with the residual, because $\partial\langle\Phi\Psi\rangle/\partial U=2P\,\mathrm{Var}(\Phi\Psi)>0$: the solution is unique,
    and it is bracketed.

    Args:
        problem: width may be real.
        kernel: "corrected", or "paper" for the printed equations: $\lambda$ without $4P^2$, and a two-state law whose well has the weight
            $4e^{-S}$ against the centre, which contributes nothing. That is a point saddle by definition, whatever ``method`` is.
        method: "quadrature" (exact average over the plane) or "saddle" (centre and well as two states; the well's weight is
            $\pi P/\sqrt{\gamma^2w_+^4-U^2}\;e^{-2S(w_+)}$). The two-state map jumps at the spinodal and can have no solution.
        finite_size: add what the mean field drops at finite width: the determinant of a neuron's P readouts, which couples its modes, the
            screening, accidental correlations among neurons and the reaction of the others. Errors are of order $(u\sigma^2)^2$;
            ``kernel="corrected"``, ``method="quadrature"`` only, and P / sqrt(gamma) of at most about a hundred.

    Raises:
        ValueError: an argument is not what it must be.

    Warns:
        RuntimeWarning: no solution was found (``converged`` is False).
    """
    method = check(problem, kernel, method)
    if finite_size and (kernel, method) != ("corrected", "quadrature"):
        raise ValueError(f"finite_size needs kernel='corrected' and method='quadrature', got {kernel!r} and {method!r}")
    noise, strength = problem.noise_variance, gain(problem, kernel) * problem.readout_variance
    calls = [0]

    def misfit(log_residual):
        calls[0] += 1
        return log_residual + math.log1p(strength * _moments(problem, math.exp(log_residual), kernel, method).product / noise)

    high = -math.log1p(strength * _moments(problem, 0.0, kernel, method).product / noise)
    at_high = misfit(high)
    root = high if at_high <= 0 else brentq(misfit, high - at_high, high, xtol=1e-15, rtol=4 * np.finfo(float).eps, maxiter=200)
    a = math.exp(root)
    m = _moments(problem, a, kernel, method, droplets=True)
    eigenvalue = float(strength * m.product)
    defect = abs(misfit(root))
    variance = max(m.square - m.product**2, 0.0) if method == "quadrature" else 0.0
    slope = 1 + 4 * problem.modulus * problem.interaction * a * a * strength * variance / (noise + eigenvalue)
    error = float(defect / slope)
    solution = Solution(problem, kernel, method, a, eigenvalue, m.power, m.product, m.droplets, m.tail, bool(error < _TOLERANCE), error, calls[0] + 2)
    if finite_size:
        solution = _with_finite_size(solution)
    if not solution.converged:
        what = "finite-size" if finite_size else method
        warnings.warn(f"no {what} solution found: the equation for the residual misses by {solution.error:.1e}", RuntimeWarning, stacklevel=2)
    return solution


def _with_finite_size(plain: Solution) -> Solution:
    problem, modes = plain.problem, plain.problem.modulus - 1
    a, finite, error, calls = solve_finite(problem, plain.residual)
    solution = Solution(
        problem, "corrected", "quadrature", a, finite.eigenvalue, finite.mean(finite.neuron.total) / (2 * modes),
        finite.mean(finite.law.product) / modes, 0.0, finite.beyond(tail_power(problem)), bool(error < 1e-5), error, calls, True, finite,
    )
    if not solution.converged or solution._points is None:
        return solution
    return replace(solution, droplet_fraction=finite.beyond(solution._points[0]))


def self_consistency(problem: ModularAddition, residual: float, kernel: str = "corrected", method: str = "quadrature") -> float:
    """One application of the fixed-point map: the residual that regression leaves with the kernel at ``residual`` (eq. B.38)."""
    method = check(problem, kernel, method)
    strength = gain(problem, kernel) * problem.readout_variance
    return problem.noise_variance / (problem.noise_variance + strength * _moments(problem, check_residual(residual), kernel, method).product)


def gaussian_process(problem: ModularAddition) -> float:
    r"""Residual of the infinitely wide network: the kernel of the prior, $\lambda\approx4\sigma_a^2$, no feature learning."""
    return self_consistency(problem, 0.0)
