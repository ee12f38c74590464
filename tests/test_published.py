"The paper's numbers against its released data. The data are looked for in $PUBLISHED, or in ../shared/published beside this repository."
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from empathy_probes.concepts import load_concept
from empathy_probes.published import (
    CELL, DOLPHIN, PHI, QWEN, alpha_in_separations, baseline_scores, beside, disagreements, empty_outputs, load_released,
    paper_table, paper_tolerance, paper_values, shuffled_success, success_bounds,
)
from empathy_probes.scoring import rates, score_samples, success

BESIDE = Path(__file__).resolve().parents[2] / "shared/published"
FOLDER = Path(os.environ.get("PUBLISHED", BESIDE))


@pytest.fixture(scope="module")
def folder():
    if not FOLDER.is_dir():
        pytest.skip(f"no released data in {FOLDER}; name their folder in the environment variable PUBLISHED")
    return FOLDER


@pytest.fixture(scope="module")
def released(folder):
    return load_released(folder)


@pytest.fixture(scope="module")
def scored(released):
    lexicon = load_concept("empathy").lexicon
    return score_samples(released["samples"], lexicon.positive, lexicon.negative, lexicon.score_positive, lexicon.score_negative)


@pytest.fixture(scope="module")
def conditions(scored):
    return rates(scored)


@pytest.fixture(scope="module")
def claims(scored, released, folder):
    return disagreements(scored, released, load_concept(folder))


def by_model(conditions, definition, column="success_rate"):
    "Mean over all cells of each model, in percent."
    return (100 * success(conditions, definition).groupby("model")[column].mean()).round(1).to_dict()


def found(claims, claim, quantity):
    "The one row whose claim and quantity begin so."
    rows = claims[claims.claim.str.startswith(claim) & claims.quantity.str.startswith(quantity)]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="lacks results/cross_model_steering"):
        load_released(tmp_path)


def test_beside_keeps_our_rows_in_order_and_survives_an_empty_table():
    paper = paper_table("table3")
    ours = paper.iloc[::-1][[*CELL, "success_rate"]]
    compared = beside(ours, paper, CELL, ["success_rate"])
    assert compared.layer.tolist() == ours.layer.tolist()
    assert compared.success_rate_agree.all()
    assert beside(ours.iloc[:0], paper, CELL, ["success_rate"]).empty


def test_1380_samples_in_276_conditions_and_30_cells(scored, conditions):
    assert len(scored) == 1380
    assert len(conditions) == 276
    assert (conditions.n == 5).all()
    assert len(success(conditions)) == 30


def test_table3_success_rates_exactly(conditions):
    ours = success(conditions)
    compared = beside(ours, paper_table("table3"), CELL, ["success_rate"], paper_tolerance("table3"))
    assert compared.success_rate_agree.count() == 18
    assert compared.success_rate_agree.sum() == 18


def test_table3_coherence_differs_for_every_dolphin_cell(conditions):
    ours = success(conditions)
    dolphin = ours[ours.model == DOLPHIN].set_index("layer")
    assert (100 * dolphin.coherence[12]).round(1).tolist() == [42.9, 34.3, 60.0]
    assert (100 * dolphin.coherence[16]).round(1).tolist() == [54.3, 54.3, 71.4]
    compared = beside(ours, paper_table("table3"), CELL, ["coherence"], paper_tolerance("table3"))
    assert not compared[compared.model == DOLPHIN].coherence_agree.any()


def test_the_listener_gives_half_whatever_the_model_does(conditions, claims):
    listener = conditions[(conditions.scenario == "the_listener") & conditions.model.isin([QWEN, PHI])]
    bounds = success_bounds(listener)
    assert len(bounds) == 7
    assert (bounds[["baseline", "lowest", "highest"]] == [1, 0.5, 0.5]).all(axis=None)
    rng = np.random.default_rng(0)
    anything = listener.rate.where(listener.alpha == 0, rng.uniform(size=len(listener)))
    assert (success(listener.assign(rate=anything)).success_rate == 0.5).all()
    assert round(found(claims, "The Listener", "Qwen's rate at alpha -20").recomputed, 2) == 0.47


def test_dolphins_average_is_not_of_positive_alphas(conditions):
    assert by_model(conditions, "published")[DOLPHIN] == 94.4
    assert by_model(conditions, "published", "success_positive")[DOLPHIN] == 88.9
    assert by_model(conditions, "strict", "success_positive")[DOLPHIN] == 70.4


def test_dolphin_is_as_often_empty_at_zero_as_below(conditions):
    dolphin = empty_outputs(conditions).set_index(["model", "side"]).loc[DOLPHIN]
    assert dolphin.loc["at", ["empty", "n"]].tolist() == [15, 45]
    assert dolphin.loc["below", ["empty", "n"]].tolist() == [45, 135]


