"""Put notebooks in normal form, so that a diff shows what a reader would see change and nothing else.

Kept: the cells in their order, their ids, sources, tags and outputs. Removed: execution times, widget state and views,
metadata of tools and of the machine. Made uniform: kernel name, execution counts 1, 2, 3, ..., one output a stream, key order.

    python tools/normalise_notebooks.py notebooks/*.ipynb            # rewrite those that are not in normal form
    python tools/normalise_notebooks.py --check notebooks/*.ipynb    # only say which they are; exit status 1 if any
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}
CELL_METADATA = ("tags", "mystnb")
WIDGETS = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")


def joined(text):
    """Notebook text is stored as a string or as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def lines(text):
    """The list-of-lines form in which a notebook file stores text."""
    return joined(text).splitlines(keepends=True)


def normal_output(output):
    """One output without metadata and widget views; None if nothing is left of it."""
    kind = output["output_type"]
    if kind == "stream":
        return {"output_type": kind, "name": output["name"], "text": lines(output["text"])}
    if kind == "error":
        return {key: output[key] for key in ("output_type", "ename", "evalue", "traceback")}
    data = {mime: value for mime, value in output["data"].items() if mime not in WIDGETS}
    data = {mime: lines(value) if isinstance(value, str | list) else value for mime, value in data.items()}
    return {"output_type": kind, "data": data, "metadata": {}} if data else None


def normal_outputs(outputs, count):
    """All outputs of a cell; consecutive pieces of one stream become one."""
    result = []
    for output in filter(None, map(normal_output, outputs)):
        last = result[-1] if result else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] = lines(joined(last["text"]) + joined(output["text"]))
            continue
        if output["output_type"] == "execute_result":
            output["execution_count"] = count
        result.append(output)
    return result


def normal_cell(cell, position, count):
    """One cell; `count` is its execution count, None where it was not run."""
    source = joined(cell["source"])
    metadata = {key: cell["metadata"][key] for key in CELL_METADATA if cell.get("metadata", {}).get(key)}
    identity = cell.get("id") or hashlib.sha256(f"{position}:{source}".encode()).hexdigest()[:8]
    result = {"cell_type": cell["cell_type"], "id": identity, "metadata": metadata, "source": lines(source)}
    if cell["cell_type"] == "code":
        result |= {"execution_count": count, "outputs": normal_outputs(cell.get("outputs", []), count)}
    elif cell.get("attachments"):
        result["attachments"] = cell["attachments"]
    return result


def normalise(text):
    """The normal form of a notebook, both as JSON text."""
    notebook = json.loads(text)
    if notebook.get("nbformat") != 4:
        raise ValueError(f"nbformat must be 4, got {notebook.get('nbformat')}")
    cells, count = [], 0
    for position, cell in enumerate(notebook["cells"]):
        run = cell["cell_type"] == "code" and cell.get("execution_count") is not None
        count += run
        cells.append(normal_cell(cell, position, count if run else None))
    normal = {"cells": cells, "metadata": {"kernelspec": KERNEL, "language_info": LANGUAGE}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(normal, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments=None):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a notebook is not in normal form")
    parser.add_argument("notebooks", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    changed = []
    for path in (path for path in options.notebooks if path.exists()):
        before = path.read_text(encoding="utf-8")
        after = normalise(before)
        if before != after:
            changed.append(path)
            if not options.check:
                path.write_text(after, encoding="utf-8")
    for path in changed:
        print(f"{path}: {'not in normal form (make normalise)' if options.check else 'put in normal form'}")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
