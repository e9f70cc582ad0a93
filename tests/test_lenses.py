"""Observables of one network: each against its definition, and against the statements that relate them."""

import numpy as np
import pytest
import torch

from grokutils import lenses, modular
from grokutils.descent import GradientDescent, train
from grokutils.modular import AdditionTask

P, N = 7, 5


@pytest.fixture
def network():
    rng = np.random.default_rng(3)
    return rng.standard_normal((N, 2 * P)), rng.standard_normal((P, N))


def jacobian(weights, readout, scale):
    """Derivatives of all outputs on the table, (P^2, P, parameters), by autograd with one-hot inputs."""
    pairs, _ = modular.table(P)
    x = torch.zeros(P * P, 2 * P, dtype=torch.float64)
    x[np.arange(P * P), pairs[:, 0]] = x[np.arange(P * P), P + pairs[:, 1]] = 1
    found = torch.autograd.functional.jacobian(
        lambda w, a: scale * (x @ w.T).square() @ a.T, (torch.as_tensor(weights), torch.as_tensor(readout)))
    return np.concatenate([j.numpy().reshape(P * P, P, -1) for j in found], axis=-1)


def test_the_trace_kernel_is_that_of_autograd(network):
    j = jacobian(*network, 0.3)
    np.testing.assert_allclose(lenses.trace_kernel(*network, 0.3), np.einsum("xpt,ypt->xy", j, j), rtol=1e-12)


def test_a_kernel_without_shared_summands_is_not_the_trace_kernel(network):
    # control of the test above: without the part of the input weights
    j = jacobian(*network, 1.0)
    hidden_part = P * N * lenses.adaptive_kernel(network[0])
    assert np.abs(hidden_part - np.einsum("xpt,ypt->xy", j, j)).max() > 1


def test_the_alignment_is_the_printed_one_for_one_output():
    rng = np.random.default_rng(0)
    a, y = rng.standard_normal((20, 30)), rng.standard_normal(20)
    kernel = a @ a.T
    assert lenses.alignment(kernel, np.outer(y, y)) == pytest.approx(y @ kernel @ y / (np.linalg.norm(kernel) * (y @ y)), rel=1e-12)
    assert lenses.alignment(kernel, kernel) == pytest.approx(1)


def test_sums_of_embeddings_explain_nothing_of_the_sum_modulo_p(network):
    h = lenses.preactivations(network[0])
    assert lenses.explained_by_sum(h) == pytest.approx(0, abs=1e-14)
    assert lenses.explained_by_sum(h**2) > 0.01  # their squares do
    # the mean squared violation over relations is that of random pairs, up to the pairs of an input with itself
    assert lenses.relation_residuals(h).mean() == pytest.approx(P / (P - 1), rel=1e-12)


def test_functions_of_the_sum_are_explained():
    y = modular.targets(P)
    assert lenses.explained_by_sum(y) == pytest.approx(1)
    assert np.abs(lenses.relation_residuals(y)).max() < 1e-12


def test_the_share_of_the_hidden_layer_is_that_of_its_kernel(network):
    z = lenses.preactivations(network[0]) ** 2
    kernel, task = lenses.centred(lenses.adaptive_kernel(network[0])), lenses.centred(lenses.same_sum(P)) / P
    np.testing.assert_allclose(task @ task, task, atol=1e-12)  # a projector
    assert lenses.explained_by_sum(z) == pytest.approx(np.trace(task @ kernel) / np.trace(kernel), rel=1e-12)


def test_a_cosine_layer_explains_two_fifths():
    net = modular.exact_network(11)
    z = modular.hidden(net.weights)
    assert lenses.explained_by_sum(z) == pytest.approx(0.4, rel=1e-10)
    assert lenses.explained_by_sum(z @ net.readout.T) == pytest.approx(1)
    assert lenses.relation_quality(net.weights) == 0


def test_no_relation_of_a_straight_line_survives_the_wrap():
    line = np.tile(np.arange(P, dtype=float), 2)[None] + np.zeros((3, 1))
    h = lenses.preactivations(lenses.normalised(line))
    (i, j), (_, sums) = lenses.relations(P).T, modular.table(P)
    pairs = modular.table(P)[0].sum(1)
    holds = np.abs(h[i] - h[j]).max(1) < 1e-12
    np.testing.assert_array_equal(holds, pairs[i] == pairs[j])
    assert (sums[i] == sums[j]).all() and len(i) == P * P * (P - 1) // 2
    assert lenses.relation_quality(line) == pytest.approx(holds.mean())


def test_concentration_and_match_of_cosines():
    net = modular.cosine_network(11, 20)
    np.testing.assert_allclose(lenses.concentration(net.weights), 1)
    assert lenses.matched(net.weights).all()
    assert lenses.kurtosis(net.weights[0]) == pytest.approx(1.5)


@pytest.mark.statistical
def test_concentration_of_gaussian_weights():
    # five standard errors: false alarm below 1e-6
    q = lenses.concentration(np.random.default_rng(5).standard_normal((4000, 26)))
    assert abs(q.mean() - lenses.random_concentration(13)) < 5 * q.std() / q.size**0.5
    assert lenses.random_concentration(13) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 6)


def test_following_is_looking_at_each_record():
    ds = train(AdditionTask(P, N, 0.8), 2, 6, GradientDescent(5.0), record=[0, 6], laziness=[1.0, 2.0], follow=True, progress=False)
    found = lenses.follow(ds)
    start = lenses.trace_kernel(ds.weights[1, 0], ds.readout[1, 0], 2 / (2 * P * N))
    last = lenses.look(ds.weights[1, 1], ds.readout[1, 1], ds.mask[1], 2 / (2 * P * N), start)
    for name, value in last.items():
        assert float(found[name][1, 1]) == pytest.approx(value, rel=1e-9), name
    assert float(found.drift[1, 0]) == pytest.approx(0, abs=1e-12) and float(found.drift[1, 1]) > 0
    assert (found.histogram.sum("bin") == 2 * N).all()
    assert {"train_loss", "test_accuracy"} <= set(found) and "weights" not in found
