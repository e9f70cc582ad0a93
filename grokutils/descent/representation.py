"""Symbols with trainable embeddings, composed before a decoder sees them: the networks of Liu et al., by the batch."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import xarray as xr

from grokutils.descent.loop import descend, first_reached, recorded_steps, training_rows
from grokutils.descent.optimisers import AdamW
from grokutils.descent.perceptron import Perceptron
from grokutils.problems import PermutationGroup, ToyAddition, positive

__all__ = ["RepresentationTask", "first_reached", "masks_of", "table_of", "train"]

LOSSES = ("regression", "classification")
TEMPLATE_SIZE = 30  # numbers in the random vector that stands for a class in regression


def table_of(problem) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (m, 2) of a problem in the order of ``theory``, and the class of each: the sum, or the number of the product."""
    if isinstance(problem, ToyAddition):
        pairs = sorted(itertools.combinations_with_replacement(range(problem.symbols), 2), key=lambda ij: (sum(ij), ij[0]))
        return np.array(pairs), np.sum(pairs, axis=1)
    if not isinstance(problem, PermutationGroup):
        raise ValueError(f"problem must be a ToyAddition or a PermutationGroup, got {type(problem).__name__}")
    elements = list(itertools.permutations(range(problem.degree)))
    product = {(a, b): elements.index(tuple(elements[b][x] for x in elements[a])) for a in range(len(elements)) for b in range(len(elements))}
    return np.array(list(product)), np.array(list(product.values()))


def masks_of(problem, training_sets) -> np.ndarray:
    """Booleans (members, m): which pairs of ``table_of`` each member is trained on, from one array (n, 2) of pairs a member."""
    pairs = table_of(problem)[0]
    place, abelian = {tuple(map(int, pair)): k for k, pair in enumerate(pairs)}, isinstance(problem, ToyAddition)
    masks = np.zeros((len(training_sets), len(pairs)), bool)
    for mask, chosen in zip(masks, training_sets, strict=True):
        chosen = np.asarray(chosen)
        if chosen.ndim != 2 or chosen.shape[1:] != (2,) or not len(chosen) or chosen.dtype.kind not in "iu":
            raise ValueError(f"training_sets must hold whole numbers of shape (n, 2), n at least 1, got shape {chosen.shape} of {chosen.dtype}")
        for pair in map(tuple, (np.sort(chosen, axis=1) if abelian else chosen).tolist()):
            if pair not in place:
                raise ValueError(f"training_sets has the pair {pair}, but symbols go from 0 to {problem.symbols - 1}")
            mask[place[pair]] = True
    return masks


