"""Rates and critical sizes: verdicts on made-up data whose answer is known, predictions from the data, kernels of small networks."""

import numpy as np
import pytest
import torch

from grokutils.experiments import rates_and_data as registry
from grokutils.experiments.committee_posterior import agreement, committee_posterior, equilibrium
from grokutils.experiments.rates_and_data import RIDGES, crossing, data_rate, kernels, log_slope
from grokutils.problems import Committee, ToyAddition
from grokutils.theory import committee as cm


def test_slope_of_a_law_and_of_no_law():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 8)
    predicted = np.exp(np.repeat(rng.normal(0, 2, 12), 8) + rng.normal(0, 0.3, 96))
    law = log_slope(predicted, 3 * predicted * np.exp(rng.normal(0, 0.1, 96)), groups)
    assert law["slope_low"] < 1 < law["slope_high"] and law["rank"] > 0.95 and law["within"] > 0.7
    assert law["ratio"] == pytest.approx(3, rel=0.1) and law["scatter"] < 0.15
    order = log_slope(predicted, predicted**0.3, groups)
    assert order["slope_high"] < 0.5 and order["rank"] == pytest.approx(1)
    between = log_slope(predicted, np.exp(np.repeat(np.log(predicted).reshape(12, 8).mean(1), 8) + rng.normal(0, 0.01, 96)), groups)
    assert between["rank"] > 0.9 and abs(between["within"]) < 0.35  # good ranks overall, none inside the groups
    missing = predicted.copy()
    missing[:5] = np.nan
    assert log_slope(predicted, missing, groups, draws=0)["members"] == 91


def test_crossing():
    x, e = np.arange(5.0), np.full(5, 0.01)
    assert crossing(x, [0, 0.2, 0.4, 0.8, 1], e) == (pytest.approx(2.25), pytest.approx(np.hypot(0.75, 0.25) * 0.01 / 0.4))
    assert crossing(x, [0, 0.6, 0.4, 0.8, 1], e)[0] == pytest.approx(2.25)  # for good
    assert np.isnan(crossing(x, [0, 0.1, 0.2, 0.3, 0.4], e)).all() and np.isnan(crossing(x, np.ones(5), e)).all()


def test_rate_from_the_data_tends_to_the_law_and_is_the_growth_of_the_first_step():
    base = Committee(dimension=10, samples=200_000, width=50, laziness=2.0, curvature=0.1, step_size=0.3, seed=1)
    assert data_rate(base)[1] == pytest.approx(cm.time_law(base, cm.draw(base)), rel=0.05)
    p = base.replace(samples=40)
    given = cm.draw(p, wide=True)
    grow = data_rate(p, given)[0]
    run = cm.run(p, 1, record=[0, 1], given=given, states=True)
    first = run.moment.values[1] - np.outer(run["mean"].values[1], run["mean"].values[1])  # B B^T
    assert np.linalg.eigvalsh(first)[-1] == pytest.approx((1 + grow) ** 2, rel=1e-10)
    population = 2 * p.step_size * p.curvature / p.laziness * 3 * np.trace(given.target) / (2 * p.dimension**2)
    assert abs(grow / population - 1) > 0.02  # so that the test tells the two apart


def test_kernels_of_small_networks():
    torch.manual_seed(0)
    ds = kernels(ToyAddition(5), 12, seeds=2, steps=300, width=16, embedding_rate=1e-2, decoder_rate=3e-3)
    assert ds.start_accuracy.shape == (2, len(RIDGES))
    share = 12 / 15
    for name in ("accuracy", "end_accuracy"):
        np.testing.assert_allclose(ds[name], share * ds[f"seen_{name}"] + (1 - share) * ds[f"unseen_{name}"])
    assert (ds.movement > 1e-3).all() and (ds.end_modes <= 15).all()
    still = kernels(ToyAddition(5), 12, seeds=2, steps=0, width=16)
    np.testing.assert_allclose(still.movement, 0, atol=1e-6)
    np.testing.assert_array_equal(still.start_accuracy[:, 0], still.end_accuracy[:, 0])


def test_equilibrium_runs_and_their_registry():
    p = Committee(dimension=4, samples=30, width=12, laziness=1.0, curvature=0.2, step_size=1.0)
    ds = equilibrium(p, 2.0, seeds=2, draws=40, warmup=60, thin=2)
    assert np.isfinite(ds.to_array().values).all() and ds.sizes["seed"] == 2
    assert len({run.key for run in committee_posterior()}) == len(committee_posterior())
    assert len({run.key for run in registry()}) == len(registry())
    with pytest.raises(ValueError, match="sweep"):
        committee_posterior("noise")
    assert agreement([]) == {}
