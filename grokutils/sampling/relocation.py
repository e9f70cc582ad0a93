r"""Droplets made and removed in one move, all readouts integrated out: exact, and the cure of the slowest mode.

A *droplet* is a neuron whose overlap with the teacher is beyond a threshold, $|q|>q_c$. The number K of droplets in a network changes
slowly under any local dynamics: a neuron must climb a barrier, and each droplet carries a share of the function that the others must take
over. Here (i) the readouts are integrated out, so that they take over at once, (ii) a bulk neuron is replaced by a draw from a
Gaussian fitted to the droplet's well in the field of all other neurons, or a droplet by a draw from the prior, (iii) the other
droplets' overlaps contract or stretch by $\lambda_K=1-c/(K+1)$, because a network with one droplet more has them a little nearer the centre.

With $C=\sigma^2I+\tau_a^2\Phi\Phi^T$ the weights alone have the density
$$p(W|D)\propto\exp\Big(-\tfrac12y^TC^{-1}y-\tfrac12\ln\det C-\tfrac12\textstyle\sum_i|u_i|^2\Big)$$
and the move from K to K+1 droplets that turns neuron i from $u$ into $u'\sim g$ is accepted with probability $\min(1,R)$,
$$R=\frac{p(W'|D)}{p(W|D)}\;\frac{N(u;0,I)}{g(u')}\;\frac{N-K}{K+1}\;\lambda_K^K ,$$
its reverse with $\min(1,1/R)$. At the end the readouts are drawn from their exact law.
"""

from __future__ import annotations

import numpy as np
import torch

from grokutils.sampling.integrated import Background, choose

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(3)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
# elements of the features of the networks of one batch
_BUDGET = {"cpu": 2**22, "cuda": 2**28}


def droplet_law(bg: Background, residual, rigidity, overlap, iterations: int = 3):
    r"""Mean (b, d) and variance (b, d) of the Gaussian nearest a droplet's well, at a given whitened overlap (b,).

    One neuron among fixed others has $\ln p(u)=\tfrac{\tau_a^2\alpha^2}{2(1+\tau_a^2A)}-\tfrac12\ln(1+\tau_a^2A)-\tfrac12|u|^2$ with
    $\alpha=\phi^TC^{-1}y$ and, nearly, $A=\rho|\phi|^2$. The mode of such a well is not typical of it, so its gradient and its transverse
    curvature are averaged over the Gaussian itself (three nodes a data point); the transverse part of the mean is what the data's
    accidental correlations make it.

    Args:
        residual: $C^{-1}y$ (b, n) of the other neurons.
        rigidity: rho (b, 1).
        overlap: mean of the first coordinate; its variance is 1, the prior's.
    """
    x, scale, tau2 = bg.x, bg.scale, bg.tau2
    b, _, d = x.shape
    mean = torch.zeros(b, d, dtype=x.dtype, device=x.device)
    mean[:, 0], transverse2 = overlap, x[..., 1:].square().sum(-1)
    variance = torch.full((b, 1), 0.5, dtype=x.dtype, device=x.device)
    for _ in range(iterations):
        spread = scale * (variance * transverse2).sqrt()
        phi, phi2, slope, own, bend, own_bend = smoothed(bg, scale * (x @ mean.unsqueeze(-1)).squeeze(-1), spread)
        denominator = 1 + tau2 * rigidity * phi2.sum(1, keepdim=True)
        readout = tau2 * (residual * phi).sum(1, keepdim=True) / denominator
        damping = rigidity * (readout.square() + tau2 / denominator)
        force = scale * (x.mT @ (readout * residual * slope - damping * own).unsqueeze(-1)).squeeze(-1)
        tilt = scale * (x.mT @ (residual * slope).unsqueeze(-1)).squeeze(-1)[:, 1:]
        curvature = scale**2 * ((readout * residual * bend - damping * own_bend) * transverse2).sum(1, keepdim=True)
        curvature = (curvature + tau2 / denominator * tilt.square().sum(1, keepdim=True)) / (d - 1)
        variance = 1 / (1 - curvature).clamp(1.0, 10.0)
        # an activation without bound can have no well at all
        mean[:, 1:] = (mean + variance * (force - mean))[:, 1:].clamp(-10.0, 10.0)
    return mean.double(), torch.cat([torch.ones_like(variance), variance.expand(b, d - 1)], dim=1).double()


