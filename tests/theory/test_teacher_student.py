"""The teacher-student theory against published numbers and an independent reference (see ``reference.py``)."""

import math

import numpy as np
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special

from grokutils import hermite
from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student as ts

PHI = {
    "erf": special.erf,
    "relu": ref.relu,
    "tanh": np.tanh,
    "sin": np.sin,
    "gelu": lambda z: z * special.ndtr(z),
    "linear": lambda z: z,
}


def residual_of(solution):
    return dict(solution.residual)


# ------------------------------------------------------------ published numbers


# covers: eq-P9-check, eq-P10-check, eq-P13-check, eq-A8-check
@pytest.mark.parametrize(
    ("norm", "noise", "b", "c", "tolerance"),
    [
        ("fixed", 0.30, 0.473161, -0.296182, 6e-7),
        ("exact", 0.30, 0.466791, -0.295742, 6e-7),
        ("fixed", 0.20, 0.314353, -0.292402, 6e-7),
        ("exact", 0.20, 0.304144, -0.287128, 6e-7),
        ("fixed", 0.15, 0.22449211, -0.28144739, 6e-9),
        ("exact", 0.15, 0.21062203, -0.26360226, 6e-9),
    ],
)
def test_residual_at_the_published_parameters(norm, noise, b, c, tolerance):
    s = ts.solve(TeacherStudent.paper(noise_variance=noise), norm=norm)
    assert s.converged
    assert s.residual[1] == pytest.approx(b, abs=tolerance)
    assert s.residual[3] == pytest.approx(c, abs=tolerance)


@pytest.mark.parametrize(
    ("beta", "norm", "expected"),
    [(1 / 8, "fixed", 0.08658), (1 / 8, "exact", 0.12450), (2, "fixed", 0.06000), (2, "exact", 0.12385)],
)
def test_cubic_learnability_at_other_scales(beta, norm, expected):
    assert ts.solve(TeacherStudent.paper(beta=beta), norm=norm).learnability[3] == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize(
    ("norm", "noise", "u", "b", "q", "s", "spinodal"),
    [
        ("fixed", 0.178719, 30.6691, 0.291958, 0.72137, 0.5, 0.190662),
        ("exact", 0.217099, 20.7840, 0.351677, 0.72926, 0.30040, 0.233387),
    ],
)
def test_critical_point(norm, noise, u, b, q, s, spinodal):
    c = ts.critical_point(TeacherStudent.paper(), norm=norm)
    assert c.noise_variance == pytest.approx(noise, abs=6e-7)
    assert c.interaction == pytest.approx(u, abs=6e-5)
    assert c.residual[1] == pytest.approx(b, abs=7e-7)
    assert c.residual[3] == pytest.approx(-0.3, abs=1e-9)
    assert abs(c.overlap) == pytest.approx(q, abs=6e-6)
    assert c.transverse_norm == pytest.approx(s, abs=6e-6)
    assert c.spinodal == pytest.approx(spinodal, abs=6e-7)


def test_critical_interaction_depends_on_the_path():
    # along a width path at noise 0.15 (kappa/d held) the critical interaction is another one
    p = TeacherStudent.paper()
    lo, hi = 100.0, 3000.0
    for _ in range(40):
        width = math.sqrt(lo * hi)
        above = ts.critical_point(p.replace(width=width), norm="fixed").noise_variance > p.noise_variance
        lo, hi = (width, hi) if above else (lo, width)
    assert p.replace(width=lo).interaction == pytest.approx(32.76, abs=6e-3)


@pytest.mark.parametrize(
    ("norm", "M", "b", "c", "q"),
    [("fixed", 3.41856, 0.234288, -0.281150, 0.79773), ("exact", 4.32829, 0.218573, -0.261843, 0.85100)],
)
def test_mixed_phase(norm, M, b, c, q):
    m = ts.mixed_phase(TeacherStudent.paper(), norm=norm)
    assert m.droplets == pytest.approx(M, abs=6e-6)
    assert m.residual[1] == pytest.approx(b, abs=6e-7)
    assert m.residual[3] == pytest.approx(c, abs=6e-7)
    assert abs(m.overlap) == pytest.approx(q, abs=6e-6)


@pytest.mark.parametrize("norm", ["fixed", "exact"])
def test_mixed_phase_before_the_transition_has_no_droplets(norm):
    p = TeacherStudent.paper(noise_variance=0.25)
    m = ts.mixed_phase(p, norm=norm)
    assert m.droplets == 0
    centre = ref.Limit(ref.problem(), norm=norm).centre(0.25)
    assert m.residual[1] == pytest.approx(centre[1], abs=1e-8)
    assert m.residual[3] == pytest.approx(-0.3, abs=1e-12)


