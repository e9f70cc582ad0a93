r"""Parallelograms of a group: the effective theory beyond addition (Liu et al., appendices H and I).

A group of m elements is its multiplication table, an (m, m) integer array with a b at [a, b]. Each element a has a trainable
matrix E_a, and the decoder sees the product E_a E_b. A parallelogram (a, b, c, d) is a pair of different pairs with a b = c d;
matrices obey it if E_a E_b = E_c E_d (eq. E13). Pairs are unordered if the group is abelian, ordered otherwise.
Tags E1 to E15 are this book's numbers for the paper's equations.
"""

from __future__ import annotations

import itertools

import numpy as np

from grokutils.problems import positive
from grokutils.theory._exact_rank import row_spaces

__all__ = [
    "all_pairs", "cyclic", "ideal_accuracy", "implied", "mismatch", "nullity", "parallelograms", "rqi", "same_label_gradient",
    "same_label_loss", "symmetric", "tangent_nullity",
]


def cyclic(order) -> np.ndarray:
    """The table of the integers modulo ``order``."""
    k = np.arange(positive("order", order, whole=True))
    return (k[:, None] + k) % len(k)


def symmetric(degree) -> tuple[np.ndarray, np.ndarray]:
    """The table of the permutations of ``degree`` things, and their matrices (m, degree, degree), M_a M_b = M_ab.

    Elements are in lexicographic order; the product a b means a first, (a b)[x] = b[a[x]], as in the paper's code.
    """
    degree = positive("degree", degree, whole=True)
    if degree > 6:
        raise ValueError(f"degree must be at most 6, got {degree}")
    permutations = np.array(list(itertools.permutations(range(degree))))
    code = permutations @ degree ** np.arange(degree)[::-1]  # rises in lexicographic order
    products = permutations[np.arange(len(permutations))[None, :, None], permutations[:, None, :]]
    return np.searchsorted(code, products @ degree ** np.arange(degree)[::-1]), np.eye(degree, dtype=int)[permutations]


def _table(table) -> np.ndarray:
    table = np.asarray(table)
    m = len(table) if table.ndim else 0
    line = np.arange(m)
    if not m or table.shape != (m, m) or table.dtype.kind not in "iu":
        raise ValueError(f"table must be a square array of whole numbers, got shape {table.shape} of {table.dtype}")
    if not (np.sort(table, 0) == line[:, None]).all() or not (np.sort(table, 1) == line).all():
        raise ValueError("table must hold each element once in every row and column")
    if not (table[table] == table[:, table]).all():
        raise ValueError("table must be associative")
    return table


def _pairs(table, pairs) -> np.ndarray:
    """The training pairs, sorted and without repetition; each pair sorted if the group is abelian."""
    abelian = (table == table.T).all()
    if pairs is None:
        pairs = np.argwhere(np.ones(table.shape, dtype=bool))
    pairs = np.asarray(pairs)
    pairs = np.zeros((0, 2), dtype=int) if pairs.shape == (0,) else pairs
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"pairs must be whole numbers of shape (n, 2), got shape {pairs.shape} of {pairs.dtype}")
    if pairs.size and (pairs.min() < 0 or pairs.max() >= len(table)):
        raise ValueError(f"pairs must consist of elements from 0 to {len(table) - 1}")
    return np.unique(np.sort(pairs, axis=1) if abelian else pairs, axis=0)


def all_pairs(table) -> np.ndarray:
    """The whole data set: (n, 2) integers in lexicographic order, unordered pairs if the group is abelian."""
    return _pairs(_table(table), None)


def _quadruples(pairs, label) -> np.ndarray:
    first, second = np.nonzero(np.triu(label[:, None] == label, 1))
    order = np.argsort(label[first], kind="stable")
    return np.concatenate([pairs[first], pairs[second]], axis=1)[order]


def parallelograms(table, pairs=None) -> np.ndarray:
    """The parallelograms among training pairs (None: all pairs): (k, 4) integers (a, b, c, d), ordered by product; 90 for S_3."""
    table = _table(table)
    pairs = _pairs(table, pairs)
    return _quadruples(pairs, table[pairs[:, 0], pairs[:, 1]])


