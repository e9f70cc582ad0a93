"""The phase explorer: its classification against the Python package, the data file against results/, and the element in a real browser."""

import gzip
import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from panels import assert_described, assert_fits, description, errors, layout, page, settle, value
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from grokutils import experiments, phases
from grokutils.experiments.published_phases import published

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book" / "_static" / "explorer"
SCRIPTS = ("panel.js", "phase-data.js", "grok-phases.js")
SPEC = importlib.util.spec_from_file_location("phase_data", ROOT / "tools" / "phase_data.py")
phase_data = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(phase_data)
RULES = ({"relative": True}, {}, {"strict": True})


def data():
    text = (FOLDER / "phase-data.js").read_text(encoding="utf-8")
    return json.loads(text[text.index("{") : text.rindex("};") + 1])


DIAGRAMS = list(data()["diagrams"])


def stored(name):
    ds = phases.collect(getattr(experiments, f"phase_{name}")())
    return ds.squeeze([d for d in ("embedding_rate", "decoder_decay") if d != phase_data.DIAGRAMS[name]], drop=True)


@pytest.fixture(scope="module", autouse=True)
def panel_page(site):
    site.pages["/panel"] = page("grok-phases", SCRIPTS)


@pytest.mark.parametrize("name", DIAGRAMS)
def test_classification_agrees_with_python(open_panel, name):
    browser, ds, axis = open_panel(), stored(name), phase_data.DIAGRAMS[name]
    for rule, delay, horizon in itertools.product(range(3), (20, 1000, 3000), (1000, 10000)):
        settings = {"rule": rule, "delay": delay, "horizon": horizon}
        found = browser.execute_script("return window.GrokPhases.phasesOf(...arguments)", name, settings)
        code = phases.classify(*phases.times(ds, **RULES[rule]), delay=delay, horizon=horizon).transpose("seed", axis, "decoder_rate")
        assert np.array_equal(np.array(found["codes"]).reshape(code.shape), code.values)
        shares = phases.fractions(code).values
        assert np.allclose(np.array(found["shares"]).T.reshape(shares.shape), shares)


@pytest.mark.parametrize("name", DIAGRAMS)
def test_published_letters_agree_with_python(open_panel, name):
    found = open_panel().execute_script("return window.GrokPhases.phasesOf(arguments[0], {rule: 0, delay: 1000, horizon: 10000}).published", name)
    axis, ds = phase_data.DIAGRAMS[name], stored(name)
    train, test = (t.reindex({axis: ds[axis].values}, method="nearest", tolerance=1e-9) for t in published(name))
    expected = phases.classify(train.values, test.values).ravel()
    there = [k for k, letter in enumerate(found) if letter is not None]
    assert len(there) >= 20
    near = np.abs((test - train).values.ravel() - 1000) < 20  # the page rounds to the step of our own measurements
    assert [found[k] for k in there if not near[k]] == [expected[k] for k in there if not near[k]]


