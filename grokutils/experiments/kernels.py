r"""Committee machines on labels that the kernel itself supplies, from starts part of the way to the target, and with trained readouts.

Eigenvector labels: the tangent kernel of a network at the start, on P training and T test points together and less its mean over all
entries, has the eigenvectors $v_1,v_2,\dots$, eigenvalues descending, each of length one. The labels are $v_k$ on the P points, and the
test is on the T others.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from grokutils._threads import one_thread
from grokutils.descent import recorded_steps
from grokutils.experiments._run import Run
from grokutils.problems import Committee
from grokutils.theory import committee as theory
from grokutils.theory._committee_state import loss_parts

EIGENVECTORS = Committee(dimension=100, samples=100, width=2, laziness=1.0, curvature=0.25, step_size=0.5)
ORDERS, SAMPLES, TEST_POINTS = (1, 30, 70, 100), (50, 100, 200, 400), 100
STEPS = {"figure": 25_000, "grid": 10_000}
SHARES = (0.0, 0.05, 0.1, 0.2, 0.5, 0.75, 0.95)  # of the solution in the start
SEEDS = 12


class Trained:
    """A batch of committee machines (B, N, D) under full-batch gradient descent on inputs (B, P, D) and labels (B, P) of their own.

    Args:
        readouts: (B, N) of trained readouts, $f=\\frac\\alpha N\\sum_iv_i\\phi(w_i\\cdot x)$; None: all one and fixed.
    """

    def __init__(self, problem: Committee, inputs, labels, weights, readouts=None, dtype=torch.float64):
        self.problem, self.x, self.y, self.w = problem, *(torch.tensor(np.asarray(a), dtype=dtype) for a in (inputs, labels, weights))
        self.train_readouts = readouts is not None
        self.v = torch.tensor(np.asarray(readouts), dtype=dtype) if self.train_readouts else torch.ones(self.w.shape[:2], dtype=dtype)
        self.w0, self.v0 = self.w.clone(), self.v.clone()
        self.start = self._output(self.x, self.w, self.v) if problem.centred else 0.0

    def _output(self, x, w, v):
        h = x @ w.mT
        return self.problem.laziness / self.problem.width * ((h + self.problem.curvature / 2 * h * h) @ v.unsqueeze(-1)).squeeze(-1)

    def output(self, x):
        """f (B, n) on inputs (B, n, D), less what it was at the start if the network is centred."""
        return self._output(x, self.w, self.v) - (self._output(x, self.w0, self.v0) if self.problem.centred else 0.0)

    def step(self):
        """One step of all weights, and of readouts that are trained."""
        p, eps, scale = self.problem, self.problem.curvature, self.problem.laziness / self.problem.width
        h = self.x @ self.w.mT
        phi = h + eps / 2 * h * h
        e = scale * (phi @ self.v.unsqueeze(-1)) - self.y.unsqueeze(-1)
        if p.centred:
            e -= self.start.unsqueeze(-1)
        rate = 2 * p.learning_rate * scale / self.x.shape[1]
        slope = (1 + eps * h).mul_(e).mul_(self.v.unsqueeze(1))
        if self.train_readouts:
            self.v = self.v - rate * (phi.mT @ e).squeeze(-1)
        self.w.sub_(slope.mT @ self.x, alpha=rate)

    def moments(self):
        r"""$\frac1N\sum v_iw_i$ (B, D) and $\frac1N\sum v_iw_iw_i^T$ (B, D, D) as arrays, and at the start."""
        out = []
        for w, v in ((self.w, self.v), (self.w0, self.v0)):
            vw = v.unsqueeze(-1) * w
            out += [vw.mean(1).numpy(), (vw.mT @ w / w.shape[1]).numpy()]
        return out


def _seeds(problem, seeds):
    return [problem.replace(seed=problem.seed + k) for k in range(seeds)]


def _stack(problem, seeds):
    given = [theory.draw(p) for p in _seeds(problem, seeds)]
    return given, *(np.stack([getattr(g, name) for g in given]) for name in ("inputs", "labels", "weights"))


def eigenvector_task(problem: Committee, orders=ORDERS, test_points: int = TEST_POINTS):
    """Inputs (P + T, D), initial weights (N, D) and labels (order, P + T) of one seed; see the module."""
    given = theory.draw(problem.replace(samples=problem.samples + test_points))
    kernel = theory.empirical_ntk(problem, given.weights, given.inputs)
    values, vectors = np.linalg.eigh(kernel - kernel.mean())
    return given.inputs, given.weights, vectors[:, ::-1][:, np.array(orders) - 1].T


def regression(kernel: np.ndarray, labels: np.ndarray, samples: int, floor: float = 1e-10):
    r"""Regression without a ridge with a kernel matrix on all points: mean squared errors of the first P and of the rest, and $y^TK^{-1}y$."""
    train, rest = kernel[:samples, :samples], kernel[samples:, :samples]
    inverse = np.linalg.pinv(train, rcond=floor, hermitian=True)
    a = labels[..., :samples] @ inverse
    errors = (np.mean((a @ k.T - y) ** 2, -1) for k, y in ((train, labels[..., :samples]), (rest, labels[..., samples:])))
    return *errors, (a * labels[..., :samples]).sum(-1)


def frozen(kernel, labels, samples, factor, record):
    r"""Gradient descent with a kernel matrix at rest: a mode keeps $(1-c\lambda)^t$ of its residual. Losses (step, 2) of train and rest."""
    values, vectors = np.linalg.eigh(kernel[:samples, :samples])
    values = np.where(values > values[-1] * 1e-12, values, 0.0)
    left = (1 - factor * values) ** np.asarray(record)[:, None]
    learned = np.divide(1 - left, values, out=np.zeros_like(left), where=values > 0)
    residual = labels - (learned * (vectors.T @ labels[:samples])) @ vectors.T @ kernel[:samples]
    return np.stack([(residual[:, part] ** 2).mean(1) for part in (slice(samples), slice(samples, None))], axis=1)


def eigenvector_labels(
    problem: Committee, *, steps: int, orders=ORDERS, seeds: int = SEEDS, test_points: int = TEST_POINTS,
    size: float | None = None, records: int = 60, dtype: str = "float64",
) -> xr.Dataset:
    """Networks trained on eigenvectors of their own initial kernel (Fig. 5 of Kumar et al.).

    Args:
        size: root mean square of the labels; None: eigenvectors of length one, as in the paper, hence $1/\\sqrt{P+T}$.

    Returns:
        train_loss, test_loss, and frozen_train_loss, frozen_test_loss of the same descent with the initial kernel held at rest
        (order, seed, step); and over (order, seed): lazy_test_loss, difficulty ($y^TK^{-1}y$ divided by $|y|^2$ and multiplied by
        Tr K / P), alignment (of label and kernel on the training points, eq. K8), movement (|W - W_0|^2 / |W_0|^2 at the end) and its
        part that a kernel machine needs, lazy_movement.
    """
    tasks = [eigenvector_task(p, orders, test_points) for p in _seeds(problem, seeds)]
    batch = [(order, seed) for order in range(len(orders)) for seed in range(seeds)]
    x, w = (np.stack([tasks[s][k] for _, s in batch]) for k in (0, 1))
    y = np.stack([tasks[s][2][o] for o, s in batch]) * (1.0 if size is None else size * (problem.samples + test_points) ** 0.5)
    n, record = problem.samples, recorded_steps(steps, None, np.unique(np.r_[0, np.geomspace(1, steps, records).round().astype(int)]))
    with one_thread(torch.device("cpu")), torch.no_grad():
        net = Trained(problem, x[:, :n], y[:, :n], w, dtype=getattr(torch, dtype))
        rest, target, rows = torch.as_tensor(x[:, n:], dtype=net.x.dtype), torch.as_tensor(y[:, n:], dtype=net.x.dtype), []
        for t in range(steps + 1):
            if t in record:
                rows.append([(net.output(a) - b).square().mean(1).numpy() for a, b in ((net.x, net.y), (rest, target))])
            net.step()
        moved = ((net.w - net.w0).square().sum((1, 2)) / net.w0.square().sum((1, 2))).numpy()
    kernels = [theory.empirical_ntk(problem, task[1], task[0]) for task in tasks]
    lazy = np.array([regression(kernels[s], y[b], n) for b, (_, s) in enumerate(batch)])
    still = np.array([frozen(kernels[s], y[b], n, 2 * problem.step_size / n, record) for b, (_, s) in enumerate(batch)])
    typical, power = np.array([np.trace(kernels[s][:n, :n]) / n for _, s in batch]), (y[:, :n] ** 2).sum(1)
    aligned = [y[b, :n] @ kernels[s][:n, :n] @ y[b, :n] / np.linalg.norm(kernels[s][:n, :n]) for b, (_, s) in enumerate(batch)]
    single = dict(
        lazy_test_loss=lazy[:, 1], difficulty=lazy[:, 2] / power * typical, alignment=np.array(aligned) / power, movement=moved,
        lazy_movement=lazy[:, 2] * problem.width / problem.laziness**2 / (w**2).sum((1, 2)),
    )
    losses = np.moveaxis(np.array(rows).reshape(len(record), 2, len(orders), seeds), 0, -1)
    losses = [*losses, *np.moveaxis(still.reshape(len(orders), seeds, len(record), 2), -1, 0)]
    names = ("train_loss", "test_loss", "frozen_train_loss", "frozen_test_loss")
    return xr.Dataset(
        {name: (("order", "seed", "step"), values) for name, values in zip(names, losses, strict=True)}
        | {name: (("order", "seed"), np.reshape(values, (len(orders), seeds))) for name, values in single.items()},
        {"order": list(orders), "seed": problem.seed + np.arange(seeds), "step": record},
    )


def _curves(problem, net, given, record):
    """Train until the last record; losses and the three parts of the test loss, (member, step)."""
    target, rows = np.stack([g.target for g in given]), []
    with one_thread(torch.device("cpu")), torch.no_grad():
        for t in range(record[-1] + 1):
            if t in record:
                mean, moment, mean0, moment0 = net.moments()
                if problem.centred:
                    mean, moment = mean - mean0, moment - moment0
                parts = loss_parts(problem.laziness * mean, problem.laziness * problem.curvature * moment, target)
                loss = (net.output(net.x) - net.y).square().mean(1).numpy()
                rows.append([loss, parts.test_loss, *parts, net.w.square().sum((1, 2)).numpy() ** 0.5])
            net.step()
    names = ("train_loss", "test_loss", "variance_error", "misalignment", "linear_power", "weight_norm")
    return dict(zip(names, np.moveaxis(np.array(rows), 0, -1), strict=True))


def interpolated_starts(problem: Committee, *, steps: int, shares=SHARES, seeds: int = SEEDS, records: int = 80) -> xr.Dataset:
    r"""Two neurons that start at $w_{1,2}=\pm s\beta/\sqrt{\alpha\epsilon}+(1-s)\times$random, s of the way to the solution (Fig. 10).

    Returns:
        train_loss, test_loss, variance_error, misalignment, linear_power, weight_norm (share, seed, step).
    """
    if problem.width != 2:
        raise ValueError(f"width must be 2, got {problem.width}")
    record = np.unique(np.r_[0, np.geomspace(1, steps, records).round().astype(int)])
    given, x, y, w = _stack(problem, seeds)
    solved = np.stack([g.beta[0] / np.sqrt(problem.laziness * problem.curvature) for g in given])
    solved = np.stack([solved, -solved], axis=1)
    start = np.concatenate([s * solved + (1 - s) * w for s in shares])
    net = Trained(problem, np.tile(x, (len(shares), 1, 1)), np.tile(y, (len(shares), 1)), start)
    found = _curves(problem, net, given * len(shares), record)
    shape = (len(shares), seeds, len(record))
    return xr.Dataset(
        {name: (("share", "seed", "step"), values.reshape(shape)) for name, values in found.items()},
        {"share": list(shares), "seed": problem.seed + np.arange(seeds), "step": record},
    )


def trained_readouts(problem: Committee, *, steps: int, seeds: int = SEEDS, records: int = 80) -> xr.Dataset:
    """Readouts $v_i\\sim N(0,1)$ at the start, trained with the weights (Fig. 11); variables as of ``interpolated_starts`` over (seed, step)."""
    record = np.unique(np.r_[0, np.geomspace(1, steps, records).round().astype(int)])
    given, x, y, w = _stack(problem, seeds)
    v = np.stack([np.random.default_rng([p.seed, 4]).standard_normal(problem.width) for p in _seeds(problem, seeds)])
    found = _curves(problem, Trained(problem, x, y, w, v), given, record)
    return xr.Dataset({k: (("seed", "step"), a) for k, a in found.items()}, {"seed": problem.seed + np.arange(seeds), "step": record})


def _seconds(problem, steps, seeds=SEEDS, orders=(1,), shares=(1,), **_):
    return steps * seeds * len(orders) * len(shares) * problem.samples * problem.dimension * 5e-9


for _function in (eigenvector_labels, interpolated_starts, trained_readouts):
    _function.version, _function.seconds = 1, _seconds


def kernels(figure: int | None = None) -> list[Run]:
    """The runs of one figure of Kumar et al., 5, 10, 11 or 19; None: all."""
    if figure is None:
        return [run for k in (5, 10, 11, 19) for run in kernels(k)]
    if figure == 5:
        return [Run(EIGENVECTORS, dict(steps=STEPS["figure"], orders=ORDERS, size=size), eigenvector_labels) for size in (None, 1.0)]
    if figure == 19:
        grid = [EIGENVECTORS.replace(samples=n) for n in SAMPLES]
        return [Run(p, dict(steps=STEPS["grid"], orders=ORDERS, records=30, dtype="float32"), eigenvector_labels) for p in grid]
    if figure == 10:
        return [Run(Committee.paper(4), dict(steps=20_000, shares=SHARES), interpolated_starts)]
    if figure == 11:
        return [Run(Committee.paper(4, step_size=0.05), dict(steps=100_000), trained_readouts)]
    raise ValueError(f"figure must be one of 5, 10, 11, 19, got {figure!r}")
