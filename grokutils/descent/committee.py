r"""Committee machines neuron by neuron: any optimiser, Hermite activations and targets, trained readouts, given starts.

$$f(x)=\frac\alpha N\sum_{i=1}^Nv_i\,\phi(w_i\cdot x),\qquad\phi(h)=h+\frac\epsilon2h^2\quad\text{or}\quad\phi(h)=h+\frac\epsilon2\mathrm{He}_k(h)$$

Where readouts are fixed, the activation is the square and the optimiser is plain gradient descent, ``theory.committee.run`` gives the
same numbers for a fraction of the cost.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr

from grokutils.descent.loop import descend
from grokutils.descent.optimisers import GradientDescent, Optimiser
from grokutils.problems import Committee
from grokutils.theory._committee_state import check, draw
from grokutils.theory._committee_steps import recorded

_PARTS = ("variance_error", "misalignment", "linear_power")


def hermite(degree: int, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""$\mathrm{He}_k(h)$ and its derivative $k\,\mathrm{He}_{k-1}(h)$."""
    before, value = torch.zeros_like(h), torch.ones_like(h)
    for k in range(degree):
        before, value = value, h * value - k * before
    return value, degree * before


class CommitteeTask:
    r"""The mean squared error of committee machines, each with its own data, with gradients by hand.

    Parameters are ``neurons.w`` (members, N, D) and, if they are trained, ``readouts.v`` (members, N).

    Args:
        inputs, labels: of training, (members, P, D) and (members, P).
        laziness, curvature: alpha and epsilon of each member, (members,).
        degree: k of the activation $h+\frac\epsilon2\mathrm{He}_k(h)$; None: $h+\frac\epsilon2h^2$.
        start: the parameters whose output is subtracted; None: nothing is.
        target: the matrices Y of a target $\frac12x^TYx$, (members, D, D), with which the loss of the population is known where degree is
            None; or None.
        test: inputs and labels to measure the test loss on where it is not, (members, points, D) and (members, points).
        units: directions (members, R, D) of length one along which weights are measured.
        neurons, states: what to measure besides, see ``train``.
    """

    def __init__(
        self, inputs, labels, laziness, curvature, *, degree=None, start=None, target=None, test=None, units=None, neurons=False, states=False,
    ):
        self.degree, self.neurons, self.states = degree, neurons, states
        self.data = dict(x=inputs, y=labels, laziness=laziness, curvature=curvature)
        self.data |= {k: v for k, v in dict(target=target, units=units).items() if v is not None}
        self.data |= {} if test is None else dict(test_x=test[0], test_y=test[1])
        if start is not None:
            mean, moment = self.statistics(start)
            self.data |= dict(mean=mean, moment=moment, y=labels + self.output(start, inputs))
            if test is not None:
                self.data["test_y"] = test[1] + self.output(start, test[0])

    def select(self, members):
        """The task of some members."""
        task = object.__new__(CommitteeTask)
        task.degree, task.neurons, task.states = self.degree, self.neurons, self.states
        task.data = {name: value[members] for name, value in self.data.items()}
        return task

    def _activation(self, h):
        """phi and its derivative."""
        eps = self.data["curvature"][:, None, None]
        if self.degree is None:
            slope = h * eps
            return (slope / 2).add_(1).mul_(h), slope.add_(1)
        value, slope = hermite(self.degree, h)
        return h + value.mul_(eps / 2), slope.mul_(eps / 2).add_(1)

    def _sum(self, value, v):
        """alpha/N times the sum over neurons (members, points)."""
        total = value.sum(2) if v is None else torch.bmm(value, v[:, :, None])[:, :, 0]
        return total * (self.data["laziness"] / value.shape[2])[:, None]

    def output(self, parameters, inputs):
        """f (members, points), nothing subtracted."""
        h = torch.bmm(inputs, parameters["neurons.w"].transpose(1, 2))
        return self._sum(self._activation(h)[0], parameters.get("readouts.v"))

    def gradients(self, parameters, into, step):
        """Gradients by hand."""
        x, v = self.data["x"], parameters.get("readouts.v")
        h = torch.bmm(x, parameters["neurons.w"].transpose(1, 2))
        value, slope = self._activation(h)
        e = self._sum(value, v).sub_(self.data["y"])
        e.mul_((2 * self.data["laziness"] / (h.shape[1] * h.shape[2]))[:, None])
        if v is not None:
            into["readouts.v"].copy_(torch.bmm(e[:, None], value)[:, 0])
            slope.mul_(v[:, None])
        into["neurons.w"].copy_(torch.bmm(slope.mul_(e[:, :, None]).transpose(1, 2), x))

    def statistics(self, parameters):
        r"""$\bar w=\frac1N\sum_iv_iw_i$ and $M=\frac1N\sum_iv_iw_iw_i^T$."""
        w, v = parameters["neurons.w"], parameters.get("readouts.v")
        left = w if v is None else w * v[:, :, None]
        return left.mean(1), torch.bmm(left.transpose(1, 2), w) / w.shape[1]

    def _population(self, mean, moment):
        """The three parts of the loss of the population, for a quadratic network and target."""
        d, s, linear = self.data, moment, mean
        if "mean" in d:
            linear, s = linear - d["mean"], s - d["moment"]
        s = s * (d["laziness"] * d["curvature"])[:, None, None] - d["target"]
        size, trace = s.shape[-1], s.diagonal(dim1=1, dim2=2).sum(1)
        parts = (trace / size) ** 2 / 4, s.square().sum((1, 2)) / (2 * size**2), (linear * d["laziness"][:, None]).square().sum(1) / size
        return dict(zip(_PARTS, parts, strict=True))

    def measure(self, parameters):
        """Losses, norms, moments of the weights along the directions, and what was asked for besides."""
        d, w, v = self.data, parameters["neurons.w"], parameters.get("readouts.v")
        found = {"train_loss": (self.output(parameters, d["x"]) - d["y"]).square().mean(1)}
        mean, moment = self.statistics(parameters)
        if "target" in d and self.degree is None:
            parts = self._population(mean, moment)
            found |= {"test_loss": sum(parts.values())} | parts
        else:
            found["test_loss"] = (self.output(parameters, d["test_x"]) - d["test_y"]).square().mean(1)
        found["weight_norm"] = w.square().sum((1, 2)).sqrt()
        if v is not None:
            found["readout_norm"] = v.square().sum(1).sqrt()
        q = torch.bmm(d["units"], w.transpose(1, 2))  # (members, R, N)
        centre = q - q.mean(2, keepdim=True)
        variance = centre.square().mean(2)
        found |= dict(overlap_mean=q.mean(2), overlap_variance=variance, excess_kurtosis=centre.pow(4).mean(2) / variance**2 - 3)
        if self.neurons:
            found["overlap"] = q
        return found | (dict(mean=mean, moment=moment) if self.states else {})


