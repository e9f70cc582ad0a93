"""Many problems through one sampler on any executor; what is stored is not computed again."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor, as_completed

import xarray as xr
from tqdm.auto import tqdm

from grokutils.store import Store


def settings_of(problem, **kwargs) -> dict:
    """The settings of ``sample`` that differ from its defaults, and the algorithm's version: what decides the numbers.

    Defaults are left out so that a new argument of ``sample`` does not stale what is stored.
    """
    import inspect

    from grokutils.sampling.run import ALGORITHM_VERSION, sample

    defaults = {n: p.default for n, p in inspect.signature(sample).parameters.items() if p.default is not p.empty}
    unknown = set(kwargs) - set(defaults)
    if unknown:
        raise ValueError(f"sample has no argument {sorted(unknown)}; it has {sorted(defaults)}")
    version = ALGORITHM_VERSION[kwargs.get("method", defaults["method"])]
    return {k: v for k, v in kwargs.items() if k != "progress" and v != defaults[k]} | {"algorithm_version": version}


def run_one(problem, kwargs: dict, root=None) -> xr.Dataset | str:
    """Sample one problem; with a store's root save it there and return its key, else return the dataset."""
    from grokutils.sampling import sample

    ds = sample(problem, **(kwargs | {"progress": False}))
    if root is None:
        return ds
    key = Store.key(problem, settings_of(problem, **kwargs))
    Store(root).save(key, ds)
    return key


def sweep(
    problems: Iterable, store: Store | None = None, executor: Executor | None = None, progress: bool = True, **kwargs
) -> list[xr.Dataset]:
    """Sample every problem and return the datasets in the order of the problems.

    Args:
        problems: problems, or pairs (problem, settings) whose settings override ``kwargs``.
        store: results found there are not computed again; new ones are saved as they come, so a killed sweep resumes.
        executor: anything with ``submit``, such as a ProcessPoolExecutor or ``dask.distributed.Client.get_executor()``;
            None: here, one by one.
        progress: show a bar over problems.
        kwargs: arguments of ``sample``.

    Raises:
        ExceptionGroup: some problems failed; the others were finished (and stored) first.
        ValueError: an argument that ``sample`` does not have.
    """
    jobs = [(item[0], kwargs | dict(item[1])) if isinstance(item, tuple) else (item, kwargs) for item in problems]
    keys = [Store.key(p, settings_of(p, **k)) for p, k in jobs]
    results = [store.load(key) if store else None for key in keys]
    root = store.root if store else None
    missing = [i for i, ds in enumerate(results) if ds is None]
    errors = []
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), disable=not progress, unit="run") as bar:
        for i, outcome in _outcomes(executor, [(i, *jobs[i], root) for i in missing]):
            if isinstance(outcome, Exception):
                outcome.add_note(f"problem: {jobs[i][0]}")
                errors.append(outcome)
            else:
                results[i] = store.load(outcome) if store else outcome
            bar.update()
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(jobs)} runs failed", errors)
    return results


def _outcomes(executor, tasks):
    """(index, result or exception) of every task as it ends."""
    if executor is None:
        for i, *task in tasks:
            try:
                yield i, run_one(*task)
            except Exception as error:
                yield i, error
        return
    futures = {executor.submit(run_one, *task): i for i, *task in tasks}
    for future in as_completed(futures):
        error = future.exception()
        yield futures[future], error if error is not None else future.result()
