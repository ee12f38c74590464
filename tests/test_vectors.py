"Directions in files: whatever is damaged or foreign is refused with the file's name, and nothing half written stays."

from dataclasses import replace

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import save_file

from empathy_probes.machine import vectors
from empathy_probes.machine.study import open_study
from empathy_probes.machine.tensor_store import save_probes
from empathy_probes.machine.vectors import Vector, load_vector, save_vector, study_vector

ENDINGS = [".safetensors", ".gguf"]
VECTOR = Vector(
    {2: np.array([3, -4], dtype=np.float32), 3: np.array([0.5, 1e-3], dtype=np.float32)},
    {"model": "toy", "architecture": "llama", "weights": "none", "title": "A töy"},
)


@pytest.fixture(params=ENDINGS)
def path(request, tmp_path):
    "A vector's file of each kind."
    save_vector(tmp_path / f"v{request.param}", VECTOR)
    return tmp_path / f"v{request.param}"


def test_both_kinds_of_files_give_back_what_was_written(path):
    read = load_vector(path)
    assert list(read.by_layer) == [2, 3]
    for layer, numbers in VECTOR.by_layer.items():
        np.testing.assert_array_equal(read.by_layer[layer], numbers)
    assert read.made_from == read.made_from | VECTOR.made_from
    assert {"layer_convention", "scale", "empathy_probes"} <= set(read.made_from)
    save_vector(path, read)  # what was read can be written again
    assert load_vector(path).made_from == read.made_from


def test_a_changed_byte_anywhere_gives_an_error_that_names_the_file_or_changes_nothing_that_is_used(path):
    whole, expected = path.read_bytes(), load_vector(path)
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        try:
            read = load_vector(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "save_vector" in str(error)
            refused += 1
        else:  # padding, or a field that only llama.cpp reads
            assert read.made_from == expected.made_from
            np.testing.assert_array_equal(list(read.by_layer.values()), list(expected.by_layer.values()))
    assert refused > 0.7 * len(whole)


def test_a_file_cut_off_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in range(0, len(whole) - 32, 7):  # a GGUF file ends in up to 31 bytes of padding
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="save_vector"):
            load_vector(path)


def test_files_of_other_programs_are_refused(tmp_path):
    save_file({"weight": np.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors: has no checksum, so something else wrote it; fetch"):
        load_vector(tmp_path / "model.safetensors")
    save_probes(tmp_path / "probes.safetensors", {"mean_difference": np.eye(2)}, np.ones(2), {"model": "toy"})
    with pytest.raises(ValueError, match="no vector, but a file of mean_difference, separations"):
        load_vector(tmp_path / "probes.safetensors")
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.ones((2, 2), dtype=np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    with pytest.raises(ValueError, match="model.gguf: a GGUF file of the kind 'llama', not a control vector"):
        load_vector(tmp_path / "model.gguf")


def test_what_fails_while_it_is_written_leaves_the_old_file(path, monkeypatch):
    def half(partial, *arguments):
        partial.write_bytes(b"half")
        raise OSError("the disk is gone")

    monkeypatch.setitem(vectors.WRITERS, path.suffix, half)
    with pytest.raises(OSError, match="the disk is gone"):
        save_vector(path, replace(VECTOR, by_layer={5: VECTOR.by_layer[2]}))
    assert list(load_vector(path).by_layer) == [2, 3]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_layers_of_the_other_convention_become_blocks(tmp_path):
    places = {"runs": str(tmp_path / "runs"), "figures": str(tmp_path / "figures")}
    study = open_study({"preset": "smoke", "models": "tiny-llama", **places})
    [spec] = study.models
    shifted = replace(spec, layer_convention="hidden_state", layers=[layer + 1 for layer in spec.layers[:-1]], steering_layers=[])
    vector = study_vector(study, shifted, shifted.layers[:1])
    assert list(vector.by_layer) == spec.layers[:1] == vector.made_from["layers"]
    np.testing.assert_allclose(vector.by_layer[spec.layers[0]], study_vector(study, spec, spec.layers[:1]).by_layer[spec.layers[0]])
