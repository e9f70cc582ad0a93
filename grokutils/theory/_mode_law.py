r"""The law of one complex Fourier mode of one neuron of the modular network, by a quadrature that knows where the peaks are.

In the units $\Phi=\frac bPs$, $\Psi=\frac bPt$ with $b=(P^2/\gamma)^{1/3}$ and $\omega=2Ub^2/P$ the law has two parameters,

$$p(s,t)\propto e^{-b(s+t)+\omega st-(s^3+t^3)/3},\qquad s,t\ge0 .$$

The integral over t is Scorer's function Hi; it is done on a window around its peak, and the integral over s on panels that are halved until
nothing changes. Beside a side well, at $s_+$, all exponents are measured from the well: nothing cancels however deep it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_DROP = 46.0  # exponents this far below a peak do not count
_INNER = np.polynomial.legendre.leggauss(56)
_OUTER = np.polynomial.legendre.leggauss(16)


def _inner(z, low):
    r"""$\ln\int_l^\infty e^{zt-t^3/3}dt$ from the exponent at $t_0=\max(\sqrt z,l)$ on, and E[t - t0], E[(t - t0)^2], and t0."""
    peak = np.sqrt(np.maximum(z, 0.0))
    t0 = np.maximum(peak, low)
    slope = np.where((t0 > peak) | (z < 0), np.maximum(t0 * t0 - z, 0.0), 0.0)
    with np.errstate(divide="ignore"):
        above = np.minimum(np.minimum(_DROP / slope, np.sqrt(_DROP / t0)), (3 * _DROP) ** (1 / 3))
        below = np.minimum(t0 - low, np.sqrt(1.5 * _DROP / t0))
    x, weight = _INNER
    centre, half = (above - below) / 2, (above + below) / 2
    s = centre[..., None] + half[..., None] * x
    f = weight * np.exp(-s * (slope[..., None] + s * (t0[..., None] + s / 3)))
    total = f.sum(-1)
    return np.log(half * total), (f * s).sum(-1) / total, (f * s * s).sum(-1) / total, t0


@dataclass(frozen=True)
class ModeLaw:
    """The law of (Phi, Psi) at interaction U = u a^2, sextic decay and modulus of a problem; all moments in units of the prior, x = P Phi."""

    modulus: float
    sextic_decay: float
    interaction: float

    @cached_property
    def b(self) -> float:
        return (self.modulus**2 / self.sextic_decay) ** (1 / 3)

    @cached_property
    def omega(self) -> float:
        return 2 * self.interaction * self.b**2 / self.modulus

    @cached_property
    def wells(self) -> tuple[float, float] | None:
        """(s_-, s_+), the barrier and the well on the diagonal s = t; None below the spinodal."""
        discriminant = self.omega**2 - 4 * self.b
        if discriminant <= 0:
            return None
        well = (self.omega + math.sqrt(discriminant)) / 2
        return self.b / well, well

    def height(self, s: float) -> float:
        """-ln p at a stationary point of the diagonal, from the centre on."""
        return s * s * (self.omega - 4 * s / 3)

    def _plain(self, s, low):
        z = self.omega * s - self.b
        log, mean, square, t0 = _inner(z, low)
        return -self.b * s - s**3 / 3 + t0 * (z - t0 * t0 / 3) + log, mean, square, t0

    def _beside_well(self, p, low):
        """The same at s = s_+ + p, exponents measured from the well; needs z > 0, which holds beyond the barrier."""
        well = self.wells[1]
        s = well + p
        z = well * well + self.omega * p
        log, mean, square, t0 = _inner(z, low)
        ratio = 1 + (self.omega / well) * p / well
        root = np.sqrt(np.maximum(ratio, 0.0))
        gain = 2 / 3 * well * (self.omega * p / well / (1 + root)) ** 2 * (root + 0.5)
        peak = np.sqrt(np.maximum(z, 0.0))
        loss = (t0 - peak) ** 2 * (2 * peak + t0) / 3  # the exponent lost if the window starts beyond the peak
        return -p * p * (well + p / 3) + gain - loss + log, mean, square, t0, s

    def _region(self, beside: bool, edges, low_product):
        """Adaptive panels over the given edges (of s, or of p beside the well): log of the integral and the moments within."""
        x, weight = _OUTER

        def panels(left, right):
            half = (right - left) / 2
            at = left[:, None] + half[:, None] * (1 + x)
            s = at if not beside else self.wells[1] + at
            low = low_product / np.maximum(s, 1e-300) if low_product else np.zeros_like(s)
            log, mean, square, t0, *_ = (self._beside_well if beside else self._plain)(at, low)
            return log, half[:, None] * weight, s, t0 + mean, t0 * t0 + 2 * t0 * mean + square

        def reduce(data, top):
            log, measure, s, mean, square = data
            f = measure * np.exp(log - top)
            return np.stack([f.sum(1), (f * s).sum(1), (f * s * mean).sum(1), (f * s * s * square).sum(1)], axis=1)

        left, right = edges[:-1], edges[1:]
        data = panels(left, right)
        top = data[0].max()
        coarse, done = reduce(data, top), np.zeros(4)
        for _ in range(40):
            scale = done[0] + coarse[:, 0].sum()
            keep = coarse[:, 0] > 1e-19 * scale
            done += coarse[~keep].sum(0)
            left, right, coarse = left[keep], right[keep], coarse[keep]
            if not len(left):
                break
            middle = (left + right) / 2
            data = panels(np.concatenate([left, middle]), np.concatenate([middle, right]))
            if data[0].max() > top + 1:  # a peak that the coarse panels had missed
                shift = math.exp(top - data[0].max())
                top, done, coarse = data[0].max(), done * shift, coarse * shift
            fine = reduce(data, top)
            n = len(left)
            both = fine[:n] + fine[n:]
            settled = (np.abs(both - coarse) <= 1e-14 * (done + both.sum(0))).all(1)
            done += both[settled].sum(0)
            open_ = np.concatenate([~settled, ~settled])
            left, middle, right = left[~settled], middle[~settled], right[~settled]
            left, right, coarse = np.concatenate([left, middle]), np.concatenate([middle, right]), fine[open_]
        else:
            done += coarse.sum(0)
        return top + math.log(done[0]) if done[0] > 0 else -math.inf, done / done[0] if done[0] > 0 else np.zeros(4)

    def integrate(self, low_product: float = 0.0):
        r"""ln Z of the flat measure in (s, t) and E[s], E[st], E[(st)^2], over the region st > low_product."""
        start = 0.25 * min(1.0, 1 / self.b)
        if self.wells is None:
            # beyond max(omega^2, 5) the cube beats all else
            end = max(2 * self.omega, self.omega**2 / 4 if self.omega < 8 else 0.0, 8.0)
            regions = [(False, _geometric(start, end), 0.0)]
        else:
            barrier, well = self.wells
            far = max(2 * self.omega, 8.0)
            width = 1 / math.sqrt(2 * well)
            inside = _geometric(width / 4, well - barrier)
            outside = _geometric(width / 4, far)
            around = np.concatenate([-inside[::-1], outside[1:]])
            regions = [(False, _geometric(start, barrier), 0.0), (True, around, -self.height(well))]
        logs, moments = [], []
        for beside, edges, offset in regions:
            log, moment = self._region(beside, edges, low_product)
            logs.append(log + offset)
            moments.append(moment)
        top = max(logs)
        if top == -math.inf:
            return -math.inf, np.zeros(3)
        shares = np.exp(np.array(logs) - top)
        return top + math.log(shares.sum()), (shares @ np.array(moments) / shares.sum())[1:]

    def beyond(self, s: float) -> float:
        r"""Probability of $\sqrt{st}$ > s."""
        log_z = self.integrate()[0]
        if (self.wells is None or s > self.wells[1]) and -self.height_at(s) < log_z - 60 - 2 * math.log(2 + s):
            return 0.0  # the largest exponent of the region is at its edge on the diagonal, and far too small
        return min(1.0, math.exp(self.integrate(s * s)[0] - log_z))

    def height_at(self, s: float) -> float:
        """-ln p along the diagonal, from the centre on."""
        return s * (2 * self.b - self.omega * s + 2 * s * s / 3)


def _geometric(start: float, end: float) -> np.ndarray:
    """0, start, 2 start, 4 start, ..., end."""
    if start >= end:
        return np.array([0.0, end])
    steps = math.ceil(math.log2(end / start))
    return np.concatenate([[0.0], start * (end / start) ** (np.arange(steps + 1) / steps)])
