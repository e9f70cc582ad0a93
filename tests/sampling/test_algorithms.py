"""Each algorithm against laws known exactly, and mutation controls that the checks must catch."""

import math

import numpy as np
import pytest
import torch
from ztest import assert_mean, assert_variance

from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data, hmc, langevin, largest_eigenvalue, sample, underdamped

pytestmark = pytest.mark.statistical
CHAINS = 4000
STIFFNESS = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)


def quadratic(theta):
    """E = sum_j lambda_j theta_j^2 / 2."""
    return (STIFFNESS * theta**2).sum(1) / 2, STIFFNESS * theta


class Noise:
    def __init__(self, shape, seed=0, scale=1.0):
        self.generator, self.shape, self.scale = torch.Generator().manual_seed(seed), shape, scale

    def __call__(self):
        return self.scale * torch.randn(self.shape, generator=self.generator, dtype=torch.float64)

    def uniform(self):
        return torch.rand(self.shape[0], generator=self.generator, dtype=torch.float64)


def run(algorithm, energy_gradient, steps, noise, **settings):
    state = algorithm.init(torch.zeros(noise.shape, dtype=torch.float64), energy_gradient, noise)
    for _ in range(steps):
        state = algorithm.step(state, energy_gradient, noise, **settings)
    return state.theta.numpy()


def test_langevin_on_a_quadratic_has_the_known_step_bias():
    h = 0.1
    theta = run(langevin, quadratic, 150, Noise((CHAINS, 3)), step_size=h)
    for j, stiffness in enumerate(STIFFNESS.tolist()):
        assert_variance(theta[:, j], 1 / (stiffness * (1 - h * stiffness / 2)))
    with pytest.raises(AssertionError):  # the check can tell the biased law from the unbiased one
        assert_variance(theta[:, 2], 1 / 9)


def test_underdamped_on_a_quadratic_has_no_step_bias():
    theta = run(underdamped, quadratic, 150, Noise((CHAINS, 3)), step_size=0.5, friction=0.5)
    for j, stiffness in enumerate(STIFFNESS.tolist()):
        assert_variance(theta[:, j], 1 / stiffness)


@pytest.mark.parametrize("scale", [0.0, 0.9])
def test_wrong_noise_is_caught(scale):
    theta = run(underdamped, quadratic, 150, Noise((CHAINS, 3), scale=scale), step_size=0.5, friction=0.5)
    with pytest.raises(AssertionError):
        assert_variance(theta[:, 0] + 1e-12, 1.0)


def likelihood(theta):
    """What is left of the quadratic when the unit prior is taken off."""
    return ((STIFFNESS - 1) * theta**2).sum(1) / 2, (STIFFNESS - 1) * theta


def test_hmc_on_a_quadratic_is_exact():
    noise = Noise((CHAINS, 3))
    state = hmc.init(torch.zeros(CHAINS, 3, dtype=torch.float64), likelihood, noise)
    for i in range(40):
        state = hmc.step(state, likelihood, noise, noise.uniform, 0.5, 1 + i % 4)
    for j, stiffness in enumerate(STIFFNESS.tolist()):
        assert_variance(state.theta[:, j].numpy(), 1 / stiffness)
    assert 0.5 < state.accepted.mean() < 1


def tiny_posterior(problem, chains):
    return TeacherStudentPosterior(problem, *draw_data(problem, 1, seed=2), chains, dtype="float64")


def test_leapfrog_reverses_and_its_energy_error_is_second_order(tiny):
    post = tiny_posterior(tiny, 8)
    theta = post.prior_draw(range(8))
    momentum = post.prior_draw(range(8, 16))

    def total(t, p):
        return post.likelihood(t)[0] + 0.5 * (t.square().sum(1) + p.square().sum(1))

    errors = []
    for h, steps in ((0.05, 20), (0.025, 40)):
        gradient = post.likelihood(theta)[1]
        end, p, g, _ = hmc.trajectory(theta, momentum, gradient, post.likelihood, h, steps)
        back, _, _, _ = hmc.trajectory(end, -p, g, post.likelihood, h, steps)
        torch.testing.assert_close(back, theta, rtol=0, atol=1e-10)
        errors.append((total(end, p) - total(theta, momentum)).abs().mean().item())
    assert 3 < errors[0] / errors[1] < 5


def test_largest_eigenvalue_is_that_of_the_hessian(tiny):
    post = tiny_posterior(tiny, 2)
    theta = 0.3 * post.prior_draw([1, 2])
    value, _ = largest_eigenvalue(post.energy_gradient, theta, iterations=400)
    for b in range(2):
        row = theta[b]

        def energy(x, b=b):
            p = tiny
            w, a = x[:-4].view(4, 3) * post.scale_w, x[-4:] * post.scale_a
            return ((post.targets[0] - torch.erf(post.inputs[0] @ w.T) @ a) ** 2).sum() / (2 * p.noise_variance) + (x**2).sum() / 2

        top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(energy, row)).abs().max()
        assert value[b].item() == pytest.approx(top.item(), rel=1e-3)


