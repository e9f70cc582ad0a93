"""Killed processes, full disks, two sweeps at once: nothing lost, nothing wrong silently used.

Every run here is a real process on a real store; afterwards the sweep is resumed and compared bit for bit with one that nothing disturbed.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from grokutils.problems import TeacherStudent
from grokutils.store import STALE, Store
from grokutils.sweep import sweep

P = TeacherStudent(samples=10, dimension=3, width=4, noise_variance=0.3, readout_variance=2.0, weight_variance=0.8, teacher={1: 1.0, 3: -0.3})
QUICK = dict(datasets=2, draws=100, warmup=4, thin=1)  # some hundredths of a second
RUNS = [(P, {"seed": seed}) for seed in range(10)]

# the same sweep in a process of its own: python -c PROCESS root
PROCESS = f"""
import json, os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from grokutils.problems import TeacherStudent
from grokutils.store import Store
from grokutils.sweep import sweep
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background, such as these tests
P = {P!r}
store = Store(sys.argv[1])
def run(executor=None, **kwargs):
    return sweep([(P, {{"seed": seed}}) for seed in range(10)], store, executor, progress=False, **({QUICK!r} | kwargs))
"""


# a worker rests after each file, so that on a busy machine the sweep has not ended before it is disturbed
SLOWLY = """
save = Store.save
def save_and_rest(self, *arguments):
    path = save(self, *arguments)
    time.sleep(0.5)
    return path
Store.save = save_and_rest
"""


def start(root, then="run()", before=()):
    return subprocess.Popen(
        [*before, sys.executable, "-c", PROCESS + then, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_files(root, number, process):
    while len(stored(root)) < number:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def stored(root):
    return sorted(root.glob("*.nc"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of a sweep in this process to which nothing happened, as they are stored."""
    return sweep(RUNS, Store(tmp_path_factory.mktemp("undisturbed")), progress=False, **QUICK)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def assert_resumes(root, undisturbed, missing):
    """A second call computes just what is missing, warns of nothing, and all results are those of an undisturbed sweep."""
    before = {path: path.stat().st_mtime_ns for path in stored(root)}
    resumed = sweep(RUNS, Store(root), progress=False, **QUICK)
    assert len(before) == len(RUNS) - missing
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(a.identical(b) for a, b in zip(resumed, undisturbed, strict=True))
    assert len(stored(root)) == len(RUNS)


def test_killed_in_mid_sweep(root, undisturbed):
    process = start(root, SLOWLY + "run()")
    wait_for_files(root, 3, process)
    process.kill()
    process.communicate()
    left = len(RUNS) - len(stored(root))
    assert process.returncode == -signal.SIGKILL and 0 < left <= len(RUNS) - 3
    assert_resumes(root, undisturbed, left)


KILLED_WHILE_WRITING = """
whole = Path.write_bytes
def half(path, data):
    if len(list(store.root.glob("*.nc"))) < 2:
        return whole(path, data)
    whole(path, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = half
run()
"""
KILLED_BEFORE_THE_RENAME = """
rename = os.replace
def kill(*paths):
    if len(list(store.root.glob("*.nc"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*paths)
os.replace = kill
run()
"""


@pytest.mark.parametrize("then", [KILLED_WHILE_WRITING, KILLED_BEFORE_THE_RENAME], ids=["while writing", "before the rename"])
def test_killed_in_mid_write(root, undisturbed, then):
    process = start(root, then)
    _, problem = process.communicate()
    assert process.returncode == -signal.SIGKILL, problem
    (leftover,) = root.glob(".*.tmp")
    assert_resumes(root, undisturbed, len(RUNS) - 2)
    assert leftover.exists()  # for all we know its writer lives
    os.utime(leftover, (time.time() - 2 * STALE,) * 2)
    stored(root)[0].unlink()
    sweep(RUNS, Store(root), progress=False, **QUICK)
    assert sorted(root.iterdir()) == stored(root)


def test_a_killed_worker_breaks_the_pool_but_loses_nothing_that_was_stored(root, undisturbed, monkeypatch):
    save = Store.save
    with monkeypatch.context() as slowly:  # the workers are forked from here; see SLOWLY
        slowly.setattr(Store, "save", lambda self, *arguments: (save(self, *arguments), time.sleep(0.5))[0])
        caught = sweep_with_a_killed_worker(root)
    left = len(RUNS) - len(stored(root))
    (error,) = caught.value.exceptions
    assert isinstance(error, BrokenProcessPool) and "runs had not ended when the executor broke" in error.__notes__[0]
    assert f" of {len(RUNS)} runs failed" in str(caught.value) and 0 < left < len(RUNS)
    assert_resumes(root, undisturbed, left)


