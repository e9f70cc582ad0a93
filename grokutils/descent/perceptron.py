"""Multilayer perceptrons for ensembles: forward and backward by hand, every member with weights of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

ACTIVATIONS = ("tanh", "relu", "square", "linear")


@dataclass(frozen=True)
class Perceptron:
    r"""Layers $h_{l+1}=\phi(h_lW_l+b_l)$, the last one without $\phi$.

    Parameters are ``{group}.weight{l}`` (members, in, out) and ``{group}.bias{l}`` (members, 1, out).

    Args:
        sizes: numbers of units from the inputs to the outputs.
        activation: "tanh", "relu", "square" or "linear".
        bias: whether layers have biases.
        group: what the parameters' names begin with.

    Raises:
        ValueError: an argument is not what it must be.
    """

    sizes: tuple[int, ...]
    activation: str = "tanh"
    bias: bool = True
    group: str = "decoder"

    def __post_init__(self):
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"sizes must be at least two positive numbers, got {self.sizes!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {ACTIVATIONS}, got {self.activation!r}")

    @property
    def layers(self) -> int:
        """Matrices of weights."""
        return len(self.sizes) - 1

    def initial(self, seeds, scale: float = 1.0, dtype=torch.float32, device="cpu") -> dict[str, torch.Tensor]:
        r"""Weights and biases uniform in $\pm1/\sqrt{\text{fan-in}}$, PyTorch's default, times ``scale``; a member depends on its own seed alone."""
        parameters = {}
        streams = [np.random.default_rng([seed, 1]) for seed in seeds]
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            bound = scale / fan_in**0.5
            for name, rows in (("weight", fan_in), ("bias", 1))[: 1 + self.bias]:
                draws = np.stack([stream.uniform(-bound, bound, (rows, fan_out)) for stream in streams])
                parameters[f"{self.group}.{name}{layer}"] = torch.as_tensor(draws, dtype=dtype, device=device)
        return parameters

    def forward(self, parameters, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Inputs (members, samples, in), then every layer's output; for "square" what is squared is kept as well (see ``backward``)."""
        tape = [inputs]
        for layer in range(self.layers):
            weight = parameters[f"{self.group}.weight{layer}"]
            h = torch.baddbmm(parameters[f"{self.group}.bias{layer}"], tape[-1], weight) if self.bias else torch.bmm(tape[-1], weight)
            if layer < self.layers - 1 and self.activation != "linear":
                if self.activation == "square":
                    tape.append(h)  # its slope needs what was squared
                    h = h.square()
                elif self.activation == "tanh":
                    h.tanh_()
                else:
                    h.relu_()
            tape.append(h)
        return tape

    def backward(self, parameters, tape: list[torch.Tensor], gradient: torch.Tensor, into) -> torch.Tensor:
        """Write the gradients of the parameters, given the loss's gradient with respect to the outputs; return that of the inputs."""
        tape = list(tape)
        tape.pop()
        for layer in reversed(range(self.layers)):
            h = tape.pop()
            torch.bmm(h.mT, gradient, out=into[f"{self.group}.weight{layer}"])
            if self.bias:
                torch.sum(gradient, 1, keepdim=True, out=into[f"{self.group}.bias{layer}"])
            gradient = torch.bmm(gradient, parameters[f"{self.group}.weight{layer}"].mT)
            if layer and self.activation == "tanh":
                gradient = torch.ops.aten.tanh_backward(gradient, h)  # g (1 - h^2) in one pass
            elif layer and self.activation == "relu":
                gradient.mul_(h > 0)
            elif layer and self.activation == "square":
                gradient.mul_(tape.pop()).mul_(2)
        return gradient
