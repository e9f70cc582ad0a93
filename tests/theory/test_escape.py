"""Barriers and rates of escape of one neuron: against independent integrals, limits and simulations; wrong variants must fail."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.stats import norm

from grokutils import observables
from grokutils.experiments.escape import Population, escapes, reduced
from grokutils.problems import TeacherStudent
from grokutils.sampling._drivers import DRIVERS
from grokutils.sampling.posterior import TeacherStudentPosterior, draw_data
from grokutils.theory import escape
from grokutils.theory import teacher_student as ts

ALPHA = 1e-6  # false-alarm rate of a statistical comparison; seeds are fixed


@pytest.fixture(scope="module")
def neuron():
    return escape.untrained(reduced(575))


@pytest.fixture(scope="module")
def high():
    return escape.untrained(TeacherStudent.appendix_d(2800))


@pytest.mark.parametrize("dressing", [None, (0.1, 0.2)])
@pytest.mark.parametrize("activation", ["erf", "tanh"])
def test_force_is_minus_the_gradient_of_the_potential(activation, dressing):
    x = escape.Neuron(reduced(575).replace(activation=activation), {1: 0.5, 3: -1.1}, dressing=dressing)
    rng, h = np.random.default_rng(0), 1e-5
    q, rho = rng.uniform(-1, 1, 20), rng.uniform(0.4, 0.9, 20)
    by_q = (x.potential(q + h, rho) - x.potential(q - h, rho)) / (2 * h)
    by_rho = (x.potential(q, rho + h) - x.potential(q, rho - h)) / (2 * h)
    np.testing.assert_allclose(x.force(q, rho), (-by_q, -by_rho), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dressing", [None, (0.1, 0.2)])
def test_the_potential_is_the_energy_with_the_readout_integrated_out(dressing):
    x = escape.Neuron(reduced(575), {1: 0.5, 3: -1.1}, dressing=dressing)
    a = np.linspace(-0.6, 0.6, 20001)
    values = []
    for q, rho in ((0.0, 0.7), (0.4, 0.6), (0.9, 0.4)):
        points = np.stack([np.full(a.shape, q), np.full(a.shape, rho), a], axis=-1)
        values.append(-math.log(trapezoid(np.exp(-x.energy(points) + 200), a)) + 200 - float(x.potential(q, rho)))
    assert np.ptp(values) < 1e-6


def test_the_potential_is_the_action_of_the_theory(neuron):
    """Integrating rho out gives the marginal -ln p(q) that the equilibrium theory computes on its own grid."""
    q, rho = np.array([0.0, 0.3, 0.6, 1.0]), np.linspace(0.05, 1.6, 4001)
    marginal = -np.log(trapezoid(np.exp(-neuron.potential(q[:, None], rho) + 100), rho, axis=1))
    np.testing.assert_allclose(marginal - marginal[0], ts.action(neuron.problem, dict(neuron.residual), q), atol=1e-6)


def test_stationary_points(high):
    for place in (high.centre, high.saddle, high.well):
        assert np.abs(high.force(*(np.array([z]) for z in place))).max() < 1e-3 * high.problem.dimension
    q, rho = high.saddle
    rim = high.potential(q + 0.03 * np.array([1, -1]), high.valley(q + 0.03 * np.array([1, -1])))
    assert (rim < high.potential(q, rho)).all()
    assert (high.potential(q, rho * np.array([0.95, 1.05])) > high.potential(q, rho)).all()
    assert high.saddle[0] < high.edge() < high.well[0]


def test_the_untrained_state_solves_the_confined_equations(neuron):
    """The fixed point once more by a double sum that shares nothing with the solver's grid."""
    p = neuron.problem
    q, rho = np.linspace(-neuron.saddle[0], neuron.saddle[0], 801), np.linspace(0.25, 1.2, 801)
    weight = np.exp(-neuron.potential(q[:, None], rho) + float(neuron.potential(*neuron.centre)))
    weight[[0, -1]] /= 2
    size = 1 + 2 * (q[:, None] ** 2 + rho**2)
    v = np.stack([2 * q[:, None] / np.sqrt(math.pi * size), -4 * q[:, None] ** 3 / np.sqrt(6 * math.pi * size**3)])
    kernel = p.readout_variance * np.einsum("iqr,jqr,qr->ij", v, v, weight) / weight.sum()
    r = np.linalg.solve(np.eye(2) + p.samples / p.noise_variance * kernel, [1, -1.2 * math.sqrt(6)])
    assert neuron.residual[1] == pytest.approx(r[0], abs=1e-4)
    assert neuron.residual[3] == pytest.approx(r[1] / math.sqrt(6), abs=1e-4)
    assert abs(ts.self_consistency(p, dict(neuron.residual))[1] - r[0]) > 0.01  # without the wall the equations are others


