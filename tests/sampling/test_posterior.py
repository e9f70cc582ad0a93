"""The energy, its gradient, exact draws and the observables."""

import math

import numpy as np
import pytest
import torch

from grokutils import observables
from grokutils.hermite import Activation, hermite
from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data, sample
from grokutils.sampling import posterior as module


def build(problem, datasets=2, chains=2, dtype="float64"):
    return TeacherStudentPosterior(problem, *draw_data(problem, datasets, seed=3), chains, dtype=dtype)


def plain_energy(post, theta):
    """The energy as the definition has it, by autograd, one network at a time."""
    p, total = post.problem, []
    for b in range(post.networks):
        u, v = theta[b, : p.width * p.dimension].view(p.width, p.dimension), theta[b, p.width * p.dimension :]
        w, a = u * math.sqrt(p.weight_variance / p.dimension), v * math.sqrt(p.readout_variance / p.width)
        f = p.phi.torch_function(post.inputs[b // post.chains] @ w.T) @ a
        total.append(((post.targets[b // post.chains] - f) ** 2).sum() / (2 * p.noise_variance) + (u**2).sum() / 2 + (v**2).sum() / 2)
    return torch.stack(total)


SOFTSIGN = Activation("softsign", lambda x: x / (1 + np.abs(x)), torch_function=torch.nn.functional.softsign)


@pytest.mark.parametrize("phi", ["erf", "tanh", "relu", "sin", "gelu", "square", SOFTSIGN], ids=lambda phi: getattr(phi, "name", phi))
@pytest.mark.parametrize("block", [16, 300_000])
def test_gradient_is_that_of_the_definition(tiny, phi, block, monkeypatch):
    monkeypatch.setitem(module._BLOCK, "cpu", block)
    post = build(tiny.replace(activation=phi, samples=150))  # the small block cuts the rows too
    theta = post.prior_draw([1, 2, 3, 4]).requires_grad_(True)
    reference = plain_energy(post, theta)
    (expected,) = torch.autograd.grad(reference.sum(), theta)
    energy, gradient = post.energy_gradient(theta.detach())
    torch.testing.assert_close(energy, reference.detach())
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("problem", [dict(), dict(width=300), dict(samples=5000, width=2), dict(samples=700, width=100)], ids=str)
@pytest.mark.parametrize("datasets", [1, 3])
@pytest.mark.parametrize("chains", [1, 2, 5])
def test_blocks_stay_within_their_budget_and_cover_all(tiny, problem, datasets, chains, monkeypatch):
    monkeypatch.setitem(module._BLOCK, "cpu", 8000)
    problem = tiny.replace(**problem)
    post = build(problem, datasets, chains)
    seen = np.zeros((post.networks, problem.samples), dtype=int)
    for net, blocks in post._groups:
        for rows, x, y, *buffers in blocks:
            seen[net, rows] += 1
            assert buffers[0].numel() <= max(8000, 64 * problem.width)
            # the data of a network, and a copy of them only for networks smaller than the budget
            index = np.arange(net.start, net.stop) // chains
            torch.testing.assert_close(x, post.scale_w * post.inputs[index, rows].transpose(1, 2))
            torch.testing.assert_close(y[:, 0], post.targets[index, rows])
            copied = x.untyped_storage().nbytes() > x[0].numel() * x.element_size() * datasets
            assert not copied or problem.samples * problem.width * chains <= 8000
    assert (seen == 1).all()
    storages = {buffers[0].untyped_storage().data_ptr() for _, blocks in post._groups for _, _, _, *buffers in blocks}
    assert len(storages) == 1  # one buffer for all blocks, however many networks


def test_outputs_at_given_points_are_those_of_the_definition(small, monkeypatch):
    post = build(small)
    theta = post.prior_draw([1, 2, 3, 4])
    at_data = post.outputs(theta)
    monkeypatch.setitem(module._BLOCK, "cpu", 64)  # points in several pieces
    torch.testing.assert_close(post.outputs(theta, post.inputs[1])[2:], at_data[2:])
    weights, readouts = post.weights(theta)
    torch.testing.assert_close(at_data[3], torch.erf(post.inputs[1] @ weights[3].T) @ readouts[3])


def test_float32_gradient_is_close_to_float64(small):
    double, single = build(small), build(small, dtype="float32")
    theta = double.prior_draw([1, 2, 3, 4])
    exact, approximate = double.energy_gradient(theta)[1], single.energy_gradient(theta.float())[1].double()
    assert (exact - approximate).norm() / exact.norm() < 3e-6


def test_an_ensemble_is_its_networks_one_by_one(tiny):
    together = sample(tiny, datasets=2, chains=3, draws=5, warmup=9, thin=2, dtype="float64", progress=False)
    fewer = sample(tiny, datasets=1, chains=2, draws=5, warmup=9, thin=2, dtype="float64", progress=False)
    for name in ("learned", "energy", "test_loss"):
        np.testing.assert_allclose(together[name][:1, :2], fewer[name], rtol=1e-7)


def test_readout_given_weights_is_bayesian_linear_regression(tiny):
    post = build(tiny, datasets=1, chains=1)
    theta = post.prior_draw([5])
    mean, factor = post.readout_moments(theta)
    w = post.weights(theta)[0][0].numpy()
    phi = torch.erf(post.inputs[0] @ torch.as_tensor(w).T).numpy() * post.scale_a
    precision = np.eye(tiny.width) + phi.T @ phi / tiny.noise_variance
    np.testing.assert_allclose((factor @ factor.transpose(1, 2))[0], precision, rtol=1e-10)
    np.testing.assert_allclose(mean[0], np.linalg.solve(precision, phi.T @ post.targets[0].numpy() / tiny.noise_variance), rtol=1e-9)


def test_readout_draws_have_those_moments(tiny):
    post = build(tiny, datasets=1, chains=4000)
    theta = post.prior_draw([5]).expand(4000, -1).contiguous()
    draws = post.unpack(post.readout_draw(theta, range(4000)))[1].numpy()
    mean, factor = (x[0].numpy() for x in post.readout_moments(theta))
    whitened = (draws - mean) @ factor  # covariance (L L^T)^{-1} becomes the unit matrix
    z = math.sqrt(4000) * whitened.mean(0)
    assert np.abs(z).max() < 5
    assert np.abs(np.cov(whitened.T) - np.eye(tiny.width)).max() < 5 * math.sqrt(2 / 4000)


def test_learned_coefficients_and_population_loss_against_a_large_test_set(tiny):
    rng = np.random.default_rng(0)
    w, a = rng.normal(size=(1, 4, 3)), rng.normal(size=(1, 4))
    x = rng.standard_normal((400_000, 3))
    phi = np.stack([np.vectorize(math.erf)(x[:, :] @ w[0, i]) for i in range(4)], axis=1)
    f = phi @ a[0]
    for k in (1, 3):
        sample_values = f * hermite(k, x[:, 0]) / math.factorial(k)
        exact = observables.learned(tiny, k, a[0], w[0, :, 0], (w[0] ** 2).sum(1))
        assert abs(sample_values.mean() - exact) < 5 * sample_values.std() / math.sqrt(len(x))
    y = sum(c * hermite(k, x[:, 0]) for k, c in tiny.teacher.items())
    loss = (y - f) ** 2
    assert abs(loss.mean() - observables.population_loss(tiny, w, a)[0]) < 5 * loss.std() / math.sqrt(len(x))


def test_histogram_counts_every_neuron_also_beyond_the_ends():
    counts = observables.overlap_histogram(np.array([[-9.0, 0.011, 0.012, 9.0]]))
    assert counts.sum() == 4 and counts[0, 0] == 1 and counts[0, -1] == 1 and counts.max() == 2


def test_teacher_start_puts_droplets_at_plus_minus_one(small):
    post = build(small)
    w = post.weights(post.teacher_draw([1, 2, 3, 4]))[0]
    count = max(2, round(0.1 * small.width))
    torch.testing.assert_close(w[:, :count, 0].abs(), torch.ones(4, count, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (dict(method="magic"), "method"), (dict(start="end"), "start"), (dict(dtype="float16"), "dtype"), (dict(device="tpu"), "device"),
        (dict(datasets=0), "datasets"), (dict(chains=-1), "chains"), (dict(draws=0), "draws"), (dict(draws=1.5), "draws"), (dict(thin=0), "thin"),
        (dict(warmup=-1), "warmup"), (dict(step_size=-0.1), "step_size"), (dict(friction=0), "friction"), (dict(seed=-1), "seed"),
        (dict(seed="x"), "seed"), (dict(temperature=math.nan), "temperature"), (dict(temperature=2.0, method="hmc"), "temperature"),
    ],
)
def test_bad_settings_are_named(tiny, change, name):
    with pytest.raises(ValueError, match=name):
        sample(tiny, **({"draws": 1, "warmup": 0, "progress": False} | change))


def test_what_is_not_a_problem_is_refused():
    with pytest.raises(ValueError, match="problem"):
        sample("erf", progress=False)


def test_sizes_must_be_whole():
    with pytest.raises(ValueError, match=r"dimension.*rounded"):
        sample(TeacherStudent.paper(0.2, beta=0.5), progress=False)


def test_an_activation_without_torch_cannot_be_sampled(tiny):
    with pytest.raises(ValueError, match="torch_function"):
        sample(tiny.replace(activation=Activation("numpy only", np.cos)), progress=False)


def test_data_do_not_depend_on_how_many_sets_are_drawn(tiny):
    np.testing.assert_array_equal(draw_data(tiny, 3, seed=1)[0][:2], draw_data(tiny, 2, seed=1)[0])
    np.testing.assert_array_equal(draw_data(tiny, range(2, 4), seed=1)[1], draw_data(tiny, 4, seed=1)[1][2:])
    x, y = draw_data(tiny, 1, seed=1)
    np.testing.assert_allclose(y, x[..., 0] - 0.3 * (x[..., 0] ** 3 - 3 * x[..., 0]))


def test_mismatched_data_are_refused(tiny):
    x, y = draw_data(tiny, 1)
    with pytest.raises(ValueError, match="inputs must be"):
        TeacherStudentPosterior(tiny, x[:, :-1], y)
