"Figures and tables: reproducible bytes, text inside the page whatever the models are called, and the paper's tables from the released data."
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import matplotlib.text
import numpy as np
import pandas as pd
import pytest

from empathy_probes.method.scoring import SETTING, change_from_zero, rates, score_samples
from empathy_probes.machine.concepts import load_concept
from empathy_probes.evidence.dose_figures import detection_steering
from empathy_probes.evidence.drawing import TWO_COLUMNS, save_figure
from empathy_probes.evidence.paper_figures import auroc_against_chance, auroc_by_depth, detection_by_model
from empathy_probes.evidence.paper_figures import dose_response, dose_response_by_layer, keyword_ablation
from empathy_probes.evidence.paper_figures import projection_against_rating, score_change, unsteered_scores
from empathy_probes.evidence.published import compare_with_paper, paper_table, paper_tolerance
from empathy_probes.evidence.released_results import PHI, released_behaviour, released_samples
from empathy_probes.evidence.tables import TABLE3_COLUMNS, as_markdown, table2, table3, table4
from empathy_probes.evidence.uncertainty import compare_with_null

FOLDER = Path(os.environ.get("PUBLISHED", Path(__file__).resolve().parents[2] / "shared/published"))

ALL_MODELS = {f"model-{number}": f"A-Long-Model-Name-{number}-Instruct" for number in range(7)}
SCENARIOS = ["food_delivery", "the_listener", "the_protector"]


def drawn(keys: list[str]) -> dict:
    "Every figure for these models, from made-up data."
    rng = np.random.default_rng(0)
    detection = pd.DataFrame(product(keys, [8, 12, 16, 20, 24]), columns=["model", "layer"])
    detection = detection.assign(depth=detection.layer / 32, auroc=0.97, auroc_low=0.9, auroc_high=1.0, accuracy=0.9)
    detection = detection.assign(effect_size=rng.uniform(1, 4, len(detection)), separation=1000.0, n=30)
    nulls = pd.DataFrame(product(keys, ["random", "shuffled"], range(100)), columns=["model", "null", "trial"])
    nulls["auroc"] = rng.uniform(0, 1, len(nulls))
    probes = [
        {"model": key, "layer": 12, "null": null, "auroc": 0.97} | compare_with_null(0.97, rows["auroc"])
        for (key, null), rows in nulls.groupby(["model", "null"])
    ]
    first = detection.drop_duplicates("model")
    ablation = pd.concat([first.assign(text="original"), first.assign(text="ablated", separation=-10.0)])
    completions = pd.DataFrame(product(keys, [0, 1, 2], range(4)), columns=["model", "score", "completion"])
    completions = completions.assign(layer=12, projection=rng.normal(-1000, 100, len(completions)))
    sweep = pd.DataFrame(
        product(keys, [12, 16, 20, 24], SCENARIOS, ["probe", "random"], [-20.0, -10.0, 0.0, 10.0, 20.0]),
        columns=[*SETTING, "direction", "alpha"],
    )
    sweep = sweep.assign(score_mean=rng.uniform(0, 1, len(sweep)), score_sd=0.3, n=5)
    sweep = sweep[(sweep.direction == "probe") | (sweep.alpha != 0)]
    one_layer = sweep[sweep.layer == 12]
    listener = sweep[(sweep.scenario == "the_listener") & (sweep.direction == "probe")]
    listener = listener.assign(delta=change_from_zero(listener, "score_mean"))
    steered = detection[detection.layer > 8].assign(success_rate=0.8, low=0.5, high=0.95)
    return {
        "figure1": auroc_by_depth(detection, ALL_MODELS, paper=detection[detection.model == keys[0]]),
        "figure2": auroc_against_chance(nulls, pd.DataFrame(probes), ALL_MODELS),
        "figure3": keyword_ablation(ablation, ALL_MODELS),
        "figure4": detection_by_model(detection, ALL_MODELS),
        "figure5": projection_against_rating(completions, ALL_MODELS),
        "figure6": dose_response(one_layer, ALL_MODELS, "separation"),
        "figure7": unsteered_scores(one_layer[one_layer.alpha == 0], ALL_MODELS),
        "figure8": score_change(listener[listener.layer == 12], ALL_MODELS, "separation", slope=0.02),
        "figure9": dose_response_by_layer(listener, ALL_MODELS, "separation"),
        "detection_steering": detection_steering(steered, ALL_MODELS),
    }


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_no_text_leaves_the_page(count):
    for name, figure in drawn(list(ALL_MODELS)[-count:]).items():
        assert figure.get_figwidth() <= TWO_COLUMNS
        width, height = figure.get_size_inches()
        ink = figure.get_tightbbox()  # inches, around everything that is drawn
        assert min(ink.x0, ink.y0) > -0.01 and ink.x1 < width + 0.01 and ink.y1 < height + 0.01, f"{name}: {ink} on {width} by {height}"