def barrier(S):
    """Height of the first maximum of a tabulated action."""
    i = next(i for i in range(1, len(S) - 1) if S[i] > S[i - 1] and S[i] >= S[i + 1])
    return S[i]


@pytest.mark.parametrize(("norm", "expected"), [("fixed", 1.56), ("exact", 2.00)])
def test_barrier_at_the_transition(norm, expected):
    p = TeacherStudent.paper()
    c = ts.critical_point(p, norm=norm)
    S = ts.action(p.replace(noise_variance=c.noise_variance), dict(c.residual), np.linspace(0, 1, 2001), norm=norm)
    # the published value is d times the intensive action; integrating the transverse norm out at finite d shifts it by O(1)
    T = ref.negative_log_marginal(
        p_of(p.replace(noise_variance=c.noise_variance)), dict(c.residual), np.linspace(0, 1, 51), norm=norm
    )
    np.testing.assert_allclose(S[::40], T - T[0], atol=1e-6)
    assert barrier(S) == pytest.approx(expected, abs=0.006 if norm == "fixed" else 0.2)
    assert ref.Limit(ref.problem(), norm=norm).barrier(dict(c.residual), c.noise_variance, abs(c.overlap))[
        0
    ] * 150 == pytest.approx(expected, abs=6e-3)


@pytest.mark.parametrize(
    ("width", "norm", "expected", "tolerance"),
    [
        (2800, "fixed", 10.0, 0.05),
        (2800, "exact", 7.5, 0.3),
        (1400, "fixed", 1.71, 0.006),
        (1400, "exact", 1.53, 0.08),
        (700, "fixed", 0.37, 0.006),
        (700, "exact", 0.34, 0.03),
    ],
)
def test_appendix_d_barrier_out_of_the_untrained_state(width, norm, expected, tolerance):
    p = TeacherStudent.appendix_d(width=width)
    untrained = ref.Limit(ref.problem(600, 150, width, 0.05, 0.011, 0.5, {1: 1.0, 3: -1.2}), norm=norm).centre(0.05)
    q = np.linspace(0, 1.2, 2401)
    S = ts.action(p, untrained, q, norm=norm)
    assert barrier(S) == pytest.approx(expected, abs=tolerance)
    T = ref.negative_log_marginal(p_of(p), untrained, q[::40], norm=norm)
    np.testing.assert_allclose(S[::40], T - T[0], atol=1e-6)


@pytest.mark.parametrize(("norm", "expected"), [("fixed", 33.28), ("exact", 43.11)])
def test_appendix_d_barrier_once_droplets_stand(norm, expected):
    s = ts.solve(TeacherStudent.appendix_d(width=700), norm=norm)
    assert s.converged
    assert s.barrier == pytest.approx(expected, abs=0.05)


# ------------------------------------------------------------ against the reference


def p_of(p):
    """The same problem as a plain namespace for the reference."""
    return ref.problem(p.samples, p.dimension, p.width, p.noise_variance, p.readout_variance, p.weight_variance, dict(p.teacher))


BASE = TeacherStudent.paper()
CASES = {
    "weak-eps": (BASE.replace(teacher={1: 1.0, 3: -0.25}), None),
    "wrong-sign": (BASE.replace(teacher={1: 1.0, 3: 0.3}, noise_variance=0.1), None),
    "strong-eps": (BASE.replace(teacher={1: 1.0, 3: -0.8}, noise_variance=0.25), None),
    "negative-H1": (BASE.replace(teacher={1: -0.7, 3: 0.25}, noise_variance=0.12), None),
    "narrow-prior": (BASE.replace(weight_variance=0.3), None),
    "wide-prior": (BASE.replace(weight_variance=1.3), None),
    "small": (TeacherStudent(200, 20, 50, 0.1, 0.02, 0.8, {1: 1.0, 3: -0.4}), None),
    "few-dimensions": (TeacherStudent(100, 4, 30, 0.2, 0.05, 0.8, {1: 1.0, 3: -0.3}), None),
    "beta-0.3": (TeacherStudent.paper(beta=0.3, noise_variance=0.12), None),
    "beta-5": (TeacherStudent.paper(beta=5, noise_variance=0.17), None),
    "appendix-d-2800": (TeacherStudent.appendix_d(width=2800), None),
    "appendix-d-700": (TeacherStudent.appendix_d(width=700), None),
    "three-degrees": (BASE.replace(teacher={1: 1.0, 3: -0.3, 5: 0.05}), None),
    "even-part": (BASE.replace(teacher={1: 1.0, 2: 0.3}), None),
    "extra-degree": (BASE, (1, 3, 5)),
    "tanh": (BASE.replace(activation="tanh", noise_variance=0.14), None),
    "sin": (BASE.replace(activation="sin", noise_variance=0.2), None),
    "relu": (BASE.replace(activation="relu", teacher={1: 1.0, 2: 0.3}, noise_variance=0.6), None),
    "relu-offset": (BASE.replace(activation="relu", teacher={1: 1.0, 2: 0.3}, noise_variance=0.6), (0, 1, 2)),
    "relu-odd": (BASE.replace(activation="relu"), None),
    "gelu": (BASE.replace(activation="gelu", teacher={1: 1.0, 2: 0.2}, noise_variance=0.6), None),
    "linear": (BASE.replace(activation="linear", teacher={1: 1.0}), None),
    "own": (BASE.replace(activation=hermite.Activation("tests-arctan", np.arctan), noise_variance=0.12), None),
}


