"""Laziness in the toy of Liu et al.: the decoder's output multiplied by alpha, embeddings slower or faster than the decoder; gradient descent."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from scipy.stats import spearmanr

from grokutils.descent import GradientDescent, Perceptron, descend, representation
from grokutils.experiments._run import Run
from grokutils.experiments.phase_sweeps import SEEDS
from grokutils.experiments.representation import _first, ideal_accuracy, quality, training_sets
from grokutils.problems import ToyAddition

LAZINESS, RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
HORIZON, PATIENCE = 2e4, 5e5  # of all runs, and of the lazy ones, in units of time (see ``lazy_training``)
SECONDS = 4.5e-5  # a step of one member of width 32 on one core
CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "rqi", "movement", "decoder_movement", "drift", "alignment")


def tangent_kernels(parameters, pairs, group: str = "decoder") -> tuple[torch.Tensor, torch.Tensor]:
    r"""The tangent kernel of sums of embeddings seen by a tanh perceptron with two hidden layers, averaged over the outputs.

    $$K(x,x')=\frac1{n_o}\sum_o\sum_k\frac{\partial f_o(x)}{\partial\theta_k}\frac{\partial f_o(x')}{\partial\theta_k}$$

    Args:
        parameters: as in ``representation.train``, ``embedding`` (members, p, d) and those of the decoder.
        pairs: (m, 2).

    Returns:
        the part from the decoder's parameters and the part from the embeddings, (members, m, m) each; alpha is left out.
    """
    embedding, pairs = parameters["embedding"], torch.as_tensor(pairs)
    weight = [parameters[f"{group}.weight{k}"] for k in range(3)]
    hot = torch.nn.functional.one_hot(pairs, embedding.shape[1]).sum(1).to(embedding)
    network = Perceptron((embedding.shape[2], weight[0].shape[2], weight[1].shape[2], weight[2].shape[2]), "tanh", group=group)
    x, first, second, _ = network.forward(parameters, hot @ embedding)

    def gram(a):
        return a.flatten(2) @ a.flatten(2).mT

    # the derivatives of all outputs with respect to what enters each tanh, and to x
    upper = weight[2].mT[:, None] * (1 - second**2)[:, :, None]
    lower = (upper @ weight[1].mT[:, None]) * (1 - first**2)[:, :, None]
    bottom = lower @ weight[0].mT[:, None]
    outputs = weight[2].shape[2]
    decoder = outputs * (gram(second) + 1) + gram(upper) * (gram(first) + 1) + gram(lower) * (gram(x) + 1)
    return decoder / outputs, gram(bottom) * (hot @ hot.T) / outputs


def centred_alignment(kernel, target):
    """The usual centred alignment of two kernels (members, m, m): 1 if they are equal up to a factor."""
    a, b = (k - k.mean(1, keepdim=True) - k.mean(2, keepdim=True) + k.mean((1, 2), keepdim=True) for k in (kernel, target))
    return (a * b).sum((1, 2)) / (a.square().sum((1, 2)) * b.square().sum((1, 2))).sqrt()


class _Watched:
    """A task whose measurements include the tangent kernel, weighted by the learning rates, and how far the parameters have moved."""

    def __init__(self, task, pairs, ratio, parameters=None, start=None):
        self.task, self.pairs, self.ratio = task, pairs, ratio
        self.start = start or {name: p.clone() for name, p in parameters.items()} | {"kernel": self._kernel(parameters)}

    def _kernel(self, parameters):
        decoder, embedding = tangent_kernels(parameters, self.pairs)
        return decoder + self.ratio[:, None, None].to(decoder) * embedding

    def gradients(self, parameters, into, step):
        self.task.gradients(parameters, into, step)

    def select(self, members):
        return _Watched(self.task.select(members), self.pairs, self.ratio[members], start={name: p[members] for name, p in self.start.items()})

    def measure(self, parameters):
        kernel, templates = self._kernel(parameters), self.task.templates[:, self.task.classes]

        def moved(names):
            squares = [[(p - q).flatten(1).square().sum(1), q.flatten(1).square().sum(1)] for n in names for p, q in [(parameters[n], self.start[n])]]
            return (sum(s[0] for s in squares) / sum(s[1] for s in squares)).sqrt()

        before = self.start["kernel"]
        return self.task.measure(parameters) | {
            "movement": moved(["embedding"]), "decoder_movement": moved([n for n in parameters if n != "embedding"]),
            "drift": (kernel - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1),
            "alignment": centred_alignment(kernel, templates @ templates.mT),
        }


def step_size(laziness: float) -> float:
    r"""$\eta_0$ for which descent is smooth at this laziness: what moves little allows long steps."""
    return min(0.1 * laziness**1.5, 0.5)


def lazy_training(
    problem: ToyAddition, laziness: float = 1.0, ratio: float = 1.0, *, horizon: float = HORIZON, rate: float | None = None,
    momentum: float = 0.9, seeds=SEEDS, pairs: int = 45, width: int = 32, records: int = 200, kept: int = 50, enough: float = 1e-4,
) -> xr.Dataset:
    r"""Centred networks whose output is multiplied by alpha, by gradient descent with the rates $\eta_D=\eta_0/\alpha^2$, $\eta_E=r\eta_0/\alpha^2$.

    Time is $\tau=\eta_0t/(1-\mu)$ after t steps with momentum $\mu$: in it outputs start to move at a speed that depends neither on
    alpha nor on the step. A seed has one training set and one initial network in all runs.

    Args:
        laziness, ratio: alpha, r.
        horizon: the time at which training ends.
        rate, momentum: $\eta_0$ (None: ``step_size``), $\mu$.
        records, kept: measurements at times that grow geometrically; about how many of them are kept.
        enough: the training loss at which a member is frozen.

    Returns:
        Dataset with ``curves`` (curve, seed, time), named as in ``CURVES``; movements are relative to the initial length, ``drift`` is the
        relative change of the tangent kernel (rate-weighted), ``alignment`` its centred alignment with the labels. Over seed: first_train,
        first_test (times of an accuracy of .9, NaN if never), first_rqi (.95), last_time (when a member was frozen or the run ended) and
        ``best``, the largest test accuracy that the training pairs allow.
    """
    rate = step_size(laziness) if rate is None else rate
    unit = rate / (1 - momentum)
    steps = round(horizon / unit)
    dense = np.unique(np.r_[0, np.geomspace(max(1, 1 / unit), steps, records).round()].astype(int))
    sets, seeds = training_sets(problem, pairs, seeds), [int(s) for s in seeds]
    table, classes = representation.table_of(problem)
    network = Perceptron((1, width, width, representation.TEMPLATE_SIZE), "tanh")
    draws = {k: [np.random.default_rng([seed, k]) for seed in seeds] for k in (0, 2)}
    parameters = {"embedding": torch.as_tensor(np.stack([g.uniform(-0.5, 0.5, (problem.symbols, 1)) for g in draws[0]]), dtype=torch.float32)}
    parameters |= network.initial(seeds)
    shape = (classes.max() + 1, representation.TEMPLATE_SIZE)
    templates = torch.as_tensor(np.stack([g.standard_normal(shape) for g in draws[2]]), dtype=torch.float32)
    task = representation.RepresentationTask(problem, representation.masks_of(problem, sets), network, templates, seeds=seeds)
    task.centre, task.laziness = task.outputs(parameters), torch.full((len(seeds), 1, 1), float(laziness))
    task._prepare()
    watched = _Watched(task, table, torch.full((len(seeds),), float(ratio)), parameters)
    optimisers = {"embedding": GradientDescent(ratio * rate / laziness**2, momentum), "decoder": GradientDescent(rate / laziness**2, momentum)}
    found = descend(watched, parameters, optimisers, steps, dense, stop=lambda m: torch.as_tensor(m["train_loss"]) < enough, progress=False)
    found["rqi"] = quality(problem, found.pop("embedding"))
    last = found.pop("last_step")
    for name, curve in found.items():  # a member that is done stays where it is
        place = np.minimum(np.arange(len(dense)), np.searchsorted(dense, last)[:, None])
        found[name] = np.take_along_axis(curve, place, 1)
    time = dense * unit
    firsts = {f"first_{n}": ("seed", _first(found[k], level, time)) for n, k, level in (
        ("train", "train_accuracy", 0.9), ("test", "test_accuracy", 0.9), ("rqi", "rqi", 0.95))}
    best = [(round(problem.table_size * ideal_accuracy(problem, s)) - pairs) / (problem.table_size - pairs) for s in sets]
    pick = np.unique(np.r_[0, np.linspace(1, len(dense) - 1, kept).round()].astype(int))
    curves = np.stack([found[name][:, pick] for name in CURVES]).astype(np.float32)
    data = {"curves": (("curve", "seed", "time"), curves), "best": ("seed", best), "last_time": ("seed", last * unit)} | firsts
    attributes = dict(laziness=laziness, ratio=ratio, rate=rate, momentum=momentum, horizon=horizon, width=width, pairs=pairs)
    return xr.Dataset(data, {"curve": list(CURVES), "seed": seeds, "time": time[pick]}, attributes)


lazy_training.version = 1
lazy_training.seconds = lambda problem, laziness=1.0, ratio=1.0, *, horizon=HORIZON, seeds=SEEDS, **_: (
    SECONDS * len(seeds) * horizon / step_size(laziness) / 10 + 5)


def lazy_toy(sweep: str | None = None) -> list[Run]:
    """Runs at every laziness ("laziness", ratio 1) or at every ratio of the learning rates ("ratio", laziness 1); None: all, each once."""
    if sweep is None:
        return list({run.key: run for name in ("laziness", "ratio") for run in lazy_toy(name)}.values())
    if sweep == "laziness":
        settings = [dict(laziness=a, ratio=1.0, horizon=PATIENCE if a >= 4 else HORIZON) for a in LAZINESS]
    elif sweep == "ratio":
        settings = [dict(laziness=1.0, ratio=r, horizon=HORIZON) for r in RATIOS]
    else:
        raise ValueError(f"sweep must be 'laziness', 'ratio' or None, got {sweep!r}")
    return [Run(ToyAddition(10), s, lazy_training) for s in settings]


def ends(sets: list[xr.Dataset]) -> xr.Dataset:
    """What the runs of a sweep have come to: the last value of every curve and the times, over (condition, seed)."""
    times = ("first_train", "first_test", "first_rqi", "best")
    last = [ds.curves.isel(time=-1, drop=True).to_dataset("curve").assign({n: ds[n] for n in times}) for ds in sets]
    knobs = [[ds.attrs[knob] for knob in ("laziness", "ratio")] for ds in sets]
    return xr.concat(last, "condition").assign(knobs=(("condition", "knob"), knobs), knob=["laziness", "ratio"])


def _centres(movement, accuracy):
    """Of a sweep (condition, seed): mean logarithm of the movement, mean accuracy, in the order of the movement."""
    x, y = np.log(movement).mean(1), accuracy.mean(1)
    return x[(order := np.argsort(x))], y[order]


def laziness_verdict(
    laziness: list[xr.Dataset], ratio: list[xr.Dataset], resamples: int = 1000, seed: int = 0,
) -> dict[str, tuple[float, float]]:
    r"""Does the ratio of the rates do what the inverse of the laziness does? Numbers with standard errors from resampling the seeds.

    Returns:
        ``laziness`` and ``ratio``: Spearman's rank correlation, over conditions and seeds, of the test accuracy at the end with $1/\alpha$ and
        with r; ``movement laziness``, ``movement ratio``: that with the relative movement of the embeddings, within a sweep; ``gap``: the
        accuracy of the conditions with $\\alpha>1$ less that of the other sweep at the same movement (interpolated in its logarithm), zero
        if the two sweeps collapse on the movement.
    """
    sweeps = {"laziness": ends(laziness), "ratio": ends(ratio)}

    def numbers(chosen):
        found, centres = {}, {}
        for name, e in sweeps.items():
            accuracy, movement = e.test_accuracy.values[:, chosen], e.movement.values[:, chosen]
            knob = e.knobs.sel(knob=name).values * (-1 if name == "laziness" else 1)
            found[name] = spearmanr(np.repeat(knob, accuracy.shape[1]), accuracy.ravel()).statistic
            found[f"movement {name}"] = spearmanr(movement.ravel(), accuracy.ravel()).statistic
            kept = knob < -1 if name == "laziness" else slice(None)
            centres[name] = _centres(movement[kept], accuracy[kept])
        x, y = centres["laziness"]
        return found | {"gap": float(np.mean(y - np.interp(x, *centres["ratio"])))}

    count = len(sweeps["laziness"].seed)
    generator = np.random.default_rng(seed)
    drawn = [numbers(generator.integers(0, count, count)) for _ in range(resamples)]
    return {name: (float(value), float(np.std([d[name] for d in drawn], ddof=1))) for name, value in numbers(np.arange(count)).items()}
