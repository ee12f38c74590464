"Where the results of a run go, and what is said about its parameters before anything runs."

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import copied_concept, written

from empathy_probes.machine.manifest import record_stage
from empathy_probes.machine.parameters import ParameterError
from empathy_probes.machine.presets import PresetError
from empathy_probes.machine.study import open_study, read_probes


def opened(tmp_path: Path, **parameters):
    return open_study({"preset": "smoke", "runs": str(tmp_path / "runs"), "figures": str(tmp_path / "figures")} | parameters)


def test_a_run_with_other_parameters_has_a_place_of_its_own(tmp_path):
    usual, other = opened(tmp_path), opened(tmp_path, concept="register", seed=1)
    assert (usual.runs, usual.figures) == (tmp_path / "runs/smoke", tmp_path / "figures/smoke")
    assert opened(tmp_path, concept="empathy", seed=0).figures == usual.figures
    assert other.runs == usual.runs / "concept=register/seed=1"
    assert other.figures == usual.figures / "concept=register/seed=1"


def test_a_table_of_some_models_does_not_replace_that_of_all(tmp_path):
    "Their directions and samples are those of the whole study."
    everything, one, layer = opened(tmp_path), opened(tmp_path, models="tiny-gpt2"), opened(tmp_path, models="tiny-gpt2:4")
    assert one.figures == everything.figures / "models=tiny-gpt2"
    assert layer.figures == everything.figures / "models=tiny-gpt2:4"
    assert len({study.folder(one.models[0]) for study in (everything, one, layer)}) == 1
    for study in (everything, one):
        record_stage(study, "41_probe_detection")
    assert json.loads((everything.runs / "manifest.json").read_text())["stages"].keys() == {"41_probe_detection", "41_probe_detection/tiny-gpt2"}


def test_what_a_model_computed_is_kept_once_for_all_presets_seeds_and_concepts(tmp_path):
    "And apart from what another model of the same key computed."
    usual, seeded, other = opened(tmp_path), opened(tmp_path, seed=1), opened(tmp_path, concept="register")
    mine = opened(tmp_path, preset=written(tmp_path / "mine.yaml"))
    spec = usual.models[0]
    same = [study.preset.models[spec.key] for study in (seeded, other, mine)]
    assert {study.folder(entry) for study, entry in zip((seeded, other, mine), same)} == {usual.folder(spec)}
    assert usual.folder(spec).parent == tmp_path / "runs/models"
    assert usual.folder(replace(spec, dtype="float16")) != usual.folder(spec)
    with patch("empathy_probes.machine.study.fit_layers", side_effect=AssertionError("fitted again")):
        with pytest.raises(AssertionError, match="fitted again"):
            read_probes(usual, spec)
    directions = [read_probes(study, spec).mean_difference for study in (usual, other, usual)]
    np.testing.assert_array_equal(directions[0], directions[2])
    assert not np.array_equal(directions[0], directions[1])
    with patch("empathy_probes.machine.study.fit_layers", side_effect=AssertionError("fitted again")):
        np.testing.assert_array_equal(read_probes(mine, same[-1]).mean_difference, directions[0])


def test_no_preset_has_the_name_of_the_folder_in_which_that_is_kept(tmp_path):
    with pytest.raises(PresetError, match="give the preset another name"):
        opened(tmp_path, preset=written(tmp_path / "models.yaml"))


def test_two_concepts_of_one_name_do_not_share_a_place(tmp_path):
    first, second = (opened(tmp_path, concept=str(copied_concept(tmp_path / part / "warmth"))) for part in ("a", "b"))
    assert first.figures != second.figures
    assert first.figures.name.startswith("concept=warmth-")
    named = written(tmp_path / "mine.yaml", concept="a/warmth", scenarios=[])
    assert opened(tmp_path, preset=named, concept=str(tmp_path / "a/warmth")).figures == tmp_path / "figures/mine"


def test_two_presets_of_one_name_do_not_share_a_place(tmp_path):
    first, second = written(tmp_path / "a/mine.yaml"), written(tmp_path / "b/mine.yaml")
    record_stage(opened(tmp_path, preset=first), "a section")
    opened(tmp_path, preset=first)
    with pytest.raises(PresetError, match="a/mine.yaml, which has the same name; rename one of the two"):
        opened(tmp_path, preset=second)
    Path(first).unlink()  # it was moved
    opened(tmp_path, preset=second)


def test_the_released_data_are_one_concept_wherever_they_are(tmp_path, released_folder):
    study = opened(tmp_path, preset="published", concept=str(released_folder))
    assert study.figures == tmp_path / "figures/published"


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"concept": 270}, "concept must be a text, not 270; .* -r concept 270"),
        ({"preset": Path("smoke")}, "preset must be a text"),
        ({"models": ["tiny-gpt2"]}, "models must be a text"),
        ({"runs": None}, "runs must be a text"),
        ({"figures": 1.5}, "figures must be a text"),
        ({"seed": True}, "seed must be a whole number of 0 or more, not True"),
        ({"seed": 1.0}, "seed must be a whole number of 0 or more, not 1.0"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path, parameters, message):
    with pytest.raises(ParameterError, match=message):
        opened(tmp_path, **parameters)


def test_an_unknown_scenario_is_named_before_anything_runs(tmp_path):
    for concept in ("empathy", ""):
        preset = written(tmp_path / "mine.yaml", concept=concept, scenarios=["the_listner", "food_delivery"])
        with pytest.raises(PresetError, match="'empathy' has no scenario 'the_listner'; it has"):
            opened(tmp_path, preset=preset, concept="empathy")


@pytest.mark.parametrize("content", ['{"stages": {', "[]", "{}"])
def test_a_damaged_manifest_is_named_before_anything_runs(tmp_path, content):
    record_stage(opened(tmp_path), "a section")
    (tmp_path / "runs/smoke/manifest.json").write_text(content)
    with pytest.raises(ValueError, match="runs/smoke/manifest.json: damaged .* delete it; results stay"):
        opened(tmp_path)


def test_a_section_that_leaves_the_gpu_alone_records_main_memory(tmp_path, gpu, monkeypatch):
    gpu(80)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *number: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *device: "a GPU")
    entry = record_stage(opened(tmp_path, preset=written(tmp_path / "mine.yaml", device="cuda")), "a section")
    assert entry["peak_memory_mib"] > 10
    assert "CPU" in entry["device"]
