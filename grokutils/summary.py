"""Monte-Carlo diagnostics of an ensemble: ``dataset.grok.summary()``."""

from __future__ import annotations

import arviz as az
import numpy as np
import pandas as pd
import xarray as xr


def _scalars(ds: xr.Dataset):
    for name, variable in ds.data_vars.items():
        if {"dataset", "chain", "draw"} <= set(variable.dims) and "neuron" not in variable.dims:
            if "degree" in variable.dims:
                yield from ((f"{name}[{int(k)}]", variable.sel(degree=k)) for k in ds.degree.values)
            else:
                yield name, variable


def _pooled_rhat(draws) -> float:
    """Split R-hat with the variances within and between half-chains of one data set averaged over data sets."""
    half = draws.shape[2] // 2
    if half < 2:
        return np.nan
    halves = np.concatenate([draws[..., :half], draws[..., half : 2 * half]], axis=1)
    within = halves.var(axis=2, ddof=1).mean()
    between = halves.mean(axis=2).var(axis=1, ddof=1).mean()
    return float(np.sqrt((half - 1) / half + between / within))


def describe(draws) -> dict:
    """Diagnostics of one scalar, draws (dataset, chain, draw): see ``Grok.summary``."""
    draws = np.asarray(draws, dtype=float)
    means = draws.mean(axis=(1, 2))
    sets = len(draws)
    if np.ptp(draws) == 0:  # a constant has no autocorrelation
        return dict(mean=means.mean(), mcse=0.0, ess=float(draws.size), rhat=1.0, rhat_max=1.0, disorder=0.0, se=0.0)
    ess = np.array([az.ess(d, method="mean") if np.ptp(d) else d.size for d in draws])
    mcse2 = draws.var(axis=(1, 2), ddof=1) / ess
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that are constant but differ have infinite R-hat, and should
        rhats = [float(az.rhat(d)) if np.ptp(d) else 1.0 for d in draws] if draws.shape[1] > 1 else [np.nan]
        rhat = _pooled_rhat(draws)
    rhat_max = np.nan if np.isnan(rhats).all() else np.nanmax(rhats)
    # scatter of the data-set means = disorder + Monte-Carlo noise
    scatter = means.var(ddof=1) if sets > 1 else np.nan
    disorder = np.sqrt(max(scatter - mcse2.mean(), 0.0)) if sets > 1 else np.nan
    mcse = np.sqrt(mcse2.sum()) / sets
    se = np.sqrt(scatter / sets) if sets > 1 else mcse
    return dict(mean=means.mean(), mcse=mcse, ess=ess.sum(), rhat=rhat, rhat_max=rhat_max, disorder=disorder, se=se)


@xr.register_dataset_accessor("grok")
class Grok:
    """Diagnostics of an ensemble returned by ``sample`` or read from the store."""

    def __init__(self, ds: xr.Dataset):
        self._ds = ds

    def summary(self) -> pd.DataFrame:
        r"""One row a scalar observable (and degree).

        Columns: mean; mcse, Monte-Carlo standard error of the mean at these data sets; ess, effective sample size summed over
        data sets; rhat, split R-hat over the chains of one data set, its variances averaged over data sets; rhat_max, the largest
        rank-normalised split R-hat of any one data set (noisy for short chains, infinite where two chains are stuck); disorder,
        standard deviation between data sets with the Monte-Carlo part taken off; se, standard error of the mean over data sets,
        disorder and Monte Carlo together.
        """
        return pd.DataFrame({name: describe(variable.transpose("dataset", "chain", "draw")) for name, variable in _scalars(self._ds)}).T

    def by_network(self, name: str, degree: int | None = None) -> np.ndarray:
        """Mean over draws of one observable, (dataset, chain)."""
        variable = self._ds[name] if degree is None else self._ds[name].sel(degree=degree)
        return variable.mean("draw").transpose("dataset", "chain").values
