r"""One neuron of the modular network at finite size: all its Fourier modes, coupled by the determinant of its readouts.

With all readouts integrated out, a neuron's law given the others is proportional to

$$p_0(w)\,L^{-P/2}\exp\Big[\frac P2\frac{\sigma_a^2}N\frac{\varphi^\dagger C^{-1}\Pi C^{-1}\varphi}L\Big],\qquad
  L=1+\frac{\sigma_a^2}N\varphi^\dagger C^{-1}\varphi,$$

with $\Pi$ the projector on the target's modes. $C^{-1}$ and $C^{-1}\Pi C^{-1}$ are replaced by their means R and M, diagonal in Fourier
pairs. Averaged over phases, both forms depend on three sums over the neuron's modes, $T=2\sum(\Phi+\Psi)$, $D=2\sum\Phi\Psi$ and
$F=2\sum(\Phi^2+\Psi^2)$:

$$\frac{\sigma_a^2P^2}N\big\{(R_\perp+R_0)T^2+4(R_t+R_x-R_\perp-R_0)D-(R_0+2R_\perp)F+4R_0z^2T+R_{00}(T+z^2)^2\big\}$$

for R, and alike for M (the square of $2\sum(\Phi-\Psi)$ is replaced by its mean 2F - 4D). At given T the modes are independent but for D
and F, which enter L weakly and are linearised about their means at that T. The law of T is then a convolution of (P - 1)/2 equal laws,
done by Fourier transform after an exponential tilt. What L fluctuates with the phases at given T is summed by a shifted gamma law.
Under the reward stands L', which is L less what the other neurons make up for: sums over neurons that the target holds stiffly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_MOST = 200  # laws computed before giving up
_FOLLOWING = ("other", "axis", "origin", "zero", "pull_mirror", "pull_other", "pull_axis", "pull_origin", "own_other", "own_axis", "own_origin")
_LARGEST = 6_000  # points of the grid of one mode


@dataclass(frozen=True)
class Resolvent:
    r"""Diagonal matrices by kind of Fourier pair: R = E[C^{-1}] and M = E[C^{-1} Pi C^{-1}].

    target (k, k); mirror (k, -k), where R is that of the target; other pairs; axes (k, 0) and (0, k); origin (0, 0).
    zero is z^2, the power of the neuron's two zero modes; pull_... are the elements of M; own_... is the share of a neuron's own effect, on the
    target itself or on its mixing with another pair, that the other neurons do not make up for.
    """

    target: float
    other: float
    axis: float
    origin: float
    zero: float
    pull_target: float
    pull_mirror: float = 0.0
    pull_other: float = 0.0
    pull_axis: float = 0.0
    pull_origin: float = 0.0
    own_target: float = 1.0
    own_other: float = 1.0
    own_axis: float = 1.0
    own_origin: float = 1.0


def _coefficients(target, mirror, other, axis, origin, zero):
    """Coefficients of T^2, D, F, T, 1 in a quadratic form of the network's output, averaged over phases, in units of sigma_a^2 P^2 / N."""
    return other + axis + origin, 4 * (target + mirror - other - axis), -(axis + 2 * other), (4 * axis + 2 * origin) * zero, origin * zero**2


@dataclass
class _State:
    """The law of a neuron on the grid of T, and what the equations need of it."""

    weight: np.ndarray  # p(T) times the spacing
    stiffness: np.ndarray  # L at the mean D, F of each T
    screened: np.ndarray  # L', what divides the reward
    reward: np.ndarray  # what stands over L' in the exponent, without P/2
    product: np.ndarray  # E[D | T]
    square: np.ndarray  # E[F | T]
    fourth: np.ndarray  # E[(Phi Psi)^2 | T] of one mode
    shift: np.ndarray  # what L loses because the neuron chooses its phases
    mode: np.ndarray  # law of tau = 2 (Phi + Psi) of one mode
    across: tuple  # what is needed for its law in Phi and Psi

    def mean(self, values) -> float:
        return float(np.sum(self.weight * values))


