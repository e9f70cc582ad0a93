r"""Small transformers that learn addition modulo P, by the batch: embeddings and a decoder, each with its own optimiser.

Each layer is residual and normalises before it acts, $x\leftarrow x+\mathrm{Att}(\mathrm{LN}\,x)$, $x\leftarrow x+\mathrm{FF}(\mathrm{LN}\,x)$,
as ``torch.nn.TransformerEncoderLayer(norm_first=True)``. Tensors are (members, tokens, pairs, dimension): one token of all pairs is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch.nn import functional

from grokutils import embeddings
from grokutils.descent.loop import AutogradTask, descend, recorded_steps, training_rows
from grokutils.descent.optimisers import AdamW
from grokutils.problems import Problem, positive

_ACTIVATIONS = 2**17  # numbers in a token array of a chunk: what fits the cache of a core


@dataclass(frozen=True)
class TransformerAddition(Problem):
    r"""Addition modulo P to be learnt from a part of its table by a transformer.

    A pair (n, m) becomes two tokens with trainable embeddings; they see each other, there is no code of their places. The outputs of the
    last layer are joined and read by one linear layer (Liu et al., section 4.2). With ``equation`` the network is that of Nanda et al. and
    of Kumar et al.: three tokens "n m =" with trainable codes of their places, read at "=", biases in the feed-forward part alone.

    Args:
        modulus: P.
        training_fraction: share of the P^2 ordered pairs that the network is trained on, between 0 and 1.
        dimension: d, of embeddings and of what passes between layers.
        hidden: width of the feed-forward part; None: d (of now: ``replace`` keeps the number).
        layers, heads: of attention; d is a multiple of the number of heads.
        norm: whether layers normalise what they see.
        equation: the three-token network.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """

    modulus: int
    training_fraction: float = 0.8
    dimension: int = 32
    hidden: int | None = None
    layers: int = 1
    heads: int = 1
    norm: bool = True
    equation: bool = False
    system: ClassVar[str] = "transformer_addition"

    def __post_init__(self):
        object.__setattr__(self, "modulus", positive("modulus", self.modulus, minimum=1, whole=True))
        for name in ("dimension", "layers", "heads"):
            object.__setattr__(self, name, positive(name, getattr(self, name), whole=True))
        object.__setattr__(self, "hidden", self.dimension if self.hidden is None else positive("hidden", self.hidden, whole=True))
        for name in ("norm", "equation"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.dimension % self.heads:
            raise ValueError(f"dimension must be a multiple of heads = {self.heads}, got {self.dimension!r}")
        if positive("training_fraction", self.training_fraction) > 1 or self.training_pairs < 1:
            raise ValueError(f"training_fraction must be a share of {self.modulus}^2 pairs, at most 1, got {self.training_fraction!r}")

    @property
    def training_pairs(self) -> int:
        """The number of pairs trained on."""
        return round(self.training_fraction * self.modulus**2)

    @property
    def tokens(self) -> int:
        """Tokens in a sequence: 2, or 3 with "="."""
        return 3 if self.equation else 2

    def mask(self, seed: int) -> np.ndarray:
        """A random training set as a boolean table (P, P), entry [n, m] for the pair (n, m)."""
        chosen = np.zeros(self.modulus**2, dtype=bool)
        chosen[np.random.default_rng([seed, 1]).permutation(self.modulus**2)[: self.training_pairs]] = True
        return chosen.reshape(self.modulus, self.modulus)


def initial_parameters(problem: TransformerAddition, seeds, dtype=torch.float32, device="cpu") -> dict[str, torch.Tensor]:
    r"""Weights (members, in, out) and biases (members, 1, out); a member depends on its own seed alone.

    Embeddings N(0, 1). Linear layers uniform in $\pm1/\sqrt{\text{fan-in}}$, the joint one of queries, keys and values in
    $\pm\sqrt{6/(4d)}$, attention's biases zero: PyTorch's defaults. With ``equation``: N(0, 1/d) everywhere, the readout N(0, 1/P).
    """
    drawn = [_one_start(problem, seed) for seed in seeds]
    return {name: torch.as_tensor(np.stack([one[name] for one in drawn]), dtype=dtype, device=device) for name in drawn[0]}


def _one_start(problem, seed) -> dict[str, np.ndarray]:
    """Weights and biases of one member; the order of the draws is part of the format."""
    d, h, p, equation = problem.dimension, problem.hidden, problem.modulus, problem.equation
    rng = np.random.default_rng([seed, 0])

    def matrix(rows, columns, bound=None, variance=1 / d):
        if equation:
            return variance**0.5 * rng.standard_normal((rows, columns))
        bound = rows**-0.5 if bound is None else bound
        return rng.uniform(-bound, bound, (rows, columns))

    def bias(columns, fan_in):
        return np.zeros((1, columns)) if equation or not fan_in else rng.uniform(-(fan_in**-0.5), fan_in**-0.5, (1, columns))

    found = {"embedding.symbols": rng.standard_normal((p + equation, d)) * (d**-0.5 if equation else 1)}
    if equation:
        found["embedding.places"] = matrix(3, d)
    for layer in range(problem.layers):
        names = [("query", d, 3 * d, (6 / (4 * d)) ** 0.5, 0), ("mix", d, d, None, 0), ("inner", d, h, None, d), ("outer", h, d, None, h)]
        for name, rows, columns, bound, fan_in in names:
            found[f"decoder.{name}_weight{layer}"] = matrix(rows, columns, bound)
            if fan_in or not equation:
                found[f"decoder.{name}_bias{layer}"] = bias(columns, fan_in)
        for name in ("attention_norm", "forward_norm") if problem.norm else ():
            found |= {f"decoder.{name}_weight{layer}": np.ones((1, d)), f"decoder.{name}_bias{layer}": np.zeros((1, d))}
    if equation:
        return found | {"decoder.readout_weight": matrix(d, p, variance=1 / p)}
    return found | {"decoder.readout_weight": matrix(2 * d, p), "decoder.readout_bias": bias(p, 2 * d)}


class _Rows(NamedTuple):
    """Pairs of each member: which rows of the token table they are, their sums, weights 1/n (zero where there is no pair), initial outputs."""

    pickers: torch.Tensor
    sums: torch.Tensor
    weight: torch.Tensor
    centre: torch.Tensor | None


class TransformerTask(AutogradTask):
    r"""Cross-entropy of transformers on parts of the addition table, $\frac1{|D|}\sum_{(n,m)\in D}-\ln\mathrm{softmax}_{n+m}\,\alpha[f(n,m)-c(n,m)]$.

    c is the initial output if the task is centred, else 0; alpha is the laziness. Dropout acts where PyTorch's layer has it: on attention
    weights, on what attention and the feed-forward part add, and inside the latter; the units dropped at a step depend on the member's seed
    and the step alone.
    """

    def __init__(self, problem: TransformerAddition, masks, seeds, dropout=0.0, laziness=1.0, dtype=torch.float32, device="cpu"):
        masks = np.asarray(masks)
        p = problem.modulus
        if masks.dtype != bool or masks.shape != (len(seeds), p, p) or not masks.any(axis=(1, 2)).all():
            wanted = f"booleans of shape {(len(seeds), p, p)} with at least one training pair each"
            raise ValueError(f"masks must be {wanted}, got {masks.dtype} of shape {masks.shape}")
        self.problem, self.seeds = problem, torch.as_tensor(_whole(seeds))
        self.masks = torch.as_tensor(masks.reshape(len(masks), -1), device=device)
        each = [_each(name, value, len(masks)) for name, value in (("dropout", dropout), ("laziness", laziness))]
        if not np.all((each[0] >= 0) & (each[0] < 1)):
            raise ValueError(f"dropout must be at least 0 and less than 1, got {dropout!r}")
        if not np.all((each[1] > 0) & np.isfinite(each[1])):
            raise ValueError(f"laziness must be positive, got {laziness!r}")
        self.dropout, self.laziness = (torch.as_tensor(x, dtype=dtype, device=device) for x in each)
        n = torch.arange(p, device=device)
        table = [n.repeat_interleave(p), n.repeat(p)]
        if problem.equation:  # rows of the token table: symbols at the first place, at the second, and "=" at the third
            table = [table[0], table[1] + p, torch.full_like(table[0], 2 * p)]
        rows = 2 * p + 1 if problem.equation else p
        self.table = functional.one_hot(torch.stack(table), rows).to(self.dropout)  # (tokens, P^2, rows)
        self.sums = (n[:, None] + n).reshape(-1) % p
        self.centre = None
        self._prepare()

    def _prepare(self):
        rows, weight, count = training_rows(self.masks, self.dropout)
        members = torch.arange(len(rows), device=rows.device)[:, None]
        centre = None if self.centre is None else self.centre[members, rows]
        self.count = count.tolist()
        self.training = _Rows(self.table[:, rows].transpose(0, 1).contiguous(), self.sums[rows], weight, centre)

    def centred(self, parameters):
        """The same task with the output of these parameters subtracted."""
        new = self.select(torch.arange(len(self.masks)))
        with torch.no_grad():
            new.centre = self.outputs(parameters) / self.laziness[:, None, None]
        new._prepare()
        return new

    def select(self, members):
        """The task of some members."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.seeds = self.seeds[members.cpu()]
        for name in ("masks", "dropout", "laziness", "centre"):
            value = getattr(self, name)
            setattr(new, name, value if value is None else value[members.to(value.device)])
        new._prepare()
        return new

    def outputs(self, parameters, pickers=None, kept=None, centre=None):
        """Scaled outputs (members, pairs, P), of the whole table if no pairs are picked; ``kept`` has the units that dropout leaves."""
        p, whole = self.problem, pickers is None
        if whole:
            pickers, centre = self.table.expand(len(self.masks), *self.table.shape), self.centre
        x = parameters["embedding.symbols"]
        if p.equation:
            places = parameters["embedding.places"]
            x = torch.cat([x[:, :-1] + places[:, :1], x[:, :-1] + places[:, 1:2], x[:, -1:] + places[:, 2:]], dim=1)
        for layer in range(p.layers):
            x = self._layer(parameters, x, pickers if layer == 0 else None, layer, kept)
        readout = parameters["decoder.readout_weight"]
        if p.equation:
            f = torch.bmm(x[:, 0], readout)
        else:
            f = torch.baddbmm(parameters["decoder.readout_bias"], x[:, 0], readout[:, : p.dimension])
            f = torch.baddbmm(f, x[:, 1], readout[:, p.dimension :])
        return (f if centre is None else f - centre) * self.laziness[:, None, None]

    def _layer(self, parameters, x, pickers, layer, kept):
        """One layer on (members, tokens, pairs, d), the first on the token table; the last of an equation only for what is read, the "="."""
        p, d = self.problem, self.problem.dimension
        last = p.equation and layer == p.layers - 1
        both = torch.cat([x, _linear(parameters, f"query_{{}}{layer}", self._norm(parameters, "attention_norm", layer, x))], dim=-1)
        if pickers is not None:  # there are fewer tokens than pairs: normalise and project first, then look up
            both = torch.bmm(pickers.flatten(1, 2), both).unflatten(1, pickers.shape[1:3])
        x, query, key, value = both.split(d, dim=-1)
        if last:
            x, query = x[:, -1:], query[:, -1:]
        x = x + self._dropped(_linear(parameters, f"mix_{{}}{layer}", self._attend(query, key, value, layer, kept)), kept, f"mix{layer}")
        h = _linear(parameters, f"inner_{{}}{layer}", self._norm(parameters, "forward_norm", layer, x))
        h = self._dropped(functional.relu(h), kept, f"inner{layer}")
        return x + self._dropped(_linear(parameters, f"outer_{{}}{layer}", h), kept, f"outer{layer}")

    def _norm(self, parameters, name, layer, x):
        if not self.problem.norm:
            return x
        weight, bias = (parameters[f"decoder.{name}_{part}{layer}"] for part in ("weight", "bias"))
        if x.ndim == 4:
            weight, bias = weight[:, None], bias[:, None]
        return torch.addcmul(bias, functional.layer_norm(x, x.shape[-1:]), weight)

    def _attend(self, query, key, value, layer, kept):
        """Attention among the few tokens of each pair, element by element; heads are groups of neighbouring components."""
        heads = self.problem.heads
        query, key, value = (x.unflatten(-1, (heads, -1)) for x in (query, key, value))
        scores = (query[:, :, None] * key[:, None]).sum(-1) * key.shape[-1] ** -0.5  # (members, to, from, pairs, heads)
        shares = self._dropped(torch.softmax(scores, dim=2), kept, f"attention{layer}")
        return (shares[..., None] * value[:, None]).sum(2).flatten(-2)

    @staticmethod
    def _dropped(x, kept, name):
        return x if kept is None else x * kept[name]

    def kept(self, step: int) -> dict[str, torch.Tensor] | None:
        """Factors 1/(1 - dropout) or 0 of every unit at a step, by name; None where no member has dropout."""
        if not self.dropout.any():
            return None
        p, pairs = self.problem, self.training.sums.shape[1]
        shapes = {}
        for layer in range(p.layers):
            to = 1 if p.equation and layer == p.layers - 1 else p.tokens
            shapes |= {f"attention{layer}": (to, p.tokens, p.heads), f"mix{layer}": (to, p.dimension)}
            shapes |= {f"inner{layer}": (to, p.hidden), f"outer{layer}": (to, p.dimension)}
        found = {name: torch.ones(len(self.seeds), pairs, *shape, dtype=self.dropout.dtype) for name, shape in shapes.items()}
        for b, (seed, rate, count) in enumerate(zip(self.seeds.tolist(), self.dropout.tolist(), self.count)):
            if rate:
                word = np.random.SeedSequence([seed, 4, step]).generate_state(1, np.uint64)[0] >> np.uint64(1)
                generator = torch.Generator().manual_seed(int(word))
                for name, shape in shapes.items():  # float32 whatever the precision of the weights: the same units are dropped
                    drawn = torch.rand(count, *shape, generator=generator)
                    found[name][b, :count] = (drawn >= rate).to(self.dropout.dtype) / (1 - rate)
        return {name: x.movedim(1, 2 if x.ndim == 4 else 3).to(self.dropout.device) for name, x in found.items()}

    def loss(self, parameters, step):
        """Mean cross-entropy over the training pairs of each member."""
        rows = self.training
        f = self.outputs(parameters, rows.pickers, self.kept(step), rows.centre)
        return (functional.cross_entropy(f.flatten(0, 1), rows.sums.flatten(), reduction="none").view_as(rows.weight) * rows.weight).sum(1)

    def measure(self, parameters):
        """Losses and accuracies without dropout on training pairs and on the others (NaN if there are none), and the embeddings."""
        with torch.no_grad():
            f = self.outputs(parameters)
        loss = functional.cross_entropy(f.flatten(0, 1), self.sums.repeat(len(f)), reduction="none").view(len(f), -1)
        right, train, found = (f.argmax(-1) == self.sums).to(f), self.masks.to(f), {}
        for part, mask in (("train", train), ("test", 1 - train)):
            found |= {f"{part}_{name}": (value * mask).sum(1) / mask.sum(1) for name, value in (("loss", loss), ("accuracy", right))}
        table = parameters["embedding.symbols"][:, : self.problem.modulus]
        dimension = torch.as_tensor(embeddings.effective_dimension(table.cpu().numpy()))
        return found | {"effective_dimension": dimension, "embedding": table.clone()}


