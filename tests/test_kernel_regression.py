"""Regression with the NNGP kernel: closed forms against Monte Carlo, quadrature and the theory's own kernel; the learning curve against data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from grokutils import kernel_regression as kr
from grokutils.hermite import activation, hermite
from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student as ts


def problem(samples=400, dimension=12, noise=0.3, activation="erf", **changes):
    sizes = dict(samples=samples, dimension=dimension, width=1)
    values = sizes | dict(noise_variance=noise, readout_variance=1.0, weight_variance=0.5, teacher={1: 1.0, 3: -0.3})
    return TeacherStudent(**(values | changes), activation=activation)


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["erf", "relu", "square", "linear"])
def test_kernel_is_the_covariance_of_random_networks(name):
    """False-alarm rate below 1e-5 an element (4.9 standard errors)."""
    p, rng = problem(dimension=5, activation=name, weight_variance=0.8, readout_variance=1.7), np.random.default_rng(0)
    x = rng.standard_normal((4, 5))
    features = activation(name).function(rng.standard_normal((400_000, 5)) * math.sqrt(0.8 / 5) @ x.T)
    for i in range(4):
        products = 1.7 * features * features[:, [i]]
        error = products.std(0) / math.sqrt(len(products))
        assert np.all(np.abs(products.mean(0) - kr.kernel(p, x)[i]) < 4.9 * error)


def test_kernel_between_two_sets_is_a_block_of_the_whole():
    p, x = problem(), np.random.default_rng(1).standard_normal((9, 12))
    whole = kr.kernel(p, x)
    np.testing.assert_allclose(kr.kernel(p, x[:4], x[4:]), whole[:4, 4:], rtol=1e-13)
    assert np.linalg.eigvalsh(whole).min() > 0


def test_kernel_needs_a_closed_form():
    with pytest.raises(ValueError, match="no closed-form kernel"):
        kr.kernel(problem(activation="tanh"), np.zeros((2, 12)))


def zonal_average(function, d):
    """E[function(x_1, |x|^2)] over x ~ N(0, I_d) by Gauss-Hermite in x_1 and a fine rule in the rest."""
    z, wz = np.polynomial.hermite_e.hermegauss(40)
    rest = np.linspace(1e-6, d + 14 * math.sqrt(2 * d) + 30, 4001)
    log = (d - 3) / 2 * np.log(rest) - rest / 2
    w = np.exp(log - log.max())
    return np.einsum("i,j,ij->", wz / wz.sum(), w / w.sum(), function(z[:, None], z[:, None] ** 2 + rest[None, :]))


@pytest.mark.parametrize("d", [6, 40])
@pytest.mark.parametrize(("j", "k"), [(1, 1), (1, 3), (3, 1), (3, 3), (5, 3), (3, 5)])
def test_projection_projected_again_is_the_element_of_the_kernel(d, j, k):
    """E[H_j K H_k] twice: the one-dimensional integral over data points, and the average over the prior's weights in closed form."""
    p = problem(dimension=d)

    def both(x1, size):
        out = np.empty((x1.size, size.shape[1]))
        for i, along in enumerate(x1[:, 0]):  # inputs with this first coordinate and this squared length
            x = np.zeros((size.shape[1], d))
            x[:, 0], x[:, 1] = along, np.sqrt(np.maximum(size[i] - along**2, 0))
            out[i] = kr.projection(p, j, x, [0])[:, 0]
        return out * hermite(k, x1)

    tau = 0.5 / d
    # over the prior: q and s, with E[erf^(k)] = c_k (1 + 2 |w|^2)^(-k/2), c_1 = 2/sqrt(pi), c_3 = -4/sqrt(pi), c_5 = 24/sqrt(pi)
    c = {1: 2, 3: -4, 5: 24}

    def power(z, size):
        q, length = math.sqrt(tau) * z, 1 + 2 * tau * size
        return c[j] * c[k] / math.pi * q ** (j + k) * length ** (-(j + k) / 2)

    exact = zonal_average(power, d) / math.factorial(j)
    assert zonal_average(both, d) == pytest.approx(exact, rel=2e-5)


def test_projection_is_zero_for_even_degrees_and_refuses_other_activations():
    assert not kr.projection(problem(), 2, np.ones((3, 12))).any()
    with pytest.raises(ValueError, match="erf"):
        kr.projection(problem(activation="relu"), 1, np.ones((3, 12)))


