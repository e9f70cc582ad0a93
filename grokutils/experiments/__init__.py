"""The stored runs that the book shows: what they are, how they are made, where they lie. One module a chapter or two."""

from grokutils.experiments import _run
from grokutils.experiments._run import RELOCATION_COST, Run, cost
from grokutils.experiments.committee import committee
from grokutils.experiments.committee_posterior import committee_posterior
from grokutils.experiments.cosine import cosine
from grokutils.experiments.decoder_map import decoder_maps
from grokutils.experiments.effective_theory import effective_theory
from grokutils.experiments.ensembles import HALF_STEP, NOISE, STEPS, EnsembleRun, figure2, slow_mode, step_bias
from grokutils.experiments.escape import escape
from grokutils.experiments.finite_size import droplet_number
from grokutils.experiments.general import (
    hermite_targets,
    lazy_images,
    lazy_images_paper,
    lazy_transformer,
    lazy_transformer_paper,
    linearised_transformer,
    multi_index,
    student_teacher,
)
from grokutils.experiments.groups import permutation_networks
from grokutils.experiments.history import appendix_d, appendix_d_paper
from grokutils.experiments.images import images, images_paper
from grokutils.experiments.kernels import kernels
from grokutils.experiments.laziness import laziness
from grokutils.experiments.lazy_addition import lazy_addition
from grokutils.experiments.lazy_toy import lazy_toy
from grokutils.experiments.mixture import mixture
from grokutils.experiments.modular import at as modular_at
from grokutils.experiments.modular import modular_addition, modular_freezing
from grokutils.experiments.noise import noise
from grokutils.experiments.norm import norm_profile
from grokutils.experiments.other_teachers import other_teachers
from grokutils.experiments.phase_diagram import phase_diagram
from grokutils.experiments.phase_sweeps import phase_sweeps
from grokutils.experiments.rate import initial_conditions, training_set_rate
from grokutils.experiments.rates_and_data import rates_and_data
from grokutils.experiments.representation import phase_classification, phase_group, phase_rates, phase_regression, training_fraction
from grokutils.experiments.sample_complexity import sample_complexity
from grokutils.experiments.transformer import transformer, transformer_paper

EXPERIMENTS = {
    # Part I
    "figure2": figure2, "slow_mode": slow_mode, "step_bias": step_bias, "norm_profile": norm_profile, "droplet_number": droplet_number,
    "phase_diagram": phase_diagram, "appendix_d": appendix_d, "escape": escape, "sample_complexity": sample_complexity,
    "other_teachers": other_teachers, "cosine": cosine, "modular_addition": modular_addition, "modular_freezing": modular_freezing,
    # Part II
    "training_fraction": training_fraction, "decoder_maps": decoder_maps, "effective_theory": effective_theory,
    "training_set_rate": training_set_rate, "initial_conditions": initial_conditions, "phase_rates": phase_rates,
    "phase_regression": phase_regression, "phase_classification": phase_classification, "phase_sweeps": phase_sweeps,
    "phase_group": phase_group, "permutation_networks": permutation_networks, "images": images, "transformer": transformer,
    # Part III
    "committee": committee, "lazy_addition": lazy_addition, "laziness": laziness, "kernels": kernels, "student_teacher": student_teacher,
    "lazy_images": lazy_images, "lazy_transformer": lazy_transformer, "linearised_transformer": linearised_transformer,
    "multi_index": multi_index, "hermite_targets": hermite_targets, "committee_posterior": committee_posterior,
    # Part IV
    "mixture": mixture, "rates_and_data": rates_and_data, "lazy_toy": lazy_toy, "noise": noise,
}

# days of a GPU, weeks of a core: ``run all`` leaves it out
ON_DEMAND = {
    "appendix_d_paper": appendix_d_paper, "images_paper": images_paper, "transformer_paper": transformer_paper,
    "lazy_images_paper": lazy_images_paper, "lazy_transformer_paper": lazy_transformer_paper,
}

__all__ = [
    "EXPERIMENTS", "HALF_STEP", "NOISE", "ON_DEMAND", "RELOCATION_COST", "STEPS", "EnsembleRun", "Run", "appendix_d", "appendix_d_paper",
    "committee", "committee_posterior", "cosine", "cost", "decoder_maps", "droplet_number", "effective_theory", "escape", "figure2",
    "hermite_targets", "images", "images_paper", "initial_conditions", "kernels", "laziness", "lazy_addition", "lazy_images",
    "lazy_images_paper", "lazy_toy", "lazy_transformer", "lazy_transformer_paper", "linearised_transformer", "main", "mixture",
    "modular_addition", "modular_at", "modular_freezing", "multi_index", "noise", "norm_profile", "other_teachers", "permutation_networks",
    "phase_classification", "phase_diagram", "phase_group", "phase_rates", "phase_regression", "phase_sweeps", "rates_and_data",
    "sample_complexity", "slow_mode", "step_bias", "student_teacher", "training_fraction", "training_set_rate", "transformer",
    "transformer_paper",
]


def main(arguments: list[str] | None = None) -> None:
    """``python -m grokutils.experiments run figure2 [--jobs N]``, ``... run all``, ``... list figure2``."""
    _run.main(EXPERIMENTS, ON_DEMAND, arguments, __doc__)
