"""``sweep`` on a Dask cluster: two worker processes on this machine, reached through the loopback interface alone."""

import ast
import importlib
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from grokutils.problems import TeacherStudent
from grokutils.store import Store
from grokutils.sweep import settings_of, sweep

distributed = pytest.importorskip("distributed")

P = TeacherStudent(samples=10, dimension=3, width=4, noise_variance=0.3, readout_variance=2.0, weight_variance=0.8, teacher={1: 1.0, 3: -0.3})
QUICK = dict(datasets=2, draws=100, warmup=4, thin=1)
RUNS = [(P, {"seed": seed}) for seed in range(10)]


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return sweep(RUNS, Store(tmp_path_factory.mktemp("serial")), progress=False, **QUICK)


def identical(a, b):
    return all(x.identical(y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("wrap", [lambda client: client, lambda client: client.get_executor()], ids=["client", "executor"])
def test_a_cluster_gives_the_same_numbers(client, serial, tmp_path, wrap):
    assert identical(sweep(RUNS, Store(tmp_path), wrap(client), progress=False, **QUICK), serial)


def test_without_a_store_the_results_come_back(client):
    here, there = (sweep(RUNS[:2], executor=executor, progress=False, **QUICK) for executor in (None, client))
    assert identical(here, there)


def test_a_worker_killed_in_mid_run_loses_nothing(client, serial, tmp_path):
    before, killed = client.run(os.getpid), []

    def kill_one():
        while not list(tmp_path.glob("*.nc")):
            time.sleep(0.005)
        killed.append((next(iter(before.values())), len(list(tmp_path.glob("*.nc")))))
        os.kill(killed[0][0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    results = sweep(RUNS, Store(tmp_path), client, progress=False, **QUICK)
    killer.join()
    assert identical(results, serial)
    assert killed[0][1] < len(RUNS)
    assert len(list(tmp_path.glob("*.nc"))) == len(RUNS) >= len(list(tmp_path.iterdir())) - 1  # at most what the dead was writing is left
    client.wait_for_workers(2, timeout=60)
    assert killed[0][0] not in client.run(os.getpid).values()


def test_a_failed_run_is_reported_from_the_cluster(client, tmp_path):
    broken = P.replace(noise_variance=1e-12)
    with pytest.raises(ExceptionGroup, match="1 of 2 runs failed; the other 1 are stored") as caught:
        sweep([P, (broken, {"step_size": 1e6})], Store(tmp_path), client, progress=False, **QUICK)
    assert isinstance(caught.value.exceptions[0], RuntimeError) and "1e-12" in caught.value.exceptions[0].__notes__[0]


def test_a_lost_connection_is_reported_and_the_sweep_resumes(client, serial, tmp_path):
    """As when the scheduler's own job ends: the futures are cancelled, what is stored is kept."""
    ours = distributed.Client(client.scheduler.address)

    def stop():
        while not list(tmp_path.glob("*.nc")):
            time.sleep(0.005)
        ours.close()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(ExceptionGroup, match="a second call resumes") as caught:
        sweep(RUNS, Store(tmp_path), ours, progress=False, **QUICK)
    stopper.join()
    assert "runs had not ended when the executor broke or was stopped" in caught.value.exceptions[0].__notes__[0]
    assert 0 < len(list(tmp_path.glob("*.nc"))) < len(RUNS)
    assert identical(sweep(RUNS, Store(tmp_path), client, progress=False, **QUICK), serial)


def test_the_programs_of_the_page_are_python_and_their_names_exist():
    page = (Path(__file__).resolve().parents[1] / "book" / "cluster.md").read_text(encoding="utf-8")
    codes = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    imports = [node for code in codes for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    ours = {(node.module, alias.name) for node in imports for alias in node.names if node.module.startswith("grokutils")}
    assert len(ours) >= 4 and all(hasattr(importlib.import_module(module), name) for module, name in ours)
    scope = {}
    exec(codes[0], scope)
    assert all(settings_of(problem, **scope["settings"]) for problem in scope["problems"])
