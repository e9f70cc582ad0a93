"""Gradient descent, not sampling: ensembles of networks trained in one tensor program.

An *optimiser* turns gradients into steps and knows nothing of networks; a *task* knows a loss, its gradients and what to
measure, and nothing of steps; ``descend`` brings them together. ``quadratic`` is the task of modular addition, ``representation`` that
of embeddings with a decoder, ``committee`` that of committee machines.
"""

from grokutils.descent import committee, quadratic, representation
from grokutils.descent.committee import CommitteeTask
from grokutils.descent.loop import AutogradTask, Task, descend, first_reached, recorded_steps
from grokutils.descent.optimisers import Adam, AdamW, GradientDescent, Optimiser
from grokutils.descent.perceptron import Perceptron
from grokutils.descent.quadratic import QuadraticTask, train

__all__ = [
    "Adam", "AdamW", "AutogradTask", "CommitteeTask", "GradientDescent", "Optimiser", "Perceptron", "QuadraticTask", "Task", "committee",
    "descend", "first_reached", "quadratic", "recorded_steps", "representation", "train",
]
