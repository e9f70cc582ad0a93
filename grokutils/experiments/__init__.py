"""The stored runs that the book shows: what they are, how they are made, where they lie. One module a chapter or two."""

from grokutils.experiments import _run
from grokutils.experiments._run import Run, cost
from grokutils.experiments.ensembles import HALF_STEP, NOISE, STEPS, EnsembleRun, figure2, slow_mode, step_bias

EXPERIMENTS = {"figure2": figure2, "slow_mode": slow_mode, "step_bias": step_bias}

__all__ = ["EXPERIMENTS", "HALF_STEP", "NOISE", "STEPS", "EnsembleRun", "Run", "cost", "figure2", "main", "slow_mode", "step_bias"]


def main(arguments: list[str] | None = None) -> None:
    """``python -m grokutils.experiments run figure2 [--jobs N]``, ``... run all``, ``... list figure2``."""
    _run.main(EXPERIMENTS, arguments, __doc__)
