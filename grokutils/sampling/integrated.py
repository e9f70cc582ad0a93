r"""The posterior of the input weights with all readouts integrated out, a few neurons moving among many that stand still.

With $C=\sigma^2I+\tau_a^2\Phi\Phi^T$, $\tau_a^2=\sigma_a^2/N$,
$$\ln p(W|D)=-\tfrac12y^TC^{-1}y-\tfrac12\ln\det C-\tfrac12\textstyle\sum_i|u_i|^2+\text{const} .$$
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Active(NamedTuple):
    r"""The active neurons of b networks: whitened weights u (b, M, d), features F (b, M, n), Z = F Phi_0 L^{-T} (b, M, N),
    moments A = F C_0^{-1} F^T (b, M, M) and B = F C_0^{-1} y (b, M, 1), log p(W|D) up to what the passive ones give (b,)."""

    u: torch.Tensor
    features: torch.Tensor
    z: torch.Tensor
    second: torch.Tensor
    first: torch.Tensor
    log_density: torch.Tensor


def choose(condition, a: Active, b: Active) -> Active:
    """Network by network, a where the condition (b,) holds, else b."""
    return Active(*(torch.where(condition.view(-1, *[1] * (x.dim() - 1)), x, y) for x, y in zip(a, b, strict=True)))


class Background:
    r"""The passive neurons of b networks, fixed, with all readouts integrated out.

    $C_0=\sigma^2I+\tau_a^2\Phi_0\Phi_0^T$ is never formed: with $LL^T=I+\tfrac{\tau_a^2}{\sigma^2}\Phi_0^T\Phi_0$,
    $C_0^{-1}=\big(I-\tfrac{\tau_a^2}{\sigma^2}\Phi_0L^{-T}L^{-1}\Phi_0^T\big)/\sigma^2$.
    """

    def __init__(self, posterior, x, y, u, passive):
        self.scale, self.tau2, self.s2 = posterior.scale_w, posterior.scale_a**2, posterior.problem.noise_variance
        self.phi, self.x, self.y = posterior.problem.phi.torch_function, x, y.unsqueeze(-1)
        self.slope = lambda pre: posterior.value_and_slope(pre, torch.empty_like(pre))
        self.features = self.evaluate(u).mul_(passive.unsqueeze(2))
        gram = self._gram()
        self.factor = torch.linalg.cholesky(gram + self._unit(gram))
        self.inverse = torch.linalg.solve_triangular(self.factor, self._unit(gram), upper=False)  # a thin product is faster than a thin solve
        self.target = self.project(self.y.mT).mT

    def evaluate(self, u):
        """Features (b, neurons, n) of whitened weights (b, neurons, d)."""
        out = torch.empty(*u.shape[:2], self.x.shape[1], dtype=u.dtype, device=u.device)
        rows = self._rows(u.shape[1])
        for r in range(0, self.x.shape[1], rows):
            out[:, :, r : r + rows] = self.phi(self.scale * u @ self.x[:, r : r + rows].mT)
        return out

    def _rows(self, width):
        return max(64, 2**18 // max(1, width * len(self.x)))

    def _gram(self):
        """tau^2 Phi_0^T Phi_0 / sigma^2, float64; only half of it needs computing."""
        f, width = self.features, self.features.shape[1]
        out = torch.zeros(len(f), width, width, dtype=torch.float64, device=f.device)
        step = max(64, -(-width // 4))
        for low in range(0, width, step):
            high = min(low + step, width)
            out[:, low:high, :high] = self.tau2 / self.s2 * (f[:, low:high] @ f[:, :high].mT)
        return out.tril_() + out.tril(-1).mT

    def project(self, rows):
        """Rows (b, m, n) times Phi_0 L^{-T}: (b, m, N), float64."""
        return (rows @ self.features.mT).double() @ self.inverse.mT

    def active(self, u, old: Active | None = None, moved=None) -> Active:
        """The active neurons at ``u``; what differs from ``old`` must be among the columns ``moved``."""
        if old is None:
            old, moved = Active(u, *self._empty(u), None), slice(None)
        _, features, z, second, first, _ = old
        features, z, second, first = features.clone(), z.clone(), second.clone(), first.clone()
        features[:, moved] = f = self.evaluate(u[:, moved])
        z[:, moved] = p = self.project(f)
        f, ratio = f.double(), self.tau2 / self.s2
        rows = (f @ features.double().mT - ratio * p @ z.mT) / self.s2
        second[:, moved], second[:, :, moved] = rows, rows.mT
        first[:, moved] = (f @ self.y.double() - ratio * p @ self.target) / self.s2
        factor, failed = torch.linalg.cholesky_ex(self._unit(second) + self.tau2 * second)
        white = torch.linalg.solve_triangular(factor, first, upper=False)
        fit = 0.5 * self.tau2 * white.square().sum((1, 2)) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        fit = torch.where(failed == 0, fit, torch.nan)  # features beyond all reason: a move that compares with nan is refused
        return Active(u, features, z, second, first, fit - 0.5 * u.square().sum((1, 2), dtype=torch.float64))

    def _empty(self, u):
        """Features, z, second and first of active neurons, to be filled."""
        b, m, real = len(u), u.shape[1], dict(dtype=torch.float64, device=u.device)
        features = torch.zeros(b, m, self.x.shape[1], dtype=u.dtype, device=u.device)
        return features, torch.zeros(b, m, self.features.shape[1], **real), torch.zeros(b, m, m, **real), torch.zeros(b, m, 1, **real)

    @staticmethod
    def _unit(like):
        return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)

    def residual(self, state: Active, keep, y=None, target=None):
        r"""$C^{-1}y$ (b, n, 1) of the network with the active neurons ``keep`` (b, M), and $(I/\tau_a^2+A)^{-1}$ of these."""
        keep = keep.double()
        y, target = (self.y, self.target) if y is None else (y, target)
        second = state.second * keep.unsqueeze(1) * keep.unsqueeze(2)
        inverse = torch.linalg.inv(self._unit(second) / self.tau2 + second)
        first = state.first if y is self.y else (state.features.double() @ y.double() - self.tau2 / self.s2 * state.z @ target) / self.s2
        readout = inverse @ (first * keep.unsqueeze(2))
        inner = self.inverse.mT @ (target - state.z.mT @ readout)
        rest = y - state.features.mT @ readout.to(y.dtype) - self.tau2 / self.s2 * (self.features.mT @ inner.to(y.dtype))
        return rest / self.s2, inverse

    def readout_draw(self, state: Active, prior, noise):
        r"""An exact draw of the whitened readouts (b, N) of the passive neurons and (b, M) of the active ones.

        Matheron's rule: from draws $v_0$ of the prior (b, N), (b, M) and $\epsilon\sim N(0,\sigma^2I)$ (b, n, 1),
        $v=v_0+\tau_a\Phi^TC^{-1}(y-\tau_a\Phi v_0-\epsilon)$.
        """
        passive, active = (v.unsqueeze(-1) for v in prior)
        tau = self.tau2**0.5
        y = self.y - noise - tau * (self.features.mT @ passive + state.features.mT @ active)
        everyone = torch.ones_like(state.u[..., 0])
        solved, _ = self.residual(state, everyone, y, self.project(y.mT).mT)
        return tuple((v + tau * f @ solved).squeeze(-1) for v, f in ((passive, self.features), (active, state.features)))