def test_response_agrees_with_a_prediction_on_many_test_points():
    p, rng = problem(dimension=6, noise=0.05), np.random.default_rng(2)
    x, test = rng.standard_normal((60, 6)), rng.standard_normal((400_000, 6))
    test = np.concatenate([test, -test])  # the odd part is what is asked for
    weights = np.linalg.solve(kr.kernel(p, x) + 0.05 * np.eye(60), np.stack([hermite(k, x[:, 0]) for k in (1, 3)], axis=1))
    output = kr.kernel(p, test, x) @ weights
    got = kr.response(p, x, axes=[0])[0]
    for row, j in enumerate((1, 3)):
        products = output * hermite(j, test[:, 0])[:, None] / math.factorial(j)
        error = products[: len(test) // 2].std(0) / math.sqrt(len(test) // 2)
        assert np.all(np.abs(products.mean(0) - got[row]) < 5 * error)


def test_axes_are_teachers_on_rotated_inputs():
    p, x = problem(dimension=4), np.random.default_rng(3).standard_normal((30, 4))
    np.testing.assert_allclose(kr.response(p, x, axes=[2])[0], kr.response(p, x[:, [2, 1, 0, 3]], axes=[0])[0], rtol=1e-9)


@settings(deadline=None, max_examples=40)
@given(d=st.integers(3, 400), n=st.integers(0, 12))
def test_harmonic_shares_add_up(d, n):
    assert sum(kr.harmonic_share(d, n, l) for l in range(n + 1)) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("d", "l", "count"), [(3, 4, 9), (10, 1, 10), (10, 2, 54), (7, 3, 77), (150, 3, 150 * 149 * 154 / 6)])
def test_number_of_harmonics(d, l, count):
    assert kr.harmonics(d, l) == pytest.approx(count, rel=1e-9)


def test_harmonic_share_is_a_legendre_coefficient():
    # d = 3: t^4 = 1/5 P_0 + 4/7 P_2 + 8/35 P_4
    assert [kr.harmonic_share(3, 4, l) for l in (0, 2, 4)] == pytest.approx([1 / 5, 4 / 7, 8 / 35], rel=1e-10)


@pytest.mark.parametrize("name", ["erf", "tanh", "relu", "gelu"])
@pytest.mark.parametrize("d", [10, 150])
def test_blocks_hold_the_kernel_of_the_theory(name, d):
    """<H_j|K|H_k> summed over blocks is the 2 x 2 kernel that the mean-field theory starts from, and the traces add up to E[phi^2]."""
    odd = name in ("erf", "tanh")
    p = problem(dimension=d, activation=name, teacher={1: 1.0, 3: -0.3} if odd else {1: 1.0, 2: 0.3})
    degrees = tuple(p.teacher)
    found = kr.spectrum(p, 11)
    kernel = ts.NeuronLaw(p, degrees, "exact").integrate(np.zeros(2))[3]
    total = np.zeros((2, 2))
    for l, (orders, matrix, _) in found.blocks.items():
        for a, j in enumerate(degrees):
            for b, k in enumerate(degrees):
                if j in orders and k in orders:
                    share = math.sqrt(kr.harmonic_share(d, j, l) * kr.harmonic_share(d, k, l))
                    total[a, b] += share * matrix[orders.index(j), orders.index(k)]
    np.testing.assert_allclose(total, kernel, rtol=1e-6, atol=1e-15)
    assert 0 <= found.rest < 0.03 * sum(c * np.trace(m) for _, m, c in found.blocks.values())


def test_cubic_eigenvalue_falls_like_the_cube():
    # sigma_a^2 m_3^2 (sigma_w^2/d)^3 with m_3^2 = 16 / (pi (1 + 2 sigma_w^2)^3), up to 1/d
    for d in (100, 400, 1600):
        orders, matrix, _ = kr.spectrum(problem(dimension=d)).blocks[3]
        assert matrix[orders.index(3), orders.index(3)] * d**3 == pytest.approx(16 / (8 * math.pi) * 0.5**3, rel=12 / d)


def test_uniform_ridge_answers_its_equation():
    p = problem(samples=900, dimension=12, noise=0.002)
    found = kr.spectrum(p)
    kappa, total = found.uniform_ridge(), p.noise_variance + found.rest
    for _, matrix, count in found.blocks.values():
        total += count * np.trace(np.linalg.solve(kappa * np.eye(len(matrix)) + p.samples * matrix, kappa * matrix))
    assert total == pytest.approx(kappa, rel=1e-8)


