"""Networks that learn modular addition: the posterior against its definition, every kernel against the joint law, mutants that must be caught."""

import math

import numpy as np
import pytest
import torch
from joint import RANKS, assert_uniform, hmc_kernel, rank, underdamped_kernel
from scipy.integrate import quad
from ztest import assert_mean

from grokutils.problems import ModularAddition, TeacherStudent
from grokutils.sampling import modular, sample
from grokutils.sampling._measure_modular import ModularMeasure, barrier, threshold
from grokutils.sampling.modes import ModeRelocation
from grokutils.sampling.modular import ModularAdditionPosterior
from grokutils.sampling.systems import posterior_of

P5 = ModularAddition(modulus=5, width=4, noise_variance=0.3, readout_variance=0.8, sextic_decay=2.0)
# where trajectories move by a radian and are accepted: a kernel that hardly moves passes every test
TINY = ModularAddition(modulus=3, width=2, noise_variance=0.8, readout_variance=0.5, sextic_decay=20.0)
STRONGER = TINY.replace(noise_variance=0.4, readout_variance=1.0, sextic_decay=0.6)  # for the moves, which have no step
MILD = P5.replace(noise_variance=5.0)
QUICK = dict(draws=4, warmup=6, thin=2, step_size=0.1, progress=False)


def outputs(problem, u, v):
    """f (networks, p, n, m) as the definition has it, from whitened weights (networks, N, 2, P) and readouts (networks, P, N)."""
    hidden = (u[:, :, 0, :, None] + u[:, :, 1, None, :]) ** 2
    return math.sqrt(problem.readout_variance / problem.width) * torch.einsum("bpi,binm->bpnm", v, hidden)


def modes(problem, u):
    """w_k (..., P) for all k by the definition, w_k = (1/P) sum_n w_n exp(2 pi i k n / P)."""
    k = torch.arange(problem.modulus, dtype=torch.float64)
    return u.to(torch.complex128) @ torch.exp(2j * math.pi * torch.outer(k, k) / problem.modulus) / problem.modulus


def addition(problem):
    n = torch.arange(problem.modulus)
    return ((n[:, None] + n[None, :]) % problem.modulus == n[:, None, None]).double() - 1 / problem.modulus


def plain_energy(problem, theta, targets=None):
    p, width = problem.modulus, problem.width
    u, v = theta[:, : 2 * p * width].reshape(-1, width, 2, p), theta[:, 2 * p * width :].reshape(-1, p, width)
    y = addition(problem) if targets is None else targets
    decay = p * problem.sextic_decay / 6 * (modes(problem, u).abs() ** 6).sum((1, 2, 3))
    return ((y - outputs(problem, u, v)) ** 2).sum((1, 2, 3)) / (2 * problem.noise_variance) + decay + theta.square().sum(1) / 2


# covers: eq-P3-check
# covers: eq-P4-check
# covers: eq-P5-check
@pytest.mark.parametrize("block", [16, 300, 300_000])
@pytest.mark.parametrize("own_targets", [False, True])
def test_gradient_is_that_of_the_definition(block, own_targets, monkeypatch):
    monkeypatch.setitem(modular._BLOCK, "cpu", block)
    y = torch.randn(3, 5, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) if own_targets else None
    post = ModularAdditionPosterior(P5, 3, 1, dtype="float64", targets=y)
    theta = 1.5 * post.prior_draw([1, 2, 3]).requires_grad_(True)
    reference = plain_energy(P5, theta, y)
    (expected,) = torch.autograd.grad(reference.sum(), theta)
    energy, gradient = post.energy_gradient(theta.detach())
    torch.testing.assert_close(energy, reference.detach())
    torch.testing.assert_close(gradient, expected)
    likelihood, rest = post.likelihood(theta.detach())
    torch.testing.assert_close(likelihood + theta.detach().square().sum(1) / 2, energy)
    torch.testing.assert_close(rest + theta.detach(), gradient)


