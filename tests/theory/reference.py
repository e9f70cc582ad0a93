"""A slow, independent solution of the mean-field theory, for tests only.

Nothing here imports ``grokutils``. It shares with the library the definition of the one-neuron law and nothing else:

* the neuron is described by its squared length R = |w|^2 and its angle t = q/|w| to the teacher (the library uses q and
  the transverse norm), on composite Gauss-Legendre panels;
* Gaussian expectations are E[phi(sqrt(R) xi) He_k(xi)] / R^(k/2) on panels split at the kinks: no closed form, no
  Gauss-Hermite rule;
* the residual r solves r + (n / sigma^2) Q(r) r = y by MINPACK's hybrid method, followed from weak to full coupling:
  no dual function is maximised.

A *problem* is any object with ``samples, dimension, width, noise_variance, readout_variance, weight_variance`` and
``teacher_dict``; the activation is a plain function ``phi``.
"""

from __future__ import annotations

import functools
import itertools
import math
from types import SimpleNamespace

import numpy as np
from numpy.polynomial import hermite_e
from scipy import optimize, special

ERF = special.erf


def relu(z):
    return np.maximum(z, 0.0)


def problem(
    samples=3000, dimension=150, width=700, noise_variance=0.15, readout_variance=8 / 700, weight_variance=0.5, teacher=None
):
    """A problem without the library (the defaults are the published parameters)."""
    return SimpleNamespace(
        samples=samples,
        dimension=dimension,
        width=width,
        noise_variance=noise_variance,
        readout_variance=readout_variance,
        weight_variance=weight_variance,
        teacher_dict=dict(teacher or {1: 1.0, 3: -0.3}),
    )


def beta_scaled(beta, noise_variance, **changes):
    """The published parameters scaled with alpha = beta: n and N times beta, d times its root, s_a^2 over its root."""
    return problem(
        samples=3000 * beta,
        dimension=150 * math.sqrt(beta),
        width=700 * beta,
        readout_variance=8 / 700 / math.sqrt(beta),
        noise_variance=noise_variance,
        **changes,
    )


# ---------------------------------------------------------------- quadrature

_X, _W = np.polynomial.legendre.leggauss(16)


def panels(lo, hi, width, breaks=()):
    """Composite 16-point Gauss-Legendre nodes and weights on [lo, hi], panels no wider than ``width``, edges at ``breaks``."""
    edges = [lo, *sorted(b for b in breaks if lo < b < hi), hi]
    cuts = np.concatenate(
        [np.linspace(a, b, max(1, math.ceil((b - a) / width)) + 1)[:-1] for a, b in itertools.pairwise(edges)] + [[hi]]
    )
    half, mid = np.diff(cuts) / 2, (cuts[1:] + cuts[:-1]) / 2
    return (mid[:, None] + half[:, None] * _X).ravel(), (half[:, None] * _W).ravel()


_XI, _XI_W = panels(-13.0, 13.0, 0.5, breaks=(0.0,))
_XI_W = _XI_W * np.exp(-(_XI**2) / 2) / math.sqrt(2 * math.pi)


def he(k, z):
    return hermite_e.hermeval(z, [0.0] * k + [1.0])


def derivative(phi, k, R):
    """E[phi^(k)(g)] for g ~ N(0, R), by parts: E[phi(sqrt(R) xi) He_k(xi)] / R^(k/2). Kinks at zero only."""
    R = np.asarray(R, float)
    out = np.empty(R.size)
    weight = _XI_W * he(k, _XI)
    for block in range(0, R.size, 4096):
        r = R.ravel()[block : block + 4096]
        out[block : block + 4096] = (phi(np.sqrt(r)[:, None] * _XI) @ weight) / r ** (k / 2)
    return out.reshape(R.shape)


@functools.lru_cache(maxsize=64)
def _curve(phi, k):
    """Chebyshev interpolant in ln R of the smooth part R^(k/2) E[phi^(k)], for the places that need it many times."""
    return np.polynomial.Chebyshev.interpolate(
        lambda x: derivative(phi, k, np.exp(x)) * np.exp(k * x / 2), 120, domain=[-12.0, 4.0]
    )


