"Loading: a model that is spread by accelerate, one that cannot be loaded, and the real SmolLM2 against plain transformers."

import importlib.util
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from empathy_probes.method.activations import POOLINGS, extract, extract_batches, pool_tokens
from empathy_probes.method.detection import auroc
from empathy_probes.method.directions import fit_layers, project
from empathy_probes.method.residual_stream import input_device
from empathy_probes.method.texts import labelled_texts
from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.models import give_back, load_model, load_tokenizer, shared_model
from empathy_probes.machine.presets import ModelSpec, PresetError, load_preset
from empathy_probes.machine.resources import ResourceError
from empathy_probes.machine.sources import WeightsError
from empathy_probes.machine.weights import byte_tokenizer, empty_model, loaded_bytes, random_model
from empathy_probes.machine import models

SMOKE = load_preset("smoke")
TINY = SMOKE.models["tiny-llama"]


def test_a_chat_template_that_does_not_exist_is_not_made_up():
    with pytest.raises(PresetError, match="'tiny-llama': chat_template is true, but its tokenizer has none"):
        load_model(replace(TINY, chat_template=True))


def test_a_model_loads_through_accelerate(tmp_path, llama):
    "`device_map: auto` spreads over GPUs; for the CPU there is nothing to spread over."
    llama.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path), device_map="auto")
    model, _ = load_model(spec)
    assert input_device(model) == torch.device("cpu")
    assert torch.equal(model.lm_head.weight, llama.lm_head.weight)


def test_a_model_that_is_only_released_data_cannot_be_loaded():
    for spec in load_preset("published").models.values():
        with pytest.raises(PresetError, match=f"'{spec.key}' has no weights here"):
            load_model(spec)


def every_pooling(model, tokenizer, texts: list[str], layers: list[int]) -> torch.Tensor:
    "Activations of texts in one batch [text, layer, pooling, width]."
    [(order, values)] = extract_batches(model, tokenizer, texts, layers)
    return values[np.argsort(order)]


def test_smollm2_reads_alike_alone_and_padded_on_either_side(smollm2):
    model, tokenizer = smollm2
    texts = ["I stop and listen.", "The door is three cells off, and I have not looked at it since the first message came.", "Go."]
    layers = [0, 11, 19, 28]
    tokenizer = type(tokenizer).from_pretrained(tokenizer.name_or_path, padding_side="left")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert batch["attention_mask"][2, 0] == 0
    with torch.inference_mode():
        left = model(**batch, output_hidden_states=True).hidden_states
    right = every_pooling(model, tokenizer, texts, layers)
    alone = torch.cat([every_pooling(model, tokenizer, [text], layers) for text in texts])
    scale = alone.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(right / scale, alone / scale, rtol=0, atol=1e-4)
    for number, pooling in enumerate(POOLINGS):
        padded_left = torch.stack([pool_tokens(left[layer + 1], batch["attention_mask"], pooling) for layer in layers], dim=1)
        torch.testing.assert_close(padded_left / scale[:, :, number], alone[:, :, number] / scale[:, :, number], rtol=0, atol=1e-4)


def test_smollm2_detects_as_a_plain_computation_with_transformers_does(smollm2):
    "A wrong layer, a wrong token or shuffled rows would give other projections; ours may differ by rounding alone."
    model, tokenizer = smollm2
    pairs = load_concept("empathy").pairs
    few = pairs.groupby(["split", "scenario"]).head(1)
    layers = [11, 19]
    texts = {split: labelled_texts(few, split)[0] for split in ("train", "test")}
    labels = labelled_texts(few, "test")[1]

    def plain(text):
        ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            states = model(**ids, output_hidden_states=True).hidden_states
        return np.stack([states[layer + 1][0, 1:].double().mean(dim=0).numpy() for layer in layers])

    train, test = (np.stack([plain(text) for text in texts[split]]) for split in ("train", "test"))
    difference = train[:5].mean(axis=0) - train[5:].mean(axis=0)
    expected = np.einsum("tlw,lw->tl", test, difference / np.linalg.norm(difference, axis=-1, keepdims=True))

    ours_train, ours_test = (extract(model, tokenizer, texts[split], layers, "mean_without_first", max_tokens=64) for split in ("train", "test"))
    ours = project(ours_test, fit_layers(ours_train))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.ptp(expected))
    for column in range(len(layers)):
        assert auroc(ours[:, column], labels) == roc_auc_score(labels, expected[:, column])


def test_cuda_is_set_before_a_model_runs(gpu, monkeypatch):
    "cuDNN would make a plan for every number of keys, and each step of writing has another one."
    gpu(24)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *options: module)
    torch.backends.cuda.enable_cudnn_sdp(True)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    load_model(TINY, "cuda")
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_pytorchs_own_wherever_a_family_has_it(name):
    model, _ = load_model(replace(TINY, random={"model_type": name, "config": FAMILIES[name]}, blocks=4))
    capped = getattr(model.config, "attn_logit_softcapping", None)  # which PyTorch's own leaves out
    expected = "sdpa" if model._supports_sdpa and not capped else "eager"
    assert model.config._attn_implementation == expected
    assert (expected == "eager") == (name in ("bloom", "gemma2", "gpt_oss"))


def saved(folder, name: str, **sizes) -> ModelSpec:
    "A random model of a family, in a folder."
    random_model(name, FAMILIES[name] | sizes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(folder), dtype="float16")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("asked", ["eager", "flash_attention_2", "kernels-community/flash-attn"])
