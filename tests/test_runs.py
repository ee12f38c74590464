"Whole runs of the Snakefile: paths, locks, interruptions, and what is stale. Papermill has a stand-in here."

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SMOKE, copied_concept, written

from empathy_probes.machine.study import open_study
from empathy_probes.machine.weights import byte_tokenizer, random_model

ROOT = Path(__file__).resolve().parents[1]
STRANGE = "a b'c {d} #1"


PAPERMILL = """#!/bin/sh
# Writes down its values, and is as slow or as unlucky as the test wants it to be.
cp "$5" "$6"
for value; do printf '%s\\n' "$value" >> "$RECORD"; done
if [ -n "$PAPERMILL_SLEEPS" ]; then sleep "$PAPERMILL_SLEEPS"; fi
if [ -n "$PAPERMILL_FAILS" ]; then exit 1; fi
"""


class Project:
    "A copy of this project in a folder of its own, with a papermill that only writes down what it is asked for."

    def __init__(self, folder: Path, beside: Path) -> None:
        self.folder, self.bin, self.record = folder, beside / "bin", beside / "record.txt"
        folder.mkdir()
        for name in ("empathy_probes", "nbs/sections", "profiles", "scripts"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Snakefile", "Makefile", "settings.ini", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "figures/published").mkdir(parents=True)
        shutil.copy(ROOT / "figures/published/size.csv", folder / "figures/published")  # which section C8 shows beside its own
        self.script("papermill", PAPERMILL)
        paths = [str(self.bin), str(Path(sys.executable).parent), os.environ["PATH"]]
        self.environment = os.environ | {"PATH": os.pathsep.join(paths), "PYTHONPATH": str(folder), "RECORD": str(self.record)}

    def script(self, name: str, text: str) -> None:
        self.bin.mkdir(exist_ok=True)
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        "The exit code of a command, and all it said."
        process = self.start(*command, **environment)
        said, _ = process.communicate()
        return process.returncode, said

    def make(self, preset: str, concept: str, target: str) -> tuple[int, str]:
        "`make reproduce` for one notebook, without installing anything."
        (self.folder / ".venv").mkdir()
        (self.folder / ".venv/.installed").touch()
        self.script("snakemake", f'#!/bin/sh\nexec "{sys.executable}" -m snakemake "$@" -- "{target}"\n')
        return self.run("make", "reproduce", f"PRESET={preset}", f"PUBLISHED={concept}")

    def snakemake(self, *arguments: str, preset: str = "smoke") -> list[str]:
        return [sys.executable, "-m", "snakemake", "--cores", "1", "--config", f"preset={preset}", *arguments]

    def asked(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "project", tmp_path)


def test_a_path_may_have_blanks_quotes_and_braces(tmp_path):
    project = Project(tmp_path / STRANGE, tmp_path)
    concept = copied_concept(tmp_path / STRANGE / "warm {texts}")
    preset = written(tmp_path / STRANGE / "my {presets}" / "mine.yaml", concept="", scenarios=[])
    place = open_study({"preset": preset, "concept": str(concept)}).runs.relative_to(ROOT)
    code, said = project.make(preset, str(concept), f"{place}/tiny-llama/32_probe_extraction.ipynb")
    assert code == 0, said
    assert (project.folder / place / "tiny-llama/32_probe_extraction.ipynb").is_file()
    assert project.asked()[-9:] == ["-r", "preset", preset, "-r", "concept", str(concept), "-r", "models", "tiny-llama"]


def figures_of_section_31(project: Project) -> list[Path]:
    "As they are in the repository for some presets."
    folder = project.folder / "figures/smoke"
    folder.mkdir(parents=True)
    for path in (paths := [folder / "dataset.csv", folder / "dataset.md"]):
        path.write_text("as it was")
    return paths


def waited_for(record: Path, process: subprocess.Popen) -> None:
    "Wait until the stand-in for papermill is at work."
    while not record.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def test_a_killed_run_leaves_no_lock_and_all_figures(project):
    "And a figure that is missing all the same is made again."
    figures, command = figures_of_section_31(project), project.snakemake("--", "runs/smoke/31_contrastive_dataset.ipynb")
    process = project.start(*command, PAPERMILL_SLEEPS="100")
    waited_for(project.record, process)
    code, said = project.run(*command)
    assert code != 0 and "another run is making the results in runs/smoke: wait for it, or stop it" in said
    look = project.snakemake("-n", "--quiet", "rules")
    code, said = project.run(*look)
    assert code == 0 and "contrastive_dataset" in said
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert [path.read_text() for path in figures] == ["as it was"] * 2
    code, said = project.run(*command)
    assert code == 0, said
    assert project.asked()[-3:] == ["-r", "models", ""]
    assert "contrastive_dataset" not in project.run(*look)[1]
    figures[1].unlink()
    assert "contrastive_dataset" in project.run(*look)[1]


def test_what_is_stale_is_seen_without_importing_pytorch(project):
    "To import it with transformers takes longer than all the rest of a `make reproduce` that has nothing to do."
    for name in ("torch", "transformers", "scipy", "sklearn"):
        (project.folder / f"{name}.py").write_text("raise RuntimeError('this is slow')")
    code, said = project.run(*project.snakemake("-n", "--quiet", "rules"))
    assert code == 0 and "contrastive_dataset" in said, said
    for step in ("resources", "weights"):
        assert project.run(sys.executable, "scripts/prepare.py", step, "smoke") == (0, "")
    code, said = project.run(*project.snakemake("split_layers=true", "-n"))  # what is asked of a cluster needs it
    assert code != 0 and "this is slow" in said


def test_changed_texts_and_weights_are_stale(project, tmp_path):
    "Also if they came by `cp -p`, with an old time."
    entry = {key: value for key, value in SMOKE["models"]["tiny-gpt2"].items() if key != "random"}
    random_model("gpt2", {"n_embd": 32, "n_layer": 6, "n_head": 4}).save_pretrained(tmp_path / "weights")
    byte_tokenizer().save_pretrained(tmp_path / "weights")
    concept = copied_concept(tmp_path / "warmth")
    preset = written(tmp_path / "mine.yaml", concept="warmth", scenarios=[], models={"mine": entry | {"folder": "weights"}})
    target = ["--", "runs/mine/mine/32_probe_extraction.ipynb"]
    assert project.run(*project.snakemake(*target, preset=preset))[0] == 0

    def stale() -> bool:
        code, said = project.run(*project.snakemake("-n", *target, preset=preset))
        assert code == 0, said
        return "Nothing to be done" not in said

    assert not stale()
    for path in (tmp_path / "weights/config.json", concept / "lexicon.yaml"):
        before, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        path.write_bytes(before + b"\n")
        os.utime(path, ns=times)
        assert stale(), path
        path.write_bytes(before)
