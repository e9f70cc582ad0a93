"""The posterior of committee machines: the law of a neuron against its definition, limits, and integrals; wrong variants must fail."""

import numpy as np
import pytest

from grokutils.problems import Committee
from grokutils.theory import committee as cm
from grokutils.theory import committee_posterior as cp

BOOK = Committee(dimension=20, samples=400, width=200, laziness=1.0, curvature=0.05, step_size=1.0)
OTHERS = [  # none of them appears in the book
    Committee(dimension=7, samples=33, width=19, laziness=2.3, curvature=0.31, step_size=0.4, seed=11),
    Committee(dimension=12, samples=29, width=90, laziness=0.4, curvature=0.9, step_size=0.4, seed=12, centred=False),
    Committee(dimension=9, samples=150, width=60, laziness=5.0, curvature=0.02, step_size=0.4, seed=13),
]


def remade(problem, law, given, noise, weight=1.0):
    """The law that the pulls of a law make, and the pulls that this makes, from the definitions; ``weight`` spoils the quadratic part."""
    x, a, eps, n, t = given.inputs, problem.laziness, problem.curvature, problem.width, law.pull
    c = np.linalg.inv(np.eye(problem.dimension) - weight * a * eps / n * (x * t[:, None]).T @ x)
    mean = a / n * c @ x.T @ t
    h, v = x @ mean, np.einsum("mi,ij,mj->m", x, c, x)
    f = a * h + a * eps / 2 * (v + h**2) - (a * eps / 2 * (x**2).sum(1) if problem.centred else 0)
    return mean, c, (given.labels - f) / noise


@pytest.mark.parametrize("problem", OTHERS)
@pytest.mark.parametrize("noise", [3e-1, 1e-3])
def test_law_is_self_consistent(problem, noise):
    given = cm.draw(problem)
    law = cp.solve(problem, noise, given)
    assert law.converged
    mean, covariance, pull = remade(problem, law, given, noise)
    np.testing.assert_allclose(mean, law.mean, atol=1e-10)
    np.testing.assert_allclose(covariance, law.covariance, atol=1e-10)
    assert np.abs(pull - law.pull).max() < 1e-5 * np.abs(pull).max()
    spoilt = remade(problem, law, given, noise, weight=0.5)[2]
    assert np.abs(spoilt - law.pull).max() > 1e-3 * np.abs(law.pull).max()  # so that the test can fail


@pytest.mark.parametrize("problem", OTHERS)
def test_law_does_not_depend_on_the_start(problem):
    given = cm.draw(problem)
    law = cp.solve(problem, 1e-2, given)
    rng = np.random.default_rng(0)
    other = cp.solve(problem, 1e-2, given, start=0.3 * law.pull + rng.normal(size=problem.samples))
    assert abs(other.dual - law.dual) < 1e-8 * max(1, abs(law.dual))
    np.testing.assert_allclose(other.moment, law.moment, rtol=1e-6, atol=1e-9)


def test_dual_is_the_log_evidence_of_a_linear_network():
    # for small curvature the network is a linear model with a Gaussian prior, whose evidence is known: ln Z has no correction then
    p = OTHERS[0].replace(curvature=1e-9)
    given, noise = cm.draw(p), 0.2
    law = cp.solve(p, noise, given)
    gram = p.laziness**2 / p.width * given.inputs @ given.inputs.T + noise * np.eye(p.samples)
    assert law.dual == pytest.approx(given.labels @ np.linalg.solve(gram, given.labels) / 2, rel=1e-8)


def test_lazy_law_is_regression_with_the_network_kernel_and_not_with_the_tangent_kernel():
    base = Committee(dimension=8, samples=40, width=50, laziness=1.0, curvature=0.7, step_size=1.0, seed=3)
    noise = 0.02
    gaps = []
    for scale in (1e2, 1e4):
        p = base.replace(laziness=scale, width=int(50 * scale**2))
        given = cm.draw(base, wide=True)
        law = cp.solve(p, noise, given)
        network, tangent = (cp.gaussian_process(p, noise, given, k).test_loss for k in ("network", "tangent"))
        gaps.append((abs(law.test_loss / network - 1), abs(law.test_loss / tangent - 1)))
    assert gaps[1][0] < 1e-3 and gaps[1][0] < gaps[0][0]
    assert gaps[1][1] > 1e-2


def test_network_kernel_is_the_covariance_of_prior_outputs():
    p = OTHERS[0]
    x, rng = np.random.default_rng(1).normal(size=(4, 7)) / 7**0.5, np.random.default_rng(2)
    h = rng.standard_normal((400_000, 7)) @ x.T
    covariance = np.cov((h + p.curvature / 2 * h**2).T)
    np.testing.assert_allclose(covariance, cp.network_kernel(p, x), atol=0.01)
    assert np.abs(covariance - cm.wide_kernel(p, x)).max() > 0.02


