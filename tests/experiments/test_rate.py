"""Embeddings that become linear: the criterion, the training sets, and the crossed initial conditions against the ordinary training."""

import numpy as np
import pytest
import xarray as xr

from grokutils.descent import AdamW, representation
from grokutils.experiments import rate
from grokutils.problems import ToyAddition
from grokutils.theory import toy_addition as ta

TEN = ToyAddition(10)


def test_linear_embeddings_are_linear_and_no_others():
    line = 3 - 0.2 * np.arange(10.0)
    swapped = line[[1, 0, *range(2, 10)]]
    several = np.stack([line, swapped, np.full(10, np.nan)])[..., None]
    assert rate.linear(TEN, several).tolist() == [True, False, False]


def test_first_linear_is_the_first_record_and_nan_without_one():
    line, other = np.arange(10.0), np.random.default_rng(0).uniform(size=10)
    paths = np.array([[other, line, other], [other, other, other], [line, line, line]])[..., None]
    curves = xr.DataArray(paths, dims=("member", "step", "symbol", "coordinate"), coords={"step": [0, 20, 40]})
    np.testing.assert_array_equal(rate.first_linear(TEN, curves), [20, np.nan, 0])


def test_determining_sets_determine_the_representation():
    assert (ta.nullity(TEN, rate.determining_sets(TEN, 22, 30)) == 2).all()
    assert (ta.nullity(TEN, ta.random_sets(TEN, 22, 30)) > 2).any()  # so that the choice has something to do


def test_determining_sets_say_when_there_are_too_few():
    with pytest.raises(ValueError, match=r"pairs must be so many .* got 12"):
        rate.determining_sets(TEN, 12, 5)


def test_crossed_members_are_those_of_the_ordinary_training():
    settings = dict(steps=1200, width=16, every=50, embedding_rate=1e-2, decoder_rate=3e-3)
    crossed = rate.crossed(TEN, embeddings=3, labels=3, decoders=3, **settings)
    chosen = ta.all_pairs(TEN)[crossed.training.values]
    plain = representation.train(TEN, [chosen] * 3, range(3), 1200, embedding=AdamW(1e-2), decoder=AdamW(3e-3), width=16, every=50, progress=False)
    same = crossed["first"].values[range(3), range(3), range(3)]
    assert np.isfinite(same).any()
    np.testing.assert_array_equal(same, rate.first_linear(TEN, plain.embedding))
    times = crossed["first"].values
    for axis in range(3):  # each factor is really varied
        assert (np.nan_to_num(times) != np.nan_to_num(times.take([0], axis))).any(), crossed["first"].dims[axis]


def test_linearisation_has_each_network_on_each_set():
    ds = rate.linearisation(TEN, 44, sets=2, seeds=3, steps=600, embedding_rate=1e-2, decoder_rate=1e-3, width=32, every=50)
    table, sets = ta.all_pairs(TEN), rate.determining_sets(TEN, 44, 2)
    for mask, pairs in zip(ds.training.values, sets, strict=True):
        assert {tuple(q) for q in table[mask]} == {tuple(q) for q in np.sort(pairs, axis=1)}
    plain = representation.train(TEN, [sets[1]], [2], 600, embedding=AdamW(1e-2), decoder=AdamW(1e-3), width=32, every=50, progress=False)
    np.testing.assert_array_equal(ds["first"].values[1, 2], rate.first_linear(TEN, plain.embedding)[0])
    np.testing.assert_allclose(ds.start.values[2], plain.embedding.values[0, 0, :, 0])
