"""Lay out the pages of the book in runs/book/source, for Sphinx (`make book`, which empties the folder first).

The tree there is the repository's: a page's address is its notebook's path. A section of the paper is shown with its results
(figures/<preset>/sections), and as it is kept in nbs/sections if there are none.
"""
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book.api import api_pages
from book.paper import backlinks, claims_page, paper_page
from book.shared import PRESETS, ROOT, executed, model_of, on_github, page_of, sections
from book.shared import table, title_of, toctree

SOURCE = ROOT / "runs/book/source"
GLOSSARY = Path("nbs/method/08_glossary.ipynb")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)]*)?\)")
PARTS = {
    "method": ("Method", "What the paper does: chapters to be read in order, on a real model and real texts."),
    "evidence": ("Evidence", "What the numbers are worth: chance, intervals, words, protocol, dose, the released data."),
    "machine": ("Machine", "How a run works and survives: presets, weights, generation in batches, stores, the manifest."),
    "games": ("Games", "What a model does instead of what it says: small worlds in which a deed has a price."),
    "guides": ("Guides", "From an empty folder to a result of your own."),
}
ABOUT_SECTIONS = """The section notebooks follow the paper section by section; 3.5 and those with a C are the companion's own. Each
puts the paper's numbers beside its own and says what to make of the difference. Here they are with the results of two
presets; where there is a dash, no results are committed."""
RESULTS = {
    "ladder": ("On four models", "The preset `ladder`: four models from 135 million to 1.5 billion parameters."),
    "published": ("On the released data", "The preset `published`: what the paper's author released, without a model."),
}


def relink(text: str, home: Path, preset: str) -> str:
    "Links lead to pages, or to files on GitHub; pictures come along. What leads nowhere stays, and Sphinx reports it."
    def moved(link: re.Match) -> str:
        picture, label, target, heading = link.groups("")
        path = Path(os.path.relpath(ROOT / home.parent / target, ROOT))
        if "://" in target or not (ROOT / path).exists():
            return link[0]
        if picture:
            (SOURCE / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, SOURCE / path)
        place = path if picture else page_of(path, preset)
        return f"{picture}[{label}]({f'/{place}' if place else on_github(path)}{heading})"

    return LINK.sub(moved, text)


def shown(cell: NotebookNode, relinked: Callable) -> bool:
    "Move a cell's links and take nbdev's directives away; False if nbdev hides the cell, or nothing is left of it."
    if cell.cell_type == "markdown":
        cell.source = relinked(cell.source)
        return True
    for output in cell.outputs:
        if "text/markdown" in output.get("data", {}):
            output.data["text/markdown"] = relinked(output.data["text/markdown"])
    hidden = cell.source.startswith("#| hide")
    cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE).strip("\n")
    return bool(cell.source) and not hidden


def write_notebook(home: Path, page: Path, preset: str = "", note: str = "", end: str = "", of: str = "") -> str:
    """
    Write a notebook's page, with a note and what leads back to the paper after its first cell, which is returned.
    `home` is its place in nbs/, from which its links lead; if the repository has a notebook at `page`, that one is shown.
    `of` is the model that its title is to name.
    """
    notebook = nbformat.read(ROOT / page if (ROOT / page).exists() else ROOT / home, 4)
    title, *rest = [cell for cell in notebook.cells if shown(cell, lambda text: relink(text, home, preset))]
    title.source = re.sub("$", of and f": {of}", title.source, count=1, flags=re.MULTILINE)
    note = " ".join(text for text in (note, backlinks(home)) if text)
    notebook.cells = [title, *prose(note), *rest, *prose(end)]
    notebook.metadata.pop("widgets", None)  # the state of a form, for which pages would fetch scripts
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}  # it knows lines with % and !
    write(page, nbformat.writes(notebook))
    return title.source


def prose(text: str) -> list[NotebookNode]:
    "A cell of prose; none for an empty text."
    return [nbformat.v4.new_markdown_cell(text)] if text else []


def write(page: Path, text: str) -> None:
    "A page of the source tree."
    (SOURCE / page).parent.mkdir(parents=True, exist_ok=True)
    (SOURCE / page).write_text(text, encoding="utf-8")


def write_part(part: str) -> Path:
    "The chapters of a part, and a page that lists them with what they are about."
    title, about = PARTS[part]
    lines, below = [], []
    for path in sorted((ROOT / "nbs" / part).glob("*.ipynb")):
        chapter = path.relative_to(ROOT)
        _, _, described = write_notebook(chapter, chapter).split("\n\n")[0].partition("\n")
        lines.append(f"- [{title_of(chapter)}](/{chapter}): {' '.join(described.replace('>', ' ').split())}")
        below += [chapter] if chapter != GLOSSARY else []  # which has a place of its own
    index = Path("nbs", part, "index.md")
    write(index, "\n\n".join([f"# {title}", about, "\n".join(lines), toctree(below)]))
    return index


def write_preset(preset: str) -> Path:
    "The sections that a preset has executed, and a page that lists them."
    title, about = RESULTS[preset]
    lines, there = [], []
    for section in sections():
        for place in executed(section, preset):
            title_cell = write_notebook(section, place, preset, f"*Executed with the preset `{preset}`.*", of=model_of(place))
            lines.append(f"- [{title_cell.splitlines()[0].lstrip('# ')}](/{place})")
            there.append(place)
    nothing = "No results are committed yet; [The paper's sections](/sections.md) leads to the notebooks."
    write(Path("figures", preset, "index.md"), "\n\n".join([f"# {title}", about, "\n".join(lines) or nothing, toctree(there)]))
    return Path("figures", preset, "index.md")


def write_sections() -> Path:
    "What there is of each section. The notebook without results is a page if there is no other, and else on GitHub."
    lines, without = [], []
    for section in sections():
        places = [executed(section, preset) for preset in PRESETS]
        if not any(places):
            without.append(section)
            write_notebook(section, section, note="*This is the notebook as it is kept: no results are committed.*")
        links = [", ".join(f"[{model_of(place) or 'results'}](/{place})" for place in found) or "–" for found in places]
        clean = f"/{section}" if section in without else on_github(section)
        lines.append([title_of(section), *links, f"[notebook]({clean})"])
    shown = table(["section", *PRESETS, "without results"], lines)
    below = toctree([*map(write_preset, PRESETS), *without])
    write(Path("sections.md"), "\n\n".join(["# The paper's sections", ABOUT_SECTIONS, shown, below]))
    return Path("sections.md")


def main() -> None:
    for name, text in (api_pages() | {"paper.md": paper_page(), "claims.md": claims_page()}).items():
        write(Path(name), text)
    pages = [write_sections(), *map(write_part, PARTS), "api/index.md", "paper.md", "claims.md", GLOSSARY]
    write_notebook(Path("nbs/index.ipynb"), Path("index.ipynb"), end=toctree(pages))


if __name__ == "__main__":
    main()
