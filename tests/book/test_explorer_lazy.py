"""The explorer from lazy to rich: its gradient descent against the Python theory, and the element itself, both in a real browser."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from panels import assert_described, assert_fits, description, errors, layout, page, runner, settle, value
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from grokutils.problems import Committee
from grokutils.theory import committee

pytestmark = pytest.mark.browser

FOLDER = Path(__file__).resolve().parents[2] / "book" / "_static" / "explorer"
SCRIPTS = ("panel.js", "lazy-solver.js", "grok-lazy.js")
CASES = {
    "opening": dict(samples=100, laziness=1.0, curvature=0.05, seed=0), "lazy": dict(samples=60, laziness=16.0, curvature=0.02, seed=3),
    "rich": dict(samples=100, laziness=1 / 16, curvature=1.0, seed=1), "few data": dict(samples=20, laziness=1.0, curvature=0.3, seed=4),
    "more data than functions": dict(samples=240, laziness=4.0, curvature=0.1, seed=2),
}
LOOK = """const p = {dimension: 20, width: 40, ...a}, d = S.draw(p), limits = S.largestStep(p, d);"""


@pytest.fixture(scope="module", autouse=True)
def panel_page(site):
    site.pages["/panel"] = page("grok-lazy", SCRIPTS)
    site.pages["/short"] = page("grok-lazy", SCRIPTS, 'laziness="0.0625" curvature="1" samples="20"')


@pytest.fixture(scope="module")
def solver(browser, site):
    return runner(browser, site, FOLDER / "lazy-solver.js", "GrokLazy")


@pytest.fixture(scope="module", params=CASES)
def case(request, solver):
    """A case, its data from the page as a Draw, and the page's answers."""
    chosen = CASES[request.param]
    got = solver(LOOK + """
        const step = b * Math.min(limits.start, limits.end), run = (frozen) => {
            const r = new S.Run(p, d, {step, steps: 600, record: [0, 1, 2, 5, 20, 100, 300, 600], frozen});
            r.advance(Infinity);
            return {records: r.records, state: r.state, crossed: r.crossed};
        };
        const draw = Object.fromEntries(Object.entries(d).map(([k, v]) => [k, Array.from(v)]));
        return {draw, limits, step, law: S.timeLaw(p, d), lazy: S.lazyLimit(p, d), run: run(false), frozen: run(true)};
        """, chosen, 0.5)
    problem = Committee(dimension=20, width=40, step_size=got["step"], **chosen)
    given = committee.Draw(np.reshape(got["draw"]["inputs"], (-1, 20)), np.reshape(got["draw"]["beta"], (1, 20)), np.array(got["draw"]["mean"]),
                           np.reshape(got["draw"]["moment"], (20, 20)))
    return problem, given, got


def curve(run, name):
    return np.array([record[name] for record in run["records"]])


def test_gradient_descent_agrees_with_python(case):
    problem, given, got = case
    steps = curve(got["run"], "step")
    ds = committee.run(problem, int(steps[-1]), record=steps, given=given)
    names = {"train": "train_loss", "test": "test_loss", "variance": "variance_error", "misalignment": "misalignment", "linear": "linear_power",
             "alignment": "alignment", "spike": "spike"}
    for theirs, ours in names.items():
        assert curve(got["run"], theirs) == pytest.approx(ds[ours].values, rel=1e-8, abs=1e-9 * float(ds.test_loss[0])), theirs
    assert curve(got["run"], "norm") == pytest.approx(ds.weight_norm.values / ds.weight_norm.values[0], rel=1e-9)
    assert ds.test_loss.values[-1] != pytest.approx(ds.test_loss.values[0], rel=1e-3)  # something has happened


def test_the_linearised_network_agrees_with_python(case):
    problem, given, got = case
    steps = curve(got["frozen"], "step")
    ds = committee.linearised(problem, int(steps[-1]), record=steps, given=given)
    for theirs, ours in {"train": "train_loss", "test": "test_loss", "linear": "linear_power"}.items():
        assert curve(got["frozen"], theirs) == pytest.approx(ds[ours].values, rel=1e-7, abs=1e-9)


def test_limits_agree_with_python(case):
    problem, given, got = case
    assert got["lazy"]["test"] == pytest.approx(committee.kernel_regression(problem, given).test_loss, rel=1e-5, abs=1e-7)
    assert got["limits"]["start"] == pytest.approx(committee.largest_step(problem, given), rel=0.1)  # a few steps of a power iteration
    assert got["limits"]["end"] == pytest.approx(committee.largest_step(problem, given, *committee.final_state(problem, given)), rel=0.1)
    tiny = problem.replace(step_size=1e-6)
    assert got["law"] == pytest.approx(1e-6 * committee.time_law(tiny, given), rel=1e-4)


