r"""Hamiltonian Monte Carlo that rotates the Gaussian prior exactly and kicks by the likelihood: exact for the posterior."""

from __future__ import annotations

from typing import NamedTuple

import torch


class State(NamedTuple):
    """Position and the likelihood's gradient there (networks, size); likelihood energy, accepted (networks,)."""

    theta: torch.Tensor
    gradient: torch.Tensor
    energy: torch.Tensor
    accepted: torch.Tensor


def init(theta, likelihood, noise) -> State:
    """Start at ``theta``."""
    energy, gradient = likelihood(theta)
    return State(theta.clone(), gradient, energy, torch.ones_like(energy))


def trajectory(theta, momentum, gradient, likelihood, step_size, steps: int):
    r"""Kick-rotate-kick: $p-\tfrac h2\nabla\Phi$; $(\theta,p)$ turned by the angle h; $p-\tfrac h2\nabla\Phi$.

    Volume-preserving, reversible to round-off; its energy error is $O(h^2)$.
    """
    h = torch.as_tensor(step_size, dtype=theta.dtype, device=theta.device)
    cos, sin = torch.cos(h), torch.sin(h)
    energy = None
    for _ in range(steps):
        momentum = momentum - h / 2 * gradient
        theta, momentum = cos * theta + sin * momentum, cos * momentum - sin * theta
        energy, gradient = likelihood(theta)
        momentum = momentum - h / 2 * gradient
    return theta, momentum, gradient, energy


def step(state: State, likelihood, noise, uniform, step_size, steps: int) -> State:
    """One trajectory of ``steps`` gradients and its Metropolis test, network by network.

    Args:
        state: position; not changed.
        likelihood: theta -> (minus log likelihood, gradient), without the prior.
        noise: () -> standard normal (networks, size), valid until the next call.
        uniform: () -> uniform numbers (networks,).
        step_size: angle h of one rotation, a number or (networks, 1).
        steps: gradients a trajectory.
    """
    momentum = noise().clone()
    theta, end, gradient, energy = trajectory(state.theta, momentum, state.gradient, likelihood, step_size, steps)
    before = state.energy + 0.5 * (state.theta.square().sum(1, dtype=torch.float64) + momentum.square().sum(1, dtype=torch.float64))
    after = energy + 0.5 * (theta.square().sum(1, dtype=torch.float64) + end.square().sum(1, dtype=torch.float64))
    accept = torch.exp(torch.clamp(before - after, max=0.0))
    take = uniform() < accept  # a diverged trajectory has accept = nan and is refused
    row = take.unsqueeze(1)
    return State(
        torch.where(row, theta, state.theta), torch.where(row, gradient, state.gradient),
        torch.where(take, energy, state.energy), torch.nan_to_num(accept),
    )