class FiniteNeuron:
    """The law of one neuron of ``problem`` with the grids on which it is computed."""

    def __init__(self, problem, interaction: float, points: int = 44):
        p, gamma = problem.modulus, problem.sextic_decay
        self.problem, self.count, self.points, self.pace = problem, (p - 1) // 2, points, 0.6  # pace: the step of the substitution
        self.strength = problem.interaction * problem.noise_variance**2 / 2
        well = 1.9 * math.sqrt(3 / gamma) if problem.interaction**2 > 0.1 * gamma else 0.0
        if interaction**2 > gamma:
            well = max(well, 1.5 * (interaction + math.sqrt(interaction**2 - gamma)) / gamma)
        top = 4 * max(well, min(30 / p, (60 / (p * gamma)) ** (1 / 3)))
        self.step = 0.25 / p
        if top / self.step > _LARGEST:
            raise ValueError(
                "finite_size needs droplets that are not too far from the bulk, P / sqrt(sextic_decay) at most about 100, "
                f"got modulus={p}, sextic_decay={gamma!r}"
            )
        self.tau = self.step * np.arange(math.ceil(top / self.step))
        half = self.tau[:, None] / 2  # Phi + Psi
        with np.errstate(divide="ignore"):
            reach = np.minimum(half, 5.5 / np.sqrt(p / 4 * (interaction + gamma * half)))
        self.difference = reach * (1 + _NODES) / 2  # |Phi - Psi|, as far as it matters
        self.product, self.square = (half**2 - self.difference**2) / 4, (half**2 + self.difference**2) / 2
        with np.errstate(divide="ignore"):
            measure = np.log(reach * _WEIGHTS / 4)
        self.base = measure - p * half - p * gamma / 12 * half * (half**2 + 3 * self.difference**2)
        self.set_range(0.3, 4 + 4 * well * min(self.count, 6))

    def set_range(self, low: float, high: float) -> None:
        """Choose the grid of T."""
        known = getattr(self, "total", None)
        index = np.unique(np.round(np.linspace(max(low, 20 * self.step) / self.step, high / self.step, self.points)).astype(int))
        self.index, self.total = index, index * self.step
        self.length = next_fast_len(int(index[-1] + 2 * len(self.tau)), real=True)
        self.tilt = np.zeros(len(index)) if known is None else np.interp(self.total, known, self.tilt)
        if known is None:
            self.means = self.total**2 / 4 / self.count, self.total**2 / 2 / self.count, 0 * self.total
        else:
            self.means = tuple(np.interp(self.total, known, mean) for mean in self.means)

    def _form(self, c, total, product, square):
        return self.strength * (c[0] * total**2 + c[1] * product + c[2] * square + c[3] * total + c[4])

    def law(self, r: Resolvent) -> _State:
        """The law of T, and the means of D and F at each T, one step of their iteration further."""
        p, total, (product, square, shift) = self.problem.modulus, self.total, self.means
        target = r.own_target * r.target
        cost = _coefficients(target, target, r.other, r.axis, r.origin, r.zero)
        screen = _coefficients(target, target, r.own_other * r.other, r.own_axis * r.axis, r.own_origin * r.origin, r.zero)
        linear = r.target - target
        gain = _coefficients(r.pull_target - linear, r.pull_mirror - linear, r.pull_other, r.pull_axis, r.pull_origin, r.zero)
        stiff = 1 + np.maximum(self._form(cost, total, product, square) - shift, 0.0)  # a sum of squares, hence not negative
        screened = 1 + np.maximum(self._form(screen, total, product, square) - r.own_axis * shift, 0.0)
        reward = self._form(gain, total, product, square)
        # derivatives of the potential (P/2) (ln L - reward / L'), where L' is L as far as the others do not react
        slope, pull = reward / screened**2, 1 / stiff + r.own_axis * reward / screened**2
        force_d = p / 2 * self.strength * (cost[1] / stiff + slope * screen[1] - gain[1] / screened)
        force_f = p / 2 * self.strength * (cost[2] / stiff + slope * screen[2] - gain[2] / screened)
        exponent = self.base - 2 * force_d[:, None, None] * self.product - 2 * force_f[:, None, None] * self.square
        peak = exponent[:, :, :1].copy()
        peak[:, 0] = 0.0
        inner = np.exp(np.minimum(exponent - peak, 300.0))
        norm = np.einsum("ijk->ij", inner)
        norm[:, 0] = 1.0
        log_mode = np.log(norm) + peak[:, :, 0]
        log_mode[:, 0] = log_mode[:, 1] - math.log(12)  # the end correction of the trapezoidal rule
        each_product, each_square = np.einsum("ijk,jk->ij", inner, self.product) / norm, np.einsum("ijk,jk->ij", inner, self.square) / norm
        each_fourth = np.einsum("ijk,jk->ij", inner, self.product**2) / norm
        mode, log_norm = self._tilted(log_mode)
        rest = np.maximum(irfft(_power(rfft(mode, self.length, axis=1), self.count - 1), self.length, axis=1), 0.0)
        lag = self.index[:, None] - np.arange(len(self.tau))
        joint = mode * np.where(lag >= 0, np.take_along_axis(rest, np.maximum(lag, 0), 1), 0.0)
        convolved = joint.sum(1)
        seen = convolved > 1e-10 * convolved.max()  # elsewhere the transform returns round-off: values of T that no set of modes has
        convolved = np.where(seen, convolved, 1e-300)
        joint /= convolved[:, None]
        # phases: the kurtosis of the weights makes L fluctuate; its law is close to a shifted gamma law
        y = np.maximum(4.5 * pull * self.strength * r.axis * total**2, 0.0)
        phases = p / 27 * (y - np.log1p(y)) - p / 2 * pull * shift
        new_shift = 2 / 27 * y * y / (1 + y) / pull
        log_p = -p / 2 * (np.log(stiff) - reward / screened) + force_d * product + force_f * square + phases
        log_p += self.count * log_norm - self.tilt * total + np.log(convolved)
        weight = np.exp(log_p - log_p.max()) * np.gradient(total)
        self.means = *(
            np.where(seen, old + self.pace * (2 * self.count * (joint * each).sum(1) - old), old)
            for old, each in ((product, each_product), (square, each_square))
        ), shift + self.pace * (np.maximum(new_shift, 0.0) - shift)
        product, square, shift = self.means
        fourth = (joint * each_fourth).sum(1)
        across = inner, norm, log_mode, force_d, force_f
        return _State(weight / weight.sum(), stiff, screened, reward, product, square, fourth, shift, joint, across)

    def _tilted(self, log_mode):
        """The normalised laws of tau tilted to the mean T / count, and their log norms."""
        aim = self.total / self.count
        low, high = np.full(len(aim), -np.inf), np.full(len(aim), np.inf)
        for _ in range(200):
            exponent = log_mode + self.tilt[:, None] * self.tau
            peak = exponent.max(1, keepdims=True)
            mode = np.exp(exponent - peak)
            norm = mode.sum(1)
            mode /= norm[:, None]
            mean = mode @ self.tau
            if np.max(np.abs(mean / aim - 1)) < 1e-9:
                break
            low, high = np.where(mean < aim, self.tilt, low), np.where(mean > aim, self.tilt, high)
            spread = np.maximum(mode @ self.tau**2 - mean**2, self.step**2)
            new = self.tilt + np.clip((aim - mean) / spread, -3 / np.sqrt(spread), 3 / np.sqrt(spread))
            self.tilt = np.where((new > low) & (new < high), new, (np.maximum(low, self.tilt - 50) + np.minimum(high, self.tilt + 50)) / 2)
        return mode, np.log(norm) + peak[:, 0]

    def narrow(self, state: _State) -> None:
        """Spend the grid of T where the law is."""
        inside = self.total[state.weight > 1e-12 * state.weight.max()]
        gap = np.max(np.diff(self.total))
        self.set_range(inside[0] - gap, inside[-1] + gap)

    def resolvent(self, r: Resolvent, state: _State) -> Resolvent:
        """The matrices that neurons of this law make, with the target's R left as it is."""
        m, p = self.problem, self.problem.modulus
        noise, scale = m.noise_variance, m.readout_variance * p**2
        total, product, square, stiff = self.total, state.product, state.square, state.stiffness
        spread = 2 * square - 4 * product  # mean of (2 sum (Phi - Psi))^2
        powers = {  # mean squared output of a neuron in one pair of each kind
            "target": 4 * scale * product / (p - 1),
            "other": 4 * scale * ((total**2 - spread) / 4 - 2 * product) / ((p - 1) * (p - 3)),
            "axis": (scale * ((total**2 + spread) / 2 - 1.5 * square + 2 * r.zero * total) - m.width * state.shift / r.axis) / (p - 1),
            "origin": scale * (total + r.zero) ** 2,
        }
        inverse = {kind: 1 / (noise + state.mean(power / stiff)) for kind, power in powers.items() if kind != "target"} | {"target": r.target}
        # derivative of the resolvent: K' = Pi + (sigma_a^2 / N) E[power reward / L^2]
        noisy = {kind: state.mean(power * state.reward / stiff**2) * inverse[kind] ** 2 for kind, power in powers.items()}
        # mixing of the target with another pair costs energy, to which all neurons contribute: fluctuations shrink by 1 + curvature * variance
        curvature = p / m.width * (r.target**2 - r.target)
        own = {
            kind: 1 / (1 + max(curvature, 0.0) * inverse[kind] * state.mean(powers["target"] * powers[kind] / stiff**2))
            for kind in ("other", "axis", "origin")
        }
        zero = 1 / (p / 2 + p * self.strength * state.mean((4 * r.axis + 2 * r.origin) * total / stiff))
        # the other neurons of a mode keep its sum of y = (4 sigma_a^2 P^2 / N) Phi Psi / L nearly constant: curvature of the energy times Var
        variance = state.mean(state.fourth / stiff**2) - state.mean(product / (p - 1) / stiff) ** 2
        variance *= m.width * (4 * scale / m.width) ** 2
        stiffening = max(variance * 2 * p * (r.target**3 - r.target**2), 0.0)
        return Resolvent(
            r.target, inverse["other"], inverse["axis"], inverse["origin"], zero,
            r.target**2 + noisy["target"], noisy["target"], *(own[k] * noisy[k] for k in own), 1 / (1 + stiffening), *own.values(),
        )

    def eigenvalue(self, state: _State) -> float:
        r"""$\lambda=4P^2\sigma_a^2\langle\Phi\Psi/L'\rangle$."""
        m = self.problem
        return 4 * m.modulus**2 * m.readout_variance * state.mean(state.product / state.screened) / (m.modulus - 1)


