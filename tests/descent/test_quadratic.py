"""Ensembles trained by gradient descent: gradients, optimisers, independence of the members."""

import numpy as np
import pytest
import torch

from grokutils import modular
from grokutils.descent import AdamW, GradientDescent, QuadraticTask, descend, train
from grokutils.descent.quadratic import initial_parameters, linearised, tangent_kernel
from grokutils.modular import AdditionTask

TASK = AdditionTask(7, 5, 0.6)


def masks(members=2):
    return np.stack([TASK.mask(s) for s in range(members)])


def loss(parameters, mask):
    """The printed loss of one member, with one-hot inputs and autograd."""
    w, v, a = parameters
    n, m = np.nonzero(mask)
    x = torch.zeros(len(n), 14, dtype=w.dtype)
    x[np.arange(len(n)), n] = x[np.arange(len(n)), 7 + m] = 1
    y = torch.nn.functional.one_hot(torch.as_tensor((n + m) % 7), 7).to(w.dtype) - 1 / 7
    return 0.5 * ((x @ torch.cat([w, v])).square() @ a.T - y).square().sum(1).mean()


def test_gradients_are_those_of_autograd():
    parameters = initial_parameters(TASK, [0, 1], 0.7, torch.float64)
    found = {name: torch.full_like(p, torch.nan) for name, p in parameters.items()}
    QuadraticTask(masks(), torch.float64).gradients(parameters, found, 0)
    for b in range(2):
        leaves = [p[b].clone().requires_grad_() for p in parameters.values()]
        expected = torch.autograd.grad(loss(leaves, masks()[b]), leaves)
        for f, e in zip(found.values(), expected):
            torch.testing.assert_close(f[b], e)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (GradientDescent(0.5), lambda p: torch.optim.SGD(p, lr=0.5)),
        (GradientDescent(0.2, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9)),
        (GradientDescent(0.2, momentum=0.9, weight_decay=0.01), lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9, weight_decay=0.01)),
        (AdamW(0.01), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0)),
        (AdamW(0.01, 0.3, (0.8, 0.98), 1e-6), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3, betas=(0.8, 0.98), eps=1e-6)),
    ],
    ids=["descent", "momentum", "decay", "adamw", "adamw with decay"],
)
def test_optimisers_are_those_of_torch(ours, theirs):
    steps = 60
    parameters = initial_parameters(TASK, [0, 1], 0.4, torch.float64)
    leaves = [[p[b].clone().requires_grad_() for p in parameters.values()] for b in range(2)]
    descend(QuadraticTask(masks(), torch.float64), parameters, ours, steps, [0], progress=False)
    for b in range(2):
        optimiser = theirs(leaves[b])
        for _ in range(steps):
            optimiser.zero_grad()
            loss(leaves[b], masks()[b]).backward()
            optimiser.step()
        for p, leaf in zip(parameters.values(), leaves[b]):
            torch.testing.assert_close(p[b], leaf.detach(), rtol=1e-9, atol=1e-11)


def test_a_wrong_weight_decay_is_seen():
    # control of the test above: decay coupled to the gradient is not AdamW's
    a, b = (initial_parameters(TASK, [0], 0.4, torch.float64) for _ in range(2))
    task = QuadraticTask(masks(1), torch.float64)
    descend(task, a, AdamW(0.01, 0.3), 60, [0], progress=False)
    descend(task, b, AdamW(0.01, 0.0), 60, [0], progress=False)
    assert (a["layers.w"] - b["layers.w"]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [GradientDescent, AdamW])
def test_members_have_their_own_hyperparameters(kind):
    rates, decays = np.array([0.02, 0.1, 0.05]), np.array([0.0, 0.01, 0.2])
    options = dict(steps=30, initial_scale=0.4, dtype="float64", progress=False)
    together = train(TASK, 3, optimiser=kind(learning_rate=rates, weight_decay=decays), **options)
    for b in range(3):
        alone = train(TASK, [b], optimiser=kind(learning_rate=rates[b], weight_decay=decays[b]), **options)
        np.testing.assert_array_equal(together.weights[b], alone.weights[0])
        np.testing.assert_array_equal(together.test_loss[b], alone.test_loss[0])
        np.testing.assert_array_equal(together.mask[b], TASK.mask(b))


def lazy_loss(parameters, mask, laziness):
    """The loss of Kumar et al. as printed: one-hot inputs and targets, mean over pairs and outputs."""
    w, v, a = parameters
    n, m = np.nonzero(mask)
    x = torch.zeros(len(n), 14, dtype=w.dtype)
    x[np.arange(len(n)), n] = x[np.arange(len(n)), 7 + m] = 1
    y = torch.nn.functional.one_hot(torch.as_tensor((n + m) % 7), 7).to(w.dtype)
    f = laziness / (14 * w.shape[1]) * (x @ torch.cat([w, v])).square() @ a.T
    return torch.nn.functional.mse_loss(f, y)


