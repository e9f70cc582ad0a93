"""Training in time: the paper's Langevin dynamics followed from the start, measured as it goes, stopped and resumed at will (appendix D)."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from grokutils import checkpoint as checkpoints
from grokutils._threads import one_thread
from grokutils.problems import TeacherStudent, positive
from grokutils.sampling._drivers import DRIVERS, PAPER_RATE
from grokutils.sampling._measure import Measure
from grokutils.sampling.posterior import TeacherStudentPosterior, draw_data, require_whole, seed_of
from grokutils.sampling.run import _check_settings, _device

ALGORITHM_VERSION = 1  # raise it when the numbers for a given seed change
SPACINGS = ("log", "linear")
_SAVE_EVERY = 180.0  # seconds between two states on disk


def history(
    problem: TeacherStudent, datasets: int = 2, chains: int = 1, steps: int = 10_000, records: int = 40, learning_rate: float = PAPER_RATE, *,
    spacing: str = "log", seed: int = 0, device: str = "cpu", dtype: str = "float32", checkpoint: str | Path | None = None,
    save_every: float = _SAVE_EVERY, progress: bool = True,
) -> xr.Dataset:
    r"""Train networks by overdamped Langevin steps from the prior and record what they have learned on the way (the paper's Figs. 5 and 6).

    A step on the network's own weights is $w\leftarrow w-\eta\,\partial_wL+\sqrt{2\eta\sigma^2/n}\,\xi$ with the loss averaged over the
    training set, $L=\frac1{2n}\sum_\mu(y_\mu-f_\mu)^2+\frac{\sigma^2}n\times$(prior). Steps and noise are those of
    ``sample(method="langevin")``. The Langevin time is $t=\eta\times$ step.

    Args:
        problem: whole sizes.
        datasets: independent training sets.
        chains: networks per training set.
        steps: how many; each costs one gradient a network.
        records: about how many measurements between step 1 and the last one; step 0 is recorded besides.
        learning_rate: $\eta$ (the paper's 2e-3). Unstable beyond twice the inverse of the largest curvature of the loss.
        spacing: of the records: "log" or "linear".
        seed: data set j and chain c depend on (seed, j, c) alone.
        device, dtype: as in ``sample``.
        checkpoint: a file that keeps the state, so that a killed run, called again, goes on where it was; on the same device and
            software the numbers are the same to the last bit. It stays when the run has ended. None: no file.
        save_every: seconds between two writes of it, 0: at every record.
        progress: show a progress bar.

    Returns:
        Dataset with dims (dataset, chain, time[, degree | bin]): train_loss, test_loss (mean squared errors, the latter over the
        population), learned and train_learned (Hermite coefficients of the output over the population and by regression on the training
        inputs), second_moment, tail_fraction, histogram of q; coordinates time and step.

    Raises:
        ValueError: an argument is not what it must be, or the checkpoint is damaged or belongs to other settings.
        RuntimeError: the training has diverged.
    """
    counts = dict(datasets=datasets, chains=chains, steps=steps, records=records)
    _check_settings(counts, 0, 1.0, 1.0, None, "langevin", "prior", dtype, seed)
    positive("learning_rate", learning_rate), positive("save_every", save_every, minimum=-1)
    if spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {SPACINGS}, got {spacing!r}")
    require_whole(problem)
    device = _device(device)
    settings = counts | dict(
        problem=problem.hash, learning_rate=learning_rate, spacing=spacing, seed=seed, dtype=dtype, device=device.type, version=ALGORITHM_VERSION
    )
    schedule = recorded_steps(steps, records, spacing)
    with (
        one_thread(device), torch.no_grad(),
        tqdm(total=steps, disable=not progress, unit="step", desc=f"history N={problem.width} n={problem.samples}") as bar,
    ):
        training = _Training(problem, datasets, chains, learning_rate, seed, device, dtype)
        if checkpoint is not None and Path(checkpoint).exists():
            training.restore(checkpoints.read(Path(checkpoint), settings))
            bar.update(training.done)
        saved = time.monotonic()
        while len(training.records) < len(schedule):
            target = int(schedule[len(training.records)])
            # in pieces, so that the state reaches the disk in time
            piece = min(target - training.done, 100)
            training.advance(piece, bar)
            if training.done == target:
                training.record()
            last = len(training.records) == len(schedule)
            if checkpoint is not None and (last or time.monotonic() - saved >= save_every) and (save_every or training.done == target):
                checkpoints.write(Path(checkpoint), settings, training.contents())
                saved = time.monotonic()
    provenance = {k: v for k, v in settings.items() if k != "problem"} | dict(
        problem=str(problem.as_dict()), problem_hash=problem.hash, method="langevin",
        **{f"version_{m}": version(m) for m in ("grokutils", "torch", "numpy")},
    )
    return _assemble(training.records, schedule, learning_rate, Measure.coordinates(problem), datasets, chains).assign_attrs(provenance)


def _gradients(problem, datasets=2, chains=1, steps=10_000, **_):
    return datasets * chains * (steps + 1)


history.version, history.gradients = ALGORITHM_VERSION, _gradients


def recorded_steps(steps: int, records: int, spacing: str = "log") -> np.ndarray:
    """Step 0 and about ``records`` steps from 1 to the last, at equal ratios ("log") or distances ("linear"), without repeats."""
    grid = np.geomspace(1, steps, records) if spacing == "log" else np.linspace(0, steps, records + 1)
    return np.unique(np.concatenate([[0], np.round(grid).astype(int), [steps]]))


def half_time(curve: xr.DataArray, start=None, tail: int = 3) -> xr.DataArray:
    """The time at which a curve has made half of its way, for good: its last crossing of the middle, interpolated in ln(time).

    Args:
        curve: with a dimension ``time`` that begins at 0; other dimensions are kept.
        start: the level where the way begins (a number, or an array without ``time``); None: the first value.
        tail: the way ends at the mean of this many last values.
    """
    end = curve.isel(time=slice(-tail, None)).mean("time")
    begin = curve.isel(time=0, drop=True) if start is None else start
    progress = ((curve - begin) / (end - begin)).isel(time=slice(1, None))

    def last_crossing(values, clock):
        below = np.flatnonzero(values < 0.5)
        if not len(below):  # within the first step
            return clock[0]
        last = min(below[-1], len(values) - 2)
        share = (0.5 - values[last]) / (values[last + 1] - values[last])
        return np.exp(np.log(clock[last]) + np.clip(share, 0, 1) * np.log(clock[last + 1] / clock[last]))

    return xr.apply_ufunc(last_crossing, progress, progress.time, input_core_dims=[["time"], ["time"]], vectorize=True)


class _NoBar:
    n = total = 0

    def update(self, n=1):
        """Nothing to show."""


class _Training:
    """All networks of a history: the Langevin driver of ``sample``, the step it has reached, its records."""

    def __init__(self, problem, datasets, chains, rate, seed, device, dtype):
        self.posterior = TeacherStudentPosterior(problem, *draw_data(problem, datasets, seed), chains, device, dtype)
        seeds = [[seed_of(seed, 1 + what, j, c) for j in range(datasets) for c in range(chains)] for what in range(2)]
        self.sampler = DRIVERS["langevin"](self.posterior, self.posterior.prior_draw(seeds[0]), seeds[1], rate, 0.5, 1.0)
        self.measure = Measure(problem, self.posterior, seed, keep_neurons=False)
        self.done, self.records = 0, []

    def advance(self, steps, bar):
        if steps:
            self.sampler.advance(steps, _NoBar())
            self.done += steps
            bar.update(steps)

    def record(self):
        try:
            values = self.measure(self.sampler.theta, self.sampler.energy)
        except RuntimeError as error:
            raise RuntimeError(f"the training has diverged by step {self.done}: give a smaller learning_rate") from error
        self.records.append({name: np.asarray(value) for name, value in values.items() if name != "energy"})

    def contents(self) -> dict:
        """What another process needs to go on, as tensors and plain numbers."""
        noise, state = self.sampler.noise, self.sampler.state
        streams = [g.get_state() for g in noise._generators] if hasattr(noise, "_generators") else [noise.count.cpu()]
        records = [{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in r.items()} for r in self.records]
        return dict(done=self.done, state=[x.cpu() for x in state], streams=streams, records=records)

    def restore(self, contents):
        noise, state = self.sampler.noise, self.sampler.state
        self.done = contents["done"]
        self.sampler.state = type(state)(*(new.to(old.device) for new, old in zip(contents["state"], state, strict=True)))
        if hasattr(noise, "_generators"):
            for generator, stream in zip(noise._generators, contents["streams"], strict=True):
                generator.set_state(stream)
        else:
            noise.count.copy_(contents["streams"][0])
        self.records = [{name: value.numpy() for name, value in r.items()} for r in contents["records"]]


def _assemble(records, schedule, rate, coordinates, datasets, chains) -> xr.Dataset:
    data = {}
    for name in records[0]:
        stacked = np.stack([r[name] for r in records], axis=1)  # networks, time, ...
        data[name] = (("dataset", "chain", "time", *Measure.dims.get(name, ())), stacked.reshape(datasets, chains, *stacked.shape[1:]))
    return xr.Dataset(data, coords={"time": rate * schedule, "step": ("time", schedule), **coordinates})
