"""How embeddings move while decoders learn: curves to be compared with the effective theory of Liu et al."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from grokutils.descent import AdamW, GradientDescent, Perceptron, descend, representation
from grokutils.experiments._run import Run
from grokutils.experiments.representation import SECONDS, training_sets
from grokutils.problems import ToyAddition

SEEDS, CONTROLS = 40, 12
STARTS, DECODERS = 12, 5


def embedding_curves(
    problem: ToyAddition, pairs: int = 45, seeds: int = SEEDS, decoders: int = 1, *, embedding_rate: float = 1e-3, decoder_rate: float = 1e-4,
    embedding_scale: float = 1.0, plain: bool = False, steps: int = 2000, every: int = 40, width: int = 200,
) -> xr.Dataset:
    """Embeddings (seed, decoder, step, symbol) of networks in one dimension, and their losses on the training set.

    A seed has one training set and one start of the embeddings; each of its decoders has its own weights and random vectors for the
    classes. Decoder 0 makes the network that ``representation.train`` makes from this seed. With ``plain`` the embeddings follow gradient
    descent instead of Adam.
    """
    sets = [chosen for chosen in training_sets(problem, pairs, range(seeds)) for _ in range(decoders)]
    start = np.repeat([embedding_scale * np.random.default_rng([s, 0]).uniform(-0.5, 0.5, (problem.symbols, 1)) for s in range(seeds)], decoders, 0)
    members = [seed + 1000 * k for seed in range(seeds) for k in range(decoders)]
    network = Perceptron((1, width, width, representation.TEMPLATE_SIZE), "tanh")
    templates = np.stack([np.random.default_rng([m, 2]).standard_normal((problem.sums, representation.TEMPLATE_SIZE)) for m in members])
    masks = representation.masks_of(problem, sets)
    task = representation.RepresentationTask(problem, masks, network, torch.as_tensor(templates, dtype=torch.float32), seeds=members)
    parameters = {"embedding": torch.as_tensor(start, dtype=torch.float32)} | network.initial(members)
    optimisers = {"embedding": (GradientDescent if plain else AdamW)(embedding_rate), "decoder": AdamW(decoder_rate)}
    record = np.arange(0, steps + 1, every)
    found = descend(task, parameters, optimisers, steps, record, progress=False)
    axes, shape = ("seed", "decoder", "step"), (seeds, decoders, len(record))
    data = {
        "embedding": ((*axes, "symbol"), found["embedding"].reshape(*shape, -1)),
        "train_loss": (axes, found["train_loss"].reshape(shape)), "train_accuracy": (axes, found["train_accuracy"].reshape(shape)),
        "training": (("seed", "pair"), masks[::decoders]),
    }
    return xr.Dataset(data, dict(seed=np.arange(seeds), decoder=np.arange(decoders), step=record))


embedding_curves.version = 1
embedding_curves.seconds = lambda problem, pairs=45, seeds=SEEDS, decoders=1, steps=2000, **_: SECONDS * seeds * decoders * steps


def effective_theory() -> list[Run]:
    """Figure 4c, d over many seeds, and what the time scale depends on: scale and rate of the embeddings, the optimiser, the decoder."""
    settings = [
        dict(seeds=SEEDS), dict(seeds=CONTROLS, embedding_scale=0.5), dict(seeds=CONTROLS, embedding_scale=2.0),
        dict(seeds=CONTROLS, embedding_rate=3e-4), dict(seeds=CONTROLS, embedding_rate=3e-3),
        dict(seeds=STARTS, decoders=DECODERS, steps=1400), dict(seeds=SEEDS, embedding_rate=0.1, plain=True),
        dict(seeds=CONTROLS, decoder_rate=3e-5), dict(seeds=CONTROLS, decoder_rate=3e-4),
    ]
    return [Run(ToyAddition(10), one, embedding_curves) for one in settings]