def test_population_solves_its_equations_and_has_the_stated_limits():
    # held-out parameters: not those of the book
    p = Committee(dimension=31, samples=700, width=80, laziness=0.6, curvature=0.11, step_size=1.0)
    for k in (0.4, 1.0, 2.7, 30.0):
        b = 27.0
        noise, a, d = cp.noise_for(p, k, b), p.laziness * p.curvature, p.dimension
        found = cp.population(p, noise, b)
        g = a * p.samples / (2 * p.width * noise * d**2)
        target, other = b - a * (found.spike - 1), -a * (found.transverse - 1)
        trace = target + (d - 1) * other
        assert 1 / found.spike == pytest.approx(1 - g * (trace + 2 * target), rel=1e-6, abs=1e-9)
        assert 1 / found.transverse == pytest.approx(1 - g * (trace + 2 * other), rel=1e-6)
    thin = p.replace(curvature=1e-7)
    for k in (0.5, 2.0):
        noise = cp.noise_for(thin, k)
        assert cp.population(thin, noise).learned == pytest.approx(cp.learned_share(*cp.control(thin, noise)), abs=1e-5)


def test_learned_share_is_the_root_and_continuous():
    k, r = np.meshgrid(np.linspace(0.05, 5, 60), np.geomspace(1e-9, 1e3, 30))
    share = cp.learned_share(k, r)
    assert ((share > 0) & (share < 1)).all()
    np.testing.assert_allclose(1 / (1 + share / r), 1 - k * (1 - share), atol=1e-9)
    near = cp.learned_share(np.array([1 - 1e-6, 1 + 1e-6]), 1e-14)
    assert near.max() < 1e-5  # no jump
    assert cp.learned_share(1.0, 1e-8) == pytest.approx(1e-4, rel=1e-3)


def test_data_law_tends_to_the_population():
    differences = []
    for ratio in (10, 80):
        p = Committee(dimension=10, samples=10 * ratio, width=5 * ratio, laziness=1.0, curvature=0.1, step_size=1.0)
        shares = []
        for s in range(4):
            given = cm.draw(p.replace(seed=s))
            b = float(np.trace(given.target))
            shares.append(cp.solve(p, cp.noise_for(p, 3.0, b), given).learned - cp.population(p, cp.noise_for(p, 3.0, b), b).learned)
        differences.append(np.mean(shares))
    assert abs(differences[1]) < 0.5 * abs(differences[0])


def test_relaxation_ends_at_the_law_and_its_switches_give_gradient_flow():
    p = OTHERS[0].replace(samples=60)
    given, noise = cm.draw(p, wide=True), 0.05
    law, path = cp.solve(p, noise, given), cp.relax(p, noise, [1.0, 30.0], given)
    assert float(path.learned[-1]) == pytest.approx(law.learned, rel=1e-5)
    assert float(path.test_loss[-1]) == pytest.approx(law.test_loss, rel=1e-5)
    slow = p.replace(step_size=1e-3)
    unit = 2 * noise * slow.step_size * p.width / (p.laziness**2 * p.samples)
    flow = cp.relax(p, noise, [2000 * unit], given, decay=0.0, temperature=0.0)
    run = cm.run(slow, 2000, record=[0, 2000], given=given)
    assert float(flow.test_loss[0]) == pytest.approx(float(run.test_loss[1]), rel=1e-3)
    assert float(flow.test_loss[0]) != pytest.approx(float(run.test_loss[0]), rel=1e-2)


def test_relaxation_rate_is_that_of_the_equation():
    for k, r in ((0.3, 0.01), (1.0, 1e-4), (4.0, 0.3)):
        m = 1 + cp.learned_share(k, r) / r

        def speed(m, k=k, r=r):
            return 2 * (k * (1 - r * (m - 1)) - 1) * m + 2

        assert abs(speed(m)) < 1e-8 * max(1, k * m)
        assert -(speed(m * (1 + 1e-6)) - speed(m * (1 - 1e-6))) / (2e-6 * m) == pytest.approx(cp.relaxation_rate(k, r), rel=1e-4)


def test_input_is_checked():
    with pytest.raises(ValueError, match="noise_variance"):
        cp.solve(BOOK, 0.0)
    with pytest.raises(ValueError, match="one direction"):
        cp.control(BOOK.replace(directions=2), 0.1)
    with pytest.raises(ValueError, match="centred"):
        cp.population(BOOK.replace(centred=False), 0.1)
    with pytest.raises(ValueError, match="kernel must be"):
        cp.gaussian_process(BOOK, 0.1, kernel="both")