def test_averages_over_all_layers_over_table3_and_without_ties(conditions, claims):
    assert by_model(conditions, "published") == {QWEN: 65.3, DOLPHIN: 94.4, PHI: 61.7}
    assert by_model(conditions, "ties_miss") == {QWEN: 45.8, DOLPHIN: 64.8, PHI: 42.5}
    in_table3 = {model: found(claims, f"Average success, {model}", "the layers of Table 3").recomputed for model in (QWEN, PHI)}
    assert in_table3 == pytest.approx({QWEN: 0.6875, PHI: 0.65})


def test_shuffled_samples_get_half(scored):
    null = shuffled_success(scored)
    assert abs(null.mean() - 0.5) < 4 * null.std() / np.sqrt(len(null))


def test_one_alpha_is_a_different_dose_in_each_model(released, conditions):
    doses = alpha_in_separations(released["detection"], conditions).groupby("model").dose.agg(["min", "max"]).round(1)
    assert doses.loc[DOLPHIN].tolist() == [6.0, 14.4]
    assert doses.loc[QWEN].tolist() == [0.6, 1.3]


def test_table1_against_the_released_figures(released, claims):
    on = ["model", "layer"]
    columns = [column for column in paper_table("table1") if column not in on]
    compared = beside(released["detection"], paper_table("table1"), on, columns, paper_tolerance("table1"))
    sd = compared.groupby("model")[["std_positive_agree", "std_negative_agree"]].sum().sum(axis=1)
    assert sd.to_dict() == {PHI: 10, QWEN: 0, DOLPHIN: 4}
    differing = compared[(compared.model == DOLPHIN) & ~compared.std_positive_agree.fillna(True)]
    assert differing.layer.tolist() == [8, 16, 24]
    assert compared[compared.model == PHI].filter(like="_agree").all(axis=None)
    layer16 = released["detection"].query("model == @QWEN and layer == 16").iloc[0]
    assert round(100 * layer16.accuracy, 1) == 93.3
    assert layer16[["separation", "std_positive", "std_negative"]].astype(float).round(2).tolist() == [10.36, 4.09, 3.66]
    assert found(claims, "Table 1", f"accuracy: {QWEN}, 16").agree == False  # noqa: E712


def test_words_alone_separate_the_released_pairs(claims):
    rows = claims[claims.claim.str.startswith("Detection is semantic")]
    assert rows.recomputed.tolist() == [1, 1]


def test_random_baseline(claims):
    rows = claims[claims.claim.str.startswith("The probe beats random")]
    assert rows.recomputed.round(4).tolist() == [0.4978, 0.2403, 0.8569, 2.0899, round(1 / 101, 4)]
    assert rows.agree.tolist() == [True, True, True, True, False]


def test_correlations_and_the_two_ways_of_counting(claims):
    rows = claims[claims.claim.str.startswith("Probe agrees")].set_index(["claim", "quantity"])
    assert rows.xs("Pearson r", level="quantity").agree.all()
    phi, *others = (rows.loc[f"Probe agrees with the scores, {model}"].agree for model in (PHI, QWEN, DOLPHIN))
    assert (phi["binary accuracy, score 1 left out"], phi["binary accuracy, score 1 positive"]) == (True, False)
    for other in others:
        assert (other["binary accuracy, score 1 left out"], other["binary accuracy, score 1 positive"]) == (False, True)


def test_no_quoted_output_occurs(claims):
    assert found(claims, "Table 4", "quoted sentences").recomputed == 0
    assert found(claims, "Section 4.5", "quoted artefacts").recomputed == 0


def test_phi_has_the_highest_baseline_everywhere(conditions):
    scores = baseline_scores(conditions, paper_values()["dose_response_layers"])
    highest = scores.loc[scores.groupby("scenario").score_mean.idxmax(), "model"]
    assert highest.tolist() == [PHI] * 3


def test_every_disagreement_is_in_the_table(claims):
    assert not claims.isna().any(axis=None)
    disagreeing = claims[~claims.agree].claim.unique()
    for claim in ["Table 1", "Table 3, coherence", "The Listener", "Dolphin: 94.4%", "Dolphin breaks down", "Average success",
                  "Alpha is comparable", "Probe agrees", "Detection is semantic", "The probe beats", "Table 4", "Figure 7"]:
        assert pd.Series(disagreeing).str.startswith(claim).any(), claim


def test_the_ablation_replaced_203_words(released):
    ablation = released["ablation"].set_index("text")
    printed = paper_values()["ablation"]
    assert ablation.replacements.unique().tolist() == [203]
    assert round(203 / ablation.pairs.iloc[0], 1) == printed["replacements_per_pair"]
    assert ablation.auroc.tolist() == [printed["auroc_before"], printed["auroc_after"]]
    assert ablation.separation.round(2).tolist() == [5.20, 4.74]
