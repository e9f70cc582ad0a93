"""The training loop: any task, any optimiser, members in chunks, threads over chunks, members frozen as they are done."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from grokutils import checkpoint as checkpoints
from grokutils._threads import one_thread

Parameters = dict[str, torch.Tensor]
_MEMORY = 2**25  # bytes of parameters and moments in a chunk: so many members that the interpreter's share of a step is small
_PIECE = 50  # steps between two looks at the clock


class Task(Protocol):
    """A loss of an ensemble of independent members: the first axis of every parameter is the member."""

    def gradients(self, parameters: Parameters, into: Parameters, step: int) -> None:
        """Write the gradients of every member's loss into ``into``; ``step`` (from 0) chooses a mini-batch, if there are any."""

    def measure(self, parameters: Parameters) -> Parameters:
        """What is recorded, by name: tensors (members, ...). A task may have ``measured_gradients(parameters, into, step)`` too, which does
        both at the price of one forward pass."""

    def select(self, members: torch.Tensor) -> Self:
        """The task of some of the members, given by their indices."""


class AutogradTask:
    """A task that has ``loss(parameters, step)``, (members,), instead of gradients."""

    def gradients(self, parameters: Parameters, into: Parameters, step: int) -> None:
        """As the members are independent, the gradients of the sum of their losses."""
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(self.loss(leaves, step).sum(), list(leaves.values()))
        for name, gradient in zip(leaves, found, strict=True):
            into[name].copy_(gradient)


def recorded_steps(steps: int, every: int | None, record=None) -> np.ndarray:
    """The steps at which something is measured: those given, or every so many from 0 on, and the last."""
    if isinstance(steps, bool) or int(steps) != steps or steps < 0:
        raise ValueError(f"steps must be a whole number of at least 0, got {steps!r}")
    if record is None:
        if every is None or int(every) != every or every < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {every!r}")
        return np.unique(np.append(np.arange(0, steps + 1, int(every)), int(steps)))
    record = np.unique(np.asarray(record))
    if record.size == 0 or not np.issubdtype(record.dtype, np.integer) or record[0] < 0 or record[-1] > steps:
        raise ValueError(f"record must be whole numbers from 0 to steps = {steps}, got {record!r}")
    return record


def first_reached(curve: xr.DataArray, level: float) -> xr.DataArray:
    """The first recorded step at which a curve (..., step) is at least ``level``, NaN where it never is."""
    reached = curve >= level - 1e-6  # accuracies are ratios of whole numbers in single precision
    return curve.step.where(reached).min("step")