def reach(p, norm):
    """How far the reference's grid goes: farther for activations that grow, whose law has heavy tails."""
    grows = p.phi.name in ("relu", "gelu", "linear")
    return (2.5 if grows else None) if norm == "exact" else (300.0 if grows else None)


FINE = {"appendix-d-700": 0.5, "appendix-d-2800": 0.7}


def phi_of(p):
    return PHI.get(p.phi.name, p.phi.function)


# covers: eq-P7-check, eq-P9-check, eq-P10-check, eq-A12-check
@pytest.mark.parametrize("norm", ["fixed", "exact"])
@pytest.mark.parametrize("name", CASES)
def test_residual_against_the_reference(name, norm):
    p, degrees = CASES[name]
    s = ts.solve(p, norm=norm, degrees=degrees)
    expected = ref.solve(p_of(p), phi_of(p), norm, degrees, resolution=FINE.get(name, 1.0), reach=reach(p, norm))
    assert s.converged
    assert set(s.residual) == set(expected)
    for k, value in expected.items():
        assert s.residual[k] == pytest.approx(value, abs=1e-6), (k, name)


@pytest.mark.parametrize("norm", ["fixed", "exact"])
@pytest.mark.parametrize("name", ["strong-eps", "wide-prior", "tanh", "relu", "three-degrees", "small"])
def test_law_of_a_neuron_against_the_reference(name, norm):
    p, degrees = CASES[name]
    s = ts.solve(p, norm=norm, degrees=degrees)
    q = np.linspace(-1.5, 1.5, 31)
    expected = ref.negative_log_marginal(p_of(p), residual_of(s), q, phi_of(p), norm)
    np.testing.assert_allclose(s.action(q), expected - expected[15], atol=1e-6, rtol=1e-7)
    np.testing.assert_allclose(ts.action(p, residual_of(s), q, norm=norm), expected - expected[15], atol=1e-6, rtol=1e-7)
    neuron = ref.Neuron(p_of(p), phi_of(p), norm, degrees, reach=reach(p, norm))
    r = np.array([s.residual[k] for k in neuron.degrees])
    assert s.second_moment == pytest.approx(neuron.mean(neuron.q**2, r), rel=1e-6)
    assert ts.dual(p, residual_of(s), norm=norm) == pytest.approx(neuron.dual(r), rel=1e-7)
    for x in (0.0, 0.3, -0.9):
        expected_s = ref.mean_transverse_norm(p_of(p), residual_of(s), x, phi_of(p)) if norm == "exact" else p.weight_variance
        assert float(s.transverse_norm(x)) == pytest.approx(expected_s, rel=1e-6)


@pytest.mark.parametrize("norm", ["fixed", "exact"])
@pytest.mark.parametrize("residual", [{1: 0.0, 3: 0.0}, {1: 0.5, 3: 0.2}, {1: -0.3, 3: 0.25}, {1: 1.0, 3: -0.3}])
def test_one_step_of_the_map_against_the_reference(residual, norm):
    # covers: eq-A12-check
    p = BASE.replace(noise_variance=0.4)
    neuron = ref.Neuron(p_of(p), norm=norm)
    K = neuron.kernel(np.array([residual[1], residual[3]]))
    expected = np.linalg.solve(np.eye(2) + p.samples / p.noise_variance * K / np.array([[1.0], [6.0]]), [1.0, -0.3])
    new = ts.self_consistency(p, residual, norm=norm)
    assert [new[1], new[3]] == pytest.approx(list(expected), abs=1e-7)


