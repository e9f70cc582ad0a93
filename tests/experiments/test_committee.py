"""The stored sweeps of committee machines: what they are, and a table that other code measured with one seed."""

import math

import numpy as np
import pytest

from grokutils.experiments import EXPERIMENTS, committee
from grokutils.experiments.committee import REDUCED, SWEEPS, curves
from grokutils.theory import committee as cm


def stored(sweep):
    """(value of the swept parameter, dataset) of what is stored; the test is skipped where something is missing."""
    runs = committee(sweep)
    loaded = [(getattr(run.problem, SWEEPS[sweep][0]), run.load()) for run in runs]
    if any(ds is None for _, ds in loaded):
        pytest.skip(f"{sweep} is not stored: make results")
    return dict(loaded)


def test_sweeps_are_made_of_distinct_runs():
    runs = committee()
    assert EXPERIMENTS["committee"] is committee and len({run.key for run in runs}) == len(runs) == 22
    for name, (parameter, values) in SWEEPS.items():
        assert [getattr(run.problem, parameter) for run in committee(name)] == list(values)
        assert {run.key for run in committee(name)} <= {run.key for run in runs}
    assert all(run.settings["steps"] >= 6000 and run.settings.get("seeds", 10) == 10 for run in runs)
    with pytest.raises(ValueError, match="sweep must be one of"):
        committee("width")


def test_curves_keep_times_of_a_finer_record():
    p = REDUCED.replace(dimension=8, samples=30, width=10, curvature=0.3, seed=2)
    ds = curves(p, steps=500, seeds=2, records=20)
    dense = cm.run(p, 500, every=1)
    np.testing.assert_allclose(ds.train_loss[0], dense.train_loss.sel(step=ds.step), rtol=1e-12)
    assert len(ds.step) <= 21 and ds.step[0] == 0 and ds.step[-1] == 500
    for name in ("train", "test"):
        for share in (0.3, 0.1):
            fine, kept = cm.first_below(dense[f"{name}_loss"], share), float(ds[f"{name}_time"].sel(seed=2, share=share))
            assert math.isnan(fine) is math.isnan(kept)
            assert math.isnan(fine) or kept == pytest.approx(fine, rel=0.03, abs=0.3)


def test_stored_curves_are_what_the_code_gives_today():
    ds = stored("laziness")[1]
    steps = ds.step.values[ds.step.values <= 300]
    live = cm.run(REDUCED.replace(seed=7), 300, record=steps)
    for name in ("train_loss", "test_loss", "misalignment", "alignment", "weight_norm"):
        np.testing.assert_allclose(ds[name].sel(seed=7, step=steps), live[name], rtol=1e-5)
    for seed in (0, 9):
        p = REDUCED.replace(seed=seed)
        given = cm.draw(p)
        one = ds.sel(seed=seed)
        assert float(one.time_law) == pytest.approx(cm.time_law(p, given), rel=1e-6)
        assert float(one.lazy_test_loss) == pytest.approx(cm.kernel_regression(p, given).test_loss, rel=1e-5)


# One seed with |beta|^2 of about 50, measured with independent code: (10 % time of training, of test; end of the test loss; end of the norm).
# The end is step 12000 for laziness, and 8000 for curvature and samples.
LAZINESS = {1 / 16: (17, 68, 9e-5, 1273), 0.25: (47, 187, 9e-4, 639), 1: (155, 798, 0.0078, 324), 4: (482, 4377, 0.053, 171),
            16: (1499, None, 0.22, 100)}
CURVATURE = {0.02: (416, 1771, 0.0184), 0.05: (149, 808, 0.0107), 0.1: (68, 470, 0.0137), 0.25: (24, 273, 0.0465), 0.5: (11, None, 0.109),
             1.0: (5, None, 0.199)}
SAMPLES = {120: (168, None, 0.325), 160: (228, 4649, 0.033), 200: (149, 808, 0.011), 400: (179, 290, 3.8e-4), 800: (228, 273, 9e-5)}


def deviation(values, expected):
    """Standard deviations (over seeds, of one logarithm) between the seeds' geometric mean and one measured value."""
    z = np.log(np.asarray(values)[np.isfinite(values)])
    return (math.log(expected) - z.mean()) / z.std(ddof=1)


def at(ds, name, step):
    """A curve (seed, step) at one step, interpolated on double logarithmic scale."""
    return np.array([math.exp(np.interp(math.log(step), np.log(ds.step[1:]), np.log(curve[1:]))) for curve in ds[name]])


@pytest.mark.parametrize(("sweep", "table", "end"), [("laziness", LAZINESS, 12_000), ("curvature", CURVATURE, 8000), ("samples", SAMPLES, 8000)])
def test_table_of_one_seed_lies_among_ten(sweep, table, end):
    """Three standard deviations of a seed; a comparison with t on 9 degrees of freedom fails by chance with p = 0.015, the seeds are fixed."""
    sets = stored(sweep)
    found = []
    for value, row in table.items():
        ds = sets[value]
        for name, time in zip(("train_time", "test_time"), row):
            times = ds[name].sel(share=0.1, method="nearest").values
            if time is not None and np.isfinite(times).sum() >= 8:
                found.append(deviation(times, time))
        found.append(deviation(at(ds, "test_loss", end), row[2]))
    assert np.abs(found).max() < 3 and len(found) >= 10


def test_final_norm_within_the_spread_of_the_targets():
    """The measured norms, with |beta|^2 = 50.5, against the law at that |beta|^2 and against the seeds."""
    for laziness, ds in stored("laziness").items():
        if laziness in LAZINESS and laziness <= 1:
            measured = LAZINESS[laziness][3]
            assert measured == pytest.approx(math.sqrt(100 * (40 + 50.5 / (laziness * 0.05))), rel=0.005)
            law = np.sqrt(ds.weight_norm[:, 0] ** 2 + 100 * ds.target_norm2 / (laziness * 0.05))
            np.testing.assert_allclose(ds.weight_norm[:, -1], law, rtol=0.02)


def test_what_the_sweeps_say():
    """Delay and final loss grow with laziness; the rise shrinks with curvature; few data never generalise, many have no delay."""
    def mean(ds, name, share=0.1):
        return float(np.log(ds[name].sel(share=share, method="nearest")).mean("seed"))

    sets = stored("laziness")
    delays = [mean(sets[a], "test_time") - mean(sets[a], "train_time") for a in (1 / 16, 1 / 4, 1)]
    ends = [float(np.log(sets[a].test_loss[:, -1]).mean()) for a in sorted(sets)]
    assert (np.diff(delays) > 0).all() and (np.diff(ends) > 0).all()
    assert sets[64].test_loss[:, -1].mean() < 0.9 * sets[64].lazy_test_loss.mean()  # not lazy for ever
    rises = [float((ds.test_loss.max("step") / ds.test_loss[:, 0]).mean()) for _, ds in sorted(stored("curvature").items())]
    assert (np.diff(rises) <= 0).all() and rises[0] > 1.2 and rises[-1] == 1
    sets = stored("samples")
    generalised = [np.isfinite(sets[n].test_time.sel(share=0.1, method="nearest")).sum().item() for n in sorted(sets)]
    assert generalised[0] == 0 and generalised[-1] == 10 and (np.diff(generalised) >= 0).all()
    assert mean(sets[800], "test_time") - mean(sets[800], "train_time") < 0.5 < mean(sets[200], "test_time") - mean(sets[200], "train_time")
