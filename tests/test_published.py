"The paper's numbers against its released data, which are looked for in $PUBLISHED, or in ../shared/published beside this repository."
import pytest

from empathy_probes.method.scoring import SETTING, rates, success
from empathy_probes.evidence.published import compare_with_paper, paper_table, paper_tolerance, paper_values
from empathy_probes.evidence.released_results import DOLPHIN, PHI, QWEN, empty_outputs, load_released


@pytest.fixture(scope="module")
def conditions(scored):
    return rates(scored)


def by_model(conditions, definition, column="success_rate"):
    "Mean over all settings of each model, in percent."
    return (100 * success(conditions, definition).groupby("model")[column].mean()).round(1).to_dict()


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="lacks results/cross_model_steering.*results/probes"):
        load_released(tmp_path)


def test_beside_keeps_our_rows_in_order_and_survives_an_empty_table():
    paper = paper_table("table3")
    ours = paper.iloc[::-1][[*SETTING, "success_rate"]]
    compared = compare_with_paper(ours, paper, SETTING, ["success_rate"])
    assert compared.layer.tolist() == ours.layer.tolist()
    assert compared.success_rate_agree.all()
    assert compare_with_paper(ours.iloc[:0], paper, SETTING, ["success_rate"]).empty


def test_1380_samples_in_276_conditions_and_30_cells(scored, conditions):
    assert len(scored) == 1380
    assert len(conditions) == 276
    assert (conditions.n == 5).all()
    assert len(success(conditions)) == 30


def test_table3_success_rates_exactly(conditions):
    ours = success(conditions)
    compared = compare_with_paper(ours, paper_table("table3"), SETTING, ["success_rate"], paper_tolerance("table3"))
    assert compared.success_rate_agree.count() == 18
    assert compared.success_rate_agree.sum() == 18


def test_table3_coherence_differs_for_every_dolphin_setting(conditions):
    ours = success(conditions)
    dolphin = ours[ours.model == DOLPHIN].set_index("layer")
    assert (100 * dolphin.coherence[12]).round(1).tolist() == [42.9, 34.3, 60.0]
    assert (100 * dolphin.coherence[16]).round(1).tolist() == [54.3, 54.3, 71.4]
    compared = compare_with_paper(ours, paper_table("table3"), SETTING, ["coherence"], paper_tolerance("table3"))
    assert not compared[compared.model == DOLPHIN].coherence_agree.any()


def test_dolphins_average_is_not_of_positive_alphas(conditions):
    assert by_model(conditions, "published")[DOLPHIN] == 94.4
    assert by_model(conditions, "published", "success_positive")[DOLPHIN] == 88.9
    assert by_model(conditions, "strict", "success_positive")[DOLPHIN] == 70.4


def test_averages_over_all_layers_and_without_ties(conditions):
    assert by_model(conditions, "published") == {QWEN: 65.3, DOLPHIN: 94.4, PHI: 61.7}
    assert by_model(conditions, "ties_miss") == {QWEN: 45.8, DOLPHIN: 64.8, PHI: 42.5}


def test_dolphin_is_as_often_empty_at_zero_as_below(conditions):
    dolphin = empty_outputs(conditions).set_index(["model", "side"]).loc[DOLPHIN]
    assert dolphin.loc["at", ["empty", "n"]].tolist() == [15, 45]
    assert dolphin.loc["below", ["empty", "n"]].tolist() == [45, 135]


def test_table1_against_the_released_figures(released):
    on = ["model", "layer"]
    columns = [column for column in paper_table("table1") if column not in on]
    compared = compare_with_paper(released["detection"], paper_table("table1"), on, columns, paper_tolerance("table1"))
    sd = compared.groupby("model")[["std_positive_agree", "std_negative_agree"]].sum().sum(axis=1)
    assert sd.to_dict() == {PHI: 10, QWEN: 0, DOLPHIN: 4}
    differing = compared[(compared.model == DOLPHIN) & ~compared.std_positive_agree.fillna(True)]
    assert differing.layer.tolist() == [8, 16, 24]
    assert compared[compared.model == PHI].filter(like="_agree").all(axis=None)
    layer16 = released["detection"].query("model == @QWEN and layer == 16").iloc[0]
    assert round(100 * layer16.accuracy, 1) == 93.3
    assert layer16[["separation", "std_positive", "std_negative"]].astype(float).round(2).tolist() == [10.36, 4.09, 3.66]


def test_the_ablation_replaced_203_words(released):
    ablation = released["ablation"].set_index("text")
    printed = paper_values()["ablation"]
    assert ablation.replacements.unique().tolist() == [203]
    assert round(203 / ablation.pairs.iloc[0], 1) == printed["replacements_per_pair"]
    assert ablation.auroc.tolist() == [printed["auroc_before"], printed["auroc_after"]]
    assert ablation.separation.round(2).tolist() == [5.20, 4.74]