def prior_only(**settings):
    """An ensemble whose likelihood carries no weight: the prior must come back."""
    problem = TeacherStudent(samples=8, dimension=5, width=6, noise_variance=1e9, readout_variance=1.5, weight_variance=0.7, teacher={1: 1.0})
    fixed = dict(datasets=1, chains=1500, draws=2, thin=25, warmup=40, keep_neurons=True, progress=False, dtype="float64")
    return problem, sample(problem, **fixed, **settings)


def check_prior(problem, ds):
    last = ds.isel(draw=-1)
    assert_variance(last.overlap.values, problem.weight_variance / problem.dimension)
    assert_mean(last.norm2.values, problem.weight_variance)
    # var f_1 = N E[a^2] E[(q E phi')^2], and E[...] over the prior of w by plain Monte Carlo of 4e5 weights
    rng = np.random.default_rng(0)
    w = rng.normal(scale=math.sqrt(0.7 / 5), size=(400_000, 5))
    slope = w[:, 0] * 2 / math.sqrt(math.pi) / np.sqrt(1 + 2 * (w**2).sum(1))
    assert_variance(last.learned.sel(degree=1).values, problem.readout_variance * np.mean(slope**2))


@pytest.mark.parametrize("settings", [dict(method="underdamped"), dict(method="hmc"), dict(method="underdamped", step_size=0.8)], ids=str)
def test_without_data_the_prior_comes_back(settings):
    check_prior(*prior_only(**settings))


def test_wrong_temperature_is_caught():
    with pytest.raises(AssertionError):
        check_prior(*prior_only(method="underdamped", temperature=1.1))


def test_wrong_prior_is_caught():
    problem, ds = prior_only(method="underdamped")
    with pytest.raises(AssertionError):
        check_prior(problem.replace(weight_variance=0.75), ds)


@pytest.mark.parametrize("algorithm", ["underdamped", "hmc"])
def test_frozen_input_layer_gives_bayesian_linear_regression(tiny, algorithm):
    chains = 2000
    post = tiny_posterior(tiny, chains)
    theta = post.prior_draw([7]).expand(chains, -1).contiguous()
    mean, factor = (x[0].numpy() for x in post.readout_moments(theta))
    fixed, _ = post.unpack(theta)
    inputs = fixed.reshape(chains, -1)

    def frozen(function):
        def call(v):
            full = torch.cat([inputs, v], dim=1)
            energy, gradient = function(full)
            return energy, post.unpack(gradient)[1].contiguous()

        return call

    noise = Noise((chains, tiny.width), seed=4)
    if algorithm == "underdamped":
        draws = run(underdamped, frozen(post.energy_gradient), 200, noise, step_size=0.25, friction=0.6)
    else:
        state = hmc.init(torch.zeros(noise.shape, dtype=torch.float64), frozen(post.likelihood), noise)
        for _ in range(40):
            state = hmc.step(state, frozen(post.likelihood), noise, noise.uniform, 0.2, 6)
        draws = state.theta.numpy()
    whitened = (draws - mean) @ factor
    for j in range(tiny.width):
        assert_mean(whitened[:, j], 0.0)
        assert_variance(whitened[:, j], 1.0)


def test_underdamped_agrees_with_exact_hmc_on_a_network(tiny):
    settings = dict(datasets=1, chains=600, draws=4, thin=60, warmup=300, dtype="float64", progress=False, seed=5)
    a, b = (sample(tiny, method=m, step_size=h, **settings) for m, h in (("underdamped", 0.1), ("hmc", 0.1)))
    for name, degree in (("learned", 1), ("learned", 3), ("second_moment", None), ("energy", None)):
        x, y = (ds.grok.by_network(name, degree).ravel() for ds in (a, b))
        z = (x.mean() - y.mean()) / math.sqrt(x.var() / len(x) + y.var() / len(y))
        assert abs(z) < 5, (name, degree, z)


def test_a_step_that_diverges_is_reported(tiny):
    with pytest.raises(RuntimeError, match="step_size"):
        sample(tiny, datasets=1, chains=50, draws=4, warmup=60, step_size=1.5, progress=False)


def test_a_run_is_reproduced_and_carries_its_provenance(tiny):
    first, second = (sample(tiny, datasets=2, draws=6, warmup=6, thin=1, progress=False) for _ in range(2))
    assert first.identical(second)
    assert first.attrs["problem_hash"] == tiny.hash and first.attrs["method"] == "underdamped" and first.attrs["gradients_per_chain"] >= 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_gradient_is_the_cpu_gradient(small):
    x, y = draw_data(small, 2)
    cpu, gpu = (TeacherStudentPosterior(small, x, y, 2, device, "float64") for device in ("cpu", "cuda"))
    theta = cpu.prior_draw(range(4))
    torch.testing.assert_close(gpu.energy_gradient(theta.cuda())[1].cpu(), cpu.energy_gradient(theta)[1])
