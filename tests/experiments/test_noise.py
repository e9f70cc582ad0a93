"""The network with noise and decay: its posterior on a part of the table, the corners of the dynamics, and the test of two populations."""

import numpy as np
import pytest
import torch
import xarray as xr

from grokutils import experiments
from grokutils.descent import GradientDescent, quadratic
from grokutils.experiments import noise as series
from grokutils.experiments.noise import (
    TASK,
    PartialTable,
    corners,
    equilibrium,
    equivalent,
    milestones,
    noise_and_decay,
    populations,
    power_share,
    random_share,
    rate,
    scale,
    smallest_residual,
    unimodal,
)
from grokutils.modular import AdditionTask
from grokutils.sampling import ModularAdditionPosterior

TINY = AdditionTask(5, 8, 0.8)


@pytest.mark.parametrize("gamma", [1e-12, 3.0])
def test_with_the_whole_table_it_is_the_posterior_of_part_one(gamma):
    problem = equivalent(TINY, 0.01, sextic_decay=gamma)
    mine, whole = PartialTable(problem, np.ones((2, 5, 5), bool), "float64"), ModularAdditionPosterior(problem, 2, 1, dtype="float64")
    theta = whole.prior_draw([1, 2])
    for a, b in zip(mine.energy_gradient(theta), whole.energy_gradient(theta), strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_is_that_of_the_energy():
    post = PartialTable(equivalent(TINY, 0.01), np.stack([TINY.mask(k) for k in (0, 1)]), "float64")
    theta = post.prior_draw([3, 4])
    direction = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=theta.dtype)
    up, down = (post.energy_gradient(theta + h * direction)[0] for h in (1e-5, -1e-5))
    torch.testing.assert_close((up - down) / 2e-5, (post.energy_gradient(theta)[1] * direction).sum(1), rtol=1e-6, atol=1e-6)


def test_pairs_that_are_not_data_have_no_say():
    mask = TINY.mask(0)[None]
    post = PartialTable(equivalent(TINY, 0.01), mask, "float64")
    theta = post.prior_draw([3])
    before = post.likelihood(theta)[0]
    post.table = post.table + 7.0 * (1 - post.seen)
    torch.testing.assert_close(post.likelihood(theta)[0], before)
    post.table = post.table + 7.0 * post.seen
    assert float(post.likelihood(theta)[0]) != pytest.approx(float(before))


def test_without_noise_and_decay_it_is_gradient_descent():
    ds = noise_and_decay(TASK, steps=40, seeds=2, records=4, noise_levels=(0.0, 1.0), decay_levels=(0.0, 1.0))
    reference = quadratic.train(TASK, 2, 40, GradientDescent(rate(TASK)), initial_scale=scale(TASK), record=ds.step.values, progress=False)
    for name in ("train_loss", "test_loss", "train_accuracy"):
        np.testing.assert_allclose(ds[name].values[0, 0], reference[name].values, rtol=2e-5, atol=1e-6)
    with_decay = GradientDescent(rate(TASK), weight_decay=ds.attrs["weight_decay"])
    reference = quadratic.train(TASK, 2, 40, with_decay, initial_scale=scale(TASK), record=ds.step.values, progress=False)
    np.testing.assert_allclose(ds.train_loss.values[0, 1], reference.train_loss.values, rtol=2e-5)
    assert not np.allclose(ds.train_loss.values[1, 1], ds.train_loss.values[0, 1], rtol=1e-4)  # noise is heard


@pytest.mark.statistical
def test_noise_and_decay_keep_the_prior_where_there_is_nothing_to_learn():
    """At a temperature that drowns the data the weights keep the prior's variance: five standard errors, false alarms below 1e-6."""
    ds = noise_and_decay(TINY, noise_variance=0.025, laziness=0.01, steps=300, seeds=10, records=4, noise_levels=(1.0,), decay_levels=(1.0,))
    last = ds.norm2.values[0, 0, :, -1]
    assert abs(last.mean() - 1) < 5 * (2 / (3 * 5 * 8) / 10) ** 0.5
    without = noise_and_decay(TINY, noise_variance=0.025, laziness=0.01, steps=300, seeds=10, records=4, noise_levels=(1.0,), decay_levels=(0.0,))
    assert without.norm2.values[0, 0, :, -1].mean() > 10  # nothing holds them


def test_units():
    """The published prefactor is absorbed: s^3 = alpha / 2PN, and u = 2 sigma_a^2 P^2 / (N sigma^4)."""
    assert scale(TASK, 0.5) ** 3 == pytest.approx(0.5 / (2 * 13 * 100))
    p = equivalent(TASK, 0.002, prior=2.0)
    assert p.readout_variance / p.width == pytest.approx((2 * scale(TASK) ** 2) ** 3)
    assert scale(TASK.replace(width=50), 0.5) == pytest.approx(scale(TASK))


