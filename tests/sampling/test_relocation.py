"""The relocation of droplets: exact by the joint tests, its algebra that of the definition, and it does what it is for."""

import numpy as np
import pytest
import torch
from joint import assert_uniform, geweke, hmc_kernel, sbc
from ztest import assert_mean

from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data, sample
from grokutils.sampling.integrated import Background
from grokutils.sampling.relocation import Relocation, droplet_law

TINY = TeacherStudent(samples=8, dimension=2, width=3, noise_variance=0.3, readout_variance=2.0, weight_variance=1.0, teacher={1: 1.0, 3: -0.3})


def relocation_kernel(cls=Relocation, active=3, trials=3, **settings):
    def kernel(posterior, theta, generator):
        theta = theta.clone()
        seeds = torch.randint(2**62, (len(theta),), generator=generator).tolist()
        cls(posterior, active, **settings).block(theta, [torch.Generator().manual_seed(s) for s in seeds], trials)
        return theta

    return kernel


def palindrome(kernel):
    """With a move of everything in the middle: reversible, as sbc asks."""
    move = hmc_kernel()
    return lambda posterior, theta, generator: kernel(posterior, move(posterior, kernel(posterior, theta, generator), generator), generator)


class WrongCount(Relocation):
    def _log_weight(self, k, shrink):
        return super()._log_weight(k, shrink) - 0.3


class NoJacobian(Relocation):
    def _log_weight(self, k, shrink):
        return super()._log_weight(k, shrink) - k * shrink.double().log()


class ForgetfulProposal(Relocation):
    """The law it draws from is not the law it accounts for on the way back."""

    def _trial(self, bg, state, draws):
        self.insert = draws[0] < 0.5
        return super()._trial(bg, state, draws)

    def _law(self, *arguments):
        mean, variance = super()._law(*arguments)
        return mean, torch.where(self.insert.unsqueeze(1), variance, 1.6 * variance)


class KeptReadouts(Relocation):
    """The weights move and the readouts, integrated out on the way, are not drawn again."""

    def block(self, theta, generators, trials):
        _, v = self.posterior.unpack(theta)
        before = v.clone()
        super().block(theta, generators, trials)
        v[:] = before


@pytest.mark.statistical
@pytest.mark.parametrize(
    "settings",
    [dict(), dict(active=2), dict(threshold=0.8, contraction=0.0), dict(contraction=0.8), dict(threshold=0.2, trials=1)],
    ids=str,
)
def test_geweke(settings):
    assert_uniform(geweke, TINY, relocation_kernel(**settings), batches=4)


@pytest.mark.statistical
@pytest.mark.parametrize("change", [dict(activation="relu"), dict(activation="tanh", width=4, dimension=3)], ids=str)
def test_geweke_for_other_networks(change):
    assert_uniform(geweke, TINY.replace(**change), relocation_kernel(), batches=3)


@pytest.mark.statistical
def test_geweke_in_single_precision():
    assert_uniform(geweke, TINY, relocation_kernel(), dtype="float32", batches=3)


@pytest.mark.statistical
def test_simulation_based_calibration():
    assert_uniform(sbc, TINY, palindrome(relocation_kernel(active=2)), batches=3, thin=1)


@pytest.mark.statistical
@pytest.mark.parametrize("mutant", [WrongCount, NoJacobian, ForgetfulProposal, KeptReadouts])
def test_mutant_is_caught(mutant):
    with pytest.raises(AssertionError, match="not the posterior"):
        assert_uniform(geweke, TINY, relocation_kernel(mutant, contraction=0.8), batches=14)


def background(problem, active=5, dtype="float64"):
    post = TeacherStudentPosterior(problem, *draw_data(problem, 2, seed=3), dtype=dtype)
    theta = post.prior_draw([1, 2])
    u, _ = post.unpack(theta)
    passive = torch.ones(2, problem.width, dtype=theta.dtype)
    passive[:, :active] = 0
    return post, theta, Background(post, post.inputs, post.targets, u, passive), u[:, :active].clone()


def log_evidence(post, u):
    """ln p(W|D) up to a constant, from the definition: y ~ N(0, sigma^2 + tau^2 Phi Phi^T)."""
    out = []
    for x, y, w in zip(post.inputs, post.targets, post.scale_w * u, strict=True):
        phi = post.problem.phi.torch_function(x @ w.T)
        covariance = post.problem.noise_variance * torch.eye(len(y)) + post.scale_a**2 * phi @ phi.T
        out.append(torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y))
    return torch.stack(out) - 0.5 * u.square().sum((1, 2))


