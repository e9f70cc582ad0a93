"""How fast embeddings obey the relations of the addition table: the effective loss, its spectrum, its flows."""

from __future__ import annotations

import numpy as np

from grokutils.problems import positive
from grokutils.theory._addition_table import check, constraint_space, embedding_array, members_of, option, permitted, places_of

NORMALISATIONS = ("sum", "mean")


def hessian(problem, pairs, normalisation="sum", size=None) -> np.ndarray:
    r"""The matrix H of the linear flow, (..., p, p) (eq. E11).

    $$H=\frac{2}{Z_0}A^TA\ \text{("sum")},\qquad H=\frac{2}{Z_0|P_0(D)|}A^TA\ \text{("mean")}$$

    "mean" is the paper's text; "sum" is what its code integrates, and what reproduces its time scale. With P_0(D) empty, H = 0.

    Args:
        size: Z_0 = sum_k |E_k|^2; None = p, embeddings of unit variance.
    """
    option("normalisation", normalisation, NORMALISATIONS)
    rows = check(problem)[3].astype(float)
    weight = permitted(problem, members_of(problem, places_of(problem, pairs))).astype(float)
    count = np.maximum(weight.sum(-1), 1)[..., None, None] if normalisation == "mean" else 1.0
    return 2 / positive("size", problem.symbols if size is None else size) * ((rows.T * weight[..., None, :]) @ rows) / count


def spectrum(problem, pairs, normalisation="sum", size=None):
    """Eigenvalues (..., p) of ``hessian``, ascending, and orthonormal eigenvectors in columns (..., p, p).

    The first n_0 eigenvalues are set to exactly 0; their number comes from the exact rank.
    """
    values, vectors = np.linalg.eigh(hessian(problem, pairs, normalisation, size))
    free = problem.symbols - constraint_space(problem, places_of(problem, pairs))[0]
    values[np.arange(problem.symbols) < free[..., None]] = 0.0
    return values, vectors


def grokking_rate(problem, pairs, normalisation="sum"):
    r"""The third eigenvalue $\lambda_3$ of H with $Z_0=p$ (eq. E11), exactly 0 unless the training set determines the
    representation.

    Embeddings trained at rate eta need some multiple of 1/(lambda_3 eta) steps to become linear.

    Returns:
        float, or floats (...) for many training sets.
    """
    rate = spectrum(problem, pairs, normalisation)[0][..., 2]
    return rate if rate.ndim else float(rate)


def effective_loss(problem, pairs, embeddings, normalisation="sum") -> float:
    r"""The effective loss, which does not depend on the scale of E (eq. E8); "mean" divides it by $|P_0(D)|$.

    $$\ell_{\rm eff}=\ell_0/Z_0,\qquad\ell_0=\sum_{(i,j,m,n)\in P_0(D)}|E_i+E_j-E_m-E_n|^2,\qquad Z_0=\sum_k|E_k|^2$$
    """
    e, h = _state(problem, pairs, embeddings, normalisation)
    return float(np.sum(e * (h @ e)) / 2)


def effective_loss_gradient(problem, pairs, embeddings, normalisation="sum") -> np.ndarray:
    r"""The gradient of ``effective_loss``, in the shape of the embeddings; the flow (E8) is minus this.

    $$\frac{\partial\ell_{\rm eff}}{\partial E}=\frac1{Z_0}\frac{\partial\ell_0}{\partial E}-\frac{2\ell_0}{Z_0^2}E$$
    """
    e, h = _state(problem, pairs, embeddings, normalisation)
    return (h @ e - np.sum(e * (h @ e)) / np.sum(e * e) * e).reshape(np.shape(embeddings))


def _state(problem, pairs, embeddings, normalisation):
    e, _ = embedding_array(problem, embeddings)
    if e.ndim != 2:
        raise ValueError(f"embeddings must have shape (p,) or (p, d) here, got {np.shape(embeddings)}")
    size = float(np.sum(e * e))
    if size == 0:
        raise ValueError("embeddings must not all be zero")
    return e, hessian(problem, pairs, normalisation, size)


def flow(problem, pairs, embeddings, times, normalisation="sum") -> np.ndarray:
    r"""The gradient flow of the effective loss (eq. E8), solved exactly: a Rayleigh-quotient flow.

    $$\dot E=-HE+\frac{\langle E,HE\rangle}{Z_0}E\quad\Rightarrow\quad E(t)=\sqrt{Z_0}\,\frac{e^{-Ht}E(0)}{\|e^{-Ht}E(0)\|}$$

    with $Z_0=\|E(0)\|^2$, which the flow conserves; H is built with it. The sum C of the embeddings obeys
    $\dot C=(2\ell_0/Z_0^2)\,C$, so that it is conserved only where it is 0.

    Args:
        embeddings: E(0), (p,) or (p, d); taken as they are, neither centred nor rescaled.
        times: one time >= 0 or several (T,); step number times learning rate.

    Returns:
        E(t): the shape of the embeddings, with an axis (T, ...) in front for several times.
    """
    return _flow(problem, pairs, embeddings, times, normalisation, rescaled=True)


def linear_flow(problem, pairs, embeddings, times, normalisation="sum") -> np.ndarray:
    r"""The flow without the rescaling term, $E(t)=e^{-Ht}E(0)$ (eq. E11): directions as in ``flow``; C is conserved, Z_0 decays.

    Arguments and result are those of ``flow``.
    """
    return _flow(problem, pairs, embeddings, times, normalisation, rescaled=False)


def _flow(problem, pairs, embeddings, times, normalisation, rescaled):
    e, _ = _state(problem, pairs, embeddings, normalisation)
    times = np.asarray(times, dtype=float)
    if times.ndim > 1 or not (np.isfinite(times) & (times >= 0)).all():
        raise ValueError(f"times must be one or a list of finite numbers >= 0, got {times!r}")
    values, vectors = spectrum(problem, pairs, normalisation, np.sum(e * e))
    start = vectors.T @ e
    with np.errstate(divide="ignore"):
        exponent = np.log(np.abs(start)) - values[:, None] * np.atleast_1d(times)[:, None, None]
    if rescaled:  # the common factor, which may underflow, drops out
        exponent -= exponent.max(axis=(1, 2), keepdims=True)
    found = vectors @ (np.sign(start) * np.exp(exponent))
    if rescaled:
        found *= np.linalg.norm(e) / np.linalg.norm(found, axis=(1, 2), keepdims=True)
    return found.reshape(times.shape + np.shape(embeddings))
