"""The training loop: members frozen when done, chunks, threads, checkpoints; a task without hand-written gradients."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from grokutils import checkpoint as checkpoints
from grokutils.descent import Adam, AdamW, AutogradTask, GradientDescent, descend

SCALE = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)


class Bowls(AutogradTask):
    """Quartic bowls around targets, one a member: loss = scale (x - target)^4 + y^2, parameters in two groups."""

    def __init__(self, scale=SCALE, batches=False):
        self.scale, self.batches = scale, batches

    def loss(self, parameters, step):
        shake = 0.1 * (step % 3) if self.batches else 0.0
        return self.scale * (parameters["x.position"] - 1 - shake).pow(4).sum(1) + parameters["y"].square()

    def measure(self, parameters):
        return {"loss": self.loss(parameters, 0), "position": parameters["x.position"].clone()}

    def select(self, members):
        return Bowls(self.scale[members], self.batches)


def start():
    return {"x.position": torch.linspace(-1, 2, 21, dtype=torch.float64).reshape(7, 3), "y": torch.linspace(0.1, 1, 7, dtype=torch.float64)}


def go(optimiser=None, steps=200, every=10, task=None, **options):
    parameters = start()
    found = descend(task or Bowls(), parameters, optimiser or AdamW(0.02), steps, np.arange(0, steps + 1, every), progress=False, **options)
    return parameters, found


def test_gradients_of_the_sum_are_those_of_each():
    parameters, into = start(), {name: torch.empty_like(p) for name, p in start().items()}
    Bowls().gradients(parameters, into, 0)
    torch.testing.assert_close(into["x.position"], 4 * SCALE[:, None] * (parameters["x.position"] - 1) ** 3)
    torch.testing.assert_close(into["y"], 2 * parameters["y"])


@pytest.mark.parametrize("optimiser", [GradientDescent(0.01, 0.5, 0.1), Adam(0.02, 0.1), AdamW(0.02, 0.3)])
@pytest.mark.parametrize(("chunk", "jobs"), [(1, 1), (2, 1), (3, 2), (7, 1), (50, 3)])
def test_neither_chunks_nor_threads_matter(optimiser, chunk, jobs):
    parameters, found = go(optimiser, task=Bowls(batches=True), chunk=chunk, jobs=jobs)
    whole, expected = go(optimiser, task=Bowls(batches=True), chunk=7)
    for name in expected:  # to round-off: a processor's last numbers of a row may be rounded once more than the others
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)
    for name in whole:
        torch.testing.assert_close(parameters[name], whole[name], rtol=1e-12, atol=0)


def test_a_group_has_its_own_optimiser():
    parameters, _ = go({"x": AdamW(0.0), "y": GradientDescent(np.linspace(0, 0.3, 7))}, steps=1, every=1)
    torch.testing.assert_close(parameters["x.position"], start()["x.position"])
    torch.testing.assert_close(parameters["y"], start()["y"] * (1 - 2 * torch.linspace(0, 0.3, 7, dtype=torch.float64)))


@pytest.mark.parametrize("chunk", [2, 7])
def test_members_that_are_done_stay_where_they_are(chunk):
    """Frozen at the first measurement that says so; the others are as if nobody had stopped."""
    _, free = go()
    seen = []

    def stop(measured):
        seen.append(list(measured["member"]))
        return measured["loss"] < 0.3

    parameters, found = go(stop=stop, chunk=chunk)
    below = free["loss"] < 0.3
    first = np.where(below.any(1), below.argmax(1), 20)
    assert len(set(first)) > 2  # the test sees members stop at different times, and some never
    for b in range(7):
        np.testing.assert_array_equal(found["loss"][b, : first[b] + 1], free["loss"][b, : first[b] + 1])
        assert np.isnan(found["loss"][b, first[b] + 1 :]).all()
        np.testing.assert_array_equal(parameters["x.position"][b], free["position"][b, first[b]])
    np.testing.assert_array_equal(found["last_step"], 10 * first)
    assert sum(map(len, seen)) == (first + 1).sum()  # nobody is trained after he is done


def test_an_interrupted_run_goes_on(tmp_path):
    """Stopped in the middle by an error in one measurement, called again: the same numbers to the last bit, and the first part is not repeated."""
    _, expected = go(chunk=2, jobs=2, stop=lambda m: m["loss"] < 0.3)
    calls = []

    def fragile(measured):
        calls.append(len(measured["member"]))
        if len(calls) == 20:
            raise RuntimeError("as if killed")
        return measured["loss"] < 0.3

    file = tmp_path / "state"
    with pytest.raises(RuntimeError, match="as if killed"):
        go(chunk=2, jobs=2, stop=fragile, checkpoint=file, save_every=0.0)
    again = []

    def counting(measured):
        again.append(len(measured["member"]))
        return measured["loss"] < 0.3

    parameters, found = go(chunk=2, jobs=2, stop=counting, checkpoint=file, save_every=0.0)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    reference, _ = go(chunk=2, jobs=2, stop=lambda m: m["loss"] < 0.3)
    torch.testing.assert_close(parameters["x.position"], reference["x.position"], rtol=0, atol=0)
    assert 0 < sum(again) < (expected["last_step"] // 10 + 1).sum()
    third = []
    _, found = go(chunk=2, jobs=2, stop=lambda m: third.append(1) or m["loss"] < 0.3, checkpoint=file)  # all there: nothing is computed
    assert not third
    np.testing.assert_array_equal(found["loss"], expected["loss"])


SCRIPT = """
import sys; sys.path.insert(0, {folder!r})
from test_loop import *
class Slow(Bowls):
    def gradients(self, parameters, into, step):
        time.sleep(0.002)
        super().gradients(parameters, into, step)
    def select(self, members):
        return Slow(self.scale[members])
