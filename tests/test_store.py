"Disks without room and damaged lines: nothing is lost, and nothing goes unnoticed."

import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from empathy_probes.evidence.drawing import save_figure
from empathy_probes.machine.store import DiskFull, append_line, name_full_disk, read_lines, replace_file, whole_file
from empathy_probes.machine.sweep import generate_missing
from empathy_probes.machine.tensor_store import add_to_store, load_probes, load_store, save_probes

LONG = {"text": "x" * 40_000}
LITTLE = 8_000  # bytes that a file may have


@contextmanager
def little_room(size: int = LITTLE):
    "Files may grow to so many bytes: a write comes back short, and the next one fails, as on a full disk."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_without_room_is_an_error_that_names_the_file_and_the_free_space(tmp_path):
    path = tmp_path / "generations.jsonl"
    append_line(path, {"text": "kept"})
    with little_room(), pytest.raises(DiskFull, match=r"generations\.jsonl: could not be written whole: .* MB are free in "):
        append_line(path, LONG)
    assert read_lines(path) == [{"text": "kept"}]
    append_line(path, LONG)
    assert read_lines(path) == [{"text": "kept"}, LONG]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_finds_out_late_is_full_too(tmp_path, monkeypatch, number):
    "Network disks say that there is no room only when the data must be on the disk."

    def full(*arguments):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"b\.jsonl: could not be written whole"):
        append_line(tmp_path / "b.jsonl", {})
    with pytest.raises(DiskFull, match=r"a\.txt: could not be written whole"), whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), whole_file(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("write", [whole_file, replace_file])
def test_a_file_without_room_stays_as_it_was(tmp_path, write):
    "What was written of the new one is removed, or it would fill the disk."
    path = tmp_path / "table.csv"
    path.write_text("old")
    with little_room(), pytest.raises(DiskFull, match=r"table\.csv: could not be written whole"), write(path) as partial:
        partial.write_text(LONG["text"])
    assert path.read_text() == "old"
    assert not partial.exists()


def test_tensors_without_room_stay_as_they_were(tmp_path):
    store, probes = tmp_path / "activations.safetensors", tmp_path / "probes.safetensors"
    small, large = np.ones((1, 4), dtype=np.float32), np.ones((1, 40_000), dtype=np.float32)
    add_to_store(store, {"a": torch.ones(1, 3, 2)})
    save_probes(probes, {"mean_difference": small}, np.ones(1), {"model": "toy"})
    with little_room():
        with pytest.raises(DiskFull, match=r"activations\.safetensors: could not be written whole"):
            add_to_store(store, {"b": torch.ones(1, 3, 40_000)})
        with pytest.raises(DiskFull, match=r"probes\.safetensors: could not be written whole"):
            save_probes(probes, {"mean_difference": large}, np.ones(1), {"model": "toy"})
    assert list(load_store(store)) == ["a"]
    np.testing.assert_array_equal(load_probes(probes, {"model": "toy"})[0]["mean_difference"], small)


def test_safetensors_own_error_is_a_full_disk_too(tmp_path, llama):
    "A model that is converted is written by transformers; the error tells the system's number in its text only."
    with little_room(), pytest.raises(DiskFull, match=r"converted: could not be written whole: File too large"), name_full_disk(tmp_path / "converted"):
        llama.save_pretrained(tmp_path)


@pytest.mark.parametrize("ending", ["pdf", "png", "csv"])
def test_a_figure_without_room_stays_as_it_was(tmp_path, ending):
    figure = Figure()
    figure.subplots().plot(np.random.default_rng(0).random(2000))  # tens of thousands of bytes in each file
    data = pd.DataFrame({"value": np.random.default_rng(0).random(20_000)})
    save_figure(figure, data[:10], tmp_path, "figure1")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    sizes = {"pdf": LITTLE, "png": len(before["figure1.pdf"]), "csv": max(map(len, before.values()))}
    with little_room(sizes[ending]), pytest.raises(DiskFull, match=rf"figure1\.{ending}: could not be written whole"):
        save_figure(figure, data, tmp_path, "figure1")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


IN_LITTLE_ROOM = """
import resource, sys, torch
torch.set_num_threads(1)  # as in conftest: on what a line was made stands in it
sys.path.insert(0, {tests!r})
from test_sweep import SWEEP
from empathy_probes.machine.sweep import generate_missing
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, hard))
generate_missing(SWEEP, {folder!r})
"""


def test_a_sweep_without_room_ends_with_an_error_and_goes_on_to_the_same_file(tmp_path):
    from test_sweep import SWEEP

    unbroken = generate_missing(SWEEP, tmp_path / "unbroken").read_bytes()
    folder = tmp_path / "full"
    script = IN_LITTLE_ROOM.format(tests=os.path.dirname(__file__), size=len(unbroken) // 2, folder=str(folder))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    path = folder / "generations.jsonl"
    assert run.returncode == 1, run.stderr
    assert f"DiskFull: [Errno {errno.EFBIG}] {path}: could not be written whole" in run.stderr
    assert 0 < len(read_lines(path)) < unbroken.count(b"\n")
    generate_missing(SWEEP, folder)
    assert path.read_bytes() == unbroken


@pytest.mark.parametrize(
    "line, what",
    [
        ("null", "expected an object in braces, found null"),
        ("[1, 2]", r"expected an object in braces, found \[1, 2\]"),
        ("17", "expected an object in braces, found 17"),
        ('"text"', 'expected an object in braces, found "text"'),
        ("{}", "the object lacks fingerprint, samples"),
        ('{"fingerprint": "0"', "Expecting"),
        ("", "Expecting value"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, what):
    path = tmp_path / "generations.jsonl"
    path.write_text('{"fingerprint": "1", "samples": []}\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"generations\.jsonl, line 2: damaged \({what}.*\); delete this line"):
        read_lines(path, ["fingerprint", "samples"])


def test_other_ends_of_lines_are_a_part_of_the_text(tmp_path):
    "Models write them, and JSON lines end with a line feed only."
    path = tmp_path / "generations.jsonl"
    rows = [{"text": f"one{end}two"} for end in ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\r\n", "\n")]
    for row in rows:
        append_line(path, row)
    assert read_lines(path) == rows
