"""Images classified by perceptrons: grokking by large initial weights (Liu et al., section 4.3; Kumar et al., Fig. 6a), by the batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar

import numpy as np
import torch
import xarray as xr

from grokutils.descent.loop import descend, first_reached, recorded_steps
from grokutils.descent.optimisers import AdamW
from grokutils.descent.perceptron import Perceptron
from grokutils.problems import Problem, positive

NAMES = ("digits", "mnist")
LOSSES = ("squared", "cross_entropy")
CLASSES = 10
TEST = {"digits": 500, "mnist": 2000}  # test images unless told otherwise
_ACTIVATIONS = 2**18  # numbers in one layer of a chunk: what fits the cache of a core

__all__ = ["ImageClassification", "ImageTask", "Images", "first_reached", "load", "spread", "train"]


@dataclass(frozen=True)
class Images:
    """Training and test images of one draw: inputs (n, pixels) in [0, 1], labels (n,) from 0 to 9."""

    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray


@cache
def _raw(name: str) -> tuple[np.ndarray, np.ndarray]:
    """All images of a collection, (n, pixels) in [0, 1], and their labels."""
    try:
        from sklearn.datasets import fetch_openml, load_digits
    except ImportError as error:
        raise ImportError("the images come with scikit-learn, which is not installed: pip install scikit-learn") from error
    if name == "digits":
        found = load_digits()
        return (found.data / 16).astype(np.float32), found.target.astype(int)
    try:
        found = fetch_openml("mnist_784", version=1, as_frame=False)
    except (OSError, ValueError) as error:  # no network, a full disk, an answer that is none: all mean the same
        raise ConnectionError(f"MNIST could not be fetched from openml.org ({error}); it needs a network, once; 'digits' needs none") from error
    return (found.data / 255).astype(np.float32), found.target.astype(int)


def load(name: str = "digits", train: int = 200, seed: int = 0, test: int | None = None) -> Images:
    """Random training images, and random test images that are none of them.

    Test images depend on the seed alone, and of two training sets of one seed the smaller is a part of the larger.

    Args:
        name: "digits", the 1797 images of 8 by 8 pixels that scikit-learn brings along, or "mnist", 70000 of 28 by 28, fetched once from openml.org.
        train, test: how many; test None: 500 or 2000.
        seed: of the choice.

    Raises:
        ValueError: an argument is not what it must be.
        ImportError: scikit-learn is not installed. ConnectionError: MNIST cannot be fetched.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {NAMES}, got {name!r}")
    train, test = positive("train", train, whole=True), positive("test", TEST[name] if test is None else test, whole=True)
    if isinstance(seed, bool) or int(seed) != seed or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    inputs, labels = _raw(name)
    if train + test > len(labels):
        raise ValueError(f"train must leave {test} test images of the {len(labels)} of {name!r}, got {train}")
    order = np.random.default_rng([int(seed), 4]).permutation(len(labels))
    for_test, for_train = order[:test], order[test : test + train]
    return Images(inputs[for_train], labels[for_train], inputs[for_test], labels[for_test])


