"""Many problems through one sampler on any executor; what is stored is not computed again."""

from __future__ import annotations

import contextlib
import inspect
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, wait

import xarray as xr
from tqdm.auto import tqdm

from grokutils.store import Store

PATIENCE = 60.0  # seconds until a file that another machine wrote must be seen here: network file systems remember that long that it was not
_HOW_NOT_WHAT = {"progress", "jobs"}  # arguments of ``sample`` that do not change its numbers


def settings_of(problem, function: Callable | None = None, **kwargs) -> dict:
    """The settings of ``function`` (None: ``sample``) that differ from its defaults, and the algorithm's version: what decides the numbers.

    Defaults are left out so that a new argument does not stale what is stored.
    """
    from grokutils.sampling.run import ALGORITHM_VERSION, sample

    parameters = list(inspect.signature(function or sample).parameters.values())[1:]  # the first is the problem
    defaults, names = {p.name: p.default for p in parameters if p.default is not p.empty}, {p.name for p in parameters}
    unknown = set(kwargs) - names
    if unknown:
        raise ValueError(f"{(function or sample).__name__} has no argument {sorted(unknown)}; it has {sorted(names)}")
    kept = {k: v for k, v in kwargs.items() if k not in _HOW_NOT_WHAT and not (k in defaults and v == defaults[k])}
    if function is None:
        return kept | {"algorithm_version": ALGORITHM_VERSION[kwargs.get("method", defaults["method"])]}
    return kept | {"function": f"{function.__module__}.{function.__qualname__}", "algorithm_version": getattr(function, "version", 1)}


def run_one(problem, kwargs: dict, root=None, function: Callable | None = None) -> xr.Dataset | str:
    """Compute one problem; with a store's root save it there, unless it is there by now, and return its key, else return the dataset."""
    from grokutils.sampling import sample

    compute, quiet = function or sample, {"progress": False} if function is None else {}
    if root is None:
        return compute(problem, **(kwargs | quiet))
    store, key = Store(root), Store.key(problem, settings_of(problem, function, **kwargs))
    if key not in store:  # another sweep may have made it since this one began
        store.save(key, compute(problem, **(kwargs | quiet)))
    return key


def sweep(
    problems: Iterable, store: Store | None = None, executor: Executor | None = None, progress: bool = True, *,
    function: Callable | None = None, **kwargs,
) -> list[xr.Dataset]:
    """Sample every problem, or put it through another function, and return the datasets in the order of the problems.

    Args:
        problems: problems, or pairs (problem, settings) whose settings override ``kwargs``.
        store: results found there are not computed again; new ones are saved as they come, so a killed sweep resumes. Several
            sweeps may share it; each goes through its problems in an order of its own, so that they seldom do the same work.
            What is returned is what was stored, floats as float32; without a store nothing is rounded.
        executor: anything with ``submit``, such as a ProcessPoolExecutor, or a ``dask.distributed.Client``; one core a task
            (``jobs=1`` unless given); None: here, one by one.
        progress: show a bar over problems.
        function: what makes a dataset of a problem: ``sample`` if None, or a function of a module, ``function(problem, **kwargs)``, whose
            results the store finds by its name, its arguments and its attribute ``version`` (raise it when its numbers change).
        kwargs: arguments of ``sample``, or of ``function``.

    Raises:
        ExceptionGroup: some problems failed, or the executor lost them; the others were finished (and stored) first.
        OSError: nothing can be written to the store.
        ValueError: an argument that ``sample`` (or ``function``) does not have.
    """
    jobs = [(item[0], kwargs | dict(item[1])) if isinstance(item, tuple) else (item, kwargs) for item in problems]
    keys = [Store.key(p, settings_of(p, function, **k)) for p, k in jobs]
    results = {key: store.load(key) if store else None for key in keys}
    missing = {key: job for key, job in zip(keys, jobs) if results[key] is None}
    errors, made = {}, set()
    if store and missing:
        store.root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=store.root).close()  # better to hear now than after hours that nothing can be written
    with tqdm(total=len(results), initial=len(results) - len(missing), disable=not progress, unit="run") as bar, _says_how_to_resume(store):
        cores = {} if executor is None or function else {"jobs": 1}  # a worker leaves the other cores to its neighbours
        tasks = {key: (p, cores | k, store.root if store else None, function) for key, (p, k) in missing.items()}
        with contextlib.closing(outcomes(executor, run_one, _shuffled(tasks) if store else tasks)) as ended:
            for key, outcome in ended:
                if isinstance(outcome, BaseException):
                    errors[key] = outcome
                elif store:
                    made.add(key)
                else:
                    results[key] = outcome
                bar.update()
    deadline = time.monotonic() + PATIENCE
    for key in made:
        results[key] = _arrived(store, key, deadline)
        if results[key] is None:
            errors[key] = FileNotFoundError(f"a worker stored {store.path(key)}, but no good file is here: do all machines share this folder?")
    if errors:
        raise _report(errors, missing, len(results), store)
    return [results[key] for key in keys]


def outcomes(executor, function: Callable, tasks: dict) -> Iterator[tuple]:
    """(name, result or exception) of every task (name: arguments) as it ends; what has not begun is cancelled when the caller stops."""
    if executor is None:
        for name, task in tasks.items():
            try:
                yield name, function(*task)
            except Exception as error:
                yield name, error
        return
    client = getattr(executor, "_client", None)  # of a Dask executor
    if hasattr(executor, "get_executor"):  # a Dask client, whose own futures are of another kind
        client, executor = executor, executor.get_executor(pure=False)
    futures = {}
    try:
        for name, task in tasks.items():
            try:
                futures[executor.submit(function, *task)] = name
            except BrokenExecutor as error:
                yield name, error
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=None if client is None else 1.0, return_when=FIRST_COMPLETED)
            if not done and client.status == "closed":  # then some of Dask's futures are never told
                done, pending = pending, set()
            for future in done:
                try:
                    yield futures[future], future.exception(timeout=0) or future.result()
                except (CancelledError, TimeoutError):
                    yield futures[future], CancelledError()
    finally:
        for future in futures:
            future.cancel()


def _shuffled(tasks: dict) -> dict:
    return {key: tasks[key] for key in random.SystemRandom().sample(list(tasks), len(tasks))}


def _arrived(store: Store, key: str, deadline: float) -> xr.Dataset | None:
    while not store.path(key).exists() and time.monotonic() < deadline:
        os.listdir(store.root)  # makes a network file system look again
        time.sleep(min(1.0, PATIENCE))
    return store.load(key)


@contextlib.contextmanager
def _says_how_to_resume(store):
    try:
        yield
    except KeyboardInterrupt as stop:
        if store:
            stop.add_note(f"what was finished is stored in {store.root}; a second call resumes")
        raise


def _report(errors: dict, jobs: dict, total: int, store) -> BaseExceptionGroup:
    """One exception a failed run; runs that a broken pool lost share one."""
    lost = [key for key, error in errors.items() if isinstance(error, BrokenExecutor | CancelledError)]
    failed = [key for key in errors if key not in lost]
    for key in failed:
        errors[key].add_note(f"problem: {jobs[key][0]}")
    kept = f"the other {total - len(errors)} are stored in {store.root}; a second call resumes" if store else "nothing was stored"
    group = [errors[key] for key in failed]
    if lost:
        errors[lost[0]].add_note(f"{len(lost)} runs had not ended when the executor broke or was stopped (was a worker killed, for memory perhaps?)")
        group.append(errors[lost[0]])
    return BaseExceptionGroup(f"{len(errors)} of {total} runs failed; {kept}", group)