@pytest.mark.parametrize("name", DIAGRAMS)
def test_curves_are_those_of_the_stored_run(open_panel, name):
    axis = phase_data.DIAGRAMS[name]
    part = next(p for p in (run.load() for run in getattr(experiments, f"phase_{name}")()) if "embedding" in p)
    d = data()["diagrams"][name]
    seed = [int(s) for run in getattr(experiments, f"phase_{name}")() for s in run.settings["seeds"]][d["seed"]]
    one = part.squeeze([x for x in ("embedding_rate", "decoder_decay") if x != axis], drop=True).sel(seed=seed).transpose(axis, "decoder_rate", ...)
    runs = open_panel().execute_script("return window.GrokPhases.unpack(arguments[0]).runs", name)
    width = one.sizes["decoder_rate"]
    for cell in (0, 3, width + 3, 2 * width + 5, len(runs) - 1):
        for record in runs[cell]:
            at = one.isel({axis: cell // width, "decoder_rate": cell % width}).sel(step=record["step"])
            assert record["train"] == pytest.approx(float(at.train_accuracy), abs=1e-6)
            assert record["test"] == pytest.approx(float(at.test_accuracy), abs=1e-6)
            spread = float(one.embedding.isel({axis: cell // width, "decoder_rate": cell % width}).max()) * 2
            assert record["embedding"] == pytest.approx(at.embedding.values[:, 0], abs=2e-3 + spread / 2000)


def test_wilson_and_thresholds_agree_with_python(open_panel):
    browser = open_panel()
    for share in (0.0, 0.3, 1.0):
        low, high = browser.execute_script("return window.GrokPhases.wilson(arguments[0], 10)", share)
        assert (low, high) == pytest.approx(tuple(map(float, phases.wilson(share, 10))), abs=1e-12)
    for missing in range(5):
        found = browser.execute_script("return [0, 1, 2].map((rule) => window.GrokPhases.needed(rule, arguments[0]))", missing)
        assert found == [phases.needed(10, unlearnable=missing), phases.needed(10), phases.needed(10, strict=True)]


def test_opens_moves_and_returns(open_panel):
    browser = open_panel()
    name, axis = DIAGRAMS[0], phase_data.DIAGRAMS[DIAGRAMS[0]]
    cell = {axis: 1, "decoder_rate": 3}
    for delay, slider_moves in ((1000, 0), (2000, 2)):
        slider = browser.find_element(By.CSS_SELECTOR, "input[name=delay]")
        for _ in range(slider_moves):
            slider.send_keys(Keys.ARROW_RIGHT)
        settle(browser)
        shares = phases.fractions(phases.classify(*phases.times(stored(name), relative=True), delay=delay)).isel(cell)
        assert [value(browser, phase) for phase in phases.PHASES] == pytest.approx(shares.values.tolist())
    assert "2000 steps" in slider.get_attribute("aria-valuetext")
    browser.find_element(By.CSS_SELECTOR, "[data-rule='2']").click()
    settle(browser)
    shares = phases.fractions(phases.classify(*phases.times(stored(name), strict=True), delay=2000)).isel(cell)
    assert [value(browser, phase) for phase in phases.PHASES] == pytest.approx(shares.values.tolist())
    browser.find_element(By.CSS_SELECTOR, ".ge-reset").click()
    settle(browser)
    opening = {"delay": 1000, "horizon": 10000, "rule": 0, "row": 1, "column": 3}
    assert browser.execute_script("return document.querySelector('grok-phases').state.problem") == opening
    assert browser.find_element(By.CSS_SELECTOR, "[data-rule='0']").is_selected()
    assert errors(browser) == []


def chosen(browser):
    return browser.execute_script("const p = document.querySelector('grok-phases').state.problem; return [p.row, p.column]")


def test_a_cell_is_chosen_by_mouse_tap_and_keys(open_panel):
    browser = open_panel()
    before = browser.find_element(By.CSS_SELECTOR, ".ge-lines svg").get_attribute("innerHTML")
    ActionChains(browser).move_to_element(browser.find_element(By.CSS_SELECTOR, ".ge-cell[data-row='3'][data-column='6'] .ge-hit")).perform()
    settle(browser)
    assert chosen(browser) == [3, 6]
    assert browser.find_element(By.CSS_SELECTOR, ".ge-lines svg").get_attribute("innerHTML") != before
    browser.find_element(By.CSS_SELECTOR, ".ge-cell[data-row='2'][data-column='2']").click()
    settle(browser)
    assert chosen(browser) == [2, 2]
    browser.execute_script("document.querySelector('.ge-cell[tabindex=\"0\"]').focus()")
    for key, expected in ((Keys.ARROW_RIGHT, [2, 3]), (Keys.ARROW_UP, [1, 3]), (Keys.ARROW_LEFT, [1, 2]), (Keys.ARROW_DOWN, [2, 2])):
        browser.switch_to.active_element.send_keys(key)
        settle(browser)
        assert chosen(browser) == expected
        assert browser.switch_to.active_element.get_attribute("aria-pressed") == "true"
    assert "η_D" in browser.switch_to.active_element.get_attribute("aria-label")
    assert browser.find_element(By.CSS_SELECTOR, ".ge-live").get_attribute("textContent")
    assert errors(browser) == []


@pytest.mark.parametrize("name", DIAGRAMS)
def test_every_diagram_is_shown(open_panel, site, name):
    site.pages[f"/{name}"] = page("grok-phases", SCRIPTS, f'diagram="{name}" row="9" column="9"')
    browser = open_panel(f"/{name}")
    d = data()["diagrams"][name]
    cells = browser.find_elements(By.CSS_SELECTOR, ".ge-cell")
    assert len(cells) == len(d["rows"]) * len(d["columns"])
    assert chosen(browser) == [len(d["rows"]) - 1, 9]
    inside = browser.execute_script("return document.querySelector('grok-phases').innerHTML")
    assert "NaN" not in inside
    assert "undefined" not in inside
    assert errors(browser) == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("name", DIAGRAMS)
def test_fits_the_screen_and_the_finger(open_panel, site, width, name):
    site.pages[f"/{name}"] = page("grok-phases", SCRIPTS, f'diagram="{name}"')
    browser = open_panel(f"/{name}", width=width)
    seen = layout(browser, "grok-phases")
    edges = browser.execute_script("return ['time', 'lines'].map((v) => document.querySelector(`.ge-${v} > svg`).getBoundingClientRect().left)")
    assert_fits(seen | {"aligned": edges[0] == edges[1]})  # here the second and the third view share their axis
    overlap = browser.execute_script("""return [...document.querySelectorAll('.ge-cell')].filter((g) => {
        const t = g.querySelector('text').getBBox(), hit = g.querySelector('.ge-hit').getBBox();
        return t.x < hit.x - 0.5 || t.x + t.width > hit.x + hit.width + 0.5;
    }).length""")
    assert overlap == 0


def test_is_described_to_those_who_do_not_see_it(open_panel):
    browser = open_panel()
    assert_described(description(browser, "grok-phases"))
    browser.find_element(By.CSS_SELECTOR, ".ge-data summary").click()
    WebDriverWait(browser, 10).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, ".ge-data table")) == 2)


def test_the_data_are_those_of_the_stored_runs(tmp_path):
    assert phase_data.main(["--check"]) == 0
    stale = tmp_path / "phase-data.js"
    stale.write_text((FOLDER / "phase-data.js").read_text(encoding="utf-8").replace('"every":20', '"every":25'), encoding="utf-8")
    assert phase_data.main(["--check"], target=stale) == 1


def test_numbers_survive_their_letters():
    values = [0, 1, 63, 64, 4094, np.nan]
    text = phase_data.encoded(values)
    assert len(text) == 2 * len(values)
    back = [64 * phase_data.ALPHABET.index(a) + phase_data.ALPHABET.index(b) for a, b in zip(text[::2], text[1::2], strict=True)]
    assert back == [0, 1, 63, 64, 4094, phase_data.NEVER]
    with pytest.raises(ValueError, match="4095"):
        phase_data.encoded([5000])


def test_is_small():
    assert (FOLDER / "phase-data.js").stat().st_size <= 150_000
    assert len(gzip.compress((FOLDER / "phase-data.js").read_bytes(), 9)) <= 70_000
    assert sum(len(gzip.compress((FOLDER / name).read_bytes(), 9)) for name in ("panel.js", "grok-phases.js")) <= 30_000
