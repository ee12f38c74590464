"Presets: a broken one is refused by name, and the paper's says what its protocol says."

from dataclasses import replace
from pathlib import Path

import pytest

from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import PresetError, load_preset, model_spec, select_models

SMOKE = load_preset("smoke")
PAPER = load_preset("paper")
TINY = SMOKE.models["tiny-llama"]


def test_a_layer_past_the_last_block_is_named():
    entry = {"random": TINY.random, "blocks": 6}
    with pytest.raises(PresetError, match="'m': there is no layer 6; .* layers go from 0 to 5"):
        model_spec("m", entry | {"layers": [1, 6]})
    with pytest.raises(PresetError, match="there is no layer 0; .* layers go from 1 to 5"):
        model_spec("m", entry | {"layers": [0], "layer_convention": "hidden_state"})
    with pytest.raises(PresetError, match="has 6 blocks, its preset says 8"):
        load_model(replace(TINY, blocks=8))


@pytest.mark.parametrize(
    "change, message",
    [
        ("poolin: mean", "unknown key 'poolin'; did you mean 'pooling'"),
        ("pooling: median", "pooling must be one of"),
        ("models: {}", "at least one entry under 'models'"),
        ("models: {m: {blocks: 2, layers: [0], random: {}, colour: red}}", "model 'm': unknown key 'colour'"),
        ("models: {m: {blocks: 2, layers: [0]}}", "model 'm': exactly one source of weights .* found none"),
        ("models: {m: {blocks: 2, layers: [0], folder: a, hub: {id: b}}}", "exactly one source of weights"),
        ("models: {m: {layers: [0], folder: a}}", "'blocks' must say"),
        ("models: {m: {blocks: 2, layers: [0], folder: a, dtype: float8}}", "dtype must be one of float32, bfloat16, float16, not 'float8'"),
        ("models: {m: {blocks: 2, layers: [0], folder: a, behavior_reading: end}}", "behavior_reading must be one of full_text, beginning, not 'end'"),
        ("models: {m: {blocks: 2, layers: [0], folder: a, max_rows: 0}}", "max_rows must be a whole number of 1 or more, not 0"),
        ("models: {m: {blocks: 2, layers: [0], hub: {id: b, revision: main}}}", "revision must be the 40 digits of a commit"),
        ("models: {m: {blocks: 2, layers: [0], hub: b}}", "hub must be a mapping"),
        ("models: {m: {blocks: 2, layers: [0], folder: a, published: {threshold: best}}}", "model 'm', published: threshold must be one of"),
        ("models: {m: null}", "model 'm': expected a mapping"),
        ("protocol: printed", "protocol must be one of published, described, not 'printed'"),
        ("device: tpu", "device must be one of cpu, cuda, not 'tpu'"),
        ("threshold: best", "threshold must be one of median, midpoint, train, not 'best'"),
        ("alpha_unit: sigma", "alpha_unit must be one of raw, separation, not 'sigma'"),
        ("models: [", "not valid YAML"),
    ],
)
def test_a_broken_preset_is_refused_by_name(tmp_path, change, message):
    key = change.split(":")[0]
    lines = {"models": "models: {m: {blocks: 2, layers: [0], folder: a}}"} | {key: change}
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(lines.values()))
    with pytest.raises(PresetError, match=message) as caught:
        load_preset(path)
    assert "mine.yaml" in str(caught.value)


def test_unknown_presets_and_models_are_answered_with_what_there_is():
    with pytest.raises(PresetError, match="maxi: .*mini.*paper.*smoke"):
        load_preset("maxi")
    with pytest.raises(PresetError, match="'smoke' has no model 'gpt-5'; it has tiny-llama, tiny-gpt2"):
        select_models(SMOKE, "tiny-gpt2,gpt-5")


def test_models_come_in_the_presets_order():
    assert [spec.key for spec in select_models(SMOKE, " tiny-gpt2 , tiny-llama,")] == ["tiny-llama", "tiny-gpt2"]
    assert [spec.key for spec in select_models(SMOKE, ["tiny-gpt2"])] == ["tiny-gpt2"]


def test_the_paper_follows_either_protocol(tmp_path):
    "Where the protocol's page and the text differ: layer convention, threshold, and what is read of a completion."
    described = tmp_path / "described.yaml"
    described.write_text(Path(PAPER.path).read_text().replace("protocol: published", "protocol: described"))
    fields = ("layers", "layer_convention", "threshold", "behavior_reading")
    found = {
        preset.protocol: {key: tuple(getattr(spec, name) for name in fields) for key, spec in preset.models.items()}
        for preset in (PAPER, load_preset(described))
    }
    five = [8, 12, 16, 20, 24]
    assert found["published"] == {
        "phi-3-mini-4k": (five, "block", "median", "full_text"),
        "qwen2.5-7b": (five, "hidden_state", "midpoint", "beginning"),
        "dolphin-llama-3.1-8b": ([*five, 28], "hidden_state", "midpoint", "beginning"),
    }
    assert list(found["described"].values()) == [(five, "block", "train", "full_text")] * 3


def test_the_papers_sweep_has_its_276_conditions():
    scenarios = 3
    assert PAPER.scenarios == ["food_delivery", "the_listener", "the_protector"]
    assert sum(len(spec.steering_layers) * len(spec.alphas) * scenarios for spec in PAPER.models.values()) == 276
    assert {spec.dtype for spec in PAPER.models.values()} == {"float16"} and not any(spec.chat_template for spec in PAPER.models.values())