def test_gaussian_process_is_the_prior_kernel():
    # covers: eq-A12-check
    for p in (BASE, BASE.replace(activation="tanh"), TeacherStudent(200, 20, 50, 0.1, 0.02, 0.8, {1: 1.0, 3: -0.4})):
        neuron = ref.Neuron(p_of(p), phi_of(p), "exact")
        K = neuron.kernel(np.zeros(2))
        y = np.array([p.teacher[1], p.teacher[3]])
        expected = np.linalg.solve(np.eye(2) + p.samples / p.noise_variance * K / np.array([[1.0], [6.0]]), y)
        g = ts.gaussian_process(p)
        assert [g[1], g[3]] == pytest.approx(list(expected), abs=1e-7)


BRACKETS = {
    "tanh": ("tanh", np.tanh, {1: 1.0, 3: -0.3}, (0.15, 0.18), (0.175, 0.21)),
    "sin": ("sin", np.sin, {1: 1.0, 3: -0.3}, (0.2, 0.24), (0.24, 0.29)),
    "three": ("erf", special.erf, {1: 1.0, 3: -0.3, 5: 0.05}, (0.19, 0.23), (0.235, 0.28)),
    "strong": ("erf", special.erf, {1: 1.0, 3: -1.2}, (0.48, 0.58), (0.56, 0.66)),
    "negative": ("erf", special.erf, {1: -1.0, 3: 1.2}, (0.48, 0.58), (0.56, 0.66)),
    "cubic alone": ("erf", special.erf, {3: -0.3}, (0.06, 0.078), (0.065, 0.09)),
}


@pytest.mark.parametrize("norm", ["fixed", "exact"])
@pytest.mark.parametrize("name", BRACKETS)
def test_other_critical_points_against_the_reference(name, norm):
    activation, phi, teacher, *bracket = BRACKETS[name]
    p = BASE.replace(activation=activation, teacher=teacher)
    limit = ref.Limit(p_of(p), phi, norm)
    expected = limit.critical(*bracket[norm == "exact"])
    c = ts.critical_point(p, norm=norm)
    assert c is not None
    assert c.noise_variance == pytest.approx(expected.noise_variance, rel=1e-5)
    assert c.interaction == pytest.approx(expected.interaction, rel=2e-5)
    assert abs(c.overlap) == pytest.approx(expected.overlap, abs=1e-4)
    assert c.transverse_norm == pytest.approx(expected.transverse_norm, abs=1e-4)
    for k in teacher:
        assert c.residual[k] == pytest.approx(expected.residual[k], abs=1e-5)


@pytest.mark.parametrize("norm", ["fixed", "exact"])
@pytest.mark.parametrize(
    ("activation", "teacher"), [("erf", {1: 1.0}), ("erf", {2: 1.0}), ("linear", {1: 1.0}), ("relu", {1: 1.0})]
)
def test_no_transition_is_none(activation, teacher, norm):
    assert ts.critical_point(BASE.replace(activation=activation, teacher=teacher), norm=norm) is None


@pytest.mark.parametrize("norm", ["fixed", "exact"])
def test_a_runaway_is_not_reported_as_a_well_at_the_edge_of_a_grid(norm):
    # ReLU with H1 and H2: the scaled action has no side well at any noise;
    # once (b/2 + c/sqrt(2 pi))^2 u > 1/w2 it falls without end
    p = BASE.replace(activation="relu", teacher={1: 1.0, 2: 0.3})
    limit = ref.Limit(p_of(p), ref.relu, norm)
    for noise in (1.0, 0.5, 0.45, 0.3):
        assert limit.well(limit.centre(noise), noise, reach=5.0) is None
    c = ts.critical_point(p, norm=norm)
    assert c is None or math.isinf(c.overlap), c


@pytest.mark.parametrize("norm", ["fixed", "exact"])
def test_other_mixed_phases_against_the_reference(norm):
    p = BASE.replace(noise_variance=0.12, teacher={1: 1.0, 3: -0.5})
    limit = ref.Limit(p_of(p), norm=norm)
    guess = ts.mixed_phase(p, norm=norm)
    expected = limit.mixed(0.12, [guess.residual[1], guess.residual[3], guess.droplets])
    assert guess.droplets == pytest.approx(expected.droplets, rel=1e-5)
    assert guess.residual[1] == pytest.approx(expected.residual[1], abs=1e-6)
    assert guess.residual[3] == pytest.approx(expected.residual[3], abs=1e-6)
    assert abs(guess.overlap) == pytest.approx(expected.overlap, abs=1e-5)


