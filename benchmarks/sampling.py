r"""Effective samples a second: the package's methods against the paper's Langevin dynamics, from equilibrium starts.

The integrated autocorrelation time of an observable A is $\tau=1+2\sum_{t>0}\rho(t)$, the gradients for one independent value of A
in a data set's posterior, and at least the interval between draws: no draw counts as more than one. The sum ends at a multiple of $\tau$
(Sokal's window), for Langevin dynamics at five decay times of an exponential, for the others at six. Deviations of Langevin dynamics are
from the data set's mean in the underdamped run. Where a run of Langevin dynamics is too short for all that it gives a lower bound:
the overdamped dynamics is reversible, so that $\rho(t)=\int e^{-\lambda t}d\mu(\lambda)$ is log-convex, and an exponential with the
slope at the end of what was measured continues it from below.
"""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from benchmarks.timing import cores, interleaved, one_thread
from grokutils import experiments, observables
from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data
from grokutils.sampling._drivers import DRIVERS, PAPER_RATE
from grokutils.sampling.posterior import seed_of
from grokutils.summary import describe

OBSERVABLES = ("learned[1]", "learned[3]", "second_moment", "droplets")
LARGEST_ERROR = 0.35  # of ln tau, beyond which a run of Langevin dynamics counts as too short
PAPER = f"langevin {PAPER_RATE:g}"
NOISE_VARIANCE = 0.2
GOALS = {1 / 8: dict.fromkeys(OBSERVABLES, 100), 1.0: {"learned[3]": 1000}}
# beta: data sets, chains, and for each run (gradients between measurements, most measurements, most seconds); the first run gives the starts
PLANS = {
    1 / 8: (20, 2, {
        "underdamped": (2, 5000, 35), "relocation": (6, 1500, 25), "hmc": (1, 3000, 20),
        "langevin 0.1": (10, 1000, 20), "langevin 0.02": (25, 2000, 35), PAPER: (50, 1500, 120),
    }),
    1.0: (6, 1, {"underdamped": (2, 1500, 70), "langevin 0.06": (10, 200, 60), PAPER: (10, 100, 25)}),
}
QUICK = (2, 1, {"underdamped": (2, 60, 10), "relocation": (2, 30, 10), "hmc": (1, 30, 10), "langevin 0.02": (5, 60, 10), PAPER: (5, 60, 10)})
WARMUP = {"underdamped": 300, "relocation": 90, "hmc": 240, "langevin": 0}


class _Bar:
    n, total = 0, 2**60

    def update(self, n=1):
        pass


def observe(post, theta) -> np.ndarray:
    """The observables of every network (networks, 4)."""
    weights, readouts = (t.double().numpy() for t in post.weights(theta))
    overlap, norm2 = weights[..., 0], np.einsum("bij,bij->bi", weights, weights)
    learned = [observables.learned(post.problem, k, readouts, overlap, norm2) for k in (1, 3)]
    return np.stack([*learned, np.mean(overlap**2, axis=-1), np.sum(np.abs(overlap) > 0.5, axis=-1)], axis=-1)


def make_driver(name, post, theta, seed):
    """A driver by the name of a run: a method, or "langevin" and its rate."""
    method, _, rate = name.partition(" ")
    seeds = [seed_of(seed, i) for i in range(post.networks)]
    return DRIVERS[method](post, theta.clone(), seeds, float(rate) if rate else None, 0.5, 1.0)


def chain(driver, thin, draws, seconds):
    """Observables (networks, draws, 4) until either is used up, and gradients between draws (relocation: those outside its blocks)."""
    out, before, end = [], driver.gradients, time.perf_counter() + seconds
    while len(out) < draws and (len(out) < 4 or time.perf_counter() < end):
        driver.advance(thin, _Bar())
        out.append(observe(driver.posterior, driver.theta))
        if not np.isfinite(out[-1]).all():
            raise RuntimeError("the chain has diverged")
    return np.stack(out, axis=1), (driver.gradients - before) / len(out) if type(driver) is DRIVERS["hmc"] else thin


