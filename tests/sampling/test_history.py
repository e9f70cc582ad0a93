"""Training in time: the recorded dynamics is the sampler's, and a killed run goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr

from grokutils.experiments.history import appendix_d, mean_ratio, milestones, reduced, resumable_history
from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data, sample
from grokutils.sampling.history import half_time, history, recorded_steps

TINY = TeacherStudent(samples=30, dimension=6, width=8, noise_variance=0.1, readout_variance=0.1, weight_variance=0.5, teacher={1: 1.0, 3: -0.5})
SETTINGS = dict(datasets=2, chains=2, steps=400, records=8, learning_rate=0.02, seed=5, progress=False)

_CHILD = """
from tests.sampling.test_history import TINY, SETTINGS, history
import sys, time
history(TINY, **(SETTINGS | dict(steps=10**7, records=30)), checkpoint=sys.argv[1], save_every=0.01)
"""


def test_same_steps_as_sample():
    ours = history(TINY, **SETTINGS)
    theirs = sample(TINY, 2, 2, draws=4, warmup=0, thin=100, method="langevin", step_size=0.02, seed=5, progress=False)
    for name in ("train_loss", "test_loss", "learned", "train_learned", "second_moment"):
        np.testing.assert_allclose(ours[name].isel(time=-1), theirs[name].isel(draw=-1), rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(ours.histogram.sum("bin"), TINY.width)


def test_a_step_by_hand():
    """One step on the network's own weights, as the docstring writes it, without whitening."""
    eta, p = 0.02, TINY
    ours = history(p, 1, 1, steps=1, records=1, learning_rate=eta, seed=5, dtype="float64", progress=False)
    inputs, targets = draw_data(p, 1, 5)
    posterior = TeacherStudentPosterior(p, inputs, targets, dtype="float64")
    from grokutils.sampling.posterior import seed_of

    theta = posterior.prior_draw([seed_of(5, 1, 0, 0)])
    w, a = (x[0].clone().requires_grad_(True) for x in posterior.weights(theta))
    x, y = torch.as_tensor(inputs[0]), torch.as_tensor(targets[0])
    loss = ((y - torch.erf(x @ w.T) @ a) ** 2).sum() / (2 * p.samples)
    prior = (w**2).sum() * p.dimension / (2 * p.weight_variance) + (a**2).sum() * p.width / (2 * p.readout_variance)
    gradients = torch.autograd.grad(loss + p.noise_variance / p.samples * prior, (w, a))
    noise = torch.randn(posterior.size, generator=posterior.generator(seed_of(5, 2, 0, 0)), dtype=torch.float64)
    xi = noise[: w.numel()].view_as(w), noise[w.numel() :]
    w, a = (z - eta * g + (2 * eta * p.noise_variance / p.samples) ** 0.5 * n for z, g, n in zip((w, a), gradients, xi, strict=True))
    after = ((y - torch.erf(x @ w.T) @ a) ** 2).mean()
    assert float(ours.train_loss[0, 0, -1]) == pytest.approx(float(after.detach()), rel=1e-12)


def test_time_is_rate_times_step():
    ds = history(TINY, **(SETTINGS | dict(spacing="linear")))
    np.testing.assert_array_equal(ds.step, np.arange(0, 401, 50))
    np.testing.assert_allclose(ds.time, 0.02 * ds.step)
    assert ds.attrs["learning_rate"] == 0.02 and ds.train_loss.dims == ("dataset", "chain", "time")


@pytest.mark.parametrize("spacing", ["log", "linear"])
@pytest.mark.parametrize(("steps", "records"), [(1, 1), (5, 40), (7_000_000, 100)])
def test_schedule(steps, records, spacing):
    schedule = recorded_steps(steps, records, spacing)
    assert schedule[0] == 0 and schedule[-1] == steps and (np.diff(schedule) > 0).all() and len(schedule) <= records + 2


def test_networks_depend_on_their_own_numbers_alone():
    alone, together = history(TINY, **(SETTINGS | dict(datasets=1, chains=1))), history(TINY, **SETTINGS)
    np.testing.assert_allclose(alone.train_loss[0, 0], together.train_loss[0, 0], rtol=1e-4)
    assert not np.allclose(together.train_loss[0, 0, -1], together.train_loss[0, 1, -1], rtol=1e-3)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("writes", [1, 4])