def test_a_batch_is_its_networks_one_by_one():
    post, one = ModularAdditionPosterior(P5, 2, 2, dtype="float64"), ModularAdditionPosterior(P5, dtype="float64")
    theta = post.prior_draw([1, 2, 3, 4])
    energy, gradient = post.energy_gradient(theta)
    for b in range(4):
        e, g = one.energy_gradient(theta[b : b + 1])
        torch.testing.assert_close((energy[b : b + 1], gradient[b : b + 1]), (e, g))
        torch.testing.assert_close(one.prior_draw([b + 1]), theta[b : b + 1])


def test_float32_gradient_is_close_to_float64():
    problem = P5.replace(modulus=11, width=30)
    double, single = ModularAdditionPosterior(problem, dtype="float64"), ModularAdditionPosterior(problem)
    theta = double.prior_draw([1])
    exact, approximate = double.energy_gradient(theta)[1], single.energy_gradient(theta.float())[1].double()
    assert (exact - approximate).norm() / exact.norm() < 3e-6


# covers: eq-B23-check
# covers: eq-B27-check
# covers: eq-B29-check
# covers: eq-B31-check
def test_closed_forms_of_gram_and_overlaps_are_sums_over_the_table():
    post = ModularAdditionPosterior(P5, 2, dtype="float64")
    theta = post.prior_draw([1, 2])
    u, _ = post.unpack(theta)
    phi = post.features(u)
    torch.testing.assert_close(post.gram(u), phi @ phi.mT)
    h = phi @ addition(P5).flatten(1).T
    torch.testing.assert_close(post.overlaps(u), h)
    w = modes(P5, u)
    product = (w[:, :, 0] * w[:, :, 1])[..., 1:]
    torch.testing.assert_close(h.square().sum(2), 4 * P5.modulus**3 * product.abs().square().sum(2))  # every mode with its own pair, and 4 P^3
    torch.testing.assert_close(u.square().sum(-1), P5.modulus * w.abs().square().sum(-1))
    torch.testing.assert_close(post.amplitudes(theta), w[..., 1:3])


def test_readouts_given_weights_are_bayesian_linear_regression():
    post = ModularAdditionPosterior(P5, dtype="float64")
    theta = post.prior_draw([5])
    mean, factor = post.readout_moments(theta)
    phi = post.scale_a * post.features(post.unpack(theta)[0])[0]
    precision = torch.eye(4, dtype=torch.float64) + phi @ phi.T / P5.noise_variance
    torch.testing.assert_close((factor @ factor.mT)[0], precision)
    torch.testing.assert_close(mean[0].T, torch.linalg.solve(precision, phi @ addition(P5).flatten(1).T / P5.noise_variance))


@pytest.mark.statistical
def test_readout_draws_have_those_moments():
    post = ModularAdditionPosterior(P5, 1, 4000, dtype="float64")
    theta = post.prior_draw([5]).expand(4000, -1).contiguous()
    mean, factor = (x[0] for x in post.readout_moments(theta))
    whitened = (post.unpack(post.readout_draw(theta, range(4000)))[1] - mean) @ factor  # (draws, P, N) with unit covariance
    for j in range(4):
        for q in range(5):
            assert_mean(whitened[:, q, j], 0.0)
            assert_mean(whitened[:, q, j] ** 2, 1.0)
    assert_mean(whitened[:, 0, 0] * whitened[:, 1, 1], 0.0)


def prior_moment(problem, power, zero=False):
    """E[Phi^power] of one mode under the prior, by one integral; of the square of w_0 if ``zero``."""
    p, gamma = problem.modulus, problem.sextic_decay
    if zero:
        z, m = (quad(lambda x, j=j: x**j * math.exp(-p * (x * x / 2 + gamma * x**6 / 6)), -9, 9)[0] for j in (0, 2 * power))
    else:
        z, m = (quad(lambda x, j=j: x**j * math.exp(-2 * p * (x / 2 + gamma * x**3 / 6)), 0, 30)[0] for j in (0, power))
    return m / z