def curve(phi, k, R):
    """``derivative`` by interpolation (an error below 1e-11 of the largest value; tested)."""
    x = np.log(R)
    if np.min(x) < -12 or np.max(x) > 4:
        raise ValueError(f"R outside the interpolated range: {np.min(R)}..{np.max(R)}")
    return _curve(phi, k)(x) * np.exp(-k * x / 2)


def second_moment(phi, R):
    return float(phi(math.sqrt(R) * _XI) ** 2 @ _XI_W)


def overlap_2d(phi, k, q, R):
    """E[phi(g) He_k(z)], (g, z) jointly Gaussian with var g = R, var z = 1, cov = q: a plain two-dimensional integral.

    g = sqrt(R) xi and z = (q / sqrt(R)) xi + sqrt(1 - q^2/R) eta; the inner integral over eta is an ordinary quadrature too.
    """
    c = q / math.sqrt(R)
    z = c * _XI[:, None] + math.sqrt(max(0.0, 1 - c * c)) * _XI[None, :]
    return float((phi(math.sqrt(R) * _XI) * _XI_W) @ (he(k, z) @ _XI_W))


# ---------------------------------------------------------------- the one-neuron law


class Neuron:
    """The prior of one neuron on a grid, and averages under exp(data term) x prior at any residual."""

    def __init__(self, p, phi=ERF, norm="exact", degrees=None, reach=None, resolution=1.0):
        self.p, self.phi, self.norm = p, phi, norm
        self.degrees = tuple(sorted(degrees if degrees is not None else p.teacher_dict))
        self.factorial = np.array([math.factorial(k) for k in self.degrees], float)
        self.y = np.array([p.teacher_dict.get(k, 0.0) for k in self.degrees])
        self.strength = p.readout_variance * p.samples**2 / (2 * p.width * p.noise_variance**2)  # of (sum_k r_k c_k)^2
        d, w2 = p.dimension, p.weight_variance
        step = resolution * min(0.3, 1.2 / math.sqrt(d))
        if norm == "exact":
            # R ~ Gamma(d/2, 2 w2/d) in ln R, and the angle with density sin^(d-2)
            low = math.log(w2) - min(30.0, 12 / math.sqrt(d) + 80 / d)
            high = math.log(w2) + (0.9 + math.log(1 + 16 / math.sqrt(d) + 130 / d) if reach is None else reach)
            x, wx = panels(low, high, step)
            angle, wt = panels(0.0, math.pi, step)
            R = np.exp(x)
            self.log_weight = ((d / 2) * x - d * R / (2 * w2) + np.log(wx))[:, None] + (
                (d - 2) * np.log(np.sin(angle)) + np.log(wt)
            )[None, :]
            self.q = np.sqrt(R)[:, None] * np.cos(angle)[None, :]
            self.c = np.stack([self.q**k * derivative(phi, k, R)[:, None] for k in self.degrees])
        else:
            # q = sqrt(w2) sinh(x): fine at the centre, wide enough for a heavy tail
            x, wx = panels(-math.asinh(reach or 5.0), math.asinh(reach or 5.0), step / 1.5)
            self.q = q = math.sqrt(w2) * np.sinh(x)
            self.log_weight = -d * q**2 / (2 * w2) + np.log(np.cosh(x) * wx)
            self.c = np.stack([q**k * derivative(phi, k, q**2 + w2) for k in self.degrees])
        top = self.log_weight.max()
        self.log_prior_norm = top + math.log(np.exp(self.log_weight - top).sum())

    def tilt(self, residual):
        """(normalised weights on the grid, ln Z) at a residual; raises if the law runs off the grid."""
        exponent = self.log_weight + self.strength * np.tensordot(residual, self.c, 1) ** 2
        top = exponent.max()
        weight = np.exp(exponent - top)
        edges = [weight[0], weight[-1]]
        if max(np.max(e) for e in edges) > 1e-12:
            raise ArithmeticError("the one-neuron law runs off the reference's grid: give a larger reach")
        total = weight.sum()
        return weight / total, top + math.log(total) - self.log_prior_norm

    def kernel(self, residual):
        """sigma_a^2 <c c^T> in the plain (not normalised) basis: E[f He_j(z)] E[f He_k(z)] summed over neurons."""
        weight, _ = self.tilt(residual)
        flat = self.c.reshape(len(self.degrees), -1)
        return self.p.readout_variance * (flat * weight.ravel()) @ flat.T

    def equation(self, residual, load=1.0):
        """r_j + (n/sigma^2) sum_k K_jk r_k / j! - y_j, with the data scaled down by ``load`` for the continuation."""
        residual = np.asarray(residual, float)
        K = self.kernel(residual * load)
        return residual + load * self.p.samples / self.p.noise_variance * (K @ residual) / self.factorial - self.y

    def mean(self, value, residual):
        weight, _ = self.tilt(residual)
        return float((weight * value).sum())

    def dual(self, residual):
        p = self.p
        quadratic = (self.factorial * residual * (self.y - np.asarray(residual) / 2)).sum()
        return p.samples / p.noise_variance * quadratic - p.width * self.tilt(np.asarray(residual, float))[1]


