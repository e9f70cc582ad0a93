"""The definition of the four phases: boundary cases, whole-number thresholds, unlearnable pairs."""

import itertools
import math

import numpy as np
import pytest
import xarray as xr

from grokutils import phases
from grokutils.problems import ToyAddition
from grokutils.theory import toy_addition

NEVER = np.nan


def test_every_pair_of_times_has_one_phase():
    train = np.array([100.0, 100, 100, 100, NEVER, NEVER])
    test = np.array([1099.0, 1100, 50, NEVER, NEVER, 50])
    assert phases.classify(train, test).tolist() == [0, 1, 0, 2, 3, 3]
    assert phases.classify(train, test, ratio=11).tolist() == [0, 1, 0, 2, 3, 3]
    assert phases.classify(train, test, ratio=10).tolist() == [1, 1, 0, 2, 3, 3]


def test_what_happens_after_the_horizon_has_not_happened():
    train, test = np.array([100.0, 1000, 3000]), np.array([150.0, 3000, 3500])
    assert phases.classify(train, test).tolist() == [0, 1, 0]
    assert phases.classify(train, test, horizon=2999).tolist() == [0, 2, 3]
    assert phases.classify(train, test, horizon=3000).tolist() == [0, 1, 2]


def test_a_bad_threshold_is_named():
    for wrong in ({"delay": 0}, {"ratio": -1.0}, {"horizon": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            phases.classify(np.array([1.0]), np.array([2.0]), **wrong)


def test_fractions_add_up_and_keep_the_cells():
    code = xr.DataArray([[0, 1], [0, 3], [2, 3], [0, 3]], dims=("seed", "decoder_rate"))
    found = phases.fractions(code)
    assert found.sel(phase="comprehension").values.tolist() == [0.75, 0.0]
    assert found.sel(phase="confusion").values.tolist() == [0.0, 0.75]
    assert np.allclose(found.sum("phase"), 1)


@pytest.mark.parametrize("runs", [5, 10, 40])
def test_wilson_solves_its_equation(runs):
    share = np.arange(runs + 1) / runs
    for limit in phases.wilson(share, runs):
        assert np.allclose((share - limit) ** 2, limit * (1 - limit) / runs, atol=1e-12)
    low, high = phases.wilson(0.0, runs)
    assert low == pytest.approx(0)
    assert high == pytest.approx(1 / (runs + 1))  # z = 1


# covers: erratum-38
def test_thresholds_are_whole_numbers():
    assert phases.needed(10) == 9
    assert phases.needed(10, strict=True) == phases.needed(10, 0.95) == 10
    assert phases.needed(12) == phases.needed(12, strict=True) == 11
    assert phases.needed(10, unlearnable=np.arange(4)).tolist() == [9, 9, 8, 7]
    assert phases.needed(10, strict=True, unlearnable=np.arange(4)).tolist() == [10, 9, 8, 7]
    for held_out, tenths in itertools.product(range(1, 41), range(1, 10)):  # against the rounding of floats that it avoids
        count = phases.needed(held_out, tenths / 10)
        assert 10 * count >= tenths * held_out > 10 * (count - 1) or count == 1


def diagram():
    """Two seeds, one of them with a pair that cannot be inferred; it never gets beyond 9 of 10."""
    test = np.full((2, 1, 10), np.nan)
    test[0, 0] = np.arange(1, 11) * 100.0
    test[1, 0, :9] = np.arange(1, 10) * 200.0
    train = np.array([[[100.0, 200, 300, 400]], [[100.0, 200, 300, 400]]])
    data = {"first_train": (("seed", "decoder_rate", "level"), train), "first_test": (("seed", "decoder_rate", "count"), test)}
    coordinates = {"seed": [0, 1], "decoder_rate": [1e-3], "level": [0.8, 0.9, 0.95, 1.0], "count": np.arange(1, 11)}
    return xr.Dataset(data, coordinates).assign(unlearnable=("seed", [0, 1]))


def test_times_are_read_at_the_count_the_rule_asks_for():
    ds = diagram()
    train, test = phases.times(ds)
    assert train.dims == test.dims == ("seed", "decoder_rate")
    assert train.values.ravel().tolist() == [200, 200]
    assert test.values.ravel().tolist() == [900, 1800]
    strict = phases.times(ds, strict=True)[1].values.ravel()
    assert strict[0] == 1000
    assert np.isnan(strict[1])
    assert phases.times(ds, strict=True, relative=True)[1].values.ravel().tolist() == [1000, 1800]
    all_of_them = phases.times(ds, 1.0, relative=True)
    assert all_of_them[0].values.ravel().tolist() == [400, 400]
    assert all_of_them[1].values.ravel().tolist() == [1000, 1800]
    with pytest.raises(ValueError, match="accuracy"):
        phases.times(ds, 0.7)


def test_an_accuracy_above_one_is_never_reached():
    assert phases.times(diagram(), 1.0, strict=True)[1].isnull().all()


def by_listing(problem, pairs):
    """The law by going through every validation set; unlearnable is what the exact linear algebra of the theory says."""
    table = toy_addition.all_pairs(problem)
    chosen = np.array([list(rows) for rows in itertools.combinations(range(len(table)), pairs)])
    sets = table[chosen]
    sets = sets[toy_addition.nullity(problem, sets) == 2]
    missing = np.rint(len(table) * (1 - toy_addition.ideal_accuracy(problem, sets))).astype(int)
    return np.bincount(missing, minlength=len(table) - pairs + 1) / len(chosen), len(sets) / len(chosen)


# covers: erratum-38
@pytest.mark.parametrize(("symbols", "pairs"), [(4, 9), (5, 13), (6, 19)])
def test_the_law_of_unlearnable_pairs_by_listing_all_sets(symbols, pairs):
    problem = ToyAddition(symbols)
    law = phases.unlearnable_law(problem, pairs)
    listed, determined = by_listing(problem, pairs)
    assert law.sum() == pytest.approx(1, abs=1e-12)
    if determined == 1:
        assert np.allclose(law, listed, atol=1e-12)
    else:
        assert np.abs(law - listed).sum() < 3 * (1 - determined)


# covers: erratum-38
@pytest.mark.statistical
def test_unlearnable_pairs_of_the_published_size():
    problem, sets = ToyAddition(10), 4000
    drawn = toy_addition.random_sets(problem, 45, sets, seed=1)
    missing = np.rint(55 * (1 - toy_addition.ideal_accuracy(problem, drawn))).astype(int)
    counts = np.bincount(np.minimum(missing, 3), minlength=4)

    def chi_square(law):
        expected = sets * np.append(law[:3], sum(law[3:]))
        return ((counts - expected) ** 2 / expected).sum()

    assert chi_square(phases.unlearnable_law(problem, 45)) < 21.1  # three degrees of freedom: false alarm with probability 1e-4 over seeds
    singles = [math.comb(4, m) * math.comb(51, 10 - m) / math.comb(55, 10) for m in range(11)]
    assert chi_square(singles) > 100  # only the four sums with a single pair: not enough
