"""Write book/coverage.md: where this book derives, checks, computes, measures the numbered equations and figures of the paper.

    python tools/coverage.py            # write the page
    python tools/coverage.py --check    # fail on a stale page, an unknown tag, a required equation neither derived nor checked

The rows are in tools/coverage_rows.yml. Everything else comes from tags: in the metadata of notebook cells ``eq-P13-derive``,
``eq-A12-check``, ``eq-P13-solve``, ``eq-P13-measure``, ``fig-P2-reproduce``, ``erratum-2``; in the package and its tests a
comment ``# covers: eq-P13-check, erratum-2`` above or inside a function. A tag of a cell links to the nearest heading above it.
"""

import argparse
import ast
import itertools
import json
import re
import sys
from collections import Counter
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

ROOT = Path(__file__).resolve().parents[1]
ROWS = Path(__file__).with_name("coverage_rows.yml")
COLUMNS = {"derive": "derived", "check": "checked", "solve": "computed", "measure": "measured"}
TAG = re.compile(r"^(?:eq-(?P<equation>\w+)-(?P<verb>\w+)|fig-(?P<figure>\w+)-(?P<how>\w+)|erratum-(?P<erratum>\w+))$")
COMMENT = re.compile(r"#\s*covers:\s*(.+)$")
PAPERS = {"rubin2024": "a first-order transition", "liu2022": "representations", "kumar2024": "from lazy to rich"}
ANCHOR_DEPTH = 3  # myst_heading_anchors in _config.yml
NOTHING = "–"


class CoverageError(Exception):
    """One or more things wrong with tags, rows or page; the message lists them."""


# -- headings ------------------------------------------------------------------------------------------------------


def headings(markdown):
    """The headings of a piece of Markdown as (level, source, text without mathematics and markup), as MyST sees them."""
    tokens = MarkdownIt("commonmark").use(dollarmath_plugin).use(myst_role_plugin).parse(markdown)
    return [
        (int(token.tag[1]), inline.content, "".join(c.content for c in inline.children if c.type in ("text", "code_inline")))
        for token, inline in itertools.pairwise(tokens)
        if token.type == "heading_open" and token.level == 0
    ]


def slug(title, taken):
    """The anchor that MyST gives to a heading, unique among those taken."""
    name = re.sub(r"[^\w\u4e00-\u9fff\- ]", "", title.lower().replace(" ", "-"))
    i = 1
    while name in taken:
        name, i = f"{name}-{i}", i + 1
    return name


# -- tags ----------------------------------------------------------------------------------------------------------


def notebook_tags(path):
    """Every coverage tag of a notebook as (tag, link): to the first heading in its cell, else to the nearest above."""
    taken, found, place = [], [], None
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        here = []
        if cell["cell_type"] == "markdown":
            for level, title, plain in headings("".join(cell["source"])):
                if level <= ANCHOR_DEPTH:
                    taken.append(slug(plain, taken))
                    here.append((plain.strip() if "](" in title else title, taken[-1]))
        title, anchor = (here or [place])[0] or ("", "")
        text = f"{path.stem.split('_')[0]} {title}".strip().replace("|", r"\vert ")
        link = f"[{text}](../notebooks/{path.name}{'#' if anchor else ''}{anchor})"
        found += [(tag, link) for tag in cell["metadata"].get("tags", ()) if tag.startswith(("eq-", "fig-", "erratum-"))]
        place = here[-1] if here else place
    return found


def owner(tree, line):
    """The dotted name of the function or class that holds a line, or begins next after it; empty where there is none."""

    def visit(node, names):
        inside, after = None, None
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
            if first <= line <= child.end_lineno:
                inside = visit(child, [*names, child.name]) or ".".join([*names, child.name])
            elif first > line and (after is None or first < after[0]):
                after = (first, ".".join([*names, child.name]))
        return inside or (after[1] if after and not names else None)

    return visit(tree, []) or ""


def source_tags(path, root):
    """Every ``# covers:`` comment of a Python file: a list of (tag, code name of file and function)."""
    text, found = path.read_text(encoding="utf-8"), []
    tree = ast.parse(text)
    for number, line in enumerate(text.splitlines(), 1):
        if match := COMMENT.search(line):
            where = f"`{path.relative_to(root).as_posix()}`"
            name = owner(tree, number)
            found += [(tag, f"{where} `{name}`" if name else where) for tag in re.split(r"[,\s]+", match[1].strip())]
    return found


