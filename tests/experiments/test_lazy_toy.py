"""Laziness in the toy of additions: the kernel, the clock, the limits of both knobs, and what the verdict makes of sweeps that are known."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

from grokutils.descent import GradientDescent, Perceptron, representation
from grokutils.experiments import EXPERIMENTS
from grokutils.experiments.lazy_toy import (
    CURVES,
    LAZINESS,
    RATIOS,
    centred_alignment,
    ends,
    laziness_verdict,
    lazy_toy,
    lazy_training,
    step_size,
    tangent_kernels,
    training_sets,
)
from grokutils.problems import ToyAddition

TOY = ToyAddition(10)
SHORT = dict(horizon=20.0, seeds=(0, 3), width=12, records=12, kept=12)


def curve(ds, name):
    return ds.curves.sel(curve=name).values


def test_kernel_is_that_of_automatic_differentiation():
    network, pairs = Perceptron((2, 5, 6, 4), "tanh"), representation.table_of(TOY)[0][::5]
    generator = np.random.default_rng(0)
    parameters = network.initial([0, 1], dtype=torch.float64) | {"embedding": torch.as_tensor(generator.normal(size=(2, 10, 2)))}

    def outputs(p):
        x = p["embedding"][pairs[:, 0]] + p["embedding"][pairs[:, 1]]
        return network.forward({k: v[None] for k, v in p.items()}, x[None])[-1][0]

    decoder, embedding = tangent_kernels(parameters, pairs)
    for m in range(2):
        slopes = {k: v.flatten(2) for k, v in torch.func.jacrev(outputs)({k: v[m] for k, v in parameters.items()}).items()}
        each = {k: torch.einsum("aok,bok->ab", v, v) / 4 for k, v in slopes.items()}
        torch.testing.assert_close(embedding[m], each.pop("embedding"))
        torch.testing.assert_close(decoder[m], sum(each.values()))
    shared = np.array([[len({*a} & {*b}) for b in pairs.tolist()] for a in pairs.tolist()])
    assert (embedding[:, shared == 0] == 0).all()


def test_alignment_is_one_for_equal_kernels_and_blind_to_constants():
    a = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k = a @ a.mT
    torch.testing.assert_close(centred_alignment(k, 3 * k + 7), torch.ones(3, dtype=torch.float64))
    assert (centred_alignment(k, torch.eye(8).double().expand(3, 8, 8)) < 0.95).all()


def test_training_is_that_of_representation_train():
    ds = lazy_training(TOY, 0.5, 0.1, momentum=0.0, rate=0.1, **SHORT)
    rate = 0.1 / 0.5**2
    sets = training_sets(TOY, 45, (0, 3))
    whole = representation.train(
        TOY, sets, [0, 3], 200, embedding=GradientDescent(0.1 * rate), decoder=GradientDescent(rate), width=12, laziness=0.5, centred=True,
        record=(ds.time.values / 0.1).round().astype(int), progress=False)
    for name in ("train_loss", "test_loss", "train_accuracy"):
        np.testing.assert_allclose(curve(ds, name), whole[name].values, atol=2e-5)
    moved = whole.embedding.values[:, -1] - whole.embedding.values[:, 0]
    relative = np.linalg.norm(moved, axis=(1, 2)) / np.linalg.norm(whole.embedding.values[:, 0], axis=(1, 2))
    np.testing.assert_allclose(curve(ds, "movement")[:, -1], relative, rtol=1e-3)
    assert curve(ds, "train_loss")[:, -1].max() < curve(ds, "train_loss")[:, 0].min()


def test_the_clock_and_the_lazy_limit():
    one, two = (lazy_training(TOY, alpha, rate=0.5, momentum=0.0, **SHORT) for alpha in (30.0, 120.0))
    np.testing.assert_allclose(curve(one, "train_loss"), curve(two, "train_loss"), rtol=0.01)  # alpha has left the outputs
    for name in ("movement", "decoder_movement", "drift"):
        np.testing.assert_allclose(curve(one, name)[:, -1] / curve(two, name)[:, -1], 4, rtol=0.15)  # and is in the parameters
    rich = lazy_training(TOY, 0.5, rate=0.1, momentum=0.0, **SHORT)
    assert abs(curve(rich, "train_loss")[:, -1] - curve(two, "train_loss")[:, -1]).max() > 0.02
    slow = lazy_training(TOY, 30.0, rate=0.05, momentum=0.9, **SHORT)
    np.testing.assert_allclose(curve(slow, "train_loss")[:, -1], curve(one, "train_loss")[:, -1], rtol=0.02)


def test_no_ratio_no_movement():
    ds = lazy_training(TOY, 1.0, 0.0, rate=0.1, momentum=0.9, **SHORT)
    assert (curve(ds, "movement") == 0).all()
    assert (curve(ds, "decoder_movement")[:, -1] > 0.05).all()
    assert ds.attrs["ratio"] == 0


def test_a_member_that_is_done_stays():
    ds = lazy_training(TOY, 1.0, 1.0, rate=0.1, momentum=0.9, enough=0.99, **SHORT)
    loss = curve(ds, "train_loss")
    assert (ds.last_time.values < 20).any()
    for k in np.flatnonzero(ds.last_time.values < 20):
        after = loss[k, ds.time.values >= ds.last_time.values[k]]
        assert len(after) > 1
        assert np.ptp(after) == 0
        assert after[0] < 0.99


def test_step_sizes_and_runs():
    assert step_size(1.0) == pytest.approx(0.1)
    assert step_size(100.0) == 0.5
    runs = lazy_toy()
    assert EXPERIMENTS["lazy_toy"] is lazy_toy
    assert len({run.key for run in runs}) == len(runs) == len(LAZINESS) + len(RATIOS) - 1
    assert [run.settings["laziness"] for run in lazy_toy("laziness")] == list(LAZINESS)
    assert [run.settings["ratio"] for run in lazy_toy("ratio")] == list(RATIOS)
    with pytest.raises(ValueError, match="sweep must be"):
        lazy_toy("width")


def fake(laziness, ratio, movement, accuracy):
    """A stored run of eight seeds that ends like this."""
    curves = np.zeros((len(CURVES), 8, 2), np.float32)
    curves[CURVES.index("movement"), :, 1], curves[CURVES.index("test_accuracy"), :, 1] = movement, accuracy
    times = {name: ("seed", np.full(8, math.nan)) for name in ("first_train", "first_test", "first_rqi", "best")}
    data = {"curves": (("curve", "seed", "time"), curves)} | times
    return xr.Dataset(data, {"curve": list(CURVES), "seed": range(8), "time": [0, 1]}, dict(laziness=laziness, ratio=ratio))


@pytest.mark.parametrize("less", [0.0, 0.3])
def test_verdict_of_sweeps_that_are_known(less):
    noise = np.random.default_rng(0).normal(size=(4, 8))
    move, accuracy = np.array([0.1, 0.3, 1.0, 3.0]), np.array([0.35, 0.45, 0.9, 0.95])
    lazy = [fake(2 / m, 1.0, m, a - less + 0.005 * z) for m, a, z in zip(move / 2, accuracy, noise, strict=True)]
    ratio = [fake(1.0, m, m, a + 0.005 * z) for m, a, z in zip(move / 2, accuracy, noise, strict=True)]
    found = laziness_verdict(lazy, ratio, resamples=50)
    value, error = found["gap"]
    assert value == pytest.approx(-less, abs=0.01)
    assert error < 0.01
    for name in ("laziness", "ratio", "movement laziness", "movement ratio"):
        assert found[name][0] > 0.95
    assert ends(lazy).knobs.sel(knob="laziness").values == pytest.approx(4 / move)


def test_stored_runs_say_what_the_chapter_says():
    sweeps = {name: [run.load() for run in lazy_toy(name)] for name in ("laziness", "ratio")}
    if any(ds is None for found in sweeps.values() for ds in found):
        pytest.skip("not stored: make results")
    found = laziness_verdict(sweeps["laziness"], sweeps["ratio"], resamples=200)
    assert found["laziness"][0] > 4 * found["laziness"][1]
    assert found["ratio"][0] > 4 * found["ratio"][1]
    value, error = found["gap"]
    assert value < -3 * error  # no collapse
    assert abs(found["movement laziness"][0]) < 0.3
    last = {ds.attrs["laziness"]: ds for ds in sweeps["laziness"]}
    assert np.isfinite(last[8.0].first_train).all()
    assert np.isnan(last[8.0].first_test).all()
    assert np.isnan(last[32.0].first_train).all()
