"Presets: a broken one is refused by name, and the paper's says what its protocol says."

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import MODEL_RULES, PRESET_RULES, PROTOCOLS, ModelSpec, Preset, PresetError
from empathy_probes.machine.presets import load_preset, model_spec, select_models

SMOKE = load_preset("smoke")
PAPER = load_preset("paper")
TINY = SMOKE.models["tiny-llama"]
PACKAGE = {"requirements": [f"weights==1.0 --hash=sha256:{'0' * 64}"], "files": ["b"], "sha256": "0" * 64, "parameters": 1000}


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
        ("models: {}", "models must be a mapping with at least one entry"),
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
        ("models: [", "mine.yaml, line .: not valid YAML"),
        ("models: []", "models must be a mapping with at least one entry, not \\[\\]"),
        ("name: mine", "unknown key 'name'"),
        ("path: here", "unknown key 'path'"),
        ("concept: [empathy]", "concept must be a text"),
        ("scenarios: the_duel", "scenarios must be a list of different texts, not 'the_duel'"),
        ("scenarios: [the_duel, the_maze, the_duel]", "scenarios must be a list of different texts"),
        ("scenarios: [no]", "scenarios must be a list of different texts, not \\[False\\]"),
        ("samples: 0", "samples must be a whole number of 1 or more, not 0"),
        ("samples: -3", "samples must be a whole number of 1 or more, not -3"),
        ("samples: 2.5", "samples must be a whole number of 1 or more, not 2.5"),
        ("samples: true", "samples must be a whole number of 1 or more, not True"),
        ("samples: '5'", "samples must be a whole number of 1 or more, not '5'; YAML reads 5 as a text here, so write 5"),
        ("samples: 1e1", "samples must be a whole number .* so write 10$"),
        ("trials: 0", "trials must be a whole number of 1 or more"),
        ("trials: .inf", "trials must be a whole number of 1 or more, not inf"),
        ("max_tokens: 0", "max_tokens must be a whole number of 1 or more"),
        ("max_tokens: 512.0", "max_tokens must be a whole number of 1 or more, not 512.0"),
        ("temperature: 7e-1", "temperature must be a number of 0 or more, not '7e-1'; YAML reads 7e-1 as a text here, so write 0.7$"),
        ("temperature: -0.1", "temperature must be a number of 0 or more, not -0.1"),
        ("temperature: .nan", "temperature must be a number of 0 or more, not nan"),
        ("temperature: .inf", "temperature must be a number of 0 or more, not inf"),
        ("temperature: true", "temperature must be a number of 0 or more, not True"),
        ("threshold: '0.5'", "threshold must be one of median, midpoint, train, not '0.5'$"),
        ("models: {270: {blocks: 2, layers: [0], folder: a}}", "model 270: the name 270 must be a letter"),
        ("models: {1e5: {blocks: 2, layers: [0], folder: a}}", "the name '1e5' must be a letter"),
        ("models: {nan: {blocks: 2, layers: [0], folder: a}}", "the name 'nan' is read as something else than a text"),
        ("models: {inf: {blocks: 2, layers: [0], folder: a}}", "the name 'inf' is read as something else"),
        ("models: {true: {blocks: 2, layers: [0], folder: a}}", "the name True must be a letter"),
        ("models: {'true': {blocks: 2, layers: [0], folder: a}}", "the name 'true' is read as something else"),
        ("models: {null: {blocks: 2, layers: [0], folder: a}}", "the name None must be a letter"),
        ("models: {'a:b': {blocks: 2, layers: [0], folder: a}}", "the name 'a:b' must be a letter"),
        ("models: {../x: {blocks: 2, layers: [0], folder: a}}", "the name '../x' must be a letter"),
        ("models: {m: {blocks: 2, layers: [0], folder: a}, n: {title: m, blocks: 2, layers: [0], folder: b}}", "the models 'm' and 'n' have one title, 'm'"),
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