def test_the_untrained_state_has_the_limit():
    near = escape.untrained(TeacherStudent.appendix_d(2800).scaled(beta=400.0))
    p = near.problem
    # kappa/d and u do not change: b solves b (1 + kappa/d slope^2 / stiffness(b)) = 1
    slope2, b = 4 / math.pi / 2, 1.0
    for _ in range(500):
        b = 0.5 * b + 0.5 / (1 + p.kappa / p.dimension * slope2 / (1 / p.weight_variance - p.interaction * b**2 * slope2))
    assert near.converged
    assert near.residual[1] == pytest.approx(b, abs=2e-3)


def test_where_there_is_no_untrained_state_it_says_so():
    assert not escape.untrained(TeacherStudent.appendix_d(350)).converged
    assert escape.untrained(TeacherStudent.appendix_d(700)).converged


def test_passage_in_one_dimension_is_the_double_integral():
    """At the fixed norm T(0) = int_0^e dy exp(U(y)) int_0^y exp(-U), and the start in the prior averages T."""
    x = escape.untrained(TeacherStudent.appendix_d(1900), "fixed")
    q = np.linspace(0, x.edge(), 40001)
    u = x.potential(q)
    inner = cumulative_trapezoid(np.exp(-u), q, initial=0)
    outer = cumulative_trapezoid(np.exp(u) * inner, q, initial=0)
    prior = np.exp(-x.problem.dimension * q**2 / (2 * x.problem.weight_variance))
    expected = trapezoid((outer[-1] - outer) * prior, q) / trapezoid(prior, q)
    assert escape.passage(x, points=800).mean_time == pytest.approx(expected, rel=2e-4)


def test_passage_converges_with_the_grid(neuron):
    coarse, fine = (escape.passage(neuron, points=n) for n in (80, 240))
    assert coarse.rate == pytest.approx(fine.rate, rel=1e-3)
    assert coarse.mean_time == pytest.approx(fine.mean_time, rel=1e-3)


def test_kramers_is_the_limit_of_the_exact_rate(high):
    """At a barrier of nine within ten per cent, and nearer than at two; one saddle instead of two would miss by a factor of two."""
    low = escape.untrained(reduced(475))
    near, far = (escape.passage(x).rate / escape.kramers(x) for x in (high, low))
    assert 0.9 < near < 1.0
    assert abs(near - 1) < abs(far - 1)


def test_a_count_at_the_saddle_is_twice_too_large(high):
    ratio = escape.passage(high, high.saddle[0]).rate / escape.passage(high, high.edge(4.0)).rate
    assert ratio == pytest.approx(2, rel=0.15)


def test_the_readout_is_fast_where_its_stiffness_says_so(neuron):
    gap = escape.kramers(neuron) / escape.kramers(neuron, readout=False) - 1
    ratio = neuron.problem.dimension / neuron.problem.weight_variance / (neuron.problem.width / neuron.problem.readout_variance)
    assert 0 < -gap < 3 * ratio  # a slower readout can only delay


def test_clocks_differ_by_the_growth_rate_alone(neuron):
    whitened = escape.kramers(neuron, "whitened")
    slow = escape.kramers(neuron, "underdamped", friction=200.0)
    assert slow * 200 == pytest.approx(whitened, rel=1e-3)
    assert escape.kramers(neuron, "underdamped", friction=0.1) > escape.kramers(neuron, "underdamped", friction=1.0)


def test_one_step_of_the_sampler_is_the_time_step():
    """The sampler's step in whitened coordinates times the squared scales is eta sigma^2 / n, for weights and readouts."""
    p = reduced(40).replace(dimension=10, samples=50)
    post = TeacherStudentPosterior(p, *draw_data(p, 1, 0))
    driver = DRIVERS["langevin"](post, post.prior_draw([0]), [0], 0.01, 0.5, 1.0)
    u, v = post.unpack(driver._h)
    np.testing.assert_allclose((u * post.scale_w**2).numpy(), escape.time_step(p, 0.01), rtol=1e-5)
    np.testing.assert_allclose((v * post.scale_a**2).numpy(), escape.time_step(p, 0.01), rtol=1e-5)


