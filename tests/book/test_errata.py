"""Every number on the errata page, worked out again from the formulas printed there; the package must agree where it can."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import brentq, fsolve, minimize_scalar

from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student

PAGE = (Path(__file__).resolve().parents[2] / "book" / "errata.md").read_text(encoding="utf-8")

n, d, N, sa2, sw2, eps = 3000, 150, 700, 8 / 700, 0.5, -0.3  # the paper's Fig. 2
r0 = 1 + 2 * sw2


def groups(noise, width=N):
    """u and kappa / d."""
    return n**2 * sa2 / (noise**2 * d * width), n * sa2 / (noise * d)


def centre(u, b):
    """A of the page: d A q^2 / 2 is the action near q = 0."""
    return 1 / sw2 - 4 * u * b**2 / (np.pi * r0)


def centre_residual(noise, width=N, first_element=4):
    """b before the transition; first_element = 2 is the printed slip."""
    u, k = groups(noise, width)
    top = min(1.0, np.sqrt(np.pi * r0 / (4 * u * sw2)) * (1 - 1e-12))
    return brentq(lambda b: b * (1 + k * first_element / (np.pi * r0 * centre(u, b))) - 1, 1e-9, top, xtol=1e-14)


def data_term(q, s, u, b, c):
    r = 1 + 2 * (q**2 + s)
    return 2 * u / np.pi * q**2 / r * (b - 2 * c * q**2 / r) ** 2


def action(q, u, b, c, norm):
    """(action per dimension, transverse norm) at one q."""
    if norm == "fixed":
        return q**2 / (2 * sw2) - data_term(q, sw2, u, b, c), sw2

    def of_s(s):
        return q**2 / (2 * sw2) + s / (2 * sw2) - np.log(s / sw2) / 2 - 0.5 - data_term(q, s, u, b, c)

    grid = np.geomspace(0.02, 0.6, 120)
    i = int(np.argmin(of_s(grid)))
    best = minimize_scalar(of_s, bounds=(grid[max(i - 1, 0)], grid[min(i + 1, 119)]), method="bounded", options={"xatol": 1e-12})
    return best.fun, best.x


def well(u, b, c, norm):
    """(action, q, s) at the lowest point with 0.4 <= q <= 1.6."""
    grid = np.linspace(0.4, 1.6, 61)
    i = int(np.argmin([action(q, u, b, c, norm)[0] for q in grid]))
    bounds = (grid[max(i - 1, 0)], grid[min(i + 1, 60)])
    best = minimize_scalar(lambda q: action(q, u, b, c, norm)[0], bounds=bounds, method="bounded", options={"xatol": 1e-10})
    return best.fun, best.x, action(best.x, u, b, c, norm)[1]


@cache
def transition(norm, first_element=4):
    def height(noise):
        return well(groups(noise)[0], centre_residual(noise, first_element=first_element), eps, norm)[0]

    noise = brentq(height, 0.16, 0.26, xtol=1e-9)
    u, b = groups(noise)[0], centre_residual(noise, first_element=first_element)
    _, q, s = well(u, b, eps, norm)
    return SimpleNamespace(noise=noise, u=u, b=b, q=q, s=s)


@cache
def transition_in_width(noise):
    def height(width):
        return well(groups(noise, width)[0], centre_residual(noise, width), eps, "fixed")[0]

    width = brentq(height, 700, 1500, xtol=1e-6)
    return SimpleNamespace(width=width, u=groups(noise, width)[0])


@cache
def spinodal(norm):
    """The noise above which the action has no descent between the centre and q = 1.2."""
    q = np.linspace(0.3, 1.2, 451)

    def descent(noise):
        u, b = groups(noise)[0], centre_residual(noise)
        slope = np.gradient([action(x, u, b, eps, norm)[0] for x in q], q)
        i = int(np.argmin(slope[1:-1])) + 1
        left, mid, right = slope[i - 1 : i + 2]  # the vertex of the parabola through the lowest three
        return mid - (right - left) ** 2 / (8 * (right - 2 * mid + left))

    start = transition(norm).noise
    noise = brentq(descent, start, start + 0.03, xtol=1e-7)
    return SimpleNamespace(noise=noise, u=groups(noise)[0])


@cache
def mixed(noise, norm):
    """(b, c, M, q): the fixed point with degenerate wells, followed down from just below the transition."""
    unknowns = np.array([transition(norm).b, eps, 0.0])
    for step in np.linspace(transition(norm).noise, noise, 12)[1:]:
        u, k = groups(step)

        def equations(x, u=u, k=k):
            b, c, M = x
            height, q, s = well(u, b, c, norm)
            r = 1 + 2 * (q**2 + s)
            v = np.array([2 * q / np.sqrt(np.pi * r), -4 * q**3 / np.sqrt(6 * np.pi * r**3)])
            matrix = np.eye(2) + M * np.outer(v, v)
            matrix[0, 0] += k * 4 / (np.pi * r0 * centre(u, b))
            return [*(matrix @ [b, np.sqrt(6) * c] - [1, np.sqrt(6) * eps]), height]

        unknowns, _, status, message = fsolve(equations, unknowns, full_output=True)
        assert status == 1, message
    return SimpleNamespace(b=unknowns[0], c=unknowns[1], droplets=unknowns[2], q=well(u, *unknowns[:2], norm)[1])


class Modular:
    """Modular addition at the parameters of the paper's Fig. 3."""

    P, N, sa2, gamma = 401, 1000, 2e-6, 1e-4
    onset = np.sqrt(2 * sa2 * P**2 / (N * 2 * np.sqrt(gamma / 3)))
    printed_end = onset - 3 * sa2 / gamma
    largest_share = onset * gamma / (12 * P**2 * sa2)


