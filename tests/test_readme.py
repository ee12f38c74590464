"What the README says of results is what the committed tables say; it shows and links to files that are there."
import re
from pathlib import Path

import pandas as pd
import pytest

from empathy_probes.machine.presets import load_preset
from empathy_probes.evidence.intervals import auroc_interval, with_interval
from empathy_probes.evidence.size import replicate_interval
from empathy_probes.evidence.tables import as_markdown
from empathy_probes.games.findings import findings_by_model, findings_table
from empathy_probes.games.slopes import answers

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LADDER = ROOT / "figures/ladder"
TITLES = {key: spec.title for key, spec in load_preset("ladder").models.items()}
FINDINGS = findings_by_model(LADDER)
TABLES = {name: pd.read_csv(LADDER / f"{name}.csv") for name in ("crossed", "nulls", "words", "competence", "forks")}


def verdicts(finding):
    "The verdict of each model, smallest first."
    return FINDINGS[FINDINGS.finding == finding].set_index("model").verdict[list(TITLES)].tolist()


def titles(models):
    "Names as the README lists them."
    return [TITLES[model] for model in models]


def test_the_table_of_findings_is_that_of_the_tables():
    assert as_markdown(findings_table(FINDINGS, TITLES)) in README


def test_detection_is_as_the_readme_says():
    assert verdicts("auroc_test") == ["holds"] * 4 and "It does so in all four models" in README
    words, probes = (TABLES["words"].query(f"model {sign} 'words'") for sign in ("==", "!="))
    best = words.loc[words.auroc_test.idxmax()]
    assert f"But {best.detector}, which counts words, reaches an AUROC of {best.auroc_test:.3f}" in README
    better, above = (int((probes[name] > best.auroc_test).sum()) for name in ("auroc_test", "auroc_low_test"))
    assert f"Of {len(probes)} probes {better} do better, and none by its whole interval" in README and not above
    assert auroc_interval(1.0, 15, 15)[0] < best.auroc_test and "which with so few pairs none could" in README
    fitted = TABLES["crossed"].query("detector == 'logistic_regression' and effect == 'deed'")
    nulls = TABLES["nulls"].query("null == 'shuffled'")
    beaten = nulls[(nulls.layer == nulls.model.map(fitted.set_index("model").layer)) & (nulls.auroc > nulls.q95)]
    assert f"the AUROC lies above the 95th percentile of theirs in {titles(beaten.model)[0]} alone" in README
    assert len(beaten) == 1


def test_steering_is_as_the_readme_says():
    words, log_odds = verdicts("slope_word_score"), verdicts("slope_log_odds")
    assert all(verdict.startswith("rises") for verdict in words) and "rises with the dose in all four models" in README
    alone = [title for title, verdict in zip(TITLES.values(), words) if verdict == "rises"]
    assert len(alone) == 1 and f"may well give in {alone[0]} alone" in README
    assert "rises" not in log_odds and "rise by more than a control may give in no model" in README


def test_words_and_deeds_are_as_the_readme_says():
    assert verdicts("effect_deed") == verdicts("effect_words") == ["holds"] * 4
    effects = FINDINGS.pivot(index="model", columns="finding", values="value")
    ratios = effects.effect_words / effects.effect_deed
    assert f"follows both, and the words {ratios.min():.1f} to {ratios.max():.1f} times as much" in README
    of_words = TABLES["crossed"].query("detector == 'TF-IDF' and effect == 'deed'").iloc[0]
    assert f"an effect of the deed of {with_interval(of_words)} standard deviations" in README
    assert verdicts("auroc_hard") == ["opposite"] * 4 and "goes with the words in all four models" in README


def test_deeds_in_games_are_as_the_readme_says():
    assert verdicts("fork_deed") == ["flat"] * 4 and "it stays flat over the doses in all four models" in README
    unsteered = answers(TABLES["forks"]).query("alpha == 0 and direction == 'probe'")
    by_variant = unsteered.groupby(["model", "variant"], sort=False)["deed"].mean()
    found = {model: replicate_interval(own) for model, own in by_variant.groupby("model", sort=False)}
    [answering] = [model for model, interval in found.items() if interval["lower"] > 0]
    value, _, interval = with_interval(found[answering]).partition(" ")
    assert f"{TITLES[answering]} alone is shown to answer a need, by {value} nats {interval}" in README
    assert not TABLES["competence"].can_play.any() and "None of the four is shown to be able to play" in README


def test_the_numbers_of_texts_and_samples_are_those_of_the_tables():
    counted = {finding: set(rows.n) for finding, rows in FINDINGS.groupby("finding")}
    assert counted["auroc_test"] == {30} and "separate 15 texts" in README
    assert counted["auroc_hard"] == {60} and "In the 30 *hard pairs*" in README
    assert counted["slope_word_score"] == {10} and "30 samples a dose" in README  # of three scenarios
    assert counted["effect_deed"] == {40} and "40 situations are each told four times" in README
    slopes = pd.read_csv(LADDER / "slopes.csv").query("direction != 'probe'")
    assert set(slopes.n) == {10} and "10 random ones and 10 of shuffled labels" in README


def test_the_answers_are_those_of_the_run():
    kept = pd.read_csv(LADDER / "answers.csv").query("model == 'qwen2.5-coder-1.5b'")
    assert kept.dose.tolist() == [-2, 0, 2]
    for text in kept.text:
        assert " ".join(text.split()).replace("<", "&lt;") in README.replace("\\", "")


def test_every_picture_and_link_leads_to_a_file():
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")}
    assert sorted(link for link in links if not (ROOT / link).exists()) == []
    assert len(links) > 50
