"""The numbers on the errata page of the paper on representations, worked out again without the package where that is short."""

from itertools import combinations, combinations_with_replacement
from math import comb
from pathlib import Path

import numpy as np
import pytest

from grokutils.problems import ToyAddition
from grokutils.theory import toy_addition

PAGE = (Path(__file__).resolve().parents[2] / "book" / "errata_liu.md").read_text(encoding="utf-8")
P = ToyAddition(10)


def rows(pairs, symbols):
    """The matrix A of a training set, from the definition."""
    found = []
    for (i, j), (m, n) in combinations(pairs, 2):
        if i + j == m + n:
            row = np.zeros(symbols, int)
            for k, sign in ((i, 1), (j, 1), (m, -1), (n, -1)):
                row[k] += sign
            found.append(row)
    return np.array(found)


def table(symbols):
    return list(combinations_with_replacement(range(symbols), 2))


def test_the_rule_of_the_text_is_ten_times_stricter():
    # covers: erratum-25
    rng, linear = np.random.default_rng(0), np.arange(10.0)
    linear = (linear - linear.mean()) / linear.std(ddof=1)
    for size, rule, threshold in ((0.026, "mean_square", 0.01), (0.0026, "norm", 0.01)):
        noisy = linear + size * rng.standard_normal((4000, 10))
        distinct = np.array([len(set(q)) == 4 for q in toy_addition.parallelograms(P)])
        assert np.mean(toy_addition.obeyed(P, noisy[..., None], threshold, rule)[:, distinct]) == pytest.approx(0.95, abs=0.015)
    assert r"$\eta<0.026$" in PAGE and r"$\eta<0.0026$" in PAGE


def test_the_variance_is_not_invariant():
    # covers: erratum-24
    e = np.random.default_rng(1).uniform(-0.5, 0.5, 10)
    assert toy_addition.rqi(P, 1e4 * e) == toy_addition.rqi(P, e) < 0.3
    by_variance = 1e4 * e / np.var(1e4 * e)
    residual = rows(table(10), 10) @ by_variance
    assert np.mean(np.abs(residual) < 0.01) == 1.0


def test_the_third_eigenvalue():
    # covers: erratum-26, erratum-28
    a = rows(table(10), 10)
    assert len(a) == 70
    spectrum = np.linalg.eigvalsh(a.T @ a)
    np.testing.assert_allclose(spectrum[:3], [0, 0, 30], atol=1e-12)
    assert toy_addition.grokking_rate(P, table(10), normalisation="sum") == pytest.approx(2 * 30 / 10, abs=1e-12)
    assert toy_addition.grokking_rate(P, table(10), normalisation="mean") == pytest.approx(6 / 70, abs=1e-12)
    assert round(1e3 * (9 / 12) / (2 * 30 / 70)) == 875 and "875 steps" in PAGE
    assert round(1e3 / 6) == 167 and round(70e3 / 6) == 11667 and "11667" in PAGE and "167 steps" in PAGE and "0.0857" in PAGE


def test_the_rate_of_45_pairs():
    # covers: erratum-27
    found = toy_addition.grokking_rate(P, toy_addition.random_sets(P, 45, 4000), normalisation="sum")
    assert found.mean() == pytest.approx(2.70, abs=0.03)
    assert 6 / found.mean() == pytest.approx(2.2, abs=0.05)


def test_conservation_by_small_steps():
    # covers: erratum-29, erratum-30
    a = rows(table(10)[5:50], 10).astype(float)
    e = np.random.default_rng(2).uniform(-0.5, 0.5, 10)
    full, linear, z, dt = e.copy(), e.copy(), e @ e, 1e-4
    for _ in range(20_000):
        force = 2 * a.T @ (a @ full)
        full = full + dt * (-force / (full @ full) + 2 * np.sum((a @ full) ** 2) / (full @ full) ** 2 * full)
        linear = linear - dt * 2 * a.T @ (a @ linear) / z
    assert full @ full == pytest.approx(z, rel=1e-2) and linear @ linear < 0.9 * z
    assert linear.sum() == pytest.approx(e.sum(), rel=1e-9) and abs(full.sum() / e.sum() - 1) > 0.05
    parallel = full @ linear / np.linalg.norm(full) / np.linalg.norm(linear)
    assert parallel == pytest.approx(1, abs=1e-6)
    values, vectors = np.linalg.eigh(a.T @ a)
    null = vectors[:, values < 1e-9]
    assert full.sum() / e.sum() == pytest.approx(np.sqrt(z) / np.linalg.norm(null.T @ e), rel=1e-2)


def test_four_symbols():
    # covers: erratum-32
    found = {frozenset(((i, j), (m, n))) for (i, j), (m, n) in combinations(table(4), 2) if i + j == m + n}
    assert found == {frozenset(q) for q in (((0, 2), (1, 1)), ((0, 3), (1, 2)), ((1, 3), (2, 2)))}


def test_six_symbols():
    # covers: erratum-33
    pairs = [(0, 4), (1, 3), (1, 5), (2, 4), (0, 2), (1, 1), (3, 3)]
    assert len(rows(pairs, 6)) == 5
    assert np.linalg.matrix_rank(rows(pairs, 6)) == 4
    assert [np.linalg.matrix_rank(rows(pairs[:k] + pairs[k + 1 :], 6)) for k in range(7)] == [3] * 7
    sums = {sum(pair) for pair in pairs}
    answered = sum(sum(pair) in sums for pair in table(6))
    assert (answered, len(table(6))) == (8, 21) and "8 of the 21" in PAGE
    fewer = [pair for pair in table(6) if sum(pair) in (4, 5)]
    assert len(fewer) == 6 and np.linalg.matrix_rank(rows(fewer, 6)) == 4
    six = ToyAddition(6)
    assert toy_addition.ideal_rqi(six, pairs) == 1 and toy_addition.ideal_accuracy(six, pairs) == pytest.approx(8 / 21)


def test_deduction_of_appendix_h():
    # covers: erratum-34
    rng = np.random.default_rng(3)
    a, b, c, e = rng.standard_normal(4)
    d = b + c - a  # E_a + E_d = E_b + E_c
    f = d + e - c  # E_c + E_f = E_d + E_e
    assert a + f == pytest.approx(b + e)


def test_unlearnable_pairs():
    # covers: erratum-38
    alone = [pair for pair in table(10) if sum(sum(pair) == sum(other) for other in table(10)) == 1]
    assert alone == [(0, 0), (0, 1), (8, 9), (9, 9)]
    size = np.bincount([sum(pair) for pair in table(10)])
    law = np.zeros((11, 11))  # held out so far, lost so far
    law[0, 0] = 1
    for k in size:
        new = np.zeros_like(law)
        for j in range(k + 1):
            for h in range(11 - j):
                lost = k if j == k else 0
                new[h + j, lost:] += comb(int(k), j) * law[h, : 11 - lost]
        law = new
    law = law[10] / comb(55, 10)
    assert law.sum() == pytest.approx(1)
    assert [f"{x:.3f}" for x in law[:5]] == ["0.367", "0.363", "0.174", "0.068", "0.021"] and "0.367,\\;0.363,\\;0.174,\\;0.068,\\;0.021" in PAGE
    assert round(100 * law[2:].sum()) == 27 and round(100 * law[1:].sum()) == 63 and "(27 %)" in PAGE and "63 %" in PAGE
