"""A network learns what another network of its shape does, and an "accuracy" is read off its errors (Kumar et al., Figs. 8, 13b, 17, 18)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
import xarray as xr

from grokutils.descent.loop import descend, recorded_steps
from grokutils.descent.optimisers import AdamW
from grokutils.descent.perceptron import Perceptron
from grokutils.problems import Problem, positive

STARTS = ("uniform", "normal")
THRESHOLDS = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 1e-1)  # squared errors below which a sample may count as right; the third is the paper's main one

__all__ = ["THRESHOLDS", "StudentTask", "StudentTeacher", "train"]


@dataclass(frozen=True)
class StudentTeacher(Problem):
    r"""A tanh network that is taught by another of its shape, on inputs N(0, I).

    Args:
        samples, test: training points, and points it is tested on.
        width, hidden: units of a hidden layer, and how many such layers.
        inputs, outputs: dimensions.
        start: of both networks: "uniform", weights and biases uniform in $\pm1/\sqrt{\text{fan-in}}$; "normal", weights N(0, 1), no biases.
        scale: of the student's initial weights, in units of the teacher's.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """

    samples: int = 100
    test: int = 100
    width: int = 100
    hidden: int = 2
    inputs: int = 5
    outputs: int = 5
    start: str = "uniform"
    scale: float = 2.0
    system: ClassVar[str] = "student_teacher"

    def __post_init__(self):
        for name in ("samples", "test", "width", "hidden", "inputs", "outputs"):
            object.__setattr__(self, name, positive(name, getattr(self, name), whole=True))
        object.__setattr__(self, "scale", positive("scale", self.scale))
        if self.start not in STARTS:
            raise ValueError(f"start must be one of {STARTS}, got {self.start!r}")

    @classmethod
    def normal(cls) -> StudentTeacher:
        """The variant of Kumar et al., Fig. 13b: all weights N(0, 1), no biases."""
        return cls(start="normal", scale=1.0)

    @property
    def network(self) -> Perceptron:
        """Student and teacher."""
        return Perceptron((self.inputs, *[self.width] * self.hidden, self.outputs), "tanh", bias=self.start == "uniform", group="student")

    def _weights(self, seeds, stream: int, scale: float) -> dict[str, np.ndarray]:
        """Weights of networks; a seed and a stream (0 teacher, 1 student) decide."""
        sizes = self.network.sizes
        found, rngs = {}, [np.random.default_rng([int(seed), 7, stream]) for seed in seeds]
        for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
            for name, shape in (("weight", (rows, columns)), ("bias", (1, columns)))[: 1 + self.network.bias]:
                bound = rows**-0.5
                draws = [rng.standard_normal(shape) if self.start == "normal" else rng.uniform(-bound, bound, shape) for rng in rngs]
                found[f"student.{name}{layer}"] = scale * np.stack(draws)
        return found

    def initial(self, seeds, dtype=torch.float32, device="cpu") -> dict[str, torch.Tensor]:
        """The students' initial weights, each decided by its own seed."""
        return {name: torch.as_tensor(x, dtype=dtype, device=device) for name, x in self._weights(seeds, 1, self.scale).items()}

    def data(self, seeds) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (members, samples + test, inputs) and what each member's own teacher says of them; training points come first."""
        x = np.stack([np.random.default_rng([int(seed), 7, 2]).standard_normal((self.samples + self.test, self.inputs)) for seed in seeds])
        teacher = {name: torch.as_tensor(w) for name, w in self._weights(seeds, 0, 1.0).items()}
        return x, self.network.forward(teacher, torch.as_tensor(x))[-1].numpy()


