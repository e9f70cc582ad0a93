"""Modular addition learnt from a part of its table by quadratic networks, with gradients by hand."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from grokutils.descent.loop import descend, recorded_steps
from grokutils.descent.optimisers import AdamW, GradientDescent
from grokutils.modular import AdditionTask
from grokutils.problems import positive


class QuadraticTask:
    r"""Half the squared error of quadratic networks, summed over the P outputs and averaged over each member's training pairs.

    $$L=\frac1{2n}\sum_{(n,m)\in\text{train}}\sum_p\bigl(f_p(n,m)-y^p_{nm}\bigr)^2,\qquad f_p(n,m)=\sum_ia_{pi}(w_{in}+v_{im})^2$$

    The inputs have two ones each, so that the product of input and weights is a sum of two rows, and the gradient of a row is
    the sum over the pairs that contain it: the one-hot vectors never appear. Parameters are ``layers.w``, ``layers.v``, ``layers.a``, each
    (members, P, N).

    With ``laziness`` the conventions are those of Kumar et al.: an output of that scale, targets of ones and zeros, and the mean squared error
    over pairs and outputs. For D = 2P inputs and N hidden units

    $$L=\frac1{nP}\sum_{(n,m)\in\text{train}}\sum_p\bigl(f_p(n,m)-\delta_{p,(n+m)\bmod P}\bigr)^2,\qquad
      f_p(n,m)=\frac\alpha{DN}\sum_ia_{pi}(w_{in}+v_{im})^2$$

    Args:
        masks: boolean tables (members, P, P): which pairs each member is trained on, at least one each.
        laziness: alpha, positive, a number or one for each member; None: the first kind of loss.
    """

    def __init__(self, masks, dtype: torch.dtype = torch.float32, device="cpu", laziness=None):
        masks = np.asarray(masks)
        if masks.ndim != 3 or masks.dtype != bool or masks.shape[1] != masks.shape[2]:
            raise ValueError(f"masks must be boolean of shape (members, P, P), got {masks.dtype} of shape {masks.shape}")
        if not masks.any(axis=(1, 2)).all():
            raise ValueError("masks must leave every member at least one training pair")
        self.modulus, self.dtype, self.device = masks.shape[-1], dtype, torch.device(device)
        self.masks = torch.as_tensor(masks.reshape(len(masks), -1), device=self.device)
        self.pairs = [(torch.as_tensor(n, device=self.device), torch.as_tensor(m, device=self.device)) for n, m in map(np.nonzero, masks)]
        self.laziness = None if laziness is None else _laziness(laziness, len(masks))
        n = torch.arange(self.modulus, device=self.device)
        self.sums = ((n[:, None] + n) % self.modulus).reshape(-1)

    def _scale(self, b, width):
        """What the sum over neurons is multiplied by."""
        return 1.0 if self.laziness is None else float(self.laziness[b]) / (2 * self.modulus * width)

    def _residual(self, z, a, sums, scale):
        """f - y (pairs, P) of one member, from its hidden units (pairs, N)."""
        f = z @ a.T
        if self.laziness is None:
            f += 1 / self.modulus
        else:
            f *= scale
        f[torch.arange(len(sums), device=self.device), sums] -= 1
        return f

    def select(self, members):
        """The task of some members."""
        masks = self.masks[members].reshape(-1, self.modulus, self.modulus).cpu().numpy()
        laziness = None if self.laziness is None else self.laziness[torch.as_tensor(members).cpu().numpy()]
        return QuadraticTask(masks, self.dtype, self.device, laziness)

    def gradients(self, parameters, into, step):
        """Gradients by hand, one member after another: the working set of one fits the cache."""
        w, v, a = parameters.values()
        out = [x.zero_() for x in into.values()]
        for b, (n, m) in enumerate(self.pairs):
            h = w[b].index_select(0, n).add_(v[b].index_select(0, m))
            z, scale = h * h, self._scale(b, h.shape[1])
            r = self._residual(z, a[b], (n + m) % self.modulus, scale)
            r.mul_(1 / len(n) if self.laziness is None else 2 * scale / (len(n) * self.modulus))
            torch.mm(r.T, z, out=out[2][b])
            g = torch.mm(r, a[b], out=z).mul_(h).mul_(2)
            out[0][b].index_add_(0, n, g)
            out[1][b].index_add_(0, m, g)

    def measure(self, parameters):
        """Losses over training and test pairs, and accuracies.

        A loss is the mean over pairs of the squared error summed over outputs (1 - 1/P for a network that is zero), and with ``laziness``
        the mean over pairs and outputs (1/P).
        """
        rows = []
        for b, (w, v, a) in enumerate(zip(*parameters.values(), strict=True)):
            r = self._residual((w[:, None] + v).square_().reshape(-1, w.shape[1]), a, self.sums, self._scale(b, w.shape[1]))
            r[torch.arange(len(r), device=self.device), self.sums] += 1  # back to the output, but for a constant
            right = r.argmax(dim=1) == self.sums
            r[torch.arange(len(r), device=self.device), self.sums] -= 1
            loss, train = r.square_().sum(dim=1) if self.laziness is None else r.square_().mean(dim=1), self.masks[b]
            rows.append(torch.stack([x[part].to(r.dtype).mean() for x in (loss, right) for part in (train, ~train)]))
        names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
        return dict(zip(names, torch.stack(rows, dim=1), strict=True))


class _Followed(QuadraticTask):
    """The same, with the weights at every measurement."""

    def select(self, members):
        task = super().select(members)
        task.__class__ = _Followed
        return task

    def measure(self, parameters):
        return super().measure(parameters) | {name.removeprefix("layers."): p.clone() for name, p in parameters.items()}


def _laziness(value, members: int) -> np.ndarray:
    array = np.asarray(value, dtype=float)
    if array.ndim > 1 or array.size not in (1, members) or not np.all((array > 0) & np.isfinite(array)):
        raise ValueError(f"laziness must be positive, one number or one for each of {members} members, got {value!r}")
    return np.broadcast_to(array.reshape(-1), (members,)).copy()


def initial_parameters(problem: AdditionTask, seeds, scale: float, dtype=torch.float32, device="cpu") -> dict[str, torch.Tensor]:
    """Gaussian w, v, a of a standard deviation, each (members, P, N); a member depends on its own seed alone."""
    draws = [np.random.default_rng([seed, 0]).standard_normal((3, problem.modulus, problem.width)) for seed in seeds]
    names = ("layers.w", "layers.v", "layers.a")
    return {name: torch.as_tensor(scale * x, dtype=dtype, device=device) for name, x in zip(names, np.stack(draws, axis=1), strict=True)}


def train(
    problem: AdditionTask, seeds=4, steps: int = 2000, optimiser: GradientDescent | AdamW | None = None, *,
    initial_scale: float | None = None, masks=None, every: int = 10, record=None, laziness=None, follow: bool = False, dtype: str = "float32",
    device: str = "cpu", progress: bool = True,
) -> xr.Dataset:
    """Train an ensemble of quadratic networks on parts of the addition table, full batch.

    Args:
        problem: modulus, width and training fraction.
        seeds: seeds of the members, or how many (0, 1, ...): a seed decides initial weights and training set.
        steps: of the optimiser.
        optimiser: hyperparameters may have an entry for each member. None: ``GradientDescent(5.0, momentum=0.9, weight_decay=1e-4)``, and with
            ``laziness`` plain gradient descent with the rate 100 / alpha^2.
        initial_scale: standard deviation of every weight at the start; None: 0.1, and with ``laziness`` 1.
        masks: training sets (members, P, P) instead of the random ones of ``problem``.
        every, record: measure every so many steps, or at the steps given.
        laziness: alpha, a number or one for each member: networks and losses as in Kumar et al., see ``QuadraticTask``.
        follow: keep the weights at every measurement.
        dtype, device: "float32" or "float64"; the device of the tensors.
        progress: show a bar over steps.

    Returns:
        Dataset with train_loss, test_loss, train_accuracy, test_accuracy (member, step) and the final ``weights``
        (member, neuron, input) with 2P inputs, ``readout`` (member, output, neuron), ``mask`` (member, n, m). With ``follow``, weights and readout
        have the dimension step after that of the member. With ``laziness``, that of each member.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """
    if not isinstance(problem, AdditionTask):
        raise ValueError(f"problem must be an AdditionTask, got {type(problem).__name__}")
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else [int(s) for s in seeds]
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds must be a positive number of members or a list of non-negative seeds, got {seeds!r}")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    record = recorded_steps(steps, every, record)
    masks = np.stack([problem.mask(s) for s in seeds]) if masks is None else np.asarray(masks)
    if masks.shape != (len(seeds), problem.modulus, problem.modulus):
        raise ValueError(f"masks must have the shape {(len(seeds), problem.modulus, problem.modulus)} of members and table, got {masks.shape}")
    lazy = laziness is not None
    if lazy:
        laziness = _laziness(laziness, len(seeds))
    if optimiser is None:
        optimiser = GradientDescent(100 / laziness**2) if lazy else GradientDescent(5.0, momentum=0.9, weight_decay=1e-4)
    initial_scale = (1.0 if lazy else 0.1) if initial_scale is None else positive("initial_scale", initial_scale)
    kind = getattr(torch, dtype)
    parameters = initial_parameters(problem, seeds, initial_scale, kind, device)
    task = (_Followed if follow else QuadraticTask)(masks, kind, device, laziness)
    found = descend(task, parameters, optimiser, int(steps), record, progress=progress)
    found.pop("last_step")
    w, v, a = (found.pop(name) for name in "wva") if follow else (p.cpu().numpy() for p in parameters.values())
    outer = ("member", "step") if follow else ("member",)
    return xr.Dataset(
        {name: (("member", "step"), values) for name, values in found.items()}
        | {
            "weights": ((*outer, "neuron", "input"), np.concatenate([w, v], axis=-2).swapaxes(-1, -2)),
            "readout": ((*outer, "output", "neuron"), a),
            "mask": (("member", "n", "m"), masks),
        }
        | ({"laziness": (("member",), laziness)} if lazy else {}),
        coords={"member": seeds, "step": record},
        attrs=dict(
            modulus=problem.modulus, width=problem.width, training_fraction=problem.training_fraction, optimiser=repr(optimiser),
            initial_scale=float(initial_scale), steps=int(steps), dtype=dtype,
        ),
    )


def tangent_kernel(weights, readout, left, right=None, laziness: float = 1.0) -> np.ndarray:
    r"""The whole tangent kernel of a lazy network between inputs and outputs, (left * P, right * P), an output's index running faster.

    $$K_{pp'}(x,x')=\Bigl(\frac\alpha{DN}\Bigr)^2\Bigl[\delta_{pp'}\sum_ih_i^2h_i'^2+4\,(x\cdot x')\sum_ia_{pi}a_{p'i}h_ih_i'\Bigr]$$

    Args:
        weights, readout: (N, 2P), (P, N).
        left, right: pairs (n, m), integers (left, 2); right None: the same.
    """
    weights, readout, left = np.asarray(weights, dtype=float), np.asarray(readout, dtype=float), np.asarray(left)
    right = left if right is None else np.asarray(right)
    p, n = readout.shape
    h, g = (weights[:, pairs[:, 0]].T + weights[:, p + pairs[:, 1]].T for pairs in (left, right))
    shared = 4.0 * ((left[:, None, 0] == right[:, 0]).astype(float) + (left[:, None, 1] == right[:, 1]))
    found = shared[:, None, :, None] * (
        (h[:, None] * readout).reshape(-1, n) @ (g[:, None] * readout).reshape(-1, n).T).reshape(len(left), p, len(right), p)
    same = h**2 @ (g**2).T
    for k in range(p):
        found[:, k, :, k] += same
    return ((laziness / (2 * p * n)) ** 2 * found).reshape(len(left) * p, -1)


def linearised(problem: AdditionTask, seeds, record, learning_rate: float = 100.0, laziness: float = 1.0) -> xr.Dataset:
    """The lazy twin of ``train(..., laziness=...)``: the same start and data, gradient descent with the initial tangent kernel, exactly.

    Args:
        seeds: as in ``train``, a list.
        record: steps, infinity for the end.
        learning_rate: of the network, divided by alpha^2 here, so that one number serves all alpha.

    Returns:
        train_loss, test_loss, train_accuracy, test_accuracy (member, step).
    """
    p, rows, record = problem.modulus, [], np.asarray(record, dtype=float)
    for seed in seeds:
        start = initial_parameters(problem, [seed], 1.0, torch.float64)
        w, v, a = (x[0].numpy() for x in start.values())
        weights, mask = np.concatenate([w, v]).T, problem.mask(seed)
        sets = [np.argwhere(mask), np.argwhere(~mask)]
        scale = laziness / (2 * p * problem.width)
        y = [np.eye(p)[x.sum(1) % p] for x in sets]
        f = [scale * (weights[:, x[:, 0]].T + weights[:, p + x[:, 1]].T) ** 2 @ a.T for x in sets]
        kernels = [tangent_kernel(weights, a, x, sets[0], laziness) for x in sets]
        size, modes = np.linalg.eigh(kernels[0])
        size = np.maximum(size, 0.0)
        error, across = modes.T @ (f[0] - y[0]).ravel(), kernels[1] @ modes
        rate = 2 * learning_rate / laziness**2 / (len(sets[0]) * p)
        row = []
        for t in record:
            kept = np.where(size * rate > 1e-12, (1 - rate * size) ** t if np.isfinite(t) else 0.0, 1.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                moved = np.where(size * rate > 1e-12, (1 - kept) / size, rate * t if np.isfinite(t) else 0.0)
            out = [y[0] + (modes @ (kept * error)).reshape(-1, p), f[1] - (across @ (moved * error)).reshape(-1, p)]
            losses = [np.mean((o - target) ** 2) for o, target in zip(out, y, strict=True)]
            row.append(losses + [np.mean(o.argmax(1) == target.argmax(1)) for o, target in zip(out, y, strict=True)])
        rows.append(row)
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    values = np.array(rows)
    return xr.Dataset({name: (("member", "step"), values[..., k]) for k, name in enumerate(names)}, coords={"member": list(seeds), "step": record})
