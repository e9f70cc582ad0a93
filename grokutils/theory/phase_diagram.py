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

import numpy as np
from scipy.optimize import brentq

from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student
from grokutils.theory._critical_surface import AXES, _on_path, _two, boundary, critical_surface, limits
from grokutils.theory._saturation import Level, _level, level, spinodal
from grokutils.theory._solution import Solution

__all__ = [
    "AXES", "Kink", "Level", "boundary", "critical_surface", "crossing", "droplet_readout2", "expected_droplets", "kink", "level", "limits", "losses",
    "response", "spinodal",
]


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
