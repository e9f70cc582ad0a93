"""Hermite polynomials, Gaussian expectations of an activation, and the registry of activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral

import numpy as np
from numpy.polynomial import chebyshev, hermite_e
from scipy.special import erf, gammaln, ndtr


@dataclass(frozen=True)
class Activation:
    r"""An activation $\phi$ and what is known about it in closed form.

    Attributes:
        name: identifies the activation; two activations of one name are the same one to every hash.
        function: phi on numpy arrays.
        torch_function: phi on torch tensors (needed by the samplers only).
        moment: closed form of (k, Q) -> E[phi^{(k)}(g)], g ~ N(0, Q); None: panel quadrature, exact to round-off for
            functions smooth away from 0 (a kink at 0 is fine).
        kernel: closed form of (Q1, Q2, C) -> E[phi(g1) phi(g2)] for centred Gaussians with these variances and covariance, or None.
    """

    name: str
    function: Callable
    torch_function: Callable | None = None
    moment: Callable | None = None
    kernel: Callable | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name must be a non-empty string, got {self.name!r}")
        for field in ("function", "torch_function", "moment", "kernel"):
            if getattr(self, field) is not None and not callable(getattr(self, field)):
                raise ValueError(f"{field} must be callable, got {getattr(self, field)!r}")

    def __eq__(self, other):
        return self.name == other.name if isinstance(other, Activation) else NotImplemented

    def __hash__(self):
        return hash(self.name)

    def __reduce__(self):
        # a registered activation travels to other processes by its name: its functions need not be picklable
        if ACTIVATIONS.get(self.name) is self:
            return activation, (self.name,)
        return Activation, (self.name, self.function, self.torch_function, self.moment, self.kernel)


def hermite(k: int, z):
    r"""Probabilists' Hermite polynomial $H_k(z)$: $H_1=z,\ H_3=z^3-3z$, $E[H_jH_k]=k!\,\delta_{jk}$."""
    _check(k)
    return hermite_e.hermeval(z, np.eye(k + 1)[k])


def _check(k, Q=0.0):
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 0:
        raise ValueError(f"k must be a whole number >= 0, got {k!r}")
    if not np.all((Q >= 0) & (np.inf > Q)):
        raise ValueError(f"Q must hold finite variances >= 0, got {Q!r}")


def _erf_moment(k, Q):
    # erf' is a Gaussian bump; smoothing by N(0,Q) and differentiating at 0 keeps odd k only
    if k % 2 == 0:
        return np.zeros_like(Q)
    j = (k - 1) // 2
    return 2 / math.sqrt(math.pi) * (-1) ** j * math.exp(gammaln(2 * j + 1) - gammaln(j + 1)) * (1 + 2 * Q) ** (-j - 0.5)


def _erf_kernel(Q1, Q2, C):
    return 2 / math.pi * np.arcsin(2 * C / np.sqrt((1 + 2 * Q1) * (1 + 2 * Q2)))


def _relu_moment(k, Q):
    # relu'' is the delta function: its smoothed derivatives are those of the Gaussian density at 0
    if k == 0:
        return np.sqrt(Q / (2 * math.pi))
    if k == 1:
        return np.full_like(Q, 0.5)
    if k % 2:
        return np.zeros_like(Q)
    j = (k - 2) // 2
    return (-1) ** j * math.exp(gammaln(2 * j + 1) - gammaln(j + 1)) / 2**j * Q ** (-j - 0.5) / math.sqrt(2 * math.pi)


def _relu_kernel(Q1, Q2, C):
    cosine = np.clip(C / np.sqrt(Q1 * Q2), -1, 1)
    theta = np.arccos(cosine)
    return np.sqrt(Q1 * Q2) / (2 * math.pi) * (np.sin(theta) + (math.pi - theta) * cosine)


def _square_moment(k, Q):
    return Q.copy() if k == 0 else np.full_like(Q, 2.0 if k == 2 else 0.0)


def _linear_moment(k, Q):
    return np.full_like(Q, 1.0 if k == 1 else 0.0)


def _torch(name: str) -> Callable:
    def apply(x):
        import torch  # the theory must not need torch

        return {"gelu": torch.nn.functional.gelu, "square": torch.square, "linear": lambda t: t}.get(name, getattr(torch, name, None))(x)

    return apply


ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("erf", erf, _torch("erf"), _erf_moment, _erf_kernel),
        Activation("relu", lambda x: np.maximum(x, 0), _torch("relu"), _relu_moment, _relu_kernel),
        Activation("tanh", np.tanh, _torch("tanh")),
        Activation("gelu", lambda x: x * ndtr(x), _torch("gelu")),
        Activation("sin", np.sin, _torch("sin")),
        Activation("square", np.square, _torch("square"), _square_moment, lambda Q1, Q2, C: Q1 * Q2 + 2 * C**2),
        Activation("linear", np.asarray, _torch("linear"), _linear_moment, lambda Q1, Q2, C: C),
    )
}


