"""Quadratic networks trained by gradient descent on parts of the addition table, for several training fractions."""

from __future__ import annotations

import xarray as xr

from grokutils.experiments._run import Run
from grokutils.modular import AdditionTask, neurons

SEEDS = 10
MODULUS, WIDTH, RATE = 59, 256, 8.0
READ = 0.3  # the training fraction whose networks are read neuron by neuron
# training fraction: steps; the longer, the closer to the critical fraction
_STEPS = {0.2: 1000, 0.225: 2000, 0.25: 2000, 0.3: 1500, 0.4: 400}


def trained(
    problem: AdditionTask, seeds: int = SEEDS, steps: int = 1500, learning_rate: float = RATE, momentum: float = 0.9,
    weight_decay: float = 1e-4, every: int = 10, keep_neurons: bool = False,
) -> xr.Dataset:
    """Curves (member, step) of networks with seeds 0, 1, ...; with ``keep_neurons`` also what each neuron does at the end (``modular.neurons``)."""
    from grokutils.descent import GradientDescent, train

    ds = train(problem, seeds, steps, GradientDescent(learning_rate, momentum, weight_decay), every=every, progress=False)
    curves = ds.drop_vars(["weights", "readout", "mask"])
    if not keep_neurons:
        return curves
    found = neurons(ds.weights, ds.readout).drop_vars(["phase_sum", "offset"])
    found["frequency"] = found.frequency.astype("int16")
    return curves.merge(found).assign_attrs(ds.attrs)


trained.version = 1
trained.seconds = lambda problem, seeds=SEEDS, steps=1500, **_: 2e-3 * seeds * steps  # as measured on one core


def cosine() -> list[Run]:
    """Modulus 59, width 256: five training fractions around the critical one; at one of them also without weight decay."""
    runs = []
    for fraction, steps in _STEPS.items():
        read = {"keep_neurons": True} if fraction == READ else {}
        runs.append(Run(AdditionTask(MODULUS, WIDTH, fraction), dict(steps=steps, **read), trained))
    return [*runs, Run(AdditionTask(MODULUS, WIDTH, READ), dict(steps=_STEPS[READ], weight_decay=0.0, keep_neurons=True), trained)]
