"""The teacher-student posterior in whitened coordinates: data, energy, gradient, prior and exact readout draws."""

from __future__ import annotations

import math

import numpy as np
import torch

from grokutils.hermite import hermite
from grokutils.problems import TeacherStudent

# Elements of one block of pre-activations: on a CPU it should stay in the cache, on a GPU it should fill the device.
_BLOCK = {"cpu": 300_000, "cuda": 2**27}


def seed_of(seed: int, *key: int) -> int:
    """A 63-bit seed for the stream ``key`` of the experiment ``seed``; streams are independent and do not depend on batching."""
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0] >> 1)


def draw_data(problem: TeacherStudent, datasets: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""Draw inputs $x\sim N(0,I_d)$ and targets $y=\sum_k c_kH_k(x_1)$ (the teacher's direction is the first axis, eq. 1).

    Returns:
        inputs (datasets, n, d) and targets (datasets, n), float64. Data set j depends on (seed, j) alone.

    Raises:
        ValueError: sizes are not whole (see ``problem.rounded()``).
    """
    require_whole(problem)
    inputs = np.stack([
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, j))).standard_normal((problem.samples, problem.dimension))
        for j in range(datasets)
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
    """A function pre -> (phi, phi', factor) with the slope up to the constant factor; may overwrite ``pre``."""
    if problem.phi.name == "erf":
        return lambda pre: (torch.erf(pre), pre.square_().neg_().exp_(), 2 / math.sqrt(math.pi))
    if problem.phi.name == "tanh":

        def tanh(pre):
            phi = torch.tanh(pre)
            return phi, 1 - phi.square(), 1.0

        return tanh
    if problem.phi.name == "relu":
        return lambda pre: (torch.relu(pre), (pre > 0).to(pre.dtype), 1.0)
    function = problem.phi.torch_function
    if function is None:
        raise ValueError(f"activation {problem.phi.name!r} has no torch_function, so it cannot be sampled")

    def by_autograd(pre):
        with torch.enable_grad():
            pre = pre.detach().requires_grad_(True)
            phi = function(pre)
            (slope,) = torch.autograd.grad(phi.sum(), pre)
        return phi.detach(), slope, 1.0

    return by_autograd


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
        self._slope = value_and_slope(problem)
        self._blocks = self._plan()

    def _plan(self):
        """Blocks (networks, rows, data) small enough for the cache; small networks share a batched product."""
        n, width, budget = self.problem.samples, self.problem.width, _BLOCK[self.device.type]
        rows = min(n, max(64, budget // width))
        group = max(1, budget // (rows * width))
        blocks = []
        for first in range(0, self.networks, group):
            net = slice(first, min(first + group, self.networks))
            index = torch.arange(net.start, net.stop, device=self.device) // self.chains
            x, y = self.inputs[index], self.targets[index]  # a copy a group: n d values a network, as much as the network itself
            blocks += [(net, x[:, r : r + rows], y[:, r : r + rows]) for r in range(0, n, rows)]
        return blocks

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
        weights, readouts = self.weights(theta)
        gradient = torch.zeros_like(theta)
        grad_u, grad_v = self.unpack(gradient)
        energy = torch.zeros(self.networks, dtype=torch.float64, device=self.device)
        for net, x, y in self._blocks:
            a = readouts[net].unsqueeze(-1)
            phi, slope, factor = self._slope(x @ weights[net].transpose(1, 2))
            residual = phi @ a - y.unsqueeze(-1)
            energy[net] += residual.square().sum((1, 2), dtype=torch.float64)
            grad_v[net] += (phi.transpose(1, 2) @ residual).squeeze(-1)
            # scaling the rows of x costs n d, scaling phi' would cost n N
            grad_u[net] += factor * a * (slope.transpose(1, 2) @ (residual * x))
        s2 = self.problem.noise_variance
        grad_u *= self.scale_w / s2
        grad_v *= self.scale_a / s2
        return energy / (2 * s2), gradient

    def energy_gradient(self, theta):
        """E (networks,) float64 and its gradient (networks, size), the prior included."""
        energy, gradient = self.likelihood(theta)
        return energy + 0.5 * theta.square().sum(1, dtype=torch.float64), gradient.add_(theta)

    def outputs(self, theta, inputs=None):
        """f at the training inputs (networks, n), or at ``inputs`` (points, d) shared by all networks (networks, points)."""
        weights, readouts = self.weights(theta)
        if inputs is not None:
            x = torch.as_tensor(inputs, dtype=self.dtype, device=self.device)
            return torch.stack([self._slope(x @ w.T)[0] @ a for w, a in zip(weights, readouts, strict=True)])
        out, row = torch.empty(self.networks, self.problem.samples, dtype=self.dtype, device=self.device), 0
        for net, x, _ in self._blocks:
            out[net, row : row + x.shape[1]] = (self._slope(x @ weights[net].transpose(1, 2))[0] @ readouts[net].unsqueeze(-1)).squeeze(-1)
            row = (row + x.shape[1]) % self.problem.samples
        return out

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
        weights, _ = self.weights(theta)
        s2, width = self.problem.noise_variance, self.problem.width
        precision = torch.eye(width, dtype=torch.float64, device=self.device).repeat(self.networks, 1, 1)
        shift = torch.zeros(self.networks, width, dtype=torch.float64, device=self.device)
        for net, x, y in self._blocks:
            phi = self._slope(x @ weights[net].transpose(1, 2))[0]
            precision[net] += self.scale_a**2 / s2 * (phi.transpose(1, 2) @ phi).double()
            shift[net] += self.scale_a / s2 * (phi.transpose(1, 2) @ y.unsqueeze(-1)).squeeze(-1).double()
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
