"""The panel of modular addition: its solver against the Python theory, and the element itself, both in a real browser."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from panels import assert_described, assert_fits, description, errors, layout, page, runner, settle, value
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from grokutils.problems import ModularAddition
from grokutils.theory import modular_addition

pytestmark = pytest.mark.browser

FOLDER = Path(__file__).resolve().parents[2] / "book" / "_static" / "explorer"
SCRIPTS = ("panel.js", "modular-solver.js", "grok-modular.js")
OPENING = ModularAddition(modulus=37, width=4000, noise_variance=1.0, readout_variance=2e-6, sextic_decay=31.6)
PROBLEMS = {f"Fig. 3, noise {v}": ModularAddition.paper(v) for v in (0.1, 0.2, 0.3)} | {
    f"opening, ratio {r}": OPENING.replace(noise_variance=r * modular_addition.onset(OPENING)) for r in (0.3, 0.6, 0.9, 1.2)
} | {
    "strong decay": ModularAddition(11, 100, 2e-2, 1e-4, 33.0), "many frequencies": ModularAddition(101, 1000, 1e-2, 3e-5, 0.5),
    "far below the onset": ModularAddition(59, 50, 2e-3, 1e-5, 5.0),
}


def as_javascript(m):
    return {"modulus": m.modulus, "width": m.width, "noise": m.noise_variance, "readout": m.readout_variance, "decay": m.sextic_decay}


@pytest.fixture(scope="module", autouse=True)
def panel_page(site):
    site.pages["/panel"] = page("grok-modular", SCRIPTS)


@pytest.fixture(scope="module")
def solver(browser, site):
    return runner(browser, site, FOLDER / "modular-solver.js", "GrokModular")


@pytest.mark.parametrize("kernel", ["corrected", "paper"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_solver_agrees_with_python(solver, name, kernel):
    m = PROBLEMS[name]
    s = modular_addition.solve(m, kernel=kernel, method="saddle" if kernel == "paper" else "quadrature")
    got = solver("return S.solve(a, b)", as_javascript(m), kernel)
    assert got["converged"]
    assert got["residual"] == pytest.approx(s.residual, abs=1e-7)
    assert got["u"] == pytest.approx(m.interaction, rel=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_limits_agree_with_python(solver, name):
    assert solver("return S.limits(a)", as_javascript(PROBLEMS[name]))["onset"] == pytest.approx(modular_addition.onset(PROBLEMS[name]), rel=1e-10)


@pytest.mark.parametrize("name", ["opening, ratio 0.6", "strong decay"])
def test_the_neurons_shown_follow_the_law(solver, name):
    m = PROBLEMS[name]
    s, re, im, droplets = solver("""const s = S.solve(a), x = S.population(a, s, 1000);
        return [s, Array.from(x.re), Array.from(x.im), x.droplets]""", as_javascript(m))
    power = np.square(re) + np.square(im)
    assert np.mean(power) == pytest.approx(s["power"], rel=0.02)
    assert droplets == pytest.approx(1000 * s["fraction"], abs=1.5)
    assert abs(np.mean(np.exp(1j * np.arctan2(im, re)))) < 0.02  # free phases


def test_claims_of_the_page(solver):
    look = """const at = (x, ratio, kernel) => {
            const p = {...x, noise: 1};
            p.noise = ratio * S.limits(p).onset;
            return {p, ...S.solve(p, kernel)};
        };
        const small = {modulus: 37, width: 4000, readout: 2e-6, decay: 31.6}, published = {...S.PAPER};"""
    mixed = [solver(look + "return at(small, a)", ratio) for ratio in (0.6, 0.3)]
    assert mixed[1]["U"] / mixed[0]["U"] == pytest.approx(1, abs=0.05)       # constant pressure: u itself has grown fourfold
    assert [s["residual"] for s in mixed] == pytest.approx([0.6, 0.3], abs=0.04)
    found = solver(look + "const s = at(published, 0.8); return [s.p.width * s.fraction, 2 * s.p.modulus * s.barrier.action]")
    assert 5e-4 < found[0] < 2e-3
    assert found[1] > 1e4
    printed = solver(look + "return at(small, 0.6, 'paper')")
    assert printed["fraction"] > 0.99
    assert printed["residual"] > 0.98
    assert printed["U"] > 2.5 * mixed[0]["U"]
    left_out = "const left = (s) => 8 * Math.sqrt(3 / s.p.decay) * s.p.modulus * s.u * s.p.noise;"
    wide, narrow, figure = solver(look + left_out + "return [left(at(small, 0.6)), left(at({...small, width: 400}, 0.6)), left(at(published, 0.8))]")
    assert wide < 1 < narrow
    assert figure > 1000


def test_opens_in_the_mixed_phase_moves_and_returns(open_panel):
    browser = open_panel()
    s = modular_addition.solve(PROBLEMS["opening, ratio 0.6"])
    assert value(browser, "residual") == pytest.approx(s.residual, abs=1e-7)
    m = PROBLEMS["opening, ratio 0.6"]
    expected = 8 * np.sqrt(3 / m.sextic_decay) * m.modulus * m.interaction * m.noise_variance
    assert value(browser, "neglected") == pytest.approx(expected)
    assert browser.find_element(By.CSS_SELECTOR, ".ge-phase").get_attribute("data-phase") == "GMFL-I"
    assert not browser.find_elements(By.CSS_SELECTOR, "grok-modular .fallback")
    slider = browser.find_element(By.CSS_SELECTOR, "input[name=ratio]")
    assert "σ²/σ²on 0.600" in slider.get_attribute("aria-valuetext")
    for _ in range(20):
        slider.send_keys(Keys.ARROW_RIGHT)
    settle(browser)
    moved = modular_addition.solve(OPENING.replace(noise_variance=0.7 * modular_addition.onset(OPENING)))
    assert value(browser, "residual") == pytest.approx(moved.residual, abs=1e-7)
    browser.find_element(By.CSS_SELECTOR, "input[value=paper]").click()
    settle(browser)
    assert value(browser, "residual") > 0.98
    browser.find_element(By.CSS_SELECTOR, ".ge-reset").click()
    settle(browser)
    assert value(browser, "residual") == pytest.approx(s.residual, abs=1e-7)
    assert errors(browser) == []


@pytest.mark.parametrize("name", ["modulus", "width", "decay", "readout"])
def test_every_slider_moves_the_solution(open_panel, name):
    browser = open_panel()
    before = value(browser, "residual")
    slider = browser.find_element(By.CSS_SELECTOR, f"input[name={name}]")
    for _ in range(2):
        slider.send_keys(Keys.ARROW_LEFT)
    settle(browser)
    p = browser.execute_script("return document.querySelector('grok-modular').state.problem")
    expected = modular_addition.solve(ModularAddition(p["modulus"], p["width"], p["noise"], p["readout"], p["decay"]))
    assert value(browser, "residual") != before
    assert value(browser, "residual") == pytest.approx(expected.residual, abs=1e-7)


def test_the_published_parameters_can_be_reached(open_panel, site):
    site.pages["/published"] = page("grok-modular", SCRIPTS, 'modulus="401" width="1000" ratio="0.8" readout-variance="2e-6" sextic-decay="1e-4"')
    browser = open_panel("/published")
    assert value(browser, "droplets") < 0.01
    assert "fewer than one" in browser.find_element(By.CSS_SELECTOR, ".ge-say").text
    assert "NaN" not in browser.execute_script("return document.querySelector('grok-modular').innerHTML")
    assert errors(browser) == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_fits_the_screen_and_the_finger(open_panel, width):
    assert_fits(layout(open_panel(width=width), "grok-modular"))


def test_is_described_to_those_who_do_not_see_it(open_panel):
    browser = open_panel()
    assert_described(description(browser, "grok-modular"))
    browser.find_element(By.CSS_SELECTOR, ".ge-data summary").click()
    WebDriverWait(browser, 10).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, ".ge-data table")) == 2)


def test_is_small():
    assert sum(len(gzip.compress((FOLDER / name).read_bytes(), 9)) for name in SCRIPTS) <= 30_000
