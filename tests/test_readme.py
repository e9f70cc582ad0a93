"""The README's Python runs as printed, and the files it names are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_snippets_run_in_their_order(capsys):
    scope = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(code, scope)
    assert scope["s"].converged
    assert {"mean", "se", "rhat"} <= set(scope["ds"].grok.summary().columns)
    assert "learned[3]" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_named_files_exist(name):
    assert (ROOT / name).exists()


def test_every_make_target_of_the_documentation_exists():
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") + (ROOT / "book" / "how_to_read.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"book", "test"} <= named <= targets
