"""The addition table, Fourier modes, closed-form networks and what is read from weights."""

import numpy as np
import pytest
from scipy.special import ndtr

from grokutils import modular
from grokutils.problems import ModularAddition

P = 13


def brute_force(weights, readout):
    """The network as printed: a sum over neurons of squared products with two-hot inputs."""
    out = np.zeros((P * P, P))
    for row, (n, m) in enumerate((n, m) for n in range(P) for m in range(P)):
        x = np.zeros(2 * P)
        x[n] = x[P + m] = 1
        out[row] = readout @ (weights @ x) ** 2
    return out


# covers: eq-P3-check
def test_the_table_lists_every_pair_once_with_its_sum():
    pairs, sums = modular.table(P)
    assert len(np.unique(pairs, axis=0)) == P * P
    np.testing.assert_array_equal(sums, pairs.sum(1) % P)
    np.testing.assert_array_equal(pairs[: P + 1, 1], [*range(P), 0])


# covers: eq-P4-check
def test_targets_are_centred_indicators():
    y = modular.targets(P)
    assert y.shape == (P * P, P)
    np.testing.assert_allclose(y.sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(y[np.arange(P * P), modular.table(P)[1]], 1 - 1 / P)


# covers: eq-P5-check
def test_outputs_are_the_printed_network():
    rng = np.random.default_rng(0)
    weights, readout = rng.normal(size=(2, 5, 2 * P)), rng.normal(size=(2, P, 5))
    found = modular.outputs(weights, readout)
    for one, w, a in zip(found, weights, readout):
        np.testing.assert_allclose(one, brute_force(w, a))


# covers: eq-P15-check
def test_target_has_only_diagonal_modes():
    y = modular.targets(P).reshape(P, P, P)
    k = np.fft.fftn(y, axes=(0, 1)) / P**2
    n, m = np.nonzero(np.abs(k).max(-1) > 1e-12)
    np.testing.assert_array_equal(n, m)
    assert set(n) == set(range(1, P))


def test_modes_follow_the_problems_convention():
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(4, 2 * P))
    first, second = modular.modes(weights, P)
    n = np.arange(P)
    for k in (0, 1, 5):
        wave = np.exp(2j * np.pi * k * n / P)
        np.testing.assert_allclose(first[:, k], weights[:, :P] @ wave / P)
        np.testing.assert_allclose(second[:, k], weights[:, P:] @ wave / P)
    np.testing.assert_allclose(weights[:, :P], (first[:, :, None] * np.exp(-2j * np.pi * np.outer(n, n) / P)).sum(1).real, atol=1e-12)
    assert "w_k=\\frac1P\\sum_n w_n e^{2\\pi ikn/P}" in ModularAddition.__doc__


def test_neurons_finds_what_a_cosine_network_is_made_of():
    net = modular.cosine_network(P, 40, seed=3)
    found = modular.neurons(net.weights, net.readout)
    np.testing.assert_array_equal(found.frequency, net.frequency)
    np.testing.assert_allclose(np.exp(1j * found.phase), np.exp(1j * net.phases), atol=1e-9)
    np.testing.assert_allclose(found.phase_sum, 0, atol=1e-9)
    np.testing.assert_allclose(found.participation, 1)
    np.testing.assert_allclose(found.amplitude.sel(layer=["first", "second"]), 1)
    np.testing.assert_allclose(found.offset, 0, atol=1e-12)


def test_neurons_sees_two_frequencies_and_leading_axes():
    angle = 2 * np.pi * np.arange(P) / P
    half = np.cos(2 * angle) + np.cos(3 * angle + 1)
    weights = np.concatenate([half, half])[None, None].repeat(2, axis=0)
    readout = np.cos(3 * angle + 2)[None, :, None].repeat(2, axis=0)
    found = modular.neurons(weights, readout)
    assert found.frequency.dims == ("member", "neuron")
    np.testing.assert_allclose(found.participation.sel(layer="first"), 0.5)
    np.testing.assert_array_equal(found.frequency, 3)
    np.testing.assert_allclose(found.phase_sum, 0, atol=1e-12)


@pytest.mark.parametrize("group", [4, 6])
def test_exact_network_has_no_error(group):
    for p in (5, 13, 31):
        net = modular.exact_network(p, group)
        np.testing.assert_allclose(modular.outputs(net.weights, net.readout), modular.targets(p), atol=1e-12)


