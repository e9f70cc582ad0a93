"""The teacher-student ensembles of the paper's Figs. 1 and 2, their slowest mode, and the bias of the step."""

from __future__ import annotations

from dataclasses import dataclass

from grokutils.experiments._run import Run
from grokutils.problems import TeacherStudent
from grokutils.step_bias import plan

NOISE = (0.1, 0.12, 0.135, 0.15, 0.165, 0.18, 0.2, 0.225, 0.25, 0.3)
# beta: (data sets, chains, draws, gradients between draws, warm-up gradients, noise variances)
_ENSEMBLES = {
    1 / 8: (40, 2, 100, 10, 300, NOISE),
    1 / 2: (24, 2, 80, 6, 200, NOISE),
    1.0: (20, 2, 30, 5, 120, NOISE),
    2.0: (10, 2, 20, 6, 100, (0.1, 0.15, 0.18, 0.2, 0.25, 0.3)),
}
_HALF = 0.33  # half the step that tuning gives at beta = 1
_LOW_NOISE = (0.1,)  # where a network remembers its number of droplets longest at beta = 1
HALF_STEP = "underdamped, half step"
STEPS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)


@dataclass(frozen=True, kw_only=True)
class EnsembleRun(Run):
    """An ensemble at the paper's parameters scaled by beta; its method has a name of its own where the step is given."""

    beta: float

    @property
    def method(self) -> str:
        return HALF_STEP if self.settings.get("step_size") == _HALF else super().method

    def __str__(self) -> str:
        method = self.method + (f", step {self.settings['step_size']:g}" if "step_size" in self.settings else "")
        return f"beta={self.beta:<6g} noise_variance={self.noise_variance:<6g} start={self.start:<8} method={method}"


def _run(beta, noise_variance, start="prior", method="underdamped", **settings) -> EnsembleRun:
    problem = TeacherStudent.paper(noise_variance, beta).rounded()
    datasets, chains, draws, thin, warmup, _ = _ENSEMBLES[beta]
    # the same data sets for every start and method: they can be compared set by set
    if method == "hmc":  # a Metropolis test needs shorter steps: more gradients for one independent draw
        thin, warmup = 4 * thin, 300
    if method == HALF_STEP:  # half of what tuning gives at beta = 1: how large is the step bias?
        thin, warmup = 2 * thin, 2 * warmup
    if method == "relocation":  # a draw after every block
        draws, thin = 25, 6
    sizes = dict(datasets=datasets, chains=chains, draws=draws, thin=thin, warmup=warmup)
    own = dict(method="underdamped", step_size=_HALF) if method == HALF_STEP else dict(method=method)
    settings = sizes | own | dict(start=start, seed=int(problem.hash[:7], 16)) | settings
    return EnsembleRun(problem, settings, beta=beta)


def figure2() -> list[EnsembleRun]:
    """Ensembles behind the paper's Figs. 1 and 2: every beta and noise from the prior; at beta = 1 also from the teacher.

    At beta = 1 and low noise also with the relocation of droplets, from both starts; at noise 0.25 also by exact HMC and by
    underdamped Langevin at half the step.
    """
    runs = [_run(beta, noise) for beta, (*_, noises) in _ENSEMBLES.items() for noise in noises]
    runs += [_run(1.0, noise, start="teacher") for noise in (0.1, 0.12, 0.15, 0.2, 0.25)]
    runs += [_run(1.0, noise, method="relocation") for noise in _LOW_NOISE] + [_run(1.0, 0.1, start="teacher", method="relocation")]
    return [*runs, _run(1.0, 0.25, method="hmc"), _run(1.0, 0.25, method=HALF_STEP)]


def scaled(ensembles: dict, function, seed_offset: int = 0) -> list[Run]:
    """Runs of a function at the paper's parameters scaled by beta: {beta: (data sets, chains, draws, thin, warmup, noise variances)}."""
    runs = []
    for beta, (datasets, chains, draws, thin, warmup, noises) in ensembles.items():
        for noise in noises:
            problem = TeacherStudent.paper(noise, beta).rounded()
            sizes = dict(datasets=datasets, chains=chains, draws=draws, thin=thin, warmup=warmup)
            runs.append(Run(problem, sizes | dict(seed=int(problem.hash[:7], 16) + seed_offset), function))
    return runs


def slow_mode() -> list[EnsembleRun]:
    """The slowest observable at the paper's size and the lowest noise, with and without relocation, each for the cost of about 5000 gradients."""
    common = dict(datasets=4, chains=2)
    return [
        _run(1.0, 0.1, **common, draws=470, thin=10, warmup=300),
        _run(1.0, 0.1, method="relocation", **common, draws=325, thin=6, warmup=120),
    ]


def step_bias() -> list[EnsembleRun]:
    """Underdamped Langevin at many steps against exact HMC (first) on the same data sets; the tuned step comes second."""
    problem = TeacherStudent.paper(0.2, 1 / 8).rounded()
    return [EnsembleRun(problem, s, beta=1 / 8) for s in plan(STEPS)]


