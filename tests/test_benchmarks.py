"""The benchmarks: each runs at a tiny size and records what the page needs; the estimators behind them are right. No times are tested."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from benchmarks import __main__ as run  # noqa: E402
from benchmarks import descent, gradient, sampling, scaling, timing  # noqa: E402
from grokutils.problems import TeacherStudent  # noqa: E402
from grokutils.sampling import TeacherStudentPosterior, draw_data  # noqa: E402

PROBLEM = TeacherStudent.paper(0.2, 1 / 64).rounded()
LAGS = np.arange(400)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def everyone(record):
    return all(isinstance(v, float) and v > 0 for v in record.values())


# -- times ---------------------------------------------------------------------------------------------------------


def test_functions_are_timed_in_turn():
    now, calls = [0.0], []

    def call(name, seconds):
        calls.append(name)
        now[0] += seconds

    times = timing.interleaved({"a": lambda: call("a", 1.0), "b": lambda: call("b", 0.25)}, rounds=3, least=0.5, clock=lambda: now[0])
    assert times == {"a": 1.0, "b": 0.25}
    assert "".join(calls) == "aabb" + 3 * "abb"


def test_machine_has_no_absolute_path_and_says_what_it_is():
    where = timing.machine()
    assert where["cores"] >= 1 and where["processor"] and where["torch"] and len(where["date"]) == 10
    assert "/" not in json.dumps(where).replace("://", "")


# -- descent -------------------------------------------------------------------------------------------------------


def test_the_script_and_the_batch_are_the_same_training():
    assert descent.largest_difference(descent.RATES[::9], 20, 32) < 1e-4
    record = descent.measure(quick=True, report=lambda text: None)
    assert everyone(record["ratios"]) and record["members"] == 4


# -- gradient ------------------------------------------------------------------------------------------------------


def test_record_of_a_gradient():
    with timing.one_thread():
        record = gradient.case(1 / 64, quick=True, compile=False)
    assert set(record["ratios"]) == {"autograd loop", "vmap(grad)", "einsum"} and everyone(record["ratios"])
    assert set(record["budget"]) == {"products", "erf", "exp", "vectors"} and everyone(record["budget"])
    assert record["not_measured"] == {"torch.compile": "not tried"}
    assert 0 < record["share"] < record["products_alone"]


def posterior_and_weights():
    post = TeacherStudentPosterior(PROBLEM, *draw_data(PROBLEM, 2), 2)
    return post, post.prior_draw(range(4))


@pytest.mark.parametrize("name", ["autograd loop", "vmap(grad)", "einsum"])
def test_peers_compute_the_same_gradient(name):
    post, theta = posterior_and_weights()
    torch.testing.assert_close(gradient.peers(post)[name](theta), post.energy_gradient(theta)[1], rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's
def test_compiled_gradient_is_the_same_or_says_why_there_is_none():
    post, theta = posterior_and_weights()
    function, reason = gradient.compiled(post, theta)
    assert (function is None) == bool(reason)
    if function:
        torch.testing.assert_close(function(theta), post.energy_gradient(theta)[1], rtol=1e-4, atol=1e-3)


def test_without_a_compiler_there_is_a_reason(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert gradient.compiled(*posterior_and_weights()) == (None, "no compiler here")


# -- sampling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [2.0, 10.0, 30.0])
def test_autocorrelation_time_of_an_exponential(decay):
    r = np.exp(-1 / decay)
    assert sampling.integrated(r**LAGS, 2.5, 0.9) == pytest.approx((1 + r) / (1 - r), rel=0.02)


def test_a_window_does_not_end_in_the_first_negative_swing():
    rho = np.exp(-0.05 * LAGS) * np.cos(1.0 * LAGS)
    exact = 2 * (1 / (1 - np.exp(-0.05 + 1j))).real - 1
    assert abs(exact) < 1  # and no draw counts as more than one
    assert sampling.integrated(rho) == 1
    slow = 0.7 * rho + 0.3 * np.exp(-LAGS / 12)
    r = np.exp(-1 / 12)
    assert sampling.integrated(slow) == pytest.approx(0.7 * exact + 0.3 * (1 + r) / (1 - r), rel=0.02)


def test_a_short_run_has_no_autocorrelation_time():
    assert np.isnan(sampling.integrated(np.exp(-LAGS[:30] / 20), 2.5, 0.9))


def test_bound_is_below_the_truth_and_exact_for_one_exponential():
    def gamma(*modes):
        return 3.0 * (1 - sum(w * np.exp(-LAGS[:40] / t) for w, t in modes))

    assert sampling.bound(gamma((1.0, 200.0)), 3.0) == pytest.approx(2 * 200, rel=0.01)
    modes = (0.4, 5.0), (0.3, 60.0), (0.3, 900.0)
    truth = sum(2 * w * t for w, t in modes)
    assert 0.05 * truth < sampling.bound(gamma(*modes), 3.0) < truth


def test_covariances_and_variogram_by_hand(rng):
    x = rng.standard_normal((2, 7))
    mean = np.array([[0.3], [-0.1]])
    products, gamma = sampling.covariances(x, mean), sampling.variogram(x, 4)
    for t in range(4):
        assert products[:, t] == pytest.approx(np.mean((x - mean)[:, t:] * (x - mean)[:, : 7 - t], axis=1))
        assert gamma[:, t] == pytest.approx(0.5 * np.mean((x[:, t:] - x[:, : 7 - t]) ** 2, axis=1))


def test_jackknife_error_is_that_of_a_mean(rng):
    x = 10 + 0.1 * rng.standard_normal(12)
    ln, error = sampling.jackknife(lambda chosen: x[chosen].mean(), np.arange(12))
    assert ln == pytest.approx(np.log(x.mean())) and error == pytest.approx(x.std(ddof=1) / np.sqrt(12) / 10, rel=0.02)


def ar1(rng, decay, networks, draws, mean):
    r, x = np.exp(-1 / decay), np.empty((networks, draws))
    x[:, 0] = rng.standard_normal(networks)
    for t in range(1, draws):
        x[:, t] = r * x[:, t - 1] + np.sqrt(1 - r * r) * rng.standard_normal(networks)
    return x + mean


@pytest.mark.parametrize("draws", [3000, 300, 60])
def test_gain_of_known_chains(rng, draws):
    """Chains of known autocorrelation times, gradients between draws and costs; draws of the paper's: enough, too few, far too few."""
    plan, mean = (20, 2, None), np.repeat(rng.standard_normal(20), 2)[:, None]
    series = {
        "underdamped": (np.repeat(ar1(rng, 5.0, 40, 2000, mean)[..., None], 4, axis=2), 2),
        "langevin 0.02": (np.repeat(ar1(rng, 20.0, 40, draws, mean)[..., None], 4, axis=2), 50),
        sampling.PAPER: (np.repeat(ar1(rng, 100.0, 40, draws, mean)[..., None], 4, axis=2), 100),
    }
    row = sampling.analyse(series, plan, {"underdamped": 30.0, sampling.PAPER: 1.0}, {"droplets": 7})["droplets"]
    kind = {3000: "measured", 300: "extrapolated", 60: "extrapolated bound"}[draws]
    assert row["goal"] == 7 and row["paper"]["kind"] == kind
    gain, exact = row["ratios"]["underdamped"], 100 * 100 / (5 * 2 * 30)
    assert abs(np.log(gain["ratio"] / exact)) < 4 * gain["ln_error"] + 0.02
    assert gain["ln_error"] < 0.5


