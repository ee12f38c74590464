"Section notebooks: what all of them have in common, and how they answer a wrong parameter under plain papermill."

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from empathy_probes.machine.parameters import PARAMETERS

SECTIONS = Path(__file__).resolve().parents[1] / "nbs/sections"
NOTEBOOKS = sorted(SECTIONS.glob("*.ipynb"))
OWN_DEFAULTS = dict.fromkeys(["c1_released_results", "c2_claims"], {"preset": "published"})  # need the released data, no model
TABLE1 = ["model", "layer", "auroc", "accuracy", "separation", "std_positive", "std_negative"]


def code_cells(path: Path) -> list[dict]:
    "The code cells of a notebook; their sources as one text each."
    cells = json.loads(path.read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"]


def tagged(path: Path) -> list[dict]:
    return [cell for cell in code_cells(path) if "parameters" in cell["metadata"].get("tags", [])]


def papermill(notebook: Path, folder: Path, **parameters) -> subprocess.CompletedProcess:
    "Run a notebook as a reader would from a folder of their own, on the smoke preset, with its results kept in that folder."
    parameters = {"preset": "smoke", "runs": str(folder / "runs"), "figures": str(folder / "figures")} | parameters
    options = [word for name, value in parameters.items() for word in ("-p", name, value)]
    command = [sys.executable, "-m", "papermill", str(notebook), "out.ipynb", *options]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the kernel is looked up there
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_there_are_section_notebooks():
    assert {"31_contrastive_dataset", "32_probe_extraction", "41_probe_detection", "42_cross_model", "43_behavioral_correlation"} <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_parameters_cell_holds_the_six_parameters(path):
    "papermill puts its values after the one tagged cell; without it they would come first and be overwritten."
    [cell] = tagged(path)
    values = {}
    exec(cell["source"], values)
    del values["__builtins__"]
    assert values == PARAMETERS | OWN_DEFAULTS.get(path.stem, {})
    assert list(values) == list(PARAMETERS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_section_defines_nothing_and_is_kept_without_outputs(path):
    cells = code_cells(path)
    lines = [line for cell in cells for line in cell["source"].splitlines()]
    assert [line for line in lines if line.lstrip().startswith(("def ", "async def ", "class ", "@"))] == []
    assert [cell["source"] for cell in cells if cell["outputs"] or cell["execution_count"] is not None] == []


def said_by_the_snakefile(name: str) -> dict:
    "A dictionary of sections in the Snakefile, which is not Python as a whole."
    source = (SECTIONS.parents[1] / "Snakefile").read_text()
    part = source[source.index("class Section(") : source.index("if RELEASED:")]
    values = {"NamedTuple": NamedTuple, "PROBES": [], "SAMPLES": [], "BETWEEN_MODELS": ["alignment", "figure15"], } | dict.fromkeys(["extraction", "steering", "deciding", "playing"])
    exec(part, values)
    return values[name]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_snakefile_knows_what_a_section_makes(path):
    "Or it would not notice that a figure is missing."
    source = "\n".join(cell["source"] for cell in code_cells(path))
    made = {kind: set(re.findall(rf'save_{kind}\(.*?study\.figures, "(\w+)"', source)) for kind in ("table", "figure")}
    sections, released = (said_by_the_snakefile(name).get(path.stem) for name in ("SECTIONS", "RELEASED_SECTIONS"))
    section = sections or released
    assert made == ({"table": set(section.tables), "figure": set(section.figures)} if section else {"table": set(), "figure": set()})
    assert released is None or {*released.tables, *released.figures} <= {*section.tables, *section.figures}


def test_an_unknown_parameter_fails_by_name(tmp_path):
    "papermill itself would only warn, and the run would go on with the default."
    result = papermill(SECTIONS / "31_contrastive_dataset.ipynb", tmp_path, presset="paper")
    assert result.returncode != 0
    assert "ParameterError: unknown parameter 'presset'; the notebook takes preset, models, concept, runs, figures, seed" in result.stderr
    assert not (tmp_path / "figures").exists()


def test_a_notebook_without_the_tag_fails_instead_of_running_its_defaults(tmp_path):
    notebook = json.loads((SECTIONS / "31_contrastive_dataset.ipynb").read_text())
    for cell in notebook["cells"]:
        cell["metadata"].pop("tags", None)
    copy = tmp_path / "untagged.ipynb"
    copy.write_text(json.dumps(notebook))
    result = papermill(copy, tmp_path)
    assert result.returncode != 0
    assert "ParameterError: preset was to be 'smoke' but is 'mini': the notebook's parameters cell has lost its tag 'parameters'" in result.stderr
    assert not (tmp_path / "figures").exists()


def test_a_plain_run_from_anywhere_makes_the_contracts_table(tmp_path):
    result = papermill(SECTIONS / "41_probe_detection.ipynb", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    table = pd.read_csv(tmp_path / "figures/smoke/table1.csv")
    assert list(table)[:7] == TABLE1
    assert list(zip(table.model, table.layer)) == [(model, layer) for model in ("tiny-llama", "tiny-gpt2") for layer in range(1, 6)]
    assert table[TABLE1[2:]].notna().all(axis=None) and table.auroc.between(0, 1).all()
    made = {path.name for path in (tmp_path / "figures/smoke").iterdir()}
    assert {f"figure{number}.{kind}" for number in (1, 2, 3) for kind in ("pdf", "png", "csv")} | {"table1.md"} <= made
    manifest = json.loads((tmp_path / "runs/smoke/manifest.json").read_text())
    assert "41_probe_detection" in manifest["stages"] and set(manifest["models"]) == {"tiny-llama", "tiny-gpt2"}
