"""Sampled networks that learn modular addition: the map through the phases, widths at fixed mean-field parameters, and the freezing of droplets."""

from __future__ import annotations

from dataclasses import dataclass

from grokutils.experiments._run import Run
from grokutils.problems import ModularAddition

MODULUS, DECAY = 23, 12.0  # U_c = 4, a droplet at the transition has power 1/2; the barrier there is 3.4
FIRST_TRIAL = dict(modulus=37, width=100, noise_variance=0.01, sextic_decay=33.3)
STEP = 0.1  # of underdamped Langevin; h sqrt(largest eigenvalue) is below 1.2 in all runs
_SIZES = dict(datasets=4, draws=30, thin=15, warmup=600)


def at(interaction: float, strength: float, width: int = 100, modulus: int = MODULUS, decay: float = DECAY) -> ModularAddition:
    r"""The problem at given u, $N\sigma^2$ and N: width alone then changes nothing in the mean-field theory."""
    noise = strength / width
    return ModularAddition(modulus, width, noise, interaction * width * noise**2 / (2 * modulus**2), decay)


@dataclass(frozen=True, kw_only=True)
class ModularRun(Run):
    """A run at given u; ``series`` says what it belongs to."""

    series: str
    interaction: float

    def __str__(self) -> str:
        p = self.problem
        sizes = f"P={p.modulus} N={p.width:<5} u={self.interaction:<5g} N*noise={p.width * p.noise_variance:<5g}"
        return f"{self.series:<8} {sizes} {self.method} from {self.start}"


def _run(series, interaction, problem, start="prior", method="underdamped", **settings) -> ModularRun:
    own = dict(method=method, start=start, seed=int(problem.hash[:7], 16))
    own |= dict(step_size=STEP) if method != "hmc" else dict(dtype="float64")
    return ModularRun(problem, _SIZES | own | settings, series=series, interaction=interaction)


def modular_addition() -> list[ModularRun]:
    r"""Series "mixed" ($N\sigma^2=1$: droplets and bulk coexist from the onset on, four widths), "full" ($N\sigma^2=0.02$: through to the phase
    in which every mode is a droplet, with relocation), "trial" (P = 37) and one check by exact HMC."""
    mixed, full = (lambda u, width=100: at(u, 1.0, width)), (lambda u, width=100: at(u, 0.02, width))
    both = ("prior", "droplets")
    runs = [_run("mixed", 8.0, mixed(8.0, width), start) for width in (100, 400) for start in both]
    runs += [_run("mixed", 8.0, mixed(8.0, 1000))]
    runs += [_run("full", u, full(u), start, "relocation") for u in (4.0, 6.0, 3.0, 5.0, 3.5, 8.0) for start in both]
    runs += [_run("full", u, full(u, 400), method="relocation") for u in (4.0, 5.0)]
    # from the droplets start this step diverges at u = 16, before the surplus droplets have gone
    runs += [_run("mixed", u, mixed(u), start) for u in (2.0, 4.0, 5.0, 6.0) for start in both] + [_run("mixed", u, mixed(u)) for u in (12.0, 16.0)]
    runs += [_run("check", 8.0, mixed(8.0), method="hmc", thin=45, warmup=900)]
    trial = ModularAddition(readout_variance=1.0, **FIRST_TRIAL)
    runs += [_run("trial", u, trial.replace(readout_variance=u / trial.interaction)) for u in (6.0, 12.0, 25.0)]
    runs += [_run("mixed", u, mixed(u, 400)) for u in (16.0, 4.0, 12.0)]
    runs += [_run("mixed", 8.0, mixed(8.0, 4000), datasets=2, draws=10, warmup=450)]
    # wide and strongly coupled: every mode in its well, GMFL-II, from either start
    return [*runs, *(_run("full", 10.0, full(10.0, 1000), start, "relocation", datasets=1, draws=10, thin=30, warmup=1500) for start in both)]


def modular_freezing() -> list[ModularRun]:
    r"""A higher barrier ($\gamma=1$, 11.8 at the transition): both starts, with and without the relocation of modes."""
    problems = {u: at(u, 0.1, 100, decay=1.0) for u in (1.4,)}
    return [
        _run("freezing", u, problem, start, method) for u, problem in problems.items() for method in ("underdamped", "relocation")
        for start in ("prior", "droplets")
    ]