class LinearisedTransformerTask(TransformerTask):
    r"""The same loss for the expansion to first order at the initial weights, $f_{\theta_0}+\nabla f_{\theta_0}\cdot(\theta-\theta_0)$."""

    @classmethod
    def of(cls, task: TransformerTask, parameters):
        """The task for the expansion at these parameters."""
        new = object.__new__(cls)
        new.__dict__.update(task.__dict__)
        new.origin = {name: p.clone() for name, p in parameters.items()}
        return new

    def select(self, members):
        """The task of some members."""
        new = super().select(members)
        new.origin = {name: p[members.to(p.device)] for name, p in self.origin.items()}
        return new

    def outputs(self, parameters, pickers=None, kept=None, centre=None):
        """Scaled outputs (members, pairs, P) of the expansion; arguments as for the network."""
        moved = {name: parameters[name] - p for name, p in self.origin.items()}
        network = super().outputs
        f, change = torch.func.jvp(lambda origin: network(origin, pickers, kept, centre), (self.origin,), (moved,))
        return f + change


def _each(name, value, members) -> np.ndarray:
    array = np.asarray(value, dtype=float)
    if array.ndim > 1 or array.size not in (1, members):
        raise ValueError(f"{name} must be one number or one for each of {members} members, got shape {array.shape}")
    return np.broadcast_to(array.reshape(-1), (members,)).copy()


