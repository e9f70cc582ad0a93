"""The table of the toy addition model: pairs, parallelograms, training sets as places in the table, exact row spaces."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from grokutils.problems import ToyAddition
from grokutils.theory._exact_rank import row_spaces


@lru_cache(maxsize=8)
def tables(p: int):
    """Pairs (|D0|, 2) ordered by sum, each pair's place (p, p), parallelograms as two places (|P0|, 2), constraints (|P0|, p)."""
    i, j = np.triu_indices(p)
    order = np.lexsort((i, i + j))
    pairs = np.stack([i[order], j[order]], axis=1)
    place = np.empty((p, p), dtype=int)
    place[pairs[:, 0], pairs[:, 1]] = place[pairs[:, 1], pairs[:, 0]] = np.arange(len(pairs))
    sums = pairs.sum(1)
    ends = np.concatenate([np.stack(np.triu_indices(k, 1), axis=1) + first
                           for first, k in zip(*np.unique(sums, return_index=True, return_counts=True)[1:])])
    rows = vectors(pairs, p)[ends[:, 0]] - vectors(pairs, p)[ends[:, 1]]
    for table in (pairs, place, ends, rows):
        table.setflags(write=False)
    return pairs, place, ends, rows


def vectors(pairs, p):
    """The row e_i + e_j of each pair."""
    return np.eye(p, dtype=int)[pairs].sum(-2)


def check(problem):
    if not isinstance(problem, ToyAddition):
        raise ValueError(f"problem must be a ToyAddition, got {problem!r}")
    return tables(problem.symbols)


def option(name, value, known):
    if value not in known:
        raise ValueError(f"{name} must be one of {known}, got {value!r}")


def places_of(problem, pairs) -> np.ndarray:
    """The places of the training pairs in the table, sorted (so by sum), repetitions kept; ValueError if they are no pairs."""
    place, p = check(problem)[1], problem.symbols
    try:
        pairs = np.asarray(pairs)
    except ValueError:  # ragged
        pairs = np.asarray(None)
    pairs = np.zeros((0, 2), dtype=int) if pairs.shape == (0,) else pairs
    if pairs.ndim < 2 or pairs.shape[-1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"pairs must be whole numbers of shape (..., n, 2), got shape {pairs.shape} of {pairs.dtype}")
    if pairs.size and (pairs.min() < 0 or pairs.max() >= p):
        raise ValueError(f"pairs must consist of symbols from 0 to {p - 1}, got one from {pairs.min()} to {pairs.max()}")
    return np.sort(place[pairs[..., 0], pairs[..., 1]], axis=-1)


def members_of(problem, places) -> np.ndarray:
    """Booleans (..., |D0|): which pairs of the table are in the training set."""
    mask = np.zeros((*places.shape[:-1], problem.table_size), dtype=bool)
    np.put_along_axis(mask, places, True, axis=-1)
    return mask


def permitted(problem, members) -> np.ndarray:
    """Booleans (..., |P0|): which parallelograms have both ends in the training set."""
    ends = tables(problem.symbols)[2]
    return members[..., ends[:, 0]] & members[..., ends[:, 1]]


def constraint_space(problem, places, queries=None):
    r"""Rank of A(P_0(D)) and which queries are in its row space.

    Differences of neighbours with the same sum span the same rows as all differences do. The first two columns are left out:
    every row is orthogonal to (1, ..., 1) and to (0, ..., p-1), so these columns are whole-number combinations of the others.
    """
    pairs = tables(problem.symbols)[0]
    columns, sums = vectors(pairs, problem.symbols)[:, 2:].astype(float), pairs.sum(1)[places]
    rows = (columns[places[..., 1:]] - columns[places[..., :-1]]) * (sums[..., 1:] == sums[..., :-1])[..., None]
    return row_spaces(rows, None if queries is None else queries[:, 2:])


def embedding_array(problem, embeddings):
    """Embeddings as (..., p, d) and whether they came as (p,)."""
    check(problem)
    e = np.asarray(embeddings, dtype=float)
    flat = e.ndim == 1
    e = e[:, None] if flat else e
    if e.ndim < 2 or e.shape[-2] != problem.symbols or not e.shape[-1]:
        p = problem.symbols
        raise ValueError(f"embeddings must have shape ({p},) or (..., {p}, d), got {np.shape(embeddings)}")
    if not np.isfinite(e).all():
        raise ValueError("embeddings must be finite numbers")
    return e, flat