def test_stopped_run_resumes_bit_for_bit(tmp_path, monkeypatch, dtype, writes):
    import grokutils.sampling.history  # noqa: F401

    module, whole = sys.modules["grokutils.sampling.history"], history(TINY, **SETTINGS, dtype=dtype)
    write, done = module.checkpoints.write, []

    def write_and_stop(*arguments):
        write(*arguments)
        done.append(1)
        if len(done) == writes:
            raise _Stop

    monkeypatch.setattr(module.checkpoints, "write", write_and_stop)
    with pytest.raises(_Stop):
        history(TINY, **SETTINGS, dtype=dtype, checkpoint=tmp_path / "state", save_every=0)
    monkeypatch.setattr(module.checkpoints, "write", write)
    resumed = history(TINY, **SETTINGS, dtype=dtype, checkpoint=tmp_path / "state")
    assert resumed.identical(whole)
    assert sorted(os.listdir(tmp_path)) == ["state"], "temporary files are left"


def test_killed_process_resumes_bit_for_bit(tmp_path):
    """SIGKILL at a moment nobody chose; what is on disk is a state of the uninterrupted run."""
    path, settings = tmp_path / "state", SETTINGS | dict(steps=10**7, records=30)
    module = sys.modules["grokutils.sampling.history"]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(path)], cwd=root, env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"})
    kept = {k: v for k, v in settings.items() if k != "progress"} | dict(problem=TINY.hash, spacing="log", dtype="float32", device="cpu")
    kept["version"], deadline = module.ALGORITHM_VERSION, time.monotonic() + 180
    # whenever one looks, a whole file is there
    while child.poll() is None and time.monotonic() < deadline and not (path.exists() and module.checkpoints.read(path, kept)["done"] >= 200):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    state = module.checkpoints.read(path, kept)
    assert 200 <= state["done"] < settings["steps"]
    training = module._Training(TINY, 2, 2, 0.02, 5, "cpu", "float32")
    with torch.no_grad(), module.one_thread(torch.device("cpu")):
        schedule = recorded_steps(10**7, 30)
        while training.done < state["done"]:
            if training.done == schedule[len(training.records)]:
                training.record()
            training.advance(min(int(schedule[len(training.records)]), state["done"]) - training.done, module._NoBar())
        if training.done in schedule:
            training.record()
    again = training.contents()
    assert all(torch.equal(a, b) for a, b in zip(again["state"] + again["streams"], state["state"] + state["streams"], strict=True))
    assert len(again["records"]) >= len(state["records"]) >= len(again["records"]) - 1
    assert all(torch.equal(a[k], b[k]) for a, b in zip(again["records"], state["records"]) for k in b)


@pytest.mark.parametrize(("name", "value"), [("learning_rate", 0.03), ("seed", 6), ("steps", 500), ("dtype", "float64"), ("chains", 1)])
def test_checkpoint_of_other_settings_is_refused(tmp_path, name, value):
    path = tmp_path / "state"
    history(TINY, **SETTINGS, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"other settings .*{name}: .* there, {value!r} here"):
        history(TINY, **(SETTINGS | {name: value}), checkpoint=path)
    with pytest.raises(ValueError, match=r"other settings .*problem"):
        history(TINY.replace(noise_variance=0.2), **SETTINGS, checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:]])
def test_damaged_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "state"
    history(TINY, **SETTINGS, checkpoint=path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="damaged"):
        history(TINY, **SETTINGS, checkpoint=path)


def test_finished_run_is_not_computed_again(tmp_path, monkeypatch):
    path, first = tmp_path / "state", None
    first = history(TINY, **SETTINGS, checkpoint=path)
    monkeypatch.setattr(sys.modules["grokutils.sampling.history"]._Training, "advance", lambda *_: pytest.fail("a step was made"))
    assert history(TINY, **SETTINGS, checkpoint=path).identical(first)


def test_diverged_training_says_so():
    with pytest.raises(RuntimeError, match=r"diverged by step .* smaller learning_rate"):
        history(TINY, **(SETTINGS | dict(learning_rate=50.0, steps=3000)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("records", 0), ("learning_rate", 0.0), ("learning_rate", float("nan")), ("spacing", "even"), ("seed", -1), ("dtype", "int8"),
     ("device", "tpu"), ("chains", 1.5), ("datasets", 0), ("save_every", -1.0)],
)
def test_bad_settings(name, value):
    with pytest.raises(ValueError, match=name):
        history(TINY, **(SETTINGS | {name: value}))


def test_sizes_must_be_whole():
    with pytest.raises(ValueError, match="whole number"):
        history(TINY.replace(width=7.5), **SETTINGS)


def _curve(values, times):
    return xr.DataArray(np.atleast_2d(values), dims=("chain", "time"), coords={"time": times})


