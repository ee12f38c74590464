"""Open every page of the book in a browser, wide and narrow, and search in it (`python tests/browser/open_pages.py`).

Fails on an error in the console, a broken picture, a formula that is not set, or a page that scrolls sideways. The book is served
on this machine, and nothing else is asked for.
"""
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

BOOK = Path(__file__).resolve().parents[2] / "runs/book/html"
WIDTHS = (1280, 390)
BROKEN = "() => [...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
OVER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNSET = "() => [...document.querySelectorAll('.math')].filter(formula => !formula.querySelector('mjx-container')).length"


class Quiet(SimpleHTTPRequestHandler):
    "Serves files and says nothing."

    def log_message(self, *words):
        pass


def chromium() -> str | None:
    "The browser of the system; None without one."
    return next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


@contextmanager
def served(folder: Path) -> Iterator[tuple[Browser, str]]:
    "A browser, and the address at which a folder is served."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    server.handle_error = lambda *request: None  # a browser that goes on to the next page hangs up
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser, f"http://127.0.0.1:{server.server_port}"
        browser.close()
    server.shutdown()


def open_pages(folder: Path) -> list[str]:
    "What is wrong with the pages in a folder; empty if nothing is."
    pages = sorted(path.relative_to(folder) for path in folder.rglob("*.html") if "_static" not in path.parts)
    faults = [] if pages else [f"there are no pages in {folder}: run `make book`"]
    with served(folder) as (browser, root):
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 800})
            said = []
            page.on("console", lambda each: said.append(f"console: {each.text} {each.location['url']}") if each.type == "error" else None)
            page.on("pageerror", lambda error: said.append(f"error: {error}"))
            for path in pages:
                said.clear()
                page.goto(f"{root}/{path}")
                page.evaluate("() => window.MathJax?.startup?.promise")
                found = said + [f"broken picture: {source}" for source in page.evaluate(BROKEN)]
                over, unset = page.evaluate(OVER), page.evaluate(UNSET)
                found += [f"scrolls sideways by {over} pixels"] if over > 0 else []
                found += [f"{unset} formulas are not set"] if unset else []
                faults += [f"{path} at {width}: {fault}" for fault in found]
    return faults


def search_book(folder: Path, words: str) -> list[str]:
    "The addresses of the pages that the book's search finds, best first."
    with served(folder) as (browser, root):
        page = browser.new_page()
        page.goto(f"{root}/index.html")
        page.get_by_placeholder("Search").first.fill(words)
        page.keyboard.press("Enter")
        page.wait_for_selector("#search-results li a")
        page.wait_for_function("() => document.querySelector('.search-summary')?.textContent.includes('found')")
        return page.eval_on_selector_all("#search-results li > a", "links => links.map(link => link.href)")


if __name__ == "__main__":
    faults = open_pages(BOOK)
    found = search_book(BOOK, "residual stream")
    if not any("nbs/method/02_residual_stream.html" in link for link in found[:5]):
        faults.append(f"a search for 'residual stream' finds {found[:5]} first")
    print("\n".join(faults) or "every page is well")
    sys.exit(bool(faults))