def test_a_lazy_step_is_that_of_autograd():
    parameters, laziness = initial_parameters(TASK, [0, 1], 1.0, torch.float64), np.array([0.7, 3.0])
    before = {name: p.clone() for name, p in parameters.items()}
    descend(QuadraticTask(masks(), torch.float64, laziness=laziness), parameters, GradientDescent(20 / laziness**2), 1, [0], progress=False)
    for b in range(2):
        leaves = [p[b].clone().requires_grad_() for p in before.values()]
        gradients = torch.autograd.grad(lazy_loss(leaves, masks()[b], laziness[b]), leaves)
        for p, leaf, gradient in zip(parameters.values(), leaves, gradients):
            torch.testing.assert_close(p[b], leaf.detach() - 20 / laziness[b] ** 2 * gradient, rtol=1e-12, atol=1e-14)


def test_a_larger_start_is_a_larger_laziness():
    """Weights times sigma and alpha over sigma^3 are the same network; its steps are the same if the rate is multiplied by sigma^2."""
    sigma, options = 1.3, dict(steps=40, every=10, dtype="float64", progress=False)
    one = train(TASK, 2, optimiser=GradientDescent(30.0), laziness=0.8 * sigma**3, **options)
    two = train(TASK, 2, optimiser=GradientDescent(30.0 * sigma**2), laziness=0.8, initial_scale=sigma, **options)
    wrong = train(TASK, 2, optimiser=GradientDescent(30.0), laziness=0.8, initial_scale=sigma, **options)
    np.testing.assert_allclose(two.train_loss, one.train_loss, rtol=1e-10)
    np.testing.assert_allclose(two.weights, sigma * one.weights, rtol=1e-8)
    assert abs(wrong.train_loss - one.train_loss).max() > 1e-4


def test_lazy_defaults_and_measurements():
    ds = train(TASK, 2, 20, laziness=[1.0, 2.0], record=[0, 20], follow=True, dtype="float64", progress=False)
    alone = train(TASK, [1], 20, GradientDescent(25.0), laziness=2.0, record=[0, 20], dtype="float64", progress=False)
    np.testing.assert_array_equal(ds.weights[1, -1], alone.weights[0])
    np.testing.assert_array_equal(ds.readout[1, -1], alone.readout[0])
    np.testing.assert_array_equal(ds.laziness, [1.0, 2.0])
    f = 2 / (14 * TASK.width) * modular.outputs(alone.weights.values[0], alone.readout.values[0])
    y, inside = modular.targets(7) + 1 / 7, TASK.mask(1).ravel()
    for name, part in (("train", inside), ("test", ~inside)):
        assert float(ds[f"{name}_loss"][1, -1]) == pytest.approx(((f - y)[part] ** 2).mean(), rel=1e-12)
    zero = QuadraticTask(masks(), torch.float64, laziness=1.0).measure({k: torch.zeros(2, 7, 5, dtype=torch.float64) for k in "wva"})
    np.testing.assert_allclose(zero["test_loss"], 1 / 7)


def test_the_tangent_kernel_and_the_linearised_descent():
    """Against gradient descent, step by step, on the first-order expansion of the network by autograd."""
    laziness, rate, steps, seed = 1.5, 40.0, 30, 2
    start = initial_parameters(TASK, [seed], 1.0, torch.float64)
    leaves = tuple(p[0] for p in start.values())
    pairs, _ = modular.table(7)
    x = torch.zeros(49, 14, dtype=torch.float64)
    x[np.arange(49), pairs[:, 0]] = x[np.arange(49), 7 + pairs[:, 1]] = 1

    def outputs(w, v, a):
        return laziness / (14 * TASK.width) * (x @ torch.cat([w, v])).square() @ a.T

    j = np.concatenate([part.numpy().reshape(49 * 7, -1) for part in torch.autograd.functional.jacobian(outputs, leaves)], axis=1)
    w, v, a = (p.numpy() for p in leaves)
    kernel = tangent_kernel(np.concatenate([w, v]).T, a, pairs, laziness=laziness)
    np.testing.assert_allclose(kernel, j @ j.T, rtol=1e-10, atol=1e-15)
    inside, y = TASK.mask(seed).ravel(), modular.targets(7) + 1 / 7
    f0, theta = outputs(*leaves).numpy(), np.zeros(j.shape[1])
    rows = np.repeat(inside, 7)
    for _ in range(steps):
        error = (f0 + (j @ theta).reshape(49, 7) - y)[inside]
        theta -= rate / laziness**2 * 2 / error.size * j[rows].T @ error.ravel()
    f = f0 + (j @ theta).reshape(49, 7)
    found = linearised(TASK, [seed], [0, steps, np.inf], rate, laziness)
    for name, part in (("train", inside), ("test", ~inside)):
        assert float(found[f"{name}_loss"][0, 1]) == pytest.approx(((f - y)[part] ** 2).mean(), rel=1e-9)
        assert float(found[f"{name}_loss"][0, 0]) == pytest.approx(((f0 - y)[part] ** 2).mean(), rel=1e-9)
    assert float(found.train_loss[0, 2]) < float(found.train_loss[0, 1])


