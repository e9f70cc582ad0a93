"""Embeddings with decoders, by the batch: equal to one network after another with autograd and torch.optim."""

import numpy as np
import pytest
import torch
import xarray as xr
from one_run import losses

from grokutils.descent import Adam, AdamW, GradientDescent, Perceptron, descend, representation
from grokutils.descent.representation import RepresentationTask, first_reached, table_of, train
from grokutils.problems import PermutationGroup, ToyAddition
from grokutils.theory import groups, toy_addition

P = ToyAddition(10)
QUICK = dict(width=16, dtype="float64", progress=False)


def sets(problem, sizes):
    pairs = table_of(problem)[0]
    return [pairs[np.random.default_rng(k).permutation(len(pairs))[:n]] for k, n in enumerate(sizes)]


def start(problem, seed, width, loss, scale=1.0):
    """The initial state of a member, as the documentation says it is drawn."""
    shape = (problem.degree,) * 2 if isinstance(problem, PermutationGroup) else (1,)
    embedding = torch.as_tensor(scale * np.random.default_rng([seed, 0]).uniform(-0.5, 0.5, (problem.symbols, *shape)))
    classes = 1 + table_of(problem)[1].max()
    first = Perceptron((int(np.prod(shape)), width, width, 30 if loss == "regression" else classes), "tanh").initial([seed], dtype=torch.float64)
    weights, biases = ([first[f"decoder.{name}{k}"][0] for k in range(3)] for name in ("weight", "bias"))
    templates = torch.as_tensor(np.random.default_rng([seed, 2]).standard_normal((classes, 30))) if loss == "regression" else None
    return embedding, weights, biases, templates


