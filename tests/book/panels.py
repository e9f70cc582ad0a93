"""What the tests of the live panels share."""

from selenium.webdriver.common.by import By


def page(tag, scripts, attributes="", loading="async"):
    """A page with nothing but a panel."""
    tags = "".join(f'<script {loading} src="/explorer/{name}"></script>' for name in scripts)
    return f"""<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Explorer</title>
        <meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/explorer/grok-explorer.css">{tags}
        </head><body style="margin: 8px; font-family: sans-serif">
        <{tag} {attributes}><p class="fallback">A panel stands here.</p></{tag}></body></html>"""


def resize(browser, width, height=900):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})


def runner(browser, site, path, name):
    """run(body, *arguments): JavaScript that sees the solver in the file at ``path``, the global ``name``, as S and its arguments as a, b."""
    source = path.read_text(encoding="utf-8")

    def run(body, *arguments):
        if browser.current_url != f"{site.address}/empty":
            browser.get(f"{site.address}/empty")
        if not browser.execute_script(f"return '{name}' in window"):
            browser.execute_script(source)
        return browser.execute_script(f"const S = window.{name}, [a, b] = arguments; {body}", *arguments)

    return run


def value(browser, name):
    return float(browser.find_element(By.CSS_SELECTOR, f".ge-{name}").get_attribute("data-value") or "nan")


def settle(browser):
    """Two frames later, every pending redraw is done."""
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));")


def errors(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def layout(browser, tag):
    """Sizes that must fit a screen and a finger."""
    return browser.execute_script("""
        const root = document.querySelector(arguments[0]), box = n => n.getBoundingClientRect(), wide = document.documentElement.clientWidth;
        const svgs = [...root.querySelectorAll('.ge-view > svg')], texts = svgs.flatMap(s => [...s.querySelectorAll('text')]);
        return {
          inside: document.documentElement.scrollWidth <= wide,
          labels: texts.filter(t => box(t).left < box(root).left || box(t).right > box(root).right).map(t => t.textContent),
          small: texts.map(t => parseFloat(getComputedStyle(t).fontSize)),
          targets: [...root.querySelectorAll('input[type=range], button, fieldset label, summary')].map(n => box(n).height),
          views: svgs.map(s => box(s).bottom), controls: box(root.querySelector('.ge-controls')).top,
          aligned: box(svgs[0]).left === box(svgs[1]).left,
        }""", tag)


def assert_fits(seen):
    assert seen["inside"]
    assert seen["labels"] == []
    assert min(seen["small"]) >= 12
    assert min(seen["targets"]) >= 44
    assert max(seen["views"]) <= seen["controls"]
    assert seen["aligned"]  # the first two views share their horizontal axis


def description(browser, tag):
    """What somebody who does not see the panel is told."""
    return browser.execute_script("""
        const root = document.querySelector(arguments[0]);
        return {titles: [...root.querySelectorAll('.ge-view > svg')].map(s => document.getElementById(s.getAttribute('aria-labelledby')).textContent),
                unnamed: [...root.querySelectorAll('input')].filter(n => !n.labels.length || !n.labels[0].textContent.trim()).length,
                live: root.querySelector('.ge-live').getAttribute('aria-live')}""", tag)


def assert_described(seen):
    assert all(len(title) > 20 for title in seen["titles"])
    assert len(set(seen["titles"])) == 3
    assert seen["unnamed"] == 0
    assert seen["live"] == "polite"
