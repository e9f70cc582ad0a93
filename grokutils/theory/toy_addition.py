r"""The effective theory of representation learning: which relations the data force, how fast embeddings obey them (Liu et al.).

A parallelogram (i, j, m, n) is a pair of different unordered pairs {i, j}, {m, n} with i + j = m + n; embeddings obey it if
E_i + E_j = E_m + E_n. Training pairs may be given as an array (n, 2), or as many sets at once, (..., n, 2); the result then
has the shape (...). The order within a pair and repetitions do not matter. Ranks are exact (see
``grokutils.theory._exact_rank``): no tolerance decides whether a representation is unique.
Tags E1 to E15 are this book's numbers for the paper's equations.
"""

from __future__ import annotations

from numbers import Integral

import numpy as np

from grokutils.problems import positive
from grokutils.theory import _addition_table as table
from grokutils.theory._addition_flow import (
    effective_loss,
    effective_loss_gradient,
    flow,
    grokking_rate,
    hessian,
    linear_flow,
    spectrum,
)

__all__ = [
    "all_pairs", "constraints", "effective_loss", "effective_loss_gradient", "flow", "grokking_rate", "ground_states", "hessian",
    "ideal_accuracy", "ideal_rqi", "implied", "linear_flow", "normalised", "nullity", "obeyed", "parallelograms", "permissible",
    "predicted_accuracy", "random_sets", "rqi", "spectrum", "unique_fraction",
]

RULES = ("mean_square", "norm")


def all_pairs(problem) -> np.ndarray:
    """The whole table D_0: (p(p+1)/2, 2) integers, each pair i <= j, ordered by the sum i + j and then by i."""
    return table.check(problem)[0].copy()


def parallelograms(problem) -> np.ndarray:
    r"""All parallelograms $P_0$: (|P_0|, 4) integers, 70 for p = 10 (eq. E2 with D = D_0).

    A row (i, j, m, n) stands for E_i + E_j = E_m + E_n and has i < m <= n < j. Rows are ordered by the sum, then by i, then by m.
    """
    pairs, _, ends, _ = table.check(problem)
    return pairs[ends].reshape(-1, 4)


def permissible(problem, pairs) -> np.ndarray:
    """The parallelograms P_0(D) between training pairs: rows of ``parallelograms``. One training set at a time."""
    return parallelograms(problem)[_one(table.permitted(problem, table.members_of(problem, table.places_of(problem, pairs))))]


def implied(problem, pairs) -> np.ndarray:
    r"""The parallelograms P(D) that follow from P_0(D) by linear algebra, P_0(D) included; as ``permissible`` (eq. E5).

    $$P(D)=\{q\in P_0:\ \operatorname{rank}A(P_0(D)\cup q)=\operatorname{rank}A(P_0(D))\}$$
    """
    return parallelograms(problem)[_one(table.constraint_space(problem, table.places_of(problem, pairs),
    table.check(problem)[3])[1])]


def _one(mask):
    if mask.ndim > 1:
        raise ValueError(f"pairs must be one training set of shape (n, 2) here, got a batch of shape {mask.shape[:-1]}")
    return mask


def constraints(problem, quadruples) -> np.ndarray:
    """The matrix A: one row e_i + e_j - e_m - e_n for each quadruple (i, j, m, n), integers (k, p)."""
    table.check(problem)
    quadruples = np.asarray(quadruples)
    if quadruples.ndim != 2 or quadruples.shape[1] != 4 or quadruples.dtype.kind not in "iu":
        raise ValueError(f"quadruples must be whole numbers of shape (k, 4), got shape {quadruples.shape} of {quadruples.dtype}")
    if quadruples.size and (quadruples.min() < 0 or quadruples.max() >= problem.symbols):
        raise ValueError(f"quadruples must consist of symbols from 0 to {problem.symbols - 1}")
    return table.vectors(quadruples[:, :2], problem.symbols) - table.vectors(quadruples[:, 2:], problem.symbols)


def nullity(problem, pairs):
    r"""How many numbers are free in embeddings that obey P_0(D): $n_0=p-\operatorname{rank}A(P_0(D))\ge2$ (eq. E10); exact.

    Two of them are the origin and the unit of length. So n_0 = 2 means: the training set determines the representation.

    Returns:
        int, or integers (...) for many training sets.
    """
    found = problem.symbols - table.constraint_space(problem, table.places_of(problem, pairs))[0]
    return found if found.ndim else int(found)


