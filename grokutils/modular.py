r"""Addition modulo P by a network of quadratic neurons: the table, Fourier modes, closed-form networks, what is read from weights.

Conventions, the same as in ``grokutils.problems.ModularAddition``: a neuron's 2P input weights are its two halves (w_n) and (v_m); the
network's outputs are $f_p(n,m)=\sum_ia_{pi}(w_{in}+v_{im})^2$; the mode k of P numbers is $w_k=\frac1P\sum_nw_ne^{2\pi ikn/P}$. A cosine
$A\cos(2\pi kn/P+\varphi)$ has the mode $w_k=\tfrac A2e^{-i\varphi}$, so that its phase is $\varphi=-\arg w_k$. Arrays may have
leading axes (networks): ``weights`` (..., N, 2P), ``readout`` (..., P, N).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
import xarray as xr
from scipy.optimize import brentq, minimize_scalar
from scipy.special import ive, ndtr

from grokutils.problems import Problem, positive

LAYERS = ("first", "second", "readout")  # the weights of the first summand, of the second, and of the output


def _odd(modulus) -> int:
    p = positive("modulus", modulus, minimum=2, whole=True)
    if p % 2 == 0:
        raise ValueError(f"modulus must be odd, got {modulus!r}")
    return p


@dataclass(frozen=True)
class AdditionTask(Problem):
    """Addition modulo P to be learnt from a part of its table by a quadratic network.

    Args:
        modulus: P, odd.
        width: N, hidden units.
        training_fraction: share of the P^2 pairs that the network is trained on, between 0 and 1.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """

    modulus: int
    width: int
    training_fraction: float
    system: ClassVar[str] = "addition_task"

    def __post_init__(self):
        object.__setattr__(self, "modulus", _odd(self.modulus))
        object.__setattr__(self, "width", positive("width", self.width, whole=True))
        if positive("training_fraction", self.training_fraction) > 1 or self.training_pairs < 1:
            raise ValueError(f"training_fraction must be a share of {self.modulus}^2 pairs, at most 1, got {self.training_fraction!r}")

    @property
    def training_pairs(self) -> int:
        """The number of pairs trained on."""
        return round(self.training_fraction * self.modulus**2)

    def mask(self, seed: int) -> np.ndarray:
        """A random training set as a boolean table (P, P), entry [n, m] for the pair (n, m)."""
        chosen = np.zeros(self.modulus**2, dtype=bool)
        chosen[np.random.default_rng([seed, 1]).permutation(self.modulus**2)[: self.training_pairs]] = True
        return chosen.reshape(self.modulus, self.modulus)


def table(modulus: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (P^2, 2), the second summand running faster, and their sums modulo P (P^2,)."""
    n = np.arange(_odd(modulus))
    pairs = np.stack(np.meshgrid(n, n, indexing="ij"), axis=-1).reshape(-1, 2)
    return pairs, pairs.sum(axis=1) % modulus


def targets(modulus: int) -> np.ndarray:
    r"""Centred targets (P^2, P) of the whole table, $y^p_{nm}=\delta_{p,(n+m)\bmod P}-1/P$ (Rubin et al., eq. 4)."""
    _, sums = table(modulus)
    return np.eye(modulus)[sums] - 1 / modulus


