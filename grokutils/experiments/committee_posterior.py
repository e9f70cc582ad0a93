"""The posterior of committee machines sampled weight by weight: across the transition of the theory, and against the number of neurons."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils.experiments._run import Run
from grokutils.problems import Committee
from grokutils.sampling.committee import sample_committee
from grokutils.theory import committee as cm
from grokutils.theory import committee_posterior as theory
from grokutils.theory._committee_state import loss_parts

BASE = Committee(dimension=20, samples=400, width=200, laziness=1.0, curvature=0.05, step_size=1.0)
COUPLINGS = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
WIDTHS = (25, 50, 100, 200, 400)  # at kappa = 2
GROKKING = Committee(dimension=20, samples=100, width=50, laziness=1.0, curvature=0.05, step_size=2.0)
LAZINESS = (0.25, 1.0, 4.0, 16.0, 64.0, 256.0)
PATIENCE = 200_000  # steps of one more run at the smallest laziness
SEEDS = 10


def equilibrium(problem: Committee, coupling: float, seeds: int = SEEDS, draws: int = 200, warmup: int = 1200, thin: int = 12) -> xr.Dataset:
    r"""Sampled networks for data sets problem.seed, ...; the noise of each is that at which its own $|\beta|^2$ gives this kappa.

    Returns:
        Dataset over seed: averages over draws of learned, kurtosis and weight_norm, test_loss of the mean output, and of the theory for the
        same data theory_learned, theory_test_loss; noise_variance, target_norm2.
    """
    given = [cm.draw(problem.replace(seed=problem.seed + k)) for k in range(seeds)]
    sizes = np.array([np.trace(g.target) for g in given])
    noise = np.array([theory.noise_for(problem, coupling, s) for s in sizes])
    beta = np.stack([g.beta[0] for g in given])
    inputs, labels = np.stack([g.inputs for g in given]), np.stack([g.labels for g in given])
    ds = sample_committee(problem, noise, inputs, labels, beta, draws, warmup, thin, seed=problem.seed)
    a = problem.laziness * problem.curvature
    ds["learned"] = a * (ds.spike - 1) / xr.DataArray(sizes, dims="seed")
    found = {"noise_variance": ("seed", noise), "target_norm2": ("seed", sizes)}
    found |= {name: ("seed", ds[name].values.mean(1)) for name in ("learned", "kurtosis", "weight_norm")}
    form = a * (ds.moment.values - np.eye(problem.dimension))
    found["test_loss"] = ("seed", [float(loss_parts(problem.laziness * m, f, g.target).test_loss) for m, f, g in zip(ds["mean"].values, form, given)])
    laws = [theory.solve(problem, s, g) for s, g in zip(noise, given)]
    found |= {"theory_learned": ("seed", [law.learned for law in laws]), "theory_test_loss": ("seed", [law.test_loss for law in laws])}
    return xr.Dataset(found, {"seed": problem.seed + np.arange(seeds)}, {"coupling": coupling, "step_size": ds.attrs["step_size"]})


equilibrium.version = 1
equilibrium.seconds = lambda problem, coupling, seeds=SEEDS, draws=200, warmup=1200, thin=12: (
    3e-9 * seeds * (warmup + draws * thin) * (problem.width + problem.samples) * problem.dimension**2)


def against_descent(problem: Committee, seeds: int = SEEDS, steps: int = 20_000, noise: float = 1e-6) -> xr.Dataset:
    r"""Where gradient descent ends, and where the posterior is for little noise, on the same data; both infinitely wide at the start.

    Args:
        steps: of gradient descent; recorded after a tenth of them, too.
        noise: sigma^2 in units of $\alpha^2/N$, the scale of the prior variance of an output.

    Returns:
        Dataset over seed: initial, test loss of the zero function; descent_test and descent_train (seed, part) after steps/10 and steps;
        posterior_test; network_test and tangent_test, of regression with the two kernels at the same noise.
    """
    rows = []
    for k in range(seeds):
        p = problem.replace(seed=problem.seed + k)
        given, sigma2 = cm.draw(p, wide=True), noise * p.laziness**2 / p.width
        run, law = cm.run(p, steps, record=[0, steps // 10, steps], given=given), theory.solve(p, sigma2, given)
        rows.append(dict(
            initial=run.test_loss.values[0], descent_test=run.test_loss.values[1:], descent_train=run.train_loss.values[1:],
            posterior_test=law.test_loss,
            network_test=float(theory.gaussian_process(p, sigma2, given).test_loss),
            tangent_test=float(theory.gaussian_process(p, sigma2, given, "tangent").test_loss),
        ))
    data = {name: (("seed", "part") if np.ndim(rows[0][name]) else "seed", np.array([row[name] for row in rows])) for name in rows[0]}
    return xr.Dataset(data, {"seed": problem.seed + np.arange(seeds)}, {"steps": steps, "noise": noise})


against_descent.version = 1
against_descent.seconds = lambda problem, seeds=SEEDS, steps=20_000, noise=1e-6: 1e-4 * seeds * steps


def committee_posterior(sweep: str | None = None) -> list[Run]:
    """The runs of a sweep: "coupling" (``COUPLINGS`` at 200 neurons), "width" (``WIDTHS`` at kappa = 2), "laziness" (``against_descent``).

    "patience" is one of the last with ten times as many steps. None: all of them, each once.
    """
    if sweep is None:
        return list(dict.fromkeys(run for name in ("coupling", "width", "laziness", "patience") for run in committee_posterior(name)))
    if sweep == "coupling":
        return [Run(BASE, dict(coupling=k), equilibrium) for k in COUPLINGS]
    if sweep == "width":
        return [Run(BASE.replace(width=n), dict(coupling=2.0), equilibrium) for n in WIDTHS]
    if sweep == "laziness":
        return [Run(GROKKING.replace(laziness=a), {}, against_descent) for a in LAZINESS]
    if sweep == "patience":
        return [Run(GROKKING.replace(laziness=LAZINESS[0]), dict(steps=PATIENCE), against_descent)]
    raise ValueError(f'sweep must be "coupling", "width", "laziness" or "patience", got {sweep!r}')


def agreement(runs: list[Run] | None = None) -> dict[str, float]:
    """What the stored networks say about the theory for the same data: numbers for a verdict; empty if nothing is stored.

    Returns:
        largest_difference: of the share learned, sampled minus theory, averaged over seeds, over all runs; its error, from the scatter over
        seeds; kurtosis, the mean over all runs and seeds of the deviation from $-6/(N+1)$, and kurtosis_error; points, the number of runs.
    """
    loaded = [(run, run.load()) for run in (committee_posterior("coupling") + committee_posterior("width") if runs is None else runs)]
    loaded = [(run, ds) for run, ds in loaded if ds is not None]
    if not loaded:
        return {}
    rows, shapes = [], []
    for run, ds in dict(loaded).items():
        difference = (ds.learned - ds.theory_learned).values
        rows.append((difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5))
        shapes.append(ds.kurtosis.values + 6 / (run.problem.width + 1))
    worst, shapes = max(rows, key=lambda r: abs(r[0])), np.concatenate(shapes)
    kurtosis = dict(kurtosis=shapes.mean(), kurtosis_error=shapes.std(ddof=1) / len(shapes) ** 0.5)
    return dict(largest_difference=worst[0], error=worst[1], points=len(rows)) | kurtosis
