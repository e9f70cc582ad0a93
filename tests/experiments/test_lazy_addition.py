"""Times and orders of what rises while a network learns: on curves whose answer is known, and on a tiny run."""

import numpy as np
import pytest
import xarray as xr

from grokutils.experiments.lazy_addition import PROGRESS, crossing_order, crossing_times, delays, followed, interval, lazy, lazy_addition, populations
from grokutils.modular import AdditionTask

STEP = np.unique(np.r_[0, np.geomspace(1, 1000, 80).round().astype(int)])


def curves(places, seed=0, scatter=0.05, members=12):
    """Sigmoids in the logarithm of the step, from 2 to 5, around given steps; every member's are shifted together, and each a little."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.3, members)
    data = {}
    for name, place in places.items():
        centre = np.log(place) + common + rng.normal(0, scatter, members)
        with np.errstate(divide="ignore"):
            data[name] = (("member", "step"), 2 + 3 / (1 + np.exp(-8 * (np.log(STEP) - centre[:, None]))))
    return xr.Dataset(data, coords={"step": STEP, "member": range(members)})


def test_crossing_times_are_those_of_the_curves():
    ds = curves({"a": 40.0}, scatter=0.0)
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(crossing_times(ds, ["a"])[0], 40 * np.exp(rng.normal(0, 0.3, 12)), rtol=0.03)
    assert (crossing_times(ds, ["a"], 0.25) < crossing_times(ds, ["a"], 0.75)).all()
    falling = ds.assign(a=-ds.a)  # what falls from start to end crosses at the same place
    np.testing.assert_allclose(crossing_times(falling, ["a"]), crossing_times(ds, ["a"]))


@pytest.mark.statistical
def test_orders_are_found_and_ties_are_undecided():
    # ties: 200 verdicts at a false-alarm rate of 5 % for three pairs, so that at most 10 % wrong is beyond five standard deviations
    order = crossing_order(curves({"a": 30.0, "b": 60.0, "c": 20.0}), ["a", "b", "c"]).set_index(["first", "second"]).verdict
    assert order.to_dict() == {("a", "b"): "before", ("a", "c"): "after", ("b", "c"): "after"}
    wrong = sum((crossing_order(curves(dict.fromkeys("abc", 40.0), seed), list("abc")).verdict != "undecided").any() for seed in range(1, 201))
    assert wrong <= 20


def test_an_interval_is_student_s():
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5 and high - mean == pytest.approx(mean - low) == pytest.approx(3.18245 * np.sqrt(5 / 3) / 2, rel=1e-5)


def test_a_tiny_run_has_everything_and_delays():
    task = AdditionTask(5, 8, 0.8)
    ds = followed(task, learning_rate=50.0, steps=600, laziness=2.0, seeds=3, records=10)
    assert {*PROGRESS, "train_loss", "test_loss", "histogram"} <= set(ds) and ds.sizes["member"] == 3
    assert ds.step.values[0] == 0 and ds.step.values[-1] == 600
    table = delays([(lazy_addition()[2], ds)], level=0.5)
    reached = np.isfinite(ds.train_time[:, 0]) & np.isfinite(ds.test_time[:, 0])
    assert int(table.never[0]) == 3 - int(reached.sum())


def test_the_lazy_twin_starts_with_the_network():
    task = AdditionTask(5, 8, 0.8)
    twin = lazy(task, learning_rate=50.0, steps=100, seeds=2, records=4)
    ds = followed(task, learning_rate=50.0, steps=100, seeds=2, records=4)
    np.testing.assert_allclose(twin.train_loss[:, 0], ds.train_loss[:, 0], rtol=1e-5)
    assert np.isinf(twin.step.values[-1]) and (twin.train_loss[:, -1] <= twin.train_loss[:, -2] + 1e-12).all()


def test_two_humps_are_seen_and_one_is_not():
    bins = (np.arange(16) + 0.5) / 16
    one, flat, two = (np.exp(-((bins - 0.4) ** 2) / 0.02), np.ones(16), np.exp(-((bins - 0.4) ** 2) / 0.02) + np.exp(-((bins - 1) ** 2) / 0.02))
    counts = np.random.default_rng(0).poisson(60 * np.stack([one, flat, two]), (12, 3, 16))
    found = populations(xr.Dataset({"histogram": (("member", "step", "bin"), counts)}, coords={"step": [0, 1, 2], "bin": bins}))
    assert found.depth[0] > 2  # nothing at the upper end
    assert found.low[1] < 1.05 and found.high[1] > 0.8  # flat: compatible with no valley, but for the smaller of two counts
    assert found.high[2] < 0.4
    assert found.pure[2] > found.pure[0]
