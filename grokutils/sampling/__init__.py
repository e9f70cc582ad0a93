"""Ensembles of networks from the Bayesian posterior: the posterior, one module an algorithm, and ``sample``."""

from grokutils.sampling._drivers import largest_eigenvalue
from grokutils.sampling.modular import ModularAdditionPosterior
from grokutils.sampling.posterior import TeacherStudentPosterior, draw_data
from grokutils.sampling.run import METHODS, STARTS, sample

__all__ = ["METHODS", "STARTS", "ModularAdditionPosterior", "TeacherStudentPosterior", "draw_data", "largest_eigenvalue", "sample"]