class RepresentationTask:
    r"""The loss of decoders that see composed embeddings, E_i + E_j or the matrix product E_a E_b.

    $$L=\frac1{|D|}\sum_{(i,j)\in D}\ell\bigl(\alpha[\mathrm{Dec}(E_i\circ E_j)-c_{ij}],\,Y_{i\circ j}\bigr)$$

    "regression": squared error averaged over the components of the class's random vector, prediction the nearest vector;
    "classification": cross-entropy, prediction the largest output. c is the initial output if ``centred``, else 0; alpha is the laziness.
    Parameters: ``embedding`` (members, p, d) or (members, p, d, d), and those of the decoder.
    """

    def __init__(self, problem, masks, decoder: Perceptron, templates, *, laziness=None, centre=None, penalty=0.0, batch=None, seeds=None):
        pairs, classes = (torch.as_tensor(x) for x in table_of(problem))
        self.decoder, self.matrices, self.penalty, self.batch = decoder, isinstance(problem, PermutationGroup), penalty, batch
        hot = torch.nn.functional.one_hot(pairs, problem.symbols).to(templates)
        # the symbols of each pair as rows that pick embeddings: one matrix for sums, two for products
        self.pickers = [hot[:, 0], hot[:, 1]] if self.matrices else [hot.sum(1)]
        self.classes, self.templates, self.masks = classes.to(templates.device), templates, torch.as_tensor(masks, device=templates.device)
        self.laziness, self.centre = laziness, centre
        self.seeds = torch.arange(len(masks)) if seeds is None else torch.as_tensor(seeds)
        self._prepare()

    def _prepare(self):
        """Training pairs as padded rows of indices with weights 1/n, zero where there is no pair."""
        self.rows, weight, _ = training_rows(self.masks, self.templates)
        self.training = self._gather(self.rows, weight)
        self.half_norm = -0.5 * self.templates.square().sum(-1)[:, None]
        self.epoch = self.table = None

    def _gather(self, rows, weight):
        pickers = [picker[rows] for picker in self.pickers]
        members = torch.arange(len(rows), device=rows.device)[:, None]
        if self.decoder_is_classifier:
            target = torch.nn.functional.one_hot(self.classes[rows], self.decoder.sizes[-1]).to(self.templates)
        else:
            target = self.templates[members, self.classes[rows]]
        return pickers, target, weight[..., None], None if self.centre is None else self.centre[members, rows]

    @property
    def decoder_is_classifier(self) -> bool:
        """Without templates the loss is the cross-entropy."""
        return self.templates.shape[-1] == 0

    def select(self, members):
        """The task of some members."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        for name in ("masks", "templates", "seeds", "laziness", "centre"):
            value = getattr(self, name)
            setattr(new, name, value if value is None else value[members.to(value.device)])
        new._prepare()
        return new

    def compose(self, embedding, pickers):
        """Decoder inputs (members, pairs, d) and the factors they are made of."""
        flat = embedding.flatten(2)
        picked = [torch.matmul(picker, flat) for picker in pickers]
        if not self.matrices:
            return picked[0], None
        left, right = (x.unflatten(2, embedding.shape[2:]) for x in picked)
        return torch.matmul(left, right).flatten(2), (left, right)

    def outputs(self, parameters):
        """What the networks say about every pair of the table: (members, m, outputs)."""
        x, _ = self.compose(parameters["embedding"], self.pickers)
        return self._scaled(self.decoder.forward(parameters, x)[-1], self.centre)

    def _scaled(self, f, centre):
        if centre is not None:
            f = f - centre
        return f if self.laziness is None else f * self.laziness

    def gradients(self, parameters, into, step):
        """Gradients of all members by hand."""
        pickers, target, weight, centre = self.training if self.batch is None else self._mini_batch(step)
        x, factors = self.compose(parameters["embedding"], pickers)
        tape = self.decoder.forward(parameters, x)
        f = self._scaled(tape[-1], centre)
        error = torch.softmax(f, -1).sub_(target) if self.decoder_is_classifier else f - target
        self._backward(parameters, into, pickers, factors, tape, error, weight)

    def _backward(self, parameters, into, pickers, factors, tape, error, weight):
        """From the loss's gradient with respect to the outputs, but for factors, to those of the parameters."""
        embedding, scale = parameters["embedding"], 1.0 if self.decoder_is_classifier else 2 / error.shape[-1]
        g = error * (weight * scale if self.laziness is None else weight * (scale * self.laziness))
        g = self.decoder.backward(parameters, tape, g, into)
        if factors is None:
            out = torch.matmul(pickers[0].mT, g)
        else:
            g = g.unflatten(2, embedding.shape[2:])
            left, right = torch.matmul(g, factors[1].mT).flatten(2), torch.matmul(factors[0].mT, g).flatten(2)
            out = torch.matmul(pickers[0].mT, left) + torch.matmul(pickers[1].mT, right)
        if self.penalty:
            out += self.penalty / out[0].numel() * embedding.flatten(2).sign()
        into["embedding"].copy_(out.view_as(embedding))

    def measured_gradients(self, parameters, into, step):
        """``measure`` and ``gradients`` from one forward pass over all pairs, every member's training pairs first."""
        if self.batch is not None:
            self.gradients(parameters, into, step)
            return self.measure(parameters)
        if self.table is None:
            order = torch.argsort(self.masks.to(torch.int8), dim=1, descending=True, stable=True)
            train = self.masks.gather(1, order).to(self.templates)
            self.table = *self._gather(order, train), self.classes[order], self._parts(train)
        pickers, target, _, centre, classes, parts = self.table
        n = self.rows.shape[1]
        x, factors = self.compose(parameters["embedding"], pickers)
        tape = self.decoder.forward(parameters, x)
        f = self._scaled(tape[-1], centre)
        error = torch.softmax(f, -1).sub_(target) if self.decoder_is_classifier else f - target
        found = self._findings(f, error, classes, parts) | {"embedding": parameters["embedding"].clone()}
        factors = factors and [part[:, :n] for part in factors]
        self._backward(parameters, into, self.training[0], factors, [h[:, :n] for h in tape], error[:, :n], self.training[2])
        return found

    def _mini_batch(self, step):
        """The pairs of one step: every epoch each member goes through its training set in a new random order, the last part left out."""
        n = self.rows.shape[1]
        epoch, part = divmod(step, max(n // self.batch, 1))
        if self.epoch is None or self.epoch[0] != epoch:
            order = np.stack([np.random.default_rng([int(seed), 3, epoch]).permutation(n) for seed in self.seeds])
            self.epoch = epoch, torch.gather(self.rows, 1, torch.as_tensor(order, device=self.rows.device))
        rows = self.epoch[1][:, part * self.batch : (part + 1) * self.batch]
        return self._gather(rows, torch.full(rows.shape, 1 / rows.shape[1]).to(self.templates))

    def correct(self, outputs, classes=None):
        """Which pairs are predicted right: booleans (members, m); ``classes`` are those of the pairs, if they are in an order of their own."""
        if not self.decoder_is_classifier:
            outputs = torch.baddbmm(self.half_norm, outputs, self.templates.mT)
        return outputs.argmax(-1) == (self.classes if classes is None else classes)

    def measure(self, parameters):
        """Losses and accuracies on training pairs and on the others (NaN if there are none), and the embeddings."""
        f = self.outputs(parameters)
        residual = None if self.decoder_is_classifier else f - self.templates[:, self.classes]
        found = self._findings(f, residual, self.classes.expand(len(f), -1), self._parts(self.masks.to(f)))
        return found | {"embedding": parameters["embedding"].clone()}

    @staticmethod
    def _parts(train):
        """Weights (members, 2, m) of means over training pairs and over the others; NaN where there are no pairs."""
        parts = torch.stack([train, 1 - train], 1)
        return parts / parts.sum(2, keepdim=True)

    def _findings(self, f, residual, classes, parts):
        """Losses and accuracies, as means with the weights ``parts``, from the outputs for pairs of given classes."""
        if self.decoder_is_classifier:
            loss = torch.logsumexp(f, -1) - f.gather(2, classes[..., None])[..., 0]
        else:
            loss = residual.square().mean(-1)
        values = torch.stack([loss, self.correct(f, classes).to(f)], 2)
        means = torch.bmm(parts, values)
        return {f"{part}_{name}": means[:, i, k] for i, part in enumerate(("train", "test")) for k, name in enumerate(("loss", "accuracy"))}


def train(
    problem: ToyAddition | PermutationGroup, training_sets, seeds=None, steps: int = 5000, *, embedding=AdamW(1e-3), decoder=AdamW(1e-4),
    width: int = 200, loss: str = "regression", embedding_scale: float = 1.0, embedding_dimension: int = 1, decoder_scale: float = 1.0,
    laziness=None, centred: bool = False, penalty: float = 0.0, batch: int | None = None, every: int = 50, record=None, stop=None,
    dtype: str = "float32", device: str = "cpu", jobs: int = 1, chunk: int | None = None, checkpoint=None, progress: bool = True,
) -> xr.Dataset:
    r"""Train embeddings and decoders together, each with its own optimiser; every member has its training set, seed and hyperparameters.

    Embeddings start uniform in $\pm s/2$; the decoder is a perceptron with two hidden tanh layers.

    Args:
        problem: what is learnt.
        training_sets: one array (n, 2) of pairs for each member; n may differ.
        seeds: one for each member (0, 1, ... if None): initial weights, the classes' random vectors, the order of mini-batches.
        steps: of both optimisers.
        embedding, decoder: optimisers, whose hyperparameters may have an entry for each member.
        width: of both hidden layers.
        loss: "regression" on random vectors or "classification".
        embedding_scale: s; embedding_dimension: of a symbol's vector (matrices of a permutation group are degree by degree).
        decoder_scale: factor on the decoder's initial weights.
        laziness: factor alpha on the output, a number or one for each member; with ``centred`` the initial output is subtracted first.
        penalty: factor of the mean absolute value of the embeddings in the loss.
        batch: pairs in a mini-batch; None: full batch.
        every, record: measure every so many steps, or at the steps given.
        stop, jobs, chunk, checkpoint, progress: as in ``descend``.
        dtype, device: "float32" or "float64"; the device of the tensors.

    Returns:
        Dataset with train_loss, test_loss, train_accuracy, test_accuracy (member, step), embedding (member, step, symbol, coordinate), or
        (..., row, column) for matrices, and at the end ``correct`` (member, pair), ``training`` (member, pair), ``last_step`` (member).
        What would have been measured after a member was stopped is NaN.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """
    record = recorded_steps(steps, every, record)
    masks = masks_of(problem, training_sets)
    seeds = list(range(len(masks))) if seeds is None else [int(s) for s in seeds]
    _check(problem, masks, seeds, loss, dtype, batch, width, embedding_scale, decoder_scale, embedding_dimension, penalty)
    kind, matrices = dict(dtype=getattr(torch, dtype), device=device), isinstance(problem, PermutationGroup)
    shape = (problem.degree,) * 2 if matrices else (embedding_dimension,)
    pairs, classes = table_of(problem)
    outputs = TEMPLATE_SIZE if loss == "regression" else int(classes.max()) + 1
    network = Perceptron((int(np.prod(shape)), width, width, outputs), "tanh")
    draws = [np.random.default_rng([seed, 0]).uniform(-0.5, 0.5, (problem.symbols, *shape)) for seed in seeds]
    parameters = {"embedding": torch.as_tensor(embedding_scale * np.stack(draws), **kind)} | network.initial(seeds, decoder_scale, **kind)
    sizes = (int(classes.max()) + 1, outputs if loss == "regression" else 0)
    templates = torch.as_tensor(np.stack([np.random.default_rng([seed, 2]).standard_normal(sizes) for seed in seeds]), **kind)
    task = RepresentationTask(problem, masks, network, templates, penalty=penalty, batch=batch, seeds=seeds)
    if centred:
        task.centre = task.outputs(parameters)
    if laziness is not None:
        each = np.broadcast_to(np.asarray(laziness, float).reshape(-1, 1, 1), (len(masks), 1, 1)).copy()
        task.laziness = torch.as_tensor(each, **kind)
    task._prepare()
    optimisers = {"embedding": embedding, "decoder": decoder}
    how = dict(stop=stop, jobs=jobs, chunk=chunk, checkpoint=checkpoint, progress=progress)
    found = descend(task, parameters, optimisers, int(steps), record, **how)
    return _dataset(problem, task, parameters, found, seeds, record, dict(
        symbols=problem.symbols, width=width, loss=loss, embedding_optimiser=repr(embedding), decoder_optimiser=repr(decoder),
        steps=int(steps), dtype=dtype, embedding_scale=float(embedding_scale), decoder_scale=float(decoder_scale), penalty=float(penalty),
        centred=int(centred),
    ))


def _dataset(problem, task, parameters, found, seeds, record, attributes):
    where = ("row", "column") if task.matrices else ("coordinate",)
    names = {"embedding": ("member", "step", "symbol", *where), "last_step": ("member",)}
    pairs, _ = table_of(problem)
    with torch.no_grad():
        correct = task.correct(task.outputs(parameters)).cpu().numpy()
    data = {name: (names.get(name, ("member", "step")), value) for name, value in found.items()}
    data |= {"correct": (("member", "pair"), correct), "training": (("member", "pair"), task.masks.cpu().numpy())}
    coordinates = {"member": np.arange(len(seeds)), "step": record, "seed": ("member", seeds)}
    return xr.Dataset(data, coordinates | {"first": ("pair", pairs[:, 0]), "second": ("pair", pairs[:, 1])}, attributes)


def _check(problem, masks, seeds, loss, dtype, batch, width, embedding_scale, decoder_scale, embedding_dimension, penalty):
    if len(seeds) != len(masks) or min(seeds, default=-1) < 0:
        raise ValueError(f"seeds must be one non-negative number for each of {len(masks)} training sets, got {seeds!r}")
    for name, value, allowed in (("loss", loss, LOSSES), ("dtype", dtype, ("float32", "float64"))):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    for name, value in (("width", width), ("embedding_dimension", embedding_dimension)):
        positive(name, value, whole=True)
    for name, value in (("embedding_scale", embedding_scale), ("decoder_scale", decoder_scale)):
        positive(name, value)
    positive("penalty", penalty, minimum=-1e-300)
    counts = masks.sum(1)
    if batch is not None and (positive("batch", batch, whole=True) > counts.min() or counts.min() != counts.max()):
        raise ValueError(f"batch must be at most the number of training pairs, for all members, got {batch!r} of {counts.min()} to {counts.max()}")
