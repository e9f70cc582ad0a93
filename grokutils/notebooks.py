"""A notebook over a grid of its parameters, by papermill on any executor; what is finished is not run again."""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import itertools
import json
import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from grokutils.store import STALE, publish, remove_stale
from grokutils.sweep import outcomes


def points(grid: Mapping | Iterable[Mapping]) -> list[dict]:
    """The points of a grid, each once: all combinations of {name: values}, or the given list of {name: value}.

    Raises:
        ValueError: no point, values that are no list, or a value that a notebook cannot be given.
    """
    if isinstance(grid, Mapping):
        for name, values in grid.items():
            if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
                raise ValueError(f"grid[{name!r}] must be a list of values, got {values!r}")
        chosen = [dict(zip(grid, combination)) for combination in itertools.product(*grid.values())]
    else:
        chosen = [dict(point) for point in grid]
    chosen = [{name: _plain(name, value) for name, value in point.items()} for point in chosen]
    if not chosen:
        raise ValueError(f"grid must have at least one point, got {grid!r}")
    return list({_text(point): point for point in chosen}.values())


def output_path(notebook: str | Path, point: Mapping, folder: str | Path) -> Path:
    """Where the output of a point goes: its values, for people, and a hash of the whole point, for the computer."""
    readable = re.sub(r"[^\w.,=+-]+", "_", ",".join(f"{name}={value}" for name, value in point.items()))[:100]
    name = f"{Path(notebook).stem}-{readable}-{hashlib.sha256(_text(point).encode()).hexdigest()[:8]}.ipynb"
    return Path(folder).expanduser().absolute() / name


def run_grid(
    notebook: str | Path, grid: Mapping | Iterable[Mapping], folder: str | Path, executor: Executor | None = None, *,
    kernel_name: str = "python3", cell_timeout: int | None = None, progress: bool = True,
) -> list[Path]:
    """Run a notebook at every point of a grid, in the notebook's own folder, and return the outputs in the order of ``points(grid)``.

    Args:
        notebook: its parameters stand in the cell tagged ``parameters``.
        grid: {name: list of values} for all combinations, or a list of {name: value}.
        folder: of the outputs, on a file system that all workers share. A finished output of the same cells and parameters is not run
            again, so a stopped grid resumes. Of a failed point the cells until the error are kept, as ``*.failed.ipynb``.
        executor: as in ``sweep``: a ProcessPoolExecutor, a ``dask.distributed.Client``; None: here, one by one.
        kernel_name: Jupyter kernel.
        cell_timeout: seconds after which a cell has failed; None: never.
        progress: show a bar over points.

    Raises:
        ExceptionGroup: some points failed; the others were finished first. The message is a table of what failed and why.
        ValueError: a parameter that the notebook does not have (nothing is run then), or a bad grid.
    """
    import nbformat

    notebook, chosen = Path(notebook).expanduser().absolute(), points(grid)
    _check_names(notebook, chosen)
    paths = [output_path(notebook, point, folder) for point in chosen]
    cells = _sources(nbformat.read(notebook, as_version=4))
    missing = [i for i, (point, path) in enumerate(zip(chosen, paths)) if not _finished(path, cells, point)]
    tasks = {i: (notebook, chosen[i], paths[i], kernel_name, cell_timeout) for i in missing}
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    failed = {}
    with (
        tqdm(total=len(chosen), initial=len(chosen) - len(missing), disable=not progress, unit="notebook") as bar,
        contextlib.closing(outcomes(executor, run_point, tasks)) as ended,
    ):
        for i, outcome in ended:
            if outcome is not None:
                failed[i] = outcome
            bar.update()
    if failed:
        raise _report(failed, chosen, paths)
    return paths


def run_point(notebook: Path, point: dict, path: Path, kernel_name: str, cell_timeout: int | None) -> str | None:
    """Run a notebook at one point; None when it went well, else what went wrong, in a line."""
    import papermill

    partial, failed = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.running.ipynb"), path.with_suffix(".failed.ipynb")
    try:
        papermill.execute_notebook(
            _no_format(notebook), _no_format(partial), parameters=point, kernel_name=kernel_name, cwd=str(notebook.parent),
            progress_bar=False, execution_timeout=cell_timeout,
        )
        publish(partial, path)
        failed.unlink(missing_ok=True)
        remove_stale(path.parent, ".*.running.ipynb", path.stat().st_mtime, 7 * STALE)
    except Exception as error:
        if partial.exists():
            publish(partial, failed)
        if isinstance(error, papermill.PapermillExecutionError):
            return f"cell [{error.exec_count}]: {error.ename}: {error.evalue}"
        return f"{type(error).__name__}: {error}"
    finally:
        partial.unlink(missing_ok=True)
    return None


