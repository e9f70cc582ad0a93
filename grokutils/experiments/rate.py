"""How fast embeddings become linear: many training sets with the same initial networks; embeddings, labels and decoders crossed."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import xarray as xr

from grokutils.descent import AdamW, Perceptron, descend, recorded_steps, representation
from grokutils.experiments._run import Run
from grokutils.problems import ToyAddition
from grokutils.theory import toy_addition

SECONDS = 6e-5  # a step of one member of width 64 on one core
LEVEL = 0.95  # of the representation quality index


def linear(problem: ToyAddition, embedding) -> np.ndarray:
    """Which embeddings (..., p, d) have a representation quality index above .95; not those that are not finite."""
    embedding = np.asarray(embedding)
    finite = np.isfinite(embedding).all((-2, -1))
    return finite & (toy_addition.rqi(problem, np.where(finite[..., None, None], embedding, np.arange(problem.symbols)[:, None])) > LEVEL)


def first_linear(problem: ToyAddition, embedding: xr.DataArray) -> np.ndarray:
    """The first recorded step at which embeddings (member, step, symbol, coordinate) are ``linear``; NaN where they never are."""
    done = linear(problem, embedding.values)
    return np.where(done.any(-1), embedding.step.values[done.argmax(-1)], np.nan)


def determining_sets(problem: ToyAddition, pairs: int, sets: int, seed: int = 0) -> np.ndarray:
    """Random training sets of n pairs among those that determine the representation (n_0 = 2): (sets, n, 2)."""
    candidates = toy_addition.random_sets(problem, pairs, 20 * sets, seed)
    good = candidates[toy_addition.nullity(problem, candidates) == 2][:sets]
    if len(good) < sets:
        raise ValueError(f"pairs must be so many that one set in twenty determines the representation, got {pairs!r}")
    return good


def linearisation(
    problem: ToyAddition, pairs: int, sets: int = 10, seeds: int = 10, steps: int = 4000, embedding_rate: float = 1e-3, decoder_rate: float = 3e-4,
    width: int = 64, every: int = 20,
) -> xr.Dataset:
    """Every initial network on every training set: ``first`` (set, seed), steps until the index exceeds .95, NaN if never; also ``training``."""
    chosen = determining_sets(problem, pairs, sets)
    which, initial = np.divmod(np.arange(sets * seeds), seeds)

    def done(measured):
        return torch.as_tensor(linear(problem, measured["embedding"]))

    ds = representation.train(problem, [chosen[k] for k in which], list(initial), steps, embedding=AdamW(embedding_rate), decoder=AdamW(decoder_rate),
                              width=width, every=every, stop=done, progress=False)
    first = first_linear(problem, ds.embedding).reshape(sets, seeds)
    start = ds.embedding.values[:seeds, 0, :, 0]
    data = {"first": (("set", "seed"), first), "training": (("set", "pair"), ds.training.values[::seeds]), "start": (("seed", "symbol"), start)}
    names = ("width", "steps", "embedding_optimiser", "decoder_optimiser")
    return xr.Dataset(data, {"seed": np.arange(seeds)}, {name: ds.attrs[name] for name in names} | {"every": every, "pairs": pairs})


linearisation.version = 1
linearisation.seconds = lambda problem, pairs, sets=10, seeds=10, steps=4000, **_: SECONDS * sets * seeds * steps / 2


def crossed(
    problem: ToyAddition, pairs: int = 45, embeddings: int = 12, labels: int = 12, decoders: int = 3, steps: int = 2500, embedding_rate: float = 1e-3,
    decoder_rate: float = 3e-4, width: int = 64, every: int = 20,
) -> xr.Dataset:
    """One training set; every initial embedding with every set of random labels and every initial decoder.

    Dims (embedding, label, decoder): ``first``, steps until the index exceeds .95, NaN if never; and when .9 of the training pairs are right
    (NaN if the member was linear, and stopped, before). Also the initial embeddings and the labels.
    """
    (chosen,) = determining_sets(problem, pairs, 1)
    seeds = np.array(list(itertools.product(range(embeddings), range(labels), range(decoders))))
    network, kind = Perceptron((1, width, width, representation.TEMPLATE_SIZE), "tanh"), dict(dtype=torch.float32, device="cpu")
    draw = {"embedding": [np.random.default_rng([s, 0]).uniform(-0.5, 0.5, (problem.symbols, 1)) for s in range(embeddings)],
            "label": [np.random.default_rng([s, 2]).standard_normal((problem.sums, representation.TEMPLATE_SIZE)) for s in range(labels)]}
    start, templates = (torch.as_tensor(np.stack(draw[name])[seeds[:, axis]], **kind) for axis, name in enumerate(draw))
    parameters = {"embedding": start} | network.initial([int(s) for s in seeds[:, 2]], 1.0, **kind)
    task = representation.RepresentationTask(problem, representation.masks_of(problem, [chosen] * len(seeds)), network, templates)
    record = recorded_steps(steps, every)
    found = descend(task, parameters, {"embedding": AdamW(embedding_rate), "decoder": AdamW(decoder_rate)}, steps, record, progress=False,
                    stop=lambda measured: torch.as_tensor(linear(problem, measured["embedding"])))
    shape = embeddings, labels, decoders
    curves = xr.DataArray(found["embedding"], dims=("member", "step", "symbol", "coordinate"), coords={"step": record})
    accuracy = xr.DataArray(found["train_accuracy"], dims=("member", "step"), coords={"step": record})
    axes = "embedding", "label", "decoder"
    data = {"first": (axes, first_linear(problem, curves).reshape(shape)), "training": ("pair", task.masks[0].numpy()),
            "first_train": (axes, representation.first_reached(accuracy, 0.9).values.reshape(shape)),
            "start": (("embedding", "symbol"), np.stack(draw["embedding"])[..., 0]),
            "template": (("label", "sum", "output"), np.stack(draw["label"]))}
    return xr.Dataset(data, attrs=dict(width=width, steps=steps, every=every, embedding_rate=embedding_rate, decoder_rate=decoder_rate))


crossed.version = 1
crossed.seconds = lambda problem, embeddings=12, labels=12, decoders=3, steps=2500, **_: SECONDS * embeddings * labels * decoders * steps / 1.5


def training_set_rate() -> list[Run]:
    """The same ten initial networks on fifty training sets of five sizes."""
    return [Run(ToyAddition(10), dict(pairs=n), linearisation) for n in (26, 30, 36, 44, 52)]


def initial_conditions() -> list[Run]:
    """What decides whether a network becomes linear: its initial embeddings, its labels, its decoder."""
    return [Run(ToyAddition(10), {}, crossed)]