def test_a_runaway_is_reported():
    # beyond that noise less than one neuron would carry H2 from an astronomical distance: no mean field, and the result says so
    p = BASE.replace(activation="relu", teacher={1: 1.0, 2: 0.3})
    with pytest.warns(RuntimeWarning, match="normalis"):
        s = ts.solve(p, norm="fixed")
    assert not s.converged
    assert s.error > 1e-3


def test_linear_network_in_closed_form():
    p = BASE.replace(activation="linear", teacher={1: 1.0})
    for norm in ("fixed", "exact"):
        b = ts.solve(p, norm=norm).residual[1]
        v = 1 / (p.dimension / p.weight_variance - p.interaction * p.dimension * b * b)
        assert b * (1 + p.kappa * v) == pytest.approx(1.0, rel=1e-8)


def test_action_with_the_fixed_norm_is_the_printed_formula():
    # covers: eq-P13-check, eq-A8-check
    b, c, q = 0.4, -0.2, np.linspace(-1.2, 1.2, 13)
    r = 1 + 2 * (q**2 + 0.5)
    expected = BASE.dimension * (q**2 / (2 * 0.5) - 2 * BASE.interaction / math.pi * q**2 / r * (b - 2 * c * q**2 / r) ** 2)
    np.testing.assert_allclose(ts.action(BASE, {1: b, 3: c}, q, norm="fixed"), expected, rtol=1e-12, atol=1e-12)


def test_kernel_gives_the_residual():
    # covers: eq-A10-check, eq-A12-check
    for norm in ("fixed", "exact"):
        s = ts.solve(BASE, norm=norm)
        ratio = BASE.noise_variance / BASE.samples
        b, c = ratio * np.linalg.solve(np.asarray(s.kernel) + ratio * np.eye(2), [1.0, -0.3 * math.sqrt(6)])
        assert [b, c / math.sqrt(6)] == pytest.approx([s.residual[1], s.residual[3]], abs=1e-9)


def test_exact_density_integrates_the_transverse_norm():
    # covers: eq-P7-check, eq-A7-check
    # the two-dimensional law by dblquad-like nesting at one point: ratio of densities at two overlaps
    s = ts.solve(BASE, norm="exact")
    d, w2 = BASE.dimension, BASE.weight_variance
    strength = BASE.interaction * d / 2

    def weight(x, q):
        t = math.exp(x)
        R = q * q + t
        f = (
            s.residual[1] * 2 * q / math.sqrt(math.pi * (1 + 2 * R))
            - s.residual[3] * 4 * q**3 / math.sqrt(math.pi) / (1 + 2 * R) ** 1.5
        )
        return math.exp((d - 1) / 2 * (x - math.log(w2)) - d * (t + q * q - w2) / (2 * w2) + strength * f * f)

    at = [
        integrate.quad(
            weight,
            math.log(w2) - 2.5,
            math.log(w2) + 1,
            args=(q,),
            points=[math.log(w2), math.log(w2 / 2)],
            epsabs=0,
            epsrel=1e-10,
            limit=200,
        )[0]
        for q in (0.0, 0.4, 0.8)
    ]
    density = s.density(np.array([0.0, 0.4, 0.8]))
    assert density[1:] / density[0] == pytest.approx([at[1] / at[0], at[2] / at[0]], rel=1e-7)


# covers: eq-P9-check, eq-A12-check
@settings(deadline=None, max_examples=25)
@given(
    dimension=st.floats(5, 400),
    width=st.floats(20, 3000),
    u=st.floats(2, 100),
    load=st.floats(0.3, 3),
    weight_variance=st.floats(0.2, 1.5),
    epsilon=st.floats(-1, 0.5),
    activation=st.sampled_from(["erf", "tanh", "sin"]),
)
def test_any_problem_against_the_reference(dimension, width, u, load, weight_variance, epsilon, activation):
    # kappa = load d and u fix the readout variance and the number of samples at noise 0.1
    kappa = load * dimension
    readout = kappa**2 / (u * dimension * width)
    p = TeacherStudent(
        0.1 * kappa / readout, dimension, width, 0.1, readout, weight_variance, {1: 1.0, 3: epsilon or -0.1}, activation
    )
    assert p.interaction == pytest.approx(u, rel=1e-9)
    s = ts.solve(p, norm="fixed")
    expected = ref.solve(p_of(p), PHI[activation], "fixed", resolution=0.7)
    assert s.converged
    assert [s.residual[1], s.residual[3]] == pytest.approx([expected[1], expected[3]], abs=1e-8)