def all_tags(root):
    """(tag, link or code name, file) of the notebooks in order, then of the package and its tests."""
    found = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        found += [(tag, link, path.name) for tag, link in notebook_tags(path)]
    for folder in ("grokutils", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            if path.name != "test_coverage.py":  # which holds examples of tags
                found += [(tag, name, path.name) for tag, name in source_tags(path, root)]
    return found


def collect(tags, rows):
    """Sort tags into {("eq", id, verb) | ("fig", id) | ("erratum", number): [links]}; raise CoverageError for unknown ones."""
    equations = {row["id"] for part in rows["parts"] for row in part["equations"]}
    figures = {row["id"] for row in rows["figures"]}
    places, wrong = {}, []
    for tag, link, file in tags:
        match = TAG.match(tag)
        if match and match["equation"] in equations and match["verb"] in COLUMNS:
            key = ("eq", match["equation"], match["verb"])
        elif match and match["figure"] in figures and match["how"] == "reproduce":
            key = ("fig", match["figure"])
        elif match and match["erratum"] and match["erratum"].isdigit() and int(match["erratum"]) in rows["errata"]:
            key = ("erratum", int(match["erratum"]))
        else:
            wrong.append(f"{file}: unknown tag {tag!r}")
            continue
        if link not in places.setdefault(key, []):
            places[key].append(link)
    if wrong:
        raise CoverageError("\n".join(wrong))
    return places


def uncovered(places, rows):
    """The required equations that have neither a derivation nor a check."""
    return [name for name in required(rows) if not any(("eq", name, verb) in places for verb in ("derive", "check"))]


# -- page ----------------------------------------------------------------------------------------------------------


def label(row):
    """How the paper numbers an equation."""
    letter, number = row["id"][0], row["id"][1:]
    return row.get("label") or (f"({number})" if letter == "P" else f"({row['id']})" if letter in "EK" else f"({letter}.{number})")


def cell(entries):
    """The entries of one table cell, one below the other; the tests of one file in one entry."""
    links = [entry for entry in entries if not entry.startswith("`")]
    files = Counter(Path(entry.split("`")[1]).stem for entry in entries if entry.startswith("`"))
    return "<br>".join(links + [f"`{file}`" + f" ({count})" * (count > 1) for file, count in files.items()]) or NOTHING


def remarks(row):
    """What differs: the sentence of the row, then its errata."""
    errata = ", ".join(f"[{number}](#erratum-{number})" for number in row.get("errata", ()))
    return "; ".join(filter(None, [row.get("differs"), f"erratum {errata}" if errata else None])) or NOTHING


def function(name):
    """A reference to a function of the package, shown by its last name."""
    return f"{{py:obj}}`{name.rsplit('.', 1)[-1]} <{name}>`"


def table(header, lines):
    """A pipe table inside a container that may scroll sideways."""
    for line in lines:
        if any("|" in field for field in line):
            raise CoverageError(f"a vertical bar in a table cell: {line}")
    body = [header, ["---"] * len(header), *lines]
    return "\n".join([":::{div} full-width grok-table", *("| " + " | ".join(line) + " |" for line in body), ":::"])


def equation_table(part, places):
    """The table of one part of the paper."""
    lines = []
    for row in part["equations"]:
        found = {verb: places.get(("eq", row["id"], verb), []) for verb in COLUMNS}
        if part.get("later") and not any(found.values()):
            fields = [part["later"], NOTHING, NOTHING, NOTHING]
        else:
            found["solve"] = found["solve"] + [function(name) for name in row.get("api", ())]
            fields = [cell(found[verb]) for verb in COLUMNS]
        lines.append([label(row), row["about"], *fields, remarks(row)])
    return table(["equation", "what it says", *COLUMNS.values(), "what differs"], lines)


def figure_table(rows, places, paper):
    """The table of one paper's figures."""
    lines = []
    for row in rows["figures"]:
        if row.get("paper", "rubin2024") != paper:
            continue
        links = places.get(("fig", row["id"]))
        lines.append([row["label"], row["about"], cell(links) if links else row.get("later", NOTHING), remarks(row)])
    return table(["figure", "what it shows", "reproduced", "what differs"], lines)


def errata_table(rows, places):
    """The errata with the cells and tests that prove them."""
    lines = []
    for number, title in rows["errata"].items():
        proofs = [f"[derivation](#erratum-{number})", *places.get(("erratum", number), [])]
        lines.append([f"[{number}](#erratum-{number})", title, cell(proofs)])
    return table(["erratum", "about", "proof"], lines)


INTRODUCTION = """\
% Written by tools/coverage.py from the tags in the notebooks, the package and its tests. Do not edit: run `make coverage`.

# Coverage

For every equation of the three papers that has a number, this page says where the book derives it, checks it (by algebra or by
numbers), computes with it and measures it on trained or sampled networks, and what the book does differently. Each entry is a link to the
section that holds the cell, a link to a function of [the package](api.md), or the name of a file in `tests/` and how many of its
tests are meant if more than one. A dash means that the book has nothing of that kind for the row.

The numbers are those of the third version of {cite:t}`rubin2024` (arXiv:2310.03789v3). Its appendices number on from one to the next
without starting again; we write (A.1) to (A.19), (B.20) to (B.42), (C.43) and (D.44), so that the letter says where to look.
Earlier versions, and conversions of the paper to a web page, number some equations differently. Displays without a
number are listed where an erratum needs them ([first paper](errata.md), [second](errata_liu.md),
[third](errata_kumar.md)). Few equations of {cite:t}`liu2022` and {cite:t}`kumar2024` are numbered: (E1) to (E15) and (K1) to (K12)
are this book's numbers for what those papers rest on."""

CLOSING = """\
## What is missing

Rows whose last column says that something is smaller than in the paper name the size that was run; the sizes of the papers themselves are presets
and stored experiments that wait for a machine (`python -m grokutils.experiments list NAME` says what is stored)."""


def required(rows):
    """The ids of the equations that must be derived or checked."""
    return [
        row["id"] for part in rows["parts"] for row in part["equations"] if row.get("required", part.get("required", False))
    ]


def page(rows, places):
    """The whole page as text."""
    total, bare = len(required(rows)), len(uncovered(places, rows))
    count = f"Of the {total} equations of the papers, {total - bare} are derived or checked here."
    parts = [INTRODUCTION, count]
    for part in rows["parts"]:
        parts += [f"## {part['title']}", equation_table(part, places)]
    for paper in dict.fromkeys(row.get("paper", "rubin2024") for row in rows["figures"]):
        parts += [f"## Figures: {PAPERS[paper]}", figure_table(rows, places, paper)]
    parts += ["## Errata", errata_table(rows, places), CLOSING]
    return "\n\n".join(parts) + "\n"


def defines(root, name):
    """Whether the package holds what a dotted name says, read from the source without importing it."""
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        stem = root.joinpath(*parts[:i])
        path = next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.exists()), None)
        if path is None:
            continue
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for part in parts[i:]:
            nodes = {n.name: n.body for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
            nodes |= {a.asname or a.name: [] for n in body if isinstance(n, ast.ImportFrom) for a in n.names}
            if part not in nodes:
                return False
            body = nodes[part]
        return True
    return False


def main(arguments=None, root=ROOT, rows=None):
    """Write or check the page; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a stale page or a bare equation")
    check = parser.parse_args(arguments).check
    rows = rows or yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    target = root / "book" / "coverage.md"
    try:
        named = [name for part in rows["parts"] for row in part["equations"] for name in row.get("api", ())]
        if missing := sorted({name for name in named if not defines(root, name)}):
            raise CoverageError("not in the package: " + ", ".join(missing))
        places = collect(all_tags(root), rows)
        text = page(rows, places)
    except CoverageError as error:
        print(error, file=sys.stderr)
        return 1
    bare = uncovered(places, rows)
    if bare:
        print(f"neither derived nor checked: {', '.join(bare)}", file=sys.stderr)
    if not check:
        target.write_text(text, encoding="utf-8")
        return 0
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        print(f"{target.relative_to(root)} is stale: run `make coverage`", file=sys.stderr)
        return 1
    return 1 if bare else 0


if __name__ == "__main__":
    sys.exit(main())
