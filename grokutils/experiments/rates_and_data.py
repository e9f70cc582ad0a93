"""One view, rates and data: predicted and measured times of two theories; critical numbers of data, and what fixed kernels make of them."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from scipy.stats import rankdata

from grokutils.descent import AdamW, Perceptron, descend, representation
from grokutils.experiments._run import Run
from grokutils.experiments.committee import committee
from grokutils.experiments.rate import training_set_rate
from grokutils.problems import Committee, ToyAddition
from grokutils.tangent import perceptron_kernel, regress
from grokutils.theory import committee as cm
from grokutils.theory import toy_addition

SIZES = (10, 15, 20, 25, 30, 35, 40, 45, 50)
SEEDS = 12
RIDGES = (1e-4, 1e-8, 1e-12)  # over the mean diagonal of the kernel
SECONDS = 8e-5  # a step of one member of width 64 on one core
KERNELS = 2.0  # seconds for the two kernels of one member

# ---------------------------------------------------------------- L4: kernels at the start and at the end


def kernels(
    problem: ToyAddition, pairs: int, seeds: int = SEEDS, steps: int = 4000, embedding_rate: float = 1e-3, decoder_rate: float = 3e-4,
    width: int = 64,
) -> xr.Dataset:
    r"""Networks trained on random sets of pairs, and regression with their tangent kernels at the start and at the end.

    Accuracies are shares of right answers in the whole table and among the pairs not shown; a regression, without the network's own
    output added, is read off like the network, by the nearest of the random vectors. All parameters count alike in the kernels.

    Returns:
        Dataset over seed: accuracy of the network, and over (seed, ridge) start_accuracy and end_accuracy of the regressions; the same with ``seen_``
        and ``unseen_`` in front, for the pairs in and not in the training set; nullity and ideal_accuracy of the training set; rqi;
        movement, one minus the cosine of the two kernels;
        start_modes and end_modes, how many eigenvalues of the kernel over the table, summed over the outputs, exceed $10^{-8}$ of the largest.
    """
    table, classes = representation.table_of(problem)
    sets = [table[np.sort(np.random.default_rng([seed, pairs, 59]).permutation(len(table))[:pairs])] for seed in range(seeds)]
    network, kind = Perceptron((1, width, width, representation.TEMPLATE_SIZE), "tanh"), dict(dtype=torch.float64)
    draws = {k: [np.random.default_rng([s, k]) for s in range(seeds)] for k in (0, 2)}
    start = {"embedding": torch.as_tensor(np.stack([g.uniform(-0.5, 0.5, (problem.symbols, 1)) for g in draws[0]]), **kind)}
    start |= network.initial(range(seeds), 1.0, **kind)
    templates = torch.as_tensor(np.stack([g.standard_normal((problem.sums, representation.TEMPLATE_SIZE)) for g in draws[2]]), **kind)
    masks = representation.masks_of(problem, sets)
    trained = {name: p.clone().float() for name, p in start.items()}
    task = representation.RepresentationTask(problem, masks, network, templates.float())
    descend(task, trained, {"embedding": AdamW(embedding_rate), "decoder": AdamW(decoder_rate)}, steps, [0, steps], progress=False)
    trained = {name: p.double() for name, p in trained.items()}
    task = representation.RepresentationTask(problem, masks, network, templates)
    right = {"accuracy": task.correct(task.outputs(trained)).numpy()}
    picked = torch.nn.functional.one_hot(torch.as_tensor(table), problem.symbols).sum(1).double()
    movement, modes, found = [], [], {"start_accuracy": [], "end_accuracy": []}
    for k in range(seeds):
        both = []
        for name, parameters in zip(found, (start, trained)):
            one = {n: p[k] for n, p in parameters.items()}
            both.append(perceptron_kernel(network, one, picked @ one["embedding"], picked @ picked.T))
            found[name].append(torch.stack([regress(both[-1], masks[k], templates[k][classes[masks[k]]], ridge) for ridge in RIDGES]))
        a, b = both
        values = [torch.linalg.eigvalsh(torch.einsum("mknk->mn", kernel)) for kernel in both]
        modes.append([int((v > 1e-8 * v[-1]).sum()) for v in values])
        movement.append(1 - float((a * b).sum() / (a.norm() * b.norm())))
    for name, values in found.items():
        right[name] = np.stack([task.correct(v).numpy() for v in torch.stack(values, 1)], 1)  # (seed, ridge, pair)
    data = {}
    for name, values in right.items():
        dims = ("seed", "ridge") if values.ndim == 3 else "seed"
        for part, mask in (("", np.ones_like(masks)), ("unseen_", ~masks), ("seen_", masks)):
            mask = mask[:, None] if values.ndim == 3 else mask
            data[part + name] = (dims, (values & mask).sum(-1) / np.maximum(mask.sum(-1), 1))
    data |= {name: ("seed", value) for name, value in dict(
        nullity=toy_addition.nullity(problem, np.stack(sets)).astype(float), ideal_accuracy=toy_addition.ideal_accuracy(problem, np.stack(sets)),
        rqi=toy_addition.rqi(problem, trained["embedding"].numpy()), movement=np.array(movement),
        start_modes=np.array(modes, float)[:, 0], end_modes=np.array(modes, float)[:, 1],
    ).items()}
    return xr.Dataset(data, {"seed": np.arange(seeds), "ridge": list(RIDGES)}, dict(pairs=pairs, width=width, steps=steps))


kernels.version = 1
kernels.seconds = lambda problem, pairs, seeds=SEEDS, steps=4000, **_: seeds * (SECONDS * steps + KERNELS)


def rates_and_data() -> list[Run]:
    """Networks and their two kernels on training sets of nine sizes; the rates need no runs of their own."""
    return [Run(ToyAddition(10), dict(pairs=n), kernels) for n in SIZES]


def kernel_accuracies(runs: list[Run] | None = None, ridge: float = 1e-12) -> list[dict[str, float]]:
    """For each stored size: pairs, the share r, and means with standard errors over seeds of accuracies and of their paired differences."""
    rows = []
    for run in rates_and_data() if runs is None else runs:
        if (ds := run.load()) is None:
            continue
        pairs, seeds = ds.attrs["pairs"], ds.sizes["seed"]
        share = pairs / len(toy_addition.all_pairs(run.problem))
        columns = {name: ds[name].values for name in ("accuracy", "unseen_accuracy", "movement", "ideal_accuracy", "rqi", "start_modes", "end_modes")}
        for name in ("start_accuracy", "end_accuracy", "seen_start_accuracy", "unseen_start_accuracy", "seen_end_accuracy"):
            columns[name] = ds[name].values[:, RIDGES.index(ridge)]
        columns |= {"start_minus_share": columns["start_accuracy"] - share, "end_minus_network": columns["end_accuracy"] - columns["accuracy"],
                    "end_minus_start": columns["end_accuracy"] - columns["start_accuracy"], "determined": (ds.nullity.values == 2) * 1.0}
        row = dict(pairs=pairs, share=share)
        for name, values in columns.items():
            row |= {name: float(values.mean()), f"{name}_error": float(values.std(ddof=1) / seeds**0.5)}
        rows.append(row)
    return rows


# ---------------------------------------------------------------- L3: two rates


def toy_times(runs: list[Run] | None = None, quantile: float = 0.5) -> xr.Dataset:
    r"""Predicted and measured times of the toy addition networks, one row a training set of the stored ``training_set_rate``.

    Returns:
        Dataset over set: predicted $1/(\lambda_3\eta)$; measured, the step by which this quantile of the networks was linear, NaN if so
        many never were; share of the networks that became linear; pairs.
    """
    rows = []
    for run in training_set_rate() if runs is None else runs:
        if (ds := run.load()) is None:
            continue
        table = toy_addition.all_pairs(run.problem)
        rate = run.settings.get("embedding_rate", 1e-3)
        for k in range(ds.sizes["set"]):
            slow = float(toy_addition.grokking_rate(run.problem, table[ds.training.values[k].astype(bool)]))
            first = np.nan_to_num(ds["first"].values[k].astype(float), nan=np.inf)
            middle = np.quantile(first, quantile, method="inverted_cdf")
            rows.append((1 / (slow * rate), middle if np.isfinite(middle) else np.nan, np.isfinite(first).mean(), ds.attrs["pairs"]))
    names = ("predicted", "measured", "share", "pairs")
    return xr.Dataset({name: ("set", np.array(column)) for name, column in zip(names, zip(*rows))}) if rows else xr.Dataset()


def data_rate(problem: Committee, given: cm.Draw | None = None) -> tuple[float, float]:
    r"""The fastest growth of the weights of a committee machine by its training data alone: (rate, time).

    At the start of a centred network $e_\mu=-y_\mu$, hence $-G_0=\frac1P\sum_\mu y_\mu x_\mu x_\mu^T$. With its largest eigenvalue
    $\lambda$ weights grow by $1+\frac{2\eta_0\epsilon}\alpha\lambda$ a step; the size of the feature, which the logarithm needs, is
    estimated by $\hat b=2D\bar y$:

    $$t=\frac{\ln(1+\hat b/\alpha\epsilon)}{2\ln(1+\frac{2\eta_0\epsilon}\alpha\lambda)}$$
    """
    given = cm.draw(problem) if given is None else given
    x, y = given.inputs, given.labels
    size = 2 * problem.dimension * y.mean()
    largest = float(np.linalg.eigvalsh((x * y[:, None]).T @ x / len(x))[-1])
    grow = 2 * problem.step_size * problem.curvature / problem.laziness * largest
    return grow, float(np.log1p(size / (problem.laziness * problem.curvature)) / (2 * np.log1p(grow)))


def committee_times(sweeps=("laziness", "curvature", "samples", "paper_size")) -> xr.Dataset:
    """Predicted and measured times of committee machines, one row a seed of each stored run of ``committee``.

    Returns:
        Dataset over member: law (``committee.time_law`` with the seed's own target) and data (``data_rate``); train and test, the
        steps at which the loss is a tenth of its start, NaN if never; ratio of samples to dimension; point, the number of the run.
    """
    rows, seen = [], set()
    for sweep in sweeps:
        for run in committee(sweep):
            if run.key in seen or (ds := run.load()) is None:
                continue
            for k, seed in enumerate(ds.seed.values):
                p = run.problem.replace(seed=int(seed))
                given = cm.draw(p)
                times = [float(ds[f"{name}_time"].sel(share=0.1, method="nearest")[k]) for name in ("train", "test")]
                rows.append((cm.time_law(p, given), data_rate(p, given)[1], *times, p.samples / p.dimension, len(seen)))
            seen.add(run.key)
    names = ("law", "data", "train", "test", "ratio", "point")
    return xr.Dataset({name: ("member", np.array(column, float)) for name, column in zip(names, zip(*rows))}) if rows else xr.Dataset()


def log_slope(predicted, measured, groups, draws: int = 500, seed: int = 0) -> dict[str, float]:
    """Regression of log measured on log predicted, and rank correlations; intervals by resampling whole groups, NaN left out.

    Returns:
        slope, slope_low, slope_high (95 %); rank (Spearman, all together) with rank_low, rank_high; within, the mean over groups of the
        rank correlation inside a group, with within_error; scatter, the standard deviation of log measured/predicted; ratio, the
        geometric mean of measured/predicted; members.
    """
    predicted, measured, groups = (np.asarray(v, float) for v in (predicted, measured, groups))
    good = np.isfinite(predicted) & np.isfinite(measured)
    u, v, g = np.log(predicted[good]), np.log(measured[good]), groups[good]
    members = [np.flatnonzero(g == k) for k in np.unique(g)]

    def both(rows):
        a, b = u[rows], v[rows]
        return np.polyfit(a, b, 1)[0], np.corrcoef(rankdata(a), rankdata(b))[0, 1]

    rng = np.random.default_rng(seed)
    again = [both(np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])) for _ in range(draws)]
    slope, rank = both(np.arange(len(u)))
    inside = [np.corrcoef(rankdata(u[m]), rankdata(v[m]))[0, 1] for m in members if len(m) > 4 and np.ptp(u[m]) > 0]
    low, high = np.nanpercentile(again, [2.5, 97.5], axis=0) if draws else np.full((2, 2), np.nan)
    within = dict(within=float(np.mean(inside)), within_error=float(np.std(inside, ddof=1) / len(inside) ** 0.5)) if len(inside) > 1 else {}
    return dict(slope=slope, slope_low=low[0], slope_high=high[0], rank=rank, rank_low=low[1], rank_high=high[1], scatter=float((v - u).std()),
                ratio=float(np.exp((v - u).mean())), members=int(good.sum())) | within


# ---------------------------------------------------------------- L4: critical sizes


def crossing(sizes, values, errors, level: float = 0.5) -> tuple[float, float]:
    """Where values pass a level upwards for good, linearly between neighbours, and its error from those of the two; NaN if never."""
    x, v, e = (np.asarray(a, float) for a in (sizes, values, errors))
    below = np.flatnonzero(v < level)
    if below.size == 0 or below[-1] == len(v) - 1:
        return np.nan, np.nan
    k = int(below[-1])
    slope = (v[k + 1] - v[k]) / (x[k + 1] - x[k])
    part = (level - v[k]) / (v[k + 1] - v[k])
    return float(x[k] + part * (x[k + 1] - x[k])), float(np.hypot((1 - part) * e[k], part * e[k + 1]) / slope)


def committee_sizes(runs: list[Run] | None = None) -> list[dict[str, float]]:
    """For each stored number of samples: one minus the test loss over its start, of gradient descent and of the fixed kernel.

    Means and standard errors over seeds, and ``gap``, the mean and error of the paired difference.
    """
    rows = []
    for run in committee("samples") if runs is None else runs:
        if (ds := run.load()) is None:
            continue
        start = ds.test_loss.values[:, 0]
        columns = {"network": 1 - ds.test_loss.values[:, -1] / start, "kernel": 1 - ds.lazy_test_loss.values / start}
        columns["gap"] = columns["network"] - columns["kernel"]
        row = dict(samples=run.problem.samples, dimension=run.problem.dimension)
        for name, values in columns.items():
            row |= {name: float(values.mean()), f"{name}_error": float(values.std(ddof=1) / len(values) ** 0.5)}
        rows.append(row)
    return rows
