# Who needs whom. `make reproduce` calls this; `snakemake -n --config preset=mini` shows what is stale and why.
# A job is one papermill run of a section notebook. The results of forward passes are kept in runs/ by their content and
# are no job's output: Snakemake never deletes them, and a job that was interrupted goes on where it stopped.
import sys
from pathlib import Path

from empathy_probes.concepts import concept_files
from empathy_probes.models import load_preset
from empathy_probes.published import open_concept

PRESET = load_preset(config.get("preset", "mini"))
NAME, MODELS = PRESET.name, list(PRESET.models)
RUNS, FIGURES = f"runs/{NAME}", f"figures/{NAME}"
CODE = [*map(str, sorted([*Path("empathy_probes").glob("[a-z]*.py"), *Path("empathy_probes/data").glob("*.yaml")])), PRESET.path]
CONCEPT = config.get("concept") or PRESET.concept
if not CONCEPT:
    sys.exit(f"PRESET={NAME} names no concept: add 'concept:' to it, or say -p concept=released for the paper's released data")
TEXTS = [str(path) for paths in concept_files(open_concept(CONCEPT).folder).values() for path in paths]
RELEASED = any(spec.released for spec in PRESET.models.values())


def notebook(section):
    "What every section depends on: its notebook first, then the library and its data, the preset and the texts."
    return [f"nbs/sections/{section}.ipynb", *CODE, *TEXTS]


def tables(*names):
    return [f"{FIGURES}/{name}.{ending}" for name in names for ending in ("csv", "md")]


def figures(*names):
    return [f"{FIGURES}/{name}.{ending}" for name in names for ending in ("csv", "pdf", "png")]


# The executed notebook is written among the logs, where it outlives a failure, and copied when it is complete.
RUN = (
    "papermill --log-output --log-level WARNING --no-progress-bar {input[0]} {log} "
    f"-p preset '{config.get('preset', 'mini')}' -p concept '{CONCEPT}' "
)
DONE = " && cp {log} {output[0]}"


SECTIONS = [
    "31_contrastive_dataset",
    "41_probe_detection",
    "42_cross_model",
    "43_behavioral_correlation",
    "44_steering_results",
    "45_asymmetric_steerability",
    "46_robustness",
    "51_detection_steering_gap",
    "52_layers",
    "62_uncertainty",
    "63_words",
    "64_protocol",
    "65_alignment",
    "66_dose",
]
RELEASED_SECTIONS = ["60_released_results", "61_claims", "62_uncertainty", "63_words"]


rule all:
    input: expand(f"{RUNS}/{{section}}.ipynb", section=RELEASED_SECTIONS if RELEASED else SECTIONS)


rule contrastive_dataset:
    input: notebook("31_contrastive_dataset")
    output: f"{RUNS}/31_contrastive_dataset.ipynb", tables("dataset")
    log: f"{RUNS}/logs/31_contrastive_dataset.ipynb"
    shell: RUN + DONE


rule probe_extraction:
    input: notebook("32_probe_extraction")
    output: f"{RUNS}/{{model}}/32_probe_extraction.ipynb"
    log: f"{RUNS}/logs/32_probe_extraction-{{model}}.ipynb"
    threads: workflow.cores
    shell: RUN + "-p models {wildcards.model}" + DONE


PROBES = expand(f"{RUNS}/{{model}}/32_probe_extraction.ipynb", model=MODELS)


rule probe_detection:
    input: notebook("41_probe_detection"), PROBES
    output: f"{RUNS}/41_probe_detection.ipynb", tables("table1"), figures("figure1", "figure2", "figure3")
    log: f"{RUNS}/logs/41_probe_detection.ipynb"
    shell: RUN + DONE


rule cross_model:
    input: notebook("42_cross_model"), PROBES
    output: f"{RUNS}/42_cross_model.ipynb", figures("figure4")
    log: f"{RUNS}/logs/42_cross_model.ipynb"
    shell: RUN + DONE


rule behavioral_correlation:
    input: notebook("43_behavioral_correlation"), PROBES
    output: f"{RUNS}/43_behavioral_correlation.ipynb", tables("table2"), figures("figure5")
    log: f"{RUNS}/logs/43_behavioral_correlation.ipynb"
    shell: RUN + DONE


