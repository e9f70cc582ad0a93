"""A phase diagram of embeddings and decoders as one batch, against one run after another as the field's scripts have it.

The script is a torch module, autograd, two ``torch.optim.AdamW`` and after each step the accuracies on training and other pairs; it and the
batch start from the same weights, and their losses are compared as well.
"""

from __future__ import annotations

import math
import statistics
import time

import numpy as np
import torch

from benchmarks.timing import cores, one_thread
from grokutils.descent import AdamW, Perceptron, representation
from grokutils.experiments.representation import training_sets
from grokutils.problems import ToyAddition

PROBLEM, PAIRS = ToyAddition(10), 45
RATES = np.geomspace(1e-5, 1e-2, 10)
GOAL = 10


class Script:
    """One network trained the usual way: regression on random vectors, metrics after each step."""

    def __init__(self, pairs, seed, width, embedding_rate, decoder_rate):
        everything, classes = (torch.as_tensor(x) for x in representation.table_of(PROBLEM))
        self.pairs, self.classes = everything, classes
        chosen = {tuple(p) for p in pairs.tolist()}
        self.training = torch.tensor([tuple(p) in chosen for p in everything.tolist()])
        first = Perceptron((1, width, width, representation.TEMPLATE_SIZE), "tanh").initial([seed])
        layers = []
        for k in range(3):
            w, b = first[f"decoder.weight{k}"][0], first[f"decoder.bias{k}"][0, 0]
            layer = torch.nn.Linear(*w.shape)
            layer.weight.data, layer.bias.data = w.T.contiguous(), b.clone()
            layers += [layer, torch.nn.Tanh()]
        self.decoder = torch.nn.Sequential(*layers[:-1])
        self.embedding = torch.nn.Parameter(torch.as_tensor(np.random.default_rng([seed, 0]).uniform(-0.5, 0.5, (10, 1)), dtype=torch.float32))
        sizes = (PROBLEM.sums, representation.TEMPLATE_SIZE)
        self.templates = torch.as_tensor(np.random.default_rng([seed, 2]).standard_normal(sizes), dtype=torch.float32)
        self.optimisers = [
            torch.optim.AdamW([self.embedding], embedding_rate, weight_decay=0.0),
            torch.optim.AdamW(self.decoder.parameters(), decoder_rate, weight_decay=0.0),
        ]

    def outputs(self, pairs):
        return self.decoder(self.embedding[pairs[:, 0]] + self.embedding[pairs[:, 1]])

    def accuracy(self, which):
        with torch.no_grad():
            nearest = torch.cdist(self.outputs(self.pairs[which]), self.templates).argmin(1)
            return (nearest == self.classes[which]).float().mean().item()

    def step(self):
        """One step of both optimisers and the metrics; returns the loss before it."""
        target = self.templates[self.classes[self.training]]
        loss = torch.nn.functional.mse_loss(self.outputs(self.pairs[self.training]), target)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        self.accuracy(self.training), self.accuracy(~self.training)
        return loss.item()


def diagram(rates, seed=0):
    """Members of a square diagram of learning rates: (training sets, seeds, embedding rates, decoder rates)."""
    embedding, decoder = (x.ravel() for x in np.meshgrid(rates, rates, indexing="ij"))
    return training_sets(PROBLEM, PAIRS, [seed]) * len(embedding), [seed] * len(embedding), embedding, decoder


def batch(rates, steps, width, every=1, jobs=None, chunk=None):
    """The diagram as one batch; every ``every`` steps the metrics."""
    sets, seeds, embedding, decoder = diagram(rates)
    return representation.train(
        PROBLEM, sets, seeds, steps, embedding=AdamW(embedding), decoder=AdamW(decoder), width=width, every=every, jobs=jobs or cores(),
        chunk=chunk, progress=False)


def largest_difference(rates, steps, width) -> float:
    """The largest relative difference of the training losses of batch and script, over steps and the corners of the diagram."""
    sets, seeds, embedding, decoder = diagram(rates)
    found = batch(rates, steps, width).train_loss.values[:, :-1]
    worst = 0.0
    for b in (0, len(rates) - 1, len(sets) - len(rates), len(sets) - 1):
        script = Script(sets[b], seeds[b], width, embedding[b], decoder[b])
        alone = np.array([script.step() for _ in range(steps)])
        worst = max(worst, float(np.max(np.abs(found[b] / alone - 1))))
    return worst


def _seconds(function) -> float:
    """Of one call, on the wall: threads are to be seen."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(quick: bool = False, report=print) -> dict:
    """The section "descent" of the record: how many times as fast a member's step is, on the wall, as in the script; medians of rounds."""
    rates, width, steps, rounds = (RATES[::5], 16, 5, 2) if quick else (RATES, 200, 400, 5)
    sets, seeds, embedding, decoder = diagram(rates)
    members = len(sets)
    with one_thread():
        scripts = [Script(sets[b], seeds[b], width, embedding[b], decoder[b]) for b in range(0, members, max(1, members // 4))]
        functions = {
            "script": lambda: [script.step() for script in scripts for _ in range(steps)],
            "one batch, one core": lambda: batch(rates, steps, width, jobs=1, chunk=members),
            "one core": lambda: batch(rates, steps, width, jobs=1),
            "all cores": lambda: batch(rates, steps, width),
            "all cores, metrics every 20 steps": lambda: batch(rates, steps, width, every=20),
        }
        report(f"{members} members, width {width}")
        laps = [{name: _seconds(function) for name, function in functions.items()} for _ in range(1 + rounds)][1:]  # the first one warms up
        difference = largest_difference(rates, 5 if quick else 100, width)
    share = members / len(scripts)
    logs = {name: [math.log(lap["script"] * share / lap[name]) for lap in laps] for name in functions if name != "script"}
    ratios = {name: math.exp(statistics.median(found)) for name, found in logs.items()}
    ln_errors = {name: statistics.stdev(found) / math.sqrt(rounds) for name, found in logs.items()}
    report(", ".join(f"{name} {ratio:.3g} times as fast" for name, ratio in ratios.items()))
    return dict(
        members=members, width=width, cores=cores(), steps=5 if quick else 100, ratios=ratios, ln_errors=ln_errors, difference=difference,
        goal=GOAL)
