"""The stored runs of laziness in general settings: what they keep, and the exponent read off them."""

import numpy as np
import pytest

from grokutils import experiments
from grokutils.experiments import general
from grokutils.experiments.general import delay_slope, trained_hermite, trained_images, trained_students, trained_transformer
from grokutils.problems import Committee

FAMILIES = ("student_teacher", "lazy_images", "lazy_transformer", "multi_index", "hermite_targets", "lazy_images_paper", "lazy_transformer_paper")


def test_every_run_has_its_own_name_and_is_registered():
    runs = [run for name in FAMILIES for run in getattr(experiments, name)()]
    assert len({run.key for run in runs}) == len(runs)
    assert set(FAMILIES) <= set(experiments.EXPERIMENTS) | set(experiments.ON_DEMAND)
    assert {name for name in FAMILIES if name.endswith("paper")} <= set(experiments.ON_DEMAND)
    assert all(run.function.seconds(run.problem, **run.settings) > 0 for run in runs)


def test_an_exponent_is_recovered():
    """Times with r = 3 alpha^0.7 and scatter; scatter of the fit, which test and training share, has no effect."""
    alphas, rng = np.array([0.1, 0.5, 2.0, 8.0]), np.random.default_rng(0)
    fit = 100 * np.exp(rng.normal(size=(4, 10)))
    test = fit * 3 * alphas[:, None] ** 0.7
    slope, half, missing = delay_slope(fit, test, alphas, [1e6] * 4)
    assert slope == pytest.approx(0.7)
    assert half < 1e-6
    assert missing == 0
    noisy, half, _ = delay_slope(fit, test * np.exp(0.1 * rng.normal(size=test.shape)), alphas, [1e6] * 4)
    assert 0 < half < 0.1
    assert abs(noisy - 0.7) < 5 * half


def test_missing_times_make_a_lower_bound():
    alphas = np.array([1.0, 10.0])
    fit, test = np.full((2, 3), 10.0), np.array([[20.0] * 3, [np.nan, 2000.0, 2000.0]])
    slope, _, missing = delay_slope(fit, test, alphas, [1000, 1000])
    assert missing == 1
    assert slope == pytest.approx((2 * 2 + np.log10(1000 / 20)) / 3)  # two seeds with exponent 2, one with the last step
    fit[0, 2] = np.nan  # a seed that has not fitted is left out
    assert delay_slope(fit, test, alphas, [1000, 1000])[0] == pytest.approx((2 + np.log10(1000 / 20)) / 2)
    with pytest.raises(ValueError, match="two cells"):
        delay_slope(fit[:1], test[:1], alphas[:1], [1000])


def test_students_keep_when_they_are_right():
    problem = general.StudentTeacher(samples=10, test=10, width=6)
    ds = trained_students(problem, [0.5, 2.0], 300, rate=1e-2, seeds=2)
    assert dict(ds.sizes) | {"cell": 2, "seed": 2} == dict(ds.sizes)
    later = np.diff(ds.train_time.values, axis=2)
    assert (later[np.isfinite(later)] <= 0).all()  # larger thresholds earlier
    assert np.isfinite(later).any()
    reached = np.isfinite(ds.test_time.values)
    assert reached.any()
    assert ((ds.test_accuracy.values[..., -1, :, None] >= ds.share.values - 1e-6) <= reached).all()
    assert (ds.train_fall.values[..., 0] <= np.nan_to_num(ds.train_fall.values[..., 1], nan=np.inf)).all()
    np.testing.assert_allclose(ds.label_power[0], ds.label_power[1])  # the same teachers at every laziness


def test_images_end_once_they_have_learnt():
    problem = general.DIGITS.replace(samples=40, width=16)
    ds = trained_images(problem, [0.01, 1.0], 300, rate=1e-2, seeds=2, batch=20, until=(0.5, 0.3))
    assert ds.train_time.dims == ("cell", "seed", "level")
    ended = np.isnan(ds.test_accuracy.values[..., -1])
    assert ended.any()
    longer = trained_images(problem, [1.0], 300, rate=1e-2, seeds=2, batch=20, until=(2.0, 2.0))
    assert np.isfinite(longer.test_accuracy.values).all()
    both = np.isfinite(ds.test_accuracy.values[1])
    np.testing.assert_allclose(ds.test_accuracy.values[1][both], longer.test_accuracy.values[0][both], atol=0.02)


def test_transformers_keep_times_and_norms():
    problem = general.ADDITION.replace(modulus=5, dimension=8, hidden=8)
    ds = trained_transformer(problem, 1.0, 1.0, 300, rate=1e-2, every=10, seeds=2)
    assert ds.train_time.shape == (2, 4)
    assert (np.diff(np.nan_to_num(ds.train_time.values, nan=1e9), axis=1) >= 0).all()
    assert (ds.movement > 0).all()
    decays = trained_transformer(problem, 1.0, 50.0, 300, rate=1e-3, every=10, seeds=2)
    assert (decays.norm[:, 1] < 0.5 * decays.norm[:, 0]).all()
    assert ds.attrs["rate"] == pytest.approx(1e-2)
    assert trained_transformer(problem, 2.0, 1.0, 10, rate=1e-2, seeds=1).attrs["rate"] == pytest.approx(1e-2 / 4)


def test_hermite_runs_fall():
    problem = Committee(4, 60, 20, 1.0, 0.1, 0.1, target_scale=6**-0.5)
    ds = trained_hermite(problem, 3, 400, seeds=2)
    assert ds.test_loss.dims == ("seed", "step")
    assert (ds.train_loss[:, -1] < ds.train_loss[:, 0]).all()
    linear = trained_hermite(problem, 2, 50, target=1, seeds=2)
    assert not np.allclose(linear.train_loss[:, 0], ds.train_loss[:, 0])


def test_several_indices_are_several_runs():
    problem = Committee(4, 30, 8, 1.0, 0.2, 0.5, directions=2)
    ds = general.trained_indices(problem, [0.5, 2.0], 60)
    assert ds.train_loss.dims == ("cell", "seed", "step")
    one = general.curves(problem.replace(laziness=2.0), steps=60)
    np.testing.assert_array_equal(ds.test_loss[1], one.test_loss)
    assert not np.allclose(ds.test_loss[0, :, -1], ds.test_loss[1, :, -1])
