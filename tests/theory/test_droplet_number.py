"""The law of the number of droplets: against sums over all states of one and of two neurons, and against its own limits."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from grokutils.hermite import overlap
from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student as ts
from grokutils.theory.droplet_number import droplet_number


def tiny(width):
    """So few samples that one neuron's count is uncertain; readouts large enough to matter."""
    return TeacherStudent(
        samples=12, dimension=6, width=width, noise_variance=0.5, readout_variance=1.5 * width, weight_variance=0.5, teacher={1: 1.0, 3: -0.3}
    )


def summed(problem, border, feedback=True):
    """P(k) by summing the joint law of all neurons over a grid of overlaps (fixed norm); without feedback: of independent neurons."""
    q = (np.arange(-150, 150) + 0.5) / 50  # the border 1/2 falls between two nodes
    v = np.stack([overlap(problem.phi, k, q, q**2 + problem.weight_variance) / math.sqrt(math.factorial(k)) for k in (1, 3)], axis=-1)
    prior = np.exp(-problem.dimension * q**2 / (2 * problem.weight_variance))
    out = np.abs(q) > border
    ridge, share = problem.noise_variance / problem.samples, problem.readout_variance / problem.width
    target = np.array([1.0, math.sqrt(6) * problem.teacher[3]])
    if not feedback:
        e = ts.solve(problem, norm="fixed").residual
        one = prior * np.exp(share / (2 * ridge**2) * (v @ [e[1], math.sqrt(6) * e[3]]) ** 2)
        rho = one[out].sum() / one.sum()
        return np.array([math.comb(problem.width, k) * rho**k * (1 - rho) ** (problem.width - k) for k in range(problem.width + 1)])
    total = np.zeros(problem.width + 1)
    kernels = share * np.einsum("ia,ib->iab", v, v)
    for states in itertools.product(range(len(q)), repeat=problem.width - 1):
        others, weight = sum((kernels[i] for i in states), np.zeros((2, 2))), np.prod(prior[list(states)])
        C = ridge * np.eye(2) + others + kernels
        det = C[:, 0, 0] * C[:, 1, 1] - C[:, 0, 1] ** 2
        exponent = (target[0] ** 2 * C[:, 1, 1] - 2 * target[0] * target[1] * C[:, 0, 1] + target[1] ** 2 * C[:, 0, 0]) / det
        likelihood = weight * prior * np.exp(-exponent / 2) / np.sqrt(det)
        k = out[list(states)].sum() + out
        total += np.bincount(k, weights=likelihood, minlength=problem.width + 1)
    return total / total.sum()


def test_the_reference_is_the_gaussian_density():
    problem, v = tiny(1), np.array([0.4, -0.1])
    C = problem.noise_variance / problem.samples * np.eye(2) + problem.readout_variance * np.outer(v, v)
    y = np.array([1.0, -0.3 * math.sqrt(6)])
    assert math.isclose(multivariate_normal(cov=C).pdf(y), math.exp(-y @ np.linalg.solve(C, y) / 2) / (2 * math.pi * math.sqrt(np.linalg.det(C))))


@pytest.mark.parametrize("width", [1, 2])
def test_one_and_two_neurons_exactly(width):
    problem = tiny(width)
    law = droplet_number(problem, norm="fixed", points=161, width=32, probability=True)
    expected = summed(problem, 0.5)
    assert np.allclose(law.probability[: width + 1], expected, atol=1e-3)
    # the control: neurons that know nothing of one another have another law
    assert np.abs(summed(problem, 0.5, feedback=False) - expected).max() > 0.02


@pytest.mark.parametrize("options", [dict(), dict(norm="fixed"), dict(finite_size=True)])
def test_law_and_moments_agree(options):
    law = droplet_number(TeacherStudent.paper(0.15, 0.125).rounded(), probability=True, **options)
    k = np.arange(len(law.probability))
    assert math.isclose(law.probability.sum(), 1, abs_tol=1e-6)
    assert law.probability.min() > -1e-6
    assert math.isclose(law.probability @ k, law.mean, rel_tol=1e-5)
    assert math.isclose(law.probability @ k**2 - law.mean**2, law.variance, rel_tol=1e-3)


def test_saddle_point_becomes_exact_with_size():
    gaps = []
    for beta in (0.125, 8.0):
        law = droplet_number(TeacherStudent.paper(0.2, beta).rounded())
        gaps.append([abs(law.ratio / law.saddle_ratio - 1), abs(law.mean / law.saddle_mean - 1)])
        assert math.isclose(law.saddle_mean, law.solution.problem.width * law.solution.tail_fraction, rel_tol=2e-3)
    assert gaps[0][0] < 0.04
    assert gaps[1][0] < gaps[0][0]


def test_regulation():
    high, low = (droplet_number(TeacherStudent.paper(noise), points=0) for noise in (0.3, 0.12))
    assert high.ratio > 0.95  # a vapour is nearly Poisson
    assert low.ratio < 0.05  # feedback holds the number


def test_border():
    counts = [droplet_number(TeacherStudent.paper(0.2, 0.125), border=x, points=0).mean for x in (0.0, 0.4, 0.5, 0.6)]
    assert math.isclose(counts[0], 700 / 8, rel_tol=1e-9)
    assert counts[1] > counts[2] > counts[3] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(border=-1), "border"), (dict(border="far"), "border"), (dict(points=3), "points"), (dict(points=0, probability=True), "points")],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        droplet_number(TeacherStudent.paper(0.2, 0.125), **options)


def test_more_than_two_degrees():
    with pytest.raises(ValueError, match="degrees"):
        droplet_number(TeacherStudent.paper(0.2, 0.125).replace(teacher={1: 1.0, 3: -0.3, 5: 0.1}))
