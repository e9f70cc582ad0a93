r"""One network that learns addition modulo P, seen by three theories: tangent kernel, relations between embeddings, Fourier modes of neurons.

The network is $f_p(x)=s\sum_ia_{pi}h_i(x)^2$ with $h_i=w_{in}+v_{im}$ for the input x = (n, m), as in ``grokutils.modular``. Everything is
taken over the whole table of P^2 inputs, the second summand running faster. ``weights`` are (N, 2P), ``readout`` (P, N).

Two inputs with the same sum modulo P are a *relation*: a parallelogram of the two tables of embeddings. A matrix over the table that is 1
where two inputs have the same sum, and 0 elsewhere, is the kernel of the task, $Y=yy^{\mathsf T}$.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import xarray as xr

from grokutils import embeddings, modular

RULE = 0.01  # mean square residual of normalised embeddings below which a parallelogram holds, as in ``theory.toy_addition``
BINS = np.linspace(0, 1, 17)  # of the histogram of concentrations


@lru_cache(maxsize=8)
def same_sum(modulus: int) -> np.ndarray:
    """The kernel Y of the task on the table (P^2, P^2): 1 where two inputs have the same sum, else 0."""
    _, sums = modular.table(modulus)
    return (sums[:, None] == sums).astype(float)


@lru_cache(maxsize=8)
def relations(modulus: int) -> np.ndarray:
    """All pairs of different inputs with the same sum, P * P(P - 1)/2 rows of two places in the table."""
    return np.argwhere(np.triu(same_sum(modulus), 1) > 0)


def preactivations(weights) -> np.ndarray:
    """h (P^2, N) on the table: the sum of the two embeddings."""
    weights = np.asarray(weights, dtype=float)
    p = weights.shape[-1] // 2
    return (weights[:, :p].T[:, None] + weights[:, p:].T).reshape(p * p, -1)


def adaptive_kernel(weights) -> np.ndarray:
    r"""$Q(x,x')=\frac1N\sum_ih_i(x)^2h_i(x')^2$ (P^2, P^2): the kernel of the hidden layer (Rubin et al.)."""
    z = preactivations(weights) ** 2
    return z @ z.T / z.shape[1]


def trace_kernel(weights, readout, scale: float = 1.0) -> np.ndarray:
    r"""The tangent kernel summed over equal outputs (P^2, P^2).

    $$\sum_p\frac{\partial f_p(x)}{\partial\theta}\cdot\frac{\partial f_p(x')}{\partial\theta}
      =s^2\Bigl[P\sum_ih_i^2h_i'^2+4\,(x\cdot x')\sum_ih_ih_i'\sum_pa_{pi}^2\Bigr]$$

    $x\cdot x'$ counts the summands, 0 to 2, that two inputs share.

    Args:
        scale: s, e.g. $\alpha/(2PN)$.
    """
    h, power = preactivations(weights), (np.asarray(readout, dtype=float) ** 2).sum(axis=0)
    p, z = np.shape(readout)[0], h**2
    n, m = modular.table(p)[0].T
    shared = (n[:, None] == n).astype(float) + (m[:, None] == m)
    return scale**2 * (p * z @ z.T + 4 * shared * ((h * power) @ h.T))


def centred(kernel) -> np.ndarray:
    """A kernel without the means of rows and columns: that of the functions minus their averages over the table."""
    kernel = kernel - kernel.mean(axis=0)
    return kernel - kernel.mean(axis=1, keepdims=True)


def alignment(kernel, target) -> float:
    r"""Cosine $\langle K,Y\rangle/(\|K\|_F\|Y\|_F)$ of two matrices; for $Y=yy^{\mathsf T}$ it is
    $y^{\mathsf T}Ky/(\|K\|_F\|y\|^2)$ (Kumar et al., K8).
    """
    return float(np.sum(kernel * target) / np.sqrt(np.sum(kernel**2) * np.sum(target**2)))


def explained_by_sum(features) -> float:
    r"""The share of the variance of features (P^2, C) over the table that lies between the sums modulo P, from 0 to 1.

    One minus the mean squared distance of inputs with the same sum over that of all inputs (an input may be paired with itself); for
    hidden units also the share of the centred ``adaptive_kernel``'s trace on functions of the sum. It is 0 for every sum of two embeddings.
    """
    features = np.asarray(features, dtype=float)
    p = round(len(features) ** 0.5)
    _, sums = modular.table(p)
    x = features - features.mean(axis=0)
    means = np.stack([x[sums == s].mean(axis=0) for s in range(p)])
    return float(p * np.sum(means**2) / np.sum(x**2))


def relation_residuals(features) -> np.ndarray:
    """Squared distances of ``relations`` over the mean squared distance of two random inputs of the table."""
    features = np.asarray(features, dtype=float)
    i, j = relations(round(len(features) ** 0.5)).T
    return np.sum((features[i] - features[j]) ** 2, axis=1) / (2 * np.sum(features.var(axis=0)))


def normalised(weights) -> np.ndarray:
    """Both tables of embeddings with mean 0 and standard deviation 1 (with P - 1) in each coordinate, as Liu et al. have it."""
    weights = np.asarray(weights, dtype=float)
    halves = weights.reshape(len(weights), 2, -1)
    halves = halves - halves.mean(axis=-1, keepdims=True)
    return (halves / halves.std(axis=-1, ddof=1, keepdims=True)).reshape(weights.shape)


def relation_quality(weights, rule: float = RULE) -> float:
    r"""The exact index of Liu et al. on the cycle, for normalised embeddings.

    The share of relations with $|\tilde E_n+\tilde E'_m-\tilde E_{n'}-\tilde E'_{m'}|^2/N$ below ``rule``.
    """
    h = preactivations(normalised(weights))
    i, j = relations(round(len(h) ** 0.5)).T
    return float(np.mean(np.mean((h[i] - h[j]) ** 2, axis=1) < rule))


def concentration(weights) -> np.ndarray:
    r"""$q_i=\max_k|w_k|^2/\sum_k|w_k|^2$ over k = 1, ..., (P - 1)/2, (2, N): how far each half of each neuron has a single frequency."""
    power = _powers(weights)
    return power.max(axis=-1) / power.sum(axis=-1)


def matched(weights) -> np.ndarray:
    """Whether the strongest frequencies of the two halves of a neuron are the same, booleans (N,)."""
    first, second = _powers(weights).argmax(axis=-1)
    return first == second


def _powers(weights) -> np.ndarray:
    halves = modular.modes(weights, np.shape(weights)[-1] // 2)
    return np.stack([np.abs(x[:, 1 : (x.shape[1] + 1) // 2]) ** 2 for x in halves])


def random_concentration(modulus: int) -> float:
    r"""The mean of q for Gaussian weights: m = (P - 1)/2 exponential numbers have the mean $\frac1m\sum_{j=1}^m\frac1j$ of largest over sum."""
    count = (modulus - 1) // 2
    return sum(1 / j for j in range(1, count + 1)) / count


def kurtosis(x) -> float:
    """Fourth moment about the mean over the squared variance; 3 for Gaussian numbers."""
    x = np.ravel(x) - np.mean(x)
    return float(np.mean(x**4) / np.mean(x**2) ** 2)


def look(weights, readout, mask, scale: float = 1.0, start: np.ndarray | None = None) -> dict[str, float]:
    """All observables of one network, by the names of ``follow``.

    Args:
        mask: boolean table (P, P) of the training pairs.
        start: the initial ``trace_kernel``, from which the drift is counted.
    """
    weights, readout = np.asarray(weights, dtype=float), np.asarray(readout, dtype=float)
    p = len(readout)
    h, y = preactivations(weights), same_sum(p)
    f = scale * h**2 @ readout.T
    kernel, adaptive = trace_kernel(weights, readout, scale), adaptive_kernel(weights)
    residuals = relation_residuals(f)
    unseen = ~np.ravel(mask)[relations(p)].all(axis=1)
    found = dict(
        norm=np.linalg.norm(weights) + np.linalg.norm(readout), alignment=alignment(kernel, y),
        centred_alignment=alignment(centred(kernel), centred(y)), drift=0.0 if start is None else 1 - alignment(kernel, start),
        spike=alignment(centred(adaptive), centred(y)), hidden_share=explained_by_sum(h**2), output_share=explained_by_sum(f),
        unseen_share=1 - residuals[unseen].mean() if unseen.any() else np.nan,
        relation_quality=relation_quality(weights), output_quality=float(np.mean(4 * residuals < RULE)),
        answer_quality=float(np.mean(residuals < 0.25)), concentration=concentration(weights).mean(),
        matched=matched(weights).mean(), kurtosis=kurtosis(weights),
        dimension=np.mean([embeddings.effective_dimension(e.T) for e in (weights[:, :p], weights[:, p:])]),
    )
    return {name: float(value) for name, value in found.items()}


def follow(ds: xr.Dataset) -> xr.Dataset:
    r"""What all lenses see in networks of ``descent.train(..., laziness=..., follow=True)``, over (member, step).

    norm: $\|W\|_F+\|a\|_F$; alignment, centred_alignment: of the tangent kernel with the task, without and with ``centred``;
    drift: one minus the cosine with the initial kernel; spike: centred alignment of the ``adaptive_kernel``; hidden_share,
    output_share: ``explained_by_sum`` of the hidden units and of the outputs; unseen_share: one minus the mean residual of outputs
    over relations with a test input; relation_quality: the exact index; output_quality: the same rule for outputs; answer_quality:
    share of relations whose outputs are closer to each other than half the root mean square distance of two inputs; concentration,
    matched, kurtosis: means over neurons, of all input weights; dimension: ``effective_dimension`` of the two tables, averaged;
    histogram: counts of q in ``BINS``.
    With the losses and accuracies of ``ds``.
    """
    p, n = ds.sizes["output"], ds.sizes["neuron"]
    scale = ds.laziness.values / (2 * p * n)
    rows, counts = [], []
    for b in range(ds.sizes["member"]):
        w, a, mask = ds.weights.values[b], ds.readout.values[b], ds.mask.values[b]
        start = trace_kernel(w[0], a[0], scale[b])
        rows.append([look(w[t], a[t], mask, scale[b], start) for t in range(len(w))])
        counts.append([np.histogram(concentration(x), BINS)[0] for x in w])
    found = {name: (("member", "step"), np.array([[row[name] for row in member] for member in rows])) for name in rows[0][0]}
    histogram = xr.DataArray(np.array(counts), dims=("member", "step", "bin"), coords={"bin": (BINS[1:] + BINS[:-1]) / 2})
    return ds.drop_vars(["weights", "readout", "mask"]).assign(**found, histogram=histogram)
