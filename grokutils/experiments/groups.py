"""Networks with matrix embeddings on the multiplication tables of permutation groups, for several training fractions."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils.experiments._run import Run
from grokutils.problems import PermutationGroup

SIZES = (6, 9, 12, 15, 18, 21, 24, 27, 30, 33)  # training pairs of the 36 of S_3
SEEDS = 16
THRESHOLD = 0.5  # a parallelogram holds if the mean square of E_a E_b - E_c E_d is less, in units of the mean square entry of the E_a
_RECORD = (*range(0, 2000, 100), *range(2000, 100_000, 250))


def nested_sets(problem: PermutationGroup, sizes, seeds: int) -> list[np.ndarray]:
    """For each seed one random order of all pairs and of it the first n, size by size: what differs between sizes is n alone."""
    pairs = np.argwhere(np.ones((problem.symbols,) * 2, bool))
    orders = [np.random.default_rng([seed, 28]).permutation(len(pairs)) for seed in range(seeds)]
    return [pairs[np.sort(order[:n])] for n in sizes for order in orders]


def quality(problem: PermutationGroup, embedding) -> tuple[np.ndarray, np.ndarray]:
    """Share of the parallelograms that hold, and of the scatter of the products E_a E_b that lies within classes: (...) each."""
    from grokutils.theory import groups

    table, e = groups.symmetric(problem.degree)[0], np.asarray(embedding, float)
    e = e / np.sqrt((e**2).mean((-1, -2, -3), keepdims=True))
    held = groups.rqi(table, e, delta=THRESHOLD * problem.degree**2)
    first, second = np.indices(table.shape).reshape(2, -1)
    products = (e[..., first, :, :] @ e[..., second, :, :]).reshape(*e.shape[:-3], -1, problem.degree**2)
    hot = np.eye(len(table))[table.ravel()] / len(table)
    means = hot.T @ products
    centre = means.mean(-2, keepdims=True)
    between, total = len(table) * ((means - centre) ** 2).sum((-1, -2)), ((products - centre) ** 2).sum((-1, -2))
    return np.asarray(held), 1 - between / total


def trained_on_group(
    problem: PermutationGroup, sizes=SIZES, seeds: int = SEEDS, steps: int = 6000, penalty: float = 1e-3, embedding_scale: float = 0.1,
    learning_rate: float = 1e-4, weight_decay: float = 0.0,
) -> xr.Dataset:
    """Accuracies, index of representation quality and scatter (size, seed, step); embeddings and right answers at the end.

    Args:
        sizes, seeds: of training sets, see ``nested_sets``; the seed of the weights does not depend on the size.
        steps, penalty, embedding_scale: as in ``representation.train``.
        learning_rate, weight_decay: of the decoder; the embeddings have 0.001 and none.
    """
    from grokutils.descent import AdamW, representation

    sets, record = nested_sets(problem, sizes, seeds), [t for t in _RECORD if t <= steps]
    ds = representation.train(
        problem, sets, [*range(seeds)] * len(sizes), steps, embedding=AdamW(1e-3), decoder=AdamW(learning_rate, weight_decay),
        embedding_scale=embedding_scale, penalty=penalty, record=sorted({*record, steps}), progress=False,
    )
    held, within = (np.stack(x) for x in zip(*(quality(problem, e) for e in ds.embedding.values)))  # one at a time: S_4 has 6624 parallelograms
    size = np.sqrt((ds.embedding.values.astype(float) ** 2).mean((-1, -2, -3)))
    shape = (len(sizes), seeds)
    curves = dict(train_accuracy=ds.train_accuracy.values, test_accuracy=ds.test_accuracy.values, rqi=held, within=within, rms=size)
    out = {name: (("size", "seed", "step"), values.reshape(*shape, -1)) for name, values in curves.items()}
    last = ds.embedding.values[:, -1]
    out["embedding"] = ("size", "seed", "symbol", "row", "column"), last.reshape(*shape, *last.shape[1:])
    for name in ("correct", "training"):
        out[name] = ("size", "seed", "pair"), ds[name].values.astype("int8").reshape(*shape, -1)
    return xr.Dataset(out, dict(size=list(sizes), seed=np.arange(seeds), step=ds.step.values), ds.attrs)


trained_on_group.version = 1
# as measured on one core
trained_on_group.seconds = lambda problem, sizes=SIZES, seeds=SEEDS, steps=6000, **_: 8e-6 * sum(30 + n for n in sizes) * seeds * steps / 2


def permutation_networks() -> list[Run]:
    """S_3, ten training fractions, with the published code's penalty and without; five from a start ten times larger. S_4, four."""
    s3 = PermutationGroup(3)
    runs = [Run(s3, dict(penalty=penalty), trained_on_group) for penalty in (1e-3, 0.0)]
    for sizes, penalty in (((18, 21, 24, 27, 30), 1e-3), ((24,), 0.0)):
        runs.append(Run(s3, dict(sizes=sizes, penalty=penalty, embedding_scale=1.0), trained_on_group))
    return [*runs, Run(PermutationGroup(4), dict(sizes=(58, 115, 173, 288), seeds=10, steps=3000), trained_on_group)]
