# Who needs whom. `make reproduce` calls this; `snakemake -n --config preset=mini` shows what is stale and why.
# A job is one papermill run of a section notebook. The results of forward passes are kept in runs/ by their content and
# are no job's output: Snakemake never deletes them, and a job that was interrupted goes on where it stopped.
# On a cluster (profiles/slurm) each steered layer is a job, and every job asks for what its models need.
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError

from empathy_probes.machine.parameters import find_study, read_parameters
from empathy_probes.machine.presets import select_models
from empathy_probes.machine.sources import weights_identity
from empathy_probes.machine.store import fingerprint
from empathy_probes.games.plan import played_tokens, read_games, scripted_tokens

PARAMETERS = {"preset": config.get("preset") or "mini", "concept": config.get("concept") or ""}
STUDY = find_study(read_parameters(PARAMETERS))
PRESET, MODELS = STUDY.preset, list(STUDY.preset.models)
RUNS, FIGURES = os.path.relpath(STUDY.runs), os.path.relpath(STUDY.figures)
GAMES = read_games(PRESET) if PRESET.games else None  # a mistake in it is named before anything runs
RELEASED = any(spec.released for spec in STUDY.models)
SPLIT = config.get("split_layers", False)
if SPLIT:  # only what a job asks of a cluster is counted on models, for which PyTorch and transformers are imported: five seconds
    from empathy_probes.machine.resources import extraction_tokens, job_needs, sweep_tokens
THREADS = config["threads"] if "threads" in config else workflow.cores  # of a job that runs a model

# What every section depends on besides its notebook: the library and its data, and the preset, the texts and the weights.
# Those may lie anywhere, and a path with braces cannot be an input of a rule; so a rule has their contents as a parameter.
DATA = Path("empathy_probes/data").rglob("*.yaml")
LIBRARY = sorted(map(str, [*Path("empathy_probes").glob("*/*.py"), *DATA]))
WEIGHTS = [weights_identity(spec) for spec in STUDY.models]
MADE_FROM = fingerprint({"preset": Path(PRESET.path).read_text("utf-8"), "texts": STUDY.concept.files, "weights": WEIGHTS})

# The kernel gives this lock back however a run ends; Snakemake's own one would stay (profiles/default turns it off).
LOCK = FileLock(f"{RUNS}/snakemake.lock")


onstart:  # neither in a dry run nor in a job of a cluster
    Path(RUNS).mkdir(parents=True, exist_ok=True)
    try:
        LOCK.acquire(timeout=0)
    except Timeout:
        raise WorkflowError(f"another run is making the results in {RUNS}: wait for it, or stop it") from None


def extraction(spec):
    return extraction_tokens(PRESET, STUDY.concept)


def steering(spec):
    return sweep_tokens(PRESET, spec, STUDY.concept)


def deciding(spec):
    return scripted_tokens(GAMES)


def playing(spec):
    return played_tokens(GAMES)


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
    "35_scale": Section([], ["costs", "schedule"], ["scale"], tokens=steering),
    "41_probe_detection": Section(PROBES, ["table1"], ["figure1", "figure2", "figure3"]),
    "42_cross_model": Section(PROBES, [], ["figure4"]),
    "43_behavioral_correlation": Section(PROBES, ["table2"], ["figure5"]),
    "44_steering_results": Section(SAMPLES, ["table3"]),
    "45_asymmetric_steerability": Section(SAMPLES),
    "46_robustness": Section(SAMPLES, ["table4"], ["figure6", "figure7"]),
    "51_detection_steering_gap": Section(SAMPLES, [], ["figure8", "detection_steering"]),
    "52_layers": Section(SAMPLES, [], ["figure9"]),
    "c3_uncertainty": Section(SAMPLES, ["uncertainty", "nulls", "choice"], ["figure10", "figure11", "pairs_needed", "agreement_steering"]),
    "c4_words": Section(PROBES, ["words"], ["figure12"]),
    "c5_protocol": Section(PROBES, ["protocol"], ["figure13", "figure14"], tokens=extraction),
    "c6_alignment": Section(PROBES, ["geometry", "agreement", *BETWEEN_MODELS[:1]], BETWEEN_MODELS[1:]),
    "c7_dose": Section(SAMPLES, ["trends", "slopes", "doses", "answers"], ["figure16", "figure17"], tokens=steering),
    "c8_size": Section([*SAMPLES, "figures/published/size.csv"], ["size"], ["figure18"]),
    "c9_deed": Section(PROBES, ["crossed", "hands", "surprise"], ["figure19"], tokens=extraction),
    "c10_damage": Section(SAMPLES, ["damage"], ["figure20"], tokens=steering),
    "c11_mediation": Section(PROBES, ["mediation"], ["figure21"], tokens=extraction),  # it takes fewer
    "c12_forks": Section(SAMPLES, ["forks", "fork_slopes", "fork_changes"], ["figure22", "figure23"], tokens=deciding),
    "c13_play": Section(
        SAMPLES,
        ["competence", "games", "play_rates", "deed_slopes"],
        ["figure24", "figure25", "figure26", "figure27"],
        tokens=playing,
    ),
}
RELEASED_SECTIONS = {
    "c1_released_results": Section([], ["table1", "table2", "table3"], ["figure6", "figure7", "figure8", "figure9"]),
    "c2_claims": Section([], ["claims", "claims_summary"]),
    "c3_uncertainty": Section([], ["uncertainty", "nulls", "choice"], ["figure10", "figure11"]),
    "c4_words": Section([], ["words"], ["figure12"]),
    "c8_size": Section([], ["size"], ["figure18"]),
}
if RELEASED:
    SECTIONS = RELEASED_SECTIONS
