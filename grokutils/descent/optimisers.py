"""Optimisers for ensembles: every hyperparameter may be one number, or one number for each member. Equal to torch.optim to round-off.

An optimiser sees all parameters of a group as one matrix (members, numbers): few operations on long rows. ``start`` makes the state of some
members, a dictionary of tensors whose first axis is the member, so that members can be dropped from it and stored; ``step`` changes both in place.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch

State = dict[str, torch.Tensor]
_LONG = 2**12  # numbers of a member from which on a fused kernel, called member by member, is faster


class Optimiser(Protocol):
    """What ``descend`` asks of an optimiser."""

    def start(self, theta: torch.Tensor, members=None) -> State:
        """The state before the first step of all members (None), or of those of these indices, whose parameters theta then holds."""

    def step(self, theta: torch.Tensor, gradient: torch.Tensor, state: State, t: int) -> None:
        """The step number t = 1, 2, ..., in place; the gradient may be used up."""


def _each(name: str, value, theta: torch.Tensor, chosen=None, below: float = np.inf) -> torch.Tensor:
    """A hyperparameter as a tensor (members, 1); ValueError names it if it is out of [0, below) or has another number of members."""
    array, members = np.asarray(value, dtype=float), len(theta)
    if chosen is not None and array.ndim and array.size > 1:
        array = array[np.asarray(chosen)]
    if array.ndim > 1 or array.size not in (1, members):
        raise ValueError(f"{name} must be one number or one for each of {members} members, got shape {array.shape}")
    if not np.all((array >= 0) & (array < below)):
        upper = f" and less than {below:g}" if np.isfinite(below) else ""
        raise ValueError(f"{name} must be finite, at least 0{upper}, got {value!r}")
    return torch.as_tensor(np.broadcast_to(array.reshape(-1, 1), (members, 1)).copy(), dtype=theta.dtype, device=theta.device)


def _unless_zero(name: str, value, theta: torch.Tensor, chosen=None, below: float = np.inf) -> State:
    """The entry of a state, or nothing where every member has zero, which saves a pass over the parameters."""
    each = _each(name, value, theta, chosen, below)
    return {name: each} if each.any() else {}


class _SameSettings:
    """Equality of optimisers whose hyperparameters may be arrays."""

    def __eq__(self, other):
        return type(self) is type(other) and all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


@dataclass(frozen=True, eq=False)
class GradientDescent(_SameSettings):
    r"""Gradient descent with momentum and weight decay, as ``torch.optim.SGD``.

    $$m\leftarrow\mu\,m+\nabla L(\theta)+\lambda\theta,\qquad\theta\leftarrow\theta-\eta\,m$$

    Args:
        learning_rate, momentum, weight_decay: eta, mu, lambda; numbers, or arrays with one entry for each member.
    """

    learning_rate: float | np.ndarray
    momentum: float | np.ndarray = 0.0
    weight_decay: float | np.ndarray = 0.0

    def start(self, theta: torch.Tensor, members=None) -> State:
        """The hyperparameters of each member, and momenta where there are any."""
        momentum = _unless_zero("momentum", self.momentum, theta, members, below=1.0)
        state = {"learning_rate": _each("learning_rate", self.learning_rate, theta, members)} | momentum
        return state | _unless_zero("weight_decay", self.weight_decay, theta, members) | ({"mean": torch.zeros_like(theta)} if momentum else {})

    def step(self, theta: torch.Tensor, gradient: torch.Tensor, state: State, t: int) -> None:
        """One step in place."""
        if "momentum" in state:
            gradient = state["mean"].mul_(state["momentum"]).add_(gradient)
        if "weight_decay" in state:
            gradient.addcmul_(theta, state["weight_decay"])
        theta.addcmul_(gradient, state["learning_rate"], value=-1)


@dataclass(frozen=True, eq=False)
class Adam(_SameSettings):
    r"""Adam, as ``torch.optim.Adam``: weight decay is a part of the gradient.

    $$\theta\leftarrow\theta-\eta\,\frac{\hat m}{\sqrt{\hat q}+\epsilon},\qquad
      \hat m=\frac{m}{1-\beta_1^t},\ m\leftarrow\beta_1m+(1-\beta_1)g,\qquad\hat q=\frac{q}{1-\beta_2^t},\ q\leftarrow\beta_2q+(1-\beta_2)g^2,
      \qquad g=\nabla L+\lambda\theta$$

    Args:
        learning_rate, weight_decay: eta, lambda; numbers, or arrays with one entry for each member.
        betas, epsilon: numbers.
    """

    learning_rate: float | np.ndarray
    weight_decay: float | np.ndarray = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def start(self, theta: torch.Tensor, members=None) -> State:
        """The hyperparameters of each member and the moments of its gradients."""
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas must be two numbers of at least 0 and less than 1, got {self.betas!r}")
        if not 0 < self.epsilon < np.inf:
            raise ValueError(f"epsilon must be positive, got {self.epsilon!r}")
        state = {"learning_rate": _each("learning_rate", self.learning_rate, theta, members)}
        state |= _unless_zero("weight_decay", self.weight_decay, theta, members)
        return state | {"mean": torch.zeros_like(theta), "square": torch.zeros_like(theta)}

    def _decay(self, theta, gradient, state):
        gradient.addcmul_(theta, state["weight_decay"])

    def step(self, theta: torch.Tensor, gradient: torch.Tensor, state: State, t: int) -> None:
        """One step in place."""
        if "weight_decay" in state:
            self._decay(theta, gradient, state)
        one, two = self.betas
        if theta.shape[1] >= _LONG and theta.device.type == "cpu" and hasattr(torch, "_fused_adam_"):
            self._fused(theta, gradient, state, t)
            return
        root = (1 - two**t) ** 0.5
        mean, square = state["mean"].lerp_(gradient, 1 - one), state["square"].mul_(two).addcmul_(gradient, gradient, value=1 - two)
        torch.sqrt(square, out=gradient).add_(self.epsilon * root)  # the gradient's memory serves for the quotient
        theta.addcmul_(torch.div(mean, gradient, out=gradient), state["learning_rate"], value=-root / (1 - one**t))

    def _fused(self, theta, gradient, state, t):
        """Member by member with the kernel behind ``torch.optim.Adam(fused=True)``: one pass over memory instead of seven."""
        columns, count = [x.unbind() for x in (theta, gradient, state["mean"], state["square"])], torch.tensor(float(t))
        equal = {}  # members of one rate go together: fewer calls
        for member, rate in enumerate(state["learning_rate"][:, 0].tolist()):
            equal.setdefault(rate, []).append(member)
        for rate, members in equal.items():
            torch._fused_adam_(
                *([rows[m] for m in members] for rows in columns), [], [count] * len(members), lr=rate, beta1=self.betas[0],
                beta2=self.betas[1], weight_decay=0.0, eps=self.epsilon, amsgrad=False, maximize=False)


@dataclass(frozen=True, eq=False)
class AdamW(Adam):
    r"""Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    Before each step of ``Adam`` on the loss alone, $\theta\leftarrow(1-\eta\lambda)\theta$.

    Args:
        learning_rate, weight_decay: eta, lambda; numbers, or arrays with one entry for each member.
        betas, epsilon: numbers.
    """

    def _decay(self, theta, gradient, state):
        theta.mul_(1 - state["learning_rate"] * state["weight_decay"])
