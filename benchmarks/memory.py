"""Peak memory of the preset `paper` by model and stage, at full size, beside 24 and 80 GB.

python benchmarks/memory.py
No GPU and no weights are needed: the chapter on memory (nbs/machine) explains how. Writes figures/paper/memory.csv; a minute.
"""
import pandas as pd

from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.memory import model_memory
from empathy_probes.machine.parameters import project_root
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.store import whole_file

if __name__ == "__main__":
    paper, concept = load_preset("paper"), load_concept("empathy")
    table = pd.concat([model_memory(paper, key, concept) for key in paper.models], ignore_index=True)
    with whole_file(project_root() / "figures/paper/memory.csv") as partial:
        table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    print(table.round(2).to_string(index=False))
