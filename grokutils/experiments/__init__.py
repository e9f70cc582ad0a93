"""The stored runs that the book shows: what they are, how they are made, where they lie. One module a chapter or two."""

from grokutils.experiments import _run
from grokutils.experiments._run import RELOCATION_COST, Run, cost
from grokutils.experiments.cosine import cosine
from grokutils.experiments.ensembles import HALF_STEP, NOISE, STEPS, EnsembleRun, figure2, slow_mode, step_bias
from grokutils.experiments.escape import escape
from grokutils.experiments.finite_size import droplet_number
from grokutils.experiments.history import appendix_d, appendix_d_paper
from grokutils.experiments.modular import at as modular_at
from grokutils.experiments.modular import modular_addition, modular_freezing
from grokutils.experiments.norm import norm_profile
from grokutils.experiments.other_teachers import other_teachers
from grokutils.experiments.phase_diagram import phase_diagram
from grokutils.experiments.representation import phase_classification, phase_group, phase_rates, phase_regression, training_fraction
from grokutils.experiments.sample_complexity import sample_complexity

EXPERIMENTS = {
    "figure2": figure2, "slow_mode": slow_mode, "step_bias": step_bias, "norm_profile": norm_profile, "droplet_number": droplet_number,
    "phase_diagram": phase_diagram, "appendix_d": appendix_d, "escape": escape,
    "sample_complexity": sample_complexity, "other_teachers": other_teachers,
    "cosine": cosine,
    "modular_addition": modular_addition, "modular_freezing": modular_freezing,
    "training_fraction": training_fraction, "phase_regression": phase_regression, "phase_rates": phase_rates,
    "phase_classification": phase_classification, "phase_group": phase_group,
}

ON_DEMAND = {"appendix_d_paper": appendix_d_paper}  # days of a GPU, weeks of a core: ``run all`` leaves it out

__all__ = [
    "EXPERIMENTS", "HALF_STEP", "NOISE", "ON_DEMAND", "RELOCATION_COST", "STEPS", "EnsembleRun", "Run", "appendix_d", "appendix_d_paper",
    "cosine", "cost", "droplet_number", "escape", "figure2", "main", "modular_addition", "modular_at", "modular_freezing", "norm_profile",
    "other_teachers", "phase_classification", "phase_diagram", "phase_group", "phase_rates", "phase_regression",
    "sample_complexity", "slow_mode", "step_bias", "training_fraction",
]


def main(arguments: list[str] | None = None) -> None:
    """``python -m grokutils.experiments run figure2 [--jobs N]``, ``... run all``, ``... list figure2``."""
    _run.main(EXPERIMENTS, ON_DEMAND, arguments, __doc__)
