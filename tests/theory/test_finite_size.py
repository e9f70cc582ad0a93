"""The leading corrections in 1/n and 1/N: they vanish in the limits, and the one in 1/n is that of kernel regression."""

import math

import numpy as np
import pytest

from grokutils.hermite import second_moment
from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student as ts


@pytest.mark.parametrize("norm", ["fixed", "exact"])
def test_corrections_fade_with_beta(norm):
    gaps = []
    for beta in (1.0, 16.0, 256.0):
        problem = TeacherStudent.paper(0.2, beta)
        gaps.append(abs(ts.solve(problem, norm, finite_size=True).residual[1] - ts.solve(problem, norm).residual[1]))
    # X and the excess ridge are both of order kappa/N = O(beta^{-1/2})
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.25)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.25)


def test_with_many_samples_and_neurons_at_fixed_groups_nothing_is_left():
    # alpha leaves kappa alone but shrinks sigma_a^2/sigma^2; width shrinks kappa/N and u
    problem = TeacherStudent.paper(0.2).replace(width=10**9).scaled(alpha=10**6)
    corrected, plain = ts.solve(problem, finite_size=True), ts.solve(problem)
    assert corrected.residual[1] == pytest.approx(plain.residual[1], abs=1e-6)


def test_the_ridge_answers_its_own_equation():
    problem = TeacherStudent.paper(0.15)
    s = ts.solve(problem, finite_size=True)
    slope2 = 4 / (math.pi * (1 + 2 * 0.5))
    eigenvalue = problem.readout_variance * slope2 * 0.5 / problem.dimension
    share = 1 / (1 + s.ridge / (problem.samples * eigenvalue))
    rest = problem.readout_variance * float(second_moment("erf", 0.5)) - (problem.dimension - 1) * eigenvalue * share
    assert s.ridge == pytest.approx(0.15 + rest, rel=1e-9)
    assert s.converged and ts.solve(problem).ridge == 0.15


def test_the_saddle_method_has_no_corrections():
    with pytest.raises(ValueError, match="finite_size"):
        ts.solve(TeacherStudent.paper(0.2), method="saddle", finite_size=True)


@pytest.mark.statistical
def test_infinite_width_is_kernel_regression_on_finite_data():
    """The learned linear share against exact regression with the arcsine kernel, averaged over data sets; plain theory misses."""
    n, d, noise = 240, 40, 0.1
    problem = TeacherStudent(n, d, 10**9, noise, 0.05, 0.5, {1: 1.0})
    rng, shares = np.random.default_rng(0), []
    test = rng.standard_normal((2000, d))

    def kernel(x, y):
        a, b = (0.5 / d * (v**2).sum(1) for v in (x, y))
        return 0.05 * 2 / math.pi * np.arcsin(2 * (0.5 / d * x @ y.T) / np.sqrt(np.outer(1 + 2 * a, 1 + 2 * b)))

    for _ in range(150):
        x = rng.standard_normal((n, d))
        weights = np.linalg.solve(kernel(x, x) + noise * np.eye(n), x[:, 0])
        f = kernel(test, x) @ weights
        shares.append(np.linalg.lstsq(test, f, rcond=None)[0][0])
    mean, error = np.mean(shares), np.std(shares, ddof=1) / math.sqrt(len(shares))
    corrected, plain = (ts.solve(problem, finite_size=flag).learnability[1] for flag in (True, False))
    assert abs(mean - corrected) < 5 * error  # false-alarm rate 6e-7
    assert abs(mean - plain) > 5 * error  # the check is sharp enough to need the correction
