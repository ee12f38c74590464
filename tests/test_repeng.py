"""
A control vector against repeng's reader and writer, from which llama.cpp took the format. Skipped without
`pip install --no-deps repeng==0.4.0`.
"""
import numpy as np
import pytest
from gguf import GGUFReader

from empathy_probes.machine.vectors import OWN, Vector, save_vector

with pytest.MonkeyPatch.context() as patch:
    patch.setattr(np, "float_", np.float64, raising=False)  # its annotations use a name that NumPy 2 no longer has
    ControlVector = pytest.importorskip("repeng").ControlVector
MADE_FROM = {"model": "tiny", "architecture": "llama", "weights": "none"}
DIRECTIONS = {layer: np.random.default_rng(layer).normal(size=8).astype(np.float32) for layer in (1, 3, 11)}


@pytest.fixture
def ours(tmp_path):
    "A file that save_vector wrote."
    save_vector(tmp_path / "ours.gguf", Vector(DIRECTIONS, MADE_FROM))
    return tmp_path / "ours.gguf"


def layout(path):
    "Fields with their values, and tensors with their kinds and shapes; without the fields that are ours alone."
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith(OWN)}
    counts = {name: fields.pop(name) for name in list(fields) if name.startswith("GGUF.")}
    tensors = {tensor.name: (tensor.tensor_type, tensor.shape.tolist()) for tensor in reader.tensors}
    return fields, tensors, counts["GGUF.version"]


def test_repeng_reads_what_we_write(ours):
    read = ControlVector.import_gguf(ours)
    assert read.model_type == "llama" and sorted(read.directions) == sorted(DIRECTIONS)
    for layer, direction in DIRECTIONS.items():
        np.testing.assert_array_equal(read.directions[layer], direction)


def test_repeng_writes_the_same_fields_and_tensors(ours, tmp_path):
    ControlVector(model_type="llama", directions=DIRECTIONS).export_gguf(tmp_path / "theirs.gguf")
    assert layout(ours) == layout(tmp_path / "theirs.gguf")
