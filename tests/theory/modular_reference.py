"""A slow, independent solution of the mean field of modular addition, for tests only.

Nothing here imports ``grokutils``. It shares with the library the definition of the law of one mode and nothing else:

* the mode is described by the half sum r = (Phi + Psi)/2 and the half difference e = (Phi - Psi)/2 of its squared magnitudes (the library
  integrates over Phi and Psi one after the other);
* the integrals are plain Gauss-Legendre sums over many fixed panels, dense at the centre and around the largest value on the diagonal,
  which is found on a grid;
* the residual is found by bisection of  residual = noise / (noise + eigenvalue(residual)).
"""

from __future__ import annotations

import math

import numpy as np

_X, _W = np.polynomial.legendre.leggauss(24)
_ACROSS, _ACROSS_W = np.polynomial.legendre.leggauss(160)


def exponent(modulus, gamma, interaction, r, e):
    """-2 S at Phi = r + e, Psi = r - e, written in powers of e."""
    return -2 * modulus * (r - interaction * (r * r - e * e) + gamma / 3 * (r**3 + 3 * r * e * e))


def _panels(edges):
    edges = np.unique(edges)
    half = np.diff(edges) / 2
    return (edges[:-1, None] + half[:, None] * (1 + _X)).ravel(), (half[:, None] * _W).ravel()


def product(modulus, gamma, interaction):
    """<Phi Psi> of one mode."""
    p, u = modulus, interaction
    top = max(3 * u / gamma, 3 * math.sqrt(3 / gamma))
    top = max(top, min(60 / p, 5 * (30 / (p * gamma)) ** (1 / 3)))
    edges = np.concatenate([[0.0], np.geomspace(min(0.02 / p, top / 100), top, 60)])
    if u * u > gamma:  # a well: panels of about its width around it
        well = (u + math.sqrt(u * u - gamma)) / gamma
        curvature = max(4 * p * (gamma * well - u), 4 * (p * gamma) ** (2 / 3) / 50)  # of the exponent along the diagonal
        edges = np.concatenate([edges, np.clip(well + np.arange(-30, 31) * 0.7 / math.sqrt(curvature), 0, top)])
    r, weight = _panels(edges)
    # across the diagonal the exponent is -2 P (u + gamma r) e^2: a Gaussian cut off at e = r
    reach = np.minimum(r, 9 / np.sqrt(2 * 2 * p * (u + gamma * r)))
    e = reach[:, None] * (1 + _ACROSS) / 2
    # measure the exponent along the diagonal from its largest value, by differences that do not cancel
    along = exponent(p, gamma, u, r, 0.0)
    if u * u > gamma:
        d = r - well
        beside = -2 * p * (d * d * (gamma * well - u) + gamma / 3 * d**3)
        peak = -2 * p * well * (1 - u * well + gamma / 3 * well * well)
        along = np.where(np.abs(d) < 0.5 * well, beside + peak, along)
        shift = max(peak, 0.0)
        along = np.where(np.abs(d) < 0.5 * well, beside + (peak - shift), along - shift)
    across = np.exp(-2 * p * (u + gamma * r)[:, None] * e * e) * _ACROSS_W
    mass = weight * np.exp(along) * reach
    norm = np.sum(mass * across.sum(1))
    return float(np.sum(mass * (across * (r[:, None] ** 2 - e * e)).sum(1)) / norm)


def residual(modulus, width, noise_variance, readout_variance, gamma, per_mode=None):
    """The self-consistent residual; ``per_mode`` is the factor of sigma_a^2 <Phi Psi> in the eigenvalue, 4 P^2 unless given."""
    factor = 4 * modulus**2 if per_mode is None else per_mode
    u = 2 * readout_variance * modulus**2 / (width * noise_variance**2)

    def new(a):
        return noise_variance / (noise_variance + factor * readout_variance * product(modulus, gamma, u * a * a))

    low, high = 0.0, 1.0
    for _ in range(42):
        middle = (low + high) / 2
        if new(middle) > middle:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def two_state(modulus, width, noise_variance, readout_variance, gamma):
    """The printed equations: sigma_a^2 <Phi Psi> with the weight 4 e^{-S} of a point at w_+ against the centre at 0."""
    u = 2 * readout_variance * modulus**2 / (width * noise_variance**2)

    def new(a):
        big_u = u * a * a
        if big_u**2 <= gamma:
            return 1.0
        x = (big_u + math.sqrt(big_u**2 - gamma)) / gamma
        log_weight = math.log(4) - modulus * (x - big_u * x * x + gamma / 3 * x**3)
        share = 1 / (1 + math.exp(-log_weight)) if log_weight > -600 else 0.0
        return noise_variance / (noise_variance + readout_variance * share * x * x)

    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if new(middle) > middle else (low, middle)
    return (low + high) / 2
