"Families of models that keep something else than keys and values, or whose blocks put out something else than one stream."

from weakref import WeakSet

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import FAMILIES, LLAMA_LIKE

from empathy_probes.evidence.damage import sweep_damage
from empathy_probes.evidence.dose import dose_effects
from empathy_probes.machine import shared_prompts
from empathy_probes.machine.generation import check_steerable
from empathy_probes.machine.presets import PresetError
from empathy_probes.machine.study import open_study, read_split, run_sweep, steering_plan
from empathy_probes.machine.sweep import load_generations
from empathy_probes.machine.weights import byte_tokenizer, random_model
from empathy_probes.method.activations import extract
from empathy_probes.method.residual_stream import find_blocks

MAMBA_HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
SHARED_KEYS = LLAMA_LIKE | {"head_dim": 8, "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}
SHARED_KEYS |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 300}
READ_ONLY = {  # model type of transformers: sizes
    "mamba": {"hidden_size": 32, "num_hidden_layers": 4, "state_size": 8},
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 64},
    "recurrent_gemma": LLAMA_LIKE | {"num_key_value_heads": 1, "head_dim": 8, "lru_width": 32},
    "jamba": LLAMA_LIKE
    | {"num_experts": 2, "mamba_d_state": 8, "use_mamba_kernels": False}
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "bamba": LLAMA_LIKE | MAMBA_HEADS | {"attn_layer_indices": [1, 3]},
    "zamba2": LLAMA_LIKE
    | {"num_key_value_heads": 4, "mamba_d_state": 8, "n_mamba_heads": 8, "mamba_headdim": 8, "mamba_ngroups": 1, "num_mem_blocks": 1, "adapter_rank": 4}
    | {"hybrid_layer_ids": [1, 3], "layers_block_type": ["mamba", "hybrid"] * 2},
    "lfm2": LLAMA_LIKE | {"full_attn_idxs": [1, 3]},
    "qwen3_next": LLAMA_LIKE
    | {"head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "granitemoehybrid": LLAMA_LIKE
    | MAMBA_HEADS
    | {"layer_types": ["mamba", "attention"] * 2, "num_local_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 32},
    "falcon_h1": LLAMA_LIKE | MAMBA_HEADS | {"mamba_d_ssm": 64, "head_dim": 8},
    "gemma4_text": SHARED_KEYS | {"global_head_dim": 8},
    "openai-gpt": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512},
}
UNREADABLE = {
    "xlnet": {"d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 64},  # positions come first in its blocks
    "gemma3n_text": SHARED_KEYS | {"laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4, "altup_num_inputs": 2},  # several streams
    "xlm": {"emb_dim": 32, "n_layers": 4, "n_heads": 4},  # has no blocks
}
TEXTS = ["A short text.", "A text that is quite a bit longer than the first one.", "Third."]


@pytest.mark.parametrize("name", READ_ONLY)
def test_recurrent_and_hybrid_models_are_read_but_not_steered(name, tokenizer):
    "Their own cache holds a state, which the batch of steered samples knows nothing of."
    model = random_model(name, READ_ONLY[name])
    together = extract(model, tokenizer, TEXTS, [0, 2])
    alone = np.concatenate([extract(model, tokenizer, [text], [0, 2]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=f"{type(model).__name__} can be read but not steered.*steering_layers: \\[\\]"):
        check_steerable(model)


@pytest.mark.parametrize("name", UNREADABLE)
def test_models_without_one_stream_are_not_misread(name, tokenizer):
    with pytest.raises(ValueError, match="cannot be read"):
        extract(random_model(name, UNREADABLE[name]), tokenizer, TEXTS, [0, 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FAMILIES)
def test_models_with_keys_and_values_are_steered(name, dtype):
    check_steerable(random_model(name, FAMILIES[name]).to(dtype))


def test_a_decoder_that_transformers_does_not_name_is_found(tokenizer):
    "`get_decoder` of transformers returns the last layer of this model."
    model = random_model("modernbert-decoder", FAMILIES["modernbert-decoder"])
    assert find_blocks(model) is model.model.layers
    states = model(torch.tensor([tokenizer(TEXTS[0])["input_ids"]]), output_hidden_states=True).hidden_states
    np.testing.assert_allclose(extract(model, tokenizer, TEXTS[:1], [1])[0, 0], states[2][0].mean(dim=0).detach(), rtol=1e-4, atol=1e-5)


def folder_preset(tmp_path, model, **entry):
    "A preset of one model in a folder."
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    values = {"folder": "model", "blocks": 4, "layers": [1, 2], "steering_layers": [2], "alphas": [-1, 0, 1], "max_new_tokens": 4} | entry
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"concept": "empathy", "samples": 2, "models": {"local": values}}))
    return {"preset": str(tmp_path / "one.yaml"), "runs": str(tmp_path / "runs"), "figures": str(tmp_path / "figures")}


def test_a_model_that_cannot_be_steered_says_so_before_anything_is_extracted(tmp_path):
    options = folder_preset(tmp_path, random_model("mamba", READ_ONLY["mamba"]))
    study = open_study(options, check_machine=True)
    with pytest.raises(ValueError, match="can be read but not steered"):
        read_split(study, study.models[0], "test")
    assert not (study.folder(study.models[0]) / "activations.safetensors").exists()
    options = folder_preset(tmp_path, random_model("mamba", READ_ONLY["mamba"]), steering_layers=[])
    study = open_study(options, check_machine=True)
    for split in ("train", "test"):
        assert read_split(study, study.models[0], split).activations.shape[1:] == (2, 32)
    options = folder_preset(tmp_path, random_model("mamba", READ_ONLY["mamba"]))  # with activations that are there already
    study = open_study(options, check_machine=True)
    with pytest.raises(ValueError, match="can be read but not steered"):
        run_sweep(study, study.models[0])


@pytest.mark.parametrize(
    "template, place",
    [
        ("{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}", "system role"),
        ("{% for turn in messages if turn.role == 'user' %}<user>{{ turn.content }}{% endfor %}", "user's turn"),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}<user>{{ messages[0].content }}", "user's turn"),
    ],
    ids=["a system role", "left out", "refused"],
)
def test_the_two_system_prompts_reach_the_model_whatever_its_template(tmp_path, template, place):
    "Or the positive and the negative one are the same tokens, and the baseline is no prompt at all."
    options = folder_preset(tmp_path, random_model("llama", FAMILIES["llama"]), chat_template=True)
    (tmp_path / "model/chat_template.jinja").write_text(template)
    study = open_study(options, check_machine=True)
    samples = load_generations(run_sweep(study, study.models[0], 2), steering_plan(study, study.models[0], 2))
    asked = samples[samples.direction == "prompt"]
    assert set(asked.system_place) == {place}
    assert asked[asked.alpha == 1].log_odds.tolist() != asked[asked.alpha == -1].log_odds.tolist()


def test_a_template_that_fails_says_so_before_anything_is_computed(tmp_path):
    options = folder_preset(tmp_path, random_model("llama", FAMILIES["llama"]), chat_template=True)
    (tmp_path / "model/chat_template.jinja").write_text("{{ raise_exception('this model answers no questions') }}")
    with pytest.raises(PresetError, match="one.yaml, model 'local': this model answers no questions"):
        open_study(options, check_machine=True)


def test_a_tokenizers_own_end_token_ends_a_text(tmp_path):
    "A model's generation settings do not always know it; the text would go on behind it."
    model = random_model("llama", FAMILIES["llama"])
    model.generation_config.eos_token_id = None
    study = open_study(folder_preset(tmp_path, model, alphas=[0], max_new_tokens=300))
    samples = load_generations(run_sweep(study, study.models[0]))
    assert samples.tokens.min() < 300  # one token of 259 ends a text


def test_a_finished_sweep_is_read_by_a_model_that_has_been_tried_too(tmp_path, monkeypatch):
    "This family cannot share prompts, which the trial finds out; another process than that of the sweep has to try it as well."
    random = {"model_type": "diffllama", "seed": 0, "config": LLAMA_LIKE}
    values = {"random": random, "blocks": 4, "layers": [1, 2], "steering_layers": [2], "alphas": [-1, 0, 1], "max_new_tokens": 4}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"concept": "empathy", "samples": 2, "models": {"local": values}}))
    study = open_study({"preset": str(tmp_path / "one.yaml"), "runs": str(tmp_path / "runs"), "figures": str(tmp_path / "figures")})
    [local] = study.models
    run_sweep(study, local)
    for measure, kept in {dose_effects: "effects.jsonl", sweep_damage: "damage.jsonl"}.items():
        expected = measure(study, local)
        (study.folder(local) / kept).unlink()
        monkeypatch.setattr(shared_prompts, "_unshared", WeakSet())  # as in a new process
        pd.testing.assert_frame_equal(measure(study, local), expected)
        assert len(shared_prompts._unshared) == 1