def test_the_density_is_that_of_the_weights_with_readouts_integrated_out(small):
    post, theta, bg, active = background(small)
    u, _ = post.unpack(theta)
    state = bg.active(active)
    moved = torch.tensor([1, 3])
    other = active.clone()
    other[:, moved] = 2 * torch.randn(2, 2, small.dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    everyone = torch.cat([other, u[:, 5:]], dim=1)
    for candidate in (bg.active(other), bg.active(other, state, moved)):
        expected = log_evidence(post, everyone) - log_evidence(post, u)
        torch.testing.assert_close(candidate.log_density - state.log_density, expected, rtol=1e-7, atol=1e-6)


def test_the_residual_is_that_of_bayesian_linear_regression(small):
    post, theta, bg, active = background(small)
    keep = torch.ones(2, 5, dtype=torch.bool)
    keep[:, 2] = False
    residual, _ = bg.residual(bg.active(active), keep)
    u, _ = post.unpack(theta)
    for b in range(2):
        w = torch.cat([u[b, :2], u[b, 3:]]) * post.scale_w
        phi = torch.erf(post.inputs[b] @ w.T)
        full = small.noise_variance * torch.eye(small.samples, dtype=torch.float64) + post.scale_a**2 * phi @ phi.T
        torch.testing.assert_close(residual[b, :, 0], torch.linalg.solve(full, post.targets[b]))


@pytest.mark.statistical
def test_readouts_are_drawn_from_their_law(tiny):
    post = TeacherStudentPosterior(tiny, *draw_data(tiny, 1, seed=2), chains=4000, dtype="float64")
    theta = post.prior_draw([7]).expand(4000, -1).clone()
    mean, factor = (x[0] for x in post.readout_moments(theta))
    relocation = Relocation(post, active=3)
    relocation.block(theta, [torch.Generator().manual_seed(s) for s in range(4000)], trials=0)
    whitened = ((post.unpack(theta)[1] - mean) @ factor).numpy()
    for j in range(tiny.width):
        assert_mean(whitened[:, j], 0.0)
    assert np.abs(np.cov(whitened.T) - np.eye(tiny.width)).max() < 6 * np.sqrt(2 / 4000)


def test_the_droplet_law_is_stationary_and_knows_the_accidental_correlations():
    problem = TeacherStudent.paper(0.1, beta=1 / 8).rounded()
    post, theta, bg, active = background(problem, active=8)
    residual, _ = bg.residual(bg.active(active), torch.ones(2, 8, dtype=torch.bool))
    overlap = torch.full((2,), 0.9 / post.scale_w, dtype=torch.float64)
    laws = [droplet_law(bg, residual.squeeze(-1), torch.full((2, 1), 3.0, dtype=torch.float64), overlap, iterations=i) for i in (3, 12)]
    for a, b in zip(*laws, strict=True):
        assert (a - b).norm() < 0.3 * b.norm()
    mean, variance = laws[1]
    transverse = mean[:, 1:].norm(dim=1)
    # a readout of the size of a droplet's makes the data's correlations pull by far more than nothing, and the well narrower than the prior
    assert (transverse > 0.5).all() and (variance[:, 1:] < 1).all()


def test_a_network_with_too_many_droplets_is_left_alone(tiny):
    post = TeacherStudentPosterior(tiny, *draw_data(tiny, 1, seed=2), chains=2, dtype="float64")
    theta = post.prior_draw([1, 2])
    u, _ = post.unpack(theta)
    u[0, :, 0], u[1, :, 0] = 3.0, 0.0
    before = theta.clone()
    Relocation(post, active=2).block(theta, [torch.Generator().manual_seed(s) for s in (1, 2)], trials=2)
    assert torch.equal(theta[0], before[0]) and not torch.equal(theta[1], before[1])


def test_an_ensemble_is_its_networks_one_by_one(tiny):
    settings = dict(draws=6, warmup=12, thin=3, dtype="float64", progress=False, method="relocation")
    together, fewer = sample(tiny, datasets=2, chains=3, **settings), sample(tiny, datasets=1, chains=2, **settings)
    for name in ("learned", "energy"):
        np.testing.assert_allclose(together[name][:1, :2], fewer[name], rtol=1e-6)
    assert 0 < together.attrs["acceptance"] < 1 and together.attrs["gradients_per_chain"] > 30


def test_another_temperature_is_refused(tiny):
    with pytest.raises(ValueError, match="temperature must be 1"):
        sample(tiny, datasets=1, chains=1, draws=2, warmup=0, method="relocation", temperature=1.1, progress=False)


def test_droplets_come_and_go_faster_than_by_underdamped_langevin():
    # at beta = 1/2 and low noise a network changes its number of droplets rarely; the margin is wide
    problem = TeacherStudent.paper(0.1, beta=0.5).rounded()
    settings = dict(datasets=2, chains=1, draws=20, thin=6, warmup=36, start="teacher", progress=False, seed=3)
    changes = {}
    for method in ("underdamped", "relocation"):
        count = problem.width * sample(problem, method=method, **settings).tail_fraction.values
        changes[method] = (np.abs(np.diff(count, axis=-1)) > 0.5).sum()
    assert changes["relocation"] > 2 * changes["underdamped"] + 3, changes


