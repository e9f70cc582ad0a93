"""Tangent kernels: automatic differentiation against finite differences, layers against automatic differentiation; regression."""

import numpy as np
import pytest
import torch

from grokutils.descent import Perceptron
from grokutils.problems import Committee
from grokutils.tangent import perceptron_kernel, regress, tangent_kernel
from grokutils.theory import committee as cm


def network(activation="tanh", bias=True, sizes=(2, 5, 4, 3), seed=0):
    p = Perceptron(sizes, activation, bias=bias)
    parameters = {k: v[0] for k, v in p.initial([seed], 1.5, dtype=torch.float64).items()}
    return p, parameters, torch.as_tensor(np.random.default_rng(seed).normal(size=(6, sizes[0])))


def outputs(p, parameters, x):
    return p.forward({k: v[None] for k, v in parameters.items()}, x[None])[-1][0]


def differences(function, parameters, factors):
    """The kernel by central differences, parameter by parameter."""
    kernel = 0
    for name, value in parameters.items():
        for k in range(value.numel()):
            shifted = []
            for sign in (1, -1):
                moved = value.clone()
                moved.view(-1)[k] += sign * 1e-5
                shifted.append(function(parameters | {name: moved}))
            slope = ((shifted[0] - shifted[1]) / 2e-5).reshape(-1)
            kernel = kernel + factors.get(name.split(".")[0], 1.0) * torch.outer(slope, slope)
    return kernel


@pytest.mark.parametrize("activation", ["tanh", "relu", "square", "linear"])
@pytest.mark.parametrize("bias", [True, False])
def test_three_ways_to_a_kernel_agree(activation, bias):
    p, parameters, x = network(activation, bias)
    layers = perceptron_kernel(p, parameters, x)

    def function(q):
        h = x
        for layer in range(p.layers):
            h = h @ q[f"decoder.weight{layer}"] + (q[f"decoder.bias{layer}"] if bias else 0)
            if layer < p.layers - 1:
                h = {"tanh": torch.tanh, "relu": torch.relu, "square": torch.square, "linear": lambda z: z}[activation](h)
        return h

    torch.testing.assert_close(function(parameters), outputs(p, parameters, x))
    automatic = tangent_kernel(function, parameters)
    torch.testing.assert_close(layers, automatic)
    torch.testing.assert_close(automatic.reshape(18, 18), differences(function, parameters, {}), rtol=1e-5, atol=1e-6)


def test_embeddings_and_factors():
    p, parameters, _ = network(sizes=(1, 6, 3))
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 2]])
    parameters = {"embedding": torch.tensor([[0.3], [-0.2], [0.5]], dtype=torch.float64), **parameters}

    def function(q):
        x = q["embedding"][pairs].sum(1)
        return torch.tanh(x @ q["decoder.weight0"] + q["decoder.bias0"]) @ q["decoder.weight1"] + q["decoder.bias1"]

    picked = torch.nn.functional.one_hot(pairs, 3).sum(1).double()
    layers = perceptron_kernel(p, parameters, picked @ parameters["embedding"], picked @ picked.T)
    torch.testing.assert_close(layers, tangent_kernel(function, parameters))
    for factors in ({"embedding": 7.0}, {"embedding": 0.0}, {"decoder": 0.5}):
        found = tangent_kernel(function, parameters, factors, chunk=2).reshape(12, 12)
        torch.testing.assert_close(found, differences(function, parameters, factors), rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="groups of the parameters"):
        tangent_kernel(function, parameters, {"body": 1.0})
    with pytest.raises(ValueError, match="shape"):
        tangent_kernel(lambda q: function(q).sum(), parameters)


def test_kernel_of_a_committee_machine_is_the_closed_form():
    problem = Committee(dimension=5, samples=9, width=7, laziness=1.7, curvature=0.4, step_size=1.0)
    given = cm.draw(problem)
    x, w = torch.as_tensor(given.inputs), torch.as_tensor(given.weights)

    def function(q):
        h = x @ q["w"].T
        return problem.laziness * (h + problem.curvature / 2 * h**2).mean(1, keepdim=True)

    found = tangent_kernel(function, {"w": w})[:, 0, :, 0].numpy()
    np.testing.assert_allclose(found, problem.laziness**2 / 7 * cm.ntk(problem, given.mean, given.moment, given.inputs), rtol=1e-10)


def test_regression_interpolates_and_is_ridge_regression():
    rng = np.random.default_rng(0)
    features = torch.as_tensor(rng.normal(size=(8, 2, 40)))
    kernel = torch.einsum("mkp,nlp->mknl", features, features)
    seen, targets = torch.tensor([0, 2, 5, 6]), torch.as_tensor(rng.normal(size=(4, 2)))
    found = regress(kernel, seen, targets)
    torch.testing.assert_close(found[seen], targets, rtol=1e-5, atol=1e-6)
    flat = features[seen].reshape(8, 40)
    ridge = 0.3 * (flat @ flat.T).diagonal().mean()
    weights = torch.linalg.solve(flat.T @ flat + ridge * torch.eye(40, dtype=torch.float64), flat.T @ targets.reshape(-1))
    torch.testing.assert_close(regress(kernel, seen, targets, 0.3), features @ weights)
    mask = torch.zeros(8, dtype=torch.bool)
    mask[seen] = True
    torch.testing.assert_close(regress(kernel, mask, targets, 0.3), regress(kernel, seen, targets, 0.3))
