"""Principal components, effective dimension and rings of embedding tables."""

import numpy as np
import pytest

from grokutils.embeddings import (
    effective_dimension,
    effective_frequencies,
    frequency_shares,
    harmonic_shares,
    principal_components,
    restricted,
    ring,
)

P, D = 11, 16


def rotation(seed=0, size=D):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def on_a_ring(k, sizes=(1.0, 1.0), noise=0.0, seed=0):
    angle = 2 * np.pi * k * np.arange(P) / P
    table = np.zeros((P, D))
    table[:, 0], table[:, 1] = sizes[0] * np.cos(angle + 0.3), sizes[1] * np.sin(angle + 0.3)
    return (table + noise * np.random.default_rng(seed).standard_normal(table.shape)) @ rotation() + 3.0


def test_components_put_the_table_together():
    table = np.random.default_rng(1).standard_normal((2, 3, P, D))
    c = principal_components(table)
    assert c.scores.shape == (2, 3, P, P - 1)
    np.testing.assert_allclose(c.mean + c.scores @ np.swapaxes(c.directions, -1, -2), table, atol=1e-12)
    np.testing.assert_allclose(c.fractions.sum(-1), 1)
    np.testing.assert_allclose((c.scores**2).sum(-2) / (c.scores**2).sum((-2, -1))[..., None], c.fractions, rtol=1e-10)
    assert (np.diff(c.fractions) <= 0).all()


def test_effective_dimension_counts_equal_components():
    for k in range(1, 6):
        simplex = np.linalg.qr(np.random.default_rng(k).standard_normal((P, k + 1)) - 0)[0]
        columns = np.linalg.qr(np.concatenate([np.ones((P, 1)), simplex], axis=1))[0][:, 1 : k + 1]  # centred, orthonormal
        assert effective_dimension(columns @ rotation()[:k] + 5) == pytest.approx(k, rel=1e-10)
    table = np.random.default_rng(2).standard_normal((P, D))
    np.testing.assert_allclose(effective_dimension(table), effective_dimension(-4 * table @ rotation() + 1), rtol=1e-12)
    fractions = principal_components(table).fractions
    assert effective_dimension(table) == pytest.approx(np.prod(fractions**-fractions))
    assert 1 < effective_dimension(table) < P - 1


def test_what_is_not_finite_is_nan_and_disturbs_no_other():
    tables = np.random.default_rng(2).standard_normal((3, P, D))
    clean = effective_dimension(tables)
    tables[1, 0, 0] = np.nan
    found = effective_dimension(tables)
    assert np.isnan(found[1])
    np.testing.assert_array_equal(found[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("k", range(1, 6))
def test_a_ring_is_found_and_an_ellipse_too(k):
    for sizes in ((1.0, 1.0), (2.0, 0.5)):
        found = ring(on_a_ring(k, sizes))
        assert found.share == pytest.approx(1)
        assert found.frequency == k
    assert ring(on_a_ring(k, noise=0.1)).share > 0.9
    shuffled = on_a_ring(k)[np.random.default_rng(0).permutation(P)]  # control: the same picture with the symbols in another order
    assert ring(shuffled).share < 0.8


def test_two_frequencies_are_not_a_ring():
    angle = 2 * np.pi * np.arange(P) / P
    table = np.stack([np.cos(angle), 0.9 * np.cos(2 * angle)], axis=1)
    assert ring(table).share == pytest.approx(0.5)


@pytest.mark.parametrize("p", [10, 11])
def test_shares_of_harmonics_add_up(p):
    vectors = np.random.default_rng(0).standard_normal((4, p, 3))
    vectors -= vectors.mean(-2, keepdims=True)
    shares = harmonic_shares(vectors)
    assert shares.shape == (4, p // 2, 3)
    np.testing.assert_allclose(shares.sum(-2), 1)
    k = np.arange(1, p // 2 + 1)
    angle = 2 * np.pi * np.outer(np.arange(p), k) / p
    projected = sum(np.einsum("bpc,pk->bkc", vectors, wave(angle)) ** 2 for wave in (np.cos, np.sin))
    weight = np.where(2 * k == p, 1 / p, 2 / p)[:, None]
    np.testing.assert_allclose(shares, weight * projected / (vectors**2).sum(1, keepdims=True), rtol=1e-9)


@pytest.mark.parametrize("p", [10, 11])
def test_frequencies_of_a_table_are_those_of_its_components(p):
    table = np.random.default_rng(3).standard_normal((2, p, 6)) + 4
    c = principal_components(table)
    expected = (harmonic_shares(c.scores) * c.fractions[:, None]).sum(-1)
    np.testing.assert_allclose(frequency_shares(table), expected, rtol=1e-9)
    np.testing.assert_allclose(frequency_shares(table @ rotation(1, 6)), expected, rtol=1e-9)


def test_frequencies_are_counted():
    angle = 2 * np.pi * np.arange(P) / P
    waves = [np.stack([np.cos(k * angle), np.sin(k * angle)], 1) for k in (1, 3, 4)]
    for number in (1, 2, 3):
        table = np.concatenate(waves[:number], axis=1) @ rotation(0, 2 * number)
        assert effective_frequencies(table) == pytest.approx(number)
        assert effective_dimension(table) == pytest.approx(2 * number)
    shuffled = np.concatenate(waves[:1], 1)[np.random.default_rng(0).permutation(P)]  # control: same components, no frequency
    assert effective_dimension(shuffled) == pytest.approx(2)
    assert effective_frequencies(shuffled) > 2
    assert np.isnan(effective_frequencies(np.full((P, 2), np.nan)))


def test_restriction_to_all_components_changes_nothing():
    table, other = np.random.default_rng(4).standard_normal((2, P, 6))
    c = principal_components(table)
    np.testing.assert_allclose(restricted(table, c, 6), table, atol=1e-12)
    np.testing.assert_allclose(restricted(table, c, 0), np.broadcast_to(table.mean(0), table.shape))
    two = restricted(other, c, 2)
    assert np.linalg.matrix_rank(two - c.mean) == 2
    np.testing.assert_allclose(restricted(two, c, 2), two, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: principal_components(np.zeros(3)), "embedding must have the shape"),
        (lambda: effective_dimension(np.zeros((1, 4))), "at least two symbols"),
        (lambda: ring(np.zeros((5, 1))), "components must be two different numbers"),
        (lambda: ring(on_a_ring(1), (1, 1)), "components must be two different numbers"),
    ],
)
def test_bad_values_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
