"""The generator of the coverage page: links, unknown tags, stale pages, bare equations."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("coverage_page", ROOT / "tools" / "coverage.py")
coverage = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(coverage)

ROWS = {
    "parts": [
        {
            "title": "Teacher",
            "required": True,
            "equations": [
                {"id": "P1", "about": "the teacher", "api": ["grokutils.model.Model.scaled"]},
                {"id": "A12", "about": "the fixed point", "differs": "unique", "errata": [3]},
            ],
        },
        {"title": "Modular", "later": "not yet", "equations": [{"id": "B21", "about": "the wide kernel"}]},
    ],
    "figures": [{"id": "P2", "label": "Fig. 2", "about": "the transition"}],
    "errata": {3: "a lost factor"},
}


def markdown(text, *tags):
    return {"cell_type": "markdown", "metadata": {"tags": list(tags)} if tags else {}, "source": text}


def code(*tags):
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": "pass", "outputs": []}


def write_notebook(root, name, *cells):
    path = root / "notebooks" / name
    path.write_text(json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture
def book(tmp_path):
    """A project of one notebook, one module and one test, which covers every required equation."""
    for folder in ("book", "notebooks", "grokutils", "tests"):
        (tmp_path / folder).mkdir()
    write_notebook(
        tmp_path,
        "05_fixed_point.ipynb",
        markdown("# The fixed point"),
        markdown("## Why it *is* unique: $D(b,c)$ is concave\n\ntext", "eq-A12-derive"),
        code("hide-input", "eq-A12-check", "fig-P2-reproduce"),
        markdown("#### too deep for an anchor"),
        code("eq-A12-check", "erratum-3"),
    )
    (tmp_path / "grokutils" / "model.py").write_text("class Model:\n    def scaled(self):\n        pass\n")
    (tmp_path / "tests" / "test_model.py").write_text("# covers: eq-P1-check\ndef test_teacher():\n    pass\n")
    return tmp_path


def test_headings_and_slugs_are_those_of_myst():
    text = "# One `code` title\n\n```python\n# a comment\n```\n\n> # quoted\n\n## $q$ jumps, *then* not\n"
    assert coverage.headings(text) == [
        (1, "One `code` title", "One code title"),
        (2, "$q$ jumps, *then* not", " jumps, then not"),
    ]
    assert coverage.slug("GMFL-I: Why? (exact)", []) == "gmfl-i-why-exact"
    assert coverage.slug("What we learned", ["what-we-learned"]) == "what-we-learned-1"


def test_tags_link_to_the_nearest_heading(book):
    assert coverage.main([], root=book, rows=ROWS) == 0
    page = (book / "book" / "coverage.md").read_text()
    link = "[05 Why it *is* unique: $D(b,c)$ is concave](../notebooks/05_fixed_point.ipynb#why-it-is-unique--is-concave)"
    row = next(line for line in page.splitlines() if line.startswith("| (A.12)"))
    assert row == f"| (A.12) | the fixed point | {link} | {link} | – | – | unique; erratum [3](#erratum-3) |"
    assert f"| Fig. 2 | the transition | {link} | – |" in page
    assert f"| [3](#erratum-3) | a lost factor | [derivation](#erratum-3)<br>{link} |" in page


def test_a_tagged_text_links_to_its_own_first_heading(tmp_path):
    (tmp_path / "notebooks").mkdir()
    text = "## A claim\n\nproof\n\n### A remark\n\nmore"
    path = write_notebook(tmp_path, "02_x.ipynb", code("eq-A1-solve"), markdown(text, "eq-A1-derive"), code("eq-A1-check"))
    assert coverage.notebook_tags(path) == [
        ("eq-A1-solve", "[02](../notebooks/02_x.ipynb)"),
        ("eq-A1-derive", "[02 A claim](../notebooks/02_x.ipynb#a-claim)"),
        ("eq-A1-check", "[02 A remark](../notebooks/02_x.ipynb#a-remark)"),
    ]


def test_functions_tests_and_later_parts_are_shown(book):
    coverage.main([], root=book, rows=ROWS)
    page = (book / "book" / "coverage.md").read_text()
    function = "{py:obj}`scaled <grokutils.model.Model.scaled>`"
    assert f"| (1) | the teacher | – | `test_model` | {function} | – | – |" in page
    assert "| (B.21) | the wide kernel | not yet | – | – | – | – |" in page
    assert "Of the 2 equations of the papers, 2 are derived or checked here" in page


def test_the_tests_of_a_file_are_counted():
    assert coverage.cell(["`tests/a.py` `f`", "[02 x](y)", "`tests/a.py` `g`", "`tests/b.py`"]) == "[02 x](y)<br>`a` (2)<br>`b`"
    assert coverage.cell([]) == "–"


def test_check_passes_on_a_fresh_page(book):
    coverage.main([], root=book, rows=ROWS)
    assert coverage.main(["--check"], root=book, rows=ROWS) == 0


def test_a_stale_page_fails(book, capsys):
    assert coverage.main(["--check"], root=book, rows=ROWS) == 1, "no page at all"
    coverage.main([], root=book, rows=ROWS)
    write_notebook(book, "06_more.ipynb", markdown("# More"), code("eq-P1-measure"))
    assert coverage.main(["--check"], root=book, rows=ROWS) == 1
    assert "stale" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tag", ["eq-P99-check", "eq-A12-proved", "eq-A12", "fig-P9-reproduce", "fig-P2-check", "erratum-4", "erratum-x"]
)
def test_an_unknown_tag_fails(book, capsys, tag):
    write_notebook(book, "06_more.ipynb", markdown("# More"), code(tag))
    assert coverage.main([], root=book, rows=ROWS) == 1
    assert capsys.readouterr().err == f"06_more.ipynb: unknown tag {tag!r}\n"


def test_a_bare_equation_fails_only_the_check(book, capsys):
    (book / "tests" / "test_model.py").write_text("# covers: eq-P1-solve\n")
    assert coverage.main([], root=book, rows=ROWS) == 0
    assert coverage.main(["--check"], root=book, rows=ROWS) == 1
    assert capsys.readouterr().err == "neither derived nor checked: P1\n" * 2


def test_a_function_that_is_gone_fails(book, capsys):
    (book / "grokutils" / "model.py").write_text("class Model:\n    pass\n")
    assert coverage.main([], root=book, rows=ROWS) == 1
    assert "grokutils.model.Model.scaled" in capsys.readouterr().err


def test_comments_name_their_function(tmp_path):
    path = tmp_path / "test_x.py"
    path.write_text(
        "# covers: eq-P1-check\n\n@mark\ndef first():\n    pass\n\n\n"
        "class Group:\n    def second(self):\n        # covers: eq-A1-check, erratum-3\n        pass\n"
    )
    assert coverage.source_tags(path, tmp_path) == [
        ("eq-P1-check", "`test_x.py` `first`"),
        ("eq-A1-check", "`test_x.py` `Group.second`"),
        ("erratum-3", "`test_x.py` `Group.second`"),
    ]


def test_the_rows_are_complete():
    rows = yaml.safe_load(coverage.ROWS.read_text(encoding="utf-8"))
    ids = [row["id"] for part in rows["parts"] for row in part["equations"]]
    assert len(ids) == len(set(ids))
    assert {f"P{i}" for i in range(1, 17)} | {f"A{i}" for i in range(1, 20)} | {f"B{i}" for i in range(20, 43)} < set(ids)
    assert {f"E{i}" for i in range(1, 16)} | {f"K{i}" for i in range(1, 13)} < set(ids)
    assert [row["id"] for row in rows["figures"]] == [f"{paper}{i}" for paper, last in (("P", 6), ("L", 22), ("K", 19)) for i in range(1, last + 1)]
    named = {n for part in rows["parts"] for row in part["equations"] for n in row.get("errata", ())}
    assert named | {n for row in rows["figures"] for n in row.get("errata", ())} == set(rows["errata"])


def test_every_erratum_has_its_place_on_the_errata_page():
    rows = yaml.safe_load(coverage.ROWS.read_text(encoding="utf-8"))
    text = "".join((ROOT / "book" / f"{name}.md").read_text(encoding="utf-8") for name in ("errata", "errata_liu", "errata_kumar"))
    assert [n for n in rows["errata"] if f"\n(erratum-{n})=\n" not in text] == []
