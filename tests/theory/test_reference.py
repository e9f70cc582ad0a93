"""The reference solver is itself held against closed forms and published numbers; nothing here imports the library."""

import math

import numpy as np
import pytest
import reference as ref
from scipy import special


def gelu(z):
    return z * special.ndtr(z)


def test_prior_moments():
    # q ~ N(0, w2/d); E[c_1^2] for the linear activation is E[q^2]
    for norm in ("fixed", "exact"):
        neuron = ref.Neuron(ref.problem(), lambda z: z, norm, degrees=(1,))
        assert neuron.mean(neuron.q**2, [0.0]) == pytest.approx(0.5 / 150, rel=1e-11)
        assert neuron.mean(neuron.q**4, [0.0]) == pytest.approx(3 * (0.5 / 150) ** 2, rel=1e-11)
        assert neuron.tilt(np.array([0.0]))[1] == pytest.approx(0.0, abs=1e-12)


def test_gaussian_expectations():
    R = np.array([0.1, 0.5, 2.0])
    np.testing.assert_allclose(ref.derivative(ref.ERF, 1, R), 2 / np.sqrt(np.pi * (1 + 2 * R)), rtol=1e-12)
    np.testing.assert_allclose(ref.derivative(ref.ERF, 3, R), -4 / np.sqrt(np.pi) / (1 + 2 * R) ** 1.5, rtol=1e-11)
    np.testing.assert_allclose(ref.derivative(ref.relu, 2, R), 1 / np.sqrt(2 * np.pi * R), rtol=1e-12)
    for phi in (ref.ERF, ref.relu, np.tanh, gelu, np.sin):
        for k in (1, 2, 3, 5):
            np.testing.assert_allclose(ref.curve(phi, k, R), ref.derivative(phi, k, R), rtol=1e-9, atol=1e-9)


def test_linear_network_has_a_closed_form():
    # one Gaussian in q: variance v with 1/v = d/w2 - n^2 s_a^2 b^2/(N s^4), and b (1 + kappa v) = 1
    p = ref.problem(teacher={1: 1.0})
    kappa, pull = (
        p.samples * p.readout_variance / p.noise_variance,
        p.samples**2 * p.readout_variance / (p.width * p.noise_variance**2),
    )
    for norm in ("fixed", "exact"):
        b = ref.solve(p, lambda z: z, norm, reach=3.5 if norm == "exact" else 30.0)[1]
        v = 1 / (150 / 0.5 - pull * b * b)
        assert b * (1 + kappa * v) == pytest.approx(1.0, rel=1e-10)


@pytest.mark.parametrize(
    ("norm", "noise", "b", "c"),
    [
        ("fixed", 0.30, 0.473161, -0.296182),
        ("exact", 0.30, 0.466791, -0.295742),
        ("fixed", 0.20, 0.314353, -0.292402),
        ("exact", 0.20, 0.304144, -0.287128),
        ("fixed", 0.15, 0.22449211, -0.28144739),
        ("exact", 0.15, 0.21062203, -0.26360226),
    ],
)
def test_published_point(norm, noise, b, c):
    r = ref.solve(ref.problem(noise_variance=noise), norm=norm)
    digits = 5e-9 if noise == 0.15 else 6e-7
    assert r[1] == pytest.approx(b, abs=digits)
    assert r[3] == pytest.approx(c, abs=digits)


def test_resolution_and_reach_do_not_matter():
    p = ref.problem()
    coarse, fine = ref.solve(p), ref.solve(p, resolution=0.7, reach=2.5)
    assert fine == pytest.approx(coarse, abs=1e-10)


def test_a_law_that_runs_off_the_grid_is_noticed():
    with pytest.raises(ArithmeticError, match="runs off"):
        ref.Neuron(ref.problem(teacher={2: 1.0}), np.square, degrees=(2,)).tilt(np.array([1.0]))


def test_marginal_is_normalised_like_the_prior():
    q = np.linspace(-0.4, 0.4, 81)
    S = ref.negative_log_marginal(ref.problem(), {1: 0.0, 3: 0.0}, q)
    np.testing.assert_allclose(S - S[40], 150 * q**2, atol=1e-9)
    assert ref.mean_transverse_norm(ref.problem(), {1: 0.0, 3: 0.0}, 0.3) == pytest.approx(0.5 * 149 / 150, rel=1e-12)
    assert math.isfinite(S.sum())