def test_the_slowest_rate_that_was_measured_stands_for_the_paper():
    def one(kind, tau, total=1000):
        return dict(kind=kind, tau=tau, total=total, ln_error=0.1)

    runs = {"underdamped": one("measured", 3.0), "langevin 0.1": one("measured", 11.0), "langevin 0.02": one("measured", 50.0),
            sampling.PAPER: one("bound", 90.0)}
    found = sampling.paper_time(runs)
    assert (found["kind"], found["from"], found["tau"]) == ("extrapolated", "langevin 0.02", 500)
    assert sampling.paper_time(runs | {sampling.PAPER: one("measured", 480.0)})["kind"] == "measured"
    bounds = {"langevin 0.1": one("bound", 7.0, 100), sampling.PAPER: one("bound", 90.0)}
    assert sampling.paper_time(bounds)["from"] == "langevin 0.1"
    assert sampling.paper_time({sampling.PAPER: dict(kind="none")}) == dict(kind="none")


def test_an_ensemble_runs_every_method_from_where_the_first_ended():
    plan = (2, 2, {"underdamped": (2, 5, 60), "relocation": (2, 4, 60), "hmc": (1, 4, 60), sampling.PAPER: (3, 6, 60)})
    series = sampling.ensemble(PROBLEM, plan, dict.fromkeys(sampling.WARMUP, 6), jobs=2, report=lambda text: None)
    assert {name: x.shape for name, (x, _) in series.items()} == {
        "underdamped": (4, 5, 4), "relocation": (4, 4, 4), "hmc": (4, 4, 4), sampling.PAPER: (4, 6, 4)}
    assert [series[name][1] for name in ("underdamped", "relocation", sampling.PAPER)] == [2, 2, 3] and series["hmc"][1] >= 1
    # the paper's step is so small that it has hardly left its start
    drift = np.abs(series[sampling.PAPER][0][:, 0, 2] - series["underdamped"][0][:, -1, 2])
    assert (drift < 0.05 * series["underdamped"][0][:, -1, 2]).all()