SAVE = """
import sys
import pandas as pd
from empathy_probes.evidence.drawing import save_figure
from empathy_probes.evidence.paper_figures import auroc_by_depth, projection_against_rating
data = pd.DataFrame({"model": "m", "depth": [0.2, 0.4], "auroc": [0.9, 1.0], "n": 30})
save_figure(auroc_by_depth(data, {"m": "M"}), data, sys.argv[1], "figure1")
data = pd.DataFrame({"model": "m", "layer": 1, "score": [0, 1, 2, 2], "projection": [0.1, 0.2, 0.5, 1 / 3]})
save_figure(projection_against_rating(data, {"m": "M"}), data, sys.argv[1], "figure5")
"""


def test_another_process_writes_the_same_bytes(tmp_path):
    for number in ["1", "2"]:
        environment = os.environ | {"PYTHONHASHSEED": number}
        subprocess.run([sys.executable, "-c", SAVE, tmp_path / number], check=True, env=environment)
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert names == [f"figure{number}.{ending}" for number in (1, 5) for ending in ("csv", "pdf", "png")]
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_settings_of_the_reader_change_nothing():
    data = pd.DataFrame({"model": "m", "depth": [0.2, 0.4], "auroc": [0.9, 1.0], "n": 30})
    with plt.rc_context({"font.size": 20, "axes.labelsize": 20, "figure.dpi": 300}):
        figure = auroc_by_depth(data, {"m": "M"})
    sizes = {text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()}
    assert sizes == {8.0}
    assert not plt.get_fignums()


def test_a_missing_interval_stays_a_gap_in_the_table():
    text = as_markdown(pd.DataFrame({"low": [0.25, np.nan], "n": [4, 0]}))
    assert [cell.strip() for cell in text.splitlines()[3].split("|")[1:-1]] == ["", "0"]


@pytest.fixture(scope="module")
def folder():
    if not FOLDER.is_dir():
        pytest.skip(f"no released data in {FOLDER}; name their folder in the environment variable PUBLISHED")
    return FOLDER


def test_table2_of_the_released_projections(folder):
    behaviour = released_behaviour(folder)
    chosen = behaviour[behaviour.model == PHI]
    ours = table2(PHI, 8, chosen.projection, chosen.score)
    printed = paper_table("table2")
    columns = [column for column in printed if column != "model"]
    compared = compare_with_paper(ours, printed, ["model"], columns, paper_tolerance("table2"))
    assert compared[[f"{column}_agree" for column in columns]].all(axis=None)
    assert list(ours)[: len(columns) + 1] == list(printed)


def test_table3_of_the_released_samples(folder):
    lexicon = load_concept("empathy").lexicon
    scored = score_samples(released_samples(folder), lexicon)
    ours = table3(rates(scored))
    printed = paper_table("table3")
    compared = compare_with_paper(ours, printed, SETTING, ["success_rate"], paper_tolerance("table3"))
    assert compared.success_rate_agree.sum() == len(printed) == 18
    assert list(ours)[:5] == list(printed)
    assert (ours.success_strict <= ours.success_rate).all()
    assert set(TABLE3_COLUMNS) <= set(ours)
    examples = table4(scored, "the_protector")
    assert examples.alpha.tolist() == [-10, 10]
    assert examples.concept_score.tolist() == [0, 1]
