r"""The committee machine as an equilibrium: its Bayesian posterior with a Gaussian prior, in place of gradient descent.

Langevin noise and weight decay, the dynamics of Part I, leave the weights of $f(x)=\frac\alpha N\sum_i\phi(w_i\cdot x)$,
$\phi(h)=h+\frac\epsilon2h^2$, distributed as

$$p(W)\propto e^{-E(W)},\qquad E(W)=\frac12\sum_i|w_i|^2+\frac1{2\sigma^2}\sum_{\mu=1}^P\big(y_\mu-f(x_\mu)\big)^2 .$$

A centred network has its prior mean $\frac{\alpha\epsilon}2|x|^2$ subtracted. E depends on W only by $\bar w$ and M, and on these
as a convex function; the law of one neuron for $N\to\infty$ is one Gaussian, that with the lowest free energy. Target and data are those of
``theory.committee.draw``; its initial weights play no part here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grokutils.problems import Committee, positive
from grokutils.theory._committee_state import Decomposition, Draw, loss_parts, matching
from grokutils.theory.committee import ntk

__all__ = [
    "Law", "Population", "control", "gaussian_process", "learned_share", "network_kernel", "noise_for", "population", "relax",
    "relaxation_rate", "solve",
]

# ---------------------------------------------------------------- infinitely many data: two numbers


def control(problem: Committee, noise_variance: float, target_norm2: float | None = None) -> tuple[float, float]:
    r"""The two numbers that the law for infinitely many data has, $\kappa$ and $\rho$, with $b=|\beta|^2$ (None: D).

    $$\kappa=\frac{3\,\alpha\epsilon P\,b}{2N\sigma^2D^2},\qquad\rho=\frac{\alpha\epsilon}b$$

    kappa is the rate at which gradient flow makes weights along the target grow, over the rate 1 of their decay; rho is the field that
    makes the transition at kappa = 1 smooth.
    """
    b = _size(problem, target_norm2)
    noise = positive("noise_variance", noise_variance)
    a = problem.laziness * problem.curvature
    return 1.5 * a * problem.samples * b / (problem.width * noise * problem.dimension**2), a / b


def noise_for(problem: Committee, coupling: float, target_norm2: float | None = None) -> float:
    """The noise variance at which ``control`` gives this kappa."""
    return control(problem, 1.0, target_norm2)[0] / positive("coupling", coupling)


def learned_share(coupling, field):
    r"""The share $\theta=\alpha\epsilon(m-1)/b$ of the feature that is learned, where the trace of M is not (rho D small).

    The positive root of

    $$\kappa\theta^2+(1+\kappa\rho-\kappa)\theta-\kappa\rho=0,$$

    for $\rho\to0$ this is $\max(0,1-1/\kappa)$; at $\kappa=1$ about $\sqrt\rho$; for $\rho\to\infty$ at fixed $\kappa\rho$ it is
    $\kappa\rho/(1+\kappa\rho)$, regression with a fixed kernel.
    """
    k, r = np.asarray(coupling, float), np.asarray(field, float)
    half = 1 + k * r - k
    root = np.sqrt(half**2 + 4 * k**2 * r)
    # the two forms of the root lose digits on opposite sides
    return np.where(half > 0, 2 * k * r / (half + root), (root - half) / (2 * k))[()]


def relaxation_rate(coupling, field):
    r"""The rate at which a small deviation of m decays in the time of the Langevin equation, $2\sqrt{(1+\kappa\rho-\kappa)^2+4\kappa^2\rho}$."""
    k, r = np.asarray(coupling, float), np.asarray(field, float)
    return 2 * np.sqrt((1 + k * r - k) ** 2 + 4 * k**2 * r)


@dataclass(frozen=True)
class Population:
    r"""The law of a neuron on infinitely many data: Gaussian, of mean 0, with two variances.

    Attributes:
        spike: m, along the target.
        transverse: the variance in each other direction.
        learned: $\theta=\alpha\epsilon(m-1)/b$.
        test_loss: of the mean output.
    """

    spike: float
    transverse: float
    learned: float
    test_loss: float


def population(problem: Committee, noise_variance: float, target_norm2: float | None = None) -> Population:
    r"""The posterior with sums over data replaced by P times averages over inputs, and $N\to\infty$.

    With $a=\alpha\epsilon$, $g=aP/(2N\sigma^2D^2)$, $R_\beta=b-a(m-1)$, $R_\perp=-a(m_\perp-1)$ and $\operatorname{Tr}R=R_\beta+(D-1)R_\perp$,

    $$\frac1m=1-g(\operatorname{Tr}R+2R_\beta),\qquad\frac1{m_\perp}=1-g(\operatorname{Tr}R+2R_\perp) .$$

    For centred networks with one direction. There is exactly one solution.
    """
    b, d = _size(problem, target_norm2), problem.dimension
    if not problem.centred:
        raise ValueError("problem must be centred")
    a = problem.laziness * problem.curvature
    g = a * problem.samples / (2 * problem.width * positive("noise_variance", noise_variance) * d**2)

    def variance(trace, target):
        """The positive root of 2 g a m^2 + (1 - g trace - 2 g (target + a)) m - 1 = 0."""
        half = 1 - g * trace - 2 * g * (target + a)
        root = math.sqrt(half**2 + 8 * g * a)
        return 2 / (half + root) if half > 0 else (root - half) / (4 * g * a)

    def excess(trace):
        return b - a * (variance(trace, b) - 1) - (d - 1) * a * (variance(trace, 0.0) - 1) - trace

    low, high = -1.0, b + d * a  # excess falls with the trace
    while excess(low) < 0:
        low *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    m, other = variance(low, b), variance(low, 0.0)
    left = np.r_[b - a * (m - 1), np.full(d - 1, -a * (other - 1))]
    return Population(m, other, a * (m - 1) / b, float(left.sum() ** 2 + 2 * left @ left) / (4 * d**2))


def _size(problem, target_norm2):
    if not isinstance(problem, Committee):
        raise ValueError(f"problem must be a Committee, got {type(problem).__name__}")
    if problem.directions != 1:
        raise ValueError(f"problem must have one direction, got {problem.directions}")
    return float(2 * problem.target_scale * problem.dimension) if target_norm2 is None else positive("target_norm2", target_norm2)


# ---------------------------------------------------------------- the actual data


@dataclass(frozen=True, eq=False)
class Law:
    r"""The Gaussian law $N(\mu,C)$ of a neuron given the data, and the mean output it makes, $l\cdot x+\frac12x^TFx$.

    Attributes:
        mean, covariance: mu (D,), C (D, D).
        pull: $t_\mu=(y_\mu-\bar f(x_\mu))/\sigma^2$, (P,).
        dual: the value of the concave function that t maximises.
        linear, form: l (D,), F (D, D).
        train_loss: mean squared error of the mean output on the data.
        parts: of its population test loss.
        spike: $\operatorname{Tr}MY/\operatorname{Tr}Y$, the second moment of the weights along the target.
        learned: $\alpha\epsilon$ (spike - 1) over the largest eigenvalue of Y, for one direction.
        iterations, converged: of Newton's method.
    """

    mean: np.ndarray
    covariance: np.ndarray
    pull: np.ndarray
    dual: float
    linear: np.ndarray
    form: np.ndarray
    train_loss: float
    parts: Decomposition
    spike: float
    learned: float
    iterations: int
    converged: bool

    @property
    def moment(self) -> np.ndarray:
        return self.covariance + np.outer(self.mean, self.mean)

    @property
    def test_loss(self) -> float:
        return float(self.parts.test_loss)


def solve(problem: Committee, noise_variance: float, given: Draw | None = None, start=None) -> Law:
    r"""The posterior law of a neuron for these data, to leading order in 1/N: one Gaussian, found by Newton's method.

    Given what the data pull at, $t_\mu=(y_\mu-\bar f(x_\mu))/\sigma^2$, a neuron has the quadratic action

    $$S(w)=\tfrac12|w|^2-\tfrac\alpha N\sum_\mu t_\mu\phi(w\cdot x_\mu)\;\Rightarrow\;
      C=\Big(I-\tfrac{\alpha\epsilon}N\sum_\mu t_\mu x_\mu x_\mu^T\Big)^{-1},\quad\mu=\tfrac\alpha NC\sum_\mu t_\mu x_\mu .$$

    The pulls maximise the strongly concave
    $D(t)=t\cdot y-\frac{\sigma^2}2|t|^2-N\ln\langle e^{\frac\alpha N\sum_\mu t_\mu\phi(w\cdot x_\mu)}\rangle_0$,
    which tends to minus infinity where C ceases to be positive: there is exactly one solution.

    Args:
        noise_variance: sigma^2, of one data point.
        given: data and target; None: ``committee.draw(problem)``.
        start: pulls to start from, such as those of a neighbouring noise.
    """
    noise, given = positive("noise_variance", noise_variance), matching(problem, given)
    n, alpha, eps, x, y = problem.width, problem.laziness, problem.curvature, given.inputs, given.labels
    d, squares = problem.dimension, (x**2).sum(1)
    offset = alpha * eps / 2 * squares if problem.centred else np.zeros(len(x))

    def state(t):
        precision = np.eye(d) - alpha * eps / n * (x * t[:, None]).T @ x
        values, vectors = np.linalg.eigh(precision)
        if values[0] <= 0:
            return None
        c, push = (vectors / values) @ vectors.T, alpha / n * x.T @ t
        log_z = -np.log(values).sum() / 2 + push @ c @ push / 2 - t @ offset / n
        return t, c, c @ push, t @ y - noise / 2 * t @ t - n * log_z

    at = state(np.zeros(len(x)) if start is None else np.asarray(start, float))
    at = at or state(np.zeros(len(x)))
    converged, iterations = False, 0
    while iterations < 200:
        iterations += 1
        t, c, mean, value = at
        h, cx = x @ mean, x @ c @ x.T
        f = alpha * h + alpha * eps / 2 * (np.diag(cx) + h**2) - offset
        gradient, slope = y - noise * t - f, 1 + eps * h
        hessian = alpha**2 / n * cx * (np.outer(slope, slope) + eps**2 / 2 * cx)
        hessian[np.diag_indices(len(x))] += noise
        step = np.linalg.solve(hessian, gradient)
        gain = gradient @ step  # twice what is left to gain, near the top
        if converged or gain < 1e-8:
            if converged or gain < 1e-20 * max(1.0, abs(value)):
                converged = True
                break
            converged = gain < 1e-13  # one more step squares the error
        size = 1.0
        while (new := state(t + size * step)) is None or (gain > 1e-8 and new[3] < value + 0.1 * size * gain):
            size /= 2
        at = new
    t, c, mean, value = at
    moment = c + np.outer(mean, mean)
    linear, form = alpha * mean, alpha * eps * (moment - np.eye(d) if problem.centred else moment)
    error = x @ linear + np.einsum("ij,ij->i", x @ form, x) / 2 - y
    spike = float((moment * given.target).sum() / np.trace(given.target))
    learned = alpha * eps * (spike - 1) / float(np.trace(given.target))
    return Law(mean, c, t, float(value), linear, form, float(error @ error / len(x)), loss_parts(linear, form, given.target), spike, learned,
               iterations, bool(converged))


def network_kernel(problem: Committee, left, right=None) -> np.ndarray:
    r"""The covariance of the prior outputs of a centred network times $N/\alpha^2$: $x\cdot x'+\frac{\epsilon^2}2(x\cdot x')^2$.

    The tangent kernel of the same network has $\epsilon^2$ in place of $\frac{\epsilon^2}2$: a monomial of degree k counts k times there.
    """
    product = left @ (left if right is None else right).T
    return product + problem.curvature**2 / 2 * product**2


def gaussian_process(problem: Committee, noise_variance: float, given: Draw | None = None, kernel: str = "network") -> Decomposition:
    r"""The parts of the test loss of regression with the kernel of the infinitely wide network and the ridge $\sigma^2$.

    $$\hat f(x)=\tfrac{\alpha^2}N k(x)^T\Big(\tfrac{\alpha^2}NK+\sigma^2\Big)^{-1}y$$

    Args:
        kernel: "network" for ``network_kernel``, where the posterior goes for $\alpha\to\infty$ at fixed $\alpha^2/N$; "tangent" for
            $x\cdot x'+\epsilon^2(x\cdot x')^2$, where gradient descent goes without a ridge.
    """
    if kernel not in ("network", "tangent"):
        raise ValueError(f'kernel must be "network" or "tangent", got {kernel!r}')
    given = matching(problem, given)
    weight = problem.curvature**2 / (2 if kernel == "network" else 1)
    x, product = given.inputs, given.inputs @ given.inputs.T
    gram = product + weight * product**2
    ridge = positive("noise_variance", noise_variance) * problem.width / problem.laziness**2
    coefficient = np.linalg.solve(gram + ridge * np.eye(len(x)), given.labels)
    return loss_parts(x.T @ coefficient, 2 * weight * (x * coefficient[:, None]).T @ x, given.target)


# ---------------------------------------------------------------- time


def relax(
    problem: Committee, noise_variance: float, times, given: Draw | None = None, *, decay: float = 1.0, temperature: float = 1.0,
    step: float | None = None,
) -> xr.Dataset:
    r"""The Langevin equation $\dot w_i=-\partial E/\partial w_i+\sqrt2\,\dot\xi_i$ for $N\to\infty$, from the prior: closed in $\bar w$ and M.

    With $\tau=\sum_\mu t_\mu x_\mu$, $T=\sum_\mu t_\mu x_\mu x_\mu^T$, $t_\mu=(y_\mu-f(x_\mu))/\sigma^2$ and $A=\frac{\alpha\epsilon}NT-I$,

    $$\dot{\bar w}=A\bar w+\tfrac\alpha N\tau,\qquad\dot M=AM+MA+\tfrac\alpha N(\tau\bar w^T+\bar w\tau^T)+2I .$$

    It comes to rest at the law of ``solve``. Unit of time: a step of gradient descent takes $2\sigma^2\eta_0N/(\alpha^2P)$.

    Args:
        times: ascending, from 0 on.
        decay, temperature: factors of the decay, the 1 in A, and of 2I; both 0: gradient flow.
        step: of the Runge-Kutta method; None: from the largest rate, anew for every step.

    Returns:
        Dataset over time: spike, learned, weight_norm, train_loss, test_loss, linear_power.
    """
    noise, given = positive("noise_variance", noise_variance), matching(problem, given)
    n, alpha, eps, x, y, d = problem.width, problem.laziness, problem.curvature, given.inputs, given.labels, problem.dimension
    eye, size = np.eye(d), float(np.trace(given.target))

    def output(mean, moment):
        return alpha * mean, alpha * eps * (moment - eye if problem.centred else moment)

    def residual(mean, moment):
        linear, form = output(mean, moment)
        return y - x @ linear - np.einsum("ij,ij->i", x @ form, x) / 2

    def rate(mean, moment):
        t = residual(mean, moment) / noise
        push, a = alpha / n * x.T @ t, alpha * eps / n * (x * t[:, None]).T @ x - decay * eye
        cross, am = np.outer(push, mean), a @ moment
        return a @ mean + push, am + am.T + cross + cross.T + 2 * temperature * eye

    def row(mean, moment):
        parts, e = loss_parts(*output(mean, moment), given.target), residual(mean, moment)
        spike = (moment * given.target).sum() / size
        return (spike, alpha * eps * (spike - 1) / size, math.sqrt(n * np.trace(moment)), e @ e / len(x), parts.test_loss, parts.linear_power)

    mean, moment, now, rows = np.zeros(d), np.eye(d), 0.0, []
    for until in np.asarray(times, float):
        while now < until * (1 - 1e-12):
            h = step
            if h is None:
                curvature = alpha**2 / n / noise * np.linalg.eigvalsh(ntk(problem, mean, moment, x))[-1]
                h = 1.0 / (1 + curvature)
            for _ in range(1 if step else 20):
                g = min(h, until - now)
                k1 = rate(mean, moment)
                k2 = rate(mean + g / 2 * k1[0], moment + g / 2 * k1[1])
                k3 = rate(mean + g / 2 * k2[0], moment + g / 2 * k2[1])
                k4 = rate(mean + g * k3[0], moment + g * k3[1])
                mean = mean + g / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
                moment = moment + g / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
                now += g
                if now >= until * (1 - 1e-12):
                    break
        rows.append(row(mean, moment))
    names = ("spike", "learned", "weight_norm", "train_loss", "test_loss", "linear_power")
    return xr.Dataset({k: ("time", v) for k, v in zip(names, np.array(rows, float).T)}, {"time": np.asarray(times, float)})
