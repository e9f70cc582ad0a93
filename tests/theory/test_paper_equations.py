"""Equations of the paper that no single function computes, checked one by one with plain numbers."""

import math

import numpy as np
import pytest
from scipy.special import erf

from grokutils import hermite
from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data
from grokutils.theory import teacher_student as ts

B, C = 0.31, -0.27
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def tilt(q, s):
    """b I0 + c (I1 - 3 I0) over I0, from (A.17) and (A.19)."""
    return B - 2 * C * q**2 / (1 + 2 * (q**2 + s))


def printed_action(p, q, s):
    """(A.7) at |w*| = 1, without the entropy of s."""
    strength = 2 * p.samples**2 * p.readout_variance / (math.pi * p.width * p.noise_variance**2)
    data = strength * q**2 / (1 + 2 * (q**2 + s)) * tilt(q, s) ** 2
    return p.dimension * (q**2 + s) / (2 * p.weight_variance) - data


def projections(q, s):
    """Integrals of one erf neuron against H1 and H3 / sqrt 6 by two-dimensional quadrature."""
    z, y = NODES[:, None], NODES[None, :]
    weight = WEIGHTS[:, None] * WEIGHTS[None, :] * erf(q * z + math.sqrt(s) * y)
    return np.array([np.sum(weight * z), np.sum(weight * (z**3 - 3 * z)) / math.sqrt(6)])


# covers: eq-A1-check
@pytest.mark.parametrize("chi", [1.0, 8.0, 700.0])
def test_action_in_the_microscopic_parameters(chi):
    """(A.1): sigma_a^2 = a / chi and sigma^2 = t / chi leave one factor chi on the data term, with n / t."""
    p = TeacherStudent.paper(noise_variance=0.15)
    a, t, q, s = p.readout_variance * chi, p.noise_variance * chi, 0.6, 0.4
    data = 2 * chi * (p.samples / t) ** 2 * a / (math.pi * p.dimension * p.width) * q**2 / (1 + 2 * (q**2 + s)) * tilt(q, s) ** 2
    assert p.dimension * ((q**2 + s) / (2 * p.weight_variance) - data) == pytest.approx(printed_action(p, q, s), rel=1e-12)


# covers: eq-P11-check, eq-A2-check
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 4.0), (3.0, 1.0), (2.0, 0.125)])
def test_scaling_leaves_the_action_per_dimension(alpha, beta):
    """(11) and (A.2): u and kappa / d stay, and with them the action divided by d."""
    p = TeacherStudent.paper(noise_variance=0.15)
    large = p.scaled(alpha=alpha, beta=beta)
    assert large.interaction == pytest.approx(p.interaction, rel=1e-12)
    assert large.kappa / large.dimension == pytest.approx(p.kappa / p.dimension, rel=1e-12)
    assert printed_action(large, 0.6, 0.4) / large.dimension == pytest.approx(printed_action(p, 0.6, 0.4) / p.dimension, rel=1e-12)


# covers: eq-A6-check, eq-A11a-check
def test_continuum_action_is_the_squared_projection():
    """(A.6): the data term is n^2 sigma_a^2 / (2 N sigma^4) times the square of the average of t phi, by quadrature."""
    p = TeacherStudent.paper(noise_variance=0.2)
    for q, s in [(0.3, 0.5), (0.8, 0.25), (1.1, 0.4)]:
        average = projections(q, s) @ [B, math.sqrt(6) * C]
        data = p.samples**2 * p.readout_variance / (2 * p.width * p.noise_variance**2) * average**2
        prior = p.dimension * (q**2 + s) / (2 * p.weight_variance)
        assert prior - data == pytest.approx(printed_action(p, q, s), rel=1e-9)
        assert hermite.overlap("erf", 1, q, q**2 + s) == pytest.approx(projections(q, s)[0], rel=1e-9)
        assert hermite.overlap("erf", 3, q, q**2 + s) / math.sqrt(6) == pytest.approx(projections(q, s)[1], rel=1e-8)


