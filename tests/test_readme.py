"What the README says of results is what the committed tables say; it shows and links to files that are there."
import re
from pathlib import Path

import pandas as pd
import pytest

from empathy_probes.machine.presets import load_preset
from empathy_probes.evidence.companion_conclusions import describe_probes_against_words
from empathy_probes.evidence.crossed import describe_carriers
from empathy_probes.evidence.detection_conclusions import describe_against_chance
from empathy_probes.evidence.size import broken_controls, describe_sizes
from empathy_probes.games.outcomes import describe_play
from empathy_probes.games.slopes import answers, describe_forks, describe_need

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SIZE = pd.read_csv(ROOT / "figures/ladder/size.csv")
CROSSED = pd.read_csv(ROOT / "figures/ladder/crossed.csv")
PLAYED = [pd.read_csv(ROOT / f"figures/ladder/{name}.csv") for name in ("competence", "play_rates", "deed_slopes")]
FORKS, CHANGES = (pd.read_csv(ROOT / f"figures/ladder/{name}.csv") for name in ("fork_slopes", "figure23"))
CHOSEN = CROSSED[CROSSED.detector == "logistic_regression"].drop_duplicates("model").set_index("model").layer
AT_CHOSEN = CROSSED[(CROSSED.detector == "mean_difference") & (CROSSED.layer == CROSSED.model.map(CHOSEN))]
NULLS = pd.read_csv(ROOT / "figures/ladder/nulls.csv").query("null == 'shuffled'")
WORDS = pd.read_csv(ROOT / "figures/ladder/words.csv")
PROBES, BEST = WORDS[WORDS.model != "words"], WORDS[WORDS.model == "words"].auroc_test.max()
TITLES = {key: spec.title for key, spec in load_preset("ladder").models.items()}


@pytest.mark.parametrize("sentence", [
    *describe_sizes(SIZE, TITLES), broken_controls(SIZE, TITLES), *describe_carriers(AT_CHOSEN, TITLES),
    *describe_forks(FORKS, CHANGES, TITLES),
    describe_need(answers(pd.read_csv(ROOT / "figures/ladder/forks.csv")), TITLES),
    *describe_play(*PLAYED, TITLES),
    *describe_against_chance(NULLS[NULLS.layer == NULLS.model.map(CHOSEN)], TITLES),
    *describe_probes_against_words(PROBES, BEST, pd.DataFrame(), TITLES),
])
def test_a_finding_stands_there_with_its_models_and_numbers(sentence):
    assert sentence in README


def test_the_numbers_of_texts_and_samples_are_those_of_the_table():
    counted = {finding: set(rows.n) for finding, rows in SIZE[SIZE.direction == "probe"].groupby("finding")}
    assert counted["auroc_test"] == {30} and "tell 15 texts" in README
    assert counted["auroc_hard"] == {60} and "In the 30 *hard pairs*" in README
    assert counted["coherent_high"] == {30} and "30 samples a dose" in README
    assert set(CHANGES[CHANGES.direction == "probe"].n) == {4} and "over 4 variants of each game" in README
    assert set(CROSSED.n) == {40} and "40 situations are each told four times" in README


def test_the_effect_of_the_deed_on_words_alone_is_that_of_the_table():
    row = CROSSED[(CROSSED.detector == "TF-IDF") & (CROSSED.effect == "deed")].iloc[0]
    assert f"an effect of the deed of {row.value:.2f} [{row.lower:.2f}, {row.upper:.2f}]" in README


def test_the_answers_are_those_of_the_run():
    answers = pd.read_csv(ROOT / "figures/ladder/answers.csv").query("model == 'qwen2.5-coder-1.5b'")
    assert answers.dose.tolist() == [-2, 0, 2]
    for text in answers.text:
        assert " ".join(text.split()).replace("<", "&lt;") in README.replace("\\", "")


def test_every_picture_and_link_leads_to_a_file():
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")}
    assert sorted(link for link in links if not (ROOT / link).exists()) == []
    assert len(links) > 50