@pytest.mark.statistical
def test_share_of_random_neurons():
    """Counts within 4.5 standard errors at three thresholds: false alarms below 3e-5."""
    weights = np.random.default_rng(0).standard_normal((100_000, 26))
    q = power_share(weights, 13)
    for level in (0.5, 0.6, 0.7):
        expected = len(q) * random_share(13, level)
        assert abs((q > level).sum() - expected) < 4.5 * expected**0.5
    with pytest.raises(ValueError, match="q"):
        random_share(13, 0.4)
    n = np.arange(13)
    assert power_share(np.r_[np.cos(2 * np.pi * 3 * n / 13), np.sin(2 * np.pi * 3 * n / 13)], 13) == pytest.approx(1)


@pytest.mark.statistical
def test_two_populations_are_found_and_not_invented():
    """Random neurons: at p < 0.01 at most two of twenty may fail, chance below 1.1e-3 if the test were exact; it is conservative."""
    def random(k, n):
        power = np.random.default_rng(k).gamma(2, size=(n, 6))
        return power.max(1) / power.sum(1)

    chances = [unimodal(random(k, 600), 100, seed=k) for k in range(20)]
    assert sum(c < 0.01 for c in chances) <= 2 and np.mean(chances) > 0.2
    assert unimodal(np.r_[random(50, 560), np.random.default_rng(3).normal(0.93, 0.02, 40)], 100) < 0.01


def test_least_norm():
    a = float(smallest_residual(0.002, 5.0))
    strength = 0.002 / 0.9 * 5 ** (1 / 3) / (26 * scale(TASK) ** 3) ** (2 / 3)
    assert a * (1 - a) ** (1 / 3) == pytest.approx(strength, rel=1e-3)
    x = np.linspace(1e-4, 0.999, 5001)  # the balance of misfit and cost, by brute force
    energy = 0.9 * 13 / 0.002 * x**2 + 3 * 13 * 5 ** (1 / 3) * ((1 - x) / (26 * scale(TASK) ** 3)) ** (2 / 3)
    local = np.flatnonzero((np.diff(energy[:-1]) < 0) & (np.diff(energy[1:]) > 0))
    assert x[local[0] + 1] == pytest.approx(a, rel=0.01)
    assert np.isnan(smallest_residual(0.05))


def test_shapes_and_summaries():
    ds = equilibrium(TINY, noises=(0.5, 1.0), warmup=20, draws=3, thin=4, seeds=3, train_steps=5)
    assert ds.residual.dims == ("noise", "start", "seed", "draw") and ds["share"].shape == (2, 2, 3, 8)
    assert np.isfinite(ds.residual).all() and ((ds["count"].sum("frequency") / 8 - ds.concentrated[..., -1]) < 1e-6).all()
    found = populations(ds)
    assert found.two.dims == ("noise", "start") and not bool(found.two.any())
    moving = noise_and_decay(TINY, steps=5, seeds=2, records=3)
    assert milestones(moving, 0.0).train.values == pytest.approx(0) and np.isnan(milestones(moving, 1.1).test).all()
    found = corners(moving, 1.1)
    assert len(found) == 9 and all(row["understood"] == 0 and np.isnan(row["delay"]) and row["of"] == 2 for row in found.values())


def test_corners_read_off_a_made_up_run():
    """Three networks that learn at steps 10, 10, 20 and understand at 100, 40, 80: the geometric mean of 10, 4, 4 is the delay."""
    step = np.array([0, 10, 20, 40, 80, 100])

    def at(times):
        return (step >= np.array(times)[:, None]).astype(float)[None, None]

    dims = ("noise", "decay", "seed", "step")
    made = {"train_accuracy": (dims, at([10, 10, 20])), "test_accuracy": (dims, at([100, 40, 80]))}
    made |= {k: (dims, np.zeros((1, 1, 3, 6))) for k in ("concentrated", "norm2")}
    made["share"] = ((*dims[:3], "neuron"), np.random.default_rng(0).uniform(0.2, 0.4, (1, 1, 3, 50)))
    row = corners(xr.Dataset(made, {"noise": [0.0], "decay": [1.0], "seed": [0, 1, 2], "step": step}))[0.0, 1.0]
    assert row["delay"] == pytest.approx(160 ** (1 / 3)) and row["delay_low"] < row["delay"] < row["delay_high"]
    assert row["understood"] == 3 and row["step"] == 80 and row["accuracy"] == 1 and not row["two"]


def test_series():
    assert len(experiments.noise()) == 8 and len(experiments.noise("width")) == len(series("width")) == 3
    with pytest.raises(ValueError, match="series"):
        experiments.noise("heat")