def _neighbours(table, pairs) -> np.ndarray:
    """Parallelograms of neighbours in the list of pairs of one product: fewer, and every other one follows from them."""
    pairs = _pairs(table, pairs)
    product = table[pairs[:, 0], pairs[:, 1]]
    order = np.argsort(product, kind="stable")
    pairs, product = pairs[order], product[order]
    return np.concatenate([pairs[:-1], pairs[1:]], axis=1)[product[:-1] == product[1:]]


def nullity(table, pairs=None) -> int:
    """How many numbers are free in one number per element that obeys e_a + e_b = e_c + e_d on all training parallelograms; exact.

    A finite group has no additive representation but the constant one, so the whole table leaves 1 (the addition table, which
    is no group, leaves 2).
    """
    table = _table(table)
    unit, quadruples = np.eye(len(table), dtype=int), _neighbours(table, pairs)
    return len(table) - int(row_spaces(unit[quadruples[:, :2]].sum(1) - unit[quadruples[:, 2:]].sum(1))[0])


def tangent_nullity(table, matrices, pairs=None) -> int:
    r"""How many numbers are free, to first order, in matrices near a representation that obey the training parallelograms; exact.

    The dimension of $\{X_a:\ X_aE_b+E_aX_b=X_cE_d+E_cX_d\}$ over the training parallelograms. The whole table leaves $d^2$,
    all of it trivial: $X_a=Z_aE_a$ turns the condition into a cocycle's, and a finite group has only
    $Z_a=K-E_aKE_a^{-1}+L$ with L commuting with all E. So $d^2$ means that the training set determines the
    representation near the given one, up to a change of basis and the factor 1 + L.

    Args:
        matrices: (m, d, d) integers, a representation: M_a M_b = M_ab.
    """
    table, matrices = _table(table), np.asarray(matrices)
    m = len(table)
    if matrices.ndim != 3 or matrices.shape[0] != m or matrices.shape[1] != matrices.shape[2] or matrices.dtype.kind not in "iu":
        raise ValueError(f"matrices must be whole numbers of shape ({m}, d, d), got shape {matrices.shape} of {matrices.dtype}")
    if not (matrices[:, None] @ matrices == matrices[table]).all():
        raise ValueError("matrices must be a representation of the group, M_a M_b = M_ab")
    d, one = matrices.shape[1], np.eye(matrices.shape[1], dtype=int)

    def change(pairs):  # of E_a E_b: a matrix (d^2, m d^2) for each pair, acting on all X flattened
        a, b = pairs.T
        out = np.zeros((len(pairs), d * d, m, d * d), dtype=int)
        by_a = np.einsum("ri,qjs->qrsij", one, matrices[b]).reshape(-1, d * d, d * d)
        by_b = np.einsum("qri,js->qrsij", matrices[a], one).reshape(-1, d * d, d * d)
        np.add.at(out, (np.arange(len(a)), slice(None), a), by_a)
        np.add.at(out, (np.arange(len(a)), slice(None), b), by_b)
        return out.reshape(-1, m * d * d)

    quadruples = _neighbours(table, pairs)
    return m * d * d - int(row_spaces(change(quadruples[:, :2]) - change(quadruples[:, 2:]))[0])


def _relation(table, pairs) -> np.ndarray:
    """Booleans (m, m, m, m): E_a E_b = E_c E_d follows from the training parallelograms."""
    m, pairs = len(table), _pairs(table, pairs)
    known = np.eye(m * m, dtype=bool).reshape(m, m, m, m)
    a, b, c, d = _quadruples(pairs, table[pairs[:, 0], pairs[:, 1]]).T
    known[a, b, c, d] = True
    if (table == table.T).all():  # the embeddings commute
        k, l = np.indices((m, m)).reshape(2, -1)
        known[k, l, l, k] = True
    known |= known.transpose(2, 3, 0, 1)
    while True:
        before = known.sum()
        square = known.reshape(m * m, m * m)
        while True:  # transitive closure
            more = square.astype(np.float32) @ square > 0
            if (more == square).all():
                break
            square = more
        ratio = square.reshape(m, m, m, m).transpose(0, 2, 1, 3).reshape(m * m, m * m).astype(np.float32)
        known = (ratio @ ratio.T @ ratio > 0).reshape(m, m, m, m).transpose(0, 2, 1, 3)
        if known.sum() == before:
            return known


