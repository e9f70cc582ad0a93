"""Which posterior, observables, starts and moves belong to which problem: a new system is one entry of ``SYSTEMS``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from grokutils.problems import ModularAddition, TeacherStudent
from grokutils.sampling import modular
from grokutils.sampling._measure import Measure
from grokutils.sampling._measure_modular import ModularMeasure
from grokutils.sampling.modes import ModeRelocation
from grokutils.sampling.modular import ModularAdditionPosterior
from grokutils.sampling.posterior import TeacherStudentPosterior, draw_data, require_whole
from grokutils.sampling.relocation import Relocation


class System(NamedTuple):
    """What ``sample`` must know of a kind of problem.

    Fields:
        require_whole: raises ValueError unless networks of the problem can be built.
        posterior: (problem, range or number of data sets, seed, chains, device, dtype) -> posterior.
        measure: class of the observables.
        elements: problem -> features of one network over its training set, which decide how many networks are one unit of work.
        methods: algorithms that apply.
        starts: name of a start -> name of the posterior's method that draws it.
        moves: posterior -> (what relocates droplets, trials a block).
    """

    require_whole: Callable
    posterior: Callable
    measure: type
    elements: Callable
    methods: tuple[str, ...]
    starts: dict[str, str]
    moves: Callable


def _teacher_student(problem, datasets, seed, chains, device, dtype):
    return TeacherStudentPosterior(problem, *draw_data(problem, datasets, seed), chains, device, dtype)


def _modular_addition(problem, datasets, seed, chains, device, dtype):
    # the table is the data: what the seed draws are the networks alone
    return ModularAdditionPosterior(problem, len(datasets) if isinstance(datasets, range) else datasets, chains, device, dtype)


SYSTEMS = {
    TeacherStudent: System(
        require_whole, _teacher_student, Measure, lambda p: p.samples * p.width, ("underdamped", "relocation", "langevin", "hmc"),
        {"prior": "prior_draw", "teacher": "teacher_draw"}, lambda post: (Relocation(post, max(16, post.problem.width // 8)), 6),
    ),
    ModularAddition: System(
        modular.require_whole, _modular_addition, ModularMeasure, lambda p: max(1, p.modulus**2 * p.width // 8), ("underdamped", "relocation", "hmc"),
        {"prior": "prior_draw", "droplets": "droplets_draw"}, lambda post: (ModeRelocation(post), max(1, post.problem.width // 8)),
    ),
}


def system_of(problem) -> System:
    """The entry of a problem; ValueError where there is none."""
    if type(problem) not in SYSTEMS:
        raise ValueError(f"problem must be one of {', '.join(kind.__name__ for kind in SYSTEMS)}, got {problem!r}")
    return SYSTEMS[type(problem)]


def posterior_of(problem, datasets=1, seed: int = 0, chains: int = 1, device: str = "cpu", dtype: str = "float32"):
    """The posterior of ``chains`` networks on each of the data sets that the seed draws (modular addition has one: the whole table)."""
    return system_of(problem).posterior(problem, datasets, seed, chains, device, dtype)
