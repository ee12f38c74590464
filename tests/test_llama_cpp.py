"""
A control vector against llama.cpp itself: its own reader reads our file, and its effect on SmolLM2 is that of our steering at the
same block, and not that at a block beside it. llama.cpp comes in the wheel of xllamacpp, whose Python interface has no control
vectors, so its C functions are called. The package is no dependency of the project; without it these tests are skipped.
"""

import ctypes
import platform
import struct
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter, dequantize

from empathy_probes.method.steering import steer
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.sources import package_files
from empathy_probes.machine.vectors import Vector, load_vector, save_vector
from empathy_probes.machine.weights import join_checked

XLLAMACPP = "2026.10.11549"  # calls as below, in another version, could crash the interpreter
BLOCKS, WIDTH, WORDS = 30, 576, 49152  # of SmolLM2
MADE_FROM = {"model": "smollm2-135m", "architecture": "llama", "weights": "a test"}
PROMPTS = ("A player who lost the way asks you for water. You", "The bell rings and somebody cries beside the goal, so I")


def test_the_version_that_ci_installs_is_the_one_that_is_called_here():
    "Or the tests below would be skipped there without a word."
    root = Path(__file__).resolve().parents[1]
    assert f" xllamacpp=={XLLAMACPP} " in (root / ".ci/run").read_text()
    assert f"xllamacpp=={XLLAMACPP}`" in (root / "tests/README.md").read_text()


class Argument(ctypes.Structure):
    "A structure that llama.cpp gives and takes by value; larger than any of them, as callers need not know what is in it."
    _fields_ = [("content", ctypes.c_int64 * 128)]


class LoadInfo(ctypes.Structure):
    "`common_control_vector_load_info`; in the wheels for manylinux2014 a std::string is one pointer."
    _fields_ = [("strength", ctypes.c_float), ("name", ctypes.c_void_p)]


class CppVector(ctypes.Structure):
    "A std::vector."
    _fields_ = [("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("room", ctypes.c_void_p)]


class Loaded(ctypes.Structure):
    "`common_control_vector_data`."
    _fields_ = [("width", ctypes.c_int32), ("values", CppVector)]


READER = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"
FUNCTIONS = {  # name: what it gives, what it takes
    "llama_backend_init": (None, []),
    "llama_model_default_params": (Argument, []),
    "llama_model_load_from_file": (ctypes.c_void_p, [ctypes.c_char_p, Argument]),
    "llama_context_default_params": (Argument, []),
    "llama_init_from_model": (ctypes.c_void_p, [ctypes.c_void_p, Argument]),
    "llama_get_memory": (ctypes.c_void_p, [ctypes.c_void_p]),
    "llama_memory_clear": (None, [ctypes.c_void_p, ctypes.c_bool]),
    "llama_batch_get_one": (Argument, [ctypes.c_void_p, ctypes.c_int32]),
    "llama_decode": (ctypes.c_int32, [ctypes.c_void_p, Argument]),
    "llama_get_logits_ith": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int32]),
    "llama_set_adapter_cvec": (ctypes.c_int32, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int32]),
    "llama_free": (None, [ctypes.c_void_p]),
    "llama_model_free": (None, [ctypes.c_void_p]),
    READER: (None, [ctypes.c_void_p, ctypes.c_void_p]),  # the result's address comes first
}


@pytest.fixture(scope="session")
def library():
    "llama.cpp."
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("llama.cpp is called as it is built for Linux on x86-64")
    try:
        found = version("xllamacpp")
    except PackageNotFoundError:
        found = "none"
    if found != XLLAMACPP:
        pytest.skip(f"needs llama.cpp: pip install --no-deps xllamacpp=={XLLAMACPP} (a wheel of 34 MB); found {found}")
    library = ctypes.CDLL(find_spec("xllamacpp.xllamacpp").origin)
    for name, (gives, takes) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = gives, takes
    library.llama_backend_init()
    return library


def read_by_llama_cpp(library, path: Path, scale: float = 1.0) -> np.ndarray | None:
    "What llama.cpp's own reader finds in a control vector [row, width]; None if it refuses the file."
    name = str(path).encode()
    text = struct.pack("nnn", len(name), len(name), 0) + name + b"\0"  # length, room and count stand before the letters
    letters = ctypes.create_string_buffer(text, len(text))
    info = LoadInfo(scale, ctypes.addressof(letters) + 24)
    begin = ctypes.addressof(info)
    end, loaded = begin + ctypes.sizeof(info), Loaded()
    getattr(library, READER)(ctypes.byref(loaded), ctypes.byref(CppVector(begin, end, end)))
    if loaded.width == -1:
        return None
    count = (loaded.values.end - loaded.values.begin) // ctypes.sizeof(ctypes.c_float)
    return np.array((ctypes.c_float * count).from_address(loaded.values.begin)).reshape(-1, loaded.width)


