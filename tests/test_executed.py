"The executed sections that are committed: fit to be read by somebody who has only a browser."
import re
from pathlib import Path

import nbformat
import pytest

from empathy_probes.machine.presets import load_preset

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = sorted(ROOT.glob("figures/*/sections/*.ipynb"))
COMMITTED = [path for path in EXECUTED if path.parts[-3] not in ("mini", "smoke")]  # those two are not under git
PLACES = re.compile(r"(?<![\w:/])/(?:home|root|tmp|work|Users|mnt|usr|opt|scratch)/\S*|[A-Z]:\\Users")
PRESETS = ("ladder", "published")
KEYS = {key for preset in ("ladder", "paper") for key in load_preset(preset).models}


def outputs(path: Path):
    "The outputs of a notebook, one after the other."
    return [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]


def shown(output) -> str:
    "What an output shows as text."
    data = output.get("data", {})
    return output.get("text", "") or data.get("text/markdown", "") or data.get("text/html", data.get("text/plain", ""))


def test_every_section_is_there_for_the_four_models_and_those_of_the_released_data():
    "Section C12 takes the four models an hour, and has its tables and figures only."
    names = {preset: {path.stem.partition("-")[0] for path in COMMITTED if path.parts[-3] == preset} for preset in PRESETS}
    everything = {path.stem for path in (ROOT / "nbs/sections").glob("*.ipynb")}
    assert names["ladder"] | {"c12_forks"} >= everything - {"c1_released_results", "c2_claims"}  # about the released data
    assert names["published"] == {"c1_released_results", "c2_claims", "c3_uncertainty", "c4_words", "c8_size"}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
class TestExecuted:
    def test_it_belongs_to_a_section(self, path):
        source = ROOT / "nbs/sections" / f"{re.sub('-.*', '', path.stem)}.ipynb"
        assert source.is_file()

    def test_every_cell_was_run_without_an_error_or_a_warning(self, path):
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        assert [cell.source for cell in cells if not cell.execution_count and "preset =" not in cell.source] == []
        assert [output for output in outputs(path) if output.output_type == "error" or output.get("name") == "stderr"] == []

    def test_no_path_of_a_machine_stands_in_it(self, path):
        assert PLACES.findall(path.read_text("utf-8")) == []

    def test_no_table_is_empty_and_none_names_a_model_by_its_key(self, path):
        for text in map(shown, outputs(path)):
            assert "Empty DataFrame" not in text and "There is nothing to show." not in text
            assert [key for key in KEYS if re.search(rf"(?<![\w./-]){re.escape(key)}(?![\w./-])", text)] == []

    def test_it_ends_in_sentences_that_were_computed(self, path):
        assert shown(outputs(path)[-1]).startswith("- ")


@pytest.mark.parametrize("path", [path for path in COMMITTED if path.parts[-3] == "published"], ids=lambda path: path.stem)
def test_what_was_run_is_what_the_section_says_now(path):
    "The released data take minutes: make reproduce PRESET=published. The four models take hours, and their copies may be older."
    section = nbformat.read(ROOT / "nbs/sections" / path.name, 4)
    kept = [cell.source for cell in section.cells if not cell.source.startswith(("preset =", "record_stage("))]
    assert [cell.source for cell in nbformat.read(path, 4).cells if not cell.source.startswith("preset =")] == kept
