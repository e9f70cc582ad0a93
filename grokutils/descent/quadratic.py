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

    Args:
        masks: boolean tables (members, P, P): which pairs each member is trained on, at least one each.
    """

    def __init__(self, masks, dtype: torch.dtype = torch.float32, device="cpu"):
        masks = np.asarray(masks)
        if masks.ndim != 3 or masks.dtype != bool or masks.shape[1] != masks.shape[2]:
            raise ValueError(f"masks must be boolean of shape (members, P, P), got {masks.dtype} of shape {masks.shape}")
        if not masks.any(axis=(1, 2)).all():
            raise ValueError("masks must leave every member at least one training pair")
        self.modulus, self.dtype, self.device = masks.shape[-1], dtype, torch.device(device)
        self.masks = torch.as_tensor(masks.reshape(len(masks), -1), device=self.device)
        self.pairs = [(torch.as_tensor(n, device=self.device), torch.as_tensor(m, device=self.device)) for n, m in map(np.nonzero, masks)]
        n = torch.arange(self.modulus, device=self.device)
        self.sums = ((n[:, None] + n) % self.modulus).reshape(-1)

    def _residual(self, z, a, sums):
        """f - y (pairs, P) of one member, from its hidden units (pairs, N)."""
        f = z @ a.T
        f += 1 / self.modulus
        f[torch.arange(len(sums), device=self.device), sums] -= 1
        return f

    def select(self, members):
        """The task of some members."""
        return QuadraticTask(self.masks[members].reshape(-1, self.modulus, self.modulus).cpu().numpy(), self.dtype, self.device)

    def gradients(self, parameters, into, step):
        """Gradients by hand, one member after another: the working set of one fits the cache."""
        w, v, a = parameters.values()
        out = [x.zero_() for x in into.values()]
        for b, (n, m) in enumerate(self.pairs):
            h = w[b].index_select(0, n).add_(v[b].index_select(0, m))
            z = h * h
            r = self._residual(z, a[b], (n + m) % self.modulus).div_(len(n))
            torch.mm(r.T, z, out=out[2][b])
            g = torch.mm(r, a[b], out=z).mul_(h).mul_(2)
            out[0][b].index_add_(0, n, g)
            out[1][b].index_add_(0, m, g)

    def measure(self, parameters):
        """Mean over pairs of the squared error summed over outputs (1 - 1/P for a network that is zero), and accuracies."""
        rows = []
        for b, (w, v, a) in enumerate(zip(*parameters.values(), strict=True)):
            r = self._residual((w[:, None] + v).square_().reshape(-1, w.shape[1]), a, self.sums)
            r[torch.arange(len(r), device=self.device), self.sums] += 1  # back to the output, but for a constant
            right = r.argmax(dim=1) == self.sums
            r[torch.arange(len(r), device=self.device), self.sums] -= 1
            loss, train = r.square_().sum(dim=1), self.masks[b]
            rows.append(torch.stack([x[part].to(r.dtype).mean() for x in (loss, right) for part in (train, ~train)]))
        names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
        return dict(zip(names, torch.stack(rows, dim=1), strict=True))


def initial_parameters(problem: AdditionTask, seeds, scale: float, dtype=torch.float32, device="cpu") -> dict[str, torch.Tensor]:
    """Gaussian w, v, a of a standard deviation, each (members, P, N); a member depends on its own seed alone."""
    draws = [np.random.default_rng([seed, 0]).standard_normal((3, problem.modulus, problem.width)) for seed in seeds]
    names = ("layers.w", "layers.v", "layers.a")
    return {name: torch.as_tensor(scale * x, dtype=dtype, device=device) for name, x in zip(names, np.stack(draws, axis=1), strict=True)}


def train(
    problem: AdditionTask, seeds=4, steps: int = 2000, optimiser: GradientDescent | AdamW | None = None, *,
    initial_scale: float = 0.1, masks=None, every: int = 10, record=None, dtype: str = "float32", device: str = "cpu", progress: bool = True,
) -> xr.Dataset:
    """Train an ensemble of quadratic networks on parts of the addition table, full batch.

    Args:
        problem: modulus, width and training fraction.
        seeds: seeds of the members, or how many (0, 1, ...): a seed decides initial weights and training set.
        steps: of the optimiser.
        optimiser: None: ``GradientDescent(5.0, momentum=0.9, weight_decay=1e-4)``. Hyperparameters may have an entry for each member.
        initial_scale: standard deviation of every weight at the start.
        masks: training sets (members, P, P) instead of the random ones of ``problem``.
        every, record: measure every so many steps, or at the steps given.
        dtype, device: "float32" or "float64"; the device of the tensors.
        progress: show a bar over steps.

    Returns:
        Dataset with train_loss, test_loss, train_accuracy, test_accuracy (member, step) and the final ``weights``
        (member, neuron, input) with 2P inputs, ``readout`` (member, output, neuron), ``mask`` (member, n, m).

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
    optimiser = GradientDescent(5.0, momentum=0.9, weight_decay=1e-4) if optimiser is None else optimiser
    kind = getattr(torch, dtype)
    parameters = initial_parameters(problem, seeds, positive("initial_scale", initial_scale), kind, device)
    found = descend(QuadraticTask(masks, kind, device), parameters, optimiser, int(steps), record, progress=progress)
    found.pop("last_step")
    w, v, a = (p.cpu().numpy() for p in parameters.values())
    return xr.Dataset(
        {name: (("member", "step"), values) for name, values in found.items()}
        | {
            "weights": (("member", "neuron", "input"), np.concatenate([w, v], axis=1).transpose(0, 2, 1)),
            "readout": (("member", "output", "neuron"), a),
            "mask": (("member", "n", "m"), masks),
        },
        coords={"member": seeds, "step": record},
        attrs=dict(
            modulus=problem.modulus, width=problem.width, training_fraction=problem.training_fraction, optimiser=repr(optimiser),
            initial_scale=float(initial_scale), steps=int(steps), dtype=dtype,
        ),
    )