def test_times_are_those_of_the_curves(case):
    problem, given, got = case
    ds = committee.run(problem, 600, every=1, given=given)
    for name in ("train", "test"):
        below = np.flatnonzero(ds[f"{name}_loss"].values < 0.1 * float(ds[f"{name}_loss"][0]))
        last = got["run"]["records"][-1]["step"]
        expected = int(below[0]) if below.size and below[0] <= last else None
        assert got["run"]["crossed"][name] == expected


def test_data_are_normal_and_grow_with_the_samples(solver):
    many, few = (np.array(solver(LOOK + "return Array.from(d.inputs)", dict(samples=n, laziness=1, curvature=1, seed=0))) for n in (400, 20))
    assert few == pytest.approx(many[:400])
    z = many * np.sqrt(20)
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2 / z.size)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / z.size)
    other = np.array(solver(LOOK + "return Array.from(d.inputs)", dict(samples=400, laziness=1, curvature=1, seed=1)))
    assert abs(np.corrcoef(many, other)[0, 1]) < 4 / np.sqrt(z.size)


def test_a_step_that_is_too_long_is_noticed(solver):
    state = solver(LOOK + """const r = new S.Run(p, d, {step: b * limits.start, steps: 2000, record: [0, 2000]});
        r.advance(Infinity);
        return [r.state, r.records.length];""", CASES["opening"], 2.5)
    assert state == ["diverged", 1]


def test_opens_moves_and_returns(open_panel):
    browser = open_panel()
    before = {name: value(browser, name) for name in ("ttrain", "ttest", "late", "peak", "lazylevel", "lawtime")}
    assert before["late"] == pytest.approx(before["ttest"] / before["ttrain"])
    assert before["late"] > 2
    assert browser.find_element(By.CSS_SELECTOR, ".ge-phase").text == "grokking"
    browser.find_element(By.CSS_SELECTOR, "[data-preset=few]").click()
    finished(browser)
    assert browser.find_element(By.CSS_SELECTOR, ".ge-phase").text == "memorised"
    assert value(browser, "lawtime") == pytest.approx(before["lawtime"])  # the law does not know P
    assert "memorised" in browser.find_element(By.CSS_SELECTOR, ".ge-live").get_attribute("textContent")
    slider = browser.find_element(By.CSS_SELECTOR, "input[name=laziness]")
    slider.send_keys(Keys.ARROW_LEFT)
    settle(browser)
    assert "α 0.71" in slider.get_attribute("aria-valuetext")
    assert value(browser, "lawtime") < before["lawtime"]
    browser.find_element(By.CSS_SELECTOR, ".ge-reset").click()
    finished(browser)
    assert {name: value(browser, name) for name in before} == pytest.approx(before)
    assert errors(browser) == []


def finished(browser):
    settle(browser)
    WebDriverWait(browser, 60, poll_frequency=0.1).until(lambda b: b.execute_script("return document.querySelector('[data-curve-ready]') !== null"))


@pytest.mark.parametrize("name", ["curvature", "samples", "sample"])
def test_every_control_starts_another_run(open_panel, name):
    browser = open_panel("/short")
    before = browser.find_element(By.CSS_SELECTOR, ".ge-loss svg").get_attribute("innerHTML")
    if name == "sample":
        browser.find_element(By.CSS_SELECTOR, "input[value='2']").click()
    else:
        browser.find_element(By.CSS_SELECTOR, f"input[name={name}]").send_keys(Keys.ARROW_LEFT if name == "curvature" else Keys.ARROW_RIGHT)
    finished(browser)
    inside = browser.execute_script("return document.querySelector('grok-lazy').innerHTML")
    assert browser.find_element(By.CSS_SELECTOR, ".ge-loss svg").get_attribute("innerHTML") != before
    assert "NaN" not in inside
    assert "undefined" not in inside
    assert errors(browser) == []


def test_says_that_it_diverged(open_panel, site):
    site.pages["/long"] = page("grok-lazy", SCRIPTS, 'laziness="0.0625" curvature="1" samples="20" step-share="3"')
    browser = open_panel("/long")
    assert browser.find_element(By.CSS_SELECTOR, ".ge-phase").text == "diverged"
    assert "η₀" in browser.find_element(By.CSS_SELECTOR, ".ge-say").text
    assert "NaN" not in browser.execute_script("return document.querySelector('grok-lazy').innerHTML")


