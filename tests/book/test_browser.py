"""The built book in a real browser: every page, narrow and wide, light and dark."""

import importlib.util
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("check_book", ROOT / "tools" / "check_book.py")
check_book = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_book)
PAGES = check_book.toc_pages()

pytestmark = pytest.mark.browser

CONTRAST = """
const parse = colour => (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const backdrop = node => {
  for (let n = node; n; n = n.parentElement) {
    const c = parse(getComputedStyle(n).backgroundColor);
    if (c.length < 4 || c[3] > .5) return c;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll(arguments[0])].filter(n => n.getClientRects().length).map(n => {
  const [a, b] = [light(parse(getComputedStyle(n).color)), light(backdrop(n))].sort((x, y) => y - x);
  return [(a + .05) / (b + .05), n.tagName + '.' + n.getAttribute('class'), n.textContent.trim().slice(0, 40)];
}).filter(row => row[0] < arguments[1]);
"""


@pytest.fixture(scope="module", params=PAGES)
def loaded(request, open_page):
    return open_page(request.param)


@pytest.fixture
def page(loaded):
    """One page, wide and light whatever the test before did to it."""
    loaded.resize(1280)
    loaded.theme("light")
    return loaded


def test_asks_nothing_of_another_host(page, address):
    foreign = [url for url in page.requests if not url.startswith((address, "data:", "blob:", "about:", "chrome:"))]
    assert page.requests
    assert foreign == []


def test_logs_no_error(page):
    assert [entry["message"] for entry in page.console] == []


def test_sets_its_mathematics(page):
    written, set_, failed = page.run("""
        return ['.math', 'mjx-container', 'mjx-merror, [data-mjx-error]'].map(s => document.querySelectorAll(s).length)""")
    assert (set_ > 0) == (written > 0)
    assert failed == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_overflows_sideways(page, width, theme):
    page.resize(width)
    page.theme(theme)
    inside, culprits = page.run("""
        const wide = document.documentElement.clientWidth, scrolls = n => {
          for (let p = n.parentElement; p; p = p.parentElement)
            if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(p).overflowX) && p !== document.body) return true;
          return false;
        };
        const right = n => n.getBoundingClientRect().right;
        const out = [...document.querySelectorAll('main *')].filter(n => right(n) > wide + 1 && !scrolls(n));
        return [document.documentElement.scrollWidth <= wide, out.slice(0, 5).map(n => n.outerHTML.slice(0, 120))]""")
    assert inside, culprits


def test_figures_are_visible_and_described(page):
    for width in (1280, 320):
        page.resize(width)
        figures = page.run("""
            return [...document.querySelectorAll('figure.grok-figure > svg, .grok-figure svg[role=img]')].map(svg => {
              const box = svg.getBoundingClientRect(), frame = svg.closest('.grok-figure');
              return {label: svg.getAttribute('aria-label') || '', width: box.width, height: box.height, frame: frame.clientWidth,
                      scrolls: getComputedStyle(frame).overflowX === 'auto', room: frame.parentElement.clientWidth};
            })""")
        for figure in figures:
            assert figure["width"] > 100
            assert figure["height"] > 60
            assert figure["frame"] <= figure["room"] + 1
            # on a phone a wide figure scrolls in its own frame rather than shrink to unreadable labels
            assert figure["width"] <= figure["frame"] + 1 or (width < 576 and figure["scrolls"] and figure["width"] <= 600)
            assert len(figure["label"]) >= 20
    undescribed = page.run("return [...document.querySelectorAll('article img:not([alt])')].map(i => i.src)")
    assert undescribed == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read(page, theme):
    page.theme(theme)
    faint = page.run(CONTRAST, ".cell_output pre, .cell_output td, .cell_output th, figcaption, details > *, .admonition p", 4.5)
    assert faint == []


def test_html_outputs_have_no_white_box_in_the_dark(page):
    page.theme("dark")
    boxes = page.run("""
        return [...document.querySelectorAll('.cell_output .text_html, .cell_output .grok-figure')]
          .filter(n => !/rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(n).backgroundColor)).length""")
    assert boxes == 0


def test_wide_code_and_tables_scroll_inside_the_page(page):
    page.resize(320)
    tables = page.run("""
        const scrolls = n => ['auto', 'scroll'].includes(getComputedStyle(n).overflowX);
        return [...document.querySelectorAll('.cell_output table')].map(t => t.closest('.text_html, .output'))
          .filter(n => n && n.scrollWidth > n.clientWidth + 1 && !scrolls(n)).length""")
    assert tables == 0


