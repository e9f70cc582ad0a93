r"""What a table of embeddings looks like: principal components, effective dimension, and whether symbols lie on a ring.

A table is an array (..., p, d), one row a symbol; leading axes (members, steps) are carried along. It is centred first: a common shift of
all embeddings is no structure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Components(NamedTuple):
    """``scores`` (..., p, r) of the symbols, ``fractions`` (..., r) of the variance, ``directions`` (..., d, r), ``mean`` (..., 1, d)."""

    scores: np.ndarray
    fractions: np.ndarray
    directions: np.ndarray
    mean: np.ndarray


def _table(embedding) -> np.ndarray:
    table = np.asarray(embedding, dtype=float)
    if table.ndim < 2 or min(table.shape[-2:]) < 1 or table.shape[-2] < 2:
        raise ValueError(f"embedding must have the shape (..., symbols, coordinates) with at least two symbols, got {table.shape}")
    return table


def principal_components(embedding) -> Components:
    r"""Singular value decomposition of the centred table, $E-\bar E=\sum_cs_c\,v_c^{\mathsf T}$, largest first; r = min(p - 1, d) components."""
    table = _table(embedding)
    mean = table.mean(axis=-2, keepdims=True)
    left, size, right = np.linalg.svd(table - mean, full_matrices=False)
    r = min(table.shape[-2] - 1, table.shape[-1])
    left, size, right = left[..., :r], size[..., :r], right[..., :r, :]
    with np.errstate(invalid="ignore"):
        fractions = size**2 / np.sum(size**2, axis=-1, keepdims=True)
    return Components(left * size[..., None, :], fractions, np.swapaxes(right, -1, -2), mean)


def effective_dimension(embedding) -> np.ndarray:
    r"""$e^S$ with the entropy $S=-\sum_c\sigma_c\ln\sigma_c$ of the shares of variance; from 1 to min(p - 1, d). NaN where a table is not finite.

    Args:
        embedding: (..., p, d).
    """
    table = _table(embedding)
    finite = np.isfinite(table).all(axis=(-2, -1))
    fractions = principal_components(np.where(finite[..., None, None], table, 0.0)).fractions
    entropy = -np.sum(fractions * np.log(np.where(fractions > 0, fractions, 1.0)), axis=-1)
    return np.where(finite, np.exp(entropy), np.nan)


def restricted(embedding, components: Components, number: int) -> np.ndarray:
    """A table with its rows projected on the span of the first few components (of this or another table), about the other table's mean."""
    directions = components.directions[..., :number]
    return components.mean + (_table(embedding) - components.mean) @ directions @ np.swapaxes(directions, -1, -2)


def harmonic_shares(vectors) -> np.ndarray:
    r"""Shares of the power of functions on Z_p that lie in each pair of harmonics $\cos(2\pi kn/p),\sin(2\pi kn/p)$, k = 1, ..., [p/2].

    Args:
        vectors: (..., p, c), centred over p.

    Returns:
        (..., [p/2], c); the shares of one function add up to 1.
    """
    vectors = np.asarray(vectors, dtype=float)
    power = np.abs(np.fft.rfft(vectors, axis=-2)[..., 1:, :]) ** 2
    if vectors.shape[-2] % 2 == 0:
        power[..., -1, :] /= 2  # k = p/2 is its own partner
    with np.errstate(invalid="ignore"):
        return power / power.sum(axis=-2, keepdims=True)


def frequency_shares(embedding) -> np.ndarray:
    r"""Shares (..., [p/2]) of the variance of whole tables in each frequency: $\sum_c\sigma_cP_{kc}$ over all principal components.

    They do not depend on which axes components happen to take among frequencies of nearly equal size. NaN where a table is not finite.

    Args:
        embedding: (..., p, d).
    """
    table = _table(embedding)
    power = (np.abs(np.fft.rfft(table, axis=-2)[..., 1:, :]) ** 2).sum(-1)
    if table.shape[-2] % 2 == 0:
        power[..., -1] /= 2
    with np.errstate(invalid="ignore"):
        return power / power.sum(axis=-1, keepdims=True)


def effective_frequencies(embedding) -> np.ndarray:
    r"""$e^{S}$ with the entropy of ``frequency_shares``: of how many frequencies a table consists, from 1 to [p/2]; two dimensions each."""
    shares = frequency_shares(embedding)
    return np.exp(-np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=-1))


class Ring(NamedTuple):
    """``share`` (...) of two components that is one pair of harmonics, and its ``frequency`` (...)."""

    share: np.ndarray
    frequency: np.ndarray


def ring(embedding, components: tuple[int, int] = (0, 1)) -> Ring:
    r"""How nearly two principal components draw the symbols as a ring: $\max_k\frac12(P_{k1}+P_{k2})$ with the shares P of ``harmonic_shares``.

    It is 1 if and only if both components are harmonics of one frequency k; as they are orthogonal, the symbol n then sits at the angle
    $2\pi kn/p$ of an ellipse.

    Args:
        embedding: (..., p, d); components: which two, counted from 0.
    """
    scores = principal_components(embedding).scores
    if max(components) >= scores.shape[-1] or min(components) < 0 or components[0] == components[1]:
        raise ValueError(f"components must be two different numbers from 0 to {scores.shape[-1] - 1}, got {components!r}")
    shares = harmonic_shares(scores[..., list(components)]).mean(axis=-1)
    return Ring(shares.max(axis=-1), shares.argmax(axis=-1) + 1)
