"""What the chapters on sample complexity and on other teachers store: closed forms, keys, and small runs of each function."""

import math

import numpy as np
import pytest

from grokutils import hermite
from grokutils.experiments import EXPERIMENTS, other_teachers, sample_complexity
from grokutils.experiments.other_teachers import confront, expected, two_index_networks, with_closed_forms
from grokutils.experiments.sample_complexity import kernel_response, on_the_path
from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student as ts

SMALL = TeacherStudent(40, 8, 10, 0.2, 0.1, 0.5, {1: 1.0, 3: -0.3})


@pytest.mark.parametrize("name", ["sin", "gelu"])
def test_closed_forms_against_quadrature(name):
    phi, Q = with_closed_forms(SMALL.replace(activation=name)).phi, np.array([0.05, 0.5, 3.0])
    for k in range(9):
        np.testing.assert_allclose(phi.moment(k, Q), hermite.derivative_expectation(name, k, Q), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(phi.kernel(Q, Q, Q), hermite.second_moment(name, Q), rtol=1e-10)


@pytest.mark.parametrize("name", ["sin", "gelu"])
def test_closed_kernels_by_double_quadrature(name):
    phi = with_closed_forms(SMALL.replace(activation=name)).phi
    z, w = np.polynomial.hermite_e.hermegauss(80)
    q1, q2, c = 0.7, 1.3, -0.6
    g2 = c / math.sqrt(q1) * z[:, None] + math.sqrt(q2 - c * c / q1) * z[None, :]
    direct = np.einsum("i,j,ij->", w, w, phi.function(math.sqrt(q1) * z)[:, None] * phi.function(g2)) / w.sum() ** 2
    assert float(phi.kernel(np.array(q1), np.array(q2), np.array(c))) == pytest.approx(direct, abs=1e-7)


def test_closed_forms_leave_the_problem_its_name():
    p = SMALL.replace(activation="gelu")
    assert with_closed_forms(p).hash == p.hash
    assert with_closed_forms(SMALL) is SMALL


def test_odd_part_of_relu_and_gelu_networks_is_linear():
    """Pointwise, at any weights: no such network has a component along an odd Hermite polynomial above the first."""
    rng = np.random.default_rng(0)
    w, a, x = rng.standard_normal((7, 5)), rng.standard_normal(7), rng.standard_normal((50, 5))
    for name in ("relu", "gelu"):
        phi = hermite.activation(name).function
        np.testing.assert_allclose((phi(x @ w.T) - phi(-x @ w.T)) @ a / 2, x @ w.T @ a / 2, atol=1e-12)


def test_confront_is_sample_and_theory():
    ds = confront(SMALL, span=(1, 3, 5), datasets=2, chains=1, draws=10, warmup=20, thin=2)
    assert dict(ds.sizes) == {"dataset": 2, "chain": 1, "draw": 2, "degree": 3, "variant": 3, "quantity": 6}
    plain = ts.solve(SMALL)
    for k in (1, 3):
        got = ds.expected.sel(variant="plain", quantity=f"learned[{k}]")
        assert float(got) == pytest.approx(SMALL.teacher[k] - plain.residual[k], abs=1e-12)
    assert float(ds.expected.sel(variant="plain", quantity="learned[5]")) == 0
    assert float(ds.expected.sel(variant="wide", quantity="learned[5]")) != 0
    alone = confront(SMALL.replace(teacher={3: -0.3}), span=(3,), datasets=2, chains=1, draws=10, warmup=20, thin=2)
    assert alone.sizes["bin"] == 50
    assert int(alone.histogram.sum()) == 2 * 10 * SMALL.width


def test_expected_leaves_zero_coefficients_out_of_the_narrow_span():
    p = SMALL.replace(teacher={1: 1.0, 3: -0.3, 5: 0.0})
    np.testing.assert_array_equal(expected(p, (1, 3, 5), ("plain",)).expected, expected(SMALL, (1, 3, 5), ("plain",)).expected)


def test_two_index_networks_see_the_second_direction():
    p = SMALL.replace(samples=200, noise_variance=0.05, width=30)
    ds = two_index_networks(p, {(0, 1): 1.0}, [(1, 0), (0, 1)], datasets=4, draws=5, thin=10, warmup=90)
    first, second = np.abs(ds.learned.mean(("dataset", "chain", "draw")).values)
    assert second > 0.5
    assert first < 0.2


def test_kernel_response_uses_the_data_of_sample():
    one, two = kernel_response(SMALL, datasets=1, seed=3), kernel_response(SMALL, datasets=2, seed=3)
    np.testing.assert_array_equal(one.response[0, 0], two.response[0, 0])
    assert not np.array_equal(two.response[0, 0], two.response[0, 1])
    both = kernel_response(SMALL, seed=3, samples=(20, 40))
    np.testing.assert_array_equal(both.response.sel(samples=40)[0], one.response[0, 0])


def test_the_path_keeps_the_groups():
    for d in (50, 150, 300):
        p, q = on_the_path(d), on_the_path(150)
        assert p.samples == 20 * d
        assert p.interaction == pytest.approx(q.interaction, rel=5e-3)
        assert p.kappa / p.dimension == pytest.approx(q.kappa / q.dimension, rel=1e-9)


@pytest.mark.parametrize("family", [sample_complexity, other_teachers])
def test_runs_have_names_of_their_own_and_a_price(family):
    runs = family()
    assert len({run.key for run in runs}) == len(runs)
    assert all(run.gradients > 0 for run in runs)
    assert family in EXPERIMENTS.values()
