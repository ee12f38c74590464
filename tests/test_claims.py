"The claims on the released data: every verdict that the paper's protocol names, and no number of the paper left out."
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from empathy_probes.method.scoring import rates, success
from empathy_probes.machine.concepts import load_concept
from empathy_probes.evidence.claims import claims_summary, claims_table, recompute
from empathy_probes.evidence.published import paper_values
from empathy_probes.evidence.recomputed_steering import alpha_in_separations, baseline_scores
from empathy_probes.evidence.released_results import DOLPHIN, PHI, QWEN
from empathy_probes.evidence.steering_uncertainty import shuffled_success
from empathy_probes.evidence.verdicts import NUMBER, read_claims, success_bounds

PAPER = Path(os.environ.get("PAPER", Path(__file__).resolve().parents[2] / "shared/paper/paper.txt"))


@pytest.fixture(scope="module")
def evidence(scored, released, released_folder):
    return recompute(scored, released, load_concept(released_folder))


@pytest.fixture(scope="module")
def claims(evidence):
    return claims_table(evidence)


@pytest.fixture(scope="module")
def conditions(scored):
    return rates(scored)


def verdicts(claims, number):
    "The verdicts of the numbers whose description begins so, with how many have each."
    return claims[claims.number.str.startswith(number)].verdict.value_counts().to_dict()


@pytest.mark.parametrize(
    "number, expected",
    {
        "success rate: ": {"reproduced": 13, "artefact of the definition": 4, "differs": 1},
        "success rate: Dolphin-Llama-3.1, layer 16, the listener": {"differs": 1},  # of positive alphas, says its star
        "p-value of Qwen's success below alpha 0": {"differs": 1},
        "p-value of Qwen's success above alpha 0": {"reproduced": 1},
        "p-value of Phi-3's success below alpha 0": {"reproduced": 1},
        "p-value of Phi-3's success above alpha 0": {"differs": 1},
        "p-value of the trend of": {"reproduced": 5},
        "success rate in The Listener, Qwen and Phi-3": {"artefact of the definition": 1},
        "success rate in The Listener, all": {"differs": 1},
        "Qwen's rate in The Listener": {"differs": 1},
        "average success at positive alphas, Dolphin": {"differs": 1},
        "empty outputs": {"differs": 1},
        "average success, Qwen": {"reproduced": 3},  # all layers, layer 16, layer 12
        "average success, Phi-3": {"reproduced": 1},
        "average success of samples without any effect": {"differs": 1},
        "Dolphin's dose over Qwen's": {"differs": 2},
        "Pearson r": {"reproduced": 3, "cannot be recomputed": 2},
        "AUROC of a count of the ablation's keywords": {"differs": 1},
        "AUROC of TF-IDF": {"differs": 1},
        "z of": {"reproduced": 1, "cannot be recomputed": 2},
        "p of Phi-3's probe": {"reproduced": 1},
        "AUROC: ": {"reproduced": 15},
        "accuracy: Qwen2.5-7B, layer 16": {"differs": 1},
        "SD of the empathic texts: Qwen2.5-7B": {"differs": 5},
        "SD of the non-empathic texts: Qwen2.5-7B": {"differs": 5},
        "SD of the empathic texts: Dolphin": {"differs": 3, "reproduced": 2},
        "SD of the non-empathic texts: Dolphin": {"differs": 3, "reproduced": 2},
        "coherence: Dolphin": {"differs": 6},
        "quoted sentences": {"differs": 2},
        "samples of Dolphin that hold": {"differs": 2},
        "scenarios in which Qwen scores highest": {"differs": 1},
        "mean projection of score 1 minus": {"differs": 1},
        "billions of parameters": {"cannot be recomputed": 3},
    }.items(),
)
def test_what_becomes_of_each_number(claims, number, expected):
    assert verdicts(claims, number) == expected


def test_the_numbers_behind_the_protocols_last_table(evidence):
    found = {name: round(float(number), 4) for name, number in evidence.numbers.items()}
    expected = {
        "listener_baseline": 1, "listener_settings": 7, "listener_rate_qwen": 0.4667, "success_positive_dolphin": 0.8889,
        "success_positive_strict_dolphin": 0.7037, "empty_at_dolphin": 0.3333, "empty_excess_dolphin": 0, "success_qwen": 0.6528,
        "success_phi": 0.6167, "success_table3_qwen": 0.6875, "success_table3_phi": 0.65, "success_ties_qwen": 0.4583,
        "success_ties_dolphin": 0.6481, "success_ties_phi": 0.425, "keyword_auroc": 1, "tfidf_auroc": 1, "random_mean": 0.4978,
        "random_sd": 0.2403, "random_q95": 0.8569, "random_z": 2.0899, "random_p": 0.0099, "accuracy_drop_phi": 1,
        "accuracy_positive_phi": 0.75, "accuracy_positive_qwen": 0.4167, "accuracy_drop_qwen": 0.4, "quoted_below": 0,
        "quoted_above": 0, "artefact_1": 0, "artefact_2": 0, "phi_highest_in": 3, "replacements": 203, "separation_after": 4.7369,
        "conditions_qwen": 24, "only_qwen_12": 0, "only_qwen_16": 4, "layers_p_qwen": 0.125,
    }
    assert {name: found[name] for name in expected} == expected
    doses = [f"{evidence.numbers[f'dose_{end}_{name}']:.1f}" for name in ("dolphin", "qwen") for end in ("lowest", "highest")]
    assert doses == ["6.0", "14.4", "0.6", "1.3"]