# covers: eq-A7-check
def test_density_of_overlap_and_norm():
    """(A.7) with the entropy of s gives p(q) of the package once s is integrated out."""
    p, q = TeacherStudent.paper(noise_variance=0.2), np.linspace(0.0, 1.0, 9)
    s = np.linspace(0.02, 1.2, 4001)
    log_weight = (p.dimension - 3) / 2 * np.log(s) - printed_action(p, q[:, None], s)
    top = log_weight.max()
    log_p = np.log(np.exp(log_weight - top).sum(axis=1))
    assert ts.action(p, {1: B, 3: C}, q) == pytest.approx(list(log_p[0] - log_p), abs=1e-8)


# covers: eq-A8-check
def test_fixed_norm_action():
    """(A.8) is (A.7) at s = sigma_w^2."""
    p, q = TeacherStudent.paper(noise_variance=0.2), np.linspace(-1.2, 1.2, 13)
    printed = printed_action(p, q, p.weight_variance) - printed_action(p, 0.0, p.weight_variance)
    assert ts.action(p, {1: B, 3: C}, q, norm="fixed") == pytest.approx(list(printed), rel=1e-11, abs=1e-11)


# covers: eq-A9-check, eq-A10-check, eq-A11-check
def test_kernel_matrix_of_two_neurons():
    """(A.9) to (A.11): for a law on two neurons the kernel's matrix elements are the averages of the products of projections."""
    sigma_a2, law = 0.3, [(0.25, 0.9, 0.3), (0.75, 0.2, 0.5)]  # (probability, q, s)
    z, y, x, u = np.meshgrid(*4 * [NODES[12:48]], indexing="ij", sparse=True)  # two inputs: (z, y) and (x, u)
    w = WEIGHTS[12:48]
    weight = w[:, None, None, None] * w[:, None, None] * w[:, None] * w
    kernel = sigma_a2 * sum(m * erf(q * z + math.sqrt(s) * y) * erf(q * x + math.sqrt(s) * u) for m, q, s in law)
    basis = [lambda z: z, lambda z: (z**3 - 3 * z) / math.sqrt(6)]
    matrix = [[np.sum(weight * kernel * f(z) * g(x)) for g in basis] for f in basis]
    expected = sigma_a2 * sum(m * np.outer(projections(q, s), projections(q, s)) for m, q, s in law)
    assert np.array(matrix) == pytest.approx(expected, abs=1e-6)
    norm = [[np.sum(WEIGHTS * f(NODES) * g(NODES)) for g in basis] for f in basis]
    assert np.array(norm) == pytest.approx(np.eye(2), abs=1e-10)


# covers: eq-A3-check, eq-A4-check, eq-P9-check
def test_regression_mode_by_mode():
    """(A.3), (A.4): with an input law on a finite grid, kernel regression multiplies each eigenfunction by lambda / (lambda + sigma^2 / n)."""
    rng, points, n, noise = np.random.default_rng(0), 12, 500, 0.3
    features = rng.standard_normal((points, 20))
    kernel, target = features @ features.T / 20, rng.standard_normal(points)
    # n / points copies of every point: the training sum is exactly n times the average over the law
    rows = np.repeat(np.arange(points), n // points)
    Q = kernel[np.ix_(rows, rows)]
    mean = kernel[:, rows] @ np.linalg.solve(Q + noise * np.eye(len(rows)), target[rows])
    eigenvalues, modes = np.linalg.eigh(kernel / points)  # of the operator f -> average of Q(x, .) f
    expected = modes @ (eigenvalues / (eigenvalues + noise / len(rows)) * (modes.T @ target))
    assert mean == pytest.approx(expected, abs=1e-8)


# covers: eq-P1-check, eq-P2-check
def test_teacher_and_student_as_printed():
    """(1) and (2): the targets and the outputs of the package are the printed functions of the inputs."""
    p = TeacherStudent(30, 6, 5, 0.2, 0.4, 0.5, {1: 1.0, 3: -0.3})
    x, y = draw_data(p, datasets=1, seed=3)
    z = x[0, :, 0]
    assert y[0] == pytest.approx(z - 0.3 * (z**3 - 3 * z), rel=1e-12)
    posterior = TeacherStudentPosterior(p, x, y, dtype="float64")
    theta = posterior.prior_draw([1])
    weights, readouts = (np.asarray(part)[0] for part in posterior.weights(theta))
    outputs = np.asarray(posterior.outputs(theta, posterior.inputs[0]))
    assert np.ravel(outputs) == pytest.approx(erf(x[0] @ weights.T) @ readouts, rel=1e-10)
