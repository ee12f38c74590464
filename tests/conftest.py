"What several test files share: tiny random models of many families, the real SmolLM2, the folder of the released data."

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

from empathy_probes.method.scoring import score_samples
from empathy_probes.machine.concepts import DATA, load_concept
from empathy_probes.machine.memory import paper_configs
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.sources import hub_commit
from empathy_probes.machine.weights import byte_tokenizer, random_model
from empathy_probes.evidence.released_results import load_released
from empathy_probes.machine import weights

torch.set_num_threads(1)  # more only slow tiny models down, and all of them on a busy machine: twentyfold

LLAMA_LIKE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
NARROW = {"sliding_window": 8}  # narrower than the tests' texts
FAMILIES = {  # model type of transformers: sizes
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE | NARROW,
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE | {"head_dim": 8},
    "phi3": LLAMA_LIKE,
    "gemma2": LLAMA_LIKE | NARROW | {"head_dim": 8},
    "gemma3_text": LLAMA_LIKE | NARROW | {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "olmo": LLAMA_LIKE,
    "stablelm": LLAMA_LIKE,
    "mixtral": LLAMA_LIKE | {"num_local_experts": 4},  # mixture of experts
    "deepseek_v3": LLAMA_LIKE  # experts in all blocks but the first, and latent attention
    | {"num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    | {"moe_intermediate_size": 16, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 1024},
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4},
    "opt": {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 4, "n_head": 4},  # its blocks return tuples, as falcon's do
    "modernbert-decoder": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4},
}


SMOKE = yaml.safe_load((DATA / "presets/smoke.yaml").read_text())


def copied_concept(folder: Path) -> Path:
    return Path(shutil.copytree(DATA / "concepts/register", folder))


def written(path: Path, **values) -> str:
    "A preset like smoke with some other values."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(SMOKE | values))
    return str(path)


@pytest.fixture(scope="session", params=FAMILIES)
def family(request):
    "A model of each family, with weights so large that every block changes the stream visibly."
    model = random_model(request.param, FAMILIES[request.param])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return model


@pytest.fixture(scope="session")
def llama():
    return random_model("llama", FAMILIES["llama"])


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def smollm2():
    "The real SmolLM2 and its tokenizer; `make test` installs its weights."
    return load_model(load_preset("mini").models["smollm2-135m"])


@pytest.fixture(scope="session")
def released_folder():
    beside = Path(__file__).resolve().parents[2] / "shared/published"
    folder = Path(os.environ.get("PUBLISHED", beside))
    if not folder.is_dir():
        pytest.skip(f"no released data in {folder}; name their folder in the environment variable PUBLISHED")
    return folder


@pytest.fixture(scope="session")
def released(released_folder):
    return load_released(released_folder)


@pytest.fixture(scope="session")
def scored(released):
    "The released samples, scored with the word lists of the paper's scripts."
    lexicon = load_concept("empathy").lexicon
    return score_samples(released["samples"], lexicon)


CONFIGS = paper_configs()  # as large as they are, on the meta device they cost nothing


@pytest.fixture
def gpu(monkeypatch):
    "Pretend that there are CUDA devices; the function sets how many GiB are free on each."

    def free(*gibibytes):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gibibytes))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (gibibytes[number] << 30, 80 << 30))

    return free


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    "A hub's cache that holds the configs of the paper's models, at the commit 0101... of main and at any pinned one, and no weights."
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for key, spec in load_preset("paper").models.items():
        folder = tmp_path / f"models--{spec.hub['id'].replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("01" * 20)
        for commit in {"01" * 20, spec.hub["revision"] or "01" * 20}:
            CONFIGS[key].save_pretrained(folder / "snapshots" / commit)
    monkeypatch.setattr(weights, "model_source", lambda spec: (tmp_path / f"models--{spec.hub['id'].replace('/', '--')}" / "snapshots" / hub_commit(spec), {}))
    return tmp_path