def pushes(*layers: int) -> Vector:
    "Random vectors, as long as a class distance of SmolLM2 at block 15."
    numbers = np.random.default_rng(0)
    vectors = {layer: numbers.standard_normal(WIDTH) for layer in layers}
    return Vector({layer: (12 * v / np.linalg.norm(v)).astype(np.float32) for layer, v in vectors.items()}, MADE_FROM)


def test_llama_cpp_reads_direction_n_into_row_n_minus_1(library, tmp_path):
    vector = pushes(1, 4)
    save_vector(tmp_path / "v.gguf", vector)
    rows = read_by_llama_cpp(library, tmp_path / "v.gguf", scale=-2)
    assert rows.shape == (4, WIDTH)
    np.testing.assert_array_equal(rows[[0, 3]], [-2 * vector.by_layer[1], -2 * vector.by_layer[4]])
    assert not rows[[1, 2]].any()


def test_llama_cpp_has_no_place_for_block_0(library, tmp_path):
    writer = GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_tensor("direction.0", np.ones(4, dtype=np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    assert read_by_llama_cpp(library, tmp_path / "v.gguf") is None
    with pytest.raises(ValueError, match="cannot steer the output of block 0"):
        save_vector(tmp_path / "v.gguf", pushes(0))


def unpacked(path: Path, copy: Path) -> None:
    "Write a GGUF model again with float32 weights, so that llama.cpp computes what transformers does, without its rounding to 8 bits."
    reader = GGUFReader(path)
    writer = GGUFWriter(copy, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            part = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=part)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()


@pytest.fixture(scope="module")
def context(library, tmp_path_factory):
    "SmolLM2 in llama.cpp: the file of the preset mini, with its weights unpacked."
    spec, folder = load_preset("mini").models["smollm2-135m"], tmp_path_factory.mktemp("smollm2")
    packed, path = folder / "packed.gguf", folder / "unpacked.gguf"
    join_checked(package_files(spec), packed, spec.package["sha256"])
    unpacked(packed, path)
    model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
    packed.unlink(), path.unlink()  # half a gigabyte; llama.cpp has it open
    context = library.llama_init_from_model(model, library.llama_context_default_params())
    assert model and context
    yield context
    library.llama_free(context), library.llama_model_free(model)


def changes_by_llama_cpp(library, context, prompts: list[list[int]], path: Path) -> np.ndarray:
    "What a control vector does to the log-probabilities of the next token in llama.cpp [prompt, token]."
    rows = read_by_llama_cpp(library, path)

    def predict(tokens, vector):
        "Log-probabilities of the next token, with the vector or without one."
        address = None if vector is None else vector.ctypes.data
        assert library.llama_set_adapter_cvec(context, address, rows.size, WIDTH, 1, BLOCKS) == 0  # as llama-cli does
        library.llama_memory_clear(library.llama_get_memory(context), True)
        ids = np.array(tokens, dtype=np.int32)
        assert library.llama_decode(context, library.llama_batch_get_one(ids.ctypes.data, len(ids))) == 0
        logits = (ctypes.c_float * WORDS).from_address(library.llama_get_logits_ith(context, -1))
        return torch.tensor(np.array(logits)).log_softmax(dim=-1).numpy()

    return np.stack([predict(tokens, rows) - predict(tokens, None) for tokens in prompts])


def changes_by_us(model, prompts: list[list[int]], layer: int, vector: np.ndarray) -> np.ndarray:
    "What our steering does to the log-probabilities of the next token [prompt, token]."

    def predict(tokens, scale):
        "Log-probabilities of the next token."
        with torch.inference_mode(), steer(model, layer, vector, [scale]):
            return model(torch.tensor([tokens])).logits[0, -1].log_softmax(dim=-1).numpy()

    return np.stack([predict(tokens, 1.0) - predict(tokens, 0.0) for tokens in prompts])


@pytest.mark.parametrize("layer", [1, 15, 29])
def test_llama_cpp_adds_a_vector_where_we_do(library, context, smollm2, layer, tmp_path):
    model, tokenizer = smollm2
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    save_vector(tmp_path / "v.gguf", pushes(layer))
    vector = load_vector(tmp_path / "v.gguf", model).by_layer[layer]
    theirs = changes_by_llama_cpp(library, context, prompts, tmp_path / "v.gguf")
    beside = [block for block in (layer - 1, layer, layer + 1) if block < BLOCKS]
    ours = {block: changes_by_us(model, prompts, block, vector) for block in beside}
    apart = {block: np.linalg.norm(change - theirs) / np.linalg.norm(theirs) for block, change in ours.items()}
    assert apart.pop(layer) < 0.02  # measured: 0.0002 to 0.006, with llama.cpp's keys and values in float16
    assert min(apart.values()) > 0.2  # measured: 0.5 to 1.2