STRONG = ModularAddition(modulus=5, width=40, noise_variance=0.3, readout_variance=0.8, sextic_decay=20.0)


@pytest.mark.statistical
def test_prior_draws_have_the_exact_moments_decay_included():
    post = ModularAdditionPosterior(STRONG, 1, 150, dtype="float64")
    u, v = post.unpack(post.prior_draw(range(150)))
    power = modes(STRONG, u).abs().square()
    for k in (1, 2):
        assert_mean(power[..., k], prior_moment(STRONG, 1))
        assert_mean(power[..., k] ** 3, prior_moment(STRONG, 3))
    assert_mean(power[..., 0], prior_moment(STRONG, 1, zero=True))
    assert_mean(v**2, 1.0)
    with pytest.raises(AssertionError):  # without the decay it would be 1/P
        assert_mean(power[..., 1], 1 / STRONG.modulus)


@pytest.mark.statistical
def test_a_run_that_sees_nothing_has_the_moments_of_the_prior():
    blind = STRONG.replace(noise_variance=1e9)
    settings = dict(draws=1, warmup=60, thin=20, method="hmc", dtype="float64", keep_neurons=True, progress=False)
    ds = sample(blind, datasets=50, chains=1, start="droplets", **settings)
    power = ds.power.values.reshape(50, -1)
    assert_mean(power.mean(1), prior_moment(blind, 1))
    assert_mean(ds.residual, 1.0)


# ---- kernels against the joint law of network and data


def prior_batch(problem, count, generator):
    """Draws of theta (count, size) from the prior, written once more: all modes of all networks at a time."""
    p, width, gamma = problem.modulus, problem.width, problem.sextic_decay
    u = torch.randn(count, width, 2, p, generator=generator, dtype=torch.float64)
    transform, half = torch.fft.rfft(u), p // 2 + 1
    weight = torch.full((half,), 2.0, dtype=torch.float64)
    weight[0] = 1
    todo = torch.ones(transform.shape, dtype=torch.bool)
    kept = torch.zeros_like(transform)
    while todo.any():
        chance = torch.exp(-p * gamma / 6 * weight * (transform.abs() / p) ** 6)
        good = todo & (torch.rand(todo.shape, generator=generator, dtype=torch.float64) < chance)
        kept, todo = torch.where(good, transform, kept), todo & ~good
        transform = torch.fft.rfft(torch.randn(u.shape, generator=generator, dtype=torch.float64))
    v = torch.randn(count, p * width, generator=generator, dtype=torch.float64)
    return torch.cat([torch.fft.irfft(kept, n=p).flatten(1), v], dim=1)


def with_targets(problem, theta, generator, dtype):
    """The posterior given fresh targets of the networks ``theta`` themselves."""
    u, v = split(problem, theta.double())
    f = outputs(problem, u, v)
    y = f + math.sqrt(problem.noise_variance) * torch.randn(f.shape, generator=generator, dtype=torch.float64)
    return ModularAdditionPosterior(problem, len(theta), dtype=dtype, targets=y)


def split(problem, theta):
    p, width = problem.modulus, problem.width
    return theta[:, : 2 * p * width].view(-1, width, 2, p), theta[:, 2 * p * width :].view(-1, p, width)


def quantities(problem, theta, y):
    u, v = split(problem, theta.double())
    f, w = outputs(problem, u, v), modes(problem, u)
    power = w.abs().square()
    a = torch.fft.fft(v.mT, dim=-1).conj()[..., 1]  # mode 1 of the readouts, N of them
    values = {
        "f y": (f * y).sum((1, 2, 3)), "likelihood": (f - y).square().sum((1, 2, 3)), "f": f[:, 0, 1, 2], "Phi": power[:, 0, 0, 1],
        "product": (power[:, :, 0, 1] * power[:, :, 1, 1]).mean(1), "largest": power[..., 1].amax((1, 2)), "zero": w[:, 0, 0, 0].real,
        "readouts": v.square().sum((1, 2)), "phase": (w[:, 0, 0, 1] * w[:, 0, 1, 1] * a[:, 0]).real, "w": u[:, 1, 1, 2], "a": v[:, 2, 1],
    }
    return {name: value.numpy() for name, value in values.items()}


