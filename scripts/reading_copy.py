"Leave the copy of an executed section that readers see: `python scripts/reading_copy.py EXECUTED.ipynb FOLDER`."
import sys

from empathy_probes.machine.executed import reading_copy

if __name__ == "__main__":
    reading_copy(*sys.argv[1:])
