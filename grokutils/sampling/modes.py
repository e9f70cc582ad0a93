r"""Droplets of modular addition made and removed in one move: a Fourier mode of one neuron is drawn anew, its readouts integrated out.

Given all other neurons, whose outputs leave the residual $r$ of the table, one neuron's readouts are P independent Gaussians. With them
integrated out its weights have the density, for $\phi_{nm}=(w_n+v_m)^2$, $S_p=\sum_{nm}r^p_{nm}\phi_{nm}$, $\tau_a^2=\sigma_a^2/N$,
$$p(w,v|\text{others})\propto p_0(w,v)\;L^{-P/2}\exp\Big[\frac{\tau_a^2}{2\sigma^4L}\sum_pS_p^2\Big],\qquad L=1+\frac{\tau_a^2}{\sigma^2}|\phi|^2 .$$
A move takes one mode k, proposes $|w_k|^2,|v_k|^2$ from a tabulated density g and two free phases, and is accepted with probability $\min(1,R)$,
$R=p'g/(pg')$ in the measure $d|w_k|^2\,d|v_k|^2$. The density g may depend on r, which the move does not change: half of it is the prior of a
mode, half the mean-field law $e^{-2S_k}$ beyond its barrier, at the discrepancy that r shows. At the end the readouts are drawn from their law.
"""

from __future__ import annotations

import math

import torch

_CELLS = 96  # of the table, along each side
_TABLES = 24  # one for each of so many values of U