def smoothed(bg: Background, centre, spread):
    r"""Averages of $\phi,\phi^2,\phi',\phi\phi',\phi'',(\phi\phi')'$ over $h\sim N(\text{centre},\text{spread}^2)$, stacked first."""
    node, weight = (torch.as_tensor(t, dtype=centre.dtype, device=centre.device).view(-1, *[1] * centre.dim()) for t in (NODES, WEIGHTS))
    phi, slope, factor = bg.slope(centre + node * spread)
    slope = weight * factor * slope
    lean = node / spread * slope  # Stein: E[phi''] = E[node phi'] / spread
    return torch.stack([weight * phi, weight * phi * phi, slope, phi * slope, lean, phi * lean]).sum(1)


def best_overlap(bg: Background, residual, rigidity, threshold):
    """Whitened overlap (b,) beyond the threshold at which the one-neuron density is largest: where no droplet shows the place."""
    grid = torch.linspace(threshold, 4 * threshold, 16, dtype=bg.x.dtype, device=bg.x.device)
    spread = bg.scale * (0.5 * bg.x[..., 1:].square().sum(-1)).sqrt()
    phi, phi2, *_ = (s.unsqueeze(0) for s in smoothed(bg, bg.scale * grid.view(-1, 1, 1) * bg.x[..., 0], spread.expand(16, *spread.shape)))
    denominator = 1 + bg.tau2 * rigidity.T * phi2[0].sum(-1)
    score = 0.5 * bg.tau2 * (residual * phi[0]).sum(-1).square() / denominator - 0.5 * denominator.log() - 0.5 * grid.view(-1, 1).square()
    return grid[score.argmax(0)]


