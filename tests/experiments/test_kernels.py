"""The batch of committee machines behind the chapter on kernels, against the simulation, the closed forms and the linear theory."""

import numpy as np
import pytest
import torch

from grokutils import experiments
from grokutils.experiments.kernels import Trained, eigenvector_labels, eigenvector_task, frozen, interpolated_starts, regression, trained_readouts
from grokutils.problems import Committee
from grokutils.theory import committee as theory

SMALL = Committee(dimension=12, samples=30, width=2, laziness=1.5, curvature=0.3, step_size=0.4)


@pytest.mark.parametrize("centred", [False, True])
def test_a_random_start_is_the_simulation(centred):
    problem = SMALL.replace(centred=centred)
    ds = interpolated_starts(problem, steps=60, shares=(0.0,), seeds=2, records=10)
    for k in range(2):
        reference = theory.simulate(problem.replace(seed=k), 60, record=ds.step.values)
        for name in ("train_loss", "test_loss", "misalignment", "linear_power", "variance_error", "weight_norm"):
            np.testing.assert_allclose(ds[name].values[0, k], reference[name].values, rtol=1e-9)


def test_a_start_at_the_solution_stays_there():
    ds = interpolated_starts(SMALL.replace(centred=False), steps=20, shares=(1.0,), seeds=2, records=5)
    assert float(abs(ds.test_loss).max()) < 1e-20


def test_only_two_neurons_can_be_interpolated():
    with pytest.raises(ValueError, match="width"):
        interpolated_starts(SMALL.replace(width=3), steps=5)


@pytest.mark.parametrize("centred", [False, True])
def test_a_step_is_the_gradient_with_and_without_readouts(centred):
    problem, rng = SMALL.replace(width=3, centred=centred), np.random.default_rng(0)
    given = theory.draw(problem)
    for readouts in (None, rng.standard_normal((1, 3))):
        net = Trained(problem, given.inputs[None], given.labels[None], given.weights[None], readouts)
        net.w += 0.1  # away from the start, where a centred network is zero
        w, v = net.w.clone().requires_grad_(), net.v.clone().requires_grad_()
        h = net.x @ w.mT
        f = problem.laziness / 3 * ((h + problem.curvature / 2 * h**2) * v.unsqueeze(1)).sum(-1) - (net.start if centred else 0)
        (f - net.y).square().mean().backward()
        net.step()
        torch.testing.assert_close(net.w, w.detach() - problem.learning_rate * w.grad)
        torch.testing.assert_close(net.v, v.detach() - (0 if readouts is None else problem.learning_rate * v.grad))


def test_the_parts_with_readouts_are_the_loss_over_fresh_inputs():
    problem = SMALL.replace(centred=False)
    ds = trained_readouts(problem, steps=30, seeds=1, records=4)
    given, rng = theory.draw(problem), np.random.default_rng(5)
    v = np.random.default_rng([problem.seed, 4]).standard_normal(2)
    x = rng.standard_normal((400_000, 12)) / np.sqrt(12)
    h = x @ given.weights.T
    error = (problem.laziness / 2 * (h + problem.curvature / 2 * h**2) @ v - (x @ given.beta[0]) ** 2 / 2) ** 2
    assert abs(error.mean() - float(ds.test_loss[0, 0])) < 5 * error.std() / len(error) ** 0.5


# covers: eq-K11-check
def test_a_frozen_kernel_is_gradient_descent_at_large_laziness():
    problem = SMALL.replace(laziness=3000.0, samples=20)
    ds = eigenvector_labels(problem, steps=200, orders=(1, 5), seeds=2, test_points=15, records=6)
    np.testing.assert_allclose(ds.train_loss, ds.frozen_train_loss, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(ds.test_loss, ds.frozen_test_loss, rtol=5e-3, atol=1e-9)
    bent = eigenvector_labels(problem.replace(laziness=0.05), steps=200, orders=(1, 5), seeds=2, test_points=15, records=6)
    assert float(abs(bent.test_loss - bent.frozen_test_loss).max()) > 1e-4  # a network that moves is told apart


def test_the_frozen_kernel_ends_in_regression_and_moves_by_the_law():
    problem = SMALL.replace(laziness=3000.0, samples=10, curvature=0.8)
    x, w, labels = eigenvector_task(problem, (1, 4), 10)
    kernel = theory.empirical_ntk(problem, w, x)
    end = frozen(kernel, labels[1], 10, 2 * problem.step_size / 10, [0, 200_000])
    train, test, _ = regression(kernel, labels[1], 10)
    np.testing.assert_allclose(end[1], [train, test], rtol=1e-3, atol=1e-9)
    ds = eigenvector_labels(problem, steps=6000, orders=(1,), seeds=2, test_points=10, records=3)
    np.testing.assert_allclose(ds.movement, ds.lazy_movement, rtol=0.02)


def test_labels_are_orthonormal_eigenvectors():
    x, w, labels = eigenvector_task(SMALL, (1, 2, 7), 20)
    kernel = theory.empirical_ntk(SMALL, w, x)
    kernel -= kernel.mean()
    np.testing.assert_allclose(labels @ labels.T, np.eye(3), atol=1e-10)
    values = np.einsum("ki,ij,kj->k", labels, kernel, labels)
    np.testing.assert_allclose(kernel @ labels.T, labels.T * values, atol=1e-10)
    assert (np.diff(values) < 0).all() and values[0] == pytest.approx(np.linalg.eigvalsh(kernel)[-1])


def test_runs_are_named_by_figure():
    assert len(experiments.kernels()) == sum(len(experiments.kernels(k)) for k in (5, 10, 11, 19)) == 8
    with pytest.raises(ValueError, match="figure"):
        experiments.kernels(6)
