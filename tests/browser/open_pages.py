"""Open every page of the book in a browser, wide and narrow, and search in it (`python tests/browser/open_pages.py [folder]`).

Fails on an error in the console, a broken picture, a formula that is not set, or a page that scrolls sideways.
"""
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

BOOK = Path(__file__).resolve().parents[2] / "runs/book/html"
WIDTHS = (1280, 390)
BROKEN = """() => [...document.images].filter(image => image.loading !== "lazy" && !(image.complete && image.naturalWidth)).map(image => image.src)"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNSET = """() => [...document.querySelectorAll(".math")].filter(formula => !formula.querySelector("mjx-container")).length"""


class Quiet(SimpleHTTPRequestHandler):
    "Serves files and says nothing."

    def log_message(self, *words):
        pass


def chromium() -> str | None:
    "The browser of the system."
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def faults_of(page: Page, address: str) -> list[str]:
    "What is wrong with a page."
    said = []
    page.on("console", lambda message: said.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.goto(address)
    page.evaluate("() => window.MathJax?.startup?.promise")
    faults = said + [f"broken picture: {picture}" for picture in page.evaluate(BROKEN)]
    over, unset = page.evaluate(OVERFLOW), page.evaluate(UNSET)
    faults += [f"scrolls sideways by {over} pixels"] if over > 0 else []
    return faults + ([f"{unset} formulas are not set"] if unset else [])


def faults_of_search(browser: Browser, root: str) -> list[str]:
    "The search has to find the chapter on the residual stream."
    page = browser.new_page()
    page.goto(f"{root}/search.html?q=residual+stream")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
    page.close()
    return [] if any("02_residual_stream.html" in link for link in found[:5]) else [f"the search finds {found[:5]} first"]


def open_pages(folder: Path = BOOK) -> list[str]:
    "What is wrong with the pages in a folder, which is served on this machine; empty if nothing is."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    pages = sorted(path.relative_to(folder) for path in folder.rglob("*.html") if "_static" not in path.parts)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        faults = faults_of_search(browser, root)
        for width in WIDTHS:
            context = browser.new_context(viewport={"width": width, "height": 800})
            for path in pages:
                page = context.new_page()
                faults += [f"{path} at {width}: {fault}" for fault in faults_of(page, f"{root}/{path}")]
                page.close()
        browser.close()
    server.shutdown()
    return faults if pages else [f"no pages in {folder}: run `make book`"]


if __name__ == "__main__":
    faults = open_pages(Path(sys.argv[1]) if len(sys.argv) > 1 else BOOK)
    print("\n".join(faults) or "every page is well")
    sys.exit(bool(faults))
