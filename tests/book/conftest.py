"""A built book, a server for it on this machine, and a browser; makes ``panels`` importable."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
]


def missing(reason):
    """On a developer's machine a browser may be absent; in continuous integration it may not."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI must run the browser tests: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """The built book: the folder that `make test` has just built, or one built here."""
    if built := os.environ.get("GROK_BOOK_HTML"):
        folder = (ROOT / built).resolve()
        assert (folder / "index.html").is_file(), f"GROK_BOOK_HTML names {folder}, which holds no book"
        return folder
    out = tmp_path_factory.mktemp("book")
    builder = Path(sys.executable).with_name("jupyter-book")
    command = [str(builder), "build", str(ROOT), "--path-output", str(out), "--all", "-W", "-n", "--keep-going", "-q"]
    subprocess.run(command, check=True, cwd=ROOT)
    return out / "_build" / "html"


@pytest.fixture(scope="session")
def address(html):
    """http://localhost:PORT of a server of the book."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A Chromium without a window, driven by selenium; what it asks of the network is recorded."""
    selenium = pytest.importorskip("selenium.webdriver")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    driver = shutil.which("chromedriver") or shutil.which("chromedriver", path=os.environ.get("CHROMEWEBDRIVER"))
    if not program:
        missing("no Chromium was found (apt-get install chromium)")
    if not driver:
        missing("no chromedriver was found (apt-get install chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    window = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    window.set_page_load_timeout(120)
    window.set_script_timeout(120)
    yield window
    window.quit()


class Page:
    """One page in the browser, with what loading it wrote to the logs."""

    def __init__(self, browser, address, name):
        self.browser, self.name = browser, name
        for log in ("performance", "browser"):
            browser.get_log(log)
        self.resize(1280)
        browser.get(f"{address}/{name}.html")
        self.settle()
        self.requests = list(self._requests())
        self.console = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]

    def _requests(self):
        for entry in self.browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                yield message["params"]["request"]["url"]

    def settle(self):
        """Wait until MathJax, which loads late, has set the whole page."""
        self.browser.execute_async_script("""
            const done = arguments[0], wanted = document.querySelector('.math') !== null, end = Date.now() + 60000;
            const wait = () => {
              const mathjax = window.MathJax && MathJax.startup && MathJax.startup.promise;
              if (mathjax) mathjax.then(() => setTimeout(done, 100));
              else if (!wanted || Date.now() > end) done();
              else setTimeout(wait, 50);
            };
            wait();""")

    def resize(self, width, height=900):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def theme(self, name):
        self.run("document.documentElement.dataset.theme = document.documentElement.dataset.mode = arguments[0]", name)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)


@pytest.fixture(scope="session")
def open_page(browser, address):
    """open_page(name): load a page of the book."""
    return lambda name: Page(browser, address, name)


@pytest.fixture(scope="session")
def site():
    """A server of the static files and of pages made up here: {path: text}, and {path: seconds} by which a file comes late."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        pages, late = {"/empty": "<!doctype html><title>empty</title>"}, {}

        def log_message(self, *_):
            pass

        def do_GET(self):
            time.sleep(self.late.get(self.path, 0))
            if self.path in self.pages:
                self.answer(200, self.pages[self.path].encode())
            elif self.path == "/favicon.ico":
                self.answer(204, b"")
            else:
                super().do_GET()

        def answer(self, status, body):
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(ROOT / "book" / "_static")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.address = f"http://127.0.0.1:{server.server_port}"
    yield Handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_panel(browser, site):
    """open_panel(path): load a page and wait for its panel."""

    from panels import resize
    from selenium.webdriver.support.ui import WebDriverWait

    def load(path="/panel", width=1280):
        resize(browser, width)
        browser.get_log("browser")
        browser.get(site.address + path)
        WebDriverWait(browser, 60, poll_frequency=0.1).until(
            lambda b: b.execute_script("return document.querySelector('[data-ready][data-curve-ready]') !== null"))
        return browser

    yield load
    resize(browser, 1280)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
