"""Diagnostics against chains whose autocorrelation is known."""

import numpy as np
import pytest
import xarray as xr

from grokutils.summary import describe


def ar1(rho, shape, seed=0):
    rng = np.random.default_rng(seed)
    x = np.empty(shape)
    x[..., 0] = rng.standard_normal(shape[:-1])
    for t in range(1, shape[-1]):
        x[..., t] = rho * x[..., t - 1] + np.sqrt(1 - rho**2) * rng.standard_normal(shape[:-1])
    return x


def test_ess_of_a_first_order_chain():
    rho, shape = 0.8, (4, 4, 4000)
    row = describe(ar1(rho, shape))
    assert row["ess"] == pytest.approx(np.prod(shape) * (1 - rho) / (1 + rho), rel=0.15)
    assert row["mcse"] == pytest.approx(1 / np.sqrt(row["ess"]), rel=0.1)
    assert row["rhat"] < 1.02


def test_disorder_is_told_from_monte_carlo_noise():
    shift = np.random.default_rng(1).standard_normal(200)[:, None, None]
    row = describe(ar1(0.5, (200, 2, 200)) * 0.3 + 2 * shift)
    assert row["disorder"] == pytest.approx(2, rel=0.2)
    assert row["mcse"] < 0.1 * row["se"]
    assert describe(ar1(0.5, (200, 2, 200)))["disorder"] < 0.05


def test_rhat_sees_chains_of_one_data_set_that_disagree():
    x = ar1(0.0, (3, 2, 200))
    x[1, 1] += 3
    row = describe(x)
    assert row["rhat_max"] > 1.5 and 1.2 < row["rhat"] < row["rhat_max"]
    assert describe(ar1(0.0, (3, 2, 200)))["rhat"] == pytest.approx(1, abs=0.02)


def test_constant_observable_and_a_table_row_per_degree():
    assert describe(np.ones((2, 2, 9))) == dict(mean=1.0, mcse=0.0, ess=36.0, rhat=1.0, rhat_max=1.0, disorder=0.0, se=0.0)
    ds = xr.Dataset({"learned": (("dataset", "chain", "draw", "degree"), np.random.default_rng(0).random((2, 2, 50, 2)))}, {"degree": [1, 3]})
    assert list(ds.grok.summary().index) == ["learned[1]", "learned[3]"]