@pytest.mark.parametrize("phases", [(1, 2), (1, 1), (1, 3)])
def test_other_arrangements_of_six_phases_fail(phases):
    j = np.pi / 3 * np.arange(6)
    one = np.stack([phases[0] * j, phases[1] * j, (phases[0] + phases[1]) * j])
    net = modular._cosines(P, np.repeat(np.arange(1, (P + 1) // 2), 6), np.tile(one, (P - 1) // 2), 4 / (6 * P))
    assert np.abs(modular.outputs(net.weights, net.readout) - modular.targets(P)).max() > 0.01


@pytest.mark.statistical
def test_cosine_network_is_the_target_on_average():
    """z-scores of P outputs at one pair, whose mean square over 13 outputs stays below 5: false-alarm rate below 1e-6 for 400 seeds."""
    seeds = 400
    rows = np.stack([modular.outputs(*modular.cosine_network(P, 6 * 20, s)[:2])[17] for s in range(seeds)])
    z = (rows.mean(0) - modular.targets(P)[17]) / (rows.std(0, ddof=1) / seeds**0.5)
    assert np.mean(z**2) < 5


def test_without_the_phase_constraint_a_network_does_not_add():
    right = [modular.accuracy(modular.outputs(*modular.cosine_network(P, 600, s, constrained=False)[:2])) for s in range(20)]
    kept = [modular.accuracy(modular.outputs(*modular.cosine_network(P, 600, s)[:2])) for s in range(5)]
    assert np.mean(right) < 0.2
    assert min(kept) == 1


def test_frequencies_are_spread_evenly():
    counts = np.bincount(modular.cosine_network(31, 50, seed=1).frequency, minlength=16)[1:]
    assert set(counts) == {3, 4} and counts.sum() == 50


def test_gap_has_the_stated_moments():
    # mean P/(2(P-1)) per neuron and the variances 17/16 and 1 that the Gaussian prediction uses
    p, h = 31, 1e-4
    mean = -(modular.cumulants(p, h) - modular.cumulants(p, -h)) / (2 * h)
    variance = (modular.cumulants(p, h) - 2 * modular.cumulants(p, 0.0) + modular.cumulants(p, -h)) / h**2
    assert mean == pytest.approx(p / (2 * (p - 1)), rel=1e-6)
    # per frequency: 17/16 of the right output, 15/16 + cos^2/8 of the wrong one, minus twice their covariance
    c = np.cos(2 * np.pi * np.arange(1, 16) / p)
    assert variance == pytest.approx(np.mean(17 / 16 + 15 / 16 + c**2 / 8 - 2 * (15 / 16 * c + c / 8)), rel=1e-4)
    assert variance == pytest.approx(p / (p - 1) * 33 / 16, rel=0.01)  # what the Gaussian prediction uses


def test_predicted_mistakes_against_the_networks():
    """At 60 networks of 8 neurons a frequency the standard error is about a tenth of the rate: the bracket holds with two of them to spare."""
    p, width = 23, 55
    wrong = 1 - np.array([modular.accuracy(modular.outputs(*modular.cosine_network(p, width, s)[:2])) for s in range(60)])
    error = wrong.std(ddof=1) / 60**0.5
    predicted = modular.cosine_mistakes(p, width)
    assert predicted.clumped - 4 * error < wrong.mean() < predicted.bound + 4 * error
    assert predicted.gaussian - wrong.mean() > 4 * error  # the central limit theorem fails in the tail, and is seen to


def test_rate_is_the_slope_of_the_bound_and_exceeds_the_gaussian_one():
    p = 31
    slope = -np.log(modular.cosine_mistakes(p, 4000).bound / modular.cosine_mistakes(p, 2000).bound) / 2000
    assert slope == pytest.approx(modular.error_rate(p), rel=0.01)
    assert modular.error_rate(p) > 1.2 * p / (16 * (p - 1))


@pytest.mark.statistical
def test_saddle_point_gives_the_pairwise_tail():
    """One wrong output against the right one, 40 000 draws of the phases; false-alarm rate 1e-6 (4.9 standard errors) plus 3 % for the expansion."""
    p, draws, k = 13, 40_000, np.repeat(np.arange(1, 7), 6)
    rng = np.random.default_rng(0)
    s, d = rng.uniform(0, 2 * np.pi, (2, draws, len(k)))
    gap = ((np.cos(s) - np.cos(s - 2 * np.pi * k * 4 / p)) * (1 + np.cos(s)) * (1 + np.cos(d))).sum(1)
    found = (gap < 0).mean()
    predicted = modular.cosine_mistakes(p, len(k)).bound / (p - 1)
    assert abs(found - predicted) < 4.9 * (predicted / draws) ** 0.5 + 0.03 * predicted
    assert abs(found - ndtr(-0.25 * (len(k) * p / (p - 1)) ** 0.5 / (33 / 64) ** 0.5)) > 4.9 * (found / draws) ** 0.5  # the central limit theorem


def test_predicted_width_inverts_the_prediction():
    found = modular.predicted_width(37, 0.99)
    for i, width in enumerate(found):
        assert modular.cosine_mistakes(37, width)[i] == pytest.approx(0.01, rel=1e-6)
    assert found.clumped < found.bound < found.gaussian


def test_best_readout_is_ridge_regression():
    rng = np.random.default_rng(2)
    weights, mask = rng.normal(size=(6, 2 * P)), rng.random((P, P)) < 0.5
    a = modular.best_readout(weights, 0.7, mask)
    z, y = modular.hidden(weights)[mask.ravel()], modular.targets(P)[mask.ravel()]
    np.testing.assert_allclose(z.T @ (z @ a.T - y) + 0.7 * a.T, 0, atol=1e-9)


def test_best_readout_has_the_phase_sum():
    # only the input halves of a random cosine network are kept; a large ridge leaves each neuron to itself
    net = modular.cosine_network(P, 40, seed=5, constrained=False)
    found = modular.neurons(net.weights, modular.best_readout(net.weights, 1e6))
    np.testing.assert_allclose(found.phase_sum, 0, atol=1e-3)
    wrong = modular.neurons(net.weights, net.readout)
    assert np.abs(wrong.phase_sum).mean() > 1


def test_direction_and_rayleigh():
    rng = np.random.default_rng(0)
    narrow = np.angle(np.exp(1j * (np.pi + 0.1 * rng.normal(size=400))))
    found = modular.direction(narrow)
    assert abs(np.angle(np.exp(1j * (found.mean - np.pi)))) < 5 * found.error
    assert found.error == pytest.approx(0.1 / 20, rel=0.1)
    assert found.length == pytest.approx(np.exp(-0.005), rel=0.01)
    assert modular.rayleigh(narrow) < 1e-12
    values = np.array([modular.rayleigh(rng.uniform(-np.pi, np.pi, 50)) for _ in range(400)])
    assert abs((values < 0.1).mean() - 0.1) < 5 * (0.09 / 400) ** 0.5


def test_first_crossing():
    found = modular.first_crossing([[0, 0.5, 0.96, 0.4], [0, 0, 0.2, 0.3]], [0, 10, 20, 30], 0.95)
    np.testing.assert_array_equal(found, [20, np.inf])


def test_task_is_a_problem():
    task = modular.AdditionTask(13, 8, 0.5)
    assert task.training_pairs == 84 and task.mask(3).sum() == 84
    assert task.hash == modular.AdditionTask(13, 8.0, 0.5).hash != task.replace(width=9).hash
    assert (task.mask(3) == task.mask(3)).all() and (task.mask(3) != task.mask(4)).any()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: modular.AdditionTask(12, 8, 0.5), "modulus must be odd"),
        (lambda: modular.AdditionTask(13, 8.5, 0.5), "width must be a whole number"),
        (lambda: modular.AdditionTask(13, 8, 1.5), "training_fraction"),
        (lambda: modular.AdditionTask(13, 8, 0.001), "training_fraction"),
        (lambda: modular.modes(np.zeros((3, 25)), 13), "2 \\* modulus"),
        (lambda: modular.table(4), "modulus must be odd"),
        (lambda: modular.cosine_network(13, 0), "width"),
        (lambda: modular.exact_network(13, 5), "group must be 4 or 6"),
        (lambda: modular.best_readout(np.zeros((3, 26)), 0.0), "ridge"),
        (lambda: modular.predicted_width(13, 1.2), "accuracy"),
    ],
)
def test_bad_values_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