def ensemble(problem, plan, warmup=WARMUP, jobs=None, report=print) -> dict:
    """{run: (series (networks, draws, 4), gradients between draws)}, a thread a core, each with its data sets; the networks data set by data set."""
    datasets, chains, runs = plan
    jobs = min(jobs or cores(), datasets)

    def work(numbers):
        post, out, theta = TeacherStudentPosterior(problem, *draw_data(problem, numbers), chains), {}, None
        with torch.no_grad():
            for i, (name, (thin, draws, seconds)) in enumerate(runs.items()):
                start = post.prior_draw([seed_of(1, j, c) for j in numbers for c in range(chains)]) if theta is None else theta
                driver = make_driver(name, post, start, seed_of(2, i, numbers.start))
                driver.warm_up(warmup[name.split()[0]], _Bar())
                out[name] = chain(driver, thin, draws, seconds)
                if theta is None:
                    theta = driver.theta.clone()
                if numbers.start == 0:
                    report(f"  {name}: {out[name][0].shape[1]} draws of {len(theta)} networks on each core, {out[name][1]:g} gradients between draws")
        return out

    cuts = np.linspace(0, datasets, jobs + 1).astype(int)
    with ThreadPoolExecutor(jobs, "bench", torch.set_num_threads, (1,)) as pool:
        parts = list(pool.map(work, [range(int(a), int(b)) for a, b in itertools.pairwise(cuts)]))
    out = {}
    for name in runs:
        draws = min(part[name][0].shape[1] for part in parts)
        out[name] = np.concatenate([part[name][0][:, :draws] for part in parts]), float(np.mean([part[name][1] for part in parts]))
    return out