def geweke(problem, kernel, replicas, seed, alternations=6, dtype="float64"):
    """As in ``joint``: the successive-conditional simulator against fresh joint draws."""
    generator = torch.Generator().manual_seed(seed)
    theta = prior_batch(problem, replicas, generator).to(getattr(torch, dtype))
    for _ in range(alternations):
        posterior = with_targets(problem, theta, generator, dtype)
        theta = kernel(posterior, theta, generator)
    reached = quantities(problem, theta, posterior.targets.double())
    others = prior_batch(problem, replicas * RANKS, generator)
    fresh = quantities(problem, others, with_targets(problem, others, generator, dtype).targets.double())
    return {name: rank(own, fresh[name].reshape(replicas, RANKS), generator) for name, own in reached.items()}


def relocation_kernel(cls=ModeRelocation, trials=3, **settings):
    def kernel(posterior, theta, generator):
        theta = theta.clone()
        seeds = torch.randint(2**62, (len(theta),), generator=generator).tolist()
        cls(posterior, **settings).block(theta, [torch.Generator().manual_seed(s) for s in seeds], trials)
        return theta

    return kernel


def readout_kernel():
    move = hmc_kernel(0.1, 8)

    def kernel(posterior, theta, generator):
        theta = move(posterior, theta, generator)
        return posterior.readout_draw(theta, torch.randint(2**62, (len(theta),), generator=generator).tolist())

    return kernel


def of_problem(kernel, **changes):
    """The kernel of another problem's posterior: a mutant."""

    def mutant(posterior, theta, generator):
        problem = posterior.problem.replace(**changes)
        return kernel(ModularAdditionPosterior(problem, len(theta), dtype="float64", targets=posterior.targets), theta, generator)

    return mutant


class OneIndex(ModeRelocation):
    """The printed weight e^{-S} of an index k where the complex mode, k and -k together, has e^{-2S}."""

    def _prior(self, power):
        return super()._prior(power) / 2


class ForgottenProposal(ModeRelocation):
    def _log_proposal(self, table, power):
        return torch.zeros(len(power), dtype=torch.float64)


class OneOutput(ModeRelocation):
    """L^{-1/2}, as if the network had a single output."""

    def _evidence(self, weights, residual):
        value, mean, spread = super()._evidence(weights, residual)
        return value - (self.posterior.problem.modulus - 1) * spread.log(), mean, spread


class NarrowReadouts(ModeRelocation):
    def _evidence(self, weights, residual):
        value, mean, spread = super()._evidence(weights, residual)
        return value, mean, 0.85 * spread


EXACT = {
    "hmc": hmc_kernel(0.1, 8), "underdamped": underdamped_kernel(0.05, steps=20), "readouts given weights": readout_kernel(),
    "relocation": relocation_kernel(), "relocation, one try": relocation_kernel(tries=1, trials=5),
}
MUTANTS = {
    "no decay": of_problem(hmc_kernel(0.1, 8), sextic_decay=1e-9),
    "noise variance": of_problem(hmc_kernel(0.1, 8), noise_variance=1.1),
    "no Metropolis test": hmc_kernel(0.17, 6, metropolis=False),
    "temperature": underdamped_kernel(0.05, steps=20, temperature=1.15),
    "the weight of one index": relocation_kernel(OneIndex),
    "the proposal forgotten": relocation_kernel(ForgottenProposal),
    "one output": relocation_kernel(OneOutput),
    "readouts too narrow": relocation_kernel(NarrowReadouts),
}


