"""Networks with matrix embeddings: one order of factors everywhere, gradients by hand against automatic ones, what an ideal network gets right."""

import itertools

import numpy as np
import pytest
import torch

from grokutils.descent import AdamW, Perceptron, representation
from grokutils.experiments import groups as experiment
from grokutils.problems import PermutationGroup
from grokutils.theory import groups


# covers: eq-E13-check
@pytest.mark.parametrize("degree", [2, 3, 4])
def test_networks_and_theory_multiply_in_the_same_order(degree):
    """a b means a first; the pairs, their order and their products are those of the theory."""
    pairs, classes = representation.table_of(PermutationGroup(degree))
    table, matrices = groups.symmetric(degree)
    np.testing.assert_array_equal(pairs, groups.all_pairs(table) if degree > 2 else list(itertools.product(range(2), repeat=2)))
    np.testing.assert_array_equal(classes, table[pairs[:, 0], pairs[:, 1]])
    np.testing.assert_array_equal(matrices[pairs[:, 0]] @ matrices[pairs[:, 1]], matrices[classes])
    if degree > 2:  # the other order is another table
        assert (classes != table[pairs[:, 1], pairs[:, 0]]).any()


def task_of(problem, seeds=(0, 1, 2), penalty=0.0, size=5):
    """A task in double precision with training sets of different sizes, and parameters away from the symmetric start."""
    table = representation.table_of(problem)[0]
    sets = [table[np.random.default_rng([s, 1]).permutation(len(table))[: size + s]] for s in seeds]
    network = Perceptron((problem.degree**2, 7, 6, 4), "tanh")
    rng = np.random.default_rng(0)
    templates = torch.as_tensor(rng.normal(size=(len(seeds), problem.symbols, 4)))
    parameters = {"embedding": torch.as_tensor(rng.normal(size=(len(seeds), problem.symbols, problem.degree, problem.degree)))}
    parameters |= network.initial(seeds, dtype=torch.float64)
    return representation.RepresentationTask(problem, representation.masks_of(problem, sets), network, templates, penalty=penalty), parameters, sets


def loss_by_the_definition(task, parameters, sets, penalty, order=(0, 1)):
    """Mean squared error over the training pairs of each member, one pair after the other, and the mean absolute entry of the embeddings."""
    table = groups.symmetric(3)[0]
    total = []
    for k, pairs in enumerate(sets):
        e = parameters["embedding"][k]
        errors = []
        for pair in pairs.tolist():
            x = (e[pair[order[0]]] @ e[pair[order[1]]]).reshape(1, 1, -1)
            f = task.decoder.forward({n: p[k : k + 1] for n, p in parameters.items()}, x)[-1][0, 0]
            errors.append((f - task.templates[k, table[pair[0], pair[1]]]).square().mean())
        total.append(torch.stack(errors).mean() + penalty * e.abs().mean())
    return torch.stack(total).sum()


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_gradients_of_matrix_products_against_autograd(penalty):
    """Every parameter to 1e-12; with the factors exchanged the gradients of the embeddings are wrong."""
    task, parameters, sets = task_of(PermutationGroup(3), penalty=penalty)
    into = {name: torch.empty_like(p) for name, p in parameters.items()}
    task.gradients(parameters, into, 0)
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    names = list(leaves)
    exact = torch.autograd.grad(loss_by_the_definition(task, leaves, sets, penalty), list(leaves.values()))
    for name, g in zip(names, exact, strict=True):
        torch.testing.assert_close(into[name], g, rtol=1e-12, atol=1e-14)
    swapped = torch.autograd.grad(loss_by_the_definition(task, leaves, sets, penalty, order=(1, 0)), leaves["embedding"])[0]
    assert (swapped - into["embedding"]).abs().max() > 1e-3


def test_gradients_of_some_members_are_those_of_all():
    task, parameters, _ = task_of(PermutationGroup(3))
    every, some = ({name: torch.empty_like(p[:k]) for name, p in parameters.items()} for k in (3, 2))
    task.gradients(parameters, every, 0)
    chosen = torch.tensor([2, 0])
    task.select(chosen).gradients({name: p[chosen] for name, p in parameters.items()}, some, 0)
    for name in every:
        torch.testing.assert_close(some[name], every[name][chosen], rtol=1e-12, atol=1e-14)


def test_index_and_scatter_of_a_representation():
    """Both are perfect on permutation matrices in any basis and scale, and far from it on random matrices."""
    problem, rng = PermutationGroup(3), np.random.default_rng(0)
    basis = rng.normal(size=(3, 3))
    turned = -0.2 * np.linalg.inv(basis) @ groups.symmetric(3)[1] @ basis
    noise = rng.normal(size=(200, 6, 3, 3))
    held, within = experiment.quality(problem, np.concatenate([turned[None], noise]))
    assert held[0] == 1 and within[0] < 1e-12
    assert held[1:].mean() < 0.02
    # products of independent matrices with one of 6 labels each: 30 of 35 degrees of freedom lie within classes
    assert abs(within[1:].mean() - 30 / 35) < 0.02
    np.testing.assert_allclose(experiment.quality(problem, 7 * noise)[1], within[1:], rtol=1e-12)


def test_nested_sets():
    """A larger training set contains the smaller one of its seed; seeds differ."""
    problem = PermutationGroup(3)
    sets = experiment.nested_sets(problem, (6, 20), 3)
    small, large = sets[:3], sets[3:]
    assert [len(x) for x in sets] == [6] * 3 + [20] * 3
    for a, b in zip(small, large, strict=True):
        assert set(map(tuple, a.tolist())) < set(map(tuple, b.tolist()))
    assert len({tuple(map(tuple, x.tolist())) for x in large}) == 3


def test_stored_function_on_a_few_steps():
    """Shapes, and that the first record is the start: uniform in +-scale/2 whatever the size of the training set."""
    ds = experiment.trained_on_group(PermutationGroup(3), sizes=(6, 30), seeds=2, steps=120, embedding_scale=0.4)
    assert ds.train_accuracy.shape == (2, 2, 3) and ds.step.values.tolist() == [0, 100, 120]
    assert ds.correct.shape == (2, 2, 36) and ds.training.sum("pair").values.tolist() == [[6, 6], [30, 30]]
    np.testing.assert_array_equal(ds.rms[0, :, 0], ds.rms[1, :, 0])
    np.testing.assert_allclose(ds.rms[:, :, 0], 0.4 / 12**0.5, rtol=0.2)
    assert (ds.rms[0, :, -1] != ds.rms[1, :, -1]).all()
    accuracy = (ds.correct * ds.training).sum("pair") / ds.training.sum("pair")
    np.testing.assert_allclose(accuracy, ds.train_accuracy[..., -1], atol=1e-6)


def test_penalty_alone_shrinks_embeddings():
    """With a decoder that does not learn and a huge penalty, Adam moves every entry towards zero by its rate a step."""
    problem, pairs = PermutationGroup(3), representation.table_of(PermutationGroup(3))[0][:20]
    how = dict(embedding=AdamW(1e-3), decoder=AdamW(0.0), every=50, dtype="float64", progress=False)
    ds = representation.train(problem, [pairs], [0], 50, penalty=1e6, **how)
    start, end = ds.embedding[0, 0].values, ds.embedding[0, 1].values
    far = np.abs(start) > 0.06
    np.testing.assert_allclose((np.abs(start) - np.abs(end))[far], 0.05, rtol=1e-3)