def costs(problem, plan, quick=False) -> dict:
    """Processor seconds of a gradient of one network, its share of noise, proposals and blocks included, in the units of ``sample``."""
    chains, drivers = plan[1], {}
    datasets = max(1, 150_000 // (problem.samples * problem.width) // chains)
    post = TeacherStudentPosterior(problem, *draw_data(problem, datasets), chains)
    with torch.no_grad():
        theta = post.prior_draw(range(post.networks))
        for name in plan[2]:
            drivers[name] = make_driver(name, post, theta, 3)
            drivers[name].tune(12)
        counts, functions = {}, {}
        for name, driver in drivers.items():
            before = driver.gradients
            driver.advance(6, _Bar())  # relocation: one block
            counts[name] = driver.gradients - before if name == "hmc" else 6
            functions[name] = lambda driver=driver: driver.advance(6, _Bar())
        times = interleaved(functions, *((2, 1e-3) if quick else (7, 0.1)))
    return {name: times[name] / counts[name] / post.networks for name in times}


def covariances(series, mean) -> np.ndarray:
    """Products of the deviations from ``mean`` (networks, 1) at each lag, averaged over the chain (networks, draws)."""
    centred = series - mean
    draws = series.shape[1]
    power = np.abs(np.fft.rfft(centred, n=2 * draws, axis=1)) ** 2
    return np.fft.irfft(power, axis=1)[:, :draws] / (draws - np.arange(draws))


def integrated(rho, factor=3.0, longest=1 / 3) -> float:
    r"""Autocorrelation time in draws, at least one: the sum over the first window of ``factor`` times $1+2\sum|\rho|$.

    Absolute values, because underdamped dynamics oscillates: a window must not end in the first negative swing. nan if the window
    is longer than the share ``longest`` of the lags.
    """
    window = np.flatnonzero(np.arange(1, len(rho)) >= factor * (2 * np.cumsum(np.abs(rho)) - 1)[1:]) + 1
    return max(float(2 * rho[: window[0] + 1].sum() - 1), 1.0) if len(window) and window[0] <= longest * len(rho) else np.nan


def bound(gamma, variance) -> float:
    """A lower bound of the autocorrelation time in draws of a reversible chain, from its variogram at lags 0, 1, ... ."""
    rho = 1 - gamma / variance
    last = len(rho) - 1
    low = last // 2
    if (rho[low:] <= 0.02).any():
        return np.nan  # all decayed within the lags: noise decides
    rate = -np.polyfit(np.arange(low, last + 1), np.log(rho[low:]), 1)[0]
    return 2 * (np.trapezoid(rho) + rho[last] / rate) if rate > 0 else np.nan


def variogram(series, lags) -> np.ndarray:
    """Half the mean square increments (networks, lags) at the lags 0, ..., lags - 1."""
    return np.stack([np.zeros(len(series)), *(0.5 * np.mean((series[:, t:] - series[:, :-t]) ** 2, axis=1) for t in range(1, lags))], axis=1)


def jackknife(estimate, groups) -> tuple[float, float]:
    """(ln estimate of all, its standard error) where estimate(chosen networks) may leave out one of the groups (networks,)."""
    everything = np.log(estimate(np.full(len(groups), True)))
    names = np.unique(groups)
    if len(names) < 2:
        return float(everything), np.nan
    without = np.array([np.log(estimate(groups != g)) for g in names])
    return float(everything), float(np.sqrt((len(names) - 1) * np.mean((without - without.mean()) ** 2)))


def reference(series, chains):
    """Mean of each network's data set (networks, 1)."""
    by_set = series.mean(axis=1).reshape(-1, chains).mean(axis=1)
    return np.repeat(by_set, chains)[:, None]


def times_of(series, interval, groups, mean, variance=None) -> dict:
    """Autocorrelation time in gradients with the standard error of its logarithm.

    Args:
        series: (networks, draws); ``interval`` gradients between draws.
        groups: (networks,) the data set of each, for the jackknife.
        mean: (networks, 1) that of its data set.
        variance: (networks,) of another run. Given, the mean is independent of this series too: long windows are allowed, and a bound.
    """
    products, kind = covariances(series, mean), "measured"

    def direct(chosen):
        c = products[chosen].mean(axis=0)
        return integrated(c / c[0], *((3.0, 1 / 3) if variance is None else (2.5, 0.9)))

    with np.errstate(invalid="ignore"):
        ln, error = jackknife(direct, groups)
        if variance is not None and (np.isnan(error) or error > LARGEST_ERROR):
            gamma, kind = variogram(series, max(4, series.shape[1] // 3)), "bound"
            ln, error = jackknife(lambda chosen: bound(gamma[chosen].mean(axis=0), variance[chosen].mean()), groups)
    if np.isnan(ln):
        return dict(kind="none")
    return dict(kind=kind, tau=interval * float(np.exp(ln)), ln_error=None if np.isnan(error) else error, total=interval * series.shape[1])


def paper_time(runs: dict) -> dict:
    """Autocorrelation time of the paper's protocol and the run it is from.

    Measured at its own rate; else measured at the slowest faster rate and multiplied by the ratio of rates ("extrapolated"); else a bound, from
    the run that went furthest, in steps times rate.
    """
    langevin = {name: run for name, run in runs.items() if name.startswith("langevin") and run["kind"] != "none"}
    found = [run | {"from": name, "rate": float(name.split()[1])} for name, run in langevin.items()]
    if measured := [run for run in found if run["kind"] == "measured"]:
        best = min(measured, key=lambda run: run["rate"])
    elif found:
        best = max(found, key=lambda run: run["rate"] * run["total"])
    else:
        return dict(kind="none")
    factor = best["rate"] / PAPER_RATE
    kind = best["kind"] if best["from"] == PAPER else {"measured": "extrapolated", "bound": "extrapolated bound"}[best["kind"]]
    return best | dict(kind=kind, tau=best["tau"] * factor)


def analyse(series: dict, plan, cost: dict, goals: dict) -> dict:
    """For every observable: the runs' times, and effective samples a second of each method over the paper's protocol."""
    datasets, chains, _ = plan
    groups, out = np.repeat(np.arange(datasets), chains), {}
    for i, observable in enumerate(OBSERVABLES):
        base, step = series["underdamped"][0][..., i], series["underdamped"][1]
        mean = reference(base, chains)
        own = times_of(base, step, groups, mean)
        # what the error of a data set's mean takes from the variance about it
        lost = min(0.5, own["tau"] / own["total"] / chains) if own["kind"] == "measured" else 0.0
        variance = ((base - mean) ** 2).mean(axis=1) / (1 - lost)
        others = {name: (x[..., i], step) for name, (x, step) in series.items() if name != "underdamped"}
        runs = {"underdamped": own} | {
            name: times_of(x, step, groups, *((mean, variance) if name.startswith("langevin") else (reference(x, chains),)))
            for name, (x, step) in others.items()
        }
        paper, ratios = paper_time(runs), {}
        for name, run in runs.items():
            if not name.startswith("langevin") and run["kind"] == "measured" and paper["kind"] != "none":
                ratios[name] = over(paper, run, cost[PAPER] / cost[name])
        out[observable] = dict(runs=runs, paper=paper, ratios=ratios, goal=goals.get(observable))
    return out


def over(slow: dict, fast: dict, cost_ratio: float) -> dict:
    """Effective samples a second of the fast run over those of the slow one, whose gradient costs ``cost_ratio`` times as much."""
    errors = slow["ln_error"], fast["ln_error"]
    return dict(ratio=slow["tau"] * cost_ratio / fast["tau"], ln_error=None if None in errors else float(np.hypot(*errors)))


def stored_droplets(cost_ratio=None, runs=None) -> dict:
    """The number of droplets at beta = 1 and the lowest noise, from the stored long chains with and without relocation."""
    runs = experiments.slow_mode() if runs is None else runs
    loaded = {run.method: run.load() for run in runs}
    if any(ds is None for ds in loaded.values()):
        return dict(stored=False)
    out, means = {}, None
    for name in ("relocation", "underdamped"):  # the first gives the means of the data sets
        ds = loaded[name]
        counts = runs[0].problem.width * ds.tail_fraction.transpose("dataset", "chain", "draw").values.astype(float)
        series = counts.reshape(-1, counts.shape[-1])
        means = reference(series, counts.shape[1]) if means is None else means
        out[name] = times_of(series, ds.attrs["thin"], np.repeat(np.arange(len(counts)), counts.shape[1]), means)
        if out[name]["kind"] != "measured":
            out[name] = by_effective_size(counts, ds.attrs["thin"])
    result = dict(stored=True, runs=out, noise_variance=runs[0].noise_variance, cost_ratio=cost_ratio, goal=5)
    if all(run["kind"] == "measured" for run in out.values()) and cost_ratio:
        result |= over(out["underdamped"], out["relocation"], 1 / cost_ratio)
    return result


def by_effective_size(counts, step) -> dict:
    """Where single chains are too short: from the effective sample size of all, which counts the scatter between the chains of a data set."""
    def log_tau(sets):
        return np.log(step * sets.size / describe(sets)["ess"])

    every = np.arange(len(counts))
    left_out = np.array([log_tau(counts[every != j]) for j in every])
    error = np.sqrt((len(counts) - 1) * left_out.var())
    return dict(kind="measured", by="effective size", tau=float(np.exp(log_tau(counts))), ln_error=float(error), total=step * counts.shape[-1])


def measure(quick: bool = False, report=print) -> dict:
    """The section "sampling" of the record."""
    cases = []
    for beta, plan in ({1 / 64: QUICK} if quick else PLANS).items():
        problem = TeacherStudent.paper(NOISE_VARIANCE, beta).rounded()
        report(f"beta {beta:g}, at most {sum(s for *_, s in plan[2].values())} s and warm-up")
        with one_thread():
            cost = costs(problem, plan, quick)
        series = ensemble(problem, plan, dict.fromkeys(WARMUP, 30) if quick else WARMUP, report=report)
        result = analyse(series, plan, cost, GOALS.get(beta, {}))
        for observable, row in result.items():
            ratios = ", ".join(f"{name} {r['ratio']:.3g}" for name, r in row["ratios"].items())
            report(f"  {observable}: {ratios} times the paper's ({row['paper']['kind']})")
        cases.append(dict(
            beta=beta, samples=problem.samples, dimension=problem.dimension, width=problem.width, noise_variance=NOISE_VARIANCE,
            datasets=plan[0], chains=plan[1], cost=cost, observables=result))
    problem = TeacherStudent.paper(0.1, 1 / 64 if quick else 1.0).rounded()
    with one_thread():
        cost = costs(problem, (1, 1, {"underdamped": None, "relocation": None}), quick)
    return dict(cases=cases, droplets=stored_droplets(cost["relocation"] / cost["underdamped"]))
