r"""What a committee machine is made of, data and weights, and what its mean weight and second moment determine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from grokutils.problems import Committee

CENTRINGS = ("none", "columns", "both")


@dataclass(frozen=True, eq=False)
class Draw:
    r"""The random parts of a problem, and the state $(\bar w,M)$ of the network at the start.

    Attributes:
        inputs: (P, D).
        beta: (R, D), scaled such that $y=\frac12\sum_k(\beta_k\cdot x)^2$ whatever the problem's target_scale.
        mean: $\bar w=\frac1N\sum_iw_i$, (D,).
        moment: $M=\frac1N\sum_iw_iw_i^T$, (D, D).
        weights: (N, D), or None for an infinitely wide network.
    """

    inputs: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    moment: np.ndarray
    weights: np.ndarray | None = None

    @property
    def target(self) -> np.ndarray:
        r"""The matrix Y of $y=\frac12x^TYx$; $\beta\beta^T$ for one direction."""
        return self.beta.T @ self.beta

    @property
    def labels(self) -> np.ndarray:
        """y on the training inputs (P,)."""
        return ((self.inputs @ self.beta.T) ** 2).sum(1) / 2

    def replace(self, **changes) -> Draw:
        """A copy with some parts changed; new ``weights`` (N, D) bring their own mean and moment."""
        if changes.get("weights") is not None:
            w = np.asarray(changes["weights"], dtype=float)
            changes = dict(mean=w.mean(0), moment=w.T @ w / len(w)) | changes | dict(weights=w)
        return dataclasses.replace(self, **changes)


def check(problem) -> Committee:
    """The problem, or ValueError."""
    if not isinstance(problem, Committee):
        raise ValueError(f"problem must be a Committee, got {type(problem).__name__}")
    return problem


def draw(problem: Committee, wide: bool = False) -> Draw:
    r"""Data, target and initial weights, each from its own stream of the problem's seed; more samples or neurons extend a list.

    Args:
        wide: the limit of infinite width instead of weights: $\bar w=0$, $M=I$.
    """
    check(problem)
    shapes = ((problem.samples, problem.dimension), (problem.directions, problem.dimension), (problem.width, problem.dimension))
    inputs, beta, weights = (np.random.default_rng([problem.seed, k]).standard_normal(shape) for k, shape in enumerate(shapes))
    inputs, beta = inputs / np.sqrt(problem.dimension), np.sqrt(2 * problem.target_scale) * beta
    made = Draw(inputs, beta, np.zeros(problem.dimension), np.eye(problem.dimension))
    return made if wide else made.replace(weights=weights)


def matching(problem: Committee, given: Draw | None) -> Draw:
    """The draw given, or the problem's own; ValueError if its arrays do not fit the problem."""
    check(problem)
    if given is None:
        return draw(problem)
    d = problem.dimension
    shapes = {"inputs": (problem.samples, d), "beta": (problem.directions, d), "mean": (d,), "moment": (d, d)}
    shapes["weights"] = (problem.width, d)
    for name, shape in shapes.items():
        value = getattr(given, name)
        if value is not None and np.shape(value) != shape:
            raise ValueError(f"draw.{name} must have the shape {shape} of the problem, got {np.shape(value)}")
    return given


def function(problem: Committee, given: Draw, mean=None, moment=None) -> tuple[np.ndarray, np.ndarray]:
    r"""The output as a quadratic function (eq. K4): $(l,F)$ with $f(x)=l\cdot x+\frac12x^TFx$; mean and moment may be batches.

    $$l=\alpha\bar w,\quad F=\alpha\epsilon M,\qquad\text{centred:}\quad l=\alpha(\bar w-\bar w_0),\quad F=\alpha\epsilon(M-M_0)$$
    """
    mean, moment = given.mean if mean is None else mean, given.moment if moment is None else moment
    if problem.centred:
        mean, moment = mean - given.mean, moment - given.moment
    return problem.laziness * mean, problem.laziness * problem.curvature * moment