def ground_states(problem, pairs) -> np.ndarray:
    """Embeddings of zero effective loss: an orthonormal basis (p, n_0) of the null space of A(P_0(D)) (eq. E10)."""
    count = nullity(problem, pairs)
    rows = constraints(problem, permissible(problem, pairs))
    return np.linalg.eigh(rows.T @ rows)[1][:, :count]


def random_sets(problem, n, sets, seed=0) -> np.ndarray:
    """Training sets drawn uniformly without replacement: (sets, n, 2) integers. Different n use independent random numbers."""
    pairs = table.check(problem)[0]
    return pairs[_random_places(problem, n, sets, seed)]


def _random_places(problem, n, sets, seed):
    for name, value, low, top in (("n", n, 0, problem.table_size), ("sets", sets, 1, 10**9), ("seed", seed, 0, 2**63)):
        if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= top:
            raise ValueError(f"{name} must be a whole number from {low} to {top}, got {value!r}")
    order = np.random.default_rng([seed, n]).random((sets, problem.table_size)).argsort(axis=1)
    return np.sort(order[:, :n], axis=1)


def unique_fraction(problem, n, sets=2000, seed=0) -> float:
    """The share of random training sets of n pairs that determine the representation (n_0 = 2).

    The standard error is sqrt(f (1 - f) / sets); the errors for different n are independent of one another.
    """
    table.check(problem)
    return float(np.mean(table.constraint_space(problem, _random_places(problem, n, sets, seed))[0] == problem.symbols - 2))


def normalised(problem, embeddings) -> np.ndarray:
    """Embeddings minus their mean, over their standard deviation (with n - 1), each coordinate by itself (eq. E7, mended)."""
    e, flat = table.embedding_array(problem, embeddings)
    if np.any(e.min(-2) == e.max(-2)):
        raise ValueError("embeddings must differ between symbols in every coordinate, else they cannot be normalised")
    e = (e - e.mean(-2, keepdims=True)) / e.std(-2, ddof=1, keepdims=True)
    return e[:, 0] if flat else e


def obeyed(problem, embeddings, delta=0.01, rule="mean_square") -> np.ndarray:
    r"""Which parallelograms of ``parallelograms`` embeddings obey: booleans (..., |P_0|) (eqs. E1, E3).

    With the residual $x=\tilde E_i+\tilde E_j-\tilde E_m-\tilde E_n\in R^d$ of ``normalised`` embeddings:

    Args:
        embeddings: (p,) or (..., p, d).
        delta: the threshold.
        rule: "mean_square", |x|^2/d < delta, the rule of the published code; or "norm", |x| <= delta, that of the text.
    """
    table.option("rule", rule, RULES)
    delta = positive("delta", delta)
    e = table.embedding_array(problem, normalised(problem, embeddings))[0]
    square = ((table.check(problem)[3].astype(float) @ e) ** 2).sum(-1)
    return square / e.shape[-1] < delta if rule == "mean_square" else np.sqrt(square) <= delta


def rqi(problem, embeddings, delta=0.01, rule="mean_square"):
    """The representation quality index, the share of parallelograms that are ``obeyed`` (eq. E3): float, or floats (...)."""
    return _share(obeyed(problem, embeddings, delta, rule))


def ideal_rqi(problem, pairs):
    """|P(D)|/|P_0|, the index if all implied parallelograms hold and no other does (eq. E5): float, or floats (...)."""
    return _share(table.constraint_space(problem, table.places_of(problem, pairs), table.check(problem)[3])[1])


def predicted_accuracy(problem, pairs, embeddings, delta=0.01, rule="mean_square"):
    r"""The accuracy on the whole table that embeddings predict (eq. E4): training pairs, and pairs linked to one.

    $$\widehat{\mathrm{Acc}}=|\overline D|/|D_0|,\qquad \overline D=D\cup\{(i,j):\exists(m,n)\in D,\ (i,j,m,n)\in P(R)\}$$
    """
    return _share(_reached(problem, table.members_of(problem, table.places_of(problem, pairs)), obeyed(problem, embeddings,
    delta, rule)))


def ideal_accuracy(problem, pairs):
    """The accuracy on the whole table if just the implied parallelograms hold (eq. E5): float, or floats (...)."""
    places = table.places_of(problem, pairs)
    return _share(_reached(problem, table.members_of(problem, places), table.constraint_space(problem, places,
    table.check(problem)[3])[1]))


def _reached(problem, members, holds):
    ends = table.tables(problem.symbols)[2]
    a, b = np.eye(problem.table_size)[ends.T]
    return members | ((holds & members[..., ends[:, 1]]) @ a + (holds & members[..., ends[:, 0]]) @ b > 0)


def _share(mask):
    share = mask.mean(-1)
    return share if share.ndim else float(share)