NUMBERS = [  # (the words on the page, the value, its digits there)
    ("$u=30.23$ at $\\sigma^2=0.18$", lambda: groups(0.18)[0], "30.23"),
    ("which is $30.23$", lambda: groups(0.18)[0], "30.23"),
    ("would lie at $\\sigma^2=0.2062$", lambda: transition("fixed", 2).noise, "0.2062"),
    ("gives\n$\\sigma^2=0.1787$", lambda: transition("fixed").noise, "0.1787"),
    ("$u_c=30.669$ at $\\sigma^2=0.17872$", lambda: transition("fixed").u, "30.669"),
    ("$u_c=30.669$ at $\\sigma^2=0.17872$", lambda: transition("fixed").noise, "0.17872"),
    ("$u_c=20.784$ at $\\sigma^2=0.21710$", lambda: transition("exact").u, "20.784"),
    ("$u_c=20.784$ at $\\sigma^2=0.21710$", lambda: transition("exact").noise, "0.21710"),
    ("$|q|=0.721$ with the fixed norm", lambda: transition("fixed").q, "0.721"),
    ("$|q|=0.729$ with the norm integrated over", lambda: transition("exact").q, "0.729"),
    ("$|q_*|=0.979$ at $\\sigma^2=0.1$", lambda: mixed(0.1, "fixed").q, "0.979"),
    ("at $N=930.3$", lambda: transition_in_width(0.15).width, "930.3"),
    ("$u_c=32.76$", lambda: transition_in_width(0.15).u, "32.76"),
    ("and not at $30.669$", lambda: transition("fixed").u, "30.669"),
    ("At the transition $s=0.3004$", lambda: transition("exact").s, "0.3004"),
    ("from $\\sigma^2=0.1787$ to $\\sigma^2=0.2171$", lambda: transition("fixed").noise, "0.1787"),
    ("from $\\sigma^2=0.1787$ to $\\sigma^2=0.2171$", lambda: transition("exact").noise, "0.2171"),
    ("$\\sigma^2=0.1907$ ($u=26.95$)", lambda: spinodal("fixed").noise, "0.1907"),
    ("$\\sigma^2=0.1907$ ($u=26.95$)", lambda: spinodal("fixed").u, "26.95"),
    ("$\\sigma^2=0.2334$ ($u=17.98$)", lambda: spinodal("exact").noise, "0.2334"),
    ("$\\sigma^2=0.2334$ ($u=17.98$)", lambda: spinodal("exact").u, "17.98"),
    ("$M=3.42$ with the fixed norm", lambda: mixed(0.15, "fixed").droplets, "3.42"),
    ("$4.33$ with the norm integrated over", lambda: mixed(0.15, "exact").droplets, "4.33"),
    ("10 to 13 droplets", lambda: mixed(0.15, "fixed").droplets / (d * groups(0.15)[1]) * N, "10"),
    ("10 to 13 droplets", lambda: mixed(0.15, "exact").droplets / (d * groups(0.15)[1]) * N, "13"),
    ("\\sqrt8\\approx2.8$", lambda: np.sqrt(40 / 5), "2.8"),
    ("$\\sigma_c^2=0.2360$", lambda: Modular.onset, "0.2360"),
    ("=0.1760$ with $|a|=0.746$", lambda: Modular.printed_end, "0.1760"),
    ("=0.1760$ with $|a|=0.746$", lambda: Modular.printed_end / Modular.onset, "0.746"),
    ("$6.1\\cdot10^{-6}$", lambda: Modular.largest_share * 1e6, "6.1"),
    ("$4\\sigma_a^2=8\\cdot10^{-6}$", lambda: 4 * Modular.sa2 * 1e6, "8"),
]


@pytest.mark.parametrize(("words", "value", "digits"), NUMBERS, ids=[f"{digits}-{i}" for i, (_, _, digits) in enumerate(NUMBERS)])
def test_the_page_states_the_number(words, value, digits):
    assert words in PAGE
    assert digits in words
    decimals = len(digits.partition(".")[2])
    assert f"{value():.{decimals}f}" == digits


@pytest.mark.parametrize("norm", ["fixed", "exact"])
def test_wells_pass_one_near_the_stated_noise(norm):
    """Erratum 5: |q| = 1 near noise 0.096."""
    assert mixed(0.0965, norm).q < 1 < mixed(0.0950, norm).q
    assert "near $\\sigma^2=0.096$" in PAGE