CASES = {
    "regression": (P, {}, {}),
    "classification": (P, dict(loss="classification"), {}),
    "lazy and centred": (P, dict(laziness=3.0, centred=True), dict(alpha=3.0, centred=True)),
    "permutations": (PermutationGroup(3), {}, {}),
    "permutations, small start, penalty": (PermutationGroup(3), dict(embedding_scale=0.1, penalty=1e-2), dict(penalty=1e-2)),
    "permutations, classification": (PermutationGroup(3), dict(loss="classification"), {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            (AdamW(3e-3), AdamW(1e-3, 0.5)),
            (lambda p: torch.optim.AdamW(p, 3e-3, weight_decay=0.0), lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.5)),
        ),
        ((Adam(3e-3), Adam(1e-3, 0.01)), (lambda p: torch.optim.Adam(p, 3e-3), lambda p: torch.optim.Adam(p, 1e-3, weight_decay=0.01))),
        (
            (GradientDescent(0.02, 0.9), GradientDescent(0.05, weight_decay=0.01)),
            (lambda p: torch.optim.SGD(p, 0.02, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, weight_decay=0.01)),
        ),
    ],
    ids=["adamw", "adam", "descent"],
)
def test_a_batch_is_one_run_after_another(case, ours, theirs):
    """Members with training sets of different sizes; every loss of 40 steps, and the embeddings at the end."""
    problem, options, reference = CASES[case]
    training, loss = sets(problem, (18, 24, 11)), options.get("loss", "regression")
    ds = train(problem, training, [5, 6, 7], 40, embedding=ours[0], decoder=ours[1], every=1, chunk=2, **QUICK | options)
    for b, seed in enumerate((5, 6, 7)):
        embedding, weights, biases, templates = start(problem, seed, 16, loss, options.get("embedding_scale", 1.0))
        alone, network = losses(problem, training[b], embedding, weights, biases, templates, 40, theirs, **reference)
        np.testing.assert_allclose(ds.train_loss[b, :-1], alone, rtol=1e-8)
        np.testing.assert_allclose(ds.embedding[b, -1], network.embedding.detach(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("optimiser", [AdamW(np.array([3e-3, 1e-3]), 0.3), Adam(np.array([3e-3, 1e-3]), 0.01)], ids=["adamw", "adam"])
def test_members_with_many_weights(optimiser):
    """Rows so long that the fused kernel steps them, each with its own rate, against torch.optim; a wrong rate would show."""
    training, kind = sets(P, (18, 24)), torch.optim.AdamW if isinstance(optimiser, AdamW) else torch.optim.Adam
    ds = train(P, training, [5, 6], 40, embedding=optimiser, decoder=optimiser, every=1, **QUICK | dict(width=64))
    for b, seed in enumerate((5, 6)):
        embedding, weights, biases, templates = start(P, seed, 64, "regression")
        assert sum(w.numel() for w in weights) > 2**12
        make = lambda p, b=b: kind(p, optimiser.learning_rate[b], weight_decay=optimiser.weight_decay)  # noqa: E731
        alone, network = losses(P, training[b], embedding, weights, biases, templates, 40, (make, make))
        np.testing.assert_allclose(ds.train_loss[b, :-1], alone, rtol=1e-8)
        np.testing.assert_allclose(ds.embedding[b, -1], network.embedding.detach(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_measuring_does_not_disturb(case):
    """One forward pass for measurement and gradient, or two of different sizes: the same trajectory and the same table."""
    problem, options, _ = CASES[case]
    dense, sparse = (
        train(problem, sets(problem, (18, 24, 11)), None, 30, embedding=AdamW(3e-3), decoder=AdamW(1e-3), every=every, **QUICK | options)
        for every in (1, 30))
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "embedding"):
        np.testing.assert_allclose(dense[name].sel(step=[0, 30]), sparse[name], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(dense.correct, sparse.correct)


def test_a_run_killed_between_a_measurement_and_its_step_goes_on(tmp_path):
    """The gradient that came with the measurement is made again in the same way: single precision agrees to the last bit."""
    masks, kind = representation.masks_of(P, sets(P, (18, 24))), dict(dtype=torch.float32)

    def go(stop=None, **options):
        network = Perceptron((1, 32, 32, 30), "tanh")
        parameters = {"embedding": torch.linspace(-1, 1, 20).view(2, 10, 1)} | network.initial([0, 1], **kind)
        templates = torch.as_tensor(np.random.default_rng(0).standard_normal((2, P.sums, 30)), **kind)
        task = RepresentationTask(P, masks, network, templates)
        return descend(task, parameters, AdamW(1e-2), 50, range(0, 51, 10), stop=stop, progress=False, **options)

    def fragile(found):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("as if killed")
        return np.zeros(2, bool)

    calls, expected = [], go(lambda found: np.zeros(2, bool))
    with pytest.raises(RuntimeError, match="as if killed"):
        go(fragile, checkpoint=tmp_path / "state", save_every=0.0)
    found = go(lambda found: np.zeros(2, bool), checkpoint=tmp_path / "state")
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_the_tables_are_those_of_the_theory():
    np.testing.assert_array_equal(table_of(P)[0], toy_addition.all_pairs(P))
    for degree in (2, 3, 4):
        product, _ = groups.symmetric(degree)
        pairs, classes = table_of(PermutationGroup(degree))
        np.testing.assert_array_equal(classes, product[pairs[:, 0], pairs[:, 1]])


def test_members_have_their_own_hyperparameters():
    training, rates, decays = sets(P, (30, 40, 40)), [1e-3, 2e-3, 5e-4], [0.0, 1.0, 3.0]
    together = train(P, training, steps=30, embedding=AdamW(rates), decoder=AdamW(rates[::-1], decays), chunk=3, **QUICK)
    for b in range(3):
        alone = train(P, [training[b]], [b], 30, embedding=AdamW(rates[b]), decoder=AdamW(rates[2 - b], decays[b]), **QUICK)
        np.testing.assert_allclose(together.train_loss[b], alone.train_loss[0], rtol=1e-10)
        np.testing.assert_allclose(together.embedding[b], alone.embedding[0], rtol=1e-10)


def test_measurements_are_those_of_a_table():
    """Accuracy by the nearest random vector, of a network whose outputs are given by hand."""
    masks = representation.masks_of(P, sets(P, (45, 20)))
    templates = torch.as_tensor(np.random.default_rng(0).standard_normal((2, 19, 30)))
    task = RepresentationTask(P, masks, Perceptron((1, 4, 4, 30)), templates)
    f = templates[:, task.classes].clone()
    f[0, 7], f[1, 9] = templates[0, 12], templates[1, 0]  # pairs 7 and 9 of the table have other sums
    f += 1e-3
    right = np.ones((2, 55), bool)
    right[0, 7] = right[1, 9] = False
    np.testing.assert_array_equal(task.correct(f), right)
    distance = ((f[:, :, None] - templates[:, None]) ** 2).sum(-1)
    np.testing.assert_array_equal(task.correct(f), distance.argmin(-1) == task.classes)


def test_mini_batches_go_through_the_training_set():
    masks = representation.masks_of(P, sets(P, (20, 20)))
    task = RepresentationTask(P, masks, Perceptron((1, 4, 4, 30)), torch.zeros(2, 19, 30), batch=5, seeds=[3, 4])
    seen = torch.cat([task._mini_batch(step)[0][0] for step in range(4)], dim=1)  # an epoch
    assert sorted(map(tuple, seen[0].tolist())) == sorted(map(tuple, task.training[0][0][0].tolist()))
    again = torch.cat([task._mini_batch(step)[0][0] for step in range(4, 8)], dim=1)
    assert not torch.equal(seen, again)
    alone = task.select(torch.tensor([1]))
    torch.testing.assert_close(alone._mini_batch(2)[0][0][0], task._mini_batch(2)[0][0][1])
    full = train(P, sets(P, (20,)), steps=20, **QUICK)
    np.testing.assert_allclose(train(P, sets(P, (20,)), steps=20, batch=20, **QUICK).train_loss, full.train_loss, rtol=1e-9)
    assert abs(train(P, sets(P, (20,)), steps=20, batch=5, **QUICK).train_loss - full.train_loss).max() > 1e-4


@pytest.mark.slow
def test_networks_learn_addition():
    """Settings under which most seeds find the equally spaced representation, and then get right what follows from it."""
    training = [toy_addition.random_sets(P, 45, 1, seed=s)[0] for s in range(8)]
    ds = train(P, training, steps=3000, embedding=AdamW(1e-2), decoder=AdamW(1e-3), width=64, every=20, progress=False)
    linear = toy_addition.rqi(P, ds.embedding.values[:, -1]) > 0.95
    assert linear.sum() >= 4
    assert (first_reached(ds.train_accuracy, 0.9)[linear] < 3000).all()
    accuracy = ds.correct.mean("pair").values
    predicted = np.array([toy_addition.predicted_accuracy(P, t, e) for t, e in zip(training, ds.embedding.values[:, -1])])
    np.testing.assert_allclose(accuracy[linear], predicted[linear], atol=0.06)


def test_first_reached():
    curve = xr.DataArray(np.float32([[0.1, 0.9, 0.5], [0.2, 0.3, 0.4]]), dims=("member", "step"), coords={"step": [0, 10, 20]})
    np.testing.assert_array_equal(first_reached(curve, 0.9), [10, np.nan])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: train("addition", [[[0, 1]]], steps=1), "problem must be"),
        (lambda: train(P, [[[0, 10]]], steps=1), "symbols go from 0 to 9"),
        (lambda: train(P, [[[0.0, 1.0]]], steps=1), "whole numbers"),
        (lambda: train(P, [np.zeros((0, 2), int)], steps=1), "at least 1"),
        (lambda: train(P, [[[0, 1]]], [1, 2], steps=1), "seeds must be"),
        (lambda: train(P, [[[0, 1]]], steps=1, loss="mse"), "loss must be"),
        (lambda: train(P, [[[0, 1]]], steps=1, batch=2), "batch must be"),
        (lambda: train(P, [[[0, 1]]], steps=1, dtype="int8"), "dtype must be"),
        (lambda: train(P, [[[0, 1]]], steps=1, embedding_scale=-1.0), "embedding_scale must be"),
        (lambda: train(P, [[[0, 1]]], steps=-1), "steps must be"),
        (lambda: train(P, [[[0, 1]]], steps=1, decoder=AdamW([1e-3, 1e-3])), "learning_rate must be one number or one for each of 1"),
        (lambda: Perceptron((3,)), "sizes must be"),
        (lambda: Perceptron((3, 3), "gelu"), "activation must be"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()
