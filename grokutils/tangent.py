r"""Tangent kernels of small networks by automatic differentiation, and regression with them.

The tangent kernel of a network $f_o(x;\theta)$ is
$K_{oo'}(x,x')=\sum_k\kappa_k\,\partial_{\theta_k}f_o(x)\,\partial_{\theta_k}f_{o'}(x')$, with a factor $\kappa_k$ for parameters whose learning
rates differ (1 otherwise). It says how gradient flow moves the outputs, $\dot f=-K\,\partial L/\partial f$.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from grokutils.descent import Perceptron

__all__ = ["perceptron_kernel", "regress", "tangent_kernel"]


def tangent_kernel(
    function: Callable, parameters: Mapping[str, torch.Tensor], factors: Mapping[str, float] | None = None, chunk: int | None = None,
) -> torch.Tensor:
    r"""The kernel of all outputs with one another, (m, k, m, k) for ``function(parameters)`` of shape (m, k).

    Args:
        function: from a dict of parameters to the outputs for the m inputs.
        parameters: tensors of any shapes; memory is m k times their number of elements.
        factors: $\kappa$ of each group of parameters, a group being what precedes the first "." of a name; missing ones are 1, 0 leaves a
            group out.
        chunk: outputs that are differentiated at once; None: all.
    """
    factors = {} if factors is None else dict(factors)
    groups = {name: name.split(".")[0] for name in parameters}
    unknown = set(factors) - set(groups.values())
    if unknown:
        raise ValueError(f"factors must name groups of the parameters, {sorted(set(groups.values()))}, got {sorted(unknown)}")
    used = {name: p.detach() for name, p in parameters.items() if factors.get(groups[name], 1.0) != 0}
    fixed = {name: p.detach() for name, p in parameters.items() if name not in used}
    shape = function({**fixed, **used}).shape
    if len(shape) != 2:
        raise ValueError(f"function must return outputs of shape (inputs, outputs), got {tuple(shape)}")
    jacobians = torch.func.jacrev(lambda p: function({**fixed, **p}), chunk_size=chunk)(used)
    size, kernel = shape.numel(), 0
    for name, jacobian in jacobians.items():
        rows = jacobian.reshape(size, -1)
        kernel = kernel + factors.get(groups[name], 1.0) * rows @ rows.T
    return kernel.reshape(*shape, *shape)


def perceptron_kernel(
    network: Perceptron, parameters: Mapping[str, torch.Tensor], inputs: torch.Tensor, inner: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""The same for one perceptron, from its layers, which is much cheaper: (m, k, m, k).

    A weight matrix between activations h and the slopes $\delta_o=\partial f_o/\partial z$ of the next layer's inputs contributes
    $(h\cdot h')(\delta_o\cdot\delta'_{o'})$, a vector of biases $\delta_o\cdot\delta'_{o'}$.

    Args:
        parameters: of one member, without the axis of members.
        inputs: (m, in).
        inner: $\sum_k\partial_kx\,\partial_kx'$ of the parameters that the inputs are made of, (m, m), if these are trained too and act on every
            coordinate of x alike; such as the overlap of picked symbols where x is a sum of embeddings.
    """
    tape, slopes = [inputs], []
    weights = [parameters[f"{network.group}.weight{layer}"] for layer in range(network.layers)]
    for layer, weight in enumerate(weights):
        z = tape[-1] @ weight + (parameters[f"{network.group}.bias{layer}"] if network.bias else 0)
        if layer == network.layers - 1:
            break
        if network.activation == "tanh":
            tape.append(torch.tanh(z))
            slopes.append(1 - tape[-1] ** 2)
        elif network.activation == "relu":
            tape.append(torch.relu(z))
            slopes.append((z > 0).to(z))
        else:
            tape.append(z**2 if network.activation == "square" else z)
            slopes.append(2 * z if network.activation == "square" else torch.ones_like(z))
    m, k = z.shape
    delta = torch.eye(k, dtype=z.dtype).expand(m, k, k)
    kernel = torch.zeros(m * k, m * k, dtype=z.dtype)

    def add(delta, gram):
        rows = delta.reshape(m * k, -1)
        kernel.view(m, k, m, k).add_((rows @ rows.T).view(m, k, m, k) * gram[:, None, :, None])

    for layer in reversed(range(network.layers)):
        add(delta, tape[layer] @ tape[layer].T + float(network.bias))
        delta = delta @ weights[layer].T
        if layer:
            delta = delta * slopes[layer - 1][:, None]
    if inner is not None:
        add(delta, inner.to(z))
    return kernel.view(m, k, m, k)


def regress(kernel: torch.Tensor, training, targets: torch.Tensor, ridge: float = 1e-8) -> torch.Tensor:
    r"""Predictions (m, k) of kernel regression for all inputs from those of the rows ``training``: $K_{\cdot D}(K_{DD}+\lambda)^{-1}Y$.

    Args:
        kernel: (m, k, m, k), as from ``tangent_kernel``.
        training: indices or booleans of the training inputs.
        targets: (n, k), of the training inputs; for a network with the output $f_0$ at the start pass $Y-f_0$ and add $f_0$ to the result.
        ridge: lambda over the mean of the diagonal of K_DD; a small one makes singular kernels harmless.
    """
    training = torch.as_tensor(training)
    training = training.nonzero()[:, 0] if training.dtype == torch.bool else training
    m, k = kernel.shape[:2]
    cross = kernel[:, :, training].reshape(m * k, -1)
    gram = kernel[training][:, :, training].reshape(len(training) * k, -1)
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return (cross @ torch.linalg.solve(gram, targets.to(gram).reshape(-1))).reshape(m, k)