def test_a_folder_does_not_choose_the_attention(tmp_path, key, asked):
    "Nor may it have a package loaded, or code from the hub."
    spec = saved(tmp_path, "llama")
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {key: asked}))
    assert load_model(spec)[0].config._attn_implementation == "sdpa"
    assert empty_model(spec).config._attn_implementation == "sdpa"


PACKINGS = pytest.mark.parametrize("packing", ["load_in_4bit", "load_in_8bit"])
needs_bitsandbytes = pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="needs bitsandbytes: pip install -e '.[cuda]' (it runs on a CPU, too)")


@needs_bitsandbytes
@PACKINGS
@pytest.mark.parametrize("name, width", [("gpt2", "n_embd"), ("qwen2", "hidden_size"), ("mixtral", "hidden_size")])
def test_packed_weights_take_what_was_told_before(tmp_path, packing, name, width):
    "gpt2 has matrices of its own kind, and mixtral's experts are not packed."
    spec = replace(saved(tmp_path, name, **{width: 64}), **{packing: True})
    model, _ = load_model(spec)
    scales = [weight.quant_state.absmax if hasattr(weight, "quant_state") else getattr(weight, "SCB", None) for weight in model.parameters()]
    needed = model.get_memory_footprint() + sum(scale.nbytes for scale in scales if scale is not None)
    assert loaded_bytes(spec, empty_model(spec)) == pytest.approx(needed, rel=0.001)


@needs_bitsandbytes
@PACKINGS
def test_packed_weights_of_another_shape_are_refused(tmp_path, packing):
    spec = saved(tmp_path, "llama", hidden_size=64)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name][:16].clone()}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=rf"'local': weights do not fit: {name} is \(16, 64\), and by config.json \(64, 64\)"):
        load_model(replace(spec, **{packing: True}))


@needs_bitsandbytes
@PACKINGS
def test_a_family_that_cannot_be_packed_is_not_called_packed(tmp_path, packing):
    with pytest.raises(PresetError, match=f"'local' has no matrices that bitsandbytes can pack; take {packing} away"):
        load_model(replace(saved(tmp_path, "falcon"), **{packing: True}))


@needs_bitsandbytes
def test_what_is_packed_in_its_files_is_not_packed_again(tmp_path):
    "transformers would keep the format of the files, which may be another one of 4 bits."
    model, tokenizer = load_model(replace(saved(tmp_path / "plain", "llama", hidden_size=64), load_in_4bit=True))
    model.save_pretrained(tmp_path / "packed")
    tokenizer.save_pretrained(tmp_path / "packed")
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path / "packed"), dtype="float16")
    assert load_model(spec)[0].get_memory_footprint() == model.get_memory_footprint()
    with pytest.raises(PresetError, match="'local' is packed already in its files; take load_in_4bit away"):
        load_model(replace(spec, load_in_4bit=True))


def test_a_model_is_loaded_once_and_given_back_before_the_next_one(monkeypatch):
    loaded, load = [], models.load_model

    def watched(spec, device):
        assert not loaded or loaded[-1]() is None, "the memory of the model before is still held"
        model, tokenizer = load(spec, device)
        loaded.append(weakref.ref(model))
        return model, tokenizer

    monkeypatch.setattr(models, "load_model", watched)
    give_back()
    for spec in [TINY, TINY, SMOKE.models["tiny-gpt2"], SMOKE.models["tiny-gpt2"], TINY]:
        model, _ = shared_model(spec)
        assert model.config.model_type == spec.random["model_type"]
        del model
    assert len(loaded) == 3
    give_back()
    assert loaded[-1]() is None


def test_a_tokenizer_is_kept_until_its_folder_changes(tmp_path):
    random_model("llama", FAMILIES["llama"]).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path))
    first = load_tokenizer(spec)
    assert load_tokenizer(spec) is first
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert load_tokenizer(spec).chat_template and not first.chat_template


def test_a_tokenizer_without_tokens_for_padding_and_end_pads_with_any(tmp_path):
    random_model("llama", FAMILIES["llama"]).save_pretrained(tmp_path)
    bare = byte_tokenizer()
    bare.pad_token = bare.eos_token = None
    bare.save_pretrained(tmp_path)
    model, tokenizer = load_model(ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path)))
    texts = ["One text.", "Another one, which is longer."]
    together = extract(model, tokenizer, texts, [0])
    np.testing.assert_allclose(together, np.concatenate([extract(model, tokenizer, [text], [0]) for text in texts]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_blocks_beside_the_gpus_are_refused(gpu, monkeypatch, tmp_path, llama, place):
    "`device_map: auto` puts what no GPU has room for elsewhere, and a sweep would take days."
    gpu(24, 24)
    llama.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)

    def spread(source, **options):
        assert options["device_map"] == "auto"
        llama.hf_device_map = {"model.layers.0": 0, "model.layers.1": place}
        return llama

    monkeypatch.setattr(models, "load_fitting", spread)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path), device_map="auto")
    with pytest.raises(ResourceError, match="'local': the GPUs have no room for all of its blocks"):
        load_model(spec, "cuda")
    del llama.hf_device_map


def test_a_models_own_attention_keeps_its_soft_cap():
    "PyTorch's own leaves it out without a word."
    entry = {"model_type": "gemma2", "config": FAMILIES["gemma2"] | {"attn_logit_softcapping": 0.05}}
    model, tokenizer = load_model(replace(TINY, random=entry, blocks=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
        ids = torch.tensor([tokenizer("You are at the well. What do you do?")["input_ids"]])
        found = model(ids).logits
        model.set_attn_implementation("sdpa")
        without = model(ids).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(found, model(ids).logits)
    assert (found - without).abs().max() > 0.1 * found.std()
