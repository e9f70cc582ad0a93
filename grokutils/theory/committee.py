r"""Committee machines: the mean weight and the second moment of the weights determine everything (Kumar et al.).

The output of $f(x)=\frac\alpha N\sum_i\phi(w_i\cdot x)$ with $\phi(h)=h+\frac\epsilon2h^2$ is

$$f(x)=\alpha\,\bar w\cdot x+\tfrac{\alpha\epsilon}2x^TMx,\qquad\bar w=\tfrac1N\sum_iw_i,\quad M=\tfrac1N\sum_iw_iw_i^T,$$

so that loss, tangent kernel and gradient descent itself are functions of $(\bar w,M)$ alone, for every width. A state is given by
these two, (D,) and (D, D); ``draw`` makes data, target and initial state. Losses are mean squared errors without a half, times are
counted in steps. Tags K1 to K12 are this book's numbers for the paper's equations.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from grokutils.problems import Committee
from grokutils.theory._committee_kernel import (
    LazyLimit,
    Mode,
    empirical_ntk,
    kernel_regression,
    linearised,
    ntk,
    spectrum,
    wide_kernel,
)
from grokutils.theory._committee_state import (
    CENTRINGS,
    Decomposition,
    Draw,
    alignment,
    check,
    decomposition,
    draw,
    function,
    matching,
)
from grokutils.theory._committee_steps import run, simulate

__all__ = [
    "CENTRINGS", "Decomposition", "Draw", "LazyLimit", "Mode", "alignment", "decomposition", "draw", "empirical_ntk", "ensemble",
    "final_norm", "final_state", "first_below", "function", "kernel_regression", "largest_step", "linearised", "ntk", "run",
    "simulate", "spectrum", "time_law", "wide_kernel",
]


def ensemble(
    problem: Committee, steps: int, seeds: int = 10, every: int | None = None, record=None, *, wide: bool = False,
) -> xr.Dataset:
    """``run`` for the seeds problem.seed, problem.seed + 1, ...: a Dataset over (seed, step), with what the data decide beforehand.

    Args:
        wide: start every run from the infinitely wide network.

    Returns:
        the variables of ``run``, and over seed: lazy_test_loss and difficulty (``kernel_regression``), time_law, largest_step (at
        the start and, as largest_final_step, at the end), final_norm, target_norm2 (Tr Y).
    """
    members = []
    for member in (problem.replace(seed=problem.seed + k) for k in range(seeds)):
        given = draw(member, wide)
        lazy = kernel_regression(member, given)
        single = dict(
            lazy_test_loss=lazy.test_loss, difficulty=lazy.difficulty, time_law=time_law(member, given),
            largest_step=largest_step(member, given), largest_final_step=largest_step(member, given, *final_state(member, given)),
            final_norm=final_norm(member, given), target_norm2=np.trace(given.target),
        )
        members.append(run(member, steps, every, record, given=given).assign({k: ((), float(v)) for k, v in single.items()}))
    seed = xr.DataArray(problem.seed + np.arange(seeds), dims="seed", name="seed")
    return xr.concat(members, seed, combine_attrs="drop_conflicts").assign_attrs(stable=min(m.stable for m in members))


def first_below(curve: xr.DataArray, share: float) -> float:
    """The step at which a loss first is below a share of its initial value; NaN if never.

    Between records it is interpolated, the logarithm of the loss linearly in that of the step.
    """
    relative = np.asarray(curve.values, dtype=float) / float(curve.values[0]) / share
    below = np.flatnonzero(relative < 1)
    if below.size == 0:
        return math.nan
    k = int(below[0])
    if k == 0:
        return float(curve.step[0])
    t, r = np.log1p(curve.step.values[[k - 1, k]]), np.log(np.maximum(relative[[k - 1, k]], 1e-300))
    return float(np.expm1(t[0] + (t[1] - t[0]) * r[0] / (r[0] - r[1])))


def time_law(problem: Committee, given: Draw | None = None) -> float:
    r"""An estimate of the step at which the target's direction has been learned.

    While little is learned, $-G\approx E[y\,xx^T]=(\operatorname{Tr}Y\,I+2Y)/(2D^2)$. Its largest eigenvalue makes the weights along
    the target grow by $1+\gamma$ a step. The feature is complete when their second moment is $1+b/(\alpha\epsilon)$, with b the
    largest eigenvalue of Y:

    $$t=\frac{\ln(1+b/\alpha\epsilon)}{2\ln(1+\gamma)},\qquad\gamma=\frac{\eta_0\epsilon}{\alpha D^2}(\operatorname{Tr}Y+2b)$$

    For one direction with $|\beta|^2=D$ and small steps this is $\frac{\alpha D}{6\eta_0\epsilon}\ln\big(1+\frac D{\alpha\epsilon}\big)$.
    With infinite data and width about a quarter of the loss is left at this time.

    Args:
        given: whose target is used; None: R orthogonal directions of the expected length.
    """
    check(problem)
    size = 2 * problem.target_scale * problem.dimension
    total, top = problem.directions * size, size
    if given is not None:
        total, top = float(np.trace(given.target)), float(np.linalg.eigvalsh(given.target)[-1])
    gamma = problem.step_size * problem.curvature / (problem.laziness * problem.dimension**2) * (total + 2 * top)
    return math.log1p(top / (problem.laziness * problem.curvature)) / (2 * math.log1p(gamma))


def final_state(problem: Committee, given: Draw | None = None) -> tuple[np.ndarray, np.ndarray]:
    r"""The state $(\bar w,M)$ of zero test loss: $(0,\,Y/(\alpha\epsilon))$, and centred $(\bar w_0,\,M_0+Y/(\alpha\epsilon))$."""
    given = matching(problem, given)
    learned = given.target / (problem.laziness * problem.curvature)
    return (given.mean, given.moment + learned) if problem.centred else (np.zeros_like(given.mean), learned)


def final_norm(problem: Committee, given: Draw | None = None) -> float:
    r"""The Frobenius norm of all weights in the state of zero test loss.

    $$\|W\|_F^2=N\Big(\frac{\operatorname{Tr}Y}{\alpha\epsilon}+\operatorname{Tr}M_0\Big),\quad\text{without the last term if not centred}$$

    So the norm of a centred network grows; another's grows if and only if $\alpha\epsilon<\operatorname{Tr}Y/\operatorname{Tr}M_0$.
    """
    return math.sqrt(problem.width * float(np.trace(final_state(problem, given)[1])))


def largest_step(problem: Committee, given: Draw | None = None, mean=None, moment=None) -> float:
    r"""The step_size eta_0 above which gradient descent diverges where the kernel is that of a state: $1/\lambda_{\max}(K/P)$.

    Args:
        given: the draw, whose kernel matrix is used. None: the estimate for linear functions alone, $D/(1+\sqrt{D/P})^2$, by the law
            of Marchenko and Pastur.
        mean, moment: the state; None: the initial one. At a minimum, such as ``final_state``, this is exact for small deviations.
    """
    if given is None:
        return check(problem).dimension / (1 + math.sqrt(problem.dimension / problem.samples)) ** 2
    given = matching(problem, given)
    kernel = ntk(problem, given.mean if mean is None else mean, given.moment if moment is None else moment, given.inputs)
    return problem.samples / float(np.linalg.eigvalsh(kernel)[-1])
