r"""How long a neuron stays untrained: barriers of the one-neuron law and rates of escape over them.

A neuron at a fixed residual moves in the potential (prior and data in units of kT, the readout in its own coordinate)

$$E(q,\rho,a)=\frac{d(q^2+\rho^2)}{2\sigma_w^2}-(d-2)\ln\rho+\frac{N(1+Y)}{2\sigma_a^2}a^2-a\,m(q,\rho),\qquad m=\frac n{\sigma^2}\sum_k\hat r_kv_k$$

with $\rho=\sqrt s$ the length of w across the teacher: in these coordinates the noise of Langevin dynamics is the same everywhere. Rates are
per neuron, over both barriers, at $q_\ddagger$ and $-q_\ddagger$; time is that of $d\theta=-\nabla E\,dt+\sqrt2\,dW$.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
from scipy.optimize import brentq

from grokutils.hermite import derivative_expectation
from grokutils.problems import TeacherStudent
from grokutils.theory._escape_potential import Neuron
from grokutils.theory._escape_rates import DYNAMICS, Passage, kramers, passage
from grokutils.theory._escape_simulation import Record, simulate
from grokutils.theory._neuron_law import NeuronLaw
from grokutils.theory.teacher_student import _check, _mapping, _regress, _target, _vector, gaussian_process

__all__ = ["DYNAMICS", "Neuron", "Passage", "Record", "kramers", "passage", "simulate", "time_step", "untrained"]


def time_step(problem: TeacherStudent, learning_rate: float = 2e-3) -> float:
    r"""Langevin time of one step of ``sample(method="langevin", step_size=learning_rate)``: $\Delta t=\eta\,\sigma^2/n$, for w and a alike."""
    return learning_rate * problem.noise_variance / problem.samples


def untrained(problem: TeacherStudent, norm: str = "exact", finite_size: bool = False) -> Neuron:
    r"""A neuron of a network without droplets: the self-consistent theory in which all neurons are confined to $|q|<q_\ddagger$.

    At a wall e the residual maximises the concave dual of the confined law; the saddle at that residual lies at $q_\ddagger(e)$. The state is
    the wall $e=q_\ddagger(e)$ to which a displaced wall returns when it is moved to the saddle again and again.

    Args:
        problem: sizes may be real.
        norm: "exact" or "fixed".
        finite_size: with the leading corrections in 1/n and 1/N, as in ``teacher_student.solve``: ridge and dressing of the neuron are set.

    Returns:
        the neuron; ``converged`` is False, and the residual means nothing, where there is no such state: no wall stands still, or nothing
        lies beyond it.
    """
    degrees = _check(problem, norm)
    target, r = _target(problem, degrees), _vector(gaussian_process(problem, norm), degrees)
    law = NeuronLaw(problem, degrees, norm, 0.2)
    state = [r]

    def excess(edge):
        state[0] = _confined(problem, law, target, state[0], edge)[0]
        neuron = Neuron(problem, _mapping(state[0], degrees), norm)
        if neuron.saddle is None:  # the centre is a hilltop, or there is no well
            return -edge if neuron.centre_is_hilltop else 1.0
        return neuron.saddle[0] - edge

    walls = math.sqrt(2 * problem.weight_variance) * np.r_[np.linspace(0.05, 0.6, 12), 0.7, 0.8, 0.9, 1.0, 1.2]
    before = excess(walls[0])
    for low, high in itertools.pairwise(walls):  # noqa: B007  both are used after the loop
        after = excess(high)
        if before > 0 > after:
            break
        before = after
    else:
        return Neuron(problem, _mapping(state[0], degrees), norm, None, False)
    edge = brentq(excess, low, high, xtol=1e-9)
    excess(edge)
    neuron = Neuron(problem, _mapping(state[0], degrees), norm, None, True)
    if neuron.saddle is None or abs(neuron.saddle[0] - edge) > 1e-6:  # the sign changed by a jump
        return dataclasses.replace(neuron, converged=False)
    return _dressed(neuron, target, edge) if finite_size else neuron


def _dressed(neuron, target, edge):
    """The untrained neuron with ridge and dressing, by iteration from the plain one."""
    problem, norm, r, degrees = neuron.problem, neuron.norm, neuron._vector, neuron._law.degrees
    n, across, variance = problem.samples, problem.dimension - 1, problem.readout_variance
    slope = float(derivative_expectation(problem.phi, 1, problem.weight_variance))
    ridge, eigenvalue = problem.noise_variance, variance * slope**2 * problem.weight_variance / problem.dimension
    for _ in range(150):
        stiff, old = ridge + n * eigenvalue, (r, ridge, eigenvalue, edge)
        power = r @ r / max(1 - across * n * (eigenvalue / stiff) ** 2, 1e-3)
        dressing = tuple(float(x) for x in n * variance / problem.width * np.array([(1 - power / stiff) / stiff, 1 / ridge]))
        neuron = Neuron(problem.replace(noise_variance=ridge), _mapping(r, degrees), norm, dressing)
        if neuron.saddle is None:
            return dataclasses.replace(neuron, converged=False)
        edge = (edge + neuron.saddle[0]) / 2
        r, defect, average = _confined(neuron.problem, neuron._law, target, r, edge)
        pull = neuron._law.strength
        response = variance / across * average(lambda own, linear, rest, field2, pull=pull: linear * (1 + pull * field2) / own)
        unlearned = variance * average(lambda own, linear, rest, field2: rest / own)
        ridge = (ridge + problem.noise_variance + across * eigenvalue * ridge / stiff + unlearned) / 2
        eigenvalue = (eigenvalue + response) / 2
        change = max(abs(edge - old[3]), np.linalg.norm(r - old[0]), abs(ridge / old[1] - 1), abs(eigenvalue / old[2] - 1), defect)
        if change < 1e-7:
            break
    return Neuron(problem.replace(noise_variance=ridge), _mapping(r, degrees), norm, dressing, bool(change < 1e-5))


def _confined(problem, law, target, r, edge):
    """Damped Newton on the concave dual of the law confined to |q| < edge; returns r, its defect and an average over the confined law."""
    scale, best = problem.samples / problem.noise_variance, None

    def at(r):
        if not law._cover(r):
            return None
        q, t, log_prior, v = law._grid
        inside = np.repeat(np.clip((edge - q.ravel()) / law._steps[0] + 0.5, 0, 1), t.size)
        field = v @ r
        log = log_prior + law.strength / 2 * field**2
        top = log[inside > 0].max()
        weight = inside * np.exp(np.where(inside > 0, log - top, -math.inf))
        return scale * (r @ target - r @ r / 2) - problem.width * (top + math.log(weight.sum())), weight / weight.sum(), field

    now = at(r)
    while now is None:
        r = r / 2
        now = at(r)
    for _ in range(100):
        best, weight, field = now
        q, t, _, v = law._grid
        weighted = v * weight[:, None]
        second, pull = v.T @ weighted, law.strength * weighted.T @ field
        hessian = law.strength * second + law.strength**2 * v.T @ (weighted * (field**2)[:, None]) - np.outer(pull, pull)
        gradient = scale * (target - r) - problem.width * pull
        step, size = np.linalg.solve(scale * np.eye(len(r)) + problem.width * hessian, gradient), 1.0
        if np.linalg.norm(step) < 1e-12:
            break
        new = at(r + step)
        while new is None or (new[0] < best + 1e-4 * size * (gradient @ step) and np.linalg.norm(step) * size > 1e-8):
            size /= 2
            new = at(r + size * step)
        r, now = r + size * step, new

    def average(function):
        s = np.exp(t)
        linear, rest = law.powers(q, s)
        values = function(law.one_plus_y(q, s), linear, rest, (field**2).reshape(q.size, t.size))
        return float((weight.reshape(q.size, t.size) * values).sum())

    return r, float(np.linalg.norm(_regress(problem, second, target) - r)), average
