"""The check of the built book must find what it is there to find."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("check_book", ROOT / "tools" / "check_book.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

GOOD = '<html><head><link rel="stylesheet" href="_static/a.css"></head><body><a href="https://example.org">link</a></body></html>'


@pytest.fixture
def book(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "page.html").write_text(GOOD)
    return tmp_path


def test_a_good_book_passes(book):
    assert tool.problems(book, ["page"]) == []


def test_a_missing_page_is_found(book):
    assert tool.problems(book, ["page", "notebooks/01_a"]) == ["notebooks/01_a.html: in the table of contents, not built"]


@pytest.mark.parametrize(
    "bad",
    [
        '<script src="https://example.org/a.js"></script>',
        '<script async src="//example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<link rel="preload" as="font" href="http://example.org/a.woff2">',
        '<img src="https://example.org/a.png">',
        '<iframe src="https://example.org/"></iframe>',
        '<p style="background: url(https://example.org/a.png)">',
        "<style>@import 'https://example.org/a.css';</style>",
        "<style>@font-face { src: url('//example.org/a.woff2') }</style>",
    ],
)
def test_what_is_loaded_from_another_host_is_found(book, bad):
    (book / "page.html").write_text(GOOD.replace("<body>", "<body>" + bad))
    assert len(tool.problems(book, ["page"])) == 1


@pytest.mark.parametrize("name", ["unpkg", "jsdelivr", "cdnjs"])
def test_a_delivery_network_named_in_a_script_is_found(book, name):
    (book / "page.html").write_text(GOOD + f"<script>const address = 'https:' + '//{name}.com'</script>")
    assert tool.problems(book, ["page"]) == [f"page.html: names a content delivery network: {name}"]


def test_style_sheets_are_read(book):
    (book / "_static" / "a.css").write_text("@import url(https://example.org/b.css);")
    assert tool.problems(book, ["page"]) == ["_static/a.css: loads from another host: https://example.org/b.css"]


def test_pages_of_a_table_of_contents():
    toc = {"root": "book/index", "parts": [{"chapters": [{"file": "a.md"}, {"file": "b", "sections": [{"file": "c.ipynb"}]}]}]}
    assert tool.toc_pages(toc) == ["book/index", "a", "b", "c"]


def test_every_page_of_the_book_has_a_source():
    missing = [page for page in tool.toc_pages() if not any((ROOT / f"{page}{end}").is_file() for end in (".md", ".ipynb"))]
    assert missing == []
