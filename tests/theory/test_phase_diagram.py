"""Phase diagrams: closed forms of the critical surface, kinks by implicit differentiation, losses and readouts."""

import math

import numpy as np
import pytest

from grokutils.hermite import Activation
from grokutils.problems import TeacherStudent
from grokutils.theory import phase_diagram as pd
from grokutils.theory import teacher_student as ts

PAPER = TeacherStudent.paper()
NORMS = pytest.mark.parametrize("norm", ["fixed", "exact"])


def test_the_level_coupling_of_the_fixed_norm_is_the_closed_form():
    a = np.array([0.55, 1.0, 4.0, 100.0])
    well = pd.level(-a, "fixed")
    assert np.allclose(well.coupling, math.pi * 27 * a / (4 * (1 + a) ** 3), rtol=1e-8)
    assert np.allclose(well.overlap, np.sqrt((2 * a - 1) / (1 + a)), rtol=1e-5)
    other = pd.level(a, "fixed")  # the other sign: a well only beyond x = 4
    assert np.isnan(other.overlap[:2]).all() and np.isfinite(other.overlap[3])
    assert other.coupling[3] == pytest.approx(math.pi * 27 * 100 / (4 * 99**3), rel=1e-8)


def test_another_weight_variance_obeys_its_closed_form():
    w, a = 1.3, 2.0
    u0 = math.pi * (1 + 2 * w) / (4 * w)
    assert float(pd.level(-a, "fixed", weight_variance=w).coupling) == pytest.approx(u0 * 27 * a / (4 * (1 + a) ** 3), rel=1e-8)


@NORMS
def test_the_well_is_a_minimum_level_with_the_centre(norm):
    x = -1.1
    well = pd.level(x, norm)
    p = PAPER.replace(teacher={1: 1.0, 3: -0.3})
    b = 0.3 / 1.1
    p = p.replace(noise_variance=p.noise_variance * math.sqrt(p.interaction * b**2 / float(well.coupling)))
    q = np.append(np.linspace(0.1, 1.5, 57), float(well.overlap))
    action = ts.scaled_action(p, {1: b, 3: -0.3}, q, norm)
    assert abs(action[-1]) < 1e-7
    assert action.min() > -1e-6


@NORMS
@pytest.mark.parametrize(("teacher", "activation"), [({1: 1.0, 3: -0.3}, "erf"), ({1: 1.0, 3: 0.3}, "erf"), ({1: 2.0, 3: -0.5}, "tanh")])
def test_the_boundary_along_the_noise_is_the_critical_point(norm, teacher, activation):
    p = PAPER.replace(teacher=teacher, activation=activation)
    point = ts.critical_point(p, norm)
    assert pd.boundary(p, norm=norm)[0] == pytest.approx(point.noise_variance, rel=1e-6)
    assert pd.boundary(p, norm=norm, kind="spinodal")[0] == pytest.approx(point.spinodal, rel=1e-4)


@NORMS
def test_data_and_noise_are_one_dial_and_each_path_ends_on_the_surface(norm):
    for axis in pd.AXES:
        p = PAPER.replace(**{axis: pd.boundary(PAPER, axis, norm=norm)[0]})
        assert p.interaction == pytest.approx(pd.critical_surface([-0.3], [p.kappa / p.dimension], norm)[0, 0], rel=1e-6)
    noise, samples = (pd.boundary(PAPER, axis, norm=norm)[0] for axis in ("noise_variance", "samples"))
    assert PAPER.samples / noise == pytest.approx(samples / PAPER.noise_variance, rel=1e-9)


def test_many_values_are_one_value_many_times():
    widths = np.array([100.0, 700.0, 4000.0])
    each = [pd.boundary(PAPER.replace(width=w))[0] for w in widths]
    assert np.allclose(pd.boundary(PAPER, "noise_variance", "width", widths), each, rtol=1e-9)
    teachers = [-1.0, 0.2]
    each = [pd.boundary(PAPER.replace(teacher={1: 1.0, 3: e}))[0] for e in teachers]
    assert np.allclose(pd.boundary(PAPER, "noise_variance", "epsilon", teachers), each, rtol=1e-9)


@NORMS
def test_limits_bound_the_surface(norm):
    c = pd.limits(norm)
    surface = pd.critical_surface([-0.2, -0.02], np.geomspace(1e-8, 1e8, 9), norm) * np.array([[0.04], [0.0004]])
    assert np.all(np.diff(surface, axis=1) > -1e-9 * surface[:, 1:])
    assert surface.min() >= c["floor"] * (1 - 1e-6) and surface.max() <= c["ceiling"] * (1 + 1e-6)
    # wells within 0.02 of the centre are not told from it: that costs 3e-3 where the well merges
    assert surface[0, 0] == pytest.approx(c["floor"], rel=4e-3) and surface[0, -1] == pytest.approx(c["ceiling"], rel=1e-3)
    just = pd.level(c["merging"] + np.array([0.02, -0.02]), norm)
    assert np.isnan(just.overlap[0]) and just.overlap[1] > 0


def test_the_constants_of_the_fixed_norm():
    c = pd.limits("fixed")
    assert c["ceiling"] == pytest.approx(27 * math.pi / 4, rel=1e-6)
    assert c["floor"] == pytest.approx(math.pi / 4) and c["merging"] == -0.5
    assert pd.limits("exact")["merging"] == pytest.approx(-3 / 8)