STEERED = {"layers": [0, 1], "steering_layers": [1], "alphas": [0, 1]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"key": "m"}, "unknown key 'key'"),
        ({"title": 7}, "title must be a text that is not blank, not 7"),
        ({"title": " "}, "title must be a text that is not blank"),
        ({"folder": 7}, "folder must be a text"),
        ({"blocks": True}, "blocks must be a whole number of 1 or more, not True"),
        ({"blocks": 2.0}, "blocks must be a whole number of 1 or more, not 2.0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of 1 or more, not 0"),
        ({"max_new_tokens": "6e1"}, "max_new_tokens .* so write 60$"),
        ({"layers": 1}, "layers must be a list of different whole numbers of 0 or more, not 1"),
        ({"layers": [0, 0]}, "layers must be a list of different whole numbers of 0 or more, not .0, 0."),
        ({"layers": ["0"]}, "layers must be a list .* so write 0$"),
        ({"layers": [0.5]}, "layers must be a list"),
        ({"layers": [True]}, "layers must be a list"),
        ({"layers": [-1]}, "layers must be a list"),
        ({"layers": [0, 2]}, "'m': there is no layer 2; .* layers go from 0 to 1"),
        (STEERED | {"steering_layers": 1}, "steering_layers must be a list"),
        (STEERED | {"steering_layers": [1, 1]}, "steering_layers must be a list"),
        (STEERED | {"layers": [0]}, r"steering layer 1 has no probe; add it to 'layers' \(\[0\]\)"),
        (STEERED | {"alphas": 1}, "alphas must be a list of different finite numbers, not 1"),
        (STEERED | {"alphas": [0, float("nan")]}, "alphas must be a list of different finite numbers, not .0, nan."),
        (STEERED | {"alphas": [0, float("inf")]}, "alphas must be a list of different finite numbers"),
        (STEERED | {"alphas": [0, 1, 1.0]}, "alphas must be a list of different finite numbers"),
        (STEERED | {"alphas": [0, "1e0"]}, "alphas must be a list .* YAML reads 1e0 as a text here, so write 1$"),
        (STEERED | {"alphas": [-1, 1]}, r"0 must be among the alphas \(\[-1, 1\]\): the others are compared with it"),
        (STEERED | {"alphas": []}, r"0 must be among the alphas \(\[\]\)"),
        ({"detection_layer": 1}, r"detection_layer 1 is not one of its layers \(\[0\]\); choose one"),
        ({"behavior_layer": 1}, r"behavior_layer 1 is not one of its layers \(\[0\]\)"),
        ({"dose_layer": 1}, r"dose_layer 1 is not one of its layers \(\[0\]\)"),
        (STEERED | {"dose_layer": 0}, r"dose_layer 0 is not one of its steering_layers \(\[1\]\)"),
        ({"detection_layer": "0"}, "detection_layer must be a whole number of 0 or more, not '0'; .* so write 0$"),
        ({"chat_template": "no"}, "chat_template must be true or false, not 'no'"),
        ({"load_in_4bit": 1}, "load_in_4bit must be true or false, not 1"),
        ({"device_map": ["auto"]}, "device_map must be one of auto"),
        ({"published": {"layers": [0, 0]}}, "model 'm', published: layers must be a list"),
        ({"folder": None, "hub": {"id": 7}}, "model 'm', hub: id must be a text"),
        ({"folder": None, "hub": {"revision": "0" * 40}}, "model 'm', hub: the key 'id' is missing"),
        ({"folder": None, "hub": {"id": "a/b", "commit": "0" * 40}}, "model 'm', hub: unknown key 'commit'"),
        ({"folder": None, "package": PACKAGE | {"requirements": ["a==1.0"]}}, "model 'm', package: requirements must be a list of texts such as name==1.0 --hash"),
        ({"folder": None, "package": PACKAGE | {"sha256": 7}}, "model 'm', package: sha256 must be 64 hexadecimal digits"),
        ({"folder": None, "package": PACKAGE | {"files": "b"}}, "model 'm', package: files must be a list"),
        ({"folder": None, "package": PACKAGE | {"sha256": None}}, "model 'm', package: the key 'sha256' is missing"),
        ({"folder": None, "package": PACKAGE | {"parameters": None}}, "model 'm', package: the key 'parameters' is missing"),
        ({"folder": None, "package": PACKAGE | {"parameters": 1.5e9}}, "model 'm', package: parameters must be a whole number of 1 or more, not 1500000000.0"),
        ({"folder": None, "package": PACKAGE | {"hub": "a/b"}}, "model 'm', package: hub must be a mapping"),
        ({"folder": None, "package": PACKAGE | {"hub": {}}}, "model 'm', package, hub: the key 'id' is missing"),
        ({"folder": None, "package": PACKAGE | {"hub": {"id": "a/b", "gguf_file": "c"}}}, "model 'm', package, hub: the key 'revision' is missing"),
        ({"folder": None, "package": PACKAGE | {"hub": {"id": "a/b", "revision": "main", "gguf_file": "c"}}}, "model 'm', package, hub: revision must be the 40 digits of a commit, not 'main'"),
        ({"folder": None, "package": PACKAGE | {"hub": {"id": "a/b", "revision": "0" * 40}}}, "model 'm', package, hub: the key 'gguf_file' is missing"),
        ({"folder": None, "package": PACKAGE | {"hub": {"id": "a/b", "revision": "0" * 40, "file": "c"}}}, "model 'm', package, hub: unknown key 'file'"),
        ({"folder": None, "random": {"model_type": "llama", "sizes": {}}}, "model 'm', random: unknown key 'sizes'"),
        ({"folder": None, "random": {"model_type": "llama", "config": {}, "seed": -1}}, "model 'm', random: seed must be a whole number"),
    ],
)
def test_a_wrong_value_of_a_model_is_refused_with_file_model_and_key(tmp_path, change, message):
    entry = {"blocks": 2, "layers": [0], "folder": "a"} | change
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"models": {"m": entry}}))
    with pytest.raises(PresetError, match=message) as caught:
        load_preset(path)
    assert "mine.yaml" in str(caught.value) and "model 'm'" in str(caught.value)


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("samples: 5\nmodels:\n  m: {blocks: 2, layers: [0], folder: a}\n  m: {blocks: 4, layers: [0], folder: a}\n")
    with pytest.raises(PresetError, match=r"mine\.yaml, line 4: .*the key 'm' is given twice, first in line 3; remove one of them"):
        load_preset(path)


