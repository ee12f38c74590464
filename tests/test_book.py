"The book: the way from the paper to the code, links, the API, and what a browser finds wrong."
import ast
import re
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from open_pages import BOOK, WIDTHS, chromium, open_pages, search_book

from book.api import api_page
from book.lay_out import relink
from book.paper import KINDS, backlinks, rows
from book.shared import ROOT, executed, model_of, page_of
from empathy_probes.machine.presets import load_preset
from empathy_probes.evidence.verdicts import read_claims

ROWS = rows()
browser = pytest.mark.skipif(chromium() is None, reason="there is no Chromium on this machine")
FAULTS = {
    "console: wrong": "<script>console.error('wrong')</script>",
    "error: wrong": "<script>throw 'wrong'</script>",
    "broken picture": "<img src='none.png'>",
    "scrolls sideways": "<p style='width: 2000px'>wide</p>",
    "1 formulas are not set": "<span class='math'>a + b</span>",
}


def test_every_table_figure_equation_and_claim_of_the_paper_has_a_row():
    items = {kind: set(ROWS[ROWS.kind == kind]["item"]) for kind in KINDS}
    assert items["table"] == {f"Table {number}" for number in range(1, 5)}
    assert items["figure"] == {f"Figure {number}" for number in range(1, 10)}
    assert {"Equation 1", "Equation 2"} <= items["equation"]
    assert items["claim"] == {claim["claim"] for claim in read_claims()["claims"].values()}
    assert set(ROWS.kind) == set(KINDS)


def test_every_section_has_a_row():
    assert {path.stem for path in (ROOT / "nbs/sections").glob("*.ipynb")} <= {name.split("/")[1] for name in ROWS.notebook}


@pytest.mark.parametrize("row", ROWS.to_dict("records"), ids=lambda row: f"{row['item'][:30]}-{row['notebook']}")
def test_the_notebook_names_the_function_and_makes_the_file(row):
    source = (ROOT / f"nbs/{row['notebook']}.ipynb").read_text(encoding="utf-8")
    module, name = row["function"].rsplit(".", 1)
    assert name in import_module(f"empathy_probes.{module}").__all__
    assert re.search(rf"\b{name}\b", source)
    if row["file"]:
        assert (ROOT / "figures" / row["file"]).exists()
        assert f'study.figures, \\"{Path(row["file"]).stem}\\"' in source


def test_a_notebooks_page_leads_back_to_its_rows():
    said = backlinks(Path("nbs/sections/42_cross_model.ipynb"))
    assert said.startswith("*In the paper: [Figure 4](#paper-figure-4) · [Models of three sizes")
    assert backlinks(Path("nbs/machine/00_files.ipynb")) == ""


def test_a_section_that_ran_for_each_model_has_a_page_for_each():
    places = executed(Path("nbs/sections/32_probe_extraction.ipynb"), "ladder")
    assert [model_of(place) for place in places] == sorted(spec.title for spec in load_preset("ladder").models.values())
    assert page_of(Path("nbs/sections/32_probe_extraction.ipynb")) == places[0]
    [alone] = executed(Path("nbs/sections/41_probe_detection.ipynb"), "ladder")
    assert model_of(alone) == ""


def test_links_lead_to_pages_and_to_files_on_github_and_a_broken_one_stays():
    home = Path("nbs/sections/41_probe_detection.ipynb")
    leads = {
        "../machine/12_controls.ipynb#heading": "/nbs/machine/12_controls.ipynb#heading",
        "../method": "/nbs/method/index.md",
        "../../LICENSE": "https://github.com/empathy-probes/empathy_probes/blob/main/LICENSE",
        "../../tests/slurm": "https://github.com/empathy-probes/empathy_probes/tree/main/tests/slurm",
        "https://arxiv.org": "https://arxiv.org",
        "none.ipynb": "none.ipynb",
    }
    assert [relink(f"[text]({link})", home, "") for link in leads] == [f"[text]({link})" for link in leads.values()]


def test_a_link_to_a_section_leads_to_its_results_and_first_to_those_of_the_same_preset(tmp_path, monkeypatch):
    for preset in ("ladder", "published"):
        (tmp_path / f"figures/{preset}/sections").mkdir(parents=True)
        (tmp_path / f"figures/{preset}/sections/c4_words.ipynb").touch()
    (tmp_path / "figures/published/sections/c2_claims.ipynb").touch()
    monkeypatch.setattr("book.shared.ROOT", tmp_path)
    place = {name: Path(f"nbs/sections/{name}.ipynb") for name in ("c2_claims", "c4_words", "c5_protocol")}
    assert page_of(place["c4_words"]) == Path("figures/ladder/sections/c4_words.ipynb")
    assert page_of(place["c4_words"], "published") == Path("figures/published/sections/c4_words.ipynb")
    assert page_of(place["c2_claims"], "ladder") == Path("figures/published/sections/c2_claims.ipynb")
    assert page_of(place["c5_protocol"], "ladder") == place["c5_protocol"]


@pytest.mark.parametrize("part", ["method", "machine", "evidence", "games"])
def test_the_api_has_every_public_function_and_class(part):
    page, kinds = api_page(part), (ast.FunctionDef, ast.ClassDef)
    defined = [
        node.name
        for path in (ROOT / "empathy_probes" / part).glob("[a-z]*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, kinds) and not node.name.startswith("_")
    ]
    assert [name for name in defined if not re.search(rf"\{{py:\w+\}} {name}\b", page)] == []
    assert len(defined) > 10


def test_an_entry_of_the_api_shows_types_and_comments():
    page = api_page("method")
    assert "{py:function} auroc(projections, labels)\n:module: empathy_probes.method.detection" in page
    assert "| `labels` | `ndarray` | 1 positive, 0 negative [text] |" in page
    assert "| **returns** | `float` | from 0 to 1; 0.5 is chance |" in page


@browser
@pytest.mark.parametrize("fault", FAULTS)
def test_the_browser_finds_a_fault(tmp_path, fault):
    (tmp_path / "page.html").write_text(f"<!doctype html><link rel='icon' href='data:,'>{FAULTS[fault]}")
    found = open_pages(tmp_path)
    assert [width for width in WIDTHS if any(f"page.html at {width}: {fault}" in each for each in found)] == list(WIDTHS), found


@browser
def test_the_browser_finds_no_fault_where_there_is_none(tmp_path):
    (tmp_path / "page.html").write_text("<!doctype html><link rel='icon' href='data:,'><p>well</p>")
    assert open_pages(tmp_path) == []


@browser
@pytest.mark.skipif(not BOOK.exists(), reason="the book is not built: make book")
def test_the_book_is_whole_in_the_browser():
    assert open_pages(BOOK) == []
    assert any("nbs/method/02_residual_stream.html" in page for page in search_book(BOOK, "residual stream")[:5])
