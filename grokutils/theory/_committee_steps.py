r"""Gradient descent on a committee machine: exactly, in its mean weight and second moment, and neuron by neuron."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr

from grokutils.problems import Committee
from grokutils.theory._committee_state import Draw, alignment, check, function, loss_parts, matching

RECORDS = 200


def recorded(steps: int, every: int | None = None, record=None) -> np.ndarray:
    """The steps to record: those given, or every so many, or about 200 that grow geometrically; then with the first and the last."""
    if isinstance(steps, bool) or int(steps) != steps or steps < 0:
        raise ValueError(f"steps must be a whole number of at least 0, got {steps!r}")
    steps = int(steps)
    if record is not None:
        found = np.unique(np.asarray(record))
        if found.size == 0 or not np.issubdtype(found.dtype, np.integer) or found[0] < 0 or found[-1] > steps:
            raise ValueError(f"record must be whole numbers from 0 to steps = {steps}, got {record!r}")
        return found
    if every is None:
        return np.unique(np.r_[0, np.geomspace(1, max(steps, 1), RECORDS).round(), steps].astype(int).clip(max=steps))
    if isinstance(every, bool) or int(every) != every or every < 1:
        raise ValueError(f"every must be a whole number of at least 1, got {every!r}")
    return np.unique(np.append(np.arange(0, steps + 1, int(every)), steps))


def run(
    problem: Committee, steps: int, every: int | None = None, record=None, *, given: Draw | None = None,
    population: bool = False, states: bool = False,
) -> xr.Dataset:
    r"""Gradient descent in the sufficient statistics: exact for every width, at a cost that does not depend on it.

    With the residuals $e_\mu$, $g=\frac1P\sum_\mu e_\mu x_\mu$, $G=\frac1P\sum_\mu e_\mu x_\mu x_\mu^T$, $c=2\eta_0/\alpha$ and
    $B=I-c\epsilon G$, a step takes every neuron to $w_i\leftarrow Bw_i-cg$, hence

    $$\bar w\leftarrow B\bar w-cg,\qquad M\leftarrow BMB-c(B\bar w)g^T-cg(B\bar w)^T+c^2gg^T .$$

    Args:
        steps: of gradient descent.
        every, record: record every so many steps, or at the steps given; by default about 200 steps that grow geometrically.
        given: data and initial state; None: ``draw(problem)``.
        population: infinitely many training points: $g=\alpha\bar w/D$ and $G=(\operatorname{Tr}S\,I+2S)/(2D^2)$ with
            $S=\alpha\epsilon M-Y$ (of a centred network: with the changes of $\bar w$ and M).
        states: return $\bar w$ and M as well, ``mean`` (step, i) and ``moment`` (step, i, j).

    Returns:
        Dataset over step: train_loss; test_loss of the population and its parts variance_error, misalignment, linear_power
        (eq. K6); alignment (eq. K10), and centred_alignment with columns centred; weight_norm, that of all weights; spike,
        $\operatorname{Tr}MY/\operatorname{Tr}Y$, the second moment of the weights along the target. ``attrs["stable"]`` is 0, and
        a warning is given, if the loss overflowed; records from there on are NaN.
    """
    given = matching(check(problem), given)
    d, alpha, eps, c = problem.dimension, problem.laziness, problem.curvature, 2 * problem.step_size / problem.laziness
    target, labels = given.target, given.labels
    # one matrix holds both, the second moment of (1, w); it is kept as a product of factors: see ``_factor``
    factor, eye = _factor(given), np.eye(d + 1)
    first = factor @ factor.T
    output, advance = np.full((d + 1, d + 1), alpha * eps / 2), np.full((d + 1, d + 1), -c * eps)
    output[0, 1:] = output[1:, 0] = alpha / 2
    output[0, 0], advance[0], advance[1:, 0] = 0, 0, -c
    reference = first if problem.centred else np.zeros_like(first)
    x = np.hstack([np.ones((problem.samples, 1)), given.inputs])
    xt, work = np.ascontiguousarray(x.T), np.empty_like(x)

    def finite(state):
        np.dot(x, output * (state - reference), out=work)
        e = np.einsum("ij,ij->i", work, x)
        e -= labels
        np.multiply(x, e[:, None], out=work)
        return np.dot(xt, work) / problem.samples, e @ e / problem.samples

    def infinite(state):
        f = 2 * output * (state - reference)
        s, gradient = f[1:, 1:] - target, np.zeros((d + 1, d + 1))
        gradient[1:, 0] = f[0, 1:] / d
        gradient[1:, 1:] = (np.trace(s) * np.eye(d) + 2 * s) / (2 * d**2)
        return gradient, loss_parts(f[0, 1:], s, np.zeros_like(target)).test_loss

    gradient, wanted, rows, at = infinite if population else finite, recorded(steps, every, record), [], 0
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(wanted[-1] + 1):
            state = factor @ factor.T
            push, loss = gradient(state)
            if t == wanted[at]:
                if not np.isfinite(loss):
                    break
                rows.append((loss, state[0, 1:], state[1:, 1:]))
                at += 1
            step = advance * push
            step += eye
            factor = step @ factor
    return _dataset(problem, given, wanted, rows, states)


def _factor(given):
    r"""A matrix (D + 1, r) whose product with its transpose is the second moment of (1, w): the neurons, if they are few, else a root.

    The recursion for M itself is unstable if M is singular, as for N < D: round-off makes eigenvalues of the order of -1e-16, neurons
    of negative weight so to speak, and where a neuron would grow these grow as well, and without bound.
    """
    d, w = len(given.mean), given.weights
    if w is not None and len(w) <= d + 1:
        return np.vstack([np.ones(len(w)), w.T]) / np.sqrt(len(w))
    values, vectors = np.linalg.eigh(np.block([[np.ones((1, 1)), given.mean[None]], [given.mean[:, None], given.moment]]))
    return vectors * np.sqrt(values.clip(0))


def simulate(problem: Committee, steps: int, every: int | None = None, record=None, *, given: Draw | None = None) -> xr.Dataset:
    r"""The same by gradient descent on all N weight vectors, from the definition of the network, without the closure of ``run``.

    Returns:
        Dataset as from ``run``, and ``overlap`` (step, neuron): $w_i\cdot\beta_1/|\beta_1|$.
    """
    given = matching(check(problem), given)
    if given.weights is None:
        raise ValueError("given must have weights: an infinitely wide network cannot be simulated neuron by neuron")
    x, y, w = given.inputs, given.labels, given.weights.copy()
    n, alpha, eps = problem.width, problem.laziness, problem.curvature

    def output(h):
        return alpha / n * (h + eps / 2 * h**2).sum(1)

    start = output(x @ w.T) if problem.centred else 0.0
    unit, wanted, rows, overlap = given.beta[0] / np.linalg.norm(given.beta[0]), recorded(steps, every, record), [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(wanted[-1] + 1):
            h = x @ w.T
            error = output(h) - start - y
            if t == wanted[len(rows)]:
                if not np.isfinite(error @ error):
                    break
                rows.append((np.mean(error**2), w.mean(0), w.T @ w / n))
                overlap.append(w @ unit)
            slope = 2 / problem.samples * error[:, None] * alpha / n * (1 + eps * h)
            w -= problem.learning_rate * slope.T @ x
    ds = _dataset(problem, given, wanted, rows, False)
    missing = np.full((len(wanted) - len(rows), n), np.nan)
    return ds.assign(overlap=(("step", "neuron"), np.concatenate([np.array(overlap).reshape(-1, n), missing])))


def _dataset(problem, given, wanted, rows, states):
    stable = len(rows) == len(wanted)
    if not stable:
        message = f"gradient descent diverged before step {wanted[len(rows)]}: step_size {problem.step_size:g} is too large"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    d, missing = problem.dimension, len(wanted) - len(rows)
    rows = rows + missing * [(np.nan, np.full(d, np.nan), np.full((d, d), np.nan))]
    loss, mean, moment = (np.array(column) for column in zip(*rows))
    target, trace = given.target, np.trace(moment, axis1=1, axis2=2)
    parts = loss_parts(*function(problem, given, mean, moment), target)
    columns = {"train_loss": loss, "test_loss": parts.test_loss} | parts._asdict() | {
        "alignment": alignment(problem, target, mean, moment),
        "centred_alignment": alignment(problem, target, mean, moment, "columns"),
        "weight_norm": np.sqrt(problem.width * trace), "spike": (moment * target).sum((1, 2)) / np.trace(target),
    }
    ds = xr.Dataset({k: ("step", v) for k, v in columns.items()}, coords={"step": wanted})
    if states:
        ds = ds.assign(mean=(("step", "i"), mean), moment=(("step", "i", "j"), moment))
    return ds.assign_attrs(problem=str(problem), stable=int(stable))
