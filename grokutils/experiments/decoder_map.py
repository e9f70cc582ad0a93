"""Two-dimensional embeddings and the map that a decoder draws of their plane (Liu et al., Fig. 2)."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from grokutils.descent import AdamW, Perceptron, descend, recorded_steps
from grokutils.descent.representation import RepresentationTask, masks_of, table_of
from grokutils.experiments._run import Run
from grokutils.problems import ToyAddition

_NETWORK = dict(members=24, fraction=0.8, width=128, layers=1, embedding_rate=1e-2, steps=10_000, embedding_scale=1.0)
CONDITIONS = {
    ("addition", "memorised"): _NETWORK | dict(modular=False, decoder_rate=1e-2, weight_decay=0.0),
    ("addition", "generalised"): _NETWORK | dict(modular=False, decoder_rate=1e-3, weight_decay=10.0),
    ("modular addition", "memorised"): _NETWORK | dict(modular=True, decoder_rate=1e-2, weight_decay=0.0),
    ("modular addition", "generalised"): _NETWORK | dict(modular=True, decoder_rate=1e-3, weight_decay=10.0),
}


class ResidueTask(RepresentationTask):
    """The class of a pair is its sum modulo the number of outputs: the sum itself if there are 2p - 1 of them, modulo p if there are p."""

    def _prepare(self):
        self.classes = self.classes % self.decoder.sizes[-1]
        super()._prepare()


def decoder_map(
    problem: ToyAddition, *, members: int, fraction: float, width: int, layers: int, embedding_rate: float, steps: int, modular: bool,
    decoder_rate: float, weight_decay: float, embedding_scale: float, activation: str = "relu", seed: int = 0, pixels: int = 81, every: int = 100,
) -> xr.Dataset:
    """Classifiers of embeddings in the plane, all with one training set, and what each decoder says at every point.

    Args:
        problem: the symbols.
        members: networks, with seeds 0, 1, ...
        fraction: of the table in the training set, which is the first of a stream of random sets that contains no sum's only pair
            outside of it, so that nothing is beyond reach.
        width, layers, activation: of the decoder's hidden part.
        embedding_rate, decoder_rate, weight_decay: of the two AdamW optimisers; embeddings do not decay.
        embedding_scale: embeddings start uniform in plus or minus half of it.
        modular: learn i + j modulo the number of symbols instead of i + j.
        steps, every: how long; when accuracies are measured.
        seed: of the training set.
        pixels: of a map's side.

    Returns:
        Dataset: train_accuracy, test_accuracy (member, step), embedding (member, symbol, coordinate) at the end, correct (member, pair),
        training (pair), and ``map`` (member, row, column): the class of the point (x, y) of ``axes`` (member, coordinate, pixel), that is of
        Dec(2 (x, y)), so that the class of a pair is read off at the midpoint of its two symbols.
    """
    p, (pairs, sums) = problem.symbols, table_of(problem)
    outputs, chosen = p if modular else 2 * p - 1, training_set(problem, fraction, seed)
    masks = np.repeat(masks_of(problem, [chosen]), members, axis=0)
    network = Perceptron((2, *[width] * layers, outputs), activation)
    start = np.stack([np.random.default_rng([member, 0]).uniform(-0.5, 0.5, (p, 2)) for member in range(members)])
    parameters = {"embedding": torch.as_tensor(embedding_scale * start, dtype=torch.float32)} | network.initial(range(members))
    task = ResidueTask(problem, masks, network, torch.zeros(members, outputs, 0))
    optimisers = {"embedding": AdamW(embedding_rate), "decoder": AdamW(decoder_rate, weight_decay=weight_decay)}
    record = recorded_steps(steps, every)
    found = descend(task, parameters, optimisers, steps, record, progress=False)
    with torch.no_grad():
        e = parameters["embedding"]
        low, high = e.amin(1), e.amax(1)
        line = torch.linspace(-0.15, 1.15, pixels)
        axes = low[..., None] + (high - low)[..., None] * line
        x, y = (axes[:, k] for k in (0, 1))
        points = torch.stack([x[:, None].expand(-1, pixels, -1), y[..., None].expand(-1, -1, pixels)], dim=-1).flatten(1, 2)
        classes = network.forward(parameters, 2 * points)[-1].argmax(-1).unflatten(1, (pixels, pixels)).to(torch.int8)
        correct = task.correct(task.outputs(parameters))
    data = {name: (("member", "step"), found[name]) for name in ("train_accuracy", "test_accuracy")}
    data |= {"embedding": (("member", "symbol", "coordinate"), e.numpy()), "axes": (("member", "coordinate", "pixel"), axes.numpy()),
             "map": (("member", "row", "column"), classes.numpy()), "correct": (("member", "pair"), correct.numpy()), "training": ("pair", masks[0])}
    return xr.Dataset(data, {"step": record, "first": ("pair", pairs[:, 0]), "second": ("pair", pairs[:, 1]), "sum": ("pair", sums)})


decoder_map.version = 1
decoder_map.gradients = lambda problem, *, members, steps, **_: members * steps
decoder_map.seconds = lambda problem, *, members, steps, **_: 1e-4 * members * steps  # one core; small matrices


def training_set(problem: ToyAddition, fraction: float, seed: int) -> np.ndarray:
    """A random share of the table, (n, 2), that has every pair whose sum no other pair has."""
    pairs, sums = table_of(problem)
    lonely = np.bincount(sums)[sums] == 1
    n, rng = round(fraction * len(pairs)), np.random.default_rng([seed, 7])
    if not lonely.sum() <= n <= len(pairs):
        raise ValueError(f"fraction must leave room for the {lonely.sum()} pairs that are alone with their sum, got {fraction!r}")
    while True:
        chosen = rng.permutation(len(pairs))[:n]
        if np.isin(np.flatnonzero(lonely), chosen).all():
            return pairs[np.sort(chosen)]


def decoder_maps() -> list[Run]:
    """Addition and modular addition of 11 symbols, memorised and generalised."""
    return [Run(ToyAddition(11), settings, decoder_map) for settings in CONDITIONS.values()]