class StudentTask:
    r"""The loss of students with laziness $\alpha$, centred or not, or of their linearisation.

    $$L=\frac1n\sum_{\mu}e_\mu,\qquad e_\mu=\frac1{\text{outputs}}\bigl|\alpha\,[f_\theta(x_\mu)-c(x_\mu)]-y_\mu\bigr|^2$$

    c is the initial output if ``centred``, else 0. With ``linearised``, f is its expansion to first order at the initial weights
    $\theta_0$, in the weights $\theta$ (on which weight decay acts), not in their change.

    Args:
        problem: shapes and sizes.
        inputs, labels: (members, samples + test, ...), training points first.
        origin: the initial weights.
        laziness: (members,) numbers.
        thresholds: a point counts as right if its $e_\mu$ is below.
    """

    def __init__(self, problem: StudentTeacher, inputs, labels, origin, laziness, *, centred=False, linearised=False, thresholds=THRESHOLDS):
        self.problem, self.network, self.origin = problem, problem.network, {name: p.clone() for name, p in origin.items()}
        first = next(iter(origin.values()))
        self.inputs, self.labels, self.laziness = (torch.as_tensor(x).to(first) for x in (inputs, labels, laziness))
        self.centred, self.linearised, self.thresholds = centred, linearised, tuple(thresholds)

    def select(self, members):
        """The task of some members."""
        keep = members.to(self.inputs.device)
        origin = {name: p[keep] for name, p in self.origin.items()}
        return StudentTask(self.problem, self.inputs[keep], self.labels[keep], origin, self.laziness[keep], centred=self.centred,
                           linearised=self.linearised, thresholds=self.thresholds)

    @cached_property
    def start(self) -> list[torch.Tensor]:
        """Layers at the initial weights on all points."""
        return self.network.forward(self.origin, self.inputs)

    @cached_property
    def training(self) -> tuple:
        """Inputs, labels, layers at the initial weights of the training points."""
        n = self.problem.samples
        first = [h[:, :n].contiguous() for h in self.start] if self.centred or self.linearised else None
        return self.inputs[:, :n].contiguous(), self.labels[:, :n].contiguous(), first

    def _outputs(self, parameters, inputs, start) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Scaled outputs and the layers through which their gradients go back."""
        if self.linearised:
            f, tape = start[-1] + self._tangent(parameters, start), start
        else:
            tape = self.network.forward(parameters, inputs)
            f = tape[-1]
        if self.centred:
            f = f - start[-1]
        return f * self.laziness[:, None, None], tape

    def _tangent(self, parameters, start) -> torch.Tensor:
        """The change of the outputs to first order in the change of the weights."""
        change = None
        for layer in range(self.network.layers):
            name = f"student.weight{layer}"
            z = torch.bmm(start[layer], parameters[name] - self.origin[name])
            if self.network.bias:
                z = z + (parameters[f"student.bias{layer}"] - self.origin[f"student.bias{layer}"])
            if change is not None:
                z = torch.baddbmm(z, change, self.origin[name])
            change = z if layer == self.network.layers - 1 else z * (1 - start[layer + 1].square())
        return change

    def gradients(self, parameters, into, step):
        """Gradients of all members by hand."""
        inputs, labels, start = self.training
        f, tape = self._outputs(parameters, inputs, start)
        g = (f - labels).mul_(2 / (labels.shape[1] * labels.shape[2])).mul_(self.laziness[:, None, None])
        self.network.backward(self.origin if self.linearised else parameters, tape, g, into)

    def outputs(self, parameters) -> torch.Tensor:
        """What the students say of all points, laziness and centring included, (members, samples + test, outputs)."""
        return self._outputs(parameters, self.inputs, self.start if self.centred or self.linearised else None)[0]

    def errors(self, parameters) -> torch.Tensor:
        """The mean squared error of every point, (members, samples + test)."""
        return (self.outputs(parameters) - self.labels).square().mean(2)

    def measure(self, parameters):
        """Losses, medians of the errors, shares of errors below each threshold, the norm of all weights and of their change."""
        errors, n, found = self.errors(parameters), self.problem.samples, {}
        for part, e in (("train", errors[:, :n]), ("test", errors[:, n:])):
            found |= {f"{part}_loss": e.mean(1), f"{part}_median": e.median(1).values}
            found[f"{part}_accuracy"] = torch.stack([(e < t).to(e).mean(1) for t in self.thresholds], dim=1)
        for name, minus in (("norm", 0), ("movement", 1)):
            found[name] = sum((p - minus * self.origin[key]).flatten(1).square().sum(1) for key, p in parameters.items()).sqrt()
        return found


def train(
    problem: StudentTeacher, seeds, steps: int = 10000, optimiser=AdamW(3e-4, 0.05), *, laziness=1.0, centred: bool = False,
    linearised: bool = False, thresholds=THRESHOLDS, every: int = 50, record=None, stop=None, dtype: str = "float32", device: str = "cpu",
    jobs: int = 1, chunk: int | None = None, checkpoint=None, progress: bool = True,
) -> xr.Dataset:
    r"""Train students, each with a teacher, data and initial weights of its own, on all training points at once.

    Args:
        problem: shapes and sizes.
        seeds: one for each member.
        steps, optimiser: hyperparameters may have an entry for each member.
        laziness: factor alpha on the output, a number or one for each member. The teacher has none, and the loss is not divided by its square.
        centred: subtract the initial output.
        linearised: train the expansion to first order at the initial weights instead.
        thresholds: errors below which a point counts as right.
        every, record: measure every so many steps, or at the steps given.
        stop, jobs, chunk, checkpoint, progress: as in ``descend``.
        dtype, device: "float32" or "float64"; the device of the tensors.

    Returns:
        Dataset with train_loss, test_loss, train_median, test_median, norm, movement (member, step), train_accuracy, test_accuracy
        (member, step, threshold), label_power (member,), the mean square of a component of the test labels, and last_step (member,).

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """
    if not isinstance(problem, StudentTeacher):
        raise ValueError(f"problem must be a StudentTeacher, got {type(problem).__name__}")
    record, seeds = recorded_steps(steps, every, record), [int(s) for s in np.atleast_1d(np.asarray(seeds))]
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds must be one non-negative number for each member, got {seeds!r}")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    alpha = np.asarray(laziness, dtype=float)
    if alpha.ndim > 1 or alpha.size not in (1, len(seeds)) or not np.all((alpha > 0) & np.isfinite(alpha)):
        raise ValueError(f"laziness must be positive, one number or one for each of {len(seeds)} members, got {laziness!r}")
    alpha = np.broadcast_to(alpha.reshape(-1), (len(seeds),)).copy()
    parameters = problem.initial(seeds, dtype=getattr(torch, dtype), device=device)
    inputs, labels = problem.data(seeds)
    task = StudentTask(problem, inputs, labels, parameters, alpha, centred=centred, linearised=linearised, thresholds=thresholds)
    found = descend(task, parameters, optimiser, int(steps), record, stop=stop, jobs=jobs, chunk=chunk, checkpoint=checkpoint, progress=progress)
    data = {name: (("member", "step", "threshold")[: value.ndim], value) for name, value in found.items()}
    data["label_power"] = "member", np.square(labels[:, problem.samples :]).mean((1, 2))
    coordinates = {"member": np.arange(len(seeds)), "step": record, "threshold": list(thresholds)}
    coordinates |= {"seed": ("member", seeds), "laziness": ("member", alpha)}
    how = dict(optimiser=repr(optimiser), steps=int(steps), dtype=dtype, centred=int(centred), linearised=int(linearised))
    return xr.Dataset(data, coordinates, problem.as_dict() | how)