else:
    if STUDY.concept.crossed.empty:
        del SECTIONS["c9_deed"]
    decided = sum(bool(scenario.continuations) for scenario in STUDY.concept.scenarios.values())
    if decided < 2 or not STUDY.concept.prompts:
        del SECTIONS["c11_mediation"]
    if not GAMES:
        del SECTIONS["c12_forks"], SECTIONS["c13_play"]


def products(name, section):
    "The files that a section leaves: tables, figures, and the copy of itself that readers see."
    tables = expand(f"{FIGURES}/{{name}}.{{ending}}", name=section.tables, ending=["csv", "md"])
    figures = expand(f"{FIGURES}/{{name}}.{{ending}}", name=section.figures, ending=["csv", "pdf", "png"])
    return [*tables, *figures, f"{FIGURES}/sections/{name}.ipynb"]


def missing(name, section):
    """
    Those that are not there. They alone are outputs of a rule: Snakemake deletes the outputs of a job before it runs, and
    whoever interrupts it would be left without the figures that were there before.
    """
    return [path for path in products(name, section) if not Path(path).exists()]


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


# The executed notebook is written among the logs, where it outlives a failure, and copied when it is complete:
# once for readers (figures/<preset>/sections), once as it is.
# Papermill takes a value after -r as it stands, and guesses what the one after -p is.
RUN = (
    "papermill --log-output --log-level WARNING --no-progress-bar {input[0]:q} {log:q} "
    "-r preset {params.preset:q} -r concept {params.concept:q} -r models '{params.models}' "
    "&& python scripts/reading_copy.py {log:q} {params.sections:q} && cp {log:q} {output[0]:q}"
)
# In place of the list of all files that a section depends on; on a cluster the list also says what a job asks for.
MESSAGE = None if SPLIT else "{input[0]}, executed in {log}"


def parameters(models):
    "The parameters of a rule. They are functions because Snakemake takes braces in a text for wildcards."
    return {
        "preset": lambda wildcards: PARAMETERS["preset"],
        "concept": lambda wildcards: PARAMETERS["concept"] or PRESET.concept,
        "models": models,
        "sections": lambda wildcards: f"{FIGURES}/sections",
        "made_from": MADE_FROM,
    }


rule all:
    input: expand(f"{RUNS}/{{section}}.ipynb", section=SECTIONS), [missing(*named) for named in SECTIONS.items()]


rule probe_extraction:
    input: "nbs/sections/32_probe_extraction.ipynb", LIBRARY
    output: f"{RUNS}/{{model}}/32_probe_extraction.ipynb"
    log: f"{RUNS}/logs/32_probe_extraction-{{model}}.ipynb"
    threads: THREADS
    resources: **needs(extraction)
    params: **parameters(chosen)
    message: MESSAGE
    shell: RUN


rule activation_steering:
    input: "nbs/sections/34_activation_steering.ipynb", LIBRARY, f"{RUNS}/{{model}}/32_probe_extraction.ipynb"
    output: f"{RUNS}/{{model}}/34_activation_steering{{layer}}.ipynb"
    log: f"{RUNS}/logs/34_activation_steering-{{model}}{{layer}}.ipynb"
    wildcard_constraints: layer=r"(-\d+)?"
    threads: THREADS
    resources: **needs(steering)
    params: **parameters(chosen)
    message: MESSAGE
    shell: RUN


for name, section in SECTIONS.items():
    rule:
        name: name.partition("_")[2]
        input: f"nbs/sections/{name}.ipynb", LIBRARY, section.after
        output: f"{RUNS}/{name}.ipynb", missing(name, section)
        log: f"{RUNS}/logs/{name}.ipynb"
        threads: THREADS if section.tokens else 1
        resources: **needs(section.tokens)
        params: **parameters("")
        message: MESSAGE
        shell: RUN
