"""The posterior of networks that learn modular addition from the whole table: energy, gradient, prior and exact readout draws."""

from __future__ import annotations

import math

import torch

from grokutils.problems import ModularAddition
from grokutils.sampling.posterior import _BLOCK, _sum_of_squares

DROPLETS = 0.5  # fraction of the neuron-modes that the start "droplets" puts into the well


def require_whole(problem: ModularAddition) -> None:
    """Raise ValueError unless it is a ModularAddition whose width is a whole number."""
    if not isinstance(problem, ModularAddition):
        raise ValueError(f"problem must be a ModularAddition, got {problem!r}")
    if not isinstance(problem.width, int):
        raise ValueError(f"width must be a whole number to sample networks, got {problem.width!r}")


def table(modulus: int, dtype=torch.float64) -> torch.Tensor:
    r"""$y^p_{nm}=\delta_{p,(n+m)\bmod P}-1/P$ as (1, p, n, m)."""
    index = torch.arange(modulus)
    hit = (index[:, None] + index[None, :]) % modulus == index[:, None, None]
    return hit.to(dtype).unsqueeze(0) - 1 / modulus


class ModularAdditionPosterior:
    r"""Energy of an ensemble of networks that see all $P^2$ pairs (Rubin et al., eqs. 3-5), with the sextic decay in the prior.

    $$E(U,V)=\frac1{2\sigma^2}\sum_{p,n,m}\Big(y^p_{nm}-\sum_ia_{pi}(w_{in}+v_{im})^2\Big)^2+\sum_i\Gamma[w_i]+\tfrac12|U|^2+\tfrac12|V|^2,
      \qquad (w,v)=U,\ a=\sqrt{\sigma_a^2/N}\,V$$

    The state ``theta`` is (networks, 2PN + PN): U neuron by neuron, each its P weights w and then its P weights v, then V output by output.
    ``likelihood`` is all of E but the Gaussians, so that samplers which treat a standard normal prior apart need not know of the decay.

    Args:
        problem: whole width.
        datasets, chains: there are no random data; the ensemble has datasets * chains independent networks.
        device, dtype: where and how to compute.
        targets: another table (1 or networks, P, P, P), by output and pair; None: that of addition.
    """

    kernels = None

    def __init__(self, problem: ModularAddition, datasets: int = 1, chains: int = 1, device: str = "cpu", dtype: str = "float32", targets=None):
        require_whole(problem)
        self.problem, self.device, self.dtype = problem, torch.device(device), getattr(torch, dtype)
        self.chains, self.networks = chains, datasets * chains
        p, width = problem.modulus, problem.width
        self.size = 3 * p * width
        self.scale_a = math.sqrt(problem.readout_variance / width)
        self.addition = targets is None
        self.targets = (table(p, self.dtype) if self.addition else torch.as_tensor(targets, dtype=self.dtype)).to(self.device)

    def unpack(self, theta):
        """Views (U, V): whitened input weights (networks, N, 2, P), first w then v, and readouts (networks, P, N)."""
        p, width = self.problem.modulus, self.problem.width
        return theta[:, : 2 * p * width].view(-1, width, 2, p), theta[:, 2 * p * width :].view(-1, p, width)

    def weights(self, theta):
        """The network's own weights (networks, N, 2, P) and readouts (networks, P, N)."""
        u, v = self.unpack(theta)
        return u, self.scale_a * v

    def decay(self, u):
        r"""$\sum_i\Gamma[w_i]$ (networks,) float64 and its gradient in u (networks, N, 2, P).

        With $F_k=\sum_nw_ne^{-2\pi ikn/P}$ and $|w_k|=|F_k|/P$, $\partial\Gamma/\partial w_n$ is $\gamma$ times the inverse transform
        of $|w_k|^4F_k$.
        """
        p, gamma = self.problem.modulus, self.problem.sextic_decay
        transform = torch.fft.rfft(u)
        power = (transform.real.square() + transform.imag.square()) / p**2
        cubes = power.pow(3).sum((1, 2), dtype=torch.float64)  # by mode
        value = p * gamma / 6 * (2 * cubes.sum(-1) - cubes[:, 0])
        return value, gamma * torch.fft.irfft(power.square() * transform, n=p)

    def likelihood(self, theta):
        """E without its Gaussians (networks,) float64 and the gradient (networks, size)."""
        gradient = torch.empty_like(theta)
        (u, v), (grad_u, grad_v) = self.unpack(theta), self.unpack(gradient)
        energy, grad_u[:] = self.decay(u)
        s2, p, width = self.problem.noise_variance, self.problem.modulus, self.problem.width
        rows = max(1, min(p, _BLOCK[self.device.type] // (p * width)))
        group = max(1, _BLOCK[self.device.type] // (p * width * rows))
        for net in torch.arange(len(theta)).split(group):
            net = slice(int(net[0]), int(net[-1]) + 1)
            w, x, a = u[net, :, 0, :, None], u[net, :, 1, None, :], self.scale_a * v[net]
            y = self.targets if len(self.targets) == 1 else self.targets[net]
            loss = 0.0
            for first in range(0, p, rows):
                r = slice(first, min(first + rows, p))
                pre = w[:, :, r] + x
                phi = (pre * pre).flatten(2)
                residual = torch.baddbmm(y[:, :, r].flatten(2), a, phi, beta=1, alpha=-1)
                loss = loss + _sum_of_squares(residual.double())
                grad_v[net].baddbmm_(residual, phi.mT, beta=0 if first == 0 else 1)
                pull = torch.bmm(a.mT, residual, out=phi).view(pre.shape).mul_(pre)
                grad_u[net, :, 0, r].sub_(pull.sum(3), alpha=2 / s2)
                grad_u[net, :, 1].sub_(pull.sum(2), alpha=2 / s2)
            energy[net] += loss / (2 * s2)
        grad_v *= -self.scale_a / s2
        return energy, gradient

    def energy_gradient(self, theta):
        """E (networks,) float64 and its gradient (networks, size)."""
        energy, gradient = self.likelihood(theta)
        return energy + 0.5 * _sum_of_squares(theta.view(self.networks, self.problem.width, -1)), gradient.add_(theta)

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(int(seed))

    def amplitudes(self, theta):
        r"""$(w_k,v_k)$ of the neuron-modes k = 1..(P-1)/2, complex (networks, N, 2, modes), with $w_n=\sum_kw_ke^{-2\pi ikn/P}$."""
        u, _ = self.unpack(theta)
        return torch.fft.rfft(u)[..., 1:].conj() / self.problem.modulus

    def prior_draw(self, seeds):
        """One exact draw from the prior, decay included, a seed (networks, size): normal modes, drawn again where the decay refuses them."""
        return torch.stack([self._prior_draw(self.generator(seed)) for seed in seeds])

    def _prior_draw(self, generator):
        p, width, gamma = self.problem.modulus, self.problem.width, self.problem.sextic_decay
        real = dict(generator=generator, dtype=torch.float64, device=self.device)
        u = torch.empty(width, 2, p, dtype=torch.float64, device=self.device)
        wanted = torch.ones(width, 2, p // 2 + 1, dtype=torch.bool, device=self.device)
        multiplicity = torch.full((p // 2 + 1,), 2.0, dtype=torch.float64, device=self.device)
        multiplicity[0] = 1.0
        modes = torch.zeros(*wanted.shape, dtype=torch.complex128, device=self.device)
        while wanted.any():
            fresh = torch.fft.rfft(torch.randn(u.shape, **real))
            chance = torch.exp(-p * gamma / 6 * multiplicity * (fresh.abs() / p) ** 6)
            taken = wanted & (torch.rand(wanted.shape, **real) < chance)
            modes, wanted = torch.where(taken, fresh, modes), wanted & ~taken
        u = torch.fft.irfft(modes, n=p)
        v = torch.randn(p * width, **real)
        return torch.cat([u.flatten(), v]).to(self.dtype)

    def droplets_draw(self, seeds, fraction: float = DROPLETS):
        r"""A start that knows the solution: a fraction of the neuron-modes is at $|w_k|^2=|v_k|^2=\sqrt{3/\gamma}$, the size of a droplet at the
        transition, with free phases; the rest is a prior draw, and the readouts are drawn given the weights."""
        theta, p = self.prior_draw(seeds), self.problem.modulus
        u, _ = self.unpack(theta)
        size = (3 / self.problem.sextic_decay) ** 0.25
        for one, seed in zip(u, seeds, strict=True):
            generator, transform = self.generator(seed + 1), torch.fft.rfft(one)
            chosen = torch.rand(len(one), 1, p // 2, generator=generator, dtype=torch.float64, device=self.device) < fraction
            phase = torch.polar(torch.ones_like(transform.real), transform.angle())[..., 1:]
            transform[..., 1:] = torch.where(chosen, p * size * phase, transform[..., 1:])
            one[:] = torch.fft.irfft(transform, n=p)
        return self.readout_draw(theta, seeds)

    def features(self, u):
        """phi = (w_n + v_m)^2 (networks, N, P^2), float64."""
        u = u.double()
        return (u[:, :, 0, :, None] + u[:, :, 1, None, :]).square_().flatten(2)

    def overlaps(self, u):
        r"""$h_{pi}=\sum_{nm}y^p_{nm}(w_{in}+v_{im})^2$ (networks, N, P), float64; for addition $2\big[(w_i*v_i)_p-\tfrac1P\sum w_i\sum v_i\big]$."""
        if not self.addition:
            return self.features(u) @ self.targets.double().flatten(2).mT
        transform = torch.fft.rfft(u.double())
        product = transform[:, :, 0] * transform[:, :, 1]
        product[..., 0] = 0
        return 2 * torch.fft.irfft(product, n=self.problem.modulus)

    def gram(self, u):
        r"""$G_{ij}=\sum_{nm}(w_{in}+v_{im})^2(w_{jn}+v_{jm})^2$ (networks, N, N), float64, without the $P^2$ features."""
        u = u.double()
        w, v = u[:, :, 0], u[:, :, 1]
        w2, v2, sw, sv = w * w, v * v, w.sum(-1, keepdim=True), v.sum(-1, keepdim=True)
        half = (w2 @ w.mT) * sv.mT + (v2 @ v.mT) * sw.mT  # sum_n w_i^2 w_j sum_m v_j + ...
        square = w2.sum(-1, keepdim=True) @ v2.sum(-1, keepdim=True).mT
        return self.problem.modulus * (w2 @ w2.mT + v2 @ v2.mT) + square + square.mT + 4 * (w @ w.mT) * (v @ v.mT) + 2 * (half + half.mT)

    def readout_moments(self, theta):
        r"""Mean (networks, P, N) of the whitened readouts given the weights, and the Cholesky factor (networks, N, N) of their precision.

        All outputs share one precision, with $\tau_a^2=\sigma_a^2/N$:
        $M=I+\frac{\tau_a^2}{\sigma^2}\Phi^T\Phi$, $\langle V_p\rangle=M^{-1}\tau_ah_p/\sigma^2$.
        """
        u, _ = self.unpack(theta)
        s2 = self.problem.noise_variance
        precision = self.scale_a**2 / s2 * self.gram(u)
        precision.diagonal(dim1=1, dim2=2).add_(1)
        factor = torch.linalg.cholesky(precision)
        return torch.cholesky_solve(self.scale_a / s2 * self.overlaps(u), factor).mT, factor

    def readout_draw(self, theta, seeds):
        """Replace the readouts by an exact draw from their Gaussian law given the input weights (a Gibbs step)."""
        mean, factor = self.readout_moments(theta)
        noise = torch.stack([
            torch.randn(mean.shape[1:], generator=self.generator(s), dtype=torch.float64, device=self.device) for s in seeds
        ])
        out = theta.clone()
        self.unpack(out)[1][:] = (mean + torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT).to(self.dtype)
        return out
