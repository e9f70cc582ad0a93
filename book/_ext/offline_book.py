"""Sphinx extension: nothing from another host, the explorer's script only where an explorer is, docstrings as written.

The book theme brings an extension that prepares every page for running code on a remote server: it puts the address of a content
delivery network into each page. Its listeners are disconnected here; none of its features are used.

Docstrings are plain text with formulas between dollar signs or as letters, ``|q| > 1/2``. The first become mathematics; in the rest
whatever reStructuredText would take for markup is escaped, text between backquotes excepted.
"""

import functools
import inspect
import re

DROPPED_MODULE = "sphinx_thebe"
DROPPED_FILES = ("sphinx-thebe.css", "sphinx-thebe.js")
PANELS = {
    "<grok-explorer": ("panel.js", "solver.js", "grok-explorer.js"), "<grok-modular": ("panel.js", "modular-solver.js", "grok-modular.js"),
    "<grok-phases": ("panel.js", "phase-data.js", "grok-phases.js"), "<grok-lazy": ("panel.js", "lazy-solver.js", "grok-lazy.js"),
}
DISPLAY = re.compile(r"^( *)\$\$(.+?)\$\$ *$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"\$([^$\n]+)\$")
LITERAL = re.compile(r"(``.+?``|:[\w:]+:`.+?`|`.+?`_{0,2})")
PROPERTIES = ("attribute", "property", "data")


def drop_remote_execution(app, _config=None):
    """Disconnect every listener of the remote-execution extension and forget its files."""
    for listeners in app.events.listeners.values():
        listeners[:] = [listener for listener in listeners if listener.handler.__module__ != DROPPED_MODULE]
    app.registry.css_files[:] = [entry for entry in app.registry.css_files if entry[0] not in DROPPED_FILES]
    app.registry.js_files[:] = [entry for entry in app.registry.js_files if entry[0] not in DROPPED_FILES]


def add_explorer(app, _pagename, _templatename, context, _doctree):
    """Load a live panel's scripts on the pages that hold one; `async`, as deferred scripts wait for the theme's icons."""
    body = context.get("body", "")
    scripts = dict.fromkeys(name for mark, names in PANELS.items() if mark in body for name in names)
    if scripts:
        app.add_css_file("explorer/grok-explorer.css")
    for name in scripts:
        app.add_js_file(f"explorer/{name}", loading_method="async")


def escaped(line):
    """A docstring's line in which |, * and a closing _ are letters."""
    pieces = LITERAL.split(line)
    pieces[::2] = [re.sub(r"_(?!\w)", r"\\_", re.sub(r"(?<!\\)([|*])", r"\\\1", piece)) for piece in pieces[::2]]
    return "".join(pieces)


def display(match):
    """$$...$$ on lines of its own as a directive."""
    indent, formula = match.groups()
    inner = "\n".join(f"{indent}   {line.strip()}" for line in formula.splitlines() if line.strip())
    return f"\n{indent}.. math::\n\n{inner}\n"


def marked_up(lines):
    """Docstring lines as reStructuredText: $...$ and $$...$$ are mathematics, everything else is plain text."""
    text = DISPLAY.sub(display, "\n".join(lines))
    result, inside = [], None
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        if line.strip() and inside is not None and indent <= inside:
            inside = None
        if line.lstrip().startswith(".. "):
            inside = indent
        result.append(line if inside is not None else escaped(INLINE.sub(r":math:`\1`", line)))
    return result


def escape_docstring(_app, _what, _name, _object, _options, lines):
    """Before the sections of a docstring are read."""
    lines[:] = marked_up(lines)


def keep_property(app, what, name, obj, options, lines):
    """The first sentence of a property may hold a colon, which is not the end of a type: it is put back as it was."""
    if what in PROPERTIES and isinstance(obj, property | functools.cached_property) and obj.__doc__:
        lines[:] = [*marked_up(inspect.cleandoc(obj.__doc__).splitlines()), ""]


def address_targets(app, doctree):
    """Let `[text](page.md#name)` reach an explicit target `(name)=` as it reaches a heading; the link then works in Jupyter as well."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for name, explicit in doctree.nametypes.items():
        if explicit and (identity := doctree.nameids.get(name)) and name not in slugs:
            slugs[name] = (0, identity, name.replace("-", " "))


def setup(app):
    """Connect to Sphinx."""
    app.connect("config-inited", drop_remote_execution, priority=900)
    app.connect("html-page-context", add_explorer)
    app.connect("doctree-read", address_targets)
    app.connect("autodoc-process-docstring", escape_docstring, priority=100)
    app.connect("autodoc-process-docstring", keep_property, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
