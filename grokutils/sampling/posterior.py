"""The teacher-student posterior in whitened coordinates: data, energy, gradient, prior and exact readout draws."""

from __future__ import annotations

import math

import numpy as np
import torch

from grokutils.hermite import hermite
from grokutils.problems import TeacherStudent
from grokutils.sampling import _device_loop

# Elements of one block of pre-activations: on a CPU it, phi and phi' should stay in the cache, on a GPU it should fill the device.
_BLOCK = {"cpu": 150_000, "cuda": 2**27}


def seed_of(seed: int, *key: int) -> int:
    """A 63-bit seed for the stream ``key`` of the experiment ``seed``; streams are independent and do not depend on batching."""
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0] >> 1)


def draw_data(problem: TeacherStudent, datasets: int | range = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""Draw inputs $x\sim N(0,I_d)$ and targets $y=\sum_k c_kH_k(x_1)$ (the teacher's direction is the first axis, eq. 1).

    Args:
        problem: whole sizes.
        datasets: how many, or the range of the data sets' numbers j.
        seed: of the experiment.

    Returns:
        inputs (datasets, n, d) and targets (datasets, n), float64. Data set j depends on (seed, j) alone.

    Raises:
        ValueError: sizes are not whole (see ``problem.rounded()``).
    """
    require_whole(problem)
    inputs = np.stack([
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, j))).standard_normal((problem.samples, problem.dimension))
        for j in (datasets if isinstance(datasets, range) else range(datasets))
    ])
    return inputs, sum(c * hermite(k, inputs[..., 0]) for k, c in problem.teacher.items())


def require_whole(problem: TeacherStudent) -> None:
    """Raise ValueError unless it is a TeacherStudent whose samples, dimension and width are whole numbers."""
    if not isinstance(problem, TeacherStudent):
        raise ValueError(f"problem must be a TeacherStudent, got {problem!r}")
    for name in ("samples", "dimension", "width"):
        if not isinstance(getattr(problem, name), int):
            raise ValueError(f"{name} must be a whole number to sample networks, got {getattr(problem, name)!r}; use problem.rounded()")


def value_and_slope(problem: TeacherStudent):
    """A function (pre, out) -> (phi, phi', factor) with the slope up to the constant factor; may overwrite ``pre`` and ``out``."""
    if problem.phi.name == "erf":
        # one pass for -pre^2
        return lambda pre, out: (
            torch.erf(pre, out=out), torch.addcmul(pre.new_zeros(()), pre, pre, value=-1, out=pre).exp_(), 2 / math.sqrt(math.pi)
        )
    if problem.phi.name == "tanh":
        return lambda pre, out: (torch.tanh(pre, out=out), torch.mul(out, out, out=pre).neg_().add_(1), 1.0)
    if problem.phi.name == "relu":
        return lambda pre, out: (torch.clamp(pre, min=0, out=out), pre.gt_(0), 1.0)
    function = problem.phi.torch_function
    if function is None:
        raise ValueError(f"activation {problem.phi.name!r} has no torch_function, so it cannot be sampled")

    def by_autograd(pre, out):
        with torch.enable_grad():
            pre = pre.detach().requires_grad_(True)
            phi = function(pre)
            (slope,) = torch.autograd.grad(phi.sum(), pre)
        return phi.detach(), slope, 1.0

    return by_autograd


def _sum_of_squares(x):
    """Sum over the last two axes, float64: the last in the precision of x, the one before in double."""
    return torch.linalg.vecdot(x, x).sum(1, dtype=torch.float64)


def _cut(total, piece):
    return [slice(first, min(first + piece, total)) for first in range(0, total, piece)]


class TeacherStudentPosterior:
    r"""Energy of an ensemble of networks, each with its own data set (Rubin et al., section 2.3).

    $$E(U,V)=\frac1{2\sigma^2}\sum_\mu(y_\mu-f(x_\mu))^2+\tfrac12|U|^2+\tfrac12|V|^2,\quad W=\sqrt{\sigma_w^2/d}\,U,\ a=\sqrt{\sigma_a^2/N}\,V$$

    The state ``theta`` is (networks, N d + N): U row by row, then V. Networks are ordered data set by data set.

    Args:
        problem: whole sizes.
        inputs: (datasets, n, d).
        targets: (datasets, n).
        chains: networks per data set.
        device, dtype: where and how to compute.
    """

    def __init__(self, problem: TeacherStudent, inputs, targets, chains: int = 1, device: str = "cpu", dtype: str = "float32"):
        require_whole(problem)
        self.problem, self.device, self.dtype = problem, torch.device(device), getattr(torch, dtype)
        self.inputs = torch.as_tensor(inputs, dtype=self.dtype, device=self.device)
        self.targets = torch.as_tensor(targets, dtype=self.dtype, device=self.device)
        if self.inputs.shape[1:] != (problem.samples, problem.dimension) or self.targets.shape != self.inputs.shape[:2]:
            shapes = tuple(self.inputs.shape), tuple(self.targets.shape)
            raise ValueError(f"inputs must be (datasets, n, d) and targets (datasets, n), got {shapes[0]} and {shapes[1]}")
        self.chains, self.networks = chains, chains * len(self.inputs)
        self.size = problem.width * (problem.dimension + 1)
        self.scale_w = math.sqrt(problem.weight_variance / problem.dimension)
        self.scale_a = math.sqrt(problem.readout_variance / problem.width)
        self.value_and_slope = value_and_slope(problem)
        self._groups = self._plan()
        self.kernels = None
        self.kernels = _device_loop.kernels(self)

    def _plan(self):
        """Groups of networks that share batched products, and each group's blocks (rows, x (g, d, rows), y (g, 1, rows), three buffers).

        A block's pre-activations (g, N, rows) fit the cache. All blocks share the buffers.
        """
        n, width, d, budget = self.problem.samples, self.problem.width, self.problem.dimension, _BLOCK[self.device.type]
        rows = math.ceil(n / math.ceil(n / max(64, budget // width)))
        size = max(1, budget // (rows * width))
        if size >= self.chains:
            cuts = _cut(self.networks, size // self.chains * self.chains)
        else:  # all of a group have one data set, which is then not copied
            cuts = [slice(j + c.start, j + c.stop) for j in range(0, self.networks, self.chains) for c in _cut(self.chains, size)]
        largest = max(c.stop - c.start for c in cuts) * rows
        pre, phi, scaled = (torch.empty(largest * m, dtype=self.dtype, device=self.device) for m in (width, width, d))
        # the scale of the weights is put on the data once: pre-activations are u @ x
        pieces = [(r, (self.scale_w * self.inputs[:, r]).transpose(1, 2).contiguous(), self.targets[:, None, r]) for r in _cut(n, rows)]
        groups = []
        for net in cuts:
            g, blocks = net.stop - net.start, []
            for r, x, y in pieces:
                views = (b[: g * m * x.shape[2]].view(g, m, -1) for b, m in ((pre, width), (phi, width), (scaled, d)))
                blocks.append((r, self._of_networks(x, net), self._of_networks(y, net), *views))
            groups.append((net, blocks))
        return groups

    def _of_networks(self, data, net):
        """The data of every network in the slice: a view where they have one data set in common or one each, else a copy."""
        first, last = net.start // self.chains, (net.stop - 1) // self.chains
        if first == last:
            return data[first : last + 1].expand(net.stop - net.start, -1, -1)
        return data[first : last + 1] if self.chains == 1 else data[first : last + 1].repeat_interleave(self.chains, dim=0)

    def unpack(self, theta):
        """Views (U, V) of whitened input weights (networks, N, d) and readouts (networks, N)."""
        width, d = self.problem.width, self.problem.dimension
        return theta[:, : width * d].view(-1, width, d), theta[:, width * d :]

    def weights(self, theta):
        """The network's own weights W (networks, N, d) and a (networks, N)."""
        u, v = self.unpack(theta)
        return self.scale_w * u, self.scale_a * v

    def likelihood(self, theta):
        r"""$\frac1{2\sigma^2}\sum_\mu(y_\mu-f_\mu)^2$ (networks,) float64 and its gradient (networks, size)."""
        if self.kernels is not None:
            return self.kernels.likelihood(self, theta)
        gradient = torch.empty_like(theta)
        (u, v), (grad_u, grad_v) = self.unpack(theta), self.unpack(gradient)
        readouts, s2, factor = (self.scale_a * v).unsqueeze(1), self.problem.noise_variance, 1.0
        residuals = theta.new_empty(self.networks, 1, self.problem.samples)
        for net, blocks in self._groups:
            u_g, a_g, grad_u_g, grad_v_g, residuals_g = u[net], readouts[net], grad_u[net], grad_v[net].unsqueeze(-1), residuals[net]
            for rows, x, y, pre, out, scaled in blocks:
                phi, slope, factor = self.value_and_slope(torch.bmm(u_g, x, out=pre), out)
                residual = torch.baddbmm(y, a_g, phi, beta=-1, out=residuals_g[..., rows])
                kept = 0 if rows.start == 0 else 1  # the first block overwrites
                grad_v_g.baddbmm_(phi, residual.transpose(1, 2), beta=kept)
                # scaling the columns of x costs n d, scaling phi' would cost n N
                grad_u_g.baddbmm_(slope, torch.mul(x, residual, out=scaled).transpose(1, 2), beta=kept)
        grad_u *= (factor / s2 * readouts).transpose(1, 2)
        grad_v *= self.scale_a / s2
        return _sum_of_squares(residuals.double()) / (2 * s2), gradient

    def energy_gradient(self, theta):
        """E (networks,) float64 and its gradient (networks, size), the prior included."""
        energy, gradient = self.likelihood(theta)
        # in pieces of one neuron's size, which float32 sums well
        return energy + 0.5 * _sum_of_squares(theta.view(self.networks, self.problem.width, -1)), gradient.add_(theta)

    def outputs(self, theta, inputs=None):
        """f at the training inputs (networks, n), or at ``inputs`` (points, d) shared by all networks (networks, points)."""
        u, v = self.unpack(theta)
        readouts = (self.scale_a * v).unsqueeze(1)
        if inputs is not None:
            x = self.scale_w * torch.as_tensor(inputs, dtype=self.dtype, device=self.device).T
            pieces = x.split(max(64, _BLOCK[self.device.type] // self.problem.width), dim=1)
            return torch.stack([torch.cat([(a @ self._phi(w @ piece))[0] for piece in pieces]) for w, a in zip(u, readouts, strict=True)])
        result = torch.empty(self.networks, self.problem.samples, dtype=self.dtype, device=self.device)
        for net, blocks in self._groups:
            for rows, x, _, pre, out, _ in blocks:
                result[net, rows] = torch.bmm(readouts[net], self.value_and_slope(torch.bmm(u[net], x, out=pre), out)[0]).squeeze(1)
        return result

    def _phi(self, pre):
        return self.value_and_slope(pre, torch.empty_like(pre))[0]

    def prior_draw(self, seeds):
        """One draw of theta from the prior a seed (networks, size)."""
        return torch.stack([torch.randn(self.size, generator=self.generator(s), dtype=self.dtype, device=self.device) for s in seeds])

    def teacher_draw(self, seeds, fraction: float = 0.1):
        """A start that knows the teacher: a fraction of the neurons has overlap +-1, readouts are drawn given the weights."""
        theta = self.prior_draw(seeds)
        u, _ = self.unpack(theta)
        count = max(2, round(fraction * self.problem.width))
        signs = torch.tensor([1.0, -1.0], dtype=self.dtype, device=self.device).repeat(count)[:count]
        u[:, :count, 0] = signs / self.scale_w
        return self.readout_draw(theta, seeds)

    def readout_moments(self, theta):
        r"""Mean (networks, N) and Cholesky factor of the precision of $V|U$, which is exactly Gaussian.

        $$\Lambda=I+\tau_a^2\Phi^T\Phi/\sigma^2,\qquad\langle V\rangle=\Lambda^{-1}\tau_a\Phi^Ty/\sigma^2,\qquad\tau_a^2=\sigma_a^2/N$$
        """
        u, _ = self.unpack(theta)
        s2, width = self.problem.noise_variance, self.problem.width
        precision = torch.eye(width, dtype=torch.float64, device=self.device).repeat(self.networks, 1, 1)
        shift = torch.zeros(self.networks, width, dtype=torch.float64, device=self.device)
        for net, blocks in self._groups:
            for _, x, y, pre, out, _ in blocks:
                phi = self.value_and_slope(torch.bmm(u[net], x, out=pre), out)[0]
                precision[net] += self.scale_a**2 / s2 * (phi @ phi.transpose(1, 2)).double()
                shift[net] += self.scale_a / s2 * (phi @ y.transpose(1, 2)).squeeze(-1).double()
        factor = torch.linalg.cholesky(precision)
        return torch.cholesky_solve(shift.unsqueeze(-1), factor).squeeze(-1), factor

    def readout_draw(self, theta, seeds):
        """Replace the readouts by an exact draw from their Gaussian law given the input weights (a Gibbs step)."""
        mean, factor = self.readout_moments(theta)
        noise = torch.stack([torch.randn(self.problem.width, generator=self.generator(s), dtype=torch.float64, device=self.device) for s in seeds])
        draw = mean + torch.linalg.solve_triangular(factor.transpose(1, 2), noise.unsqueeze(-1), upper=True).squeeze(-1)
        out = theta.clone()
        self.unpack(out)[1][:] = draw.to(self.dtype)
        return out

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(int(seed))
