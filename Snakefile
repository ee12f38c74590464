# Who needs whom. `make reproduce` calls this; `snakemake -n --config preset=mini` shows what is stale and why.
# A job is one papermill run of a section notebook. The results of forward passes are kept in runs/ by their content and
# are no job's output: Snakemake never deletes them, and a job that was interrupted goes on where it stopped.
# On a cluster (profiles/slurm) each steered layer is a job, and every job asks for what its models need.
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from empathy_probes.machine.concepts import concept_files
from empathy_probes.machine.presets import load_preset, select_models
from empathy_probes.machine.released import open_concept
from empathy_probes.machine.resources import extraction_tokens, job_needs, sweep_tokens

PRESET = load_preset(config.get("preset", "mini"))
NAME, MODELS = PRESET.name, list(PRESET.models)
RUNS, FIGURES = f"runs/{NAME}", f"figures/{NAME}"
CONCEPT = config.get("concept") or PRESET.concept
if not CONCEPT:
    sys.exit(f"PRESET={NAME} names no concept: add 'concept:' to it, or say --config concept=released for the paper's released data")
RELEASED = any(spec.released for spec in PRESET.models.values())
SPLIT = config.get("split_layers", False)
THREADS = config["threads"] if "threads" in config else workflow.cores  # of a job that runs a model

# What every section depends on besides its notebook: the library and its data, the preset, and the texts.
LIBRARY = sorted(map(str, [*Path("empathy_probes").glob("*/*.py"), *Path("empathy_probes/data").glob("*.yaml")]))
TEXTS = [str(path) for paths in concept_files(open_concept(CONCEPT).folder).values() for path in paths]
SHARED = [*LIBRARY, PRESET.path, *TEXTS]


def extraction(spec):
    return extraction_tokens(PRESET, open_concept(CONCEPT))


def steering(spec):
    return sweep_tokens(PRESET, spec, open_concept(CONCEPT))


PROBES = expand(f"{RUNS}/{{model}}/32_probe_extraction.ipynb", model=MODELS)
SAMPLES = [
    f"{RUNS}/{model}/34_activation_steering{layer}.ipynb"
    for model, spec in PRESET.models.items()
    for layer in ([f"-{number}" for number in spec.steering_layers] if SPLIT else [""])
]


BETWEEN_MODELS = ["alignment", "figure15"] if len(MODELS) > 1 else []  # a table and a figure that need two models


class Section(NamedTuple):
    after: list[str] = []  # notebooks that must have run before
    tables: list[str] = []  # names of its tables, each a .csv and a .md
    figures: list[str] = []  # names of its figures, each a .csv, a .pdf and a .png
    tokens: object = None  # where the section runs the models itself: the tokens that pass through each of them


SECTIONS = {
    "31_contrastive_dataset": Section([], ["dataset"]),
    "35_scale": Section([], ["costs"], ["scale"], tokens=steering),
    "41_probe_detection": Section(PROBES, ["table1"], ["figure1", "figure2", "figure3"]),
    "42_cross_model": Section(PROBES, [], ["figure4"]),
    "43_behavioral_correlation": Section(PROBES, ["table2"], ["figure5"]),
    "44_steering_results": Section(SAMPLES, ["table3"]),
    "45_asymmetric_steerability": Section(SAMPLES),
    "46_robustness": Section(SAMPLES, ["table4"], ["figure6", "figure7"]),
    "51_detection_steering_gap": Section(SAMPLES, [], ["figure8", "detection_steering"]),
    "52_layers": Section(SAMPLES, [], ["figure9"]),
    "c3_uncertainty": Section(SAMPLES, ["uncertainty", "nulls"], ["figure10", "figure11", "pairs_needed", "agreement_steering"]),
    "c4_words": Section(PROBES, ["words"], ["figure12"]),
    "c5_protocol": Section(PROBES, ["protocol"], ["figure13", "figure14"], tokens=extraction),
    "c6_alignment": Section(PROBES, ["geometry", "agreement", *BETWEEN_MODELS[:1]], BETWEEN_MODELS[1:]),
    "c7_dose": Section(SAMPLES, ["trends", "doses"], ["figure16", "figure17"], tokens=steering),
}
RELEASED_SECTIONS = {
    "c1_released_results": Section([], ["table1", "table2", "table3"], ["figure6", "figure7", "figure8", "figure9"]),
    "c2_claims": Section([], ["claims", "claims_summary"]),
    "c3_uncertainty": Section([], ["uncertainty", "nulls"], ["figure10", "figure11"]),
    "c4_words": Section([], ["words"], ["figure12"]),
}
if RELEASED:
    SECTIONS = RELEASED_SECTIONS


