"""What every notebook must have: its form, not its physics."""

import ast
import json
import re
import statistics
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


def outputs(path, kind=None):
    return [output for cell in cells(path, "code") for output in cell["outputs"] if kind in (None, output["output_type"])]


def html(path):
    return ["".join(output["data"].get("text/html", "")) for output in outputs(path) if "data" in output]


def test_begins_with_a_title(path):
    assert source(cells(path, "markdown")[0]).startswith("# ")


def test_has_one_parameters_cell_that_starts_with_the_preset(path):
    found = [source(cell) for cell in cells(path, "code") if "parameters" in tags(cell)]
    assert len(found) == 1
    assert found[0].startswith('preset = "quick"')


def test_papermill_sees_every_parameter(path):
    # it stumbles over an equals sign in a comment and over tuple assignments, and then takes the name for unknown
    (parameters,) = (source(cell) for cell in cells(path, "code") if "parameters" in tags(cell))
    names = {target.id for statement in ast.parse(parameters).body for target in ast.walk(statement) if isinstance(target, ast.Name)}
    assert names == set(papermill.inspect_notebook(str(path)))


def test_was_run_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in cells(path, "code") if source(cell).strip()]
    assert counts == list(range(1, len(counts) + 1))


def test_has_no_error_and_no_warning_among_its_outputs(path):
    unwanted = [output for output in outputs(path, "stream") if output["name"] == "stderr"]
    expected = [cell for cell in cells(path, "code") if "raises-exception" in tags(cell)]
    assert unwanted == []
    assert len(outputs(path, "error")) == len(expected)


def test_cells_are_short_and_explained(path):
    code = [source(cell) for cell in cells(path, "code") if source(cell).strip()]
    lengths = [len(text.splitlines()) for text in code]
    words = sum(len(source(cell).split()) for cell in cells(path, "markdown"))
    assert statistics.median(lengths) <= 10
    assert max(lengths) <= 40
    assert words / len(code) >= 80


def test_figures_say_what_they_show(path):
    drawings = [svg for text in html(path) for svg in re.findall(r"<svg\b[^>]*>", text)]
    named = [svg for svg in drawings if re.search(r'aria-label(ledby)?="[^"]{20,}"', svg)]
    images = [output for output in outputs(path) if "image/png" in output.get("data", {})]
    assert images == [], "every figure is shown by grokutils.figures, which gives it a caption and a text"
    assert len(named) == len(drawings)


def test_has_exercises_with_answers(path):
    text = "\n".join(map(source, cells(path, "markdown")))
    assert re.search(r"^#+ Exercises", text, re.MULTILINE)
    assert text.count("<details") == text.count("</details>") > 0


def test_names_no_path_of_a_machine(path):
    assert not re.search(r"(?<![\w.])/(?:home|root|Users|work|tmp|opt)/\w|site-packages", path.read_text(encoding="utf-8"))
