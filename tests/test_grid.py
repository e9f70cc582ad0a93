"""A notebook over a grid of its parameters: the right ones are run, once, and a failure takes nothing else with it."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from grokutils.notebooks import main, output_path, points, run_grid

ROOT = Path(__file__).resolve().parents[1]
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "language_info": {"name": "python"}}
QUIET = dict(progress=False)


def write(path, *sources, parameters="x = 1.0\nname = 'a'"):
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells, metadata=METADATA), path)
    return path


@pytest.fixture
def fine(tmp_path):
    """Counts its runs in a file beside it."""
    return write(tmp_path / "fine.ipynb", "with open('runs', 'a') as f:\n    f.write(f'{x!r} {name!r}\\n')", "print(name, 2 * x)")


@pytest.fixture
def fragile(tmp_path):
    """Fails at x = 2 in its third cell."""
    return write(tmp_path / "fragile.ipynb", "print('before')", "print(1 / (x - 2))", "print('after')")


def runs(notebook):
    path = notebook.parent / "runs"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def printed(path):
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.text for cell in cells for output in cell.get("outputs", []) if output.output_type == "stream" and output.name == "stdout")


def test_every_combination_is_run_once_and_a_second_call_runs_none(fine, tmp_path):
    grid = {"x": [1, 2.5], "name": ["b", "c"]}
    paths = run_grid(fine, grid, tmp_path / "out", **QUIET)
    assert [printed(path) for path in paths] == ["b 2\n", "c 2\n", "b 5.0\n", "c 5.0\n"]
    assert len(runs(fine)) == 4 and sorted((tmp_path / "out").iterdir()) == sorted(paths)
    assert run_grid(fine, grid, tmp_path / "out", **QUIET) == paths and len(runs(fine)) == 4
    more = run_grid(fine, [{"x": 2.5, "name": "c"}, {"x": 3}], tmp_path / "out", **QUIET)
    assert more[0] == paths[3] and runs(fine)[4:] == ["3 'a'"]


def test_a_failure_is_kept_and_told_and_the_rest_is_finished(fragile, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ExceptionGroup, match="1 of 3 notebooks failed") as caught:
        run_grid(fragile, {"x": [1, 2, 3]}, out, **QUIET)
    assert "x=2: cell [4]: ZeroDivisionError: division by zero (see fragile-x=2-" in caught.value.message
    good, bad, also_good = (output_path(fragile, {"x": x}, out) for x in (1, 2, 3))
    assert printed(good).endswith("after\n") and printed(also_good).endswith("after\n")
    assert sorted(out.iterdir()) == sorted([good, also_good, bad.with_suffix(".failed.ipynb")])
    assert printed(bad.with_suffix(".failed.ipynb")) == "before\n"
    times = {path: path.stat().st_mtime_ns for path in (good, also_good)}
    write(fragile, "print('before')", "print(1 / (x - 2.5))", "print('after')")  # mended: other cells, so all is run again
    run_grid(fragile, {"x": [1, 2, 3]}, out, **QUIET)
    assert sorted(out.iterdir()) == sorted([good, bad, also_good])
    assert all(path.stat().st_mtime_ns > before for path, before in times.items())


def test_what_did_not_end_does_not_count_as_finished(fine, tmp_path):
    (path,) = run_grid(fine, {"x": [4]}, tmp_path / "out", **QUIET)
    good = nbformat.read(path, as_version=4)
    for change in ({"exception": True}, {"end_time": None}, {"parameters": {"x": 5}}):
        spoilt = nbformat.from_dict(good)
        spoilt.metadata.papermill.update(change)
        nbformat.write(spoilt, path)
        run_grid(fine, {"x": [4]}, tmp_path / "out", **QUIET)
        assert nbformat.read(path, as_version=4).metadata.papermill.parameters == {"x": 4}
    path.write_bytes(path.read_bytes()[:-300])
    run_grid(fine, {"x": [4]}, tmp_path / "out", **QUIET)
    assert len(runs(fine)) == 5


def test_processes(fine, tmp_path):
    with ProcessPoolExecutor(2) as pool:
        paths = run_grid(fine, {"x": [1, 2, 3]}, tmp_path / "out", pool, **QUIET)
    assert [printed(path) for path in paths] == ["a 2\n", "a 4\n", "a 6\n"]


def test_dask(fragile, tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(ExceptionGroup, match="1 of 2 notebooks failed"),
    ):
        run_grid(fragile, {"x": [1, 2]}, tmp_path / "out", client, **QUIET)
    assert len(list((tmp_path / "out").glob("*.failed.ipynb"))) == 1 and len(list((tmp_path / "out").iterdir())) == 2


def test_a_kernel_that_dies_is_a_failure(tmp_path):
    notebook = write(tmp_path / "dies.ipynb", "print('before', flush=True)", "import os\nif x == 2:\n    os._exit(1)")
    with pytest.raises(ExceptionGroup, match=r"1 of 2 notebooks failed[^!]*x=2: DeadKernelError"):
        run_grid(notebook, {"x": [2, 3]}, tmp_path / "out", **QUIET)
    assert printed(next((tmp_path / "out").glob("*.failed.ipynb"))) == "before\n"


def test_a_cell_that_takes_too_long_is_a_failure(tmp_path):
    notebook = write(tmp_path / "slow.ipynb", "import time\ntime.sleep(x)")
    with pytest.raises(ExceptionGroup, match="x=60: CellTimeoutError"):
        run_grid(notebook, {"x": [0, 60]}, tmp_path / "out", cell_timeout=1, **QUIET)


def test_a_killed_grid_resumes(tmp_path):
    notebook = write(tmp_path / "paced.ipynb", "import time\ntime.sleep(0.3)\nwith open('runs', 'a') as f:\n    f.write(f'{x}\\n')")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "grokutils.notebooks", str(notebook), str(out), "-p", "x", "1,2,3,4"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while not list(out.glob("paced*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("paced*")}
    assert 0 < len(finished) < 4
    paths = run_grid(notebook, {"x": [1, 2, 3, 4]}, out, **QUIET)
    assert sorted(out.glob("*.ipynb")) == sorted([*paths, *out.glob(".*")])
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert set(runs(notebook)) == set("1234")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"y": [1]}, r"fine.ipynb has no parameter \['y'\]; its cell tagged 'parameters' has \['name', 'x'\]"),
        ([{"x": 1}, {"X": 1}], r"no parameter \['X'\]"),
        ({"name": "ab"}, r"grid\['name'\] must be a list of values, got 'ab'"),
        ({"x": 0.5}, r"grid\['x'\] must be a list of values, got 0.5"),
        ({"x": []}, "at least one point"),
        ([], "at least one point"),
        ({"x": [1, {2}]}, r"parameter x must be a number, .* got \{2\}"),
        ({"x": [1j]}, "parameter x must be a number"),
    ],
)
def test_a_bad_grid_is_an_error_before_anything_runs(fine, tmp_path, grid, message):
    with pytest.raises(ValueError, match=message):
        run_grid(fine, grid, tmp_path / "out", **QUIET)
    assert not runs(fine) and not (tmp_path / "out").exists()


def test_points_are_plain_and_each_comes_once():
    assert points({"x": np.array([1.0, 2.0]), "y": [(1, 2)]}) == [{"x": 1.0, "y": [1, 2]}, {"x": 2.0, "y": [1, 2]}]
    assert points([{"x": 1}, {"x": np.int64(1)}, {"x": 1.0}, {"x": True}, {"x": "1"}]) == [{"x": 1}, {"x": 1.0}, {"x": True}, {"x": "1"}]


def test_names_of_outputs_can_be_read_and_never_meet(tmp_path):
    values = [1, 1.0, True, "1", "a/b", "a b", "a_b", "x" * 300, "x" * 301, [1, 2], None, "../..", "{x}"]
    paths = [output_path("n.ipynb", {"x": value}, tmp_path) for value in values]
    assert len(set(paths)) == len(values) and all(path.parent == tmp_path and len(path.name) < 150 for path in paths)
    assert output_path("n.ipynb", {"noise_variance": 0.1, "preset": "quick"}, tmp_path).name.startswith("n-noise_variance=0.1,preset=quick-")


def test_braces_in_paths_are_just_braces(tmp_path):
    (tmp_path / "{x}").mkdir()
    notebook = write(tmp_path / "{x}" / "n.ipynb", "print(x)")
    (path,) = run_grid(notebook, {"x": [7]}, tmp_path / "{name}", **QUIET)
    assert path.exists() and printed(path) == "7\n"


def test_command_line(fragile, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main([str(fragile), out, "-p", "x", "1,3", "-p", "name", "exact,fixed"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main([str(fragile), out, "-p", "x", "1,2", "-p", "name", "exact", "--jobs", "2"]) == 1
    assert "1 of 2 notebooks failed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(fragile), out, "-p", "y", "1"])
    assert "has no parameter ['y']" in capsys.readouterr().err


@pytest.mark.slow
def test_a_notebook_of_the_book(tmp_path):
    (path,) = run_grid(ROOT / "notebooks" / "05_self_consistency.ipynb", {"noise_variance": [0.12]}, tmp_path, **QUIET)
    nb = nbformat.read(path, as_version=4)
    assert nb.metadata.papermill.parameters == {"noise_variance": 0.12} and not nb.metadata.papermill.exception