def test_radial_functions_are_orthonormal():
    size = np.linspace(1e-6, 120, 40001)
    log = 3 * np.log(size) - size / 2  # the law of |x|^2 in d = 8
    weight = np.exp(log - log.max())
    for l in (0, 1, 3):
        rows = np.array([kr._radial(8, n, l, size) for n in range(l, l + 8, 2)])
        gram = (rows * weight / weight.sum()) @ rows.T
        # all carry the same angular function; of mean square one over the sphere
        np.testing.assert_allclose(gram, np.eye(4), atol=1e-6)


def test_without_data_the_local_ridge_is_the_noise_plus_the_kernel():
    p = problem(samples=1e-9, dimension=12, noise=0.1)
    size, ridge = kr.spectrum(p).ridge()
    x = np.zeros((size.size, 12))
    x[:, 0] = np.sqrt(size)
    usual = np.abs(size - 12) < 5 * math.sqrt(24)  # the expansion is one over the law of |x|^2
    np.testing.assert_allclose(ridge[usual], 0.1 + np.diag(kr.kernel(p, x))[usual], rtol=1e-3)


@pytest.mark.parametrize("activation", ["erf", "relu", "tanh"])
def test_much_noise_makes_the_three_curves_one(activation):
    p = problem(samples=300, dimension=20, noise=1e5, activation=activation, teacher={1: 1.0})
    local, uniform, bare = (kr.spectrum(p).response((1, 2), ridge) for ridge in kr.RIDGES)
    np.testing.assert_allclose(local, bare, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(uniform, bare, rtol=1e-4, atol=1e-12)


@pytest.mark.statistical
@pytest.mark.parametrize(("samples", "noise"), [(400, 0.002), (900, 0.01)])
def test_local_curve_agrees_with_data_and_the_others_do_not(samples, noise):
    """Sixteen data sets, four errors (6e-5 an element) and the three per cent that the theory may miss; the wrong variants must fail this."""
    p, rng = problem(samples=samples, noise=noise), np.random.default_rng(5)
    sets = np.array([kr.response(p, rng.standard_normal((samples, 12))).mean(0) for _ in range(16)])
    mean, error = sets.mean(0), sets.std(0, ddof=1) / 4
    agree = {ridge: np.abs(mean - kr.spectrum(p).response(ridge=ridge)) < 4 * error + 0.03 * np.abs(mean) for ridge in kr.RIDGES}
    assert agree["local"].all()
    assert not agree["uniform"][1, 1]
    assert not agree["bare"][1, 1]


def test_unknown_ridge():
    with pytest.raises(ValueError, match="ridge must be one of"):
        kr.spectrum(problem()).response(ridge="plain")


def test_samples_needed_puts_the_answer_back():
    p = problem(noise=0.01)
    n = kr.samples_needed(p, 0.4)
    assert kr.spectrum(p.replace(samples=n)).response((3,))[0, 0] == pytest.approx(0.4, abs=1e-6)
    with pytest.raises(ValueError, match="share"):
        kr.samples_needed(p, 1.0)


def test_need_grows_like_the_cube_for_the_kernel():
    need = [kr.samples_needed(problem(dimension=d, noise=0.002), 0.5) for d in (1000, 4000)]
    assert math.log(need[1] / need[0]) / math.log(4) == pytest.approx(3, abs=0.02)


def test_learnability_contains_what_spills_over():
    p = problem(samples=2000, dimension=100, noise=8.75)
    found = kr.spectrum(p)
    (_, _), (spill, own) = found.response()
    assert found.learnability()[3] == pytest.approx(own + spill / -0.3, rel=1e-12)
    assert abs(spill / -0.3) > 10 * own  # most of 1 - c/eps is not learning at all


def test_integral_of_the_projection_by_plain_quadrature():
    """One value of the integral over t with scipy's quad, at d = 2 where the substitution is hardest."""
    p, x = problem(dimension=2), np.array([[0.7, -1.1]])
    tau, size = 0.25, 0.49 + 1.21

    def integrand(t):
        spread = tau / (1 + 4 * tau * t)
        slope = 2 / math.sqrt(math.pi * (1 + 2 * spread * size))
        return t**-0.5 * math.exp(-t) / (1 + 4 * tau * t) * spread * 0.7 * slope / math.gamma(0.5)

    exact = 2 / math.sqrt(math.pi) * quad(integrand, 0, 60, limit=200)[0]
    assert kr.projection(p, 1, x, [0])[0, 0] == pytest.approx(exact, rel=1e-6)