def test_no_row_lacks_a_reason_and_the_summary_counts_all(claims, evidence):
    assert (claims.why.str.len() > 0).all() and not claims.why.str.contains("[{}]").any()
    assert claims[claims.recomputed.isna()].verdict.unique().tolist() == ["cannot be recomputed"]
    assert not claims.duplicated(["number", "where", "paper"]).any()
    summary = claims_summary(claims, evidence)
    assert summary.numbers.sum() == len(claims) and len(summary) == len(read_claims()["claims"])
    assert not summary.finding.str.contains("[{}]").any()


def test_the_listener_gives_half_whatever_the_model_does(conditions):
    listener = conditions[(conditions.scenario == "the_listener") & conditions.model.isin([QWEN, PHI])]
    bounds = success_bounds(listener)
    assert len(bounds) == 7
    assert (bounds[["baseline", "lowest", "highest", "room"]] == [1, 0.5, 0.5, 0]).all(axis=None)
    anything = listener.rate.where(listener.alpha == 0, np.random.default_rng(0).uniform(size=len(listener)))
    assert (success(listener.assign(rate=anything)).success_rate == 0.5).all()


def test_shuffled_samples_get_half(scored):
    null = shuffled_success(scored).mean(axis=1)
    assert abs(null.mean() - 0.5) < 4 * null.std() / np.sqrt(len(null))


def test_one_alpha_is_a_different_dose_in_each_model(released, conditions):
    doses = alpha_in_separations(released["detection"], conditions).groupby("model").dose.agg(["min", "max"]).round(1)
    assert doses.loc[[DOLPHIN, QWEN]].values.tolist() == [[6.0, 14.4], [0.6, 1.3]]


def test_phi_has_the_highest_baseline_everywhere(conditions):
    scores = baseline_scores(conditions, paper_values()["dose_response_layers"])
    assert scores.loc[scores.groupby("scenario").score_mean.idxmax(), "model"].tolist() == [PHI] * 3


# --- Is anything missing? The paper's text is not part of the repository; $PAPER names it.

NAMES = [  # numbers that are part of a name, a citation or a reference, or that count the items of a list
    r"^\d\. ",
    r"\[[^\]]*\b\d{4}[^\]]*\]",
    r"Phi-3(-mini)?(-4k)?(-instruct)?|Qwen2\.5(-7B)?(-Instruct)?|Dolphin-Llama\s?-3\.1(-8B)?|GPT-4|\b95th\b",
    r"(Tables?|Figures?|section)\s\d|§\d\.\d|\w+\.pdf|<[^>]*>",
]


def numbers_in(text: str) -> set[float]:
    "The numbers of a text, without sign for a plus and with both signs for a plus-minus; L12 is a layer."
    text = re.sub(r"\bL(\d+)", r"layer \1", text)
    text = re.sub(r"\\pm\s*(\d+)", r"\1 and -\1", text)
    text = re.sub(r"α|\\alpha|[$+*]", " ", text)
    return {float(number) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", re.sub(r"(?<=\d)-(?=\d)", " to ", text))}


def printed_in_paper(lines: list[str]) -> dict[str, set[float]]:
    "The numbers printed in the abstract, sections 4.1 to 5.2, tables and captions, by place."
    places, section, table = {}, "", ""
    for line in lines:
        heading = re.match(r"(Abstract)$|(\d(?:\.\d)?) [A-Z]", line)
        caption = re.match(r"(?:Figure|Table) \d(?=:)", line)
        if heading:
            section = heading[1] or f"§{heading[2]}"
            continue
        if caption and caption[0].startswith("Table"):
            table = caption[0]
        in_table = "\t" in line or line.startswith("* Pro-empathy")
        place = caption[0] if caption else "Table 4" if line.startswith("$\\alpha") else table if in_table else section
        if place == "Abstract" or place.startswith(("Table", "Figure")) or "§4.1" <= place <= "§5.2":
            places.setdefault(place, set()).update(numbers_in(re.sub("|".join(NAMES), " ", line)))
    return places


@pytest.fixture(scope="module")
def paper():
    if not PAPER.is_file():
        pytest.skip(f"no text of the paper at {PAPER}; name it in the environment variable PAPER")
    return printed_in_paper(PAPER.read_text(encoding="utf-8").splitlines())


def test_every_number_of_the_paper_has_a_row(claims, paper):
    "In each place, each number is one that a row judges or names (such as a layer)."
    assert {"Abstract", *(f"§{section}" for section in "4.1 4.2 4.3 4.4 4.5 4.6 5.1 5.2".split())} <= set(paper)
    assert {f"Table {n}" for n in range(1, 5)} | {f"Figure {n}" for n in range(1, 10)} <= set(paper)
    missing = {}
    for place, numbers in paper.items():
        own = claims[[place in where.split(", ") for where in claims["where"]]]
        missing[place] = numbers - numbers_in(" ; ".join([*own.paper, *own.number]))
    assert {place: numbers for place, numbers in missing.items() if numbers} == {}


def test_every_printed_number_stands_where_its_row_says(claims, paper):
    wrong = []
    for row in claims[~claims.implied].itertuples():
        value = float(NUMBER.fullmatch(row.paper)[2])
        wrong += [(row.number, row.paper, place) for place in row.where.split(", ") if value not in paper[place]]
    assert wrong == []