def _check_names(notebook: Path, chosen: list[dict]) -> None:
    import papermill

    known = papermill.inspect_notebook(_no_format(notebook))
    unknown = sorted({name for point in chosen for name in point} - set(known))
    if unknown:
        raise ValueError(f"{notebook.name} has no parameter {unknown}; its cell tagged 'parameters' has {sorted(known)}")


def _plain(name: str, value):
    """A value as papermill can write it into a cell and into the notebook's metadata."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    try:
        return json.loads(json.dumps(value))  # tuples as lists: papermill would pass them as strings
    except (TypeError, ValueError) as error:
        raise ValueError(f"parameter {name} must be a number, a string, a truth value, None, or a list or dict of these, got {value!r}") from error


def _text(point: Mapping) -> str:
    return json.dumps(point, sort_keys=True)


def _no_format(path: Path) -> str:
    """Papermill fills braces in paths with parameters; these are meant as they are."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _sources(nb) -> list[str]:
    return [cell.source for cell in nb.cells if "injected-parameters" not in cell.metadata.get("tags", [])]


def _finished(path: Path, cells: list[str], point: dict) -> bool:
    """Whether an output is that of these cells at this point, run to its end."""
    import nbformat

    try:
        nb = nbformat.read(path, as_version=4)
        record = nb.metadata.papermill
        return _sources(nb) == cells and _text(record.parameters) == _text(point) and not record.exception and bool(record.end_time)
    except Exception:  # none there, or not one that papermill wrote
        return False


def _report(failed: dict, chosen: list[dict], paths: list[Path]) -> BaseExceptionGroup:
    rows = []
    for i, outcome in sorted(failed.items()):
        what = outcome if isinstance(outcome, str) else f"{type(outcome).__name__}: {outcome}"
        kept = paths[i].with_suffix(".failed.ipynb")
        rows.append(f"{', '.join(f'{k}={v!r}' for k, v in chosen[i].items())}: {what}" + (f" (see {kept.name})" if kept.exists() else ""))
    errors = [RuntimeError(row) if isinstance(failed[i], str) else failed[i] for row, i in zip(rows, sorted(failed))]
    table = "\n  ".join([f"{len(failed)} of {len(chosen)} notebooks failed; the others are in {paths[0].parent}; a second call resumes", *rows])
    return BaseExceptionGroup(table, errors)


def _values(text: str) -> list:
    """``0.1,0.2`` or ``exact,fixed`` or ``(1, 2),(3, 4)``: Python literals, and strings without quotes."""
    def literal(word):
        try:
            return ast.literal_eval(word.strip())
        except (ValueError, SyntaxError):
            return word.strip()

    try:
        return ast.literal_eval(f"[{text}]")
    except (ValueError, SyntaxError):
        return [literal(word) for word in text.split(",")]


def main(arguments: list[str] | None = None) -> int:
    """``python -m grokutils.notebooks NOTEBOOK FOLDER -p NAME VALUE,VALUE,... [-p ...] [--jobs N]``; 1 when a point failed."""
    parser = argparse.ArgumentParser(prog="python -m grokutils.notebooks", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("folder", type=Path, help="of the outputs")
    parser.add_argument("-p", nargs=2, action="append", required=True, metavar=("NAME", "VALUES"), help="a parameter and its values")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time (default: 1)")
    parser.add_argument("--kernel", default="python3", help="Jupyter kernel (default: python3)")
    options = parser.parse_args(arguments)
    grid = {name: _values(text) for name, text in options.p}
    with ProcessPoolExecutor(options.jobs) if options.jobs > 1 else contextlib.nullcontext() as pool:
        try:
            paths = run_grid(options.notebook, grid, options.folder, pool, kernel_name=options.kernel)
        except (ValueError, FileNotFoundError) as error:
            parser.error(str(error))
        except BaseExceptionGroup as group:
            print(group.message, file=sys.stderr)
            return 1
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
