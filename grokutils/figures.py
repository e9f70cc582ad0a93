"""The house style: figures as inline SVG that follow the page's light or dark theme, and the few pictures that recur."""

from __future__ import annotations

import html
import io
import re

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Readable on white and on near-black (contrast >= 3:1 on both), distinct for colour-blind readers; the markers differ as well.
_BLUE, _ORANGE, _GREEN, _PINK, _GREY, _VIOLET = "#2b83cf", "#d9730d", "#0f9a6c", "#cc5f9f", "#808487", "#8a70d6"
C = {
    "theory": _BLUE, "experiment": _ORANGE, "droplet": _ORANGE, "bulk": _GREY, "h1": _BLUE, "h3": _PINK,
    "train": _GREEN, "test": _VIOLET, "fixed": _GREEN, "exact": _BLUE, "grey": _GREY,
}
CYCLE = [
    (_BLUE, "o", "-"), (_ORANGE, "D", "--"), (_GREEN, "s", "-."), (_PINK, "^", ":"), (_VIOLET, "v", (0, (5, 1, 1, 1))), (_GREY, "P", (0, (1, 1))),
]
_INK = "#010203"  # stands for the page's text colour and becomes currentColor
_STYLE = {
    "svg.fonttype": "path", "svg.hashsalt": "grokutils", "font.size": 10, "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans",
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
    "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "axes.titlecolor": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "lines.linewidth": 1.8, "lines.markersize": 5,
    "axes.titlesize": 10, "axes.labelsize": 10.5, "legend.fontsize": 9, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "axes.prop_cycle": mpl.cycler(color=[c for c, _, _ in CYCLE]), "errorbar.capsize": 2,
}


def axes(rows: int = 1, cols: int = 1, height: float = 3.0, width: float | None = None, **keywords):
    """A figure in the house style and its axes (one, or an array); ``keywords`` go to ``Figure.subplots``.

    Args:
        rows, cols: of the grid.
        height: inches of one row.
        width: inches of the whole figure; None: 4.6 for one column, 7.4 for more.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width or (4.6 if cols == 1 else 7.4), height * rows), layout="constrained")
        FigureCanvasSVG(figure)
        return figure, figure.subplots(rows, cols, **keywords)


def svg(figure: Figure, label: str = "") -> str:
    """The figure as one SVG element whose text and frames have the page's text colour."""
    buffer = io.StringIO()
    for legend in figure.findobj(mpl.legend.Legend):
        legend.set_frame_on(False)
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor").replace("#000000", "currentColor").strip()
    # hundredths of a point are enough, and halve the page
    text = re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d.group()).replace("\n", ""), text)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # the style sheet of an inline SVG would rule the whole page: make it the root's own
    style = re.search(r'<style type="text/css">\*\{(.*?)\}</style>', text).group(1)
    text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    root = f'<svg role="img" aria-label="{html.escape(label, quote=True)}" style="{style}; fill: currentColor; max-width: 100%; height: auto" '
    return text.replace("<svg ", root, 1)


class _Shown:
    def __init__(self, figure, caption, alt):
        label = alt or caption
        self._html = (
            f'<figure class="grok-figure" style="margin:1em 0">{svg(figure, label)}'
            f'<figcaption>{html.escape(caption, quote=False)}</figcaption></figure>'
        )
        self._text = f"Figure: {label}"

    def _repr_mimebundle_(self, **_):
        return {"text/html": self._html, "text/plain": self._text}


def show(figure: Figure, caption: str, alt: str = "") -> _Shown:
    """Show a figure with its caption; the last line of a plotting cell.

    Args:
        figure: from ``axes``.
        caption: what to see: the finding first.
        alt: description for readers who cannot see it; None or "": the caption.
    """
    return _Shown(figure, caption, alt)


def points(ax, x, mean, error, *, label=None, color=_ORANGE, marker="o", **keywords):
    """Measured points with error bars."""
    with mpl.rc_context(_STYLE):
        return ax.errorbar(x, mean, yerr=error, label=label, color=color, marker=marker, linestyle="none", elinewidth=1.1, **keywords)


def negative_log_density(ax, ds, *, label=None, color=_ORANGE, marker="o", min_count: int = 5, every: int = 2, **keywords):
    r"""$-\ln p(q)$ of an ensemble as points; errors from the scatter between data sets, folded in q -> -q by the symmetry of an odd teacher.

    Args:
        ds: result of ``sample``.
        min_count: bins with fewer neurons in all are left out.
        every: bins are joined by this many (it divides half of their number).
    """
    counts = ds.histogram.sum("chain").values.astype(float)
    half = counts.shape[1] // 2
    folded = counts[:, half:] + counts[:, :half][:, ::-1]
    folded = folded[:, : half // every * every].reshape(len(folded), -1, every).sum(-1)
    width = every * float(ds.bin[1] - ds.bin[0])
    q = (np.arange(folded.shape[1]) + 0.5) * width
    fraction = folded / counts.sum(1, keepdims=True)
    density = fraction.mean(0) / (2 * width)
    error = fraction.std(0, ddof=1) / np.sqrt(len(fraction)) / (2 * width) if len(fraction) > 1 else np.full_like(density, np.nan)
    keep = folded.sum(0) >= min_count
    relative = error[keep] / density[keep]
    return points(ax, q[keep], -np.log(density[keep]), relative, label=label, color=color, marker=marker, **keywords)
