"""Check a built book: every page of the table of contents is there, and no page loads anything from another host.

    python tools/check_book.py _build/html
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DELIVERY_NETWORKS = re.compile(r"unpkg|jsdelivr|cdnjs", re.IGNORECASE)
REMOTE = re.compile(r"^\s*(?:[a-z]+:)?//", re.IGNORECASE)
REMOTE_CSS = re.compile(r"""(?:@import\s+(?:url\()?|url\()\s*['"]?\s*((?:https?:)?//[^'")\s]+)""", re.IGNORECASE)
LOADED = dict.fromkeys(("script", "img", "iframe", "source", "video", "audio", "embed"), ("src", "srcset"))
LINKS = {"stylesheet", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "icon", "shortcut", "manifest"}


def toc_pages(toc=None):
    """The pages that a table of contents names, without suffix, in reading order."""
    toc = toc if toc is not None else yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = [toc["root"]] if "root" in toc else []
    if "file" in toc:
        pages.append(toc["file"])
    for key in ("parts", "chapters", "sections"):
        for entry in toc.get(key, ()):
            pages += toc_pages(entry)
    return [re.sub(r"\.(md|ipynb|rst)$", "", page) for page in pages]


class Loads(HTMLParser):
    """Collects the addresses off this host that a page would load by itself (a link to click on is none)."""

    def __init__(self):
        super().__init__()
        self.remote, self.style = [], False

    def handle_starttag(self, tag, attrs):
        attrs = {name: value or "" for name, value in attrs}
        self.style = tag == "style"
        names = LOADED.get(tag, ())
        if tag == "link" and LINKS & set(attrs.get("rel", "").split()):
            names = ("href",)
        self.remote += [f"<{tag}> {attrs[name]}" for name in names if REMOTE.match(attrs.get(name, ""))]
        self.remote += [f"style of <{tag}> {address}" for address in REMOTE_CSS.findall(attrs.get("style", ""))]

    def handle_data(self, data):
        if self.style:
            self.remote += [f"<style> {address}" for address in REMOTE_CSS.findall(data)]

    def handle_endtag(self, tag):
        self.style = False


def problems_of_page(text):
    """What is wrong with one page, as a list of sentences."""
    loads = Loads()
    loads.feed(text)
    found = [f"loads from another host: {what}" for what in loads.remote]
    return found + [f"names a content delivery network: {name}" for name in sorted(set(DELIVERY_NETWORKS.findall(text)))]


def problems(html, pages=None):
    """What is wrong with the book under `html`."""
    missing = [page for page in pages or toc_pages() if not (html / f"{page}.html").is_file()]
    found = [f"{page}.html: in the table of contents, not built" for page in missing]
    for path in sorted(html.rglob("*.html")):
        if "_static" not in path.relative_to(html).parts[:1]:
            found += [f"{path.relative_to(html)}: {what}" for what in problems_of_page(path.read_text(encoding="utf-8"))]
    for path in sorted((html / "_static").rglob("*.css")):
        remote = REMOTE_CSS.findall(path.read_text(encoding="utf-8", errors="replace"))
        found += [f"{path.relative_to(html)}: loads from another host: {address}" for address in remote]
    return found


def main():
    """Command line; returns the exit status."""
    html = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_build" / "html"
    found = problems(html)
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"{html}: {len(toc_pages())} pages of the table of contents, nothing loaded from another host")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