@pytest.mark.statistical
@pytest.mark.parametrize("name", EXACT)
def test_kernel_is_exact(name):
    assert_uniform(geweke, TINY, EXACT[name], batches=4, replicas=1000)


@pytest.mark.statistical
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name):
    with pytest.raises(AssertionError, match="not the posterior"):
        assert_uniform(geweke, STRONGER if name in ("one output", "the weight of one index") else TINY, MUTANTS[name], batches=16, replicas=1000)


@pytest.mark.statistical
@pytest.mark.parametrize("settings", [dict(), dict(tries=1, trials=5)], ids=str)
def test_relocation_is_exact_at_low_noise(settings):
    assert_uniform(geweke, STRONGER, relocation_kernel(**settings), batches=3, replicas=1000)


@pytest.mark.statistical
def test_relocation_is_exact_where_droplets_matter():
    crowded = ModularAddition(modulus=5, width=2, noise_variance=0.3, readout_variance=0.6, sextic_decay=0.15)
    assert crowded.interaction > math.sqrt(crowded.sextic_decay)
    assert_uniform(geweke, crowded, relocation_kernel(), batches=3, replicas=1000)


@pytest.mark.statistical
def test_relocation_is_exact_in_single_precision():
    assert_uniform(geweke, TINY, relocation_kernel(), batches=2, replicas=1000, dtype="float32")


def test_relocation_moves_change_one_neuron_and_its_readouts():
    post = ModularAdditionPosterior(P5.replace(width=9), 2, dtype="float64")
    theta = post.prior_draw([1, 2])
    before, move = theta.clone(), ModeRelocation(post, tries=10)
    move.block(theta, [torch.Generator().manual_seed(s) for s in (3, 4)], trials=1)
    changed = (post.unpack(theta)[1] != post.unpack(before)[1]).all(1)
    assert (changed.sum(1) == 1).all() and 0 < move.accepted < move.tried == 20
    same = torch.isclose(post.unpack(theta)[0], post.unpack(before)[0], atol=1e-12).all(-1).all(-1)
    assert (same | changed).all()


# ---- sample


def test_observables_are_those_of_the_definition():
    post = ModularAdditionPosterior(P5.replace(readout_variance=30.0), 2, dtype="float64")
    theta = 2 * post.prior_draw([1, 2])
    u, v = split(P5, theta)
    record = ModularMeasure(post.problem, post, 0, keep_neurons=True)(theta, torch.zeros(2))
    f, y = outputs(post.problem, u, v), addition(P5)
    np.testing.assert_allclose(record["residual"], 1 - (f * y).sum((1, 2, 3)) / (y * y).sum())
    np.testing.assert_allclose(record["train_loss"], (f - y).square().mean((1, 2, 3)))
    power = modes(P5, u).abs().square()[..., 1:3]
    product = power[:, :, 0] * power[:, :, 1]
    np.testing.assert_allclose(record["kernel_product"], product.mean((1, 2)))
    np.testing.assert_allclose(record["tail_fraction"], (product.sqrt() > threshold(P5)).double().mean((1, 2)))
    np.testing.assert_allclose(record["power"], power.movedim(2, 3))
    assert (record["histogram"].sum((1, 2)) == P5.width * 2).all() and (record["histogram_droplets"].sum(1) == P5.width).all()
    np.testing.assert_allclose(record["histogram_droplets"] @ np.arange(3) / (2 * P5.width), record["tail_fraction"])
    a = (post.scale_a * v).mT.to(torch.complex128) @ torch.exp(2j * math.pi * torch.arange(5.0, dtype=torch.float64) / 5)  # mode 1
    np.testing.assert_allclose(np.exp(1j * record["phase"][:, :, 0, 2]), (a / a.abs()).numpy())


def test_the_barrier_is_a_stationary_point_and_absent_below_the_spinodal():
    problem = ModularAddition(23, 100, 0.01, 1.0, 12.0)
    problem = problem.replace(readout_variance=8 / problem.interaction)
    x, u = float(barrier(problem, 0.8)), problem.interaction * 0.64
    assert 1 / 2 - u * x + problem.sextic_decay / 2 * x**2 == pytest.approx(0)
    assert barrier(problem, 0.5) == np.inf