signal.signal(signal.SIGINT, signal.default_int_handler)
print("begin", flush=True)
go(task=Slow(), chunk=4, jobs=2, steps=1000, checkpoint=sys.argv[1], save_every=float(sys.argv[2]))
"""


@pytest.mark.parametrize(("how", "every"), [(signal.SIGKILL, 0.05), (signal.SIGINT, 1000.0)])
def test_a_killed_process_goes_on(tmp_path, how, every):
    file = tmp_path / "state"
    command = [sys.executable, "-c", SCRIPT.format(folder=os.path.dirname(__file__)), file, str(every)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "begin\n"
    deadline = time.monotonic() + 60
    while how == signal.SIGKILL and not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    child.send_signal(how)
    _, error = child.communicate(timeout=60)
    assert child.returncode != 0
    if how == signal.SIGINT:
        assert "a second call resumes" in error
    settings = dict(steps=1000, record=list(range(0, 1001, 10)), chunk=4, optimisers={g: repr(AdamW(0.02)) for g in ("x", "y")})
    done = [state["done"] for state in checkpoints.read(file, settings)["kept"].values()]
    assert max(done) > 0 and min(done) < 1000
    _, found = go(chunk=4, steps=1000, checkpoint=file)
    _, expected = go(chunk=4, steps=1000)
    np.testing.assert_array_equal(found["loss"], expected["loss"])


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    file = tmp_path / "state"
    go(checkpoint=file, steps=20)
    with pytest.raises(ValueError, match=r"other settings \(steps: 20 there, 30 here|other settings \(record"):
        go(checkpoint=file, steps=30)
    with pytest.raises(ValueError, match="other settings"):
        go(AdamW(0.03), checkpoint=file, steps=20)
    with pytest.raises(ValueError, match="another task or start"):
        go(task=Bowls(2 * SCALE), checkpoint=file, steps=20)
    file.write_bytes(file.read_bytes()[:-40] + bytes(40))
    with pytest.raises(ValueError, match="damaged"):
        go(checkpoint=file, steps=20)


def test_an_error_stops_the_other_chunks():
    calls = []

    def stop(measured):
        calls.append(1)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        go(stop=stop, chunk=1, jobs=1, steps=2000)
    assert len(calls) <= 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(jobs=0), "jobs must be"),
        (dict(chunk=1.5), "chunk must be"),
        (dict(optimiser={"x": AdamW(1.0)}), "one entry for each group"),
        (dict(optimiser=AdamW([0.1, 0.2])), "one for each of 7 members"),
        (dict(optimiser=GradientDescent(0.1, momentum=1.0)), "momentum must be"),
        (dict(optimiser=Adam(0.1, epsilon=0.0)), "epsilon must be"),
        (dict(optimiser=Adam(0.1, betas=(0.9, 1.0))), "betas must be"),
        (dict(stop=lambda m: m["loss"]), "stop must return booleans"),
    ],
)
def test_bad_input(options, says):
    with pytest.raises(ValueError, match=says):
        go(**options)


def test_optimisers_are_values():
    assert AdamW(0.1, [0.0, 1.0]) == AdamW(0.1, [0.0, 1.0]) != AdamW(0.1, [0.0, 2.0])
    assert Adam(0.1) != AdamW(0.1)