def implied(table, pairs) -> np.ndarray:
    r"""Parallelograms that follow from those of the training pairs for any invertible matrices: rows of ``parallelograms``.

    Two rules are applied until nothing new comes: equal products are transitive, and three known parallelograms give a fourth,

    $$E_aE_b=E_cE_d,\quad E_aE_f=E_cE_g,\quad E_hE_b=E_kE_d\quad\Rightarrow\quad E_hE_f=E_kE_g,$$

    since $E_c^{-1}E_a$, $E_dE_b^{-1}$, $E_gE_f^{-1}$ and $E_k^{-1}E_h$ are all equal. (For numbers that are added two
    suffice.) More may follow by longer words; what is returned certainly does.
    """
    table = _table(table)
    quadruples = parallelograms(table)
    return quadruples[_relation(table, pairs)[tuple(quadruples.T)]]


def ideal_accuracy(table, pairs) -> float:
    """The share of all pairs that are training pairs or linked to one by an ``implied`` parallelogram (eq. E5)."""
    table = _table(table)
    pairs, everything = _pairs(table, pairs), all_pairs(table)
    linked = _relation(table, pairs)[everything[:, 0, None], everything[:, 1, None], pairs[:, 0], pairs[:, 1]]
    return float(linked.any(1).mean())


def _matrices(table, embeddings) -> np.ndarray:
    e = np.asarray(embeddings)
    e = e if np.iscomplexobj(e) else e.astype(float)
    if e.ndim < 3 or e.shape[-3] != len(table) or e.shape[-1] != e.shape[-2]:
        raise ValueError(f"embeddings must have shape (..., {len(table)}, d, d), got {e.shape}")
    if not np.isfinite(e).all():
        raise ValueError("embeddings must be finite numbers")
    return e


def mismatch(table, embeddings, pairs=None) -> np.ndarray:
    r"""$\|E_aE_b-E_cE_d\|_F^2$ of each of ``parallelograms``: (..., k) for embeddings (..., m, d, d) (eq. E13)."""
    table = _table(table)
    e = _matrices(table, embeddings)
    a, b, c, d = np.moveaxis(parallelograms(table, pairs), 1, 0)
    return (np.abs(e[..., a, :, :] @ e[..., b, :, :] - e[..., c, :, :] @ e[..., d, :, :]) ** 2).sum((-1, -2))


def rqi(table, embeddings, delta=0.01):
    """The share of all parallelograms with ``mismatch`` <= delta, for embeddings as they are: float, or floats (...)."""
    share = (mismatch(table, embeddings) <= positive("delta", delta)).mean(-1)
    return share if share.ndim else float(share)


def _features(features, labels):
    f, labels = np.asarray(features, dtype=float), np.asarray(labels)
    if f.ndim < 1 or labels.shape != f.shape[:1] or not f.size:
        raise ValueError(f"features and labels must have the same positive length, got shapes {f.shape} and {labels.shape}")
    f = f.reshape(len(f), -1)
    if not np.isfinite(f).all() or not f.any():
        raise ValueError("features must be finite and not all zero")
    return f, np.unique(labels, return_inverse=True)[1].ravel()


def _laplacian(f, label):
    """Rows sum_y (f(x) - f(y)) over y with the label of x, i.e. count times the distance from the class mean."""
    count = np.bincount(label)
    total = np.zeros((len(count), f.shape[1]))
    np.add.at(total, label, f)
    return count[label][:, None] * f - total[label]


def same_label_loss(features, labels) -> float:
    r"""The effective loss of any labelled data, each couple of points counted once (eq. E14).

    $$\ell_{\rm eff}=\sum_{\{x,y\}\ \text{same label}}|f(x)-f(y)|^2\Big/\sum_x|f(x)|^2$$

    It vanishes on features that are constant on each class, which form its null space. It does not change with the scale of
    f, so its gradient is orthogonal to f: the flow conserves the sum of squares and cannot collapse everything to the origin.

    Args:
        features: (n, ...) f(x), for instance the products E_a E_b of training pairs.
        labels: (n,) of any kind.
    """
    f, label = _features(features, labels)
    return float(np.sum(f * _laplacian(f, label)) / np.sum(f * f))


def same_label_gradient(features, labels) -> np.ndarray:
    """The gradient of ``same_label_loss`` with respect to the features, in their shape."""
    f, label = _features(features, labels)
    size, rows = np.sum(f * f), _laplacian(f, label)
    return (2 / size * (rows - np.sum(f * rows) / size * f)).reshape(np.shape(features))