def solve(p, phi=ERF, norm="exact", degrees=None, neuron=None, **grid):
    """The residual {degree: value}, by MINPACK hybrid steps along a path from weak to full coupling."""
    neuron = neuron or Neuron(p, phi, norm, degrees, **grid)
    r, load, step = neuron.y.copy(), 0.0, 0.125
    while load < 1.0:
        trial = min(1.0, load + step)
        try:
            result = optimize.root(neuron.equation, r, args=(trial,), method="hybr", options={"xtol": 1e-13})
            found = np.abs(neuron.equation(result.x, trial)).max() < 1e-9
        except ArithmeticError:  # the last residual is too large for this load: smaller steps
            found = False
        if found and np.abs(result.x - r).max() < 0.25 * np.abs(neuron.y).max():
            r, load, step = result.x, trial, step * 1.5
        else:
            step /= 2
            if step < 1e-6:
                raise RuntimeError(f"the reference lost its path at load {load}, residual {r}")
    return dict(zip(neuron.degrees, r.tolist()))


def _log_norms(d, w2):
    return panels(
        math.log(w2) - min(8.0, 25 / math.sqrt(d) + 80 / d),
        math.log(w2) + math.log(1 + 16 / math.sqrt(d) + 130 / d),
        min(0.25, 1.2 / math.sqrt(d)),
    )


def negative_log_marginal(p, residual, q, phi=ERF, norm="exact"):
    """-ln of the (unnormalised) density of q at a residual, the transverse norm integrated out on panels in ln s."""
    q = np.atleast_1d(np.asarray(q, float))
    d, w2 = p.dimension, p.weight_variance
    strength = p.readout_variance * p.samples**2 / (2 * p.width * p.noise_variance**2)

    def data(q, R):
        return strength * sum(r * q**k * curve(phi, k, R) for k, r in residual.items()) ** 2

    if norm == "fixed":
        return d * q**2 / (2 * w2) - data(q, q**2 + w2)
    x, wx = _log_norms(d, w2)
    s = np.exp(x)
    out = np.empty(q.size)
    for i, value in enumerate(q):
        exponent = (d - 1) / 2 * x - d * s / (2 * w2) - d * value**2 / (2 * w2) + data(value, value**2 + s)
        out[i] = -special.logsumexp(exponent, b=wx)
    return out