def test_sample_gives_labelled_finite_observables():
    ds = sample(MILD, datasets=2, chains=2, keep_neurons=True, **QUICK)
    assert ds.residual.dims == ("dataset", "chain", "draw") and ds.histogram.dims == ("dataset", "chain", "power_w", "power_v")
    assert ds.power.dims == ("dataset", "chain", "draw", "neuron", "mode", "layer")
    assert int(ds.histogram.sum()) == 2 * 2 * 4 * MILD.width * 2
    rows = set(ds.grok.summary().index)
    assert {"residual", "kernel_product", "droplet_fraction", "tail_fraction", "train_loss", "energy"} <= rows
    assert bool(np.isfinite(ds.energy).all()) and ds.attrs["problem_hash"] == MILD.hash


@pytest.mark.parametrize("method", ["underdamped", "hmc", "relocation"])
def test_networks_depend_on_their_own_numbers_alone(method):
    settings = dict(method=method, dtype="float64", **QUICK)
    together, fewer = sample(MILD, datasets=3, chains=2, **settings), sample(MILD, datasets=1, chains=2, **settings)
    for name in ("residual", "energy"):
        np.testing.assert_allclose(together[name][:1], fewer[name], rtol=1e-7)
    assert sample(MILD, datasets=3, chains=2, jobs=2, **settings).equals(together)


def test_droplets_start_in_the_well_with_free_phases():
    problem = ModularAddition(11, 40, 0.01, 1.0, 3.0)
    post = posterior_of(problem, 1, chains=2, dtype="float64")
    amplitudes = post.amplitudes(post.droplets_draw([1, 2]))
    power = amplitudes.abs().square()
    inside = (power[:, :, 0] - math.sqrt(3 / problem.sextic_decay)).abs() < 1e-9
    assert 0.4 < inside.double().mean() < 0.6 and torch.equal(inside, (power[:, :, 1] - 1).abs() < 1e-9)
    assert abs(torch.polar(torch.ones_like(power), amplitudes.angle())[:, :, 0][inside].mean()) < 0.2


@pytest.mark.parametrize(
    ("change", "name"),
    [(dict(start="teacher"), "start"), (dict(method="langevin"), "method"), (dict(temperature=2.0, method="relocation"), "temperature")],
)
def test_what_does_not_apply_is_refused(change, name):
    with pytest.raises(ValueError, match=name):
        sample(MILD, **(QUICK | change))


def test_teachers_have_no_droplets_start():
    problem = TeacherStudent(12, 3, 4, 0.3, 2.0, 0.8, {1: 1.0})
    with pytest.raises(ValueError, match="start"):
        sample(problem, start="droplets", **QUICK)


def test_width_must_be_whole():
    with pytest.raises(ValueError, match=r"width.*whole"):
        sample(MILD.replace(width=4.5), **QUICK)


@pytest.mark.statistical
def test_both_starts_and_all_methods_meet():
    # seven standard errors: false alarms below 1e-11 a comparison were they normal
    problem = ModularAddition(11, 40, 0.02, 1.0, 3.0)
    problem = problem.replace(readout_variance=3.5 / problem.interaction)
    settings = dict(datasets=12, chains=1, draws=20, warmup=300, thin=20, progress=False)
    rows = [
        sample(problem, method=m, start=s, **settings, **step).grok.summary().loc["residual"]
        for m, s, step in (("underdamped", "prior", dict(step_size=0.1)), ("relocation", "droplets", dict(step_size=0.1)), ("hmc", "prior", {}))
    ]
    assert rows[0]["mean"] < 0.97
    for a in rows[1:]:
        assert abs(a["mean"] - rows[0]["mean"]) < 7 * math.hypot(a.se, rows[0].se)