@pytest.mark.parametrize("norm", ["fixed", "exact"])
def test_the_package_finds_the_same_transition(norm):
    """Errata 4, 5 and 7 by the package."""
    # covers: erratum-4, erratum-5, eq-A12-check
    found, expected = teacher_student.critical_point(TeacherStudent.paper(), norm=norm), transition(norm)
    assert found.noise_variance == pytest.approx(expected.noise, rel=1e-5)
    assert found.interaction == pytest.approx(expected.u, rel=1e-5)
    assert found.overlap == pytest.approx(expected.q, abs=1e-4)
    assert found.transverse_norm == pytest.approx(expected.s, abs=1e-4)
    assert found.spinodal == pytest.approx(spinodal(norm).noise, rel=1e-4)


def test_the_transverse_norm_is_below_its_prior_value():
    """Erratum 7: for b > 0 > c the best s falls short of the prior's."""
    # covers: erratum-7
    u, b = groups(0.2)[0], centre_residual(0.2)
    assert all(action(q, u, b, eps, "exact")[1] < sw2 - 1e-4 for q in np.linspace(0.2, 1.5, 14))


@pytest.mark.parametrize("noise", [0.16, 0.12, 0.1])
@pytest.mark.parametrize("norm", ["fixed", "exact"])
def test_the_share_of_droplets_obeys_its_bound(noise, norm):
    """Erratum 16: M <= (1 + 6 eps^2) u sigma_w^2 / q^2."""
    # covers: erratum-16
    state = mixed(noise, norm)
    assert 0 < state.droplets <= (1 + 6 * eps**2) * groups(noise)[0] * sw2 / state.q**2


def test_langevin_noise_amplitude():
    """Erratum 13: on a quadratic with weight decay the exact stationary variance of g xi is g^2 / (2 gamma)."""
    # covers: erratum-13, eq-P6-check
    sigma2, gamma, step = 0.3, 2.0, 1e-4

    def stationary_variance(g):
        return g**2 * step / (1 - (1 - gamma * step) ** 2)  # of theta <- theta - step gamma theta + g sqrt(step) xi

    assert stationary_variance(np.sqrt(2 * sigma2)) == pytest.approx(sigma2 / gamma, rel=2e-4)
    assert stationary_variance(2 * np.sqrt(sigma2)) == pytest.approx(2 * sigma2 / gamma, rel=2e-4)


def test_modular_eigenvalue():
    """Erratum 9: the kernel of one neuron has the quadratic form 4 P^2 Phi Psi on the target's modes; the wide kernel has 4."""
    # covers: erratum-9
    P, rng = 7, np.random.default_rng(0)
    w, v = rng.standard_normal((2, P))
    phi = (w[:, None] + v[None, :]) ** 2
    n_, m_ = np.meshgrid(np.arange(P), np.arange(P), indexing="ij")
    K = (n_.ravel()[:, None] == n_.ravel()).astype(float) + (m_.ravel()[:, None] == m_.ravel())
    wide = np.outer(np.diag(K), np.diag(K)) + 2 * K**2
    for k in range(1, P):
        e = np.exp(2j * np.pi * k * (n_ + m_) / P) / P
        Phi, Psi = (abs(np.fft.fft(x)[k] / P) ** 2 for x in (w, v))
        assert abs(np.vdot(e, phi)) ** 2 == pytest.approx(4 * P**2 * Phi * Psi)
        assert wide @ e.ravel() == pytest.approx(4 * e.ravel())


def test_modular_saddles():
    """Errata 8 and 12: the printed roots solve the corrected saddle equation; at U_c the well touches the centre."""
    # covers: erratum-8, erratum-12
    gamma = Modular.gamma
    U = 2 * np.sqrt(gamma / 3)
    x = (U + np.sqrt(U**2 - gamma)) / gamma
    assert x == pytest.approx(np.sqrt(3 / gamma))
    assert 1 - 2 * U * x + gamma * x**2 == pytest.approx(0, abs=1e-12)
    assert x - U * x**2 + gamma * x**3 / 3 == pytest.approx(0, abs=1e-10)


def test_modular_ring_weight():
    """Errata 10 and 11: the two-mode integral of exp(-2 S) in the flat measure, well against centre, at large P."""
    # covers: erratum-10, erratum-11
    P, gamma = 4001, 0.01
    U = 2 * np.sqrt(gamma / 3) * 1.0002
    S_well = (lambda x: P * (x - U * x**2 + gamma * x**3 / 3))((U + np.sqrt(U**2 - gamma)) / gamma)
    x = (U + np.sqrt(U**2 - gamma)) / gamma
    width = 12 / np.sqrt(2 * P * (gamma * x - U))
    Phi = np.linspace(x - width, x + width, 2001)
    A, B = np.meshgrid(Phi, Phi)
    S = P * ((A + B) / 2 - U * A * B + gamma / 6 * (A**3 + B**3))
    well_weight = np.exp(-2 * (S - S_well)).sum() * (Phi[1] - Phi[0]) ** 2
    assert well_weight * P**2 == pytest.approx(np.pi * P / np.sqrt(gamma**2 * x**2 - U**2), rel=2e-3)