@dataclass(frozen=True)
class ImageClassification(Problem):
    """A perceptron that learns to tell ten digits apart from a few images of them (Liu et al., section 4.3).

    Args:
        name: "digits" or "mnist", see ``load``.
        samples: training images.
        width, hidden: units of a hidden layer, and how many such layers.
        activation: as in ``Perceptron``.
        bias: whether layers have biases.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """

    name: str = "digits"
    samples: int = 200
    width: int = 100
    hidden: int = 2
    activation: str = "relu"
    bias: bool = True
    system: ClassVar[str] = "images"

    def __post_init__(self):
        if self.name not in NAMES:
            raise ValueError(f"name must be one of {NAMES}, got {self.name!r}")
        for name in ("samples", "width", "hidden"):
            object.__setattr__(self, name, positive(name, getattr(self, name), whole=True))
        if not isinstance(self.bias, bool):
            raise ValueError(f"bias must be True or False, got {self.bias!r}")
        self.network  # noqa: B018  checks the activation

    @classmethod
    def paper(cls) -> ImageClassification:
        """The size of Liu et al., Fig. 8: 1000 images of MNIST, 784-200-200-10."""
        return cls("mnist", 1000, 200)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units from the pixels to the ten outputs."""
        return (64 if self.name == "digits" else 784, *[self.width] * self.hidden, CLASSES)

    @property
    def network(self) -> Perceptron:
        """The whole network; its last layer is trained as the group "head", the others as "body"."""
        return Perceptron(self.sizes, self.activation, self.bias, group="body")


class ImageTask:
    r"""The loss of perceptrons on images of their own.

    $$L=\frac1n\sum_{x\in\text{train}}\ell\bigl(\alpha[f(x)-c(x)],\,y(x)\bigr)$$

    "squared": squared distance from the one-hot vector y, averaged over the ten components; "cross_entropy". c is the initial output if
    ``centred``, else 0, and alpha the laziness. Parameters are ``body.weight0``, ``body.bias0``, ... and, for the last layer, ``head.weight0``
    and ``head.bias0``.

    Args:
        network: the whole network, of group "body".
        images: one ``Images`` for each member; the numbers of training images may differ, those of test images not.
        seeds: one for each member, of the order of mini-batches.
        loss: "squared" or "cross_entropy".
        laziness: None for 1, or (members,) numbers.
        origin: parameters whose output is subtracted, or None.
        batch: training images in a mini-batch; None: all.
    """

    def __init__(
        self, network: Perceptron, images, seeds, *, loss="squared", laziness=None, origin=None, batch=None, dtype=torch.float32, device="cpu"
    ):
        self.body = Perceptron(network.sizes[:-1], network.activation, network.bias, group="body")
        self.head = Perceptron(network.sizes[-2:], network.activation, network.bias, group="head")
        self.images, self.seeds, self.loss, self.laziness, self.origin, self.batch = list(images), list(seeds), loss, laziness, origin, batch
        self.kind, self.epochs = dict(dtype=dtype, device=device), {}

    def select(self, members):
        """The task of some members."""
        new = object.__new__(ImageTask)
        new.__dict__.update({name: value for name, value in self.__dict__.items() if name not in ("training", "testing")})
        index = members.tolist()
        new.images, new.seeds, new.epochs = [self.images[b] for b in index], [self.seeds[b] for b in index], {}
        new.laziness = None if self.laziness is None else [self.laziness[b] for b in index]
        new.origin = None if self.origin is None else {name: p[members.to(p.device)] for name, p in self.origin.items()}
        return new

    def _stack(self, part: str) -> dict:
        """Inputs (members, n, pixels), one-hot labels, weights 1/n (0 where a member has fewer images), what is subtracted from outputs."""
        inputs, labels = ([getattr(one, f"{part}_{what}") for one in self.images] for what in ("inputs", "labels"))
        sizes = [len(one) for one in labels]
        x, y = (np.zeros((len(sizes), max(sizes), last)) for last in (inputs[0].shape[1], CLASSES))
        weight = np.zeros((len(sizes), max(sizes), 1))
        for b, n in enumerate(sizes):
            x[b, :n], y[b, np.arange(n), labels[b]], weight[b, :n] = inputs[b], 1, 1 / n
        found = {name: torch.as_tensor(value, **self.kind) for name, value in (("x", x), ("y", y), ("weight", weight))}
        return found | {"centre": None if self.origin is None else self._forward(self.origin, found["x"])[0], "sizes": sizes}

    @cached_property
    def training(self) -> dict:
        """All training images."""
        return self._stack("train")

    @cached_property
    def testing(self) -> dict:
        """All test images."""
        return self._stack("test")

    def _forward(self, parameters, x):
        """Outputs of the last layer, and what the way back needs."""
        tape = self.body.forward(parameters, x)
        h = tape[-1]
        last = {"tanh": torch.tanh, "relu": torch.relu, "square": torch.square, "linear": lambda z: z}[self.body.activation](h)
        return self.head.forward(parameters, last)[-1], (tape, last)

    def _back(self, parameters, kept, g, into):
        tape, last = kept
        g = self.head.backward(parameters, [last, None], g, into)
        if self.body.activation == "tanh":
            g.addcmul_(g * last, last, value=-1)
        elif self.body.activation == "relu":
            g.mul_(last > 0)
        elif self.body.activation == "square":
            g.mul_(tape[-1]).mul_(2)
        self.body.backward(parameters, tape, g, into)

    @property
    def scale(self):
        """The laziness as a tensor (members, 1, 1), or 1."""
        return 1.0 if self.laziness is None else torch.as_tensor(self.laziness, **self.kind)[:, None, None]

    def outputs(self, parameters, data: dict) -> tuple[torch.Tensor, tuple]:
        """What the networks say, (members, n, 10), and what the way back needs, the last hidden layer at its end."""
        f, kept = self._forward(parameters, data["x"])
        return (f if data["centre"] is None else f - data["centre"]) * self.scale, kept

    def gradients(self, parameters, into, step):
        """Gradients of all members by hand."""
        data = self.training if self.batch is None else self._mini_batch(step)
        f, kept = self.outputs(parameters, data)
        error = torch.softmax(f, -1) - data["y"] if self.loss == "cross_entropy" else (f - data["y"]).mul_(2 / CLASSES)
        self._back(parameters, kept, error.mul_(data["weight"]).mul_(self.scale), into)

    def order(self, member: int, epoch: int) -> np.ndarray:
        """The order in which a member goes through its training images in an epoch: a function of its seed and the epoch."""
        return np.random.default_rng([int(self.seeds[member]), 3, epoch]).permutation(self.training["sizes"][member])

    def _mini_batch(self, step):
        """The images of one step: every epoch goes through the training set in a new random order, its last, smaller part left out."""
        rows = []
        for b, n in enumerate(self.training["sizes"]):
            epoch, part = divmod(step, n // self.batch)
            if self.epochs.get(b, (None,))[0] != epoch:
                self.epochs[b] = epoch, self.order(b, epoch)
            rows.append(self.epochs[b][1][part * self.batch : (part + 1) * self.batch])
        members, rows = torch.arange(len(rows))[:, None], torch.as_tensor(np.stack(rows))
        picked = {name: None if self.training[name] is None else self.training[name][members, rows] for name in ("x", "y", "centre")}
        return picked | {"weight": 1 / self.batch}

    def measure(self, parameters):
        """Losses and accuracies on all training and test images, the norms of the two groups, and the spread of the features.

        ``norm`` and ``head_norm`` are root sums of squares over the body and the last layer. ``spread`` is the share of the variance of the last
        hidden layer, over the test images, that lies within the classes: 0 if the layer knows the class and nothing else.
        """
        found = {}
        for part, data in (("train", self.training), ("test", self.testing)):
            (f, (_, features)), y = self.outputs(parameters, data), data["y"]
            loss = torch.logsumexp(f, -1) - (f * y).sum(-1) if self.loss == "cross_entropy" else (f - y).square().mean(-1)
            right = y.gather(2, f.argmax(-1, keepdim=True))[..., 0]  # a row of zeros where there is no image
            weight = data["weight"][..., 0]
            found |= {f"{part}_loss": (loss * weight).sum(1), f"{part}_accuracy": (right * weight).sum(1)}
        for name, group in (("norm", "body"), ("head_norm", "head")):
            found[name] = torch.stack([p.flatten(1).square().sum(1) for key, p in parameters.items() if key.split(".")[0] == group]).sum(0).sqrt()
        return found | {"spread": spread(features, y)}


def spread(features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
    """The share of the variance of features (members, n, d) that lies within classes, given as one-hot rows (members, n, classes)."""
    f = features - features.mean(1, keepdim=True)
    count = one_hot.sum(1)
    between = (torch.matmul(one_hot.mT, f).square().sum(-1) / count.clamp(min=1)).sum(1)
    return 1 - between / f.square().sum((1, 2))


def train(
    problem: ImageClassification, seeds, steps: int = 5000, *, body=AdamW(1e-3), head=None, samples=None, loss: str = "squared",
    initial_scale=1.0, laziness=None, centred: bool = False, batch: int | None = None, test: int | None = None, every: int = 50, record=None,
    stop=None, dtype: str = "float32", device: str = "cpu", jobs: int = 1, chunk: int | None = None, checkpoint=None, progress: bool = True,
) -> xr.Dataset:
    r"""Train perceptrons on images; every member has its own images, initial weights and hyperparameters.

    Weights and biases start uniform in $\pm s/\sqrt{\text{fan-in}}$.

    Args:
        problem: the images and the network.
        seeds: one for each member: which images, initial weights, the order of mini-batches, each from a stream of its own.
        steps: of both optimisers.
        body, head: optimisers of all layers but the last, and of the last (None: as ``body``). Hyperparameters may have an entry for each member.
        samples: training images of each member, a number or one for each; None: those of the problem.
        loss: "squared" or "cross_entropy".
        initial_scale: s, a number or one for each member.
        laziness: factor alpha on the output, a number or one for each member; with ``centred`` the initial output is subtracted first.
        batch: images in a mini-batch, at most every member's number of training images; None: all of them.
        test: test images, see ``load``.
        every, record: measure every so many steps, or at the steps given.
        stop, jobs, chunk, checkpoint, progress: as in ``descend``; chunk None: as many members as fit the cache with a layer of theirs.
        dtype, device: "float32" or "float64"; the device of the tensors.

    Returns:
        Dataset with train_loss, test_loss, train_accuracy, test_accuracy, norm, head_norm and spread (member, step), see ``ImageTask.measure``,
        and ``last_step`` (member,). What would have been measured after a member was stopped is NaN.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
        ImportError, ConnectionError: the images are not there, see ``load``.
    """
    if not isinstance(problem, ImageClassification):
        raise ValueError(f"problem must be an ImageClassification, got {type(problem).__name__}")
    record = recorded_steps(steps, every, record)
    seeds = [int(s) for s in np.atleast_1d(np.asarray(seeds))]
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds must be one non-negative number for each member, got {seeds!r}")
    for name, value, allowed in (("loss", loss, LOSSES), ("dtype", dtype, ("float32", "float64"))):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    sizes = _each("samples", problem.samples if samples is None else samples, len(seeds))
    if batch is not None and (positive("batch", batch, whole=True) > sizes.min()):
        raise ValueError(f"batch must be at most the number of training images of every member, got {batch!r} of {sizes.min():g}")
    kind = dict(dtype=getattr(torch, dtype), device=device)
    network, scale = problem.network, torch.as_tensor(_each("initial_scale", initial_scale, len(seeds)), **kind)[:, None, None]
    drawn = {(seed, n): load(problem.name, n, seed, test) for seed, n in dict.fromkeys(zip(seeds, sizes.tolist(), strict=True))}
    parameters = _grouped(network, {name: scale * p for name, p in network.initial(seeds, **kind).items()})
    task = ImageTask(
        network, [drawn[key] for key in zip(seeds, sizes.tolist(), strict=True)], seeds, loss=loss, batch=batch, **kind,
        laziness=None if laziness is None else _each("laziness", laziness, len(seeds)).tolist(),
        origin={name: p.clone() for name, p in parameters.items()} if centred else None,
    )
    optimisers = {"body": body, "head": body if head is None else head}
    if chunk is None and device == "cpu":
        chunk = max(1, min(len(seeds), _ACTIVATIONS // (int(batch or sizes.max()) * max(problem.sizes[1:]))))
    how = dict(stop=stop, jobs=jobs, chunk=chunk, checkpoint=checkpoint, progress=progress)
    found = descend(task, parameters, optimisers, int(steps), record, **how)
    data = {name: (("member", "step") if value.ndim > 1 else ("member",), value) for name, value in found.items()}
    return xr.Dataset(data, {"member": np.arange(len(seeds)), "step": record, "seed": ("member", seeds)}, dict(
        images=problem.name, sizes="-".join(map(str, problem.sizes)), body_optimiser=repr(body), head_optimiser=repr(optimisers["head"]),
        loss=loss, steps=int(steps), dtype=dtype, centred=int(centred), batch=0 if batch is None else int(batch),
    ))


def _grouped(network: Perceptron, parameters: dict) -> dict:
    """The parameters of a network drawn as a whole, those of the last layer named as the group "head"."""
    names = {f"body.{what}{network.layers - 1}": f"head.{what}0" for what in ("weight", "bias")}
    return {names.get(name, name): p for name, p in parameters.items()}


def _each(name: str, value, members: int) -> np.ndarray:
    """A positive number for each member, from one or from as many."""
    array = np.asarray(value)
    if array.ndim > 1 or array.size not in (1, members):
        raise ValueError(f"{name} must be one number or one for each of {members} members, got shape {array.shape}")
    for one in array.ravel().tolist():
        positive(name, one, whole=name == "samples")
    return np.broadcast_to(array.ravel(), (members,)).copy()
