"Is a sweep that was split into jobs, one of them cancelled, the same as an unbroken one? Arguments: the `runs` folders of the two."

import sys
from pathlib import Path

from empathy_probes.machine.store import read_lines

unbroken, split = (Path(folder) / "models" for folder in sys.argv[1:])
for path in sorted(unbroken.glob("*/generations.jsonl")):
    model = path.parent.name
    expected, found = read_lines(path), read_lines(split / model / path.name)
    names = [line["fingerprint"] for line in found]
    assert len(names) == len(set(names)), f"{model}: a condition was written twice"
    # The split run has the baselines of section C7 as well.
    lines = {line["fingerprint"]: line for line in found}
    for line in expected:
        assert line["fingerprint"] in lines, f"{model}: {line['layer']}, {line['scenario']}, {line['direction']}, {line['alpha']} is missing"
        assert line["samples"] == lines[line["fingerprint"]]["samples"], f"{model}: other texts at {line['fingerprint']}"
    print(f"{model}: all {len(expected)} conditions of the unbroken run, with the same fingerprints and texts, each once")
