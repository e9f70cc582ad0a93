"""What is measured on a network: closed forms over the whole population of inputs, no test set needed."""

from __future__ import annotations

import math

import numpy as np

from grokutils.hermite import derivative_expectation, hermite
from grokutils.problems import TeacherStudent

BIN_EDGES = np.linspace(-2.5, 2.5, 251)
BIN_CENTRES = (BIN_EDGES[1:] + BIN_EDGES[:-1]) / 2


def learned(problem: TeacherStudent, degree: int, readouts, overlap, norm2):
    r"""Coefficient of $H_k$ in the network's output over the population: $\sum_ia_i\,q_i^k\,E[\phi^{(k)}(g_i)]/k!$, $g_i\sim N(0,|w_i|^2)$.

    Args:
        readouts, overlap, norm2: (..., N) a_i, q_i = w_i . w*, |w_i|^2.
    """
    moment = derivative_expectation(problem.phi, degree, norm2)
    return np.sum(readouts * overlap**degree * moment, axis=-1) / math.factorial(degree)


def hermite_regression(inputs, degrees) -> np.ndarray:
    """Matrix (len(degrees), n) that takes the outputs on the training inputs to their least-squares Hermite coefficients in z = x_1."""
    return np.linalg.pinv(np.stack([hermite(k, np.asarray(inputs)[..., 0]) for k in degrees], axis=-1))


def population_loss(problem: TeacherStudent, weights, readouts) -> np.ndarray:
    r"""$E_x[(y-f)^2]=E[y^2]-2\sum_kk!\,c_kf_k+a^TKa$ with the closed-form kernel $K_{ij}=E[\phi(w_i\cdot x)\phi(w_j\cdot x)]$ (networks,).

    Raises:
        ValueError: the activation has no closed-form kernel.
    """
    if problem.phi.kernel is None:
        raise ValueError(f"activation {problem.phi.name!r} has no closed-form kernel")
    loss = np.empty(len(weights))
    for b, (w, a) in enumerate(zip(weights, readouts, strict=True)):
        gram, norm2 = w @ w.T, np.sum(w * w, axis=1)
        power = a @ problem.phi.kernel(norm2[:, None], norm2[None, :], gram) @ a
        cross = sum(math.factorial(k) * c * learned(problem, k, a, w[:, 0], norm2) for k, c in problem.teacher.items())
        loss[b] = problem.teacher_norm2 - 2 * cross + power
    return loss


def overlap_histogram(overlap) -> np.ndarray:
    """Counts (..., bins) of q over the last axis in the fixed bins ``BIN_EDGES``; values beyond the ends count in the end bins."""
    index = np.clip(np.searchsorted(BIN_EDGES, overlap, side="right") - 1, 0, len(BIN_CENTRES) - 1)
    flat = index.reshape(-1, index.shape[-1])
    counts = np.stack([np.bincount(row, minlength=len(BIN_CENTRES)) for row in flat])
    return counts.reshape(*index.shape[:-1], len(BIN_CENTRES))
