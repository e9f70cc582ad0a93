"""Gradient descent, not sampling: ensembles of networks trained in one tensor program.

An *optimiser* turns gradients into steps and knows nothing of networks; a *task* knows a loss, its gradients and what to
measure, and nothing of steps; ``descend`` brings them together. ``quadratic`` is the task of modular addition.
"""

from grokutils.descent.loop import Task, descend
from grokutils.descent.optimisers import AdamW, GradientDescent
from grokutils.descent.quadratic import QuadraticTask, train

__all__ = ["AdamW", "GradientDescent", "QuadraticTask", "Task", "descend", "train"]
