"""Figures follow the page's theme, do not leak style, carry a label, and are the same every time."""

import re

import numpy as np
import pytest
import xarray as xr

from grokutils import figures
from grokutils.observables import BIN_CENTRES


def drawn():
    figure, ax = figures.axes()
    ax.plot([0, 1], [1 / 3, 2 / 3], label="line")
    ax.set(xlabel=r"$\sigma^2$", title="a title")
    ax.legend()
    return figure


def test_ink_is_the_pages_and_nothing_leaks():
    text = figures.svg(drawn(), 'a "label" & more')
    assert "currentColor" in text and figures._INK not in text
    assert "<style" not in text and "<metadata" not in text and "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    assert 'aria-label="a &quot;label&quot; &amp; more"' in text and text.startswith("<svg") and text.endswith("</svg>")


def test_the_same_figure_is_the_same_text():
    assert figures.svg(drawn()) == figures.svg(drawn())


def test_shown_figure_has_caption_and_text_for_terminals():
    bundle = figures.show(drawn(), caption="Finding < gesture", alt="A line")._repr_mimebundle_()
    assert "<figcaption>Finding &lt; gesture</figcaption>" in bundle["text/html"] and bundle["text/plain"] == "Figure: A line"


def _luminance(colour):
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("colour", sorted(set(figures.C.values())))
def test_colours_are_readable_on_light_and_dark_pages(colour):
    for page in ("#ffffff", "#121212"):
        light, dark = sorted((_luminance(colour), _luminance(page)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_negative_log_density_of_a_known_law():
    rng, sigma = np.random.default_rng(0), 0.3
    counts = np.stack([np.histogram(sigma * rng.standard_normal(40_000), bins=np.linspace(-2.5, 2.5, 251))[0] for _ in range(10)])
    ds = xr.Dataset({"histogram": (("dataset", "chain", "bin"), counts[:, None, :])}, {"bin": BIN_CENTRES})
    _, ax = figures.axes()
    line, _, (bars,) = figures.negative_log_density(ax, ds)
    q, measured = line.get_data()
    error = np.array([(b[1, 1] - b[0, 1]) / 2 for b in bars.get_segments()])
    exact = q**2 / (2 * sigma**2) + np.log(sigma * np.sqrt(2 * np.pi))
    near = q < 2.5 * sigma  # wider bins cost little there
    assert np.all(np.abs(measured - exact)[near] < 6 * error[near] + 2e-3)