def modes(weights, modulus: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Fourier modes (w_k), (v_k) of the two halves of input weights, each (..., P), $w_k=\frac1P\sum_nw_ne^{2\pi ikn/P}$.

    Args:
        weights: (..., 2P).
    """
    weights = np.asarray(weights)
    if weights.shape[-1] != 2 * _odd(modulus):
        raise ValueError(f"weights must have 2 * modulus = {2 * modulus} entries on the last axis, got shape {weights.shape}")
    return np.fft.ifft(weights[..., :modulus], axis=-1), np.fft.ifft(weights[..., modulus:], axis=-1)


def hidden(weights) -> np.ndarray:
    r"""Hidden units on the whole table, $(w_{in}+v_{im})^2$ (..., P^2, N)."""
    weights = np.asarray(weights)
    p = weights.shape[-1] // 2
    first, second = np.swapaxes(weights[..., :p], -1, -2), np.swapaxes(weights[..., p:], -1, -2)
    z = (first[..., :, None, :] + second[..., None, :, :]) ** 2
    return z.reshape(*z.shape[:-3], p * p, z.shape[-1])


def outputs(weights, readout) -> np.ndarray:
    """Outputs of the quadratic network on the whole table (..., P^2, P)."""
    return hidden(weights) @ np.swapaxes(np.asarray(readout), -1, -2)


def accuracy(outputs) -> np.ndarray:
    """Share of the table (...) on which the largest output (..., P^2, P) is the one of the sum."""
    return (np.argmax(outputs, axis=-1) == table(np.shape(outputs)[-1])[1]).mean(axis=-1)


class CosineNetwork(NamedTuple):
    """A closed-form network: ``weights`` (N, 2P), ``readout`` (P, N), made of a ``frequency`` (N,) and ``phases`` (3, N)."""

    weights: np.ndarray
    readout: np.ndarray
    frequency: np.ndarray
    phases: np.ndarray


def _cosines(modulus, frequency, phases, scale) -> CosineNetwork:
    angle = 2 * np.pi * np.outer(np.arange(modulus), frequency) / modulus
    first, second, third = (np.cos(angle + phase) for phase in phases)
    return CosineNetwork(np.concatenate([first, second]).T, scale * third, frequency, phases)


def even_frequencies(modulus: int, width: int, rng) -> np.ndarray:
    """Frequencies 1 ... (P-1)/2, each for as many of N neurons as any other, or one more (random ones)."""
    count = (_odd(modulus) - 1) // 2
    rest = rng.permutation(count)[: width % count] + 1
    return np.concatenate([np.tile(np.arange(1, count + 1), width // count), rest])


def cosine_network(modulus: int, width: int, seed: int = 0, constrained: bool = True) -> CosineNetwork:
    r"""Gromov's closed form: neuron i has one frequency k and random phases with $\varphi_1+\varphi_2=\varphi_3$.

    $$w_n=\cos(2\pi kn/P+\varphi_1),\quad v_m=\cos(2\pi km/P+\varphi_2),\quad a_p=c\,\cos(2\pi kp/P+\varphi_3)$$

    The factor $c=4/P\cdot(P-1)/(2N)$ makes the average over phases equal to the target.

    Args:
        modulus, width: P, N; frequencies are spread evenly.
        seed: of the phases.
        constrained: False draws all three phases independently, a control that must not add.
    """
    width, rng = positive("width", width, whole=True), np.random.default_rng(seed)
    frequency = even_frequencies(modulus, width, rng)
    phases = rng.uniform(-np.pi, np.pi, (3, width))
    if constrained:
        phases[2] = phases[0] + phases[1]
    return _cosines(modulus, frequency, phases, 2 * (modulus - 1) / (modulus * width))


def exact_network(modulus: int, group: int = 6) -> CosineNetwork:
    r"""A cosine network without any noise: its output is the target to round-off.

    Every frequency has a group of neurons whose phases are arranged so that all unwanted terms cancel: six neurons with
    $\varphi_1=\pi j/3$, $\varphi_2=4\pi j/3$; or four, with one more neuron for all groups together (its input weights are
    constant, its frequency is 0 in the result).
    """
    count = (_odd(modulus) - 1) // 2
    if group not in (4, 6):
        raise ValueError(f"group must be 4 or 6, got {group!r}")
    if group == 6:
        one = np.pi / 3 * np.arange(6)
        first, second = one, 4 * one
    else:
        first, second = np.pi / 2 * np.array([0, 1, 0, 3]), np.pi / 2 * np.array([0, 0, 1, 1])
    phases = np.tile(np.stack([first, second, first + second]), count)
    net = _cosines(modulus, np.repeat(np.arange(1, count + 1), group), phases, 4 / (group * modulus))
    if group == 6:
        return net
    weights = np.concatenate([net.weights, np.full((1, 2 * modulus), 0.5)])  # sums to one, squared one
    readout = np.concatenate([net.readout, -net.readout.sum(axis=1, keepdims=True)], axis=1)  # the one term that is left
    return CosineNetwork(weights, readout, np.append(net.frequency, 0), np.concatenate([phases, np.zeros((3, 1))], axis=1))


class Mistakes(NamedTuple):
    """Share of wrong sums of a cosine network: by the central limit theorem, by a union bound, and with clumps counted once."""

    gaussian: float
    bound: float
    clumped: float


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
_ANGLES = 2 * np.pi * (np.arange(256) + 0.5) / 256


def _gap(shift):
    r"""Per neuron, $(\cos S-\cos(S-\delta))(1+\cos S)$, by which the right output exceeds the one at distance $\delta$, up to $1+\cos D$."""
    return (np.cos(_ANGLES) - np.cos(_ANGLES - np.asarray(shift)[..., None])) * (1 + np.cos(_ANGLES))


def cumulants(modulus: int, tilt: float) -> float:
    r"""$K(s)=\frac2{P-1}\sum_\delta\ln E\,e^{-s\,d_\delta}$ of the gap $d$ of one neuron over random phases, averaged over frequencies.

    The average over the difference of the two angles is a Bessel function: $E_D\,e^{-sg(1+\cos D)}=e^{-sg}I_0(sg)$.
    """
    x = tilt * _gap(2 * np.pi * np.arange(1, (_odd(modulus) + 1) // 2) / modulus)
    return float(np.log((ive(0, x) * np.exp(np.abs(x) - x)).mean(axis=-1)).mean())


@lru_cache(maxsize=32)
def _saddle(modulus: int):
    """Tilt, rate I = -min K, curvature K'' at the minimum; means and standard deviations of the other gaps once one of them is zero."""
    found = minimize_scalar(lambda s: cumulants(modulus, s), bounds=(0.01, 1.5), method="bounded", options=dict(xatol=1e-9))
    s, h = float(found.x), 1e-3
    curvature = (cumulants(modulus, s + h) - 2 * cumulants(modulus, s) + cumulants(modulus, s - h)) / h**2
    shifts = 2 * np.pi * np.arange(1, (modulus + 1) // 2) / modulus
    lift = 1 + np.cos(_ANGLES[::4])  # the factor 1 + cos D, on a coarser grid
    one = _gap(shifts)[:, :, None] * lift
    weight = np.exp(-s * one)
    weight /= weight.sum(axis=(1, 2), keepdims=True)
    # moments of the factor 1 + cos D at given S leave averages over S alone
    zeroth, first, second = (np.einsum("ksd,d->ks", weight, lift**power) for power in range(3))
    g1 = _gap(shifts)
    mean1 = (first * g1).sum(axis=1)
    var1 = ((second * g1**2).sum(axis=1) - mean1**2).mean()
    means, deviations = [], []
    for r in range(2, modulus):
        g = _gap(shifts * r)
        mean = (first * g).sum(axis=1)
        var = ((second * g**2).sum(axis=1) - mean**2).mean()
        cov = ((second * g * g1).sum(axis=1) - mean * mean1).mean()
        means.append(mean.mean())
        deviations.append(math.sqrt(var - cov**2 / var1))
    return s, -float(found.fun), curvature, np.array(means), np.array(deviations)


def error_rate(modulus: int) -> float:
    r"""The exponent I of $1-\text{accuracy}\sim e^{-NI}$ for random cosine networks; the central limit theorem alone would give $P/(16(P-1))$."""
    return _saddle(_odd(modulus))[1]


def cosine_mistakes(modulus: int, width: float) -> Mistakes:
    r"""Predicted share of wrong sums of ``cosine_network``, from its N neurons with evenly spread frequencies and random phases.

    gaussian: $1-\int\!\frac{dz\,e^{-z^2/2}}{\sqrt{2\pi}}\,\Phi\bigl(\tfrac12\sqrt{NP/(P-1)}+\sqrt{17/16}\,z\bigr)^{P-1}$, noise as if Gaussian.
    bound: (P-1) times the probability that one given wrong output wins, by the saddle point (Lugannani and Rice): a union bound.
    clumped: the same over the mean size of a clump of wrong outputs that win together, their number taken as Poissonian.
    For prime P; neglected: frequencies that have one neuron more than others.
    """
    n, others = positive("width", width), _odd(modulus) - 1
    right = ndtr(0.5 * math.sqrt(n * modulus / others) + math.sqrt(17 / 16) * _NODES) ** others
    s, rate, curvature, means, deviations = _saddle(modulus)
    w, u = math.sqrt(2 * n * rate), s * math.sqrt(n * curvature)
    one = ndtr(-w) + math.exp(-w * w / 2) / math.sqrt(2 * math.pi) * (1 / u - 1 / w)
    further = float(ndtr(-means * math.sqrt(n) / deviations).sum())
    bound = float(others * one)
    return Mistakes(float(1 - _WEIGHTS @ right / math.sqrt(2 * math.pi)), bound, -bound * math.expm1(-further) / further)


def predicted_width(modulus: int, accuracy: float = 0.99) -> Mistakes:
    """The widths at which the three predictions of ``cosine_mistakes`` give an accuracy."""
    if not 0.5 <= accuracy < 1:
        raise ValueError(f"accuracy must be at least 0.5 and less than 1, got {accuracy!r}")
    found = (brentq(lambda n, i=i: cosine_mistakes(modulus, n)[i] - (1 - accuracy), 8, 1e4) for i in range(3))
    return Mistakes(*found)


def neurons(weights, readout) -> xr.Dataset:
    r"""What each neuron does, read in Fourier space. Dims (..., neuron), and (..., layer, neuron) where each layer has a value.

    frequency: the k in 1 ... (P-1)/2 with the largest product $|w_k||v_k||a_k|$; strength: that product, the neuron's share in the
    signal; participation: $\sum_k|w_k|^4/(\sum_k|w_k|^2)^2$ over these k (inverse participation ratio), 1 for a single
    frequency; amplitude: $2|w_k|$ at the frequency; phase: $-\arg w_k$; offset: the mean $w_0$ over the amplitude;
    phase_sum: $\varphi_1+\varphi_2-\varphi_3$ in $(-\pi,\pi]$.
    """
    weights, readout = np.asarray(weights), np.asarray(readout)
    p = readout.shape[-2]
    first, second = modes(weights, p)
    spectra = np.stack([first, second, np.fft.ifft(np.swapaxes(readout, -1, -2), axis=-1)], axis=-3)  # ..., layer, neuron, k
    half = spectra[..., 1 : (p + 1) // 2]
    size = np.abs(half)
    product = size.prod(axis=-3)
    frequency = product.argmax(axis=-1)
    chosen = np.take_along_axis(half, frequency[..., None, :, None], axis=-1)[..., 0]
    power = size**2
    with np.errstate(invalid="ignore", divide="ignore"):  # a neuron that is exactly zero has no spectrum
        participation = (power**2).sum(axis=-1) / power.sum(axis=-1) ** 2
        offset = np.abs(spectra[..., 0]) / (2 * np.abs(chosen))
    phase = -np.angle(chosen)
    total = phase[..., 0, :] + phase[..., 1, :] - phase[..., 2, :]
    outer = tuple(f"network_{i}" for i in range(weights.ndim - 2)) if weights.ndim != 3 else ("member",)
    each, layered = (*outer, "neuron"), (*outer, "layer", "neuron")
    return xr.Dataset(
        {
            "frequency": (each, frequency + 1), "strength": (each, product.max(axis=-1)), "phase_sum": (each, np.angle(np.exp(1j * total))),
            "participation": (layered, participation), "amplitude": (layered, 2 * np.abs(chosen)), "phase": (layered, phase),
            "offset": (layered, offset),
        },
        coords={"layer": list(LAYERS)},
    )


def best_readout(weights, ridge: float, mask=None) -> np.ndarray:
    r"""The readout (P, N) that minimises $\sum_{nm,p}(y-f)^2+\rho\sum a^2$ at given input weights (N, 2P), the mean of the Gaussian $p(a\mid W)$.

    Args:
        ridge: rho > 0; the posterior's is $N\sigma^2/\sigma_a^2$.
        mask: boolean table (P, P) of the pairs that count; None: all.
    """
    positive("ridge", ridge)
    z, y = hidden(weights), targets(np.shape(weights)[-1] // 2)
    if mask is not None:
        z, y = z[np.ravel(mask)], y[np.ravel(mask)]
    return np.linalg.solve(z.T @ z + ridge * np.eye(z.shape[1]), z.T @ y).T


class Direction(NamedTuple):
    """Mean direction of angles, its standard error, and the resultant length (1: all equal, about $1/\\sqrt n$: uniform)."""

    mean: float
    error: float
    length: float


def direction(angles) -> Direction:
    r"""Mean direction of independent angles; the error is $\sqrt{(1-\langle\cos2(\theta-\bar\theta)\rangle)/2n}/R$."""
    angles = np.ravel(angles)
    resultant = np.exp(1j * angles).mean()
    mean, length = float(np.angle(resultant)), float(np.abs(resultant))
    spread = (1 - np.cos(2 * (angles - mean)).mean()) / (2 * len(angles))
    return Direction(mean, math.sqrt(max(spread, 0.0)) / length if length else math.inf, length)


def rayleigh(angles) -> float:
    r"""p-value of Rayleigh's test that independent angles are uniform on the circle, from $nR^2$."""
    n = np.size(angles)
    z = n * direction(angles).length ** 2
    return float(np.clip(math.exp(-z) * (1 + (2 * z - z * z) / (4 * n)), 0.0, 1.0))


def first_crossing(values, at, threshold: float) -> np.ndarray:
    """The first of the steps ``at`` (steps,) at which values (..., steps) reach a threshold; infinite where they never do."""
    reached = np.asarray(values) >= threshold
    return np.where(reached.any(axis=-1), np.asarray(at, dtype=float)[reached.argmax(axis=-1)], np.inf)
