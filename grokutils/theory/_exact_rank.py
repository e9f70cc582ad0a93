r"""Ranks of many small integer matrices at once, over the rationals and without a tolerance.

Elimination modulo a prime q never overstates a rank: a minor that vanishes over the rationals vanishes modulo q. It
understates the rank r only if q divides every r-rowed minor. By Hadamard's inequality a minor is a whole number of size at
most $h^{r/2}$, where $h$ bounds the squared length of a row. A non-zero minor which several different primes divide is at
least their product. So if $\prod q>h^{r/2}$, one of the primes
leaves some non-zero r-rowed minor alone, and

$$\operatorname{rank}_{\mathbb Q}=\max_q\operatorname{rank}_q\qquad\text{exactly.}$$

All primes are below $2^{26}$, so that every intermediate number is a whole number below $2^{53}$ and double precision is exact.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

_ELEMENTS = 2**17  # numbers worked on at once: about what a core's cache holds


@cache
def _prime(k: int) -> int:
    """The k-th prime below 2^26, counted downwards from 0."""
    q = (_prime(k - 1) if k else 2**26) - 1
    while any(q % d == 0 for d in range(2, math.isqrt(q) + 1)):
        q -= 1
    return q


def _primes(row_norm2: float, size: int) -> list[int]:
    """Primes enough to decide ranks up to ``size`` for rows of squared length at most ``row_norm2``."""
    found, bits = [], size / 2 * math.log2(max(row_norm2, 1)) + 0.01
    while not found or sum(math.log2(q) for q in found) <= bits:
        found.append(_prime(len(found)))
    return found


def _reduce(x, q):
    """The residue of smallest size; exactly 0 if and only if q divides."""
    return x - q * np.rint(x * (1 / q))


def _eliminate(rows, queries, q):
    """Rank modulo q of each matrix of a batch, and which of its queries lie in its row space modulo q."""
    rows, queries = _reduce(rows, q), _reduce(queries, q)
    rank, inside = np.zeros(len(rows), dtype=int), np.ones(queries.shape[:2], dtype=bool)
    for _ in range(rows.shape[-1] if rows.shape[1] else 0):
        at = (rows[..., 0] != 0).argmax(-1)
        pivot = np.take_along_axis(rows, at[:, None, None], axis=1)
        found = pivot[..., 0] != 0
        lead = np.where(found, pivot[..., 0], 1.0)[..., None]
        rank += found[:, 0]
        inside &= found | (queries[..., 0] == 0)
        # the pivot row itself becomes zero here; without a pivot nothing changes
        rows = _reduce(lead * rows[..., 1:] - rows[..., :1] * pivot[..., 1:], q)
        queries = _reduce(lead * queries[..., 1:] - queries[..., :1] * pivot[..., 1:], q)
    return rank, inside & (queries == 0).all(-1)


def row_spaces(rows, queries=None):
    """Ranks over the rationals, and which query rows lie in the row spaces.

    Args:
        rows: (..., R, c) small integers, a batch of matrices.
        queries: (Q, c) integers, the same for all matrices, or None.

    Returns:
        (rank, inside): integers (...) and booleans (..., Q).
    """
    rows = np.asarray(rows, dtype=float)
    batch, columns = rows.shape[:-2], rows.shape[-1]
    queries = np.zeros((0, columns)) if queries is None else np.asarray(queries, dtype=float)
    rows = rows.reshape((math.prod(batch), *rows.shape[-2:]))
    norm2 = max((float((x**2).sum(-1).max()) for x in (rows, queries) if x.size), default=1.0)
    primes = _primes(norm2, min(columns, rows.shape[1] + 1))
    rank, inside = np.zeros(len(rows), dtype=int), np.zeros((len(rows), len(queries)), dtype=bool)
    step = max(1, _ELEMENTS // max(1, (rows.shape[1] + len(queries)) * columns))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        asked = np.broadcast_to(queries, (len(part), *queries.shape))
        ranks, members = zip(*(_eliminate(part, asked, q) for q in primes))
        ranks = np.array(ranks)
        best = rank[start : start + step] = ranks.max(0)
        # a row outside is seen outside by a prime that has the full rank; a row inside is seen inside by all of these
        inside[start : start + step] = (np.array(members) | (ranks < best)[..., None]).all(0)
    return rank.reshape(batch), inside.reshape((*batch, len(queries)))
