"What the pages share: where a path of the repository is in the book and on GitHub, titles, and tables."
import re
from pathlib import Path

import nbformat

from empathy_probes.machine.presets import load_preset

ROOT = Path(__file__).resolve().parents[1]
GITHUB = "https://github.com/empathy-probes/empathy_probes"
CHAPTERS = ["method", "evidence", "machine", "games"]  # the parts that make modules
PARTS = [*CHAPTERS, "guides"]
PRESETS = ["ladder", "published"]  # whose executed sections are committed


def sections() -> list[Path]:
    "The section notebooks in nbs/, in the order of the paper, then C1, C2, ..."
    def order(path: Path) -> list:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]

    return sorted((path.relative_to(ROOT) for path in (ROOT / "nbs/sections").glob("*.ipynb")), key=order)


def executed(section: Path, preset: str) -> list[Path]:
    "A section notebook with a preset's results: one, or one for each model where models run by themselves; none if it did not run."
    folder = ROOT / "figures" / preset / "sections"
    alone = folder.glob(f"{section.stem}.ipynb")
    return [place.relative_to(ROOT) for place in [*alone, *sorted(folder.glob(f"{section.stem}-*.ipynb"))]]


def model_of(place: Path) -> str:
    "The title of the model that an executed section is about; empty if it is about all of its preset's."
    _, preset, *_ = place.parts
    key = place.stem.partition("-")[2]
    models = load_preset(preset).models
    return models[key].title if key in models else key


def page_of(path: Path, preset: str = "") -> Path | None:
    "The page of a notebook or folder; of a section, rather as this preset executed it than another. None if it has no page."
    if path == Path("nbs/index.ipynb"):
        return Path("index.ipynb")
    if path == Path("nbs/sections"):
        return Path("sections.md")
    if path.parent == Path("nbs") and path.name in PARTS:
        return path / "index.md"
    if path.parent == Path("nbs/sections"):
        return next((place for name in (preset, *PRESETS) for place in executed(path, name)), path)
    return path if path.suffix == ".ipynb" else None


def on_github(path: Path) -> str:
    "The address of a file or folder of the repository."
    return f"{GITHUB}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"


def title_of(notebook: Path) -> str:
    "A notebook's first heading."
    return nbformat.read(ROOT / notebook, 4).cells[0].source.splitlines()[0].lstrip("# ")


def table(heads: list[str], lines: list[list]) -> str:
    "A Markdown table."
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def toctree(pages) -> str:
    "What Sphinx puts below a page in the side bar; pages are paths from the root of the book."
    return "\n".join(["```{toctree}", ":hidden:", "", *(f"/{page}" for page in pages), "```"])
