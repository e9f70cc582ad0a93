r"""Rates of escape of one neuron: the formula of Kramers and Langer, and the backward Fokker-Planck equation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh, splu

from grokutils.theory._escape_potential import Neuron

DYNAMICS = ("langevin", "whitened", "underdamped")


def _hessian(function, x, h):
    n, eye = len(x), np.eye(len(x)) * h
    out = np.empty((n, n))
    for i in range(n):
        for j in range(i, n):
            pp, pm, mp, mm = (function(x + s * eye[i] + t * eye[j]) for s in (1, -1) for t in (1, -1))
            out[i, j] = out[j, i] = (pp - pm - mp + mm) / (4 * h[i] * h[j])
    return out


def kramers(neuron: Neuron, dynamics: str = "langevin", readout: bool = True, friction: float = 0.5) -> float:
    r"""Rate of escape by the formula of Kramers and Langer, for barriers well above 1.

    $$k=2\,\frac{\lambda_-}{2\pi}\sqrt{\frac{\det H_0}{|\det H_\ddagger|}}\;e^{-\Delta E}$$

    H are Hessians at the centre and at a saddle, the factor 2 counts the saddles at q and -q, and $\lambda_-$ is the rate at which a small
    deviation from the saddle grows: the negative eigenvalue of $MH_\ddagger$, M the mobilities, or, with momentum, the positive root of
    $\lambda^2+\gamma\lambda=|\mu|$ with $\mu$ that eigenvalue.

    Args:
        neuron: has a barrier.
        dynamics: "langevin" in the network's own coordinates (M = 1), "whitened" in units of the prior's widths, "underdamped" with momentum
            and friction in whitened coordinates. Time is the dynamics' own.
        readout: keep the readout as a coordinate; False: it follows at once (only for "langevin").
        friction: of "underdamped".

    Raises:
        ValueError: the neuron has no barrier, or the arguments do not fit.
    """
    if dynamics not in DYNAMICS:
        raise ValueError(f"dynamics must be one of {DYNAMICS}, got {dynamics!r}")
    if not readout and dynamics != "langevin":
        raise ValueError(f"readout must be kept for dynamics {dynamics!r}: there it is not fast")
    if neuron.saddle is None:
        raise ValueError("neuron must have a barrier, this one has none")
    p, places = neuron.problem, []
    tau = p.readout_variance / p.width
    widths = [math.sqrt(p.weight_variance / p.dimension)] * (1 if neuron.norm == "fixed" else 2)
    for q, rho in (neuron.centre, neuron.saddle):
        x = [q] if neuron.norm == "fixed" else [q, rho]
        places.append(np.array([*x, tau * float(neuron.signal(q, rho) / neuron.own(q, rho))] if readout else x))
    widths = np.array([*widths, math.sqrt(tau)] if readout else widths)
    function = neuron.energy if readout else lambda x: neuron.potential(*x)
    centre, saddle = (_hessian(function, x, 1e-3 * widths) for x in places)
    mobility = np.ones(len(widths)) if dynamics == "langevin" else widths**2
    root = np.sqrt(mobility)
    growth = -np.linalg.eigvalsh(root[:, None] * saddle * root).min()
    if dynamics == "underdamped":
        growth = -friction / 2 + math.sqrt(friction**2 / 4 + growth)
    height = float(function(places[1]) - function(places[0]))
    return growth / math.pi * math.sqrt(np.linalg.det(centre) / abs(np.linalg.det(saddle))) * math.exp(-height)


@dataclass(frozen=True)
class Passage:
    """First passage of |q| to a threshold, from the backward Fokker-Planck equation; the readout follows at once.

    Attributes:
        threshold: the overlap.
        rate: slowest decay rate of the survival probability (the quasi-stationary rate).
        mean_time: mean first-passage time of a neuron drawn from its prior.
        nodes: of the grid.
    """

    threshold: float
    rate: float
    mean_time: float
    nodes: int


def passage(neuron: Neuron, threshold: float | None = None, points: int = 160) -> Passage:
    r"""Solve $\nabla U\cdot\nabla T-\nabla^2T=1$ with $T=0$ at $|q|$ = threshold, on a grid of finite volumes with exponential fitting.

    Args:
        neuron: at the exact norm in two dimensions (q, rho), at the fixed norm in one.
        threshold: where a neuron counts as escaped; None: ``neuron.edge()``.
        points: in q; the error falls with its square.
    """
    threshold = threshold_of(neuron, threshold)
    h = threshold / points
    q = (np.arange(points) + 0.5) * h  # the law is even: a mirror at q = 0
    if neuron.norm == "fixed":
        rho, k = np.array([math.sqrt(neuron.problem.weight_variance)]), 1.0
    else:
        bottom, width = neuron.valley(q), math.sqrt(neuron.problem.weight_variance / neuron.problem.dimension)
        low, high = max(bottom.min() - 7 * width, 0.02), bottom.max() + 7 * width
        cells = max(24, math.ceil((high - low) / max(h, width / 12)))
        k = (high - low) / cells
        rho = low + (np.arange(cells) + 0.5) * k
    potential = neuron.potential(q[:, None], rho)
    last = neuron.potential(np.full(1, threshold)[:, None], rho)[0]
    index = np.arange(potential.size).reshape(potential.shape)
    pairs = [(index[:-1], index[1:], h), (index[:, :-1], index[:, 1:], k)]
    rows, columns, rates = [], [], []
    for one, other, step in pairs:
        for a, b in ((one, other), (other, one)):
            rows.append(a.ravel()), columns.append(b.ravel())
            rates.append(_bernoulli((potential.flat[b] - potential.flat[a]).ravel()) / step**2)
    leave = np.zeros(potential.shape)
    leave[-1] = 2 * _bernoulli(last - potential[-1]) / h**2  # half a cell to the absorbing end: twice the gradient
    rows, columns, rates = map(np.concatenate, (rows, columns, rates))
    total = np.bincount(rows, rates, potential.size) + leave.ravel()
    generator = sparse.csc_matrix((-rates, (rows, columns)), shape=(potential.size,) * 2) + sparse.diags(total)
    mean = splu(generator.tocsc()).solve(np.ones(potential.size)).reshape(potential.shape)
    root = np.exp(-(potential - potential.min()) / 2).ravel().clip(1e-150)
    symmetric = sparse.diags(root) @ generator @ sparse.diags(1 / root)
    rate = eigsh(((symmetric + symmetric.T) / 2).tocsc(), k=1, sigma=0, which="LM", return_eigenvectors=False)[0]
    d, var = neuron.problem.dimension, neuron.problem.weight_variance
    prior = d * q[:, None] ** 2 / (2 * var) + np.zeros(potential.shape)
    if neuron.norm == "exact":
        prior += d * (rho**2 - var) / (2 * var) - (d - 2) * np.log(rho / var**0.5)
    prior = np.exp(-prior)
    return Passage(threshold, float(rate), float((mean * prior).sum() / prior.sum()), potential.size)


def _bernoulli(x):
    """x / (e^x - 1)."""
    small = np.abs(x) < 1e-8
    x = np.where(small, 1.0, np.clip(x, -500, 500))
    return np.where(small, 1.0, x / np.expm1(x))


def threshold_of(neuron, threshold):
    if threshold is None:
        return neuron.edge()
    if not threshold > 0:
        raise ValueError(f"threshold must be > 0, got {threshold!r}")
    return float(threshold)
