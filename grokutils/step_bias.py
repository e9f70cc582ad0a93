"""How far a finite step takes underdamped Langevin from the posterior: measured against exact HMC on the same data sets."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr

from grokutils.problems import positive
from grokutils.sweep import sweep

OBSERVABLES = (("learned", 1), ("learned", 3), ("second_moment", None), ("tail_fraction", None), ("train_loss", None))


def plan(steps: Iterable[float], *, datasets: int = 40, chains: int = 2, draws: int = 100, interval: float = 3.0, seed: int = 0) -> list[dict]:
    """Settings of ``sample`` that measure the bias: exact HMC first, then the tuned step, then every fixed step.

    Args:
        steps: steps h of underdamped Langevin, whitened coordinates; the tuned run, 1.2/sqrt(lambda_max), says what lambda_max is.
        datasets, chains, draws, seed: as in ``sample``; the data sets are common to all runs.
        interval: time (steps times h) between draws, the same in all runs so that their errors are alike; warm-up takes ten of these.
            The reference, whose error is in every bias, takes four times as many draws.

    Raises:
        ValueError: a step or the interval is not a positive number.
    """
    positive("interval", interval)
    common = dict(datasets=datasets, chains=chains, draws=draws, seed=seed)

    def run(h, **own):
        thin = max(1, round(interval / h))
        return common | dict(thin=thin, warmup=max(200, 10 * thin)) | own

    # HMC and the tuned run choose their own step, of about these sizes where lambda_max is 4 to 15
    return [run(0.2, method="hmc", draws=4 * draws), run(0.5), *(run(positive("steps", h), step_size=float(h)) for h in steps)]


def measure(problem, steps: Iterable[float], store=None, executor=None, progress: bool = True, **settings) -> xr.Dataset:
    """Run ``plan(steps, **settings)`` through ``sweep`` and ``compare`` what comes out."""
    exact, *others = sweep([(problem, s) for s in plan(steps, **settings)], store, executor, progress)
    return compare(exact, others)


def compare(exact: xr.Dataset, others: list[xr.Dataset], observables=OBSERVABLES) -> xr.Dataset:
    r"""Bias $\langle A\rangle_h-\langle A\rangle_{\rm HMC}$ of posterior means, data set by data set, then averaged.

    Args:
        exact: an ensemble by HMC.
        others: ensembles of the same problem and data sets; the first at the tuned step.

    Returns:
        Dataset over (run, observable): bias, se (its standard error over data sets, with the Monte-Carlo error of both ensembles and what
        of the bias depends on the data), difference (also over dataset: the biases of which these are mean and error); over observable: exact
        (its mean), spread (standard deviation of one network's draws about their mean, the natural unit of a bias); over run: step h,
        reduced_step $h\sqrt{\lambda_{\max}}$.

    Raises:
        ValueError: the ensembles are of different problems or data sets.
    """
    for ds in others:
        for name in ("problem_hash", "seed", "datasets"):
            if ds.attrs[name] != exact.attrs[name]:
                raise ValueError(f"others must have the {name} of exact, {exact.attrs[name]!r}, got {ds.attrs[name]!r}")
    labels = [name if degree is None else f"{name}[{degree}]" for name, degree in observables]
    reference = np.array([exact.grok.by_network(*o).mean(axis=1) for o in observables])
    difference = np.array([[ds.grok.by_network(*o).mean(axis=1) for o in observables] for ds in others]) - reference
    within = [exact[name] if degree is None else exact[name].sel(degree=degree) for name, degree in observables]
    steps = np.array([ds.attrs["step_size"] for ds in others])
    out = xr.Dataset(
        {
            "difference": (("run", "observable", "dataset"), difference), "exact": ("observable", reference.mean(-1)),
            "spread": ("observable", [float(np.sqrt(w.var("draw").mean())) for w in within]),
            "step": ("run", steps), "reduced_step": ("run", 1.2 * steps / steps[0]),
        },
        coords={"observable": labels, "run": ["tuned", *(f"h = {h:g}" for h in steps[1:])]},
        attrs={"problem": exact.attrs["problem"], "acceptance": exact.attrs["acceptance"]},
    )
    return out.assign(bias=out.difference.mean("dataset"), se=_standard_error(out.difference))


def expansion(biases: xr.Dataset, orders=(2, 4)) -> xr.Dataset:
    r"""Coefficients $c_k$ of $\text{bias}=\sum_kc_k(h\sqrt{\lambda_{\max}})^k$, and their standard errors, over (order, observable).

    Least squares data set by data set, so that the reference's error, common to all steps, is counted right.
    """
    design = np.linalg.pinv(biases.reduced_step.values[:, None] ** np.array(orders))
    matrix = xr.DataArray(design, dims=("order", "run"), coords={"order": list(orders)})
    each = xr.dot(matrix, biases.difference.drop_vars("run", errors="ignore"), dim="run")
    return xr.Dataset({"coefficient": each.mean("dataset"), "se": _standard_error(each)})


def _standard_error(values):
    return values.std("dataset", ddof=1) / np.sqrt(values.sizes["dataset"])