def training_rows(masks: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of masks (members, m): the places of each member's training examples, padded to the longest; weights 1/n, zero on the padding; the n."""
    count = masks.sum(1)
    rows = torch.argsort(masks.to(torch.int8), dim=1, descending=True, stable=True)[:, : int(count.max())]
    weight = (torch.arange(rows.shape[1], device=rows.device) < count[:, None]).to(like) / count[:, None]
    return rows, weight, count


def descend(
    task: Task, parameters: Parameters, optimiser, steps: int, record, *, stop: Callable | None = None, jobs: int = 1, chunk: int | None = None,
    checkpoint: str | Path | None = None, save_every: float = 180.0, progress: bool = True,
) -> dict[str, np.ndarray]:
    """Train in place and return what the task measured at the steps of ``record``, each (members, records, ...).

    A measurement at step t is of the parameters after t steps of the optimiser. Members whose loss overflows go on as
    infinities or NaN and disturb no other member.

    Args:
        task: what is learnt.
        parameters: tensors (members, ...) by name; the group of a name is what precedes its first dot.
        optimiser: one for all parameters, or a mapping that has one for each group.
        steps, record: how many steps; at which of them something is measured.
        stop: a function of one measurement, to which ``member`` is added (the numbers of the members measured), that says which of them are
            done, booleans. They keep the parameters they have, what would have been measured later is NaN, and the others go on without them.
        jobs: threads, each with a chunk of its own; they share one interpreter, so that chunks of a few small networks gain little.
        chunk: members trained together; None: tens of small networks, fewer large ones, on a GPU all of them.
        checkpoint: a file that keeps the state, so that a killed run, called again, goes on where it was. It stays when the run has ended.
        save_every: seconds between two writes of it.
        progress: show a bar over steps of members.

    Returns:
        What the task measures, and ``last_step`` (members,): the step at which each ended.

    Raises:
        ValueError: an argument is not what it must be, or the checkpoint is damaged or belongs to another run.
    """
    for name, value in (("jobs", jobs), ("chunk", 1 if chunk is None else chunk)):
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    run = _Run(task, parameters, optimiser, int(steps), list(map(int, record)), stop, chunk, checkpoint, save_every)
    with tqdm(total=run.members * run.steps, disable=not progress, unit="step", unit_scale=True, mininterval=1.0) as bar:
        run.go(jobs, bar)
    return run.found | {"last_step": run.last_step}


def _even(members: int, most: int) -> int:
    """The size of chunks of at most ``most`` members: one chunk, or close to a multiple of four, which keeps two or four threads busy to the end."""
    return members if members <= most else math.ceil(members / (4 * math.ceil(members / (4 * most))))


class _Chunk:
    """Some members: their task, parameters (a matrix for each group, and views of it by name), the optimisers' states, the step."""

    def __init__(self, task, members: torch.Tensor, theta: dict, states: dict, shapes: dict, done: int = 0):
        self.task, self.members, self.theta, self.states, self.shapes, self.done = task, members, theta, states, shapes, done
        self.gradient = {group: torch.empty_like(matrix) for group, matrix in theta.items()}
        self.ready = False  # whether ``into`` holds the gradients of the next step
        self.parameters, self.into = self._views(theta), self._views(self.gradient)

    def _views(self, matrices: dict) -> Parameters:
        views, place = {}, dict.fromkeys(matrices, 0)
        for name, shape in self.shapes.items():
            group, size = name.split(".")[0], math.prod(shape)
            views[name] = matrices[group][:, place[group] : place[group] + size].view(-1, *shape)
            place[group] += size
        return views

    def advance(self, optimisers: dict, steps: int) -> None:
        for t in range(self.done, self.done + steps):
            if not self.ready:
                self.task.gradients(self.parameters, self.into, t)
            self.ready = False
            for group, matrix in self.theta.items():
                optimisers[group].step(matrix, self.gradient[group], self.states[group], t + 1)
        self.done += steps

    def measure(self, more: bool) -> Parameters:
        """What the task measures; if there are ``more`` steps, the next gradients with it where the task can."""
        if not more or not hasattr(self.task, "measured_gradients"):
            return self.task.measure(self.parameters)
        self.ready = True
        return self.task.measured_gradients(self.parameters, self.into, self.done)

    def kept(self, keep: torch.Tensor) -> _Chunk:
        """The chunk without the members that are done."""
        index = keep.nonzero()[:, 0].to(self.members.device)
        theta = {group: matrix[index] for group, matrix in self.theta.items()}
        states = {group: {name: x[index] for name, x in state.items()} for group, state in self.states.items()}
        return _Chunk(self.task.select(index), self.members[index], theta, states, self.shapes, self.done)

    def contents(self) -> dict:
        copy = {group: matrix.cpu().clone() for group, matrix in self.theta.items()}
        states = {group: {name: x.cpu().clone() for name, x in state.items()} for group, state in self.states.items()}
        return dict(done=self.done, members=self.members.cpu(), theta=copy, states=states, ready=self.ready)


class _Run:
    """All members of one call: chunks, what was measured, the checkpoint."""

    def __init__(self, task, parameters, optimiser, steps, record, stop, chunk, checkpoint, save_every):
        self.task, self.parameters, self.steps, self.record, self.stop = task, parameters, steps, record, stop
        first = next(iter(parameters.values()))
        self.members, self.device = len(first), first.device
        self.shapes = {name: tuple(p.shape[1:]) for name, p in parameters.items()}
        groups = list(dict.fromkeys(name.split(".")[0] for name in parameters))
        self.optimisers = dict(optimiser) if isinstance(optimiser, Mapping) else dict.fromkeys(groups, optimiser)
        if sorted(self.optimisers) != sorted(groups):
            raise ValueError(f"optimiser must have one entry for each group of parameters {groups}, got {list(self.optimisers)}")
        if chunk is None:
            bytes_each = 5 * first.element_size() * sum(map(math.prod, self.shapes.values()))
            chunk = _even(self.members, min(max(_MEMORY // bytes_each, 1), 64)) if self.device.type == "cpu" else self.members
        self.starts = range(0, self.members, int(chunk))
        self.size, self.last_step, self.found = int(chunk), np.full(self.members, -1), {}
        self.whole = {g: self._matrix(g) for g in groups}
        for g in groups:
            self.optimisers[g].start(self.whole[g][:, :0])  # checks every hyperparameter before anything runs
        self.path, self.save_every, self.kept, self.saved = checkpoint and Path(checkpoint), save_every, {}, time.monotonic()
        self.lock, self.halt = threading.RLock(), threading.Event()
        if self.path:
            self.settings = dict(steps=steps, record=record, chunk=self.size, optimisers={g: repr(o) for g, o in self.optimisers.items()})
            self.fingerprint = self._fingerprint()
            if self.path.exists():
                self._restore()

    def _matrix(self, group):
        return torch.cat([p.reshape(self.members, -1) for name, p in self.parameters.items() if name.split(".")[0] == group], dim=1)

    def go(self, jobs: int, bar) -> None:
        """Put every chunk through; stopped by the keyboard, threads end at their next look at the clock and the state is kept."""
        bar.update(int(np.maximum(self.last_step, 0).sum()) + sum(c["done"] * len(c["members"]) for c in self.kept.values()))
        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(self._train, start, bar) for start in self.starts]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            except KeyboardInterrupt as interrupt:
                if self.path:
                    interrupt.add_note(f"the state is kept in {self.path}; a second call resumes")
                raise
            finally:
                self.halt.set()  # of no effect on what has ended
                wait(futures)
                if self.path:
                    self._write()
            for future in futures:
                future.result()

    @torch.no_grad()
    def _train(self, start: int, bar) -> None:
        """One chunk from where it is to the end, or until the run is halted."""
        with one_thread(self.device):
            chunk, clock = self._begin(start), time.monotonic()
            for r, target in enumerate([*self.record, self.steps]):
                while chunk and chunk.done < target:
                    if self.halt.is_set() or (self.path and time.monotonic() - clock > self.save_every):
                        clock = time.monotonic()
                        self._keep(start, chunk)
                    if self.halt.is_set():
                        return
                    piece = min(target - chunk.done, _PIECE)
                    chunk.advance(self.optimisers, piece)
                    bar.update(piece * len(chunk.members))
                if chunk and chunk.done == target and r < len(self.record):
                    chunk = self._measure(chunk, r, bar)
            if chunk:
                self._end(chunk, slice(None))
            self._keep(start, None)

    def _begin(self, start: int) -> _Chunk | None:
        members = torch.arange(start, min(start + self.size, self.members), device=self.device)
        if start not in self.kept:
            theta = {g: matrix[members] for g, matrix in self.whole.items()}
            states = {g: self.optimisers[g].start(matrix, members.cpu()) for g, matrix in theta.items()}
            return _Chunk(self.task.select(members), members, theta, states, self.shapes)
        kept = self.kept[start]
        if not len(kept["members"]):
            return None
        theta = {g: matrix.to(self.device, copy=True) for g, matrix in kept["theta"].items()}
        states = {g: {name: x.to(self.device, copy=True) for name, x in state.items()} for g, state in kept["states"].items()}
        members = kept["members"].to(self.device)
        chunk = _Chunk(self.task.select(members), members, theta, states, self.shapes, kept["done"])
        if kept.get("ready"):
            chunk.measure(more=True)  # the same gradients, to the bit
        return chunk

    def _measure(self, chunk: _Chunk, r: int, bar) -> _Chunk | None:
        measured = {name: value.cpu() for name, value in chunk.measure(chunk.done < self.steps).items()}
        members = chunk.members.cpu().numpy()
        for name, value in measured.items():
            if name not in self.found:
                with self.lock:
                    kind = value.dtype if value.dtype.is_floating_point else torch.float32
                    empty = torch.full((self.members, len(self.record), *value.shape[1:]), torch.nan, dtype=kind).numpy()
                    self.found.setdefault(name, empty)
            self.found[name][members, r] = value.numpy()
        if self.stop is None:
            return chunk
        done = torch.as_tensor(self.stop({name: value.numpy() for name, value in measured.items()} | {"member": members}))
        if done.shape != (len(members),) or done.dtype != torch.bool:
            raise ValueError(f"stop must return booleans of shape ({len(members)},), got {done.dtype} of shape {tuple(done.shape)}")
        if not done.any():
            return chunk
        self._end(chunk, done.to(chunk.members.device))
        bar.update(int(done.sum()) * (self.steps - chunk.done))
        return None if done.all() else chunk.kept(~done)

    def _end(self, chunk: _Chunk, which) -> None:
        """Hand the parameters of members that are done back to the caller."""
        members = chunk.members[which]
        for name, p in self.parameters.items():
            p[members] = chunk.parameters[name][which]
        self.last_step[members.cpu().numpy()] = chunk.done

    def _keep(self, start: int, chunk: _Chunk | None) -> None:
        """Remember where a chunk is, and write the checkpoint if its time has come."""
        if not self.path:
            return
        with self.lock:
            self.kept[start] = dict(done=self.steps, members=torch.arange(0)) if chunk is None else chunk.contents()
            if time.monotonic() - self.saved > self.save_every:
                self._write()

    def _fingerprint(self) -> torch.Tensor:
        """The size of every member's first gradient: the same for the same task and start, to round-off, on any machine."""
        sizes = []
        for start in self.starts:
            chunk = self._begin(start)  # nothing has been restored yet
            with torch.no_grad():
                chunk.task.gradients(chunk.parameters, chunk.into, 0)
            sizes.append(sum(g.double().square().sum(1) for g in chunk.gradient.values()).sqrt().cpu())
        return torch.cat(sizes)

    def _write(self) -> None:
        with self.lock:
            found = {name: torch.from_numpy(values.copy()) for name, values in self.found.items()}
            parameters = {name: p.cpu() for name, p in self.parameters.items()}
            last_step, kept = torch.from_numpy(self.last_step.copy()), dict(self.kept)
            contents = dict(fingerprint=self.fingerprint, found=found, parameters=parameters, last_step=last_step, kept=kept)
            checkpoints.write(self.path, self.settings, contents)
            self.saved = time.monotonic()

    def _restore(self) -> None:
        contents = checkpoints.read(self.path, self.settings)
        theirs = contents["fingerprint"]
        if theirs.shape != self.fingerprint.shape or not torch.allclose(theirs, self.fingerprint, rtol=1e-3, equal_nan=True):
            raise ValueError(f"checkpoint {self.path} belongs to a run of another task or start; give another file or remove it")
        self.found = {name: values.numpy() for name, values in contents["found"].items()}
        self.kept, self.last_step = contents["kept"], contents["last_step"].numpy()
        ended = torch.from_numpy(self.last_step >= 0)
        for name, p in self.parameters.items():
            p[ended.to(p.device)] = contents["parameters"][name][ended].to(p.device)
