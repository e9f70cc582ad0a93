"""Threads: the numbers of an ensemble do not depend on them, failures and Ctrl-C end all of them."""

import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch

from grokutils.sampling import METHODS, run, sample
from grokutils.sampling._measure import Measure

QUICK = dict(draws=4, warmup=6, thin=2, progress=False)


@pytest.fixture
def many_units(monkeypatch):
    """One network a unit of work (for hmc one data set)."""
    monkeypatch.setattr(run, "_UNIT", 1)


def meddle(monkeypatch, action):
    """Call ``action(measure)`` before every measurement; the list returned counts them."""
    calls, original = [], Measure.__call__

    def call(self, *state):
        calls.append(threading.current_thread().name)
        action(self)
        return original(self, *state)

    monkeypatch.setattr(Measure, "__call__", call)
    return calls


def assert_all_stopped():
    assert not [t for t in threading.enumerate() if t.name.startswith("sample_")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_numbers_do_not_depend_on_the_number_of_threads(small, many_units, monkeypatch, method, dtype):
    threads = meddle(monkeypatch, lambda measure: None)
    one, two, five = (sample(small, datasets=3, chains=2, method=method, dtype=dtype, jobs=jobs, **QUICK) for jobs in (1, 2, 5))
    assert one.identical(two) and one.identical(five)
    assert "MainThread" in threads and {"sample_0", "sample_1"} <= set(threads)  # both ways were taken


@pytest.mark.parametrize("method", METHODS)
def test_the_first_data_sets_of_a_larger_ensemble_are_those_of_a_smaller_one(small, many_units, method):
    more, fewer = (sample(small, datasets=datasets, chains=2, method=method, **QUICK) for datasets in (4, 3))
    assert more.isel(dataset=slice(3)).equals(fewer)  # bit for bit: the same units of work


@pytest.mark.parametrize("method", METHODS)
def test_how_the_ensemble_is_cut_changes_round_off_alone(tiny, monkeypatch, method):
    settings = dict(chains=2, method=method, dtype="float64", **QUICK)
    together, fewer = sample(tiny, datasets=4, **settings), sample(tiny, datasets=1, **settings)
    monkeypatch.setattr(run, "_UNIT", 1)
    apart = sample(tiny, datasets=4, **settings)
    for name in ("learned", "energy", "test_loss"):
        np.testing.assert_allclose(together[name], apart[name], rtol=1e-7)
        np.testing.assert_allclose(together[name][:1], fewer[name], rtol=1e-7)


def test_units_cover_the_ensemble_once_and_in_order(small):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for chains in (1, 2, 7, 40):
        for per_dataset in (False, True):
            units = run._units(small, 5, chains, per_dataset, cpu)
            assert [(j, c) for u in units for j in u.datasets for c in u.chains] == [(j, c) for j in range(5) for c in range(chains)]
            assert run._units(small, 4, chains, per_dataset, cpu)[:-1] == units[: len(run._units(small, 4, chains, per_dataset, cpu)) - 1]
            assert not per_dataset or len(units) == 5
            for u in units:
                networks = len(u.datasets) * len(u.chains)
                assert per_dataset or networks == 1 or networks * small.samples * small.width <= run._UNIT
        assert run._units(small, 5, chains, False, cuda) == [(range(5), range(chains))]


def test_a_failure_in_one_thread_reaches_the_caller_and_stops_the_others(tiny, many_units, monkeypatch):
    def fail_on_the_second(measure):
        if threading.current_thread().name == "sample_1":
            raise RuntimeError("the chain has diverged")

    calls = meddle(monkeypatch, fail_on_the_second)
    with pytest.raises(RuntimeError, match="diverged"):
        sample(tiny, datasets=2, chains=1, draws=20_000, warmup=0, thin=1, progress=False, jobs=2)
    assert_all_stopped()
    assert len(calls) < 20_000


def test_a_diverged_chain_is_reported_from_a_thread(tiny, many_units):
    with pytest.raises(RuntimeError, match="step_size"):
        sample(tiny, datasets=25, chains=2, draws=4, warmup=60, step_size=1.5, progress=False, jobs=2)


def test_an_interrupt_stops_all_threads(tiny, many_units, monkeypatch):
    main = threading.main_thread().ident

    number = itertools.count()

    def interrupt(measure):
        if next(number) == 5:
            signal.pthread_kill(main, signal.SIGINT)

    calls = meddle(monkeypatch, interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            sample(tiny, datasets=4, chains=1, draws=20_000, warmup=0, thin=1, progress=False, jobs=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert_all_stopped()
    assert len(calls) < 40_000


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("fail", [False, True])
def test_the_callers_number_of_torch_threads_comes_back(tiny, many_units, monkeypatch, jobs, fail):
    seen = []

    def look(measure):
        seen.append(torch.get_num_threads())
        if fail:
            raise RuntimeError("as arranged")

    meddle(monkeypatch, look)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        if fail:
            with pytest.raises(RuntimeError, match="as arranged"):
                sample(tiny, datasets=2, jobs=jobs, **QUICK)
        else:
            sample(tiny, datasets=2, jobs=jobs, **QUICK)
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("jobs", [0, -1, 1.5, "two"])
def test_bad_jobs_are_named(tiny, jobs):
    with pytest.raises(ValueError, match="jobs"):
        sample(tiny, jobs=jobs, **QUICK)


def test_by_default_all_cores_are_used_but_one_in_a_worker():
    assert run._jobs(3) == 3
    assert run._jobs(None) == (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    with ThreadPoolExecutor(1) as threads, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        assert threads.submit(run._jobs, None).result() == processes.submit(run._jobs, None).result() == 1


def test_the_progress_bar_ends_full(tiny, many_units, capsys):
    for method in METHODS:
        sample(tiny, datasets=2, chains=3, method=method, jobs=2, **(QUICK | {"progress": True}))
        assert "84/84" in capsys.readouterr().err.split("\r")[-1]
