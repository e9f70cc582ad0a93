r"""Closed forms for modular addition: the action of one mode, its saddles, the transition (Rubin et al., eqs. 16, B.34-B.41)."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from grokutils.problems import ModularAddition

KERNELS = ("corrected", "paper")
METHODS = ("quadrature", "saddle")


def check(problem, kernel="corrected", method="quadrature") -> str:
    """Raise ValueError for a bad argument; return the method that is used."""
    if not isinstance(problem, ModularAddition):
        raise ValueError(f"problem must be a ModularAddition, got {problem!r}")
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {KERNELS}, got {kernel!r}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    return "saddle" if kernel == "paper" else method


def check_residual(value) -> float:
    """Return a residual that makes sense, else raise ValueError."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value <= 1e6:
        raise ValueError(f"residual must be a number from 0 to 1e6 (1 = nothing learned), got {value!r}")
    return float(value)


def saddles(problem: ModularAddition, residual: float = 1.0) -> tuple[float, float] | None:
    r"""$(w_-^2,w_+^2)=(U\mp\sqrt{U^2-\gamma})/\gamma$ at $U=u\,\mathrm{residual}^2$ (after eq. B.40); None below the spinodal $U=\sqrt\gamma$.

    They are stationary points of the action at $\Phi=\Psi$: the barrier and the well.
    """
    check(problem)
    u, gamma = problem.interaction * check_residual(residual) ** 2, problem.sextic_decay
    if u * u <= gamma:
        return None
    root = u + math.sqrt(u * u - gamma)
    return 1 / root, root / gamma


def critical_interaction(problem: ModularAddition) -> float:
    r"""$U_c=2\sqrt{\gamma/3}$, where the well at $w_+^2=\sqrt{3/\gamma}$ is as deep as the centre; the mixed phase stays at it."""
    check(problem)
    return 2 * math.sqrt(problem.sextic_decay / 3)


def onset(problem: ModularAddition) -> float:
    r"""Noise variance at which S(w_+) = 0 with nothing learned, all else held: $\sigma_c^4=2\sigma_a^2P^2/(NU_c)$.

    The learning of the infinitely wide network is neglected: the residual is 1 at the onset.
    """
    return _noise_at(problem, critical_interaction(problem))


def spinodal(problem: ModularAddition) -> float:
    r"""Noise variance below which the well exists with nothing learned: $U=\sqrt\gamma$."""
    check(problem)
    return _noise_at(problem, math.sqrt(problem.sextic_decay))


def _noise_at(problem, interaction):
    return problem.noise_variance * math.sqrt(problem.interaction / interaction)


def end_of_mixed_phase(problem: ModularAddition, kernel: str = "corrected") -> float | None:
    r"""Noise variance at which all modes are droplets, $\sigma_c^2-g\,\sigma_a^2\,3/\gamma$; None if negative.

    $g=4P^2$ with the corrected kernel, 1 with the paper's.
    """
    check(problem, kernel)
    end = onset(problem) - gain(problem, kernel) * problem.readout_variance * 3 / problem.sextic_decay
    return end if end > 0 else None


def gain(problem: ModularAddition, kernel: str) -> float:
    """Eigenvalue of the target over the readout variance and the mean product."""
    return 4 * problem.modulus**2 if kernel == "corrected" else 1


def copies(kernel: str) -> int:
    """How often the action of one Fourier index counts in the law of a mode: k and -k are one complex number."""
    return 2 if kernel == "corrected" else 1


def action(problem: ModularAddition, residual: float, phi, psi, kernel: str = "corrected"):
    r"""-ln of the density of one mode over its value at the centre, at any residual, self-consistent or not (eqs. 16, B.34).

    It is $2S$, since k and -k are one mode; with ``kernel="paper"`` it is $S$, as printed. phi and psi of any shapes that go together.
    """
    check(problem, kernel)
    phi, psi = np.asarray(phi, dtype=float), np.asarray(psi, dtype=float)
    if np.any(phi < 0) or np.any(psi < 0):
        raise ValueError("phi and psi must be squared magnitudes, not negative")
    u, gamma, p = problem.interaction * check_residual(residual) ** 2, problem.sextic_decay, problem.modulus
    return copies(kernel) * p * ((phi + psi) / 2 - u * phi * psi + gamma / 6 * (phi**3 + psi**3))


def tail_power(problem: ModularAddition) -> float:
    r"""$\tfrac12\sqrt{3/\gamma}$, half a droplet's power at the transition."""
    return math.sqrt(3 / problem.sextic_decay) / 2
