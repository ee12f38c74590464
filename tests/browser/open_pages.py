"""Open every page of the book in a browser, wide and narrow, search in it, and use the playground in JupyterLab
(`python tests/browser/open_pages.py`).

Fails on an error in the console, a broken picture, a formula that is not set, a page that scrolls sideways, or a form that does not
answer. Book and JupyterLab are served on this machine, and nothing else is asked for; the form needs the weights of `mini`.
"""
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from urllib.request import urlopen

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "runs/book/html"
GUIDE = ROOT / "nbs/guides/playground.ipynb"
MINUTES = 10  # that a model may take on a busy machine the first time
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
def browser() -> Iterator[Browser]:
    "The system's browser, without a window."
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def served(folder: Path) -> Iterator[tuple[Browser, str]]:
    "A browser, and the address at which a folder is served."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    server.handle_error = lambda *request: None  # a browser that goes on to the next page hangs up
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with browser() as started:
        yield started, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def open_pages(folder: Path) -> list[str]:
    "What is wrong with the pages in a folder; empty if nothing is."
    pages = sorted(path.relative_to(folder) for path in folder.rglob("*.html") if "_static" not in path.parts)
    faults = [] if pages else [f"there are no pages in {folder}: run `make book`"]
    with served(folder) as (started, root):
        for width in WIDTHS:
            page = started.new_page(viewport={"width": width, "height": 800})
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
    with served(folder) as (started, root):
        page = started.new_page()
        page.goto(f"{root}/index.html")
        page.get_by_placeholder("Search").first.fill(words)
        page.keyboard.press("Enter")
        page.wait_for_selector("#search-results li a")
        page.wait_for_function("() => document.querySelector('.search-summary')?.textContent.includes('found')")
        return page.eval_on_selector_all("#search-results li > a", "links => links.map(link => link.href)")


@contextmanager
def jupyterlab(notebook: Path) -> Iterator[str]:
    "The address at which JupyterLab shows a copy of a notebook, so that the notebook itself is not saved."
    with TemporaryDirectory() as folder:
        shutil.copy(notebook, folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            root = f"http://127.0.0.1:{free.getsockname()[1]}"
        options = ["--no-browser", "--allow-root", f"--port={root.rpartition(':')[2]}", "--IdentityProvider.token="]
        command = [sys.executable, "-m", "jupyter", "lab", *options, "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                for _ in range(60):
                    with suppress(OSError):
                        urlopen(f"{root}/api")
                        break
                    sleep(1)
                yield f"{root}/lab/tree/{notebook.name}"
            finally:
                server.terminate()


def press(page: Page, prompt: str) -> str:
    "Type a prompt into the playground, press its button, and wait for what it says."
    page.get_by_label("Prompt").fill(prompt)
    form = page.locator(".widget-vbox")
    before = form.inner_text()
    page.get_by_role("button", name="Answer").click()
    page.wait_for_function(
        "([form, before]) => form.innerText != before && !form.innerText.includes('Working …')",
        arg=[form.element_handle(), before], timeout=MINUTES * 60_000,
    )
    return form.inner_text()


def use_playground(notebook: Path) -> list[str]:
    "What is wrong with the playground's form; empty if nothing is."
    with jupyterlab(notebook) as address, browser() as started:
        page = started.new_page(viewport={"width": 1280, "height": 1600})
        page.goto(address)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # else JupyterLab asks for a kernel
        page.evaluate("() => window.jupyterapp.commands.execute('runmenu:run-all')")
        page.get_by_role("button", name="Answer").wait_for(timeout=MINUTES * 60_000)
        answered, refused = press(page, "A player you do not know asks you for water. What do you do?"), press(page, " ")
    headings = [heading for heading in ("unsteered", "dose +2", "random direction") if heading not in answered]
    faults = [f"the playground shows no answer of {heading!r}, but: {answered}" for heading in headings]
    return faults if "the prompt is empty" in refused else [*faults, f"the playground answers an empty prompt: {refused}"]


if __name__ == "__main__":
    faults = open_pages(BOOK) + use_playground(GUIDE)
    found = search_book(BOOK, "residual stream")
    if not any("nbs/method/02_residual_stream.html" in link for link in found[:5]):
        faults.append(f"a search for 'residual stream' finds {found[:5]} first")
    print("\n".join(faults) or "every page is well, and the playground answers")
    sys.exit(bool(faults))