class Decomposition(NamedTuple):
    """The three parts of the population loss (eq. K6)."""

    variance_error: np.ndarray
    misalignment: np.ndarray
    linear_power: np.ndarray

    @property
    def test_loss(self):
        """Their sum."""
        return self.variance_error + self.misalignment + self.linear_power


def loss_parts(linear, form, target) -> Decomposition:
    r"""$E[(l\cdot x+\frac12x^TSx)^2]=\frac14(\operatorname{Tr}S/D)^2+\frac1{2D^2}\|S\|_F^2+\frac1D|l|^2$ with $S=F-Y$."""
    d, s = target.shape[-1], form - target
    trace = np.trace(s, axis1=-2, axis2=-1)
    return Decomposition((trace / d) ** 2 / 4, (s**2).sum((-2, -1)) / (2 * d**2), (linear**2).sum(-1) / d)


def decomposition(problem: Committee, given: Draw, mean=None, moment=None) -> Decomposition:
    r"""The population test loss as a sum of three parts (eq. K6); centred, $M-M_0$ and $\bar w-\bar w_0$ stand for M and $\bar w$.

    $$E_x(f-y)^2=\tfrac14\Big(\frac{|\beta|^2-\alpha\epsilon\operatorname{Tr}M}D\Big)^2
      +\frac1{2D^2}\big\|\alpha\epsilon M-\beta\beta^T\big\|_F^2+\frac{\alpha^2}D|\bar w|^2$$

    Args:
        given: the draw: target and initial state.
        mean, moment: the state, (..., D) and (..., D, D); None: the initial one.
    """
    return loss_parts(*function(problem, matching(problem, given), mean, moment), given.target)


def alignment(problem: Committee, target, mean, moment, centring: str = "none"):
    r"""How well the tangent kernel points at the target, in the population of inputs: closed form (eqs. K8 to K10).

    $$A=\frac{\langle y\,K\,y'\rangle}{\sqrt{\langle K^2\rangle}\,\langle y^2\rangle},\qquad
      \langle y^2\rangle=\frac{t^2+2\operatorname{Tr}Y^2}{4D^2},\qquad t=\operatorname{Tr}Y$$
    $$\langle yKy'\rangle=\frac{\epsilon^2}{4D^4}\big[t^2\operatorname{Tr}M+4t\operatorname{Tr}MY+4\operatorname{Tr}MY^2\big]$$
    $$\langle K^2\rangle=\frac1D+\frac{2\epsilon^2(D+2)|\bar w|^2}{D^3}
      +\frac{\epsilon^4}{D^4}\big[(D+6)\operatorname{Tr}M^2+2(\operatorname{Tr}M)^2\big]$$

    Args:
        target: Y, (D, D).
        mean, moment: the state, (..., D) and (..., D, D).
        centring: "none", as above; "columns": labels and every column of the kernel lose their mean, as in the published code;
            "both": the rows too, the usual centred kernel alignment.
    """
    check(problem)
    if centring not in CENTRINGS:
        raise ValueError(f"centring must be one of {CENTRINGS}, got {centring!r}")
    d, e2 = problem.dimension, problem.curvature**2
    mean, moment = np.asarray(mean), np.asarray(moment)
    size, trace, trace2 = (mean**2).sum(-1), np.trace(moment, axis1=-2, axis2=-1), (moment**2).sum((-2, -1))
    y, y2 = np.trace(target), (target**2).sum()
    my, my2 = (moment * target).sum((-2, -1)), (moment * (target @ target)).sum((-2, -1))
    if centring == "none":
        above, power = e2 / (4 * d**4) * (y**2 * trace + 4 * y * my + 4 * my2), (y**2 + 2 * y2) / (4 * d**2)
        square = 1 / d + 2 * e2 * (d + 2) * size / d**3 + e2**2 * ((d + 6) * trace2 + 2 * trace**2) / d**4
    else:
        above, power = e2 * my2 / d**4, y2 / (2 * d**2)
        k, j = (3, 4) if centring == "columns" else (2, 2)
        square = 1 / d + e2 * (2 * d + k) * size / d**3 + e2**2 * ((d + j) * trace2 + trace**2) / d**4
    return above / (np.sqrt(square) * power)