@dataclass(frozen=True)
class Finite:
    """The law of one neuron at the solution."""

    neuron: FiniteNeuron
    law: _State
    resolvent: Resolvent

    def mean(self, values) -> float:
        """Average over the law of T."""
        return self.law.mean(values)

    @property
    def eigenvalue(self) -> float:
        """The eigenvalue of the target, screened by L."""
        return self.neuron.eigenvalue(self.law)

    def beyond(self, power: float) -> float:
        """Share of modes with Phi Psi > power^2."""
        inner, norm, _, _, _ = self.law.across
        share = np.einsum("ijk,jk->ij", inner, (self.neuron.product > power**2).astype(float)) / norm
        return self.mean((self.law.mode * share).sum(1))

    def log_density(self, phi, psi):
        """ln p(phi, psi) of one mode, averaged over the other modes of the neuron."""
        n, (_, _, log_mode, force_d, force_f) = self.neuron, self.law.across
        phi, psi = np.broadcast_arrays(np.asarray(phi, dtype=float), np.asarray(psi, dtype=float))
        if np.any(phi < 0) or np.any(psi < 0):
            raise ValueError("phi and psi must be squared magnitudes, not negative")
        p, gamma = n.problem.modulus, n.problem.sextic_decay
        tau = np.minimum(2 * (phi + psi), n.tau[-1]).ravel()
        with np.errstate(divide="ignore"):
            ratio = np.log(np.maximum(self.law.mode, 0.0)) - log_mode - math.log(n.step) + np.log(self.law.weight)[:, None]
        ratio = np.maximum(ratio, -1e5)
        ratio[:, 0] = 2 * ratio[:, 1] - ratio[:, 2]
        at = np.stack([np.interp(tau, n.tau, row) for row in ratio])
        product, square = (phi * psi).ravel(), (phi**2 + psi**2).ravel()
        own = -p * (phi + psi) - p * gamma / 3 * (phi**3 + psi**3)
        terms = at - 2 * force_d[:, None] * product - 2 * force_f[:, None] * square
        top = terms.max(0)
        return (top + np.log(np.exp(terms - top).sum(0))).reshape(phi.shape) + own

    def saddles(self, action):
        """Barrier and well of the action along Phi = Psi; None without a well."""
        x = np.linspace(0, self.neuron.tau[-1] / 4, 1500)[1:-1]
        s = action(x, x)
        inside = np.arange(1, len(x) - 1)
        tops = inside[(s[inside] > s[inside - 1]) & (s[inside] >= s[inside + 1])]
        wells = inside[(s[inside] < s[inside - 1]) & (s[inside] <= s[inside + 1])]
        wells = wells[wells > tops[0]] if len(tops) else wells[:0]
        return (float(x[tops[0]]), float(x[wells[0]])) if len(wells) else None


