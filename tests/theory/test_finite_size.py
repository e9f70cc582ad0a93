"""The leading corrections in 1/n and 1/N: they vanish in the limits, and the one in 1/n is that of kernel regression."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

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


@pytest.mark.parametrize(("norm", "beta", "noise"), [("exact", 1.0, 0.15), ("fixed", 0.5, 0.2), ("exact", 0.125, 0.3)])
def test_the_solution_answers_its_own_equations(norm, beta, noise):
    """All equations of the correction once more, by Gauss-Legendre panels in (q, s) that share nothing with the solver."""
    p = TeacherStudent.paper(noise, beta)
    s = ts.solve(p, norm, finite_size=True)
    n, d, width, a2, kappa = p.samples, p.dimension, p.width, p.readout_variance, s.ridge
    x, w = np.polynomial.legendre.leggauss(400)
    q, wq = 0.9 * (1 + x), 0.9 * w
    t, wt = (math.log(0.5) - 0.6 + 2.0 * x, 2.0 * w) if norm == "exact" else (np.array([math.log(0.5)]), np.ones(1))
    q, t = q[:, None], t[None, :]
    size = 1 + 2 * (q**2 + np.exp(t))
    v = np.stack([2 * q / np.sqrt(math.pi * size), -4 * q**3 / np.sqrt(6 * math.pi * size**3)])
    alpha = 4 / (math.pi * size) * np.exp(t)
    rho = 2 / math.pi * np.arcsin((size - 1) / size) - (v**2).sum(0) - alpha
    r = np.array([s.residual[1], math.sqrt(6) * s.residual[3]])
    prior = -d * (q**2 + (np.exp(t) if norm == "exact" else 0)) / 1.0 + ((d - 1) / 2 * t if norm == "exact" else 0)
    m2 = (n / kappa * np.tensordot(r, v, 1)) ** 2

    def law(eigenvalue):
        stiff = kappa + n * eigenvalue
        e = r @ r / (1 - (d - 1) * n * (eigenvalue / stiff) ** 2)
        y = n * a2 / width * (alpha / stiff * (1 - e / stiff) + rho / kappa)
        log = prior - np.log1p(y) / 2 + a2 / width * m2 / (2 * (1 + y))
        weight = np.exp(log - log.max()) * wq[:, None] * wt
        return weight / weight.sum(), y

    def response(eigenvalue):
        weight, y = law(eigenvalue)
        return a2 / (d - 1) * np.sum(weight * alpha * (1 / (1 + y) + a2 / width * m2 / (1 + y) ** 2)) - eigenvalue

    eigenvalue = brentq(response, 1e-7, 1e-2, xtol=1e-15)
    weight, y = law(eigenvalue)
    kernel = a2 * np.einsum("iqt,jqt->ij", v * weight / (1 + y), v)
    np.testing.assert_allclose(r + n / kappa * kernel @ r, [1, -0.3 * math.sqrt(6)], atol=1e-6)
    unlearned = (d - 1) * eigenvalue * kappa / (kappa + n * eigenvalue) + a2 * np.sum(weight * rho / (1 + y))
    assert kappa == pytest.approx(noise + unlearned, rel=1e-6)
    assert s.converged and ts.solve(p, norm).ridge == noise


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