def _whole(seeds) -> list[int]:
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else list(seeds)
    if not seeds or any(isinstance(s, bool) or int(s) != s or s < 0 for s in seeds):
        raise ValueError(f"seeds must be at least one whole number, none below 0, got {seeds!r}")
    return [int(s) for s in seeds]


def _linear(parameters, name, x):
    """x W + b with the weights of each member, over all tokens at once; without bias where there is none."""
    weight, bias = parameters[f"decoder.{name.format('weight')}"], parameters.get(f"decoder.{name.format('bias')}")
    flat = x.flatten(1, -2)
    return (torch.bmm(flat, weight) if bias is None else torch.baddbmm(bias, flat, weight)).unflatten(1, x.shape[1:-1])


def train(
    problem: TransformerAddition, seeds=4, steps: int = 2000, *, embedding=AdamW(1e-3), decoder=AdamW(1e-3, 1.0), dropout=0.0, masks=None,
    laziness=1.0, centred: bool = False, linearised: bool = False, every: int = 50, record=None, stop=None, keep_embeddings: bool = True,
    dtype: str = "float32", device: str = "cpu", jobs: int = 1, chunk: int | None = None, checkpoint=None, progress: bool = True,
) -> xr.Dataset:
    r"""Train transformers on parts of the addition table, full batch, embeddings and decoder each with its own optimiser.

    Args:
        problem: modulus, training fraction and shape of the network.
        seeds: seeds of the members, or how many (0, 1, ...): a seed decides initial weights, training set and dropped units.
        steps: of both optimisers.
        embedding, decoder: optimisers, whose hyperparameters may have an entry for each member.
        dropout: share of units dropped at each step, a number or one for each member.
        masks: training sets (members, P, P) instead of the random ones of ``problem``.
        laziness: factor alpha on the output, a number or one for each member; with ``centred`` the initial output is subtracted first.
        linearised: train the expansion to first order at the initial weights instead.
        every, record: measure every so many steps, or at the steps given.
        keep_embeddings: whether ``embedding`` has every recorded step, or the last alone.
        stop, jobs, chunk, checkpoint, progress: as in ``descend``; chunk None: as many members as fit the cache with what a step computes.
        dtype, device: "float32" or "float64"; the device of the tensors.

    Returns:
        Dataset with train_loss, test_loss, train_accuracy, test_accuracy (member, step), measured without dropout, effective_dimension
        (member, step), embedding (member, step, symbol, coordinate) or (member, symbol, coordinate), mask (member, n, m),
        last_step (member). What would have been measured after a member was stopped is NaN.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """
    if not isinstance(problem, TransformerAddition):
        raise ValueError(f"problem must be a TransformerAddition, got {type(problem).__name__}")
    seeds = _whole(seeds)
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    record, kind = recorded_steps(steps, every, record), dict(dtype=getattr(torch, dtype), device=device)
    masks = np.stack([problem.mask(s) for s in seeds]) if masks is None else masks
    task = TransformerTask(problem, masks, seeds, dropout, laziness, **kind)
    parameters = initial_parameters(problem, seeds, **kind)
    task = task.centred(parameters) if centred else task
    task = LinearisedTransformerTask.of(task, parameters) if linearised else task
    if chunk is None and device == "cpu":
        chunk = max(1, min(len(seeds), _ACTIVATIONS // (problem.tokens * problem.training_pairs * max(problem.dimension, problem.hidden))))
    how = dict(stop=stop, jobs=jobs, chunk=chunk, checkpoint=checkpoint, progress=progress)
    found = descend(task, parameters, {"embedding": embedding, "decoder": decoder}, int(steps), record, **how)
    last_step, table = found.pop("last_step"), found.pop("embedding")
    data = {name: (("member", "step"), values) for name, values in found.items()}
    if keep_embeddings:
        data["embedding"] = (("member", "step", "symbol", "coordinate"), table)
    flat = torch.cat([x.reshape(len(seeds), -1) for x in parameters.values()], dim=1).cpu().numpy()
    data |= {"parameters": (("member", "number"), flat), "mask": (("member", "n", "m"), masks), "last_step": ("member", last_step)}
    coordinates = {"member": np.arange(len(seeds)), "step": record, "seed": ("member", seeds)}
    coordinates |= {name: ("member", _each(name, value, len(seeds))) for name, value in (("dropout", dropout), ("laziness", laziness))}
    how = dict(
        embedding_optimiser=repr(embedding), decoder_optimiser=repr(decoder), steps=int(steps), dtype=dtype, centred=int(centred),
        linearised=int(linearised))
    return xr.Dataset(data, coordinates, {k: v for k, v in problem.as_dict().items() if not isinstance(v, bool)} | how)


def parameters_of(problem: TransformerAddition, trained: xr.Dataset) -> dict[str, torch.Tensor]:
    """The trained parameters, tensors (members, ...) by name, from what ``train`` has returned."""
    flat, found, place = torch.as_tensor(trained.parameters.values), {}, 0
    for name, start in _one_start(problem, 0).items():
        found[name] = flat[:, place : place + start.size].reshape(len(flat), *start.shape)
        place += start.size
    if place != flat.shape[1]:
        raise ValueError(f"trained must be of the problem's shape with {place} parameters, got {flat.shape[1]}")
    return found


def right(problem: TransformerAddition, parameters: dict[str, torch.Tensor], embedding=None) -> np.ndarray:
    """Which sums networks get right, booleans (members, P, P); ``embedding`` (members, P, d) in the place of the symbols' own, if given.

    For networks whose initial output is not subtracted; dropout is off.
    """
    if embedding is not None:
        parameters = parameters | {"embedding.symbols": torch.as_tensor(np.asarray(embedding)).to(parameters["embedding.symbols"])}
    members, p = len(parameters["embedding.symbols"]), problem.modulus
    task = TransformerTask(problem, np.ones((members, p, p), bool), range(members), dtype=parameters["embedding.symbols"].dtype)
    with torch.no_grad():
        return (task.outputs(parameters).argmax(-1) == task.sums).numpy().reshape(members, p, p)
