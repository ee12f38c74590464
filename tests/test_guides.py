"Guides: they call the library and define nothing. `make test` executes them with the library notebooks."

import json
from pathlib import Path

import pytest

GUIDES = Path(__file__).resolve().parents[1] / "nbs/guides"


COLAB = "https://colab.research.google.com/github/empathy-probes/empathy_probes/blob/main/nbs/guides"
FIRST_CELL = """if "google.colab" in str(get_ipython()):  # a new machine there: fetch the repository, the library and the weights
    !git clone -q https://github.com/empathy-probes/empathy_probes && cd empathy_probes && make -s colab
    %cd -q empathy_probes"""


@pytest.mark.parametrize("path", sorted(GUIDES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_guide_opens_in_colab_and_sets_itself_up_there(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = "".join(cells[0]["source"])
    assert "[Open in Colab][colab]" in first and first.endswith(f"\n\n[colab]: {COLAB}/{path.name}")
    assert "".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"]) == FIRST_CELL


@pytest.mark.parametrize("name", ["new_model", "new_concept"])
def test_a_guide_defines_nothing_and_keeps_results_without_noise(name):
    cells = json.loads((GUIDES / f"{name}.ipynb").read_text())["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in cell["source"]]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert [line for line in lines if line.lstrip().startswith(("def ", "class ", "#| export"))] == []
    assert any("image/png" in output.get("data", {}) for output in outputs)  # the dose-response figure
    assert [output for output in outputs if output.get("name") == "stderr"] == []


def test_the_guide_on_taking_a_direction_away_uses_both_files_and_keeps_results_without_noise():
    cells = json.loads((GUIDES / "take_away.ipynb").read_text())["cells"]
    text = "".join(line for cell in cells for line in cell["source"])
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert "--control-vector-scaled empathy.gguf:2" in text and 'safe_open(folder / "empathy.safetensors"' in text
    assert not any(line.startswith(("def ", "class ", "#| export")) for line in text.splitlines())
    assert any("two class distances" in str(output.get("data")) for output in outputs)  # the steered answer
    assert [output for output in outputs if output.get("name") == "stderr"] == []


def test_the_playground_keeps_a_shaded_result_and_no_dead_form():
    "A form in the stored notebook would be an error message in JupyterLab: take the data of its kind out before a commit."
    cells = json.loads((GUIDES / "playground.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [source for source in code if source.startswith(("def ", "class ", "#| export"))] == []
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    [shaded] = ["".join(each["text/html"]) for each in data if "text/html" in each]
    assert all(f"<b>{heading} (mean" in shaded for heading in ("unsteered", "dose +2", "random direction")) and shaded.count("background:#") > 60
    assert [kind for each in data for kind in each if "widget" in kind] == []
    assert any("run this cell in JupyterLab" in "".join(each["text/plain"]) for each in data)
