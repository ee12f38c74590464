"The house: where a module belongs, what it may import, how long it is, and what every notebook and function keeps to."

import ast
import json
import re
from pathlib import Path

import pytest

import empathy_probes

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(empathy_probes.__file__).parent
PARTS = ["method", "machine", "evidence", "games"]  # from left to right: a module imports from its own part and from those before it
MODULES = sorted(path for part in PARTS for path in (PACKAGE / part).glob("[a-z]*.py"))
CHAPTERS = sorted(path for part in PARTS for path in (ROOT / "nbs" / part).glob("*.ipynb"))
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
PUBLIC = (
    "auroc extract find_blocks generate labelled_texts load_concept load_model load_preset mean_difference project separation steer"
).split()


def named(path: Path) -> str:
    return f"{path.parent.name}.{path.stem}"


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def lines(path: Path, kind: str) -> list[str]:
    "All lines of a notebook's cells of one kind (`code` or `markdown`)."
    return [line.rstrip("\n") for cell in cells(path) if cell["cell_type"] == kind for line in cell["source"]]


def imported(path: Path) -> set[str]:
    "The modules of this package that a module imports, as `method.texts`."
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            part = path.parent.name if node.level == 1 else ""
            found.add(".".join(name for name in (part, node.module) if name))
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("empathy_probes."):
            found.add(node.module.removeprefix("empathy_probes."))
    return found


IMPORTS = {named(path): imported(path) for path in MODULES}


@pytest.mark.parametrize("module", IMPORTS)
def test_a_module_imports_only_to_its_left(module):
    place = PARTS.index(module.split(".")[0])
    assert [name for name in IMPORTS[module] if PARTS.index(name.split(".")[0]) > place] == []


def test_no_module_imports_itself_through_others():
    def reached(module: str, seen: set) -> set:
        for name in IMPORTS.get(module, set()) - seen:
            seen.add(name)
            reached(name, seen)
        return seen

    assert [module for module in IMPORTS if module in reached(module, set())] == []


def test_the_imports_are_found():
    assert "method.residual_stream" in IMPORTS["method.activations"]
    assert "method.detection" in IMPORTS["evidence.tables"]


def test_the_package_gives_the_names_of_the_readmes_example_and_nothing_else():
    assert sorted(empathy_probes.__all__) == PUBLIC
    assert [name for name in PUBLIC if getattr(empathy_probes, name).__name__ != name] == []
    with pytest.raises(AttributeError, match="no attribute 'load_modell'"):
        empathy_probes.load_modell


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_is_no_longer_than_about_300_lines(path):
    assert len(path.read_text().splitlines()) <= 320


@pytest.mark.parametrize("path", CHAPTERS, ids=named)
def test_a_chapter_has_about_50_cells_and_says_what_it_is(path):
    found = cells(path)
    assert len(found) <= 56
    title = "".join(found[0]["source"])
    assert re.match(r"# .+\n+> .+", title), title
    assert "**In the paper:**" in "\n".join(lines(path, "markdown")) or path.parent.name != "method" or "glossary" in path.stem


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_function_says_what_it_does(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = ast.parse(path.read_text()).body
    assert [node.name for node in nodes if isinstance(node, kinds) and not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_function_fits_on_a_screen(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.end_lineno - node.lineno >= 50] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_no_line_of_a_notebook_is_longer_than_120(path):
    prose = [line for line in lines(path, "markdown") if not line.lstrip().startswith("|")]
    assert [line for line in [*prose, *lines(path, "code")] if len(line) > 120] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_links_between_notebooks_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)\)", "\n".join(lines(path, "markdown")))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_every_module_has_its_tests_or_says_that_its_notebook_is_enough():
    said = (ROOT / "tests/README.md").read_text()
    own = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert [named(path) for path in MODULES if path.stem not in own and f"`{named(path)}`" not in said] == []