@pytest.mark.parametrize("name", ["270", "1e5", "nan", "inf", "true", "null", "a b", "a:b"])
def test_a_presets_name_is_plain_as_its_folders_are(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    path.write_text("models: {m: {blocks: 2, layers: [0], folder: a}}")
    with pytest.raises(PresetError, match=f"{name}.yaml: the name '{name}' .* choose another one"):
        load_preset(path)


def test_a_plain_name_may_lie_in_a_path_with_blanks(tmp_path):
    path = tmp_path / "my own study" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("models: {m: {blocks: 2, layers: [0], folder: a b}}")
    assert load_preset(path).models["m"].folder == str(path.parent / "a b")


def test_a_concept_beside_the_preset_may_not_have_a_name_of_the_packages(tmp_path):
    "Without this the package's concept is read in its place, and nothing says so."
    path = tmp_path / "mine.yaml"
    path.write_text("concept: empathy\nmodels: {m: {blocks: 2, layers: [0], folder: a}}")
    assert load_preset(path).concept == str(load_concept("empathy").folder)
    (tmp_path / "empathy").mkdir()
    with pytest.raises(PresetError, match=r"mine\.yaml: concept: .*'empathy' is one of the package's concepts; give the folder another name"):
        load_preset(path)


@pytest.mark.parametrize("name", ["ladder", "mini", "paper", "published", "smoke", "nbs/guides/register.yaml"])
def test_every_preset_of_the_package_is_good_under_both_protocols(tmp_path, name):
    path = Path(load_preset(name if "/" not in name else Path(__file__).parents[1] / name).path)
    for protocol in PROTOCOLS:
        copy = tmp_path / f"my-{path.name}"
        copy.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"protocol": protocol}))
        assert load_preset(copy).models
    if name == "published":  # it has dose layers and steers nothing
        assert all(spec.dose_layer and not spec.steering_layers for spec in load_preset(name).models.values())


def test_every_field_has_a_rule():
    assert set(MODEL_RULES) == {f.name for f in fields(ModelSpec)} - {"key"}
    assert set(PRESET_RULES) == {f.name for f in fields(Preset)} - {"name", "path"}


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


def test_what_mini_has_made_is_not_made_again_for_ladder():
    "Its models are the same, and so is what they do; ladder plays in more worlds."
    mini, ladder = load_preset("mini"), load_preset("ladder")
    assert mini.models.items() <= ladder.models.items()
    assert ladder.games | {"worlds": mini.games["worlds"]} == mini.games
    assert {*mini.games["worlds"]} < {*ladder.games["worlds"]}
    assert replace(ladder, name="mini", path=mini.path, models=mini.models, games=mini.games) == mini