def _power(x, n: int):
    """x**n by squaring; numpy's complex power takes logarithms."""
    result = None
    while n:
        if n & 1:
            result = x if result is None else result * x
        n >>= 1
        if n:
            x = x * x
    return np.ones_like(x) if result is None else result


def solve_finite(problem, start: float):
    """The self-consistent residual; returns it, the neuron's law, the relative error and the number of laws computed.

    A secant iteration on ln(residual), while the matrices and the conditional means follow by substitution, in ever smaller steps.
    """
    noise, p = problem.noise_variance, problem.modulus
    neuron = FiniteNeuron(problem, problem.interaction * start**2)
    r = Resolvent(start / noise, 1 / noise, 1 / noise, 1 / (noise + 4 * p**2 * problem.readout_variance), 2 / p, (start / noise) ** 2)
    root, slope, last, narrowed = math.log(start), 8.0, None, 0
    for calls in range(1, _MOST + 1):
        r = replace(r, target=math.exp(root) / noise, pull_target=r.pull_mirror + (math.exp(root) / noise) ** 2)
        state = neuron.law(r)
        eigenvalue = neuron.eigenvalue(state)
        if not 0 <= eigenvalue < math.inf:
            error = math.inf
            break
        gap = root + math.log1p(eigenvalue / noise)
        neuron.pace = 0.6 if calls < 40 else 0.3 if calls < 100 else 0.2
        new = neuron.resolvent(r, state)
        change = max(abs(getattr(new, k) - getattr(r, k)) / abs(getattr(new, k)) for k in _FOLLOWING)
        step = min(1.0, neuron.pace + 0.4)
        values = {k: getattr(r, k) + step * (getattr(new, k) - getattr(r, k)) for k in _FOLLOWING}
        # the target's own pull follows slowly: it makes the fall of the eigenvalue steep
        r = replace(new, **values, own_target=r.own_target + neuron.pace / 1.5 * (new.own_target - r.own_target))
        change = max(change, abs(new.own_target - r.own_target) * 2)
        if last is not None and abs(root - last[0]) > 1e-11:
            slope = min(max((gap - last[1]) / (root - last[0]), 1.0, slope / 3), 400.0, 3 * slope)
        error = max(change, abs(gap) / slope)
        if error < 1e-6 and narrowed == 2:
            break
        if narrowed < 2 and abs(gap) / slope < (0.01, 1e-4)[narrowed]:
            neuron.narrow(state)
            narrowed += 1
        last = root, gap
        most = 0.06 if calls < 40 else 0.02
        root = min(root + min(max(-gap / slope, -most), most), 0.0)
    return math.exp(root), Finite(neuron, state, r), float(error), calls
