"""The normal form of notebooks: what it drops, what it keeps, and that it is a fixed point."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("normalise_notebooks", ROOT / "tools" / "normalise_notebooks.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def stream(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


@pytest.fixture
def messy():
    """A notebook as an editor leaves it."""
    result = {"data": {"text/plain": "3", "application/vnd.jupyter.widget-view+json": {"model_id": "1f"}}, "metadata": {"a": 1}}
    code = {
        "cell_type": "code",
        "id": "kept",
        "execution_count": 17,
        "metadata": {"tags": ["parameters"], "execution": {"iopub.execute_input": "2024-01-01T00:00:00Z"}, "collapsed": False},
        "source": 'preset = "quick"\n1 + 2',
        "outputs": [stream("a\n"), stream(["b\n", "c\n"]), result | {"output_type": "execute_result", "execution_count": 17}],
    }
    metadata = {"kernelspec": {"name": "my-env", "display_name": "mine"}, "widgets": {"state": {}}, "papermill": {"d": 3}}
    cells = [{"cell_type": "markdown", "metadata": {"jp-MarkdownHeadingCollapsed": True}, "source": "# Title"}, code]
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def test_drops_what_is_not_content(messy):
    text = tool.normalise(json.dumps(messy))
    for word in ("execution\":", "collapsed", "my-env", "widget", "papermill", "2024-01-01"):
        assert word not in text
    assert json.loads(text)["metadata"] == {"kernelspec": tool.KERNEL, "language_info": tool.LANGUAGE}


def test_keeps_ids_tags_sources_and_outputs(messy):
    markdown, code = json.loads(tool.normalise(json.dumps(messy)))["cells"]
    assert (code["id"], code["metadata"], code["execution_count"]) == ("kept", {"tags": ["parameters"]}, 1)
    assert "".join(code["source"]) == messy["cells"][1]["source"]
    assert code["outputs"][0]["text"] == ["a\n", "b\n", "c\n"]
    assert code["outputs"][1]["data"] == {"text/plain": ["3"]}
    assert code["outputs"][1]["execution_count"] == 1
    assert len(markdown["id"]) == 8


def test_is_a_fixed_point(messy):
    once = tool.normalise(json.dumps(messy))
    assert tool.normalise(once) == once


def test_a_cell_that_was_not_run_stays_so(messy):
    messy["cells"][1] |= {"execution_count": None, "outputs": []}
    assert json.loads(tool.normalise(json.dumps(messy)))["cells"][1]["execution_count"] is None


def test_the_result_is_a_valid_notebook(messy):
    import nbformat

    nbformat.validate(nbformat.reads(tool.normalise(json.dumps(messy)), as_version=4))


def test_other_formats_are_refused(messy):
    with pytest.raises(ValueError, match="nbformat must be 4, got 3"):
        tool.normalise(json.dumps(messy | {"nbformat": 3}))


def test_check_changes_nothing_and_says_which(tmp_path, capsys, messy):
    path = tmp_path / "messy.ipynb"
    path.write_text(json.dumps(messy))
    assert tool.main(["--check", str(path)]) == 1
    assert path.read_text() == json.dumps(messy)
    assert "messy.ipynb: not in normal form" in capsys.readouterr().out
    assert tool.main([str(path)]) == 0
    assert tool.main(["--check", str(path)]) == 0
