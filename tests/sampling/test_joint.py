"""Geweke's joint test and simulation-based calibration of every kernel, of ``sample`` as a whole, and of the tests themselves.

False alarms: ALPHA = 1e-6 a test, by Ville's inequality for each sequential one. Every mutant must be caught at that same rate.
"""

import joint
import numpy as np
import pytest
import torch
from joint import RANKS, Bet, assert_uniform, geweke, hmc_kernel, of_problem, partial_refreshment_kernel, readout_kernel, sbc, underdamped_kernel
from scipy.stats import binomtest, chi2
from ztest import ALPHA

from grokutils.problems import TeacherStudent
from grokutils.sampling import run, sample, systems

pytestmark = pytest.mark.statistical
TINY = TeacherStudent(samples=8, dimension=2, width=3, noise_variance=0.3, readout_variance=2.0, weight_variance=1.0, teacher={1: 1.0, 3: -0.3})
BOTH = pytest.mark.parametrize("test", [geweke, sbc])

EXACT = {
    "hmc": hmc_kernel(),
    # h^2 lambda = 0.3 at the median of lambda: its bias is below what 12000 replicas resolve
    "underdamped": underdamped_kernel(0.1),
    "readouts given weights": readout_kernel(),
    "partial refreshment": partial_refreshment_kernel(),
}
MUTANTS = {
    "temperature": underdamped_kernel(0.1, temperature=1.1),
    "no noise": underdamped_kernel(0.1, noise_scale=0.0),
    "prior of the weights": of_problem(hmc_kernel(), weight_variance=1.2),
    "prior of the readouts": of_problem(hmc_kernel(), readout_variance=2.4),
    "noise variance": of_problem(hmc_kernel(), noise_variance=0.39),
    "activation": of_problem(hmc_kernel(), activation="tanh"),
    "no Metropolis test": hmc_kernel(metropolis=False),
    "a large step": underdamped_kernel(0.25, steps=5),
    "mean of the readouts": readout_kernel(1.1),
    "no flip of the momentum": partial_refreshment_kernel(flip=False),
}


@BOTH
@pytest.mark.parametrize("name", EXACT)
def test_exact_kernel(test, name):
    assert_uniform(test, TINY, EXACT[name])


@BOTH
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(test, name):
    with pytest.raises(AssertionError, match="not the posterior"):
        assert_uniform(test, TINY, MUTANTS[name], batches=12)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_other_activations(activation):
    assert_uniform(geweke, TINY.replace(activation=activation), hmc_kernel(), batches=2)


def test_single_precision():
    assert_uniform(geweke, TINY, hmc_kernel(), dtype="float32")


@pytest.mark.parametrize("settings", [dict(method="hmc"), dict(method="underdamped", step_size=0.1)], ids=lambda s: s["method"])
def test_sample_as_a_whole_is_calibrated(settings, monkeypatch):
    assert calibration_of_sample(monkeypatch, **settings) < Bet().threshold


def test_a_wrong_temperature_of_sample_is_caught(monkeypatch):
    assert calibration_of_sample(monkeypatch, method="underdamped", step_size=0.1, temperature=1.3) > Bet().threshold


def calibration_of_sample(monkeypatch, replicas=1000, **settings):
    """ln evidence against ``sample``, warm-up and tuning included, by Talts et al. in their own form: L thinned draws of a chain from the prior."""
    inputs, truth, posterior = joint.joint_draw(TINY, replicas, torch.Generator().manual_seed(5))
    monkeypatch.setattr(systems, "draw_data", lambda problem, sets, seed: (inputs.numpy()[list(sets)], posterior.targets.numpy()[list(sets)]))
    monkeypatch.setattr(run.DRIVERS["hmc"], "per_dataset", False)  # all data sets in one batch: the same kernel, in seconds
    ds = sample(TINY, datasets=replicas, chains=1, draws=RANKS, thin=30, warmup=120, progress=False, **settings).isel(chain=0)
    drawn = {"mean q^2": ds.second_moment, "likelihood": ds.train_loss * TINY.samples}
    drawn |= {f"learned[{k}]": ds.learned.sel(degree=k) for k in TINY.teacher}
    own = joint.quantities(TINY, truth, inputs, posterior)
    return Bet().update({name: (values.values < own[name][:, None]).sum(1) for name, values in drawn.items()})


def uniform_ranks(rng, size):
    return rng.integers(0, RANKS + 1, size)


def ever_alarmed(alarm, sequences, looks=30, size=40):
    """How many sequences of uniform ranks raise the alarm at any of the looks."""
    rng = np.random.default_rng(0)
    return sum(alarm([uniform_ranks(rng, size) for _ in range(looks)]) for _ in range(sequences))


def test_false_alarms_are_bounded_however_often_one_looks():
    def by_betting(batches):
        bet = Bet(alpha=0.05)
        return any(bet.update({"one": r, "another": RANKS - r, "third": r // 2 * 2 + (r[::-1] > 7)}) > bet.threshold for r in batches)

    def by_chi_square(batches):
        counts = np.cumsum([np.bincount(r, minlength=RANKS + 1) for r in batches], axis=0)
        expected = counts.mean(axis=1, keepdims=True)
        return (((counts - expected) ** 2 / expected).sum(1) > chi2.isf(0.05, RANKS)).any()

    assert binomtest(ever_alarmed(by_betting, 2000), 2000, 0.05, alternative="greater").pvalue > ALPHA
    # the looks do matter: the same question put to a test of fixed size
    assert binomtest(ever_alarmed(by_chi_square, 200), 200, 0.05, alternative="greater").pvalue < ALPHA


@pytest.mark.parametrize(("shift", "scale"), [(0.1, 1.0), (0.0, 1.1)])
def test_a_small_deviation_is_found_in_reasonable_time(shift, scale):
    rng = np.random.default_rng(1)
    needed = []
    for _ in range(20):
        bet, batches = Bet(alpha=0.05), 0
        while batches < 200:
            batches += 1
            draws = shift + scale * rng.standard_normal((100, 1))
            if bet.update({"x": (rng.standard_normal((100, RANKS)) < draws).sum(1)}) > bet.threshold:
                break
        needed.append(100 * batches)
    assert np.median(needed) < 5000 and max(needed) < 20_000
