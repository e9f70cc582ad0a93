"""Notebooks run with other parameters: every name used here or in the README is one of the notebook's, and a few really run."""

import re
import warnings
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parents[2]

# notebook -> the parameters of one run that differs from the committed one
RUNS = {
    "03_gaussian_integrals": {"dimension": 30, "overlap_example": 0.5},
    "05_self_consistency": {"noise_variance": 0.12, "norm": "fixed"},
    "07_sampling_ensembles": {"noise_variance": 0.25, "datasets": 2},
    "27_phases": {"pairs": 40},
    "32_committee": {"curvature": 0.1, "laziness": 2.0},
    "36_where_theories_meet": {"curvature": 0.1, "width": 60},
    "42_known_and_open": {"level": 0.25},
}
DOCUMENTED = ["README.md", "CONTRIBUTING.md", "book/how_to_read.md", "book/index.md"]


def parameters(notebook):
    """Names and default values in the `parameters` cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return papermill.inspect_notebook(str(ROOT / "notebooks" / f"{notebook}.ipynb"))


def documented():
    """(page, notebook, name) of every papermill command that the pages print."""
    for page in DOCUMENTED:
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ") if (ROOT / page).exists() else ""
        for line in re.findall(r"papermill\s+(?:notebooks/)?(\w+)\.ipynb([^\n`]*)", text):
            yield from ((page, line[0], name) for name in re.findall(r"-p\s+(\w+)\s+\S+", line[1]))


@pytest.mark.parametrize(("notebook", "name"), [(notebook, name) for notebook, names in RUNS.items() for name in names])
def test_names_of_the_runs_exist(notebook, name):
    assert name in parameters(notebook)


@pytest.mark.parametrize(("page", "notebook", "name"), list(documented()))
def test_names_in_the_documentation_exist(page, notebook, name):
    assert name in parameters(notebook)


def test_the_documentation_shows_at_least_one_run():
    assert list(documented())


def test_an_unknown_name_is_noticed():
    assert "noise_varience" not in parameters("05_self_consistency")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", RUNS)
@pytest.mark.filterwarnings("default")
def test_runs_with_other_parameters(notebook, tmp_path):
    out = tmp_path / f"{notebook}.ipynb"
    result = papermill.execute_notebook(
        str(ROOT / "notebooks" / f"{notebook}.ipynb"),
        str(out),
        parameters=RUNS[notebook],
        kernel_name="python3",
        cwd=str(ROOT / "notebooks"),
        progress_bar=False,
        execution_timeout=600,
    )
    injected = [cell for cell in result.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert len(injected) == 1
    assert not [output for cell in result.cells for output in cell.get("outputs", []) if output.output_type == "error"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_an_unknown_preset_stops_the_run(tmp_path):
    notebook = next(iter(RUNS))
    with pytest.raises(papermill.PapermillExecutionError, match="KeyError"):
        papermill.execute_notebook(
            str(ROOT / "notebooks" / f"{notebook}.ipynb"),
            str(tmp_path / "out.ipynb"),
            parameters={"preset": "huge"},
            kernel_name="python3",
            cwd=str(ROOT / "notebooks"),
            progress_bar=False,
        )