def test_the_first_page_leads_to_the_book(browser, address):
    browser.get(f"{address}/index.html")
    assert browser.current_url.endswith(f"/{PAGES[0]}.html")


@pytest.fixture
def explorer(open_page, browser):
    """The page with the explorer, freshly loaded and drawn."""
    page = open_page("book/explorer")
    page.run("document.querySelector('grok-explorer').scrollIntoView({block: 'start', behavior: 'instant'})")
    WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, "grok-explorer[data-ready]"))
    return page


def reading(page):
    """What the explorer shows: the sentence, the numbers in full precision, and where the side wells are drawn."""
    return page.run("""
        const panel = document.querySelector('grok-explorer'), value = name => +panel.querySelector(name).dataset.value;
        return {noise: +panel.querySelector('input[name=noise]').value, sentence: panel.querySelector('.ge-say').textContent,
                b: value('.ge-b'), c: value('.ge-c'), u: value('.ge-u'), droplets: value('.ge-droplets'),
                drawing: panel.querySelector('.ge-action svg').innerHTML}""")


def test_an_arrow_key_on_a_slider_moves_the_explorer_and_not_the_page(explorer, browser):
    before, address = reading(explorer), browser.current_url
    slider = browser.find_element(By.CSS_SELECTOR, "grok-explorer input[name=noise]")
    slider.send_keys(Keys.ARROW_LEFT * 5)
    WebDriverWait(browser, 20).until(lambda _: reading(explorer)["drawing"] != before["drawing"])
    after = reading(explorer)
    assert after["noise"] == pytest.approx(before["noise"] - 5 * 0.002)
    assert after["sentence"] != before["sentence"]
    assert after["droplets"] > before["droplets"]
    assert slider.get_attribute("aria-valuetext")
    assert browser.current_url == address


def test_the_explorer_starts_where_the_theory_of_the_package_is(explorer):
    shown, problem = reading(explorer), TeacherStudent.paper(noise_variance=0.15)
    solution = teacher_student.solve(problem, norm="exact", method="quadrature")
    assert shown["b"] == pytest.approx(solution.residual[1], rel=1e-4)
    assert shown["c"] == pytest.approx(solution.residual[3], rel=1e-4)
    assert shown["u"] == pytest.approx(problem.interaction, rel=1e-9)
    assert shown["droplets"] == pytest.approx(problem.width * solution.droplet_fraction, rel=1e-2)


def test_reset_returns_to_the_start(explorer, browser):
    before = reading(explorer)
    browser.find_element(By.CSS_SELECTOR, "grok-explorer input[name=noise]").send_keys(Keys.ARROW_RIGHT * 9)
    WebDriverWait(browser, 20).until(lambda _: reading(explorer)["drawing"] != before["drawing"])
    browser.execute_script("document.querySelector('grok-explorer .ge-reset').click()")
    WebDriverWait(browser, 20).until(lambda _: reading(explorer)["sentence"] == before["sentence"])
    assert reading(explorer)["b"] == before["b"]


def test_the_explorer_fits_a_telephone_and_can_be_touched(explorer):
    explorer.resize(320)
    sizes = explorer.run("""
        const panel = document.querySelector('grok-explorer');
        return {inside: document.documentElement.scrollWidth <= document.documentElement.clientWidth,
                views: [...panel.querySelectorAll('svg')].map(s => s.getBoundingClientRect()).map(r => [r.width, r.height]),
                targets: [...panel.querySelectorAll('input[type=range], button')].map(n => n.getBoundingClientRect().height)}""")
    assert sizes["inside"]
    assert all(width > 150 and height > 80 for width, height in sizes["views"] if width)
    assert min(sizes["targets"]) >= 40


def test_only_pages_with_an_explorer_load_its_scripts(page):
    loaded = {url.rsplit("/", 1)[1].partition("?")[0] for url in page.requests if "/explorer/" in url and ".js" in url}
    wanted = {
        "grok-explorer": {"panel.js", "solver.js", "grok-explorer.js"}, "grok-modular": {"panel.js", "modular-solver.js", "grok-modular.js"},
        "grok-phases": {"panel.js", "phase-data.js", "grok-phases.js"},
        "grok-lazy": {"panel.js", "lazy-solver.js", "grok-lazy.js"},
    }
    present = [tag for tag in wanted if page.run(f"return document.querySelectorAll('{tag}').length")]
    assert loaded == set().union(*(wanted[tag] for tag in present))
