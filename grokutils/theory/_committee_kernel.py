"""The tangent kernel of a committee machine: closed form and per neuron, its spectrum, and regression with it held fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from grokutils.problems import Committee
from grokutils.theory._committee_state import Decomposition, Draw, check, function, loss_parts, matching
from grokutils.theory._committee_steps import recorded


def ntk(problem: Committee, mean, moment, left, right=None) -> np.ndarray:
    r"""The tangent kernel in a state $(\bar w,M)$ (eq. K5), between inputs (n, D) and (m, D); right None: ``left``.

    $$K(x,x')=x\cdot x'\,\big[1+\epsilon\,\bar w\cdot(x+x')+\epsilon^2\,x^TMx'\big]$$

    The sum of the products of all derivatives is $\alpha^2/N$ of this, and the learning rate takes the factor away.
    """
    check(problem)
    right = left if right is None else right
    eps = problem.curvature
    slopes = 1 + eps * ((left @ mean)[:, None] + right @ mean) + eps**2 * left @ moment @ right.T
    return left @ right.T * slopes


def empirical_ntk(problem: Committee, weights, left, right=None) -> np.ndarray:
    r"""The same from all neurons (N, D): $\frac1N\sum_i\phi'(w_i\cdot x)\,\phi'(w_i\cdot x')\;x\cdot x'$, $\phi'(h)=1+\epsilon h$."""
    check(problem)
    right = left if right is None else right
    slopes = [1 + problem.curvature * x @ weights.T for x in (left, right)]
    return left @ right.T * (slopes[0] @ slopes[1].T) / len(weights)


def wide_kernel(problem: Committee, left, right=None, readouts: bool = False) -> np.ndarray:
    r"""The initial kernel at infinite width, $x\cdot x'+\epsilon^2(x\cdot x')^2$.

    Args:
        readouts: with readouts $v_i\sim N(0,1)$ that are trained as well (eq. K12),
            $2\,x\cdot x'+\frac32\epsilon^2(x\cdot x')^2+\frac14\epsilon^2|x|^2|x'|^2$.
    """
    check(problem)
    right = left if right is None else right
    product, e2 = left @ right.T, problem.curvature**2
    if not readouts:
        return product + e2 * product**2
    return 2 * product + 1.5 * e2 * product**2 + e2 / 4 * np.outer((left**2).sum(1), (right**2).sum(1))


class Mode(NamedTuple):
    """A space of functions on which a kernel acts as a number."""

    eigenvalue: float
    multiplicity: int


def spectrum(problem: Committee, readouts: bool = False) -> dict[str, Mode]:
    r"""The eigenvalues of ``wide_kernel`` over the population of inputs (eq. K7).

    Linear functions $x_i$: 1/D, D times. Quadratic ones without trace, $x_ix_j$ and $x_i^2-|x|^2/D$: $2\epsilon^2/D^2$,
    (D+2)(D-1)/2 times. And $|x|^2$: $\frac{\epsilon^2}D(1+\frac2D)$.
    """
    check(problem)
    d, e2 = problem.dimension, problem.curvature**2
    one, two, norm = (2, 1.5, 0.25) if readouts else (1, 1, 0)
    return {
        "linear": Mode(one / d, d),
        "quadratic": Mode(two * 2 * e2 / d**2, (d + 2) * (d - 1) // 2),
        "trace": Mode(e2 * (d + 2) / d * (two / d + norm), 1),
    }


@dataclass(frozen=True, eq=False)
class LazyLimit:
    r"""A network whose kernel stands still: $f=l\cdot x+\frac12x^TFx$, its loss, and how hard the task was.

    Attributes:
        linear, form: l (D,) and F (D, D).
        train_loss: mean squared error on the training points.
        parts: of the population test loss.
        difficulty: $y^TK^{-1}y$ (eq. K11), much above 1 for a task that does not suit the kernel. For a network that is not
            centred the labels are what its initial output leaves over.
    """

    linear: np.ndarray
    form: np.ndarray
    train_loss: float
    parts: Decomposition
    difficulty: float

    @property
    def test_loss(self) -> float:
        return float(self.parts.test_loss)


class _Frozen:
    """The kernel of the initial state on the training points, diagonalised."""

    def __init__(self, problem, given):
        self.problem, self.given = problem, matching(problem, given)
        x = self.given.inputs
        self.linear, self.form = function(problem, self.given)
        start = x @ self.linear + np.einsum("ij,ij->i", x @ self.form, x) / 2
        values, self.vectors = np.linalg.eigh(ntk(problem, self.given.mean, self.given.moment, x))
        cut = values[-1] * len(x) * np.finfo(float).eps
        self.values = np.where(values > cut, values, 0.0)
        self.rest = self.vectors.T @ (self.given.labels - start)

    def at(self, shrunk) -> LazyLimit:
        """The network whose residual in each mode is the factor ``shrunk`` times the initial one."""
        learned = np.divide(1 - shrunk, self.values, out=np.zeros_like(self.values), where=self.values > 0)
        a, x, d, eps = self.vectors @ (learned * self.rest), self.given.inputs, self.given, self.problem.curvature
        total, second = a @ x, (x * a[:, None]).T @ x
        linear = self.linear + total + eps * second @ d.mean
        half = eps * np.outer(total, d.mean) + eps**2 * second @ d.moment
        form = self.form + half + half.T
        left = (shrunk * self.rest)[self.values > 0]
        lost = self.rest[self.values == 0]
        used = learned * self.rest**2
        train_loss = float((left @ left + lost @ lost) / len(x))
        return LazyLimit(linear, form, train_loss, loss_parts(linear, form, d.target), float(used.sum()))


def kernel_regression(problem: Committee, given: Draw | None = None) -> LazyLimit:
    r"""Regression with the initial kernel without a ridge, where training ends for $\alpha\to\infty$ (eq. K11).

    $$\hat f(x)=f_0(x)+\sum_{\mu\nu}K(x,x_\mu)\,(K^{-1})_{\mu\nu}\,\big(y_\nu-f_0(x_\nu)\big)$$

    with $f_0=0$ for a centred network, and with the pseudo-inverse where there are more data than functions in the kernel, D(D+3)/2.
    The test loss is that of the population, exactly: the sum is a quadratic function of x.

    Args:
        given: the draw; None: the problem's own. The kernel is that of its initial state, of finite width therefore.
    """
    frozen = _Frozen(check(problem), given)
    return frozen.at(np.zeros_like(frozen.values))


def linearised(problem: Committee, steps: int, every: int | None = None, record=None, *, given: Draw | None = None) -> xr.Dataset:
    r"""Gradient descent on the network linearised in its initial weights; for a centred one, ``run`` for $\alpha\to\infty$ at given steps.

    A mode of the kernel matrix with eigenvalue $\lambda$ keeps $(1-2\eta_0\lambda/P)^t$ of its residual. Arguments as in ``run``;
    returns train_loss, test_loss, variance_error, misalignment and linear_power over step.

    A network that is not centred has no lazy limit: its output at the start grows with alpha, and so does the distance to the labels.
    """
    frozen = _Frozen(check(problem), given)
    factor = 1 - 2 * problem.step_size * frozen.values / problem.samples
    steps = recorded(steps, every, record)
    rows = [frozen.at(factor ** int(t)) for t in steps]
    columns = {name: np.array([getattr(r.parts, name) for r in rows]) for name in ("test_loss", *Decomposition._fields)}
    columns["train_loss"] = np.array([r.train_loss for r in rows])
    return xr.Dataset({k: ("step", v) for k, v in columns.items()}, coords={"step": steps})
