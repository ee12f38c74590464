"The released data: downloaded from a server on this machine, tampered with, unreachable, or in a folder that is not quite them."
import dataclasses
import hashlib
import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.released import ReleasedDataError, check_released, fetch_released, open_concept, release
from empathy_probes.machine.released import released_sha256
from empathy_probes.machine.study import open_study
from empathy_probes.evidence.published import released_cosines
from empathy_probes.evidence.released_results import RELEASED_FILES
from empathy_probes.machine import released

FILES = {"data/a.json": b"[1, 2]", "results/b.npy": b"\x93NUMPY"}
SCRIPT = b"def cases():\n    cases = [{'place': 'inn', 'points': 2}]  # no file of the repository\n    return cases\n"
EXTRACT = '{"scenario_id": "inn", "score": 2}\n'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    "A small release on a server; the folder it serves, and the paths asked for."
    root, asked = tmp_path / "served", []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    for name, content in {f"abc1234/{name}": content for name, content in FILES.items()}.items() | {("def5678/src/cases.py", SCRIPT)}:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    extract = {"commit": "def5678", "source": "src/cases.py", "name": "cases", "fields": {"scenario_id": "place", "score": "points"}}
    registry = release() | {
        "commit": "abc1234",
        "url": f"http://127.0.0.1:{httpd.server_port}/{{commit}}/{{path}}",
        "files": {name: sha256(content) for name, content in FILES.items()},
        "extracts": {"cases.jsonl": extract | {"sha256": sha256(EXTRACT.encode())}},
    }
    monkeypatch.setattr(released, "release", lambda: registry)
    monkeypatch.setattr(released, "cache_folder", lambda: tmp_path / "cache")
    yield root, asked, httpd
    httpd.shutdown()
    httpd.server_close()


def test_every_file_is_downloaded_once_and_is_what_was_pinned(server):
    _, asked, _ = server
    folder = fetch_released()
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"} == FILES | {
        "cases.jsonl": EXTRACT.encode(),
        "src/cases.py": SCRIPT,
    }
    assert sorted(asked) == ["/abc1234/data/a.json", "/abc1234/results/b.npy", "/def5678/src/cases.py"]
    assert fetch_released() == folder == check_released(folder)
    assert len(asked) == 3


@pytest.mark.parametrize("name", ["abc1234/data/a.json", "def5678/src/cases.py"])
def test_a_file_with_another_checksum_is_never_used(server, name):
    root, _, _ = server
    (root / name).write_bytes(SCRIPT.replace(b"2", b"1") if name.endswith(".py") else b"[1, 3]")
    message = "cases.jsonl: what http.*/def5678/src/cases.py assigns to cases is not what was released" if name.endswith(".py") else r"a.json could not be had from http.*/abc1234/data/a.json: .*hash.*PUBLISHED="
    with pytest.raises(ReleasedDataError, match=message):
        fetch_released()
    assert not (released.cache_folder() / "released-abc1234" / ("cases.jsonl" if name.endswith(".py") else "data/a.json")).exists()


def test_a_cache_that_was_tampered_with_is_fetched_again(server):
    folder = fetch_released()
    (folder / "data/a.json").write_bytes(b"[]")
    (folder / "cases.jsonl").write_text("")
    assert check_released(fetch_released()) == folder


@pytest.mark.parametrize("way", ["no server", "no file"])
def test_without_the_network_there_is_an_error_and_no_other_data(server, way):
    root, _, httpd = server
    if way == "no server":
        httpd.shutdown()
        httpd.server_close()
    else:
        (root / "abc1234/data/a.json").unlink()
    for use in (lambda: open_concept("released"), lambda: open_study({"preset": "published"})):
        with pytest.raises(ReleasedDataError, match=r"a.json could not be had from http://127.*/abc1234/data/a.json: .*name it: make reproduce PUBLISHED="):
            use()


def test_the_network_is_not_asked_on_a_machine_that_lacks_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(released, "fetch_released", None)
    with pytest.raises(RuntimeError, match="sees no CUDA device"):
        open_study({"preset": "paper"}, check_machine=True)


def test_all_files_that_are_read_are_pinned():
    pinned = released_sha256()
    assert set(RELEASED_FILES.values()) <= set(pinned)
    theirs = load_preset("published").models
    assert {pattern.format(layer=layer) for key, pattern in release()["probes"].items() for layer in theirs[key].layers} <= set(pinned)
    assert all(len(digits) == 64 for digits in pinned.values())


def test_the_named_folder_is_the_release(released_folder):
    concept = open_concept(released_folder)
    assert concept.name == "released-3b88ecb"
    assert (concept.pairs.split == "train").sum() == 35 and len(concept.completions) == 12
    assert len(concept.lexicon.ablation) == 41
    assert concept.lexicon.positive == load_concept("empathy").lexicon.positive


def test_a_changed_text_and_a_missing_file_are_both_named(released_folder, tmp_path):
    copy = shutil.copytree(released_folder, tmp_path / "copy", copy_function=shutil.copyfile)
    pairs = copy / "data/contrastive_pairs/test_pairs.jsonl"
    pairs.write_text(pairs.read_text().replace(" the ", " a ", 1))
    (copy / "completions.jsonl").unlink()
    with pytest.raises(ReleasedDataError) as caught:
        open_concept(copy)
    assert "test_pairs.jsonl is another file (SHA-256" in str(caught.value) and "completions.jsonl is missing" in str(caught.value)
    assert "train_pairs.jsonl" not in str(caught.value)


def test_the_extracts_come_out_of_scripts_to_the_byte(released_folder, tmp_path, monkeypatch):
    "The lists stand in scripts that are no part of this project, so scripts with the same lists are written here and served."
    extracts = release()["extracts"]
    rows = [json.loads(line) for line in (released_folder / "completions.jsonl").read_text().splitlines()]
    theirs = {ours: name for ours, name in extracts["completions.jsonl"]["fields"].items()}
    lists = {
        "completions.jsonl": [{theirs[key]: value for key, value in row.items()} | {"more": None} for row in rows],
        "ablation_lexicon.json": json.loads((released_folder / "ablation_lexicon.json").read_text()),
    }
    for name, extract in extracts.items():
        script = tmp_path / extract["source"]
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"class Anything:\n    def method(self):\n        {extract['name']} = {lists[name]!r}\n")
        monkeypatch.setattr(released, "_download", lambda url, path, sha256, script=script: script)
        released._fetch_extract("", tmp_path, name, extract)
        assert (tmp_path / name).read_bytes() == (released_folder / name).read_bytes()


@pytest.mark.parametrize("key", ["phi-3-mini-4k", "qwen2.5-7b", "dolphin-llama-3.1-8b"])
def test_each_released_probe_is_met_at_its_own_block(released_folder, key):
    "Phi-3's layer l is block l, the others' block l-1: under the other convention nothing, or a neighbour, would be compared."
    spec = load_preset("paper").models[key]
    pattern = release()["probes"][key]
    probes = np.stack([np.load(released_folder / pattern.format(layer=layer), allow_pickle=False) for layer in spec.layers]).astype(float)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    np.testing.assert_allclose(released_cosines(released_folder, spec, probes), 1, atol=1e-6)
    np.testing.assert_allclose(released_cosines(released_folder, spec, -probes), -1, atol=1e-6)
    moved = dataclasses.replace(spec, layers=[layer - 1 for layer in spec.layers], layer_convention="block")
    expected = 1 if spec.layer_convention == "hidden_state" else np.nan
    np.testing.assert_allclose(released_cosines(released_folder, moved, probes), expected, atol=1e-6)
