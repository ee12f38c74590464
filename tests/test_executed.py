"The executed sections that are committed: fit to be read by somebody who has only a browser."
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from empathy_probes.machine.presets import load_preset
from empathy_probes.evidence.companion_conclusions import describe_shared_readings, describe_transfer
from empathy_probes.evidence.effect_conclusions import describe_mediation, describe_outcomes, describe_verdicts
from empathy_probes.evidence.size import broken_controls, describe_extremes
from empathy_probes.games.outcomes import describe_play
from empathy_probes.games.slopes import answers, describe_forks, describe_need

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = sorted(ROOT.glob("figures/*/sections/*.ipynb"))
COMMITTED = [path for path in EXECUTED if path.parts[-3] not in ("mini", "smoke")]  # those two are not under git
PLACES = re.compile(r"(?<![\w:/])/(?:home|root|tmp|work|Users|mnt|usr|opt|scratch)/\S*|[A-Z]:\\Users")
PRESETS = ("ladder", "published")
TITLES = {key: spec.title for key, spec in load_preset("ladder").models.items()}
KEYS = {key for preset in ("ladder", "paper") for key in load_preset(preset).models}


def outputs(path: Path):
    "The outputs of a notebook, one after the other."
    return [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]


def shown(output) -> str:
    "What an output shows as text."
    data = output.get("data", {})
    return output.get("text", "") or data.get("text/markdown", "") or data.get("text/html", data.get("text/plain", ""))


def conclusion(path: Path) -> list[str]:
    "The lines in which a section ends."
    return shown(outputs(path)[-1]).splitlines()


def test_every_section_is_there_for_the_four_models_and_those_of_the_released_data():
    names = {preset: {path.stem.partition("-")[0] for path in COMMITTED if path.parts[-3] == preset} for preset in PRESETS}
    everything = {path.stem for path in (ROOT / "nbs/sections").glob("*.ipynb")}
    assert names["ladder"] == everything - {"c1_released_results", "c2_claims"}  # these are about the released data
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

    def test_it_ends_in_two_to_four_points_that_were_computed(self, path):
        assert 2 <= len(conclusion(path)) <= 4 and all(line.startswith("- ") for line in conclusion(path))


@pytest.mark.parametrize("path", [path for path in COMMITTED if path.parts[-3] == "published"], ids=lambda path: path.stem)
def test_what_was_run_is_what_the_section_says_now(path):
    "The released data take minutes: make reproduce PRESET=published. The four models take hours, and their copies may be older."
    section = nbformat.read(ROOT / "nbs/sections" / path.name, 4)
    kept = [cell.source for cell in section.cells if not cell.source.startswith(("preset =", "record_stage("))]
    assert [cell.source for cell in nbformat.read(path, 4).cells if not cell.source.startswith("preset =")] == kept


def judged_layers(crossed: pd.DataFrame) -> dict[str, int]:
    "The layer of each model that the training pairs choose: the only one at which C9 fits other directions."
    return crossed[crossed.detector == "logistic_regression"].groupby("model")["layer"].first().to_dict()


CONCLUSIONS = {  # of sections whose tables have all that the sentences say: the sentences
    "c6_alignment": lambda table: [*describe_shared_readings(table("agreement")), describe_transfer(table("alignment"))],
    "c7_dose": lambda table: describe_verdicts(table("slopes"), TITLES),
    "c8_size": lambda table: [
        describe_outcomes(table("size"), TITLES), describe_extremes(table("size"), TITLES), broken_controls(table("size"), TITLES)
    ],
    "c11_mediation": lambda table: describe_mediation(table("mediation"), judged_layers(table("crossed")), TITLES),
    "c12_forks": lambda table: [
        describe_need(answers(table("forks")), TITLES),
        *describe_forks(table("fork_slopes"), table("figure23"), TITLES),
    ],
    "c13_play": lambda table: describe_play(table("competence"), table("play_rates"), table("deed_slopes"), TITLES),
}


@pytest.mark.parametrize("section", CONCLUSIONS)
def test_a_conclusion_on_the_four_models_is_what_the_committed_tables_say(section):
    folder = ROOT / "figures/ladder"
    lines = CONCLUSIONS[section](lambda name: pd.read_csv(folder / f"{name}.csv"))
    ends = conclusion(folder / f"sections/{section}.ipynb")
    assert ends[: len(lines)] == [f"- {line}" for line in lines]
    assert len(ends) == len(lines) or section == "c7_dose"  # its other sentences need the samples