def test_every_method_has_a_cost():
    cost = sampling.costs(PROBLEM, sampling.QUICK, quick=True)
    assert set(cost) == set(sampling.QUICK[2]) and everyone(cost)


class Stored:
    """A run of the experiment whose droplets are a chain of known autocorrelation time, 10 gradients between draws."""

    problem, noise_variance = PROBLEM, 0.1

    def __init__(self, method, decay, rng):
        self.method = method
        counts = 4 + ar1(rng, decay, 8, 4000, 0.0).reshape(4, 2, -1)
        self.dataset = xr.Dataset({"tail_fraction": (("dataset", "chain", "draw"), counts / PROBLEM.width)}, attrs={"thin": 10})

    def load(self):
        return self.dataset


def test_droplets_of_stored_chains(rng):
    record = sampling.stored_droplets(2.5, [Stored("underdamped", 40.0, rng), Stored("relocation", 2.0, rng)])
    assert record["stored"] and abs(np.log(record["ratio"] / (20 / 2.5))) < 4 * record["ln_error"] < 1


def test_chains_too_short_for_an_autocorrelation_function_are_judged_by_their_effective_size(rng):
    short, quick = Stored("underdamped", 40.0, rng), Stored("relocation", 2.0, rng)
    short.dataset = short.dataset.isel(draw=slice(300))
    slow = sampling.stored_droplets(2.5, [short, quick])["runs"]["underdamped"]
    assert slow["by"] == "effective size" and abs(np.log(slow["tau"] / 800)) < 5 * max(slow["ln_error"], 0.2)


def test_without_the_long_chains_there_is_no_number(rng):
    there, missing = Stored("underdamped", 2.0, rng), Stored("relocation", 2.0, rng)
    missing.dataset = None
    assert sampling.stored_droplets(2.0, [there, missing]) == dict(stored=False)


# -- scaling -------------------------------------------------------------------------------------------------------


def test_exponent_of_a_power():
    fit = scaling.exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0])
    assert fit["exponent"] == pytest.approx(2) and fit["error"] < 1e-6


def test_exponents_of_all_sizes():
    with timing.one_thread():
        record = scaling.exponents(1 / 64, (1.0, 2.0, 4.0), (1, 2, 4), rounds=1)
    assert set(record["fits"]) == {"samples", "width", "dimension", "networks"}
    assert all(len(fit["sizes"]) == len(fit["seconds"]) == 3 for fit in record["fits"].values())


@pytest.mark.slow
def test_memory_holds_the_networks_and_no_matrices_of_theirs():
    ballast = np.ones(2**25)  # a quarter of a gigabyte of ours must not count as the peak of a process that we start
    used = scaling.memory(beta=1 / 2, networks=(1, 64))
    assert ballast.sum() > 0
    assert 3 < used["over_theta"] < 20 and used["over_matrix"] < 0.8


def test_threads_have_a_speedup():
    (record,) = scaling.threads({1 / 64: dict(datasets=1, chains=1, draws=1, thin=1, warmup=0)}, rounds=1)
    assert record["speedup"] > 0 and record["jobs"] >= 1


# -- record --------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_section(monkeypatch):
    monkeypatch.setattr(run, "SECTIONS", {"a": lambda quick, report: dict(value=float("nan")), "b": lambda quick, report: dict(value=1 / 3)})


def test_a_section_can_be_measured_again_alone(one_section, tmp_path, capsys):
    path = tmp_path / "deep" / "benchmarks.json"
    run.main(["--output", str(path)])
    first = json.loads(path.read_text())
    assert first["a"]["value"] is None and first["b"]["value"] == 0.33333 and first["b"]["machine"]["torch"]
    first["a"]["value"] = 5
    path.write_text(json.dumps(first))
    run.main(["--output", str(path), "--only", "b"])
    assert json.loads(path.read_text())["a"]["value"] == 5
    assert [p.name for p in path.parent.iterdir()] == ["benchmarks.json"]


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "benchmarks.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        run.save(path, {"a": object()})
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_quick_sizes_do_not_replace_the_measurement(capsys):
    with pytest.raises(SystemExit):
        run.main(["--quick"])
    assert "--output" in capsys.readouterr().err


@pytest.mark.slow
def test_everything_at_a_tiny_size(tmp_path, capsys):
    path = tmp_path / "benchmarks.json"
    run.main(["--quick", "--output", str(path)])
    record = json.loads(path.read_text())
    assert set(record) == {"gradient", "sampling", "scaling", "descent", "gpu"} and all(section["quick"] for section in record.values())
    (case,) = record["sampling"]["cases"]
    assert set(case["observables"]) == set(sampling.OBSERVABLES) and record["scaling"]["memory"]["peak_bytes"]
    assert record["gpu"]["lines"][0].startswith("64 networks")
