"""Training in time with finite data: the paper's appendix D (Figs. 4, 5, 6), reduced runs, and the paper's own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.stats
import xarray as xr

from grokutils.experiments._run import Run
from grokutils.problems import TeacherStudent
from grokutils.sampling.history import half_time, history
from grokutils.store import Store
from grokutils.sweep import settings_of

WIDTHS = (2800, 1400, 700)
REDUCED_SIZE = 0.25  # beta of the reduced problem
PAPER_STEPS, PAPER_NETWORKS = 7_000_000, 50
_SEED = 2023
# width: (draws, gradients between draws, warm-up) of underdamped Langevin
_EQUILIBRIUM = {2800: (20, 6, 80), 1400: (40, 10, 400), 700: (60, 15, 800)}
# width: (data sets, learning rate, steps); the rate is about half the stability limit
_HISTORIES = {2800: (2, 0.02, 3_000), 1400: (2, 0.03, 6_000), 700: (4, 0.05, 16_000)}
_REDUCED_SETS = dict(datasets=8, chains=2, seed=_SEED)


def reduced(problem: TeacherStudent, beta: float = REDUCED_SIZE) -> TeacherStudent:
    """The same u, kappa/d and n/d with beta times the neurons: N beta, d and n sqrt(beta), noise and readout variance over sqrt(beta)."""
    return problem.scaled(alpha=beta**0.5, beta=beta).rounded()


def resumable_history(
    problem: TeacherStudent, datasets: int = 2, chains: int = 1, steps: int = 10_000, records: int = 40, learning_rate: float = 2e-3,
    seed: int = 0, device: str = "cpu",
) -> xr.Dataset:
    """``history`` with its state kept in the store's folder until it is done: a killed run goes on where it was."""
    settings = dict(datasets=datasets, chains=chains, steps=steps, records=records, learning_rate=learning_rate, seed=seed, device=device)
    store = Store()
    path = Path(store.root, f".{Store.key(problem, settings_of(problem, resumable_history, **settings))}.checkpoint")
    result = history(problem, **settings, checkpoint=path, progress=False)
    path.unlink(missing_ok=True)
    return result


resumable_history.version, resumable_history.gradients = history.version, history.gradients


def milestones(ds: xr.Dataset) -> xr.Dataset:
    """Half times (dataset, chain) of a history: of the fall of the training error, of the fall of the test error from its peak, and of the
    cubic component's rise, on the training inputs and over the population.
    """
    cubic = {"train_cubic": ds.train_learned.sel(degree=3, drop=True), "test_cubic": ds.learned.sel(degree=3, drop=True)}
    times = dict(train_loss=half_time(ds.train_loss), test_loss=half_time(ds.test_loss, start=ds.test_loss.max("time")))
    return xr.Dataset(times | {name: half_time(curve) for name, curve in cubic.items()})


def mean_ratio(later: xr.DataArray, earlier: xr.DataArray, level: float = 0.95) -> tuple[float, float, float]:
    """Geometric mean of later/earlier and its interval by Student's t; networks of one data set are averaged first."""
    logs = np.log(later / earlier).mean("chain").values
    half = scipy.stats.t.ppf((1 + level) / 2, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5 if len(logs) > 1 else np.nan
    return tuple(float(x) for x in np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]))


def appendix_d() -> list[Run]:
    """Finite data at the paper's parameters: equilibrium at three widths from two starts, histories at three widths, and a reduced problem."""
    runs = []
    for width in reversed(WIDTHS):
        problem, (draws, thin, warmup) = TeacherStudent.appendix_d(width), _EQUILIBRIUM[width]
        lengths = dict(draws=draws, thin=thin, warmup=warmup, seed=_SEED)
        runs += [Run(problem, dict(datasets=4, chains=2, **lengths)), Run(problem, dict(datasets=4, chains=1, start="teacher", **lengths))]
    for width in reversed(WIDTHS):
        datasets, rate, steps = _HISTORIES[width]
        settings = dict(datasets=datasets, chains=1, steps=steps, records=48, learning_rate=rate, seed=_SEED)
        runs.append(Run(TeacherStudent.appendix_d(width), settings, resumable_history))
    narrow = reduced(TeacherStudent.appendix_d(700))
    runs += [Run(narrow, dict(draws=100, thin=20, warmup=1000, start=start, **_REDUCED_SETS)) for start in ("prior", "teacher")]
    runs += [
        Run(narrow, _REDUCED_SETS | dict(steps=steps, records=40, learning_rate=rate), resumable_history)
        for steps, rate in ((20_000, 0.05), (8_000, 0.0125))
    ]
    return runs


def appendix_d_paper() -> list[Run]:
    """The paper's own ensemble: 50 networks of each width for 7 million steps at its learning rate. Days on a CPU: for a GPU."""
    settings = dict(datasets=PAPER_NETWORKS, chains=1, steps=PAPER_STEPS, records=100, learning_rate=2e-3, seed=_SEED, device="auto")
    return [Run(TeacherStudent.appendix_d(width), settings, resumable_history) for width in WIDTHS]
