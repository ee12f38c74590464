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
from empathy_probes.evidence.companion_figures import SIZE_PANELS, findings_by_size, words_against_probes
from empathy_probes.evidence.dose_figures import detection_steering, dose_curves, ways_of_asking
from empathy_probes.evidence.drawing import TWO_COLUMNS, save_figure
from empathy_probes.evidence.mediation import BINS, PARTS
from empathy_probes.evidence.mediation_tables import KINDS, mediation_map
from empathy_probes.evidence.paper_figures import auroc_against_chance, auroc_by_depth, detection_by_model
from empathy_probes.evidence.paper_figures import dose_response, dose_response_by_layer, keyword_ablation
from empathy_probes.evidence.paper_figures import projection_against_rating, score_change, unsteered_scores
from empathy_probes.evidence.protocol_figures import ACCURACIES, first_token, specification_curve, transferred_directions
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
        product(keys, [12, 16, 20, 24], SCENARIOS, ["probe", "random", "shuffled"], [-20.0, -10.0, 0.0, 10.0, 20.0]),
        columns=[*SETTING, "direction", "alpha"],
    )
    sweep = sweep.assign(score_mean=rng.uniform(0, 1, len(sweep)), score_sd=0.3, n=5, coherence=rng.uniform(0, 1, len(sweep)))
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
        **drawn_by_the_companion(keys, rng),
    }


def drawn_by_the_companion(keys: list[str], rng: np.random.Generator) -> dict:
    "The companion's figures that draw something for each model, from made-up data."
    detectors = pd.DataFrame(product(keys, ["layer 8", "layer 16"], ["test", "hard"]), columns=["model", "detector", "texts"])
    detectors = detectors.assign(auroc=0.8, auroc_low=0.7, auroc_high=0.9, n=60)
    choices = {"pooling": ["mean", "last"], "tokens": [128, 512]}
    specifications = pd.DataFrame(product(keys, *choices.values()), columns=["model", *choices])
    specifications = specifications.assign(**dict.fromkeys(["pearson_r", "auroc", *ACCURACIES], 0.8), published=False)
    norms = pd.DataFrame(product(keys, [0.2, 0.8], ["mean", "last"]), columns=["model", "depth", "pooling"])
    norms = norms.assign(first=10_000.0, others=30.0, auroc=0.9, n=30)
    doses = pd.DataFrame(product(keys, [12, 16], ["probe", "random", "shuffled"], [-3.0, 0.0, 3.0]), columns=["model", "layer", "direction", "dose"])
    doses = doses.assign(score_mean=0.5, score_low=0.4, score_high=0.6, coherence=rng.uniform(0, 1, len(doses)), perplexity=rng.uniform(1, 1000, len(doses)), n=30)
    ways = pd.DataFrame(product(keys, ["unsteered", "system prompt", "random directions, dose 1.5"]), columns=["model", "method"])
    ways = ways.assign(concept=0.5, coherence=1.0, scenario=0.7, all_three=0.6, low=0.4, high=0.8, n=30)
    sizes = pd.DataFrame(product(keys, SIZE_PANELS, ["probe", "random", "shuffled"]), columns=["model", "finding", "direction"])
    sizes = sizes.assign(parameters=10 ** rng.uniform(8, 10, len(sizes)), value=0.6, lower=0.4, upper=0.9)
    figures = {
        "figure12": words_against_probes(detectors, ALL_MODELS),
        "figure13": specification_curve(specifications, list(choices), ALL_MODELS),
        "figure14": first_token(norms, norms, ALL_MODELS),
        "figure16": dose_curves(doses, ALL_MODELS),
        "figure17": ways_of_asking(ways, ALL_MODELS),
        "figure18": findings_by_size(sizes, ALL_MODELS, sizes[sizes.model == keys[0]].assign(lower=np.nan, upper=np.nan)),
    }
    blocks = pd.DataFrame(product(keys, range(32), range(BINS + 2)), columns=["model", "layer", "part"]).assign(kind="attributed")
    patches = pd.DataFrame(product(keys, [8, 12, 16, 20, 24], range(len(PARTS))), columns=["model", "layer", "part"])
    heat = pd.concat([blocks, patches.assign(kind="patched")], ignore_index=True)
    heat["value"] = rng.normal(0, 0.001, len(heat))
    through = pd.DataFrame(product(keys, [8, 12, 16, 20, 24], [*KINDS, "random, attributed", "AUROC"]), columns=["model", "layer", "kind"])
    through = pd.concat([through, pd.DataFrame({"model": keys, "kind": "total"})], ignore_index=True)
    through = through.assign(value=0.5, lower=-1000.0, upper=1000.0, n=5).astype({"layer": "Int64"})
    figures["figure21"] = mediation_map(heat, through, ALL_MODELS)
    if len(keys) > 1:
        pairs = [(source, target) for source, target in product(keys, keys) if source != target]
        maps = pd.DataFrame(pairs, columns=["source", "target"]).assign(alignment="ridge", learnt_from="both classes")
        figures["figure15"] = transferred_directions(maps.assign(auroc=0.9, pearson_r=0.5, agreement=0.3), ALL_MODELS)
    return figures


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
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
