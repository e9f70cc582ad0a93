"""The bias of a finite step: its order where the law is known, its size on networks; and what single precision adds to it.

False alarms: ALPHA = 1e-6 a comparison.
"""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from ztest import ALPHA, assert_mean

from grokutils import step_bias
from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data, hmc, sample, underdamped

pytestmark = pytest.mark.statistical
LIMIT = norm.isf(ALPHA / 2)
CHAINS = 100_000


def bent(theta):
    """E = x^2/2 + cos 2x: two wells, curvature between -3 and 5."""
    return (theta**2 / 2 + torch.cos(2 * theta)).sum(1), theta - 2 * torch.sin(2 * theta)


def bias_of_the_bend(h, friction):
    """Bias of <cos 2x> under e^{-E}, whose exact value is an integral, and its standard error."""
    weight = [quad(lambda x, k=k: math.cos(2 * x) ** k * math.exp(-(x**2) / 2 - math.cos(2 * x)), -12, 12)[0] for k in (0, 1)]
    generator = torch.Generator().manual_seed(int(1000 * h))

    def noise():
        return torch.randn(CHAINS, 1, generator=generator, dtype=torch.float64)

    state = underdamped.init(torch.zeros(CHAINS, 1, dtype=torch.float64), bent, noise)
    total, steps = torch.zeros(CHAINS, dtype=torch.float64), int(40 / h)
    for i in range(steps):
        state = underdamped.step(state, bent, noise, h, friction)
        total += torch.cos(2 * state.theta[:, 0]) * (i >= steps // 4)
    mean = total.numpy() / (steps - steps // 4)
    return mean.mean() - weight[1] / weight[0], mean.std() / math.sqrt(CHAINS)


def test_bias_is_of_second_order_and_of_higher_order_with_full_refreshment():
    (fine, fine_se), (coarse, coarse_se) = (bias_of_the_bend(h, friction=0.5) for h in (0.25, 0.5))
    assert fine > LIMIT * fine_se
    order = math.log2(coarse / fine)
    assert abs(order - 2) < LIMIT * math.hypot(fine_se / fine, coarse_se / coarse) / math.log(2) < 0.9  # neither first nor third order
    # Leimkuhler and Matthews (2013): the h^2 term vanishes as the friction grows
    refreshed, se = bias_of_the_bend(0.5, friction=1e3)
    assert coarse / 2 - refreshed > LIMIT * math.hypot(se, coarse_se / 2)


@pytest.fixture(scope="module")
def network_bias():
    problem = TeacherStudent.paper(0.2, beta=1 / 16).rounded()
    return step_bias.measure(problem, (0.2, 0.7), progress=False, datasets=16, draws=30, seed=2)


def test_bias_on_a_network_is_seen_at_a_large_step_and_not_at_a_small_one(network_bias):
    z = abs(network_bias.bias / network_bias.se)
    assert 0.3 < network_bias.reduced_step[1] < 0.6 and network_bias.reduced_step[2] > 1.6
    assert (z.isel(run=1) < LIMIT).all()
    assert z.isel(run=2).sel(observable="train_loss") > LIMIT
    assert network_bias.attrs["acceptance"] > 0.6


def test_expansion_finds_the_coefficients_it_was_given(network_bias):
    noise = np.random.default_rng(0).standard_normal((5, 400))
    s = np.linspace(0.3, 1.8, 7)
    law = 2 * s**2 - 0.5 * s**4
    known = network_bias.drop_dims(["run", "dataset"]).assign(
        reduced_step=("run", s), difference=(("run", "observable", "dataset"), law[:, None, None] + 0.1 * (1 + s[:, None, None]) * noise)
    )
    fit = step_bias.expansion(known)
    assert (abs(fit.coefficient - np.array([[2], [-0.5]])) < LIMIT * fit.se).all() and fit.se.max() < 0.05


def test_ensembles_of_other_data_are_not_compared(tiny):
    one, other = (sample(tiny, datasets=2, draws=4, warmup=4, seed=s, step_size=0.1, progress=False) for s in (1, 2))
    with pytest.raises(ValueError, match="seed"):
        step_bias.compare(one, [other])
    with pytest.raises(ValueError, match="steps"):
        step_bias.plan([-0.1])


def paired(problem, networks):
    """The same posterior, start and momentum in double and in single precision."""
    data = draw_data(problem, networks, seed=3)
    double, single = (TeacherStudentPosterior(problem, *data, dtype=dtype) for dtype in ("float64", "float32"))
    return double, single, double.prior_draw(range(networks)), double.prior_draw(range(50, 50 + networks))


def test_the_same_noise_takes_both_precisions_the_same_way(small):
    double, single, theta, momentum = paired(small, 4)
    ends = []
    for post in (double, single):
        start = theta.to(post.dtype, copy=True)
        state = underdamped.State(start, momentum.to(post.dtype, copy=True), post.energy_gradient(start)[1], None)
        for i in range(1, 11):
            noise = double.prior_draw(range(100 * i, 100 * i + 4)).to(post.dtype)
            state = underdamped.step(state, post.energy_gradient, lambda noise=noise: noise, 0.4, 0.5)
        ends.append(state.theta.double())
    assert 0 < (ends[0] - ends[1]).norm() / ends[0].norm() < 1e-5


def test_rounding_does_not_limit_the_acceptance_of_hmc():
    problem = TeacherStudent.paper(0.2, beta=1 / 8).rounded()
    double, single, theta, momentum = paired(problem, 8)
    state = underdamped.init(double.teacher_draw(range(8)).float(), single.energy_gradient, lambda: torch.zeros_like(theta, dtype=torch.float32))
    for i in range(80):  # to where the energy error is that of equilibrium
        noise = single.prior_draw(range(100 * i, 100 * i + 8))
        state = underdamped.step(state, single.energy_gradient, lambda noise=noise: noise, 0.3, 0.7)
    theta = state.theta

    def energy_error(post):
        t, p = theta.to(post.dtype), momentum.to(post.dtype)
        before, gradient = post.likelihood(t)
        end, last, _, after = hmc.trajectory(t, p, gradient, post.likelihood, 0.3, 4)
        return after - before + 0.5 * (end.square() + last.square() - t.square() - p.square()).double().sum(1)

    exact, rounded = energy_error(double), energy_error(single)
    assert (exact - rounded).abs().max() < 0.005
    assert 0.05 < exact.abs().max() < 5  # an energy error worth the name


def test_statistics_do_not_depend_on_the_precision(tiny):
    settings = dict(datasets=1, chains=600, draws=4, thin=40, warmup=200, method="hmc", step_size=0.1, progress=False)
    double, single = (sample(tiny, dtype=d, seed=s, **settings) for d, s in (("float64", 5), ("float32", 5)))
    for name, degree in (("learned", 1), ("learned", 3), ("second_moment", None), ("energy", None)):
        x, y = (ds.grok.by_network(name, degree).ravel() for ds in (double, single))
        assert_mean((x - y) / np.std(x), 0.0)