def test_never_blocks_the_page(open_panel):
    browser = open_panel("/short")
    longest = browser.execute_async_script("""
        const done = arguments[0], root = document.querySelector('grok-lazy'), slices = [];
        const advance = window.GrokLazy.Run.prototype.advance;
        window.GrokLazy.Run.prototype.advance = function (until) {
            const before = this.at, more = advance.call(this, until);
            slices.push(this.at - before);
            return more;
        };
        root.set({laziness: 1, curvature: 0.05, samples: 100});
        root.flush();
        setTimeout(() => done(slices), 1000);""")
    assert len(longest) > 3  # the run is cut into pieces, each ended by the clock
    assert max(longest) < 5000


def test_reduced_motion_shows_the_end_alone(open_panel):
    browser = open_panel("/short")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]})
    browser.execute_script("""window.draws = 0;
        const root = document.querySelector('grok-lazy'), draw = root.draw;
        root.draw = function () { window.draws += 1; draw.call(root); };
        root.set({samples: 30});""")
    settle(browser)
    finished(browser)
    assert browser.execute_script("return window.draws") <= 2


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_fits_the_screen_and_the_finger(open_panel, width):
    assert_fits(layout(open_panel("/short", width=width), "grok-lazy"))


def test_is_described_to_those_who_do_not_see_it(open_panel):
    browser = open_panel("/short")
    assert_described(description(browser, "grok-lazy"))
    browser.find_element(By.CSS_SELECTOR, ".ge-data summary").click()
    WebDriverWait(browser, 10).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, ".ge-data table")) == 2)
    assert browser.find_element(By.CSS_SELECTOR, ".ge-presets").get_attribute("aria-label")


def test_claims_of_the_page(solver):
    run = LOOK + """const go = (laziness, curvature, samples, seed) => {
            const q = {...p, laziness, curvature, samples, seed}, data = S.draw(q), l = S.largestStep(q, data), step = 0.5 * Math.min(l.start, l.end);
            const r = new S.Run(q, data, {step, steps: Math.min(25000, Math.ceil(1e5 / step)), record: [0, 10, 20, 40, 80, 160, 320]});
            r.advance(Infinity);
            const first = r.records[0], last = r.records[r.records.length - 1], most = (name) => Math.max(...r.records.map((x) => x[name]));
            const times = {train: r.crossed.train && r.crossed.train * step, test: r.crossed.test && r.crossed.test * step};
            return {...times, peak: most('test') / first.test, linear: most('linear'), end: last.test / first.test, norm: last.norm, state: r.state};
        };"""
    a = dict(samples=100, laziness=1, curvature=0.05, seed=0)
    rich, middle, four = (solver(run + "return go(b, 0.05, 100, 0)", a, alpha) for alpha in (1 / 16, 1, 4))
    assert 2 < rich["test"] / rich["train"] < 4
    assert 8 < four["test"] / four["train"] < 10
    lazy = solver(run + "return go(16, 0.05, 100, 0)", a)
    assert lazy["test"] is None
    assert lazy["train"] / rich["train"] == pytest.approx(75, rel=0.15)
    second = solver(run + "return go(1, 0.05, 100, 1)", a)
    assert second["peak"] > middle["peak"]
    assert second["linear"] > 2 * middle["linear"]
    curved = solver(run + "return go(1, 1, 100, 0)", a)
    assert curved["peak"] < 1.01
    assert curved["state"] == "settled"
    assert 0.05 < curved["end"] < 0.2
    assert middle["train"] / curved["train"] == pytest.approx(40, rel=0.3)
    sixty, eighty, many = (solver(run + "return go(1, 0.05, b, 0)", a, p) for p in (60, 80, 200))
    assert sixty["test"] is None
    assert sixty["state"] == "settled"
    assert eighty["test"] / eighty["train"] == pytest.approx(20, rel=0.2)
    assert many["test"] / many["train"] < 2
    assert min(r["norm"] for r in (rich, middle, lazy, second, curved, sixty, many)) > 1


def test_is_small():
    assert all(len(gzip.compress((FOLDER / name).read_bytes(), 9)) <= 15_000 for name in SCRIPTS)
    assert sum(len(gzip.compress((FOLDER / name).read_bytes(), 9)) for name in SCRIPTS) <= 30_000
