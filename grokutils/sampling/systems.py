"""Which posterior belongs to which problem."""

from __future__ import annotations

from grokutils.sampling.posterior import TeacherStudentPosterior, draw_data


def posterior_of(problem, datasets=1, seed: int = 0, chains: int = 1, device: str = "cpu", dtype: str = "float32"):
    """The posterior of ``chains`` networks on each of the data sets that the seed draws."""
    return TeacherStudentPosterior(problem, *draw_data(problem, datasets, seed), chains, device, dtype)