def products(section):
    "The files that a section leaves."
    tables = expand(f"{FIGURES}/{{name}}.{{ending}}", name=section.tables, ending=["csv", "md"])
    figures = expand(f"{FIGURES}/{{name}}.{{ending}}", name=section.figures, ending=["csv", "pdf", "png"])
    return [*tables, *figures]


def chosen(wildcards):
    "What `-p models` says of a job: a model, one of its steered layers, or nothing, which means all models."
    return wildcards.get("model", "") + wildcards.get("layer", "").replace("-", ":")


@cache
def asked(models, tokens):
    "What a job asks for that runs some models, when `tokens(spec)` pass through each."
    specs = select_models(PRESET, models)
    return job_needs(PRESET, specs, [tokens(spec) for spec in specs], config.get("gpu_gib", 80))


def needs(tokens):
    "What the jobs of a rule ask a cluster for. On one machine they ask for nothing."
    if not SPLIT or tokens is None:
        return {}
    resources = {
        "runtime": lambda wildcards, attempt: asked(chosen(wildcards), tokens)["runtime"] * attempt,
        "mem_mb": lambda wildcards: asked(chosen(wildcards), tokens)["mem_mb"],
    }
    if PRESET.device == "cuda":
        resources["gpu"] = lambda wildcards: asked(chosen(wildcards), tokens)["gpu"]
    return resources


# The executed notebook is written among the logs, where it outlives a failure, and copied when it is complete.
RUN = (
    "papermill --log-output --log-level WARNING --no-progress-bar {input[0]} {log} "
    f"-p preset '{config.get('preset', 'mini')}' -p concept '{CONCEPT}' "
    "-p models '{params.models}' && cp {log} {output[0]}"
)


rule all:
    input: expand(f"{RUNS}/{{section}}.ipynb", section=SECTIONS)


rule probe_extraction:
    input: "nbs/sections/32_probe_extraction.ipynb", SHARED
    output: f"{RUNS}/{{model}}/32_probe_extraction.ipynb"
    log: f"{RUNS}/logs/32_probe_extraction-{{model}}.ipynb"
    threads: THREADS
    resources: **needs(extraction)
    params: models=chosen
    shell: RUN


rule activation_steering:
    input: "nbs/sections/34_activation_steering.ipynb", SHARED, f"{RUNS}/{{model}}/32_probe_extraction.ipynb"
    output: f"{RUNS}/{{model}}/34_activation_steering{{layer}}.ipynb"
    log: f"{RUNS}/logs/34_activation_steering-{{model}}{{layer}}.ipynb"
    wildcard_constraints: layer=r"(-\d+)?"
    threads: THREADS
    resources: **needs(steering)
    params: models=chosen
    shell: RUN


for name, section in SECTIONS.items():
    rule:
        name: name[3:]
        input: f"nbs/sections/{name}.ipynb", SHARED, section.after
        output: f"{RUNS}/{name}.ipynb", products(section)
        log: f"{RUNS}/logs/{name}.ipynb"
        threads: THREADS if section.tokens else 1
        resources: **needs(section.tokens)
        params: models=""
        shell: RUN