def sweep_with_a_killed_worker(root):
    def kill_one():
        while not stored(root):
            time.sleep(0.005)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with ProcessPoolExecutor(2) as pool, pytest.raises(ExceptionGroup, match="second call resumes") as caught:
        sweep(RUNS, Store(root), pool, progress=False, **QUICK)
    killer.join()
    return caught


def test_an_interrupt_ends_the_sweep_soon_and_keeps_what_is_stored(root, undisturbed):
    process = start(root, SLOWLY + "with ProcessPoolExecutor(1) as pool:\n    run(pool)")
    wait_for_files(root, 1, process)
    os.kill(process.pid, signal.SIGINT)  # the parent alone, as a notebook's stop button does: its worker ends the task at hand
    _, message = process.communicate()
    left = len(RUNS) - len(stored(root))
    assert process.returncode != 0 and f"what was finished is stored in {root}; a second call resumes" in message
    assert left > 0
    assert_resumes(root, undisturbed, left)


FULL = """
try:
    run()
    errors = []
except ExceptionGroup as group:
    errors = [[type(e).__name__, e.errno, e.filename] for e in group.exceptions]
kept = sorted(p.name for p in store.root.iterdir())
good = [p.stem in store for p in store.root.iterdir()]
"""
ROOM = "store.root.mkdir(); subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=128k', 'none', store.root], check=True)"
MORE_ROOM = "subprocess.run(['mount', '-o', 'remount,size=4m', store.root], check=True)"
# a file system of 128 KiB, which only root may mount, in a mount namespace that ends with the process; and a limit on any file's size, for everybody
DISKS = {
    "tmpfs": ("import subprocess; " + ROOM, MORE_ROOM, ["unshare", "--mount"]),
    "limit": (
        "import resource; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, -1))",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))",
        [],
    ),
}


def may_mount():
    attempt = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o size=128k none /tmp"]
    try:
        return subprocess.run(attempt, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("disk", DISKS)
def test_a_full_disk_leaves_nothing_wrong_and_is_named(root, undisturbed, disk, tmp_path):
    if disk == "tmpfs" and not may_mount():
        pytest.skip("no right to mount a small file system here")
    fill, widen, before = DISKS[disk]
    again = "\nresults = run()\nprint(json.dumps([errors, kept, good]))\nelsewhere = Store(sys.argv[1] + '-out')\n"
    copy = "for key, ds in zip(map(str, range(10)), results): elsewhere.save(key, ds)"
    process = start(root, "\n".join([fill, FULL, widen]) + again + copy, before)
    out, problem = process.communicate()
    assert process.returncode == 0, problem
    errors, kept, good = json.loads(out)
    assert errors and all(good) and len(kept) + len(errors) == len(RUNS) and (kept or disk == "limit")
    assert all(name.endswith(".nc") for name in kept)
    for kind, number, path in errors:
        assert (kind, number) == ("OSError", 28 if disk == "tmpfs" else 27) and path.startswith(str(root)) and path.endswith(".nc")
    for key, expected in enumerate(undisturbed):
        again = Store(f"{root}-out").load(str(key))
        assert again.drop_attrs().identical(expected.drop_attrs()) and again.attrs["problem_hash"] == expected.attrs["problem_hash"]


TOGETHER = """
made = []
save = Store.save
Store.save = lambda *arguments: made.append(save(*arguments))
Path(sys.argv[1] + f"-ready-{os.getpid()}").touch()
while not Path(sys.argv[1] + "-go").exists():
    time.sleep(0.001)
run()
print(len(made))
"""


def test_two_sweeps_at_once_share_one_store(root, undisturbed):
    processes = [start(root, TOGETHER) for _ in range(2)]
    while len(list(root.parent.glob("*-ready-*"))) < 2:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)
    (root.parent / "results-go").touch()
    ended = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert all(error == "" for _, error in ended)
    counts = [int(out) for out, _ in ended]
    # each takes the runs in an order of its own: that none was spared has probability below 2/10!
    assert len(RUNS) <= sum(counts) < 2 * len(RUNS)
    assert sorted(root.iterdir()) == stored(root)
    assert_resumes(root, undisturbed, 0)
