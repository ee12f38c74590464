"The paper preset where there is no GPU: tiny random models in the place of the real ones, with their keys, widths, blocks and protocol."
import pandas as pd
import pytest
import yaml
from test_sections import SECTIONS, papermill

from empathy_probes.machine.presets import load_preset

PAPER = load_preset("paper")


@pytest.fixture
def tiny_paper(tmp_path):
    values = yaml.safe_load(open(PAPER.path)) | {"device": "cpu", "max_tokens": 8}
    entry = values["models"]["phi-3-mini-4k"]
    sizes = {"hidden_size": 3072, "intermediate_size": 4, "num_hidden_layers": entry["blocks"], "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8}
    del entry["hub"]
    entry |= {"random": {"model_type": "llama", "seed": 0, "config": sizes}, "dtype": "float32"}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_table1_says_which_texts_it_used_and_how_near_the_released_probes_are(tmp_path, tiny_paper, released_folder):
    options = {"preset": str(tiny_paper), "models": "phi-3-mini-4k", "concept": str(released_folder)}
    result = papermill(SECTIONS / "41_probe_detection.ipynb", tmp_path, **options)
    assert result.returncode == 0, result.stderr[-2000:]
    figures = tmp_path / "figures/tiny/models=phi-3-mini-4k"
    table = pd.read_csv(figures / "table1.csv")
    assert table.layer.tolist() == PAPER.models["phi-3-mini-4k"].layers
    assert table.cosine_released.abs().between(1e-9, 0.2).all()  # of a random model, so near 0
    assert (table.accuracy == table.accuracy_median).all()
    assert set(table.data.str.split().str[0]) == {"released-3b88ecb"}
    assert (figures / "table1.md").read_text().rstrip().endswith(table.data[0])