@pytest.mark.statistical
def test_simulated_neurons_cross_at_the_exact_rate(neuron):
    expected = 1 / escape.passage(neuron).mean_time
    rate, error = escape.simulate(neuron, 4000, 0.25, 1e-4, seed=1).rate(0.04)
    slack = 0.03 * expected  # of a finite step
    assert abs(rate - expected) < norm.isf(ALPHA / 2) * error + slack
    wrong = escape.passage(dataclasses.replace(neuron, residual={1: 0.6, 3: -1.2})).mean_time
    assert abs(rate - 1 / wrong) > norm.isf(ALPHA / 2) * error + slack  # a wrong b is seen


@pytest.mark.statistical
@pytest.mark.parametrize(("dynamics", "step"), [("whitened", 0.03), ("underdamped", 0.3)])
def test_simulated_neurons_cross_at_the_rate_of_each_clock(neuron, dynamics, step):
    """Kramers' formula times the exact correction of the Langevin clock, which is much the same for all: false alarm 1e-6 beyond 10 %."""
    expected = escape.kramers(neuron, dynamics) * escape.passage(neuron).rate / escape.kramers(neuron)
    rate, error = escape.simulate(neuron, 8000, 30.0, step, dynamics, seed=2).rate(6.0)
    assert abs(rate - expected) < norm.isf(ALPHA / 2) * error + 0.1 * expected


@pytest.mark.statistical
def test_coupled_neurons_have_the_residual_of_the_untrained_state():
    """At a high barrier the mean-field network in time sits in the state that the confined equations compute."""
    x = escape.untrained(reduced(800))
    record = escape.simulate(x, 800, 26.0, 0.3, "underdamped", networks=8, seed=3, intervals=26)
    b = record.residual[:, record.time > 6, 0].mean(1)
    assert abs(b.mean() - x.residual[1]) < norm.isf(ALPHA / 2) * b.std(ddof=1) / math.sqrt(8) + 0.01


def test_population_gradient_and_energy():
    p = TeacherStudent(600, 12, 30, 0.05, 0.3, 0.5, {1: 1.0, 3: -1.2})
    post = Population(p, 2, "float64")
    theta, h = post.prior_draw([1, 2]), 1e-6
    direction = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=theta.dtype)
    energy, gradient = post.energy_gradient(theta)
    slope = (post.energy_gradient(theta + h * direction)[0] - post.energy_gradient(theta - h * direction)[0]) / (2 * h)
    np.testing.assert_allclose((gradient * direction).sum(1), slope, rtol=1e-6)
    loss = observables.population_loss(p, *(t.numpy() for t in post.weights(theta)))
    np.testing.assert_allclose(energy, p.samples / (2 * p.noise_variance) * loss + 0.5 * theta.square().sum(1).numpy(), rtol=1e-10)


def test_streams_of_networks_are_reproducible_and_replace_neurons():
    p = reduced(60).replace(dimension=12)
    settings = dict(networks=2, time=3.0, step=0.1, threshold=0.5, population=True, intervals=5)
    one, two = escapes(p, **settings), escapes(p, **settings)
    assert one.identical(two)
    kept = escapes(p, **settings, replace=False)
    assert kept.events.sum() <= p.width * 2
    assert one.events.sum() > 0
    assert one.attrs["exposure"] == pytest.approx(60 * 0.6)
    finite = escapes(p, **{**settings, "population": False, "dynamics": "langevin", "step": 1e-5, "time": 3e-4})
    assert np.isfinite(finite.residual).all()


def test_bad_arguments_are_named(neuron):
    with pytest.raises(ValueError, match="dynamics"):
        escape.kramers(neuron, "newton")
    with pytest.raises(ValueError, match="readout"):
        escape.kramers(neuron, "whitened", readout=False)
    with pytest.raises(ValueError, match="barrier"):
        escape.kramers(dataclasses.replace(neuron, residual={1: 0.0, 3: 0.0}))
    with pytest.raises(ValueError, match="threshold"):
        escape.passage(neuron, -1.0)
    with pytest.raises(ValueError, match="norm"):
        escape.simulate(escape.untrained(reduced(475), "fixed"), 10, 1.0, 0.1)
    with pytest.raises(ValueError, match="odd or even"):
        escape.Neuron(reduced(475).replace(teacher={1: 1.0, 2: 0.3}), {1: 1.0, 2: 0.3})
    with pytest.raises(ValueError, match="erf"):
        Population(reduced(40).replace(activation="tanh"), 1)
    with pytest.raises(ValueError, match="dynamics"):
        escapes(reduced(40), networks=1, time=1.0, step=0.1, threshold=0.5, dynamics="newton")
