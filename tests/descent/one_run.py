"""The networks of Liu et al. as one would write them for a single run: a module, autograd, two optimisers of torch."""

import itertools

import numpy as np
import torch

from grokutils.problems import PermutationGroup


def table(problem):
    """Pairs and classes, not in any particular order."""
    if isinstance(problem, PermutationGroup):
        elements = list(itertools.permutations(range(problem.degree)))
        pairs = list(itertools.product(range(len(elements)), repeat=2))
        after = [elements.index(tuple(elements[b][elements[a][x]] for x in range(problem.degree))) for a, b in pairs]  # a first, then b
        return pairs, after
    pairs = list(itertools.combinations_with_replacement(range(problem.symbols), 2))
    return pairs, [i + j for i, j in pairs]


class Network(torch.nn.Module):
    """Embeddings, a composition, a decoder with two hidden tanh layers."""

    def __init__(self, embedding, weights, biases, matrices):
        super().__init__()
        self.embedding, self.matrices = torch.nn.Parameter(embedding.clone()), matrices
        layers = []
        for w, b in zip(weights, biases):
            linear = torch.nn.Linear(*w.shape, dtype=w.dtype)
            linear.weight.data, linear.bias.data = w.T.clone(), b[0].clone()
            layers += [linear, torch.nn.Tanh()]
        self.decoder = torch.nn.Sequential(*layers[:-1])

    def forward(self, pairs):
        a, b = self.embedding[pairs[:, 0]], self.embedding[pairs[:, 1]]
        return self.decoder((a @ b).flatten(1) if self.matrices else a + b)


def losses(problem, pairs, embedding, weights, biases, templates, steps, optimisers, alpha=1.0, centred=False, penalty=0.0):
    """Training loss before each step, of one network trained one step after another; templates None: cross-entropy."""
    everything, classes = table(problem)
    number = dict(zip(everything, classes))
    pairs = torch.as_tensor(np.asarray(pairs))
    label = torch.as_tensor([number[tuple(p)] for p in pairs.tolist()])
    network = Network(embedding, weights, biases, isinstance(problem, PermutationGroup))
    start = network(pairs).detach() if centred else 0.0
    both = [make(group) for make, group in zip(optimisers, ([network.embedding], network.decoder.parameters()))]
    found = []
    for _ in range(steps):
        f = alpha * (network(pairs) - start)
        loss = torch.nn.functional.cross_entropy(f, label) if templates is None else torch.nn.functional.mse_loss(f, templates[label])
        found.append(float(loss.detach()))
        for optimiser in both:
            optimiser.zero_grad()
        (loss + penalty * network.embedding.abs().mean()).backward()
        for optimiser in both:
            optimiser.step()
    return np.array(found), network