def _each(name, value, members, minimum=0.0):
    """A number, or one for each member, as an array; ValueError names it."""
    array = np.asarray(value, dtype=float)
    if array.ndim > 1 or array.size not in (1, members) or not np.all(np.isfinite(array) & (array > minimum)):
        raise ValueError(f"{name} must be one number above {minimum:g} or one for each of {members} members, got {value!r}")
    return np.broadcast_to(array.reshape(-1), (members,)).copy()


def labels(given, inputs, target: int | None, scale: float) -> np.ndarray:
    """The target on inputs: half the squares of the draw's beta, or scaled Hermite polynomials of its directions."""
    if target is None:
        return ((inputs @ given.beta.T) ** 2).sum(1) / 2
    z = inputs @ (given.beta / np.linalg.norm(given.beta, axis=1, keepdims=True)).T * math.sqrt(inputs.shape[1])
    return scale * np.polynomial.hermite_e.hermeval(z, [0] * target + [1]).sum(1)


def train(
    problem: Committee, seeds=4, steps: int = 2000, optimiser: Optimiser | None = None, *, degree: int | None = None,
    target: int | str | None = "same", readouts: bool = False, laziness=None, curvature=None, scale=1.0, start=None, start_readouts=None,
    test: int = 2000, neurons=None, states: bool = False, every: int | None = None, record=None, dtype: str = "float64",
    device: str = "cpu", progress: bool = True,
) -> xr.Dataset:
    r"""Train an ensemble of committee machines, full batch, with data, target and weights of their own.

    Args:
        problem: sizes and parameters. Its data, target and initial weights for a seed are those of ``theory.committee.draw``.
        seeds: seeds of the members, or how many (problem.seed, problem.seed + 1, ...). A seed may occur more than once, as in a sweep.
        steps: of the optimiser.
        optimiser: None: plain gradient descent with the learning rate $\eta_0N/\alpha^2$ of each member.
        degree: None: the square, in network and target. k: the activation $h+\frac\epsilon2\mathrm{He}_k(h)$ and the target
            $s\sum_j\mathrm{He}_k(\sqrt D\,\hat\beta_j\cdot x)$, with s the problem's target_scale and $\sqrt D\,\hat\beta\cdot x\sim N(0,1)$.
        target: another degree for the target than for the activation; None: the square $s\sum_j(\beta_j\cdot x)^2$.
        readouts: train readouts $v_i\sim N(0,1)$ as well; else they are all one.
        laziness, curvature: instead of the problem's; one for each member, if wished.
        scale: sigma, a factor of all initial weights; one for each member, if wished.
        start, start_readouts: initial weights (N, D) or (members, N, D), which scale multiplies too; readouts (N,) or (members, N), which
            need ``readouts=True``.
        test: fresh test points, where the loss of the population is not known: it is if both activation and target are squares.
        neurons: steps at which the overlaps of all neurons are kept.
        states: keep $\bar w=\frac1N\sum v_iw_i$ and $M=\frac1N\sum v_iw_iw_i^T$.
        every, record: measure every so many steps, or at the steps given; by default about 200 steps that grow geometrically.
        dtype, device: "float32" or "float64"; the device of the tensors.
        progress: show a bar over steps.

    Returns:
        Dataset over (member, step), with coordinates seed, laziness, curvature, scale of the members: train_loss; test_loss, of the population
        with its parts variance_error, misalignment, linear_power, or on test points; weight_norm, readout_norm; and over (member, step,
        direction) overlap_mean, overlap_variance, excess_kurtosis of $q_i=w_i\cdot\hat\beta_j$ over the neurons. Of the end: ``weights``
        (member, neuron, input), ``readout`` (member, neuron). If asked for: ``overlap`` (member, look, direction, neuron), ``mean``, ``moment``.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """
    check(problem)
    counted = isinstance(seeds, (int, np.integer)) and not isinstance(seeds, bool)
    seeds = [problem.seed + k for k in range(seeds)] if counted else [int(s) for s in seeds]
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds must be a positive number of members or a list of non-negative seeds, got {seeds!r}")
    target = degree if target == "same" else target
    for name, value in (("degree", degree), ("target", target)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1):
            raise ValueError(f"{name} must be None or a whole number of at least 1, got {value!r}")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    record, looks = recorded(steps, every, record), None if neurons is None else recorded(steps, None, neurons)
    record = record if looks is None else np.union1d(record, looks)
    alpha = _each("laziness", problem.laziness if laziness is None else laziness, len(seeds))
    eps = _each("curvature", problem.curvature if curvature is None else curvature, len(seeds))
    sigma = _each("scale", scale, len(seeds))

    made = {s: draw(problem.replace(seed=s)) for s in dict.fromkeys(seeds)}
    draws, kind = [made[s] for s in seeds], dict(dtype=getattr(torch, dtype), device=device)
    tensor = lambda arrays: torch.as_tensor(np.stack(arrays), **kind)  # noqa: E731
    first = np.stack([d.weights for d in draws]) if start is None else _start("start", start, (len(seeds), problem.width, problem.dimension))
    parameters = {"neurons.w": torch.as_tensor(sigma[:, None, None] * first, **kind)}
    if readouts:
        v = [np.random.default_rng([s, 3]).standard_normal(problem.width) for s in seeds]
        v = np.stack(v) if start_readouts is None else _start("start_readouts", start_readouts, (len(seeds), problem.width))
        parameters["readouts.v"] = torch.as_tensor(v.copy(), **kind)
    elif start_readouts is not None:
        raise ValueError("start_readouts needs readouts=True")
    known, points = degree is None and target is None, None
    if not known:
        fresh = [np.random.default_rng([s, 4]).standard_normal((test, problem.dimension)) / math.sqrt(problem.dimension) for s in seeds]
        points = tensor(fresh), tensor([labels(d, x, target, problem.target_scale) for d, x in zip(draws, fresh)])
    task = CommitteeTask(
        tensor([d.inputs for d in draws]), tensor([labels(d, d.inputs, target, problem.target_scale) for d in draws]),
        torch.as_tensor(alpha, **kind), torch.as_tensor(eps, **kind), degree=degree,
        start={k: p.clone() for k, p in parameters.items()} if problem.centred else None,
        target=tensor([d.target for d in draws]) if known else None, test=points,
        units=tensor([d.beta / np.linalg.norm(d.beta, axis=1, keepdims=True) for d in draws]), neurons=looks is not None, states=states)
    optimiser = GradientDescent(problem.step_size * problem.width / alpha**2) if optimiser is None else optimiser
    found = descend(task, parameters, optimiser, int(steps), record, progress=progress)
    found.pop("last_step")
    return _dataset(problem, found, parameters, record, looks, dict(seed=seeds, laziness=alpha, curvature=eps, scale=sigma), dict(
        degree=str(degree), target=str(target), readouts=int(readouts), optimiser=repr(optimiser), steps=int(steps), dtype=dtype))