rule activation_steering:
    input: notebook("34_activation_steering"), f"{RUNS}/{{model}}/32_probe_extraction.ipynb"
    output: f"{RUNS}/{{model}}/34_activation_steering.ipynb"
    log: f"{RUNS}/logs/34_activation_steering-{{model}}.ipynb"
    threads: workflow.cores
    shell: RUN + "-p models {wildcards.model}" + DONE


SAMPLES = expand(f"{RUNS}/{{model}}/34_activation_steering.ipynb", model=MODELS)


rule steering_results:
    input: notebook("44_steering_results"), SAMPLES
    output: f"{RUNS}/44_steering_results.ipynb", tables("table3")
    log: f"{RUNS}/logs/44_steering_results.ipynb"
    shell: RUN + DONE


rule asymmetric_steerability:
    input: notebook("45_asymmetric_steerability"), SAMPLES
    output: f"{RUNS}/45_asymmetric_steerability.ipynb"
    log: f"{RUNS}/logs/45_asymmetric_steerability.ipynb"
    shell: RUN + DONE


rule robustness:
    input: notebook("46_robustness"), SAMPLES
    output: f"{RUNS}/46_robustness.ipynb", tables("table4"), figures("figure6", "figure7")
    log: f"{RUNS}/logs/46_robustness.ipynb"
    shell: RUN + DONE


rule detection_steering_gap:
    input: notebook("51_detection_steering_gap"), SAMPLES
    output: f"{RUNS}/51_detection_steering_gap.ipynb", figures("figure8", "detection_steering")
    log: f"{RUNS}/logs/51_detection_steering_gap.ipynb"
    shell: RUN + DONE


rule layers:
    input: notebook("52_layers"), SAMPLES
    output: f"{RUNS}/52_layers.ipynb", figures("figure9")
    log: f"{RUNS}/logs/52_layers.ipynb"
    shell: RUN + DONE


# Section 6, the companion's own. Of released models there are neither activations nor samples to make.
rule uncertainty:
    input: notebook("62_uncertainty"), [] if RELEASED else SAMPLES
    output: f"{RUNS}/62_uncertainty.ipynb", tables("uncertainty", "nulls"), figures("figure10", "figure11", *([] if RELEASED else ["pairs_needed", "agreement_steering"]))
    log: f"{RUNS}/logs/62_uncertainty.ipynb"
    shell: RUN + DONE


rule words:
    input: notebook("63_words"), [] if RELEASED else PROBES
    output: f"{RUNS}/63_words.ipynb", tables("words"), figures("figure12")
    log: f"{RUNS}/logs/63_words.ipynb"
    shell: RUN + DONE


rule protocol:
    input: notebook("64_protocol"), PROBES
    output: f"{RUNS}/64_protocol.ipynb", tables("protocol"), figures("figure13", "figure14")
    log: f"{RUNS}/logs/64_protocol.ipynb"
    threads: workflow.cores
    shell: RUN + DONE


rule alignment:
    input: notebook("65_alignment"), PROBES
    output: f"{RUNS}/65_alignment.ipynb", tables("geometry", "agreement", *(["alignment"] if len(MODELS) > 1 else [])), figures(*(["figure15"] if len(MODELS) > 1 else []))
    log: f"{RUNS}/logs/65_alignment.ipynb"
    shell: RUN + DONE


rule dose:
    input: notebook("66_dose"), SAMPLES
    output: f"{RUNS}/66_dose.ipynb", tables("trends", "doses"), figures("figure16", "figure17")
    log: f"{RUNS}/logs/66_dose.ipynb"
    threads: workflow.cores
    shell: RUN + DONE


if RELEASED:

    rule released_results:
        input: notebook("60_released_results")
        output: f"{RUNS}/60_released_results.ipynb", tables("table1", "table2", "table3"), figures("figure6", "figure7", "figure8", "figure9")
        log: f"{RUNS}/logs/60_released_results.ipynb"
        shell: RUN + DONE


    rule claims:
        input: notebook("61_claims")
        output: f"{RUNS}/61_claims.ipynb", tables("claims", "claims_summary")
        log: f"{RUNS}/logs/61_claims.ipynb"
        shell: RUN + DONE