def test_half_time_of_known_curves():
    times = np.concatenate([[0], np.geomspace(0.01, 100, 300)])
    for tau in (0.3, 2.0):
        falling = _curve(5 + 3 * np.exp(-times / tau), times)
        assert float(half_time(falling)[0]) == pytest.approx(tau * np.log(2), rel=1e-3)
        assert float(half_time(10 - falling)[0]) == pytest.approx(tau * np.log(2), rel=1e-3)
    logarithmic = _curve(np.concatenate([[0], np.linspace(0, 1, 300)]), times)
    assert float(half_time(logarithmic, tail=1)[0]) == pytest.approx(1.0, rel=1e-3)


def test_half_time_takes_the_last_crossing_and_the_given_start():
    times = np.array([0.0, 1, 2, 4, 8, 16, 32, 64])
    curve = _curve([9.0, 8, 9.4, 9.6, 9.2, 8, 8, 8], times)
    assert 8 < float(half_time(curve)[0]) < 16
    assert float(half_time(curve, start=curve.max("time"))[0]) == pytest.approx(8 * 2 ** ((9.2 - 8.8) / 1.2))
    assert float(half_time(_curve([9.0, 1, 1, 1, 1, 1, 1, 1], times))[0]) == 1, "within the first step"


def test_milestones_of_a_made_up_history():
    times = np.concatenate([[0], np.geomspace(0.01, 1000, 400)])
    rise = {tau: 1 - np.exp(-times / tau) for tau in (1.0, 5.0, 100.0)}
    test = 9 + rise[1.0] - 2 * rise[100.0]
    made = xr.Dataset(
        {
            "train_loss": (("dataset", "chain", "time"), [[8 - 4 * rise[1.0]]]), "test_loss": (("dataset", "chain", "time"), [[test]]),
            "train_learned": (("dataset", "chain", "time", "degree"), np.stack([rise[1.0], -0.3 * rise[5.0]], -1)[None, None]),
            "learned": (("dataset", "chain", "time", "degree"), np.stack([rise[1.0], -0.06 * rise[100.0]], -1)[None, None]),
        },
        coords={"time": times, "degree": [1, 3]},
    )
    found = milestones(made)
    for name, tau in (("train_loss", 1.0), ("train_cubic", 5.0), ("test_cubic", 100.0)):
        assert float(found[name][0, 0]) == pytest.approx(tau * np.log(2), rel=0.01)
    assert float(found.test_loss[0, 0]) == pytest.approx(100 * np.log(2), rel=0.1)
    both = xr.concat([made, made], "dataset")
    ratio, low, high = mean_ratio(milestones(both).test_cubic, milestones(both).train_loss)
    assert ratio == low == high == pytest.approx(100, rel=0.02)


def test_mean_ratio_has_students_interval():
    later = xr.DataArray(np.exp([[1.0, 3.0], [4.0, 4.0]]), dims=("dataset", "chain"))
    ratio, low, high = mean_ratio(later, xr.ones_like(later))
    assert np.log([ratio, low, high]) == pytest.approx([3, 3 - 12.7062, 3 + 12.7062], rel=1e-4)


# covers: eq-D44-check
def test_reduced_problem_keeps_the_groups():
    for width in (2800, 700):
        problem = TeacherStudent.appendix_d(width)
        small = problem.scaled(alpha=0.5, beta=0.25)
        assert reduced(problem) == small.rounded()
        for group in (lambda p: p.interaction, lambda p: p.kappa / p.dimension, lambda p: p.samples / p.dimension):
            assert group(small) == pytest.approx(group(problem), rel=1e-12)
        assert reduced(problem).interaction == pytest.approx(problem.interaction, rel=0.02)


def test_stored_run_keeps_its_state_in_the_store_and_removes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GROKUTILS_RESULTS", str(tmp_path))
    kept = []
    module = sys.modules["grokutils.experiments.history"]
    monkeypatch.setattr(module, "history", lambda *a, checkpoint, **k: (kept.append(checkpoint), history(*a, checkpoint=checkpoint, **k))[1])
    settings = {k: v for k, v in SETTINGS.items() if k != "progress"}
    assert resumable_history(TINY, **settings).identical(history(TINY, **SETTINGS))
    assert kept[0].parent == tmp_path and os.listdir(tmp_path) == []


def test_experiment_is_one_of_distinct_runs():
    runs = appendix_d()
    assert len({run.key for run in runs}) == len(runs)
    assert all(run.gradients > 500 for run in runs)