class ModeRelocation:
    """Blocks of moves on the networks of one posterior.

    Args:
        posterior: a ``ModularAdditionPosterior``.
        tries: modes visited, with replacement, whenever a neuron is visited.
    """

    def __init__(self, posterior, tries: int = 4):
        self.posterior, self.tries = posterior, tries
        self.tried = self.accepted = 0
        self._tabulate()

    def _tabulate(self):
        """Cells in (Phi, Psi), evenly spaced in the square roots, and by table their ln density g and cumulated probabilities."""
        problem = self.posterior.problem
        p, gamma, real = problem.modulus, problem.sextic_decay, dict(dtype=torch.float64, device=self.posterior.device)
        lowest = 1.02 * math.sqrt(gamma)  # U of the spinodal, where a well first appears
        self.interactions = torch.linspace(lowest, max(1.05 * lowest, problem.interaction), _TABLES, **real)
        # a droplet at the largest U, and the prior's tail, must fit
        top = max((self.interactions[-1].item() + math.sqrt(self.interactions[-1].item() ** 2 - gamma)) / gamma, 8 / p)
        self.edges = 1.8 * top * torch.linspace(0, 1, _CELLS + 1, **real).square()
        centre, area = (self.edges[1:] + self.edges[:-1]) / 2, self.edges.diff()[:, None] * self.edges.diff()[None, :]
        prior = 2 * p * (centre / 2 + gamma / 6 * centre**3)
        prior, product = prior[:, None] + prior[None, :], centre[:, None] * centre[None, :]
        u = self.interactions[:, None, None]
        barrier = (u - (u * u - gamma).sqrt()) / gamma
        well = torch.where(product.sqrt() > barrier, 2 * p * u * product - prior, -torch.inf)
        weights = torch.stack([_normalised(prior.neg().expand_as(well), area), _normalised(well, area)]).mean(0)  # by table
        # all tables in one ascending row, table t from t to t + 1
        self._cumulated = (weights.flatten(1).cumsum(1) + torch.arange(_TABLES, **real)[:, None]).flatten()
        self._log_density = (weights / area).log().flatten(1)

    def block(self, theta, generators, trials: int) -> None:
        """``trials`` visits to neurons of every network; theta (networks, size) is changed in place."""
        post = self.posterior
        u, v = post.unpack(theta)
        residual = post.targets.double() - _outputs(u.double(), post.scale_a * v.double())
        every = torch.arange(len(theta), device=theta.device)
        for neuron, trial, noise in self._draws(generators, trials, u.shape[1]):
            weights, readout = u[every, neuron].double(), post.scale_a * v[every, :, neuron].double()
            residual += readout[:, :, None, None] * _features(weights)[:, None]
            weights, mean, spread = self._neuron(weights, residual, trial)
            fresh = mean + spread[:, None] * noise
            residual -= (post.scale_a * fresh)[:, :, None, None] * _features(weights)[:, None]
            u[every, neuron], v[every, :, neuron] = weights.to(theta.dtype), fresh.to(theta.dtype)

    def _draws(self, generators, trials, width):
        """All random numbers of a block, every network from its own stream: neuron (b,), uniforms (tries, 7, b) and normals (b, P) of each visit."""
        real = dict(dtype=torch.float64, device=self.posterior.device)
        uniform, normal = zip(*(
            (torch.rand(trials, 1 + 7 * self.tries, generator=g, **real), torch.randn(trials, self.posterior.problem.modulus, generator=g, **real))
            for g in generators
        ), strict=True)
        uniform, normal = torch.stack(uniform, dim=1), torch.stack(normal, dim=1)  # trials, networks, ...
        neurons = (uniform[..., 0] * width).long()
        return zip(neurons, uniform[..., 1:].unflatten(-1, (self.tries, 7)).permute(0, 2, 3, 1), normal, strict=True)

    def _neuron(self, weights, residual, trial):
        """New weights (b, 2, P) of one neuron in each network, and mean (b, P) and spread (b,) of its whitened readouts."""
        problem = self.posterior.problem
        p, every = problem.modulus, torch.arange(len(weights), device=weights.device)
        flat = residual.flatten(2)
        discrepancy = (residual * self.posterior.targets).sum((1, 2, 3)) / (p * (p - 1))
        table = torch.bucketize(problem.interaction * discrepancy.square(), self.interactions).clamp(max=_TABLES - 1)
        transform = torch.fft.rfft(weights)
        here = self._evidence(weights, flat)
        for pick, where, *inside, phase_w, phase_v, uniform in trial:
            mode = 1 + (pick * (p // 2)).long()
            first = _CELLS**2 * table
            cell = (torch.searchsorted(self._cumulated, table + where) - first).clamp(min=0, max=_CELLS**2 - 1)
            low, high = torch.stack([cell // _CELLS, cell % _CELLS], 1), torch.stack([cell // _CELLS, cell % _CELLS], 1) + 1
            power = self.edges[low] + torch.stack(inside, 1) * (self.edges[high] - self.edges[low])
            other = transform.clone()
            other[every, :, mode] = torch.polar(p * power.sqrt(), 2 * math.pi * torch.stack([phase_w, phase_v], 1))
            old = transform[every, :, mode].abs().square() / p**2
            candidate = torch.fft.irfft(other, n=p)
            there = self._evidence(candidate, flat)
            ratio = there[0] - here[0] - self._prior(power) + self._prior(old)
            ratio = ratio + self._log_proposal(table, old) - self._log_density[table, cell]
            accept = uniform.log() < ratio
            transform = torch.where(accept[:, None, None], other, transform)
            weights = torch.where(accept[:, None, None], candidate, weights)
            here = tuple(torch.where(accept.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in zip(there, here, strict=True))
            self.tried, self.accepted = self.tried + len(accept), self.accepted + int(accept.sum())
        _, mean, spread = here
        return weights, mean, spread

    def _evidence(self, weights, residual):
        """ln of L^{-P/2} exp(...) (b,); mean (b, P) and spread (b,) of the whitened readouts."""
        s2, scale, p = self.posterior.problem.noise_variance, self.posterior.scale_a, self.posterior.problem.modulus
        phi = _features(weights).flatten(1)
        rigidity = 1 + scale**2 / s2 * phi.square().sum(1)
        overlap = scale / s2 * (residual @ phi.unsqueeze(2)).squeeze(2)
        return 0.5 * overlap.square().sum(1) / rigidity - 0.5 * p * rigidity.log(), overlap / rigidity[:, None], rigidity.rsqrt()

    def _prior(self, power):
        """-ln of the prior of a mode's powers (b, 2) in the measure dPhi dPsi."""
        problem = self.posterior.problem
        return 2 * problem.modulus * (power / 2 + problem.sextic_decay / 6 * power**3).sum(1)

    def _log_proposal(self, table, power):
        """ln g (b,) at powers (b, 2); -inf beyond the table, so that a move from there is refused."""
        cell = torch.searchsorted(self.edges, power.contiguous(), right=True) - 1
        inside = (cell < _CELLS).all(1)
        cell = cell.clamp(max=_CELLS - 1)
        return torch.where(inside, self._log_density[table, cell[:, 0] * _CELLS + cell[:, 1]], -torch.inf)


def _normalised(log_density, area):
    """Probabilities of the cells (tables, cells, cells)."""
    return torch.softmax((log_density + area.log()).flatten(1), 1).view_as(log_density)


def _features(weights):
    """phi (b, P, P) of one neuron's weights (b, 2, P)."""
    return (weights[:, 0, :, None] + weights[:, 1, None, :]).square()


def _outputs(u, readouts):
    """f (b, P, P, P) by output, n and m, from weights (b, N, 2, P) and readouts (b, P, N)."""
    w, v = u[:, :, 0], u[:, :, 1]
    once = readouts @ (w * w), readouts @ (v * v)
    twice = torch.stack([(2 * readouts[:, q, :, None] * w).mT @ v for q in range(readouts.shape[1])], dim=1)
    return twice + once[0].unsqueeze(3) + once[1].unsqueeze(2)