class Relocation:
    """Blocks of droplet insertions and deletions on the networks of one posterior.

    Args:
        posterior: a ``TeacherStudentPosterior``.
        active: M, neurons of a network that take part in a block; a network with more droplets than that is left alone.
        threshold: overlap q_c beyond which a neuron counts as a droplet; any value is exact, a good one lies between the populations.
        contraction: c in lambda_K = 1 - c/(K+1); any value below 1 is exact.
    """

    def __init__(self, posterior, active: int, threshold: float = 0.5, contraction: float = 0.35):
        self.posterior, self.active, self.contraction = posterior, min(active, posterior.problem.width), contraction
        self.threshold = threshold / posterior.scale_w
        self.tried = self.accepted = 0

    def block(self, theta, generators, trials: int) -> None:
        """``trials`` moves of every network; theta (networks, size) is changed in place, the readouts are drawn anew."""
        post = self.posterior
        group = max(1, _BUDGET[theta.device.type] // (post.problem.samples * post.problem.width))
        for first in range(0, post.networks, group):
            net = slice(first, min(first + group, post.networks))
            self._group(net, theta[net], generators[net], trials)

    def _group(self, net, theta, generators, trials):
        post, (b, width, d) = self.posterior, (len(theta), self.posterior.problem.width, self.posterior.problem.dimension)
        u, v = theta[:, : width * d].view(b, width, d), theta[:, width * d :]
        ours = (u[..., 0].abs() > self.threshold).sum(1) <= self.active
        draws = _Draws(generators, trials, width, d, post.problem.samples, theta)
        # which neurons are active is drawn given the state: all droplets, and so many others that there are M
        order = torch.where(u[..., 0].abs() > self.threshold, -1.0, draws.order)
        chosen = order.argsort(dim=1)[:, : self.active]
        passive = torch.ones(b, width, dtype=theta.dtype, device=theta.device).scatter_(1, chosen, 0.0)
        index = torch.arange(net.start, net.stop, device=theta.device) // post.chains
        bg = Background(post, post.inputs[index], post.targets[index], u, passive)
        rows = chosen.unsqueeze(-1).expand(b, self.active, d)
        state = bg.active(u.gather(1, rows))
        for t in range(trials):
            state, moved = self._trial(bg, state, draws.trial(t))
            self.tried, self.accepted = self.tried + b, self.accepted + int(moved.sum())
        prior = draws.readouts
        passive_v, active_v = bg.readout_draw(state, (prior, prior.gather(1, chosen)), post.problem.noise_variance**0.5 * draws.noise)
        new_v = passive_v.scatter(1, chosen, active_v)
        u[ours] = u.scatter(1, rows, state.u)[ours]
        v[ours] = new_v[ours]

    def _trial(self, bg, state, draws):
        """One insertion or deletion in every network: the new state and who moved."""
        coin, pick, side, uniform, normal = draws
        drop, insert = state.u[..., 0].abs() > self.threshold, coin < 0.5
        pool = drop ^ insert.unsqueeze(1)
        slot = pool & (pool.cumsum(1) == 1 + (pick * pool.sum(1)).long().unsqueeze(1))
        rest, here = drop & ~slot, slot.unsqueeze(-1)
        shrink = (1 - self.contraction / (rest.sum(1, keepdim=True) + 1)).to(state.u.dtype)
        moved = torch.where((rest | slot).any(0))[0]
        # "low" has K droplets, "high" one more: one of them is the present state
        low, high = state, state
        if not insert.all():
            low = choose(insert, state, bg.active(torch.where(here, normal.unsqueeze(1), _stretch(state.u, rest, 1 / shrink)), state, moved))
        sign = torch.where(insert, torch.where(side < 0.5, 1.0, -1.0), (state.u[..., 0] * slot).sum(1).sign())
        mean, variance = self._law(bg, low, ~slot, rest, sign)
        if insert.any():
            new = (mean + variance.sqrt() * normal).to(state.u.dtype).unsqueeze(1)
            high = choose(insert, bg.active(torch.where(here, new, _stretch(low.u, rest, shrink)), low, moved), state)
        old, new = ((s.u * here).sum(1).double() for s in (low, high))
        forward = 0.5 * ((new - mean).square() / variance + variance.log()).sum(1)  # -ln g but for a constant that cancels
        ratio = high.log_density - low.log_density + forward - 0.5 * old.square().sum(1) + self._log_weight(rest.sum(1), shrink.squeeze(1))
        proposed = choose(insert, high, low)
        kept = ((proposed.u[..., 0].abs() > self.threshold) == (rest | (slot & insert.unsqueeze(1)))).all(1)
        accept = kept & slot.any(1) & (new[:, 0].sign() == sign) & (uniform.log() < torch.where(insert, ratio, -ratio))
        return choose(accept, proposed, state), accept

    def _log_weight(self, k, shrink):
        """Ways to choose the neuron, forwards over backwards; Jacobian; either sign of the overlap."""
        return torch.log(2.0 * (self.posterior.problem.width - k) / (k + 1)) + k * shrink.double().log()

    def _law(self, bg, low, keep, rest, sign):
        residual, inverse = bg.residual(low, keep)
        residual = residual.squeeze(-1)
        cavity = 1 / inverse.diagonal(dim1=1, dim2=2) - 1 / bg.tau2  # phi^T C^{-1} phi of each neuron, itself left out
        k = rest.sum(1)
        who = torch.where((k > 0).unsqueeze(1), rest, keep).double()
        rigidity = (who * cavity / low.features.double().square().sum(2)).sum(1, keepdim=True) / who.sum(1, keepdim=True)
        rigidity = rigidity.to(residual.dtype)
        overlap = (low.u[..., 0].abs() * rest).sum(1) / k.clamp(min=1) * (1 - self.contraction / (k + 1))
        if not (k > 0).all():
            overlap = torch.where(k > 0, overlap, best_overlap(bg, residual, rigidity, self.threshold))
        return droplet_law(bg, residual, rigidity, sign * overlap)


def _stretch(u, rest, factor):
    """The overlaps of the neurons ``rest`` times a factor (b, 1)."""
    return torch.cat([torch.where(rest, u[..., 0] * factor, u[..., 0]).unsqueeze(-1), u[..., 1:]], dim=-1)


class _Draws:
    """All random numbers of a block, every network from its own stream."""

    def __init__(self, generators, trials, width, d, samples, like):
        real = dict(dtype=torch.float64, device=like.device)
        size = trials * d + width + samples
        rows = [
            (torch.rand(width, generator=g, **real), torch.rand(trials, 4, generator=g, **real), torch.randn(size, generator=g, **real))
            for g in generators
        ]
        self.order, self.uniform, normal = (torch.stack(r) for r in zip(*rows, strict=True))
        normal = normal.to(like.dtype)
        self.normal, self.readouts, noise = normal.split([trials * d, width, samples], dim=1)
        self.normal, self.noise = self.normal.reshape(len(self.normal), trials, d), noise.unsqueeze(-1)

    def trial(self, t):
        return *self.uniform[:, t].unbind(1), self.normal[:, t]