def test_an_activation_without_closed_form_is_splined_accurately():
    plain = Activation("sine by quadrature in this test", np.sin)
    closed = Activation("sine in closed form in this test", np.sin, moment=lambda k, Q: 0 * Q if k % 2 == 0 else (-1) ** (k // 2) * np.exp(-Q / 2))
    one, other = (pd.critical_surface([-0.3, 0.4], [0.5, 5.0], "exact", phi) for phi in (plain, closed))
    assert np.allclose(one, other, rtol=1e-6)


def test_no_transition_is_nan():
    assert np.isnan(pd.boundary(PAPER.replace(activation="relu", teacher={1: 1.0, 2: 0.3}))[0])
    assert pd.kink(PAPER.replace(activation="relu", teacher={1: 1.0, 2: 0.3})) is None


@NORMS
def test_the_kink_is_the_one_sided_derivative(norm):
    k = pd.kink(PAPER, norm=norm)
    h = 2e-3
    below = [ts.mixed_phase(PAPER.replace(noise_variance=k.value * math.exp(-x)), norm) for x in (h, 2 * h)]
    above = [ts.mixed_phase(PAPER.replace(noise_variance=k.value * math.exp(x)), norm) for x in (h, 2 * h)]

    def slope(values, start, step):  # second order, one-sided
        return (4 * values[0] - values[1] - 3 * start) / (2 * step)

    for degree in (1, 3):
        assert slope([m.residual[degree] for m in below], k.residual[degree], -h) == pytest.approx(k.mixed[degree], rel=2e-3)
        assert slope([m.residual[degree] for m in above], k.residual[degree], h) == pytest.approx(k.untrained[degree], rel=2e-3, abs=1e-9)
    assert slope([m.droplets for m in below], 0.0, -h) == pytest.approx(k.droplet_rate, rel=2e-3)
    assert k.latent_heat == pytest.approx(2 * k.prior_cost, rel=1e-7)
    # a wrong Clausius-Clapeyron factor would not pass: the pinned force must fall in proportion to the noise
    assert abs(k.mixed[1] - k.untrained[1]) > 0.05


def test_the_kink_along_the_data_is_minus_that_along_the_noise():
    one, other = pd.kink(PAPER), pd.kink(PAPER, axis="samples")
    assert other.mixed[3] == pytest.approx(-one.mixed[3], rel=1e-6) and other.untrained[1] == pytest.approx(-one.untrained[1], rel=1e-6)


@NORMS
@pytest.mark.parametrize("beta", [1 / 8, 4.0])
def test_linear_response_is_the_derivative(norm, beta):
    p, h = TeacherStudent.paper(0.19, beta), 1e-4
    up, down = (ts.solve(p.replace(noise_variance=0.19 * math.exp(x)), norm).residual for x in (h, -h))
    for degree, value in pd.response(ts.solve(p, norm)).items():
        assert (up[degree] - down[degree]) / (2 * h) == pytest.approx(value, rel=1e-5)


def test_response_refuses_what_it_does_not_hold_for():
    with pytest.raises(ValueError, match="finite-size"):
        pd.response(ts.solve(TeacherStudent.paper(0.3, 1 / 8), finite_size=True))


def test_losses_of_the_corrected_theory_lie_on_either_side_of_the_residual():
    p = TeacherStudent.paper(0.25, 1 / 8)
    plain, full = ts.solve(p), ts.solve(p, finite_size=True)
    assert pd.losses(plain) == (plain.test_loss, plain.test_loss)
    train, test = pd.losses(full)
    assert train < full.test_loss < test
    # leave one out: noise + training loss + scatter; both losses vanish into the residual as the size grows
    big = ts.solve(TeacherStudent.paper(0.25, 64.0), finite_size=True)
    assert np.allclose(pd.losses(big), big.test_loss, rtol=0.03)


def test_readouts_are_one_where_there_is_no_force_and_carry_the_latent_heat_where_there_is():
    p = TeacherStudent.paper(0.2, 64.0)
    s = ts.solve(p)
    k = pd.kink(p)
    assert pd.droplet_readout2(s) - 1 == pytest.approx(k.latent_heat * p.dimension, rel=0.1)
    assert pd.droplet_readout2(ts.solve(p.replace(samples=1.0)), beyond=0.0) == pytest.approx(1, abs=1e-6)


def test_expected_droplets_and_crossing_follow_the_solution():
    p = TeacherStudent.paper(0.25, 1 / 8)
    table = pd.expected_droplets(p, "noise_variance", [0.2, 0.3], "width", [88.0])
    for j, noise in enumerate((0.2, 0.3)):
        s = ts.solve(p.replace(noise_variance=noise, width=88.0), norm="fixed")
        assert table["droplets"][0, j] == pytest.approx(88 * s.droplet_fraction) and table["tail"][0, j] == pytest.approx(88 * s.tail_fraction)
        assert table["droplets"][0, j] + table["centre"][0, j] == pytest.approx(88)
    at = p.replace(noise_variance=pd.crossing(p, count=2.0))
    assert at.width * ts.solve(at).tail_fraction == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize(("call", "word"), [
    (lambda: pd.boundary(PAPER, "weight_variance"), "axis"),
    (lambda: pd.boundary(PAPER, "width", "width", [1.0]), "other"),
    (lambda: pd.kink(PAPER, "weight_variance"), "axis"),
    (lambda: pd.kink(PAPER.replace(teacher={3: 1.0})), "teacher"),
    (lambda: pd.critical_surface([-0.3], [0.0]), "kappa_over_d"),
    (lambda: pd.critical_surface([-0.3], [1.0], kind="both"), "kind"),
    (lambda: pd.level(-1.0, "free"), "norm"),
    (lambda: pd.level(-1.0, degree=1), "degree"),
    (lambda: pd.crossing(PAPER, "noise_variance", count=1e6), "crossing"),
])
def test_bad_arguments_are_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
