r"""Regression with the kernel of the infinitely wide network (NNGP): on a finite data set exactly, and its learning curve.

The kernel sees no direction: it is an average over the isotropic prior, so it falls into one block for each degree l of the
spherical harmonics, the same for all harmonics of that degree. Within a block it is a small matrix over the Hermite degrees l, l + 2, ...

Three learning curves: "bare" has the ridge sigma^2 (the equivalent kernel), "uniform" adds the mean power that is not learned, as is usual,
"local" lets that power depend on the length of the input, as on Gaussian inputs it does; only the last agrees with regression at n ~ d^3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.polynomial import hermite_e
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import brentq
from scipy.special import eval_genlaguerre, gammaln

from grokutils.hermite import derivative_expectation, second_moment
from grokutils.problems import TeacherStudent, positive


def kernel(problem: TeacherStudent, left, right=None) -> np.ndarray:
    r"""The NNGP kernel $K(x,x')=\sigma_a^2E_w[\phi(w\cdot x)\phi(w\cdot x')]$, $w\sim N(0,\sigma_w^2/d)$, between two sets of inputs.

    For erf, $\frac{2\sigma_a^2}\pi\arcsin\frac{2C}{\sqrt{(1+2Q)(1+2Q')}}$ with $C=\frac{\sigma_w^2}dx\cdot x'$, $Q=\frac{\sigma_w^2}d|x|^2$.

    Args:
        problem: its activation must have a closed-form kernel.
        left: inputs (n, d).
        right: inputs (m, d); None: ``left``.

    Raises:
        ValueError: the activation has no closed-form kernel.
    """
    if problem.phi.kernel is None:
        raise ValueError(f"activation {problem.phi.name!r} has no closed-form kernel")
    left = np.asarray(left, dtype=float)
    right = left if right is None else np.asarray(right, dtype=float)
    tau = problem.weight_variance / problem.dimension
    power = [tau * np.einsum("ij,ij->i", x, x) for x in (left, right)]
    return problem.readout_variance * problem.phi.kernel(power[0][:, None], power[1][None, :], tau * left @ right.T)


def projection(problem: TeacherStudent, degree: int, inputs, axes=None) -> np.ndarray:
    r"""$E_x[H_k(x_j)K(x,x')]/k!$ over the population of inputs x, at given x' (n, d) and for the directions j (n, axes); erf only.

    By $E_x[H_k(x_j)\phi(w\cdot x)]=w_j^kE[\phi^{(k)}]$ and, for erf, $E[\phi^{(k)}]\propto(1+2|w|^2)^{-k/2}$, which is
    $\frac1{\Gamma(k/2)}\int_0^\infty t^{k/2-1}e^{-t(1+2|w|^2)}dt$: under the integral w is Gaussian again, of variance
    $\tau_t=\tau/(1+4\tau t)$, and its average is elementary.

    Args:
        problem: with activation erf.
        degree: k, odd (for even k it is zero).
        inputs: x' (n, d).
        axes: directions j; None: all.
    """
    if problem.phi.name != "erf":
        raise ValueError(f"the closed form is for the activation 'erf', got {problem.phi.name!r}")
    x = np.asarray(inputs, dtype=float)
    along = x if axes is None else x[:, axes]
    if degree % 2 == 0:
        return np.zeros(along.shape)
    tau, d = problem.weight_variance / problem.dimension, problem.dimension
    # t = y^2; the integrand is a bump of width about 1/sqrt(1 + 2 sigma_w^2) at most
    nodes, weights = np.polynomial.legendre.leggauss(60)
    end = 7 / math.sqrt(1 + 2 * min(problem.weight_variance, 1.0) * (1 - 2 / (d + 2)))
    y, weights = end * (1 + nodes) / 2, end * weights / 2
    spread = tau / (1 + 4 * tau * y**2)
    weights = weights * 2 / math.gamma(degree / 2) * y ** (degree - 1) * np.exp(-(y**2) - d / 2 * np.log1p(4 * tau * y**2))
    size, out = np.einsum("ij,ij->i", x, x), np.zeros(along.shape)
    for i in range(degree // 2 + 1):  # w_j^k in Hermite polynomials of w_j
        m = degree - 2 * i
        count = math.factorial(degree) / (2**i * math.factorial(i) * math.factorial(m))
        radial = derivative_expectation("erf", m, spread * size[:, None]) @ (weights * count * spread ** ((degree + m) / 2))
        out += along**m * radial[:, None]
    constant = float(derivative_expectation("erf", degree, np.zeros(1))[0])
    return problem.readout_variance * constant / math.factorial(degree) * out


def response(problem: TeacherStudent, inputs, degrees=(1, 3), axes=None) -> np.ndarray:
    r"""What exact regression with the NNGP kernel learns on a data set: R[j, k] is the coefficient of $H_j$ in the output when the target is $H_k$.

    $$R_{jk}=\tfrac1{j!}\,E_x[H_jK(x,X)]\,(K+\sigma^2)^{-1}H_k(X)$$

    The prediction is linear in the target: for any teacher the coefficients learned are $\sum_kR_{jk}c_k$, exactly and over the population.

    Args:
        problem: its samples are not used: the data set counts.
        inputs: X (n, d).
        degrees: Hermite degrees, odd.
        axes: teacher directions to do, each a task of its own on the same inputs; None: all coordinate axes.

    Returns:
        R (axes, degrees, degrees).
    """
    x = np.asarray(inputs, dtype=float)
    along = x if axes is None else x[:, axes]
    gram = kernel(problem, x)
    gram[np.diag_indices_from(gram)] += problem.noise_variance
    factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    features = [projection(problem, j, x, axes) for j in degrees]
    answers = [cho_solve(factor, hermite_e.hermeval(along, np.eye(k + 1)[k]), check_finite=False) for k in degrees]
    return np.stack([np.stack([np.einsum("na,na->a", f, a) for a in answers], axis=-1) for f in features], axis=1)


def harmonics(dimension, degree: int) -> float:
    """Number of spherical harmonics of a degree in d dimensions."""
    d = dimension
    if degree == 0:
        return 1.0
    log = gammaln(degree + d - 2) - gammaln(degree + 1) - gammaln(d)
    return (2 * degree + d - 2) * (d - 1) * math.exp(log) if d > 1 else 2.0


def harmonic_share(dimension, degree: int, harmonic: int) -> float:
    r"""Share of $E[H_n(z)^2]$ in the spherical harmonics of degree l: the coefficient of the Legendre polynomial $P_l$ of d dimensions in $t^n$.

    $$a_{nl}=N(d,l)\frac{n!\,\Gamma(d/2)}{2^n\,\big(\frac{n-l}2\big)!\,\Gamma\big(\frac{n+l+d}2\big)}$$
    """
    n, l, d = degree, harmonic, dimension
    if l > n or (n - l) % 2:
        return 0.0
    log = gammaln(n + 1) + gammaln(d / 2) - n * math.log(2) - gammaln((n - l) / 2 + 1) - gammaln((n + l + d) / 2)
    return harmonics(d, l) * math.exp(log)


RIDGES = ("local", "uniform", "bare")


def _radial(dimension, degree: int, harmonic: int, size) -> np.ndarray:
    """Radial factor at |x|^2 of the normalised function of Hermite degree n and harmonic degree l; the angular factor has mean square 1."""
    k, a = (degree - harmonic) // 2, harmonic + dimension / 2 - 1
    log_norm = harmonic * math.log(2) + gammaln(k + a + 1) - gammaln(k + 1) - gammaln(dimension / 2)
    return (-1) ** k * eval_genlaguerre(k, a, size / 2) * np.exp(harmonic / 2 * np.log(size) - log_norm / 2)


@dataclass(frozen=True)
class Spectrum:
    r"""The NNGP kernel over Gaussian inputs, block by block, and the learning curves of regression with it.

    Attributes:
        problem: what it belongs to.
        blocks: {l: (Hermite degrees, matrix, multiplicity)}; the matrix is that of the kernel between the normalised functions of Hermite degree
            n and harmonic degree l: $M^l_{nn'}=\frac{\sigma_a^2}{N(d,l)}\sqrt{\frac{a_{nl}a_{n'l}}{n!\,n'!}}E[m_nm_{n'}|w|^{n+n'}]$.
        rest: trace of the kernel beyond these blocks; what it holds is not learned and acts as noise.
    """

    problem: TeacherStudent
    blocks: dict = field(repr=False)
    rest: float

    @cached_property
    def _nodes(self):
        """Law of |x|^2 (nodes, weights), radial factors of each block, K(x, x), and its part beyond the blocks."""
        p, d = self.problem, float(self.problem.dimension)
        t = math.log(d) + np.linspace(-12, 9, 241) / math.sqrt(d)
        size, log = np.exp(t), d / 2 * t - np.exp(t) / 2
        weight = np.exp(log - log.max())
        radial = {l: np.array([_radial(d, n, l, size) for n in orders]) for l, (orders, _, _) in self.blocks.items()}
        power = p.readout_variance * second_moment(p.phi, p.weight_variance * size / d)
        inside = sum(c * np.einsum("as,ab,bs->s", radial[l], m, radial[l]) for l, (_, m, c) in self.blocks.items())
        return size, weight / weight.sum(), radial, power, np.maximum(power - inside, 0)

    def ridge(self) -> tuple[np.ndarray, np.ndarray]:
        r"""The local ridge: |x|^2 (nodes,) and $\kappa(|x|)=\sigma^2+V(|x|)$, the noise plus the posterior variance at an input of that length.

        $$V(r)=V_{rest}(r)+\sum_lN(d,l)\,\rho_l(r)^TM^l\big[1+nG^lM^l\big]^{-1}\rho_l(r),\qquad G^l=E_x\Big[\frac{\rho_l\rho_l^T}{\kappa(|x|)}\Big]$$
        """
        size, weight, radial, power, rest = self._nodes
        p = self.problem
        ridge = p.noise_variance + power
        for _ in range(1000):
            variance = rest
            for l, (orders, matrix, count) in self.blocks.items():
                gram = (radial[l] * (weight / ridge)) @ radial[l].T
                left = matrix @ np.linalg.inv(np.eye(len(orders)) + p.samples * gram @ matrix)
                variance = variance + count * np.einsum("as,ab,bs->s", radial[l], left, radial[l])
            new = p.noise_variance + variance
            change = np.max(np.abs(np.log(new / ridge))[weight > 1e-12])
            ridge = np.sqrt(ridge * new)
            if change < 1e-10:
                return size, ridge
        raise RuntimeError(f"the local ridge has not converged: it still changes by {change:.1e}")

    def uniform_ridge(self) -> float:
        r"""The ridge of the usual learning curve, $\kappa=\sigma^2+\kappa\sum_\lambda\frac\lambda{\kappa+n\lambda}$."""
        p = self.problem
        values = [(np.linalg.eigvalsh(matrix), count) for _, matrix, count in self.blocks.values()]

        def excess(log_ridge):
            ridge = math.exp(log_ridge)
            return p.noise_variance + self.rest + sum(c * np.sum(ridge * e / (ridge + p.samples * e)) for e, c in values) - ridge

        total = p.noise_variance + self.rest + sum(c * e.sum() for e, c in values)
        return math.exp(brentq(excess, math.log(p.noise_variance) - 1e-9, math.log(total) + 1e-9, xtol=1e-13))

    def response(self, degrees=(1, 3), ridge: str = "local") -> np.ndarray:
        r"""What ``response`` is expected to be: $R_{jk}=\sqrt{k!/j!}\sum_l\sqrt{a_{jl}a_{kl}}\,\big[M^l(1+nG^lM^l)^{-1}nG^l\big]_{jk}$.

        Args:
            degrees: Hermite degrees.
            ridge: "local", "uniform" ($G=1/\kappa$) or "bare" ($G=1/\sigma^2$).
        """
        if ridge not in RIDGES:
            raise ValueError(f"ridge must be one of {RIDGES}, got {ridge!r}")
        p, out = self.problem, np.zeros((len(degrees), len(degrees)))
        if ridge == "local":
            weight, radial = self._nodes[1] / self.ridge()[1], self._nodes[2]
        else:
            level = self.uniform_ridge() if ridge == "uniform" else p.noise_variance
        for l, (orders, matrix, _) in self.blocks.items():
            gram = p.samples * ((radial[l] * weight) @ radial[l].T if ridge == "local" else np.eye(len(orders)) / level)
            learned = matrix @ np.linalg.solve(np.eye(len(orders)) + gram @ matrix, gram)
            for a, j in enumerate(degrees):
                for b, k in enumerate(degrees):
                    if j in orders and k in orders:
                        share = math.sqrt(harmonic_share(p.dimension, j, l) * harmonic_share(p.dimension, k, l))
                        norm = math.exp((gammaln(k + 1) - gammaln(j + 1)) / 2)
                        out[a, b] += norm * share * learned[orders.index(j), orders.index(k)]
        return out

    def learnability(self, ridge: str = "local") -> dict:
        """{degree: learned share of the teacher's coefficient}, what spills over from its other components included."""
        degrees = tuple(self.problem.teacher)
        c = np.array([self.problem.teacher[k] for k in degrees])
        return dict(zip(degrees, (self.response(degrees, ridge) @ c / c).tolist(), strict=True))


def spectrum(problem: TeacherStudent, highest: int = 9) -> Spectrum:
    """The blocks of the NNGP kernel up to a Hermite degree, for any activation; averages over |w|^2 are trapezoidal sums in its logarithm."""
    positive("highest", highest, minimum=0, whole=True)
    d, var = float(problem.dimension), float(problem.weight_variance)
    t = math.log(var) + np.linspace(-14, 9, 601) / math.sqrt(d)
    log = d / 2 * (t - np.exp(t) / var)
    weight, s = np.exp(log - log.max()), np.exp(t)
    weight /= weight.sum()
    size = {n: derivative_expectation(problem.phi, n, s) * s ** (n / 2) / math.exp(gammaln(n + 1) / 2) for n in range(highest + 1)}
    total = problem.readout_variance * float(weight @ second_moment(problem.phi, s))
    blocks, rest = {}, total
    for l in range(highest + 1):
        orders = [n for n in range(l, highest + 1, 2) if np.abs(size[n]).max() > 1e-13]
        if not orders:
            continue
        v = np.array([math.sqrt(harmonic_share(d, n, l)) * size[n] for n in orders])
        count = harmonics(d, l)
        blocks[l] = orders, problem.readout_variance / count * (v * weight) @ v.T, count
        rest -= count * float(np.trace(blocks[l][1]))
    return Spectrum(problem, blocks, max(rest, 0.0))


def samples_needed(problem: TeacherStudent, share: float, degree: int = 3, ridge: str = "local") -> float:
    """Number of samples (a real number) at which regression with the NNGP kernel has learned a share of $H_k$ when that is the target."""
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share!r}")
    blocks = spectrum(problem)

    def gap(log_n):
        changed = Spectrum(problem.replace(samples=math.exp(log_n)), blocks.blocks, blocks.rest)
        return float(changed.response((degree,), ridge)[0, 0]) - share

    if ridge != "local":
        return math.exp(brentq(gap, 0.0, 90.0, xtol=1e-10))
    start = math.log(samples_needed(problem, share, degree, "uniform"))  # the local ridge costs an iteration: begin near
    return math.exp(brentq(gap, start - 1, start + 2, xtol=1e-8))
