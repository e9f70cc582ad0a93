r"""Overdamped Langevin dynamics by Euler's method: the paper's training protocol (section 2.3, appendix C), the baseline."""

from __future__ import annotations

from typing import NamedTuple

import torch


class State(NamedTuple):
    """Position and the gradient there (networks, size); energy (networks,)."""

    theta: torch.Tensor
    gradient: torch.Tensor
    energy: torch.Tensor


def init(theta, energy_gradient, noise) -> State:
    """Start at ``theta``."""
    energy, gradient = energy_gradient(theta)
    return State(theta.clone(), gradient, energy)


def step(state: State, energy_gradient, noise, step_size) -> State:
    r"""One step, one gradient: $\theta\leftarrow\theta-h\nabla E(\theta)+\sqrt{2h}\,\xi$.

    On a quadratic $E=\lambda\theta^2/2$ the stationary variance is $1/(\lambda(1-h\lambda/2))$, not $1/\lambda$.

    Args:
        state: changed in place and returned.
        energy_gradient: theta -> (energy, gradient).
        noise: () -> standard normal (networks, size), valid until the next call.
        step_size: h, a number or anything that broadcasts to (networks, size).
    """
    theta, gradient, _ = state
    h = torch.as_tensor(step_size, dtype=theta.dtype, device=theta.device)
    theta.addcmul_(gradient, -h).addcmul_(noise(), torch.sqrt(2 * h))
    energy, gradient = energy_gradient(theta)
    return State(theta, gradient, energy)