def test_measurements_are_those_of_the_outputs():
    ds = train(TASK, 2, 20, GradientDescent(0.1), initial_scale=0.4, record=[7, 20], dtype="float64", progress=False)
    assert list(ds.step) == [7, 20]
    f, y = modular.outputs(ds.weights.values, ds.readout.values), modular.targets(7)
    loss = ((f - y) ** 2).sum(-1)
    right = f.argmax(-1) == modular.table(7)[1]
    for b in range(2):
        inside = ds.mask.values[b].ravel()
        for name, part in (("train", inside), ("test", ~inside)):
            assert float(ds[f"{name}_loss"][b, -1]) == pytest.approx(loss[b][part].mean(), rel=1e-12)
            assert float(ds[f"{name}_accuracy"][b, -1]) == pytest.approx(right[b][part].mean(), rel=1e-12)
    np.testing.assert_allclose(ds.attrs["training_fraction"], 0.6)


def test_the_zero_network_has_loss_one_minus_one_over_p():
    task = QuadraticTask(masks(), torch.float64)
    found = task.measure({name: torch.zeros(2, 7, 5, dtype=torch.float64) for name in "wva"})
    np.testing.assert_allclose(found["train_loss"], 1 - 1 / 7)


def test_a_member_that_diverges_disturbs_no_other():
    options = dict(steps=40, initial_scale=0.4, progress=False)
    both = train(TASK, 2, optimiser=GradientDescent([0.1, 1e4]), **options)
    alone = train(TASK, [0], optimiser=GradientDescent(0.1), **options)
    np.testing.assert_array_equal(both.train_loss[0], alone.train_loss[0])
    assert not np.isfinite(both.train_loss[1, -1])


def test_the_balance_of_the_layers_decays():
    """|w|^2 + |v|^2 - 2|a|^2 of each neuron is conserved by gradient flow, and decays as exp(-2 lambda t) with weight decay."""
    steps, rate = 1500, 0.01
    for decay in (0.0, 0.05):
        before = initial_parameters(TASK, [0], 0.4, torch.float64)
        ds = train(TASK, 1, steps, GradientDescent(rate, weight_decay=decay), initial_scale=0.4, dtype="float64", progress=False)
        w, v, a = before.values()
        start = (w**2 + v**2 - 2 * a**2).sum(1)[0].numpy()
        end = (ds.weights**2).sum("input")[0].values - 2 * (ds.readout**2).sum("output")[0].values
        np.testing.assert_allclose(end, start * np.exp(-2 * decay * rate * steps), atol=0.03 * np.abs(start).max())


@pytest.mark.slow
def test_a_network_groks():
    """Memorises at once, generalises later, and ends as cosines whose phases add up."""
    ds = train(AdditionTask(23, 96, 0.6), 2, 1500, GradientDescent(4.0, 0.9, 1e-4), progress=False)
    learnt = modular.first_crossing(ds.train_accuracy, ds.step, 0.95)
    understood = modular.first_crossing(ds.test_accuracy, ds.step, 0.95)
    assert (understood >= 2 * learnt).all() and np.isfinite(understood).all()
    found = modular.neurons(ds.weights, ds.readout)
    alive = (found.strength > 0.1 * found.strength.max("neuron")).values
    assert modular.direction(found.phase_sum.values[alive]).length > 0.9


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: train("addition"), "problem must be an AdditionTask"),
        (lambda: train(TASK, 0), "seeds must be"),
        (lambda: train(TASK, [-1]), "seeds must be"),
        (lambda: train(TASK, 1, -1), "steps must be"),
        (lambda: train(TASK, 1, 10, every=0), "every must be"),
        (lambda: train(TASK, 1, 10, record=[5, 11]), "record must be"),
        (lambda: train(TASK, 1, 10, dtype="float16"), "dtype must be"),
        (lambda: train(TASK, 1, 10, initial_scale=0), "initial_scale must be"),
        (lambda: train(TASK, 2, 10, laziness=[1.0, 2.0, 3.0]), "laziness must be"),
        (lambda: train(TASK, 1, 10, laziness=0.0), "laziness must be"),
        (lambda: train(TASK, 2, 10, masks=np.ones((1, 7, 7), bool)), "masks must have the shape"),
        (lambda: train(TASK, 1, 10, masks=np.zeros((1, 7, 7), bool)), "at least one training pair"),
        (lambda: train(TASK, 1, 10, masks=np.ones((1, 7, 7))), "masks must be boolean"),
        (lambda: train(TASK, 2, 1, GradientDescent([1, 2, 3])), "learning_rate must be one number or one for each of 2"),
        (lambda: train(TASK, 2, 1, GradientDescent(1.0, momentum=1.0)), "momentum must be"),
        (lambda: train(TASK, 2, 1, GradientDescent(1.0, weight_decay=-1.0)), "weight_decay must be"),
        (lambda: train(TASK, 2, 1, AdamW(np.nan)), "learning_rate must be"),
        (lambda: train(TASK, 2, 1, AdamW(0.1, betas=(0.9, 1.0))), "betas must be"),
        (lambda: train(TASK, 2, 1, AdamW(0.1, epsilon=0.0)), "epsilon must be"),
    ],
)
def test_bad_values_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