def mean_transverse_norm(p, residual, q, phi=ERF):
    """E[s | q] by the same panels, in ln s."""
    d, w2 = p.dimension, p.weight_variance
    strength = p.readout_variance * p.samples**2 / (2 * p.width * p.noise_variance**2)
    x, wx = _log_norms(d, w2)
    s = np.exp(x)
    force = sum(r * q**k * curve(phi, k, q * q + s) for k, r in residual.items())
    exponent = (d - 1) / 2 * x - d * s / (2 * w2) + strength * force**2
    weight = np.exp(exponent - exponent.max()) * wx
    return float(weight @ s / weight.sum())


# ---------------------------------------------------------------- beta -> infinity


class Limit:
    """Intensive action -ln p / d as beta -> infinity, and what follows from it. One degree-1 soft direction at the centre."""

    def __init__(self, p, phi=ERF, norm="exact"):
        self.p, self.phi, self.norm = p, phi, norm
        self.w2 = p.weight_variance
        self.slope = float(derivative(phi, 1, np.array([self.w2]))[0])

    def interaction(self, noise):
        p = self.p
        return p.samples**2 * p.readout_variance / (noise**2 * p.dimension * p.width)

    def action(self, q, s, residual, noise):
        q, s = np.broadcast_arrays(np.asarray(q, float), np.asarray(s, float))
        force = sum(r * q**k * curve(self.phi, k, q**2 + s) for k, r in residual.items())
        return (q**2 + s) / (2 * self.w2) - np.log(s / self.w2) / 2 - 0.5 - self.interaction(noise) / 2 * force**2

    def profile(self, q, residual, noise):
        """(action minimised over s, that s) at one q; s is held at the prior's value for the fixed norm."""
        if self.norm == "fixed":
            return float(self.action(q, self.w2, residual, noise)), self.w2
        best = optimize.minimize_scalar(
            lambda x: float(self.action(q, math.exp(x), residual, noise)),
            bounds=(math.log(self.w2) - 5, math.log(self.w2) + 2),
            method="bounded",
            options={"xatol": 1e-10},
        )
        return best.fun, math.exp(best.x)

    def centre(self, noise):
        """The residual of the untrained state: Gaussian fluctuations about q = 0 learn degree 1 and nothing else."""
        p, target = self.p, self.p.teacher_dict
        residual = dict(target)
        first = target.get(1, 0.0)
        if first:
            load = p.samples * p.readout_variance / noise / p.dimension * self.slope**2

            def gap(b):
                stiffness = 1 / self.w2 - self.interaction(noise) * b * b * self.slope**2
                return b * (stiffness + load) - first * stiffness  # multiplied through by the stiffness: no pole

            edge = (
                min(abs(first), 1 / math.sqrt(self.w2 * self.interaction(noise)) / abs(self.slope)) if self.slope else abs(first)
            )
            if self.slope:
                residual[1] = optimize.brentq(lambda b: gap(math.copysign(b, first)), 0.0, edge * (1 + 1e-12), xtol=1e-15)
                residual[1] = math.copysign(residual[1], first)
        return residual

    def well(self, residual, noise, reach=2.0):
        """(action, q, s) of the deepest side well (a minimum away from the centre), or None."""
        w2, best = self.w2, None
        logs = np.array([math.log(w2)]) if self.norm == "fixed" else math.log(w2) + np.linspace(-4, 1, 60)
        for sign in (1, -1):
            q = sign * np.linspace(0.01, reach, 80)
            S = self.action(q[:, None], np.exp(logs)[None, :], residual, noise)
            profile, which = S.min(1), S.argmin(1)
            for i in np.flatnonzero((profile[1:-1] < profile[:-2]) & (profile[1:-1] <= profile[2:])) + 1:
                if self.norm == "fixed":
                    lo, hi = sorted((q[i - 1], q[i + 1]))
                    m = optimize.minimize_scalar(
                        lambda x: float(self.action(x, w2, residual, noise)),
                        bounds=(lo, hi),
                        method="bounded",
                        options={"xatol": 1e-10},
                    )
                    found = m.fun, float(m.x), w2
                else:
                    m = optimize.minimize(
                        lambda x: float(self.action(x[0], math.exp(x[1]), residual, noise)),
                        [q[i], logs[which[i]]],
                        method="Nelder-Mead",
                        options={
                            "xatol": 1e-9,
                            "fatol": 1e-15,
                            "initial_simplex": [
                                [q[i], logs[which[i]]],
                                [q[i] + 0.02, logs[which[i]]],
                                [q[i], logs[which[i]] + 0.05],
                            ],
                        },
                    )
                    found = m.fun, float(m.x[0]), math.exp(m.x[1])
                if abs(found[1]) > 0.02 and (best is None or found[0] < best[0]):
                    best = found
        return best

    def barrier(self, residual, noise, q_well):
        m = optimize.minimize_scalar(
            lambda x: -self.profile(x, residual, noise)[0],
            bounds=sorted((0.0, q_well)),
            method="bounded",
            options={"xatol": 1e-9},
        )
        return -m.fun, m.x

    def critical(self, lo, hi):
        """Noise at which the side well reaches the centre's depth, bracketed by the caller (well deeper at lo)."""

        def gap(noise):
            w = self.well(self.centre(noise), noise)
            return 1.0 if w is None else w[0]

        noise = optimize.brentq(gap, lo, hi, xtol=1e-11, rtol=1e-12)
        residual = self.centre(noise)
        _, q, s = self.well(residual, noise)
        return SimpleNamespace(
            noise_variance=noise, interaction=self.interaction(noise), residual=residual, overlap=abs(q), transverse_norm=s
        )

    def spinodal(self, lo, hi):
        """Noise at which the side well disappears, by bisection on its existence refined on the slope's minimum."""

        def lowest_slope(noise):
            residual = self.centre(noise)
            q = np.linspace(0.05, 1.3, 60)

            def slope(x):
                h = 1e-4
                return (self.profile(x + h, residual, noise)[0] - self.profile(x - h, residual, noise)[0]) / (2 * h)

            values = np.array([slope(x) for x in q])
            # the slope is positive near the centre and far away; the dip between touches zero at the spinodal
            dip = [i for i in range(1, len(q) - 1) if values[i] < values[i - 1] and values[i] <= values[i + 1]]
            if not dip:
                return 1.0
            i = min(dip, key=lambda j: values[j])
            return optimize.minimize_scalar(slope, bounds=(q[i - 1], q[i + 1]), method="bounded", options={"xatol": 1e-8}).fun

        return optimize.brentq(lowest_slope, lo, hi, xtol=1e-9)

    def mixed(self, noise, guess):
        """(residual, q, s, M) of the mixed phase: the side well exactly as deep as the centre, M droplets carry the rest."""
        p = self.p
        degrees = sorted(p.teacher_dict)
        y = np.array([p.teacher_dict[k] for k in degrees])
        factorial = np.array([math.factorial(k) for k in degrees], float)
        load = p.samples * p.readout_variance / noise / p.dimension * self.slope**2
        where = {}

        def equations(x):
            r, M = dict(zip(degrees, x[:-1])), x[-1]
            action, q, s = self.well(r, noise)
            where["well"] = (q, s)
            c = np.array([q**k * float(curve(self.phi, k, q * q + s)) for k in degrees])
            stiffness = 1 / self.w2 - self.interaction(noise) * r.get(1, 0.0) ** 2 * self.slope**2
            out = x[:-1] + M * c * (c @ x[:-1]) / factorial - y
            if 1 in degrees:
                out[degrees.index(1)] += load / stiffness * r[1]
            return np.append(out, 100 * action)

        result = optimize.root(equations, guess, method="hybr", options={"xtol": 1e-11})
        if np.abs(result.fun).max() > 1e-6:
            raise RuntimeError(f"mixed phase: {result.message}")
        q, s = where["well"]
        return SimpleNamespace(
            residual=dict(zip(degrees, result.x[:-1].tolist())), droplets=float(result.x[-1]), overlap=abs(q), transverse_norm=s
        )
