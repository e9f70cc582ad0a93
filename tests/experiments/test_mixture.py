"""One population or two: the fit, the barrier, the gain, the exact law of the kurtosis, and what is stored."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

from grokutils.experiments import EXPERIMENTS, mixture
from grokutils.experiments.mixture import (
    EDGES,
    VARIANTS,
    barrier,
    concentration,
    fit,
    kurtosis_of,
    kurtosis_of_gaussians,
    modular,
    neurons,
    populations,
    verdict,
)
from grokutils.modular import AdditionTask
from grokutils.problems import Committee


def histogram(samples):
    """(seeds, N) as histograms."""
    counts = np.array([np.histogram(np.clip(row, -12, 12), EDGES)[0] for row in samples])
    return xr.DataArray(counts, dims=("seed", "bin"), coords=dict(bin=(EDGES[1:] + EDGES[:-1]) / 2))


def stored(name):
    ds = mixture(name)[0].load()
    if ds is None:
        pytest.skip(f"{name} is not stored: make results")
    return ds


def test_runs_are_distinct():
    assert EXPERIMENTS["mixture"] is mixture and len({run.key for run in mixture()}) == len(mixture()) == len(VARIANTS) + 1
    with pytest.raises(ValueError, match="variant must be one of"):
        mixture("linear")


def test_fit_finds_a_mixture_and_its_barrier():
    rng = np.random.default_rng(0)
    q = np.where(rng.random((10, 2000)) < 0.1, rng.normal(4, 0.5, (10, 2000)), rng.normal(0, 1, (10, 2000)))
    h = histogram(q)
    share, mean, sd = fit(h.bin, h.sum("seed"))
    assert share[mean > 3].sum() == pytest.approx(0.1, abs=0.01)
    assert sd[mean.argmax()] == pytest.approx(0.5, abs=0.08)
    found = populations(h)
    x = np.linspace(0, 4, 2001)
    p = 0.9 * np.exp(-(x**2) / 2) + 0.1 / 0.5 * np.exp(-((x - 4) ** 2) / 0.5)
    exact = math.log(p[x > 3.5].max() / p.min())
    assert found["barrier"] == pytest.approx(exact, abs=0.15) and found["barrier"] > 5 * found["barrier_error"]
    assert found["gain"] > 10 * found["gain_error"]


def test_a_heavy_tail_gains_but_has_no_barrier_and_a_gaussian_neither():
    rng = np.random.default_rng(1)
    gauss = rng.standard_normal((10, 2000))
    tail = gauss * np.exp(0.5 * rng.standard_normal((10, 2000)))
    for q, gains in ((gauss, False), (tail / tail.std(), True)):
        found = populations(histogram(q))
        assert bool(found["gain"] > 3 * found["gain_error"]) is gains
        assert found["barrier"] < 0.05
    k, error = kurtosis_of(histogram(tail / tail.std()))
    assert k > 5 * error
    assert barrier((np.array([0.995, 0.005]), np.array([0.0, 8.0]), np.array([1.0, 0.3]))) == 0  # half a per cent is not counted


def test_exact_law_of_the_kurtosis():
    """Against 20 000 samples; four standard errors."""
    rng = np.random.default_rng(2)
    q = rng.standard_normal((20_000, 30))
    z = q - q.mean(1, keepdims=True)
    k = (z**4).mean(1) / (z**2).mean(1) ** 2 - 3
    mean, sd = kurtosis_of_gaussians(30)
    assert abs(k.mean() - mean) < 4 * sd / math.sqrt(len(k))
    assert k.std() == pytest.approx(sd, rel=0.05)


def test_concentration_of_a_wave_and_of_a_spike():
    n = torch.arange(13.0)
    wave, spike = torch.cos(2 * math.pi * 3 * n / 13), (n == 0).float()
    found = concentration(torch.stack([wave, spike], dim=1)[None])
    torch.testing.assert_close(found, torch.tensor([[1.0, 1 / 6]]))


def test_small_ensembles_have_what_the_docstrings_say():
    p = Committee(dimension=6, samples=20, width=30, laziness=1.0, curvature=0.3, step_size=0.5)
    ds = neurons(p, looks=(0, 20), seeds=2, readouts=0.1, records=5)
    assert ds.histogram.sum("bin").values.tolist() == [[30, 30], [30, 30]] and set(ds.data_vars) == {
        "train_loss", "test_loss", "excess_kurtosis", "variance", "histogram"}
    assert set(verdict(neurons(p, looks=(0, 20), seeds=2))) == {"look", "test_loss", "kurtosis", "kurtosis_error", "gain", "gain_error", "barrier",
                                                                "barrier_error"}
    one = modular(AdditionTask(5, 20, 0.8), looks=(0, 10), seeds=2)
    assert one.histogram.sum("bin").values.tolist() == [[20, 20], [20, 20]] and float(one.concentration.min()) > 0.5


def test_stored_square_is_one_gaussian_at_all_times():
    """Mean over seeds of the kurtosis, at every record, within four standard errors of the exact law; no gain and no barrier."""
    ds = stored("square")
    mean, sd = kurtosis_of_gaussians(2000)
    z = (ds.excess_kurtosis.mean("seed") - mean) / (sd / math.sqrt(10))
    assert np.abs(z).max() < 4 and float(ds.variance[:, -1].mean()) > 100 * float(ds.variance[:, 0].mean())
    for look in ds.look.values:
        found = verdict(ds, int(look))
        assert found["gain"] < 3 * found["gain_error"] and found["barrier"] < 0.05
    assert found["test_loss"] < 0.3


def test_stored_contrasts():
    for name, humps in (("readouts", False), ("adam", True)):
        found = verdict(stored(name))
        assert found["gain"] > 3 * found["gain_error"] and (found["barrier"] > 3 * found["barrier_error"] + 0.05) == humps
    assert verdict(stored("readouts"))["kurtosis"] > 10 > -1 > verdict(stored("adam"))["kurtosis"]
    cubic, square = (np.abs(stored(name).excess_kurtosis.mean("seed")).max().item() for name in ("cubic", "square_small"))
    assert cubic > 3 > 0.5 > square
    ds = stored("modular")
    late = verdict(ds)
    assert late["barrier"] > 3 * late["barrier_error"] and float(ds.test_accuracy[:, -1].mean()) > 0.9
    assert verdict(ds, 250)["barrier"] < 0.05