def activation(name: str | Activation) -> Activation:
    """Look an activation up by name (an ``Activation`` is returned as it is); ValueError for an unknown name."""
    if isinstance(name, Activation):
        if ACTIVATIONS.get(name.name, name).function is not name.function:
            raise ValueError(f"activation name {name.name!r} belongs to a registered activation with another function; choose another name")
        return name
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"activation must be an Activation or one of {sorted(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def _panels():
    # Gauss-Legendre panels that meet at 0 and shrink towards it: exact at a kink there, fine for steep activations
    edges = np.array([0, 0.05, 0.15, 0.35, 0.7, 1.2, 1.8, 2.6, 3.6, 5, 7, 9.5, 12.5])
    x, w = np.polynomial.legendre.leggauss(14)
    half = np.diff(edges)[:, None] / 2
    nodes, weights = (edges[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel()
    nodes, weights = np.r_[-nodes[::-1], nodes], np.r_[weights[::-1], weights]
    return nodes, weights * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)


_NODES, _WEIGHTS = _panels()
_INTERPOLATE_ABOVE = 1000  # evaluations beyond which a Chebyshev interpolant in ln Q is cheaper
_CHEBYSHEV_DEGREE = 128


def _direct(function, k, Q):
    factor = _WEIGHTS * hermite(k, _NODES)
    return np.concatenate([function(np.sqrt(block)[:, None] * _NODES) @ factor for block in np.array_split(Q, 1 + Q.size // 4000)])


@lru_cache(maxsize=64)
def _interpolant(function, k, lo, hi):
    """Chebyshev coefficients in ln Q on [lo, hi], or None where the series has not converged."""
    coefficients = chebyshev.chebinterpolate(lambda t: _direct(function, k, np.exp(lo + (hi - lo) * (t + 1) / 2)), _CHEBYSHEV_DEGREE)
    scale = np.abs(coefficients).max()
    if np.abs(coefficients[-8:]).max() > 1e-11 * max(scale, 1e-3):
        return None
    return coefficients[: 1 + max(np.flatnonzero(np.abs(coefficients) > 1e-14 * scale), default=0)]


def _coefficient(function, k, Q):
    """E[function(sqrt(Q) xi) H_k(xi)] by panels; many points through a Chebyshev interpolant in ln Q if it has converged."""
    Q = np.asarray(Q, dtype=float)
    flat = Q.ravel()
    if flat.size <= _INTERPOLATE_ABOVE or flat.min() <= 0:
        return _direct(function, k, flat).reshape(Q.shape)
    # few intervals, so that they are met again
    lo, hi = 2.0 * math.floor(math.log(flat.min()) / 2), 2.0 * math.ceil(math.log(flat.max()) / 2 + 1e-12)
    coefficients = _interpolant(function, k, lo, hi)
    if coefficients is None:
        return _direct(function, k, flat).reshape(Q.shape)
    return chebyshev.chebval(2 * (np.log(flat) - lo) / (hi - lo) - 1, coefficients).reshape(Q.shape)


def derivative_expectation(phi: str | Activation, k: int, Q):
    r"""$E[\phi^{(k)}(g)]$ for $g\sim N(0,Q)$, which for a $\phi$ without derivatives means $Q^{-k/2}E[\phi(\sqrt Q\xi)H_k(\xi)]$.

    Args:
        phi: activation.
        k: order of the derivative, >= 0.
        Q: variances > 0, any shape; the result has its shape.
    """
    phi, Q = activation(phi), np.asarray(Q, dtype=float)
    _check(k, Q)
    return phi.moment(k, Q) if phi.moment else _coefficient(phi.function, k, Q) * Q ** (-k / 2)


def overlap(phi: str | Activation, k: int, q, Q):
    r"""$E[\phi(g)H_k(z)]=q^kE[\phi^{(k)}(g)]$ for jointly Gaussian $g\sim N(0,Q)$, $z\sim N(0,1)$, $E[gz]=q$ (eqs. A.13-A.19)."""
    moment = derivative_expectation(phi, k, Q)
    return np.asarray(q) ** k * moment


def second_moment(phi: str | Activation, Q):
    r"""$E[\phi(g)^2]$ for $g\sim N(0,Q)$; for erf $\frac2\pi\arcsin\frac{2Q}{1+2Q}$."""
    phi, Q = activation(phi), np.asarray(Q, dtype=float)
    _check(0, Q)
    return phi.kernel(Q, Q, Q) if phi.kernel else _direct(lambda x: phi.function(x) ** 2, 0, Q.ravel()).reshape(Q.shape)
