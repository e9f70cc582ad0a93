"""The sweeps of three further knobs against a plain call of ``train``, and the published times."""

import numpy as np
import pytest

from grokutils import phases
from grokutils.descent import AdamW, representation
from grokutils.experiments.phase_sweeps import BATCHES, DECAYS, SCALES, SEEDS, phase_sweep, phase_sweeps
from grokutils.experiments.published_phases import published
from grokutils.experiments.representation import training_sets
from grokutils.problems import ToyAddition
from grokutils.theory import toy_addition

PROBLEM = ToyAddition(10)


@pytest.mark.parametrize("changed", [{}, {"batch": 10}, {"embedding_scale": 0.3}, {"embedding_decay": 30.0}])
def test_a_sweep_is_training_with_one_thing_changed(changed):
    small = dict(decoder_rates=(1e-3, 1e-2), seeds=(1, 4), steps=300, width=24, every=25)
    ds = phase_sweep(PROBLEM, **small, **changed)
    decay = changed.get("embedding_decay", 0.0)
    rest = {name: v for name, v in changed.items() if name != "embedding_decay"}
    sets = training_sets(PROBLEM, 45, [4, 4])
    plain = representation.train(
        PROBLEM, sets, [4, 4], 300, embedding=AdamW(1e-3, decay), decoder=AdamW(np.array([1e-3, 1e-2])), width=24, every=25, progress=False, **rest)
    first = representation.first_reached(plain.train_accuracy, 0.8).values
    assert np.array_equal(ds.first_train.sel(seed=4, level=0.8).values, first, equal_nan=True)
    for count in (1, 2, 3):
        first = representation.first_reached(plain.test_accuracy, count / 10).values
        assert np.array_equal(ds.first_test.sel(seed=4, count=count).values, first, equal_nan=True)
    assert np.isfinite(ds.first_test.sel(count=1)).any()
    spread = plain.embedding.values[:, -1].std((1, 2), ddof=1)
    stopped = ds.last_step.sel(seed=4).values < 300
    assert np.allclose(ds.spread.sel(seed=4).values[~stopped], spread[~stopped], rtol=1e-3)


def test_the_seeds_are_the_first_twelve_that_can_pass():
    sets = training_sets(PROBLEM, 45, range(15))
    missing = [round(55 * (1 - toy_addition.ideal_accuracy(PROBLEM, pairs))) for pairs in sets]
    assert [seed for seed, m in enumerate(missing) if m <= 1][:12] == list(SEEDS)


def test_every_knob_is_turned_from_the_same_default():
    runs = phase_sweeps()
    assert len({run.key for run in runs}) == len(runs) == len(BATCHES) + len(SCALES) + len(DECAYS) - 2
    assert sum(run.settings == {} for run in runs) == 1


def test_published_times():
    for name, shape in (("rates", (10, 10)), ("regression", (11, 10)), ("classification", (11, 10))):
        train, test = published(name)
        assert train.shape == test.shape == shape
        assert np.nanmin(train) > 100
        assert np.nanmax(test) < 1e4
    train, test = published("regression")
    assert (train[0, 1], test[0, 1]) == (4486, 6413)  # learning rate 2.15e-5, no decay
    assert phases.classify(train, test).sel(decoder_decay=[0, 6, 7]).isel(decoder_rate=3).values.tolist() == [0, 1, 2]
    rates = published("rates")
    assert np.array_equal(rates[0][6], train[0])  # an embedding rate of 1e-3 without decay is the first row of the other diagram
    with pytest.raises(ValueError, match="diagram"):
        published("6b")