def _start(name, value, shape):
    """Given initial values for all members, or one set for each."""
    value = np.asarray(value, dtype=float)
    if value.shape not in (shape, shape[1:]):
        raise ValueError(f"{name} must have the shape {shape[1:]} or {shape}, got {value.shape}")
    return np.broadcast_to(value, shape)


def _dataset(problem, found, parameters, record, looks, members, attrs):
    dims = dict.fromkeys(("overlap_mean", "overlap_variance", "excess_kurtosis"), ("member", "step", "direction"))
    dims |= dict(mean=("member", "step", "i"), moment=("member", "step", "i", "j"))
    overlap = found.pop("overlap", None)
    columns = {name: (dims.get(name, ("member", "step")), values) for name, values in found.items()}
    columns["weights"] = (("member", "neuron", "input"), parameters["neurons.w"].cpu().numpy())
    if "readouts.v" in parameters:
        columns["readout"] = (("member", "neuron"), parameters["readouts.v"].cpu().numpy())
    coords = {"step": record, "member": np.arange(len(members["seed"]))} | {name: ("member", values) for name, values in members.items()}
    if looks is not None:
        columns["overlap"] = (("member", "look", "direction", "neuron"), overlap[:, np.searchsorted(record, looks)])
        coords["look"] = looks
    return xr.Dataset(columns, coords=coords, attrs=dict(problem=str(problem)) | attrs)
