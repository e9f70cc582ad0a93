r"""Underdamped Langevin dynamics by the BAOAB splitting (Leimkuhler and Matthews 2013); target $\propto e^{-E(\theta)}$ up to $O(h^2)$."""

from __future__ import annotations

from typing import NamedTuple

import torch


class State(NamedTuple):
    """Position, momentum (unit mass) and the gradient at the position, each (networks, size); energy (networks,)."""

    theta: torch.Tensor
    momentum: torch.Tensor
    gradient: torch.Tensor
    energy: torch.Tensor


def init(theta, energy_gradient, noise) -> State:
    """Start at ``theta`` with a Maxwellian momentum."""
    energy, gradient = energy_gradient(theta)
    return State(theta.clone(), noise().clone(), gradient, energy)


def step(state: State, energy_gradient, noise, step_size, friction: float) -> State:
    r"""One step, one gradient: $p\!\leftarrow\!p-\tfrac h2\nabla E$, $\theta\!\leftarrow\!\theta+\tfrac h2p$,
    $p\!\leftarrow\!e^{-\gamma h}p+\sqrt{1-e^{-2\gamma h}}\,\xi$, $\theta\!\leftarrow\!\theta+\tfrac h2p$, $p\!\leftarrow\!p-\tfrac h2\nabla E$.

    Args:
        state: changed in place and returned.
        energy_gradient: theta -> (energy, gradient).
        noise: () -> standard normal (networks, size), valid until the next call.
        step_size: h, a number or (networks, 1).
        friction: gamma > 0.
    """
    theta, momentum, gradient, _ = state
    h = torch.as_tensor(step_size, dtype=theta.dtype, device=theta.device)
    keep = torch.exp(-friction * h)
    momentum.addcmul_(gradient, -h / 2)
    theta.addcmul_(momentum, h / 2)
    momentum.mul_(keep).addcmul_(noise(), torch.sqrt(1 - keep**2))
    theta.addcmul_(momentum, h / 2)
    energy, gradient = energy_gradient(theta)
    momentum.addcmul_(gradient, -h / 2)
    return State(theta, momentum, gradient, energy)
