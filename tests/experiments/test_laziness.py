"""Laziness, curvature and scale: the exact change of variables, the map of delays, momentum, and what is stored."""

import math

import numpy as np
import pytest
import xarray as xr

from grokutils.descent import GradientDescent
from grokutils.descent import committee as networks
from grokutils.experiments import EXPERIMENTS, laziness
from grokutils.experiments.laziness import FEW_SAMPLES, MAP_LAZINESS, PRODUCTS, SCALES, delays, momentum, reached, scaled
from grokutils.problems import Committee
from grokutils.theory import committee as cm

SMALL = Committee(dimension=8, samples=40, width=12, laziness=0.5, curvature=0.3, step_size=1.0, seed=2)


def stored(part):
    """The datasets of a part; the test is skipped where one is missing."""
    found = [run.load() for run in laziness(part)]
    if any(ds is None for ds in found):
        pytest.skip(f"{part} is not stored: make results")
    return found


def test_runs_are_distinct():
    runs = laziness()
    assert EXPERIMENTS["laziness"] is laziness and len({run.key for run in runs}) == len(runs) == 18
    assert [run.problem.laziness for run in laziness("map")] == list(MAP_LAZINESS)
    assert [run.problem.samples for run in laziness("samples")] == list(FEW_SAMPLES)
    with pytest.raises(ValueError, match="part must be one of"):
        laziness("width")


def test_a_large_start_is_another_problem_exactly():
    sigma = 1.7
    large = networks.train(SMALL, 2, 100, GradientDescent(SMALL.learning_rate / sigma**2), scale=sigma, progress=False)
    same = networks.train(scaled(SMALL, SMALL.laziness, sigma), 2, 100, progress=False)
    np.testing.assert_allclose(large.test_loss, same.test_loss, rtol=1e-9)
    np.testing.assert_allclose(large.weights, sigma * same.weights, rtol=1e-9)
    wrong = networks.train(scaled(SMALL, SMALL.laziness, sigma).replace(step_size=1.0), 2, 100, progress=False)
    assert not np.allclose(large.test_loss, wrong.test_loss, rtol=1e-2)
    # the time law knows the product alone
    laws = [cm.time_law(scaled(SMALL.replace(step_size=1e-3), 2 / s**2, s)) for s in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose(laws, laws[0], rtol=1e-3)


def test_reached_uses_both_rules():
    ds = xr.Dataset({name: ("step", [2.0, 1.0, 0.15, 0.05]) for name in ("train_loss", "test_loss")}, coords={"step": [0, 1, 2, 3]})
    times = reached(ds)
    assert times.shape == (2, 2) and (times[0] == times[1]).all()
    assert 2 < times[0, 0] < 3 and 1 < times[0, 1] < 2  # below 0.1, and below 0.2


def test_delays_do_not_depend_on_the_faster_steps():
    """Times in units of the problem's own step, against a run with that step: equal for small steps."""
    p = SMALL.replace(step_size=0.02, curvature=0.5)
    ds = delays(p, curvatures=(0.5,), horizon=4000, seeds=1)
    plain = cm.run(p, 4000, every=1)
    for name in ("train", "test"):
        expected = cm.first_below(plain[f"{name}_loss"], 0.1)
        found = float(ds[f"{name}_time"].sel(rule="relative").item())
        assert math.isnan(expected) is math.isnan(found) and (math.isnan(expected) or found == pytest.approx(expected, rel=0.03))
    assert np.isfinite(ds.train_time.sel(rule="relative")).all()
    assert float(ds.peak.item()) == pytest.approx(float(plain.test_loss.max() / plain.test_loss[0]), rel=0.02)


def test_momentum_returns_the_same_start_for_both():
    ds = momentum(SMALL, steps=30, momentum=0.5, seeds=2, records=8)
    assert ds.optimiser.values.tolist() == ["plain", "momentum"]
    np.testing.assert_array_equal(ds.test_loss[0, :, 0], ds.test_loss[1, :, 0])
    first = ds.sel(step=1)
    moved = abs(first.train_loss - ds.train_loss.sel(step=0))
    assert (moved[1] < moved[0]).all()  # half the rate, no memory yet


def test_stored_times_depend_on_the_product_of_laziness_and_squared_scale():
    sets, k = stored("scale"), 0
    for _ in PRODUCTS:
        times = [np.exp(np.log(sets[k + j].train_time.sel(share=0.1, method="nearest")).mean()).item() for j in range(len(SCALES))]
        k += len(SCALES)
        assert max(times) / min(times) < 1.15
    assert sets[-1].train_time.sel(share=0.1, method="nearest").mean() > 5 * sets[0].train_time.sel(share=0.1, method="nearest").mean()


def test_stored_growth_with_momentum_is_slower_by_the_root_of_the_quadratic():
    """The ratio of the times to 30 % of the training loss: three standard errors, and two hundredths for what the law leaves out."""
    (run,), (ds,) = laziness("momentum"), stored("momentum")
    p = run.problem
    size = np.array([np.trace(cm.draw(p.replace(seed=int(s))).target) for s in ds.seed])
    gamma = 3 * p.step_size * p.curvature / (p.laziness * p.dimension**2) * size
    b = 1.95 + 0.05 * gamma
    predicted = np.log1p(gamma) / np.log((b + np.sqrt(b**2 - 3.8)) / 2)
    times = ds.train_time.sel(share=0.3, method="nearest").transpose("optimiser", "seed").values
    ratio = times[1] / times[0]
    assert abs(ratio.mean() - predicted.mean()) < 3 * ratio.std(ddof=1) / len(ratio) ** 0.5 + 0.02
    assert predicted.mean() > 1.15


def test_stored_few_data_and_map():
    ends = [(ds.test_loss[:, -1] / ds.test_loss[:, 0]).values for ds in stored("samples")]
    assert all(np.diff([end.mean() for end in ends]) < 0) and ends[1].min() > 0.2 and ends[-1].max() < 0.1
    sets = stored("map")
    delay = np.array([(ds.test_time - ds.train_time).sel(rule="absolute").median("seed", skipna=False).values for ds in sets])
    both = np.isfinite(delay[1:]) & np.isfinite(delay[:-1])
    assert (np.diff(delay, axis=0)[both] > 0).all() and both.sum() >= 6  # grows with laziness
    across = np.isfinite(delay[:, 1:]) & np.isfinite(delay[:, :-1])
    assert (np.diff(delay, axis=1)[across] < 0).all() and across.sum() >= 6  # and with misalignment
