"""Optimisers for ensembles: every hyperparameter may be one number, or one number for each member. Equal to torch.optim to round-off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


def _each(name: str, value, members: int, like: torch.Tensor, lowest: float = 0.0, below: float = np.inf) -> torch.Tensor:
    """A hyperparameter as a tensor (members,); ValueError names it if it is out of [lowest, below) or has another number of members."""
    array = np.asarray(value, dtype=float)
    if array.ndim > 1 or array.size not in (1, members):
        raise ValueError(f"{name} must be one number or one for each of {members} members, got shape {array.shape}")
    if not np.all((array >= lowest) & (array < below)):
        upper = f" and less than {below:g}" if np.isfinite(below) else ""
        raise ValueError(f"{name} must be finite, at least {lowest:g}{upper}, got {value!r}")
    return torch.as_tensor(np.broadcast_to(array.reshape(-1), (members,)).copy(), dtype=like.dtype, device=like.device)


def _over(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    return value.reshape(-1, *[1] * (parameter.ndim - 1))


@dataclass(frozen=True, eq=False)
class GradientDescent:
    r"""Full-batch gradient descent with momentum and weight decay, as ``torch.optim.SGD``.

    $$m\leftarrow\mu\,m+\nabla L(\theta)+\lambda\theta,\qquad\theta\leftarrow\theta-\eta\,m$$

    Args:
        learning_rate, momentum, weight_decay: eta, mu, lambda; numbers, or arrays with one entry for each member.
    """

    learning_rate: float | np.ndarray
    momentum: float | np.ndarray = 0.0
    weight_decay: float | np.ndarray = 0.0

    def start(self, parameters: tuple[torch.Tensor, ...]):
        """A function that takes one step in place, given the gradients; it holds the momenta."""
        first = parameters[0]
        rate = _each("learning_rate", self.learning_rate, len(first), first)
        mu = _each("momentum", self.momentum, len(first), first, below=1.0)
        decay = _each("weight_decay", self.weight_decay, len(first), first)
        momenta = [torch.zeros_like(p) for p in parameters]

        def step(gradients):
            for p, g, m in zip(parameters, gradients, momenta, strict=True):
                m.mul_(_over(mu, p)).add_(g).addcmul_(p, _over(decay, p))
                p.addcmul_(m, _over(rate, p), value=-1)

        return step


@dataclass(frozen=True, eq=False)
class AdamW:
    r"""Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    $$\theta\leftarrow(1-\eta\lambda)\theta-\eta\,\frac{\hat m}{\sqrt{\hat q}+\epsilon},\qquad
      \hat m=\frac{m}{1-\beta_1^t},\ m\leftarrow\beta_1m+(1-\beta_1)g,\qquad\hat q=\frac{q}{1-\beta_2^t},\ q\leftarrow\beta_2q+(1-\beta_2)g^2$$

    Args:
        learning_rate, weight_decay: eta, lambda; numbers, or arrays with one entry for each member.
        betas, epsilon: numbers.
    """

    learning_rate: float | np.ndarray
    weight_decay: float | np.ndarray = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def start(self, parameters: tuple[torch.Tensor, ...]):
        """A function that takes one step in place, given the gradients; it holds the moments."""
        first = parameters[0]
        rate = _each("learning_rate", self.learning_rate, len(first), first)
        decay = _each("weight_decay", self.weight_decay, len(first), first)
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas must be two numbers of at least 0 and less than 1, got {self.betas!r}")
        if not 0 < self.epsilon < np.inf:
            raise ValueError(f"epsilon must be positive, got {self.epsilon!r}")
        one, two = self.betas
        moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        t = 0

        def step(gradients):
            nonlocal t
            t += 1
            for p, g, (m, q) in zip(parameters, gradients, moments, strict=True):
                m.lerp_(g, 1 - one)
                q.mul_(two).addcmul_(g, g, value=1 - two)
                p.mul_(1 - _over(rate * decay, p))
                p.sub_(_over(rate, p) / (1 - one**t) * m / ((q / (1 - two**t)).sqrt_() + self.epsilon))

        return step
