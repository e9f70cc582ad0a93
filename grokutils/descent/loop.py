"""The training loop: any task, any optimiser."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from grokutils._threads import one_thread


class Task(Protocol):
    """A loss of an ensemble: parameters are tensors whose first axis is the member."""

    def gradients(self, parameters: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Gradients of every member's loss, in the shapes of the parameters."""

    def measure(self, parameters: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        """What is recorded, by name: tensors (members,) or (members, ...)."""


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


@torch.no_grad()
def descend(task: Task, parameters, optimiser, steps: int, record, progress: bool = True) -> dict[str, np.ndarray]:
    """Train in place and return what the task measured at the steps of ``record``, each (members, records, ...).

    A measurement at step t is of the parameters after t steps of the optimiser. Members whose loss overflows go on as
    infinities or NaN and disturb no other member.
    """
    wanted, found = set(map(int, record)), []
    with one_thread(parameters[0].device), tqdm(total=steps, disable=not progress, unit="step", mininterval=1.0) as bar:
        step = optimiser.start(parameters)
        for t in range(steps + 1):
            if t in wanted:
                found.append({name: value.cpu().numpy() for name, value in task.measure(parameters).items()})
            if t < steps:
                step(task.gradients(parameters))
                bar.update()
    return {name: np.stack([one[name] for one in found], axis=1) for name in found[0]} if found else {}
