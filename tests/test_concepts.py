"The bundled concepts keep their promises, the code knows none of them, and a broken folder is refused with the file and the line."

import json
import re
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

import empathy_probes
from empathy_probes.machine.concepts import ConceptError, load_concept

CONCEPT = load_concept("empathy")
REGISTER = load_concept("register")
PAIRS = CONCEPT.pairs
SCENARIOS = ["food_delivery", "the_listener", "the_maze", "the_protector", "the_duel"]
BANNED = {  # what no text of a concept may say: its own name, and the instructions that machine-written pairs quote
    "empathy": ["empath", "efficien", "compassion", "instruction", "assistant", "language model", "chatbot", "artificial intelligence"],
    "register": ["formal", "casual", "register", "official language", "assistant", "language model", "chatbot", "artificial intelligence"],
}
LENGTHS = {"empathy": (150, 300), "register": (60, 150)}  # words of a text


@pytest.fixture(params=[CONCEPT, REGISTER], ids=lambda concept: concept.name)
def concept(request):
    return request.param


def texts_of(concept) -> list[str]:
    return [*concept.pairs.positive, *concept.pairs.negative]


def words(text: str) -> list[str]:
    "Lower-cased words, without punctuation."
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def test_empathy_has_ten_pairs_a_scenario_seven_to_train_and_three_to_test():
    assert list(CONCEPT.scenarios) == SCENARIOS
    counts = Counter(zip(PAIRS.scenario, PAIRS.split))
    assert counts == {(scenario, split): n for scenario in SCENARIOS for split, n in [("train", 7), ("test", 3)]}


def test_register_has_twenty_pairs_in_three_scenarios():
    counts = Counter(zip(REGISTER.pairs.scenario, REGISTER.pairs.split))
    train = {("the_notice", "train"): 5, ("the_complaint", "train"): 5, ("the_request", "train"): 4}
    assert counts == train | {(scenario, "test"): 2 for scenario in REGISTER.scenarios}


def test_every_text_has_the_concepts_length(concept):
    shortest, longest = LENGTHS[concept.name]
    lengths = {text[:40]: len(text.split()) for text in texts_of(concept)}
    assert {start: n for start, n in lengths.items() if not shortest <= n <= longest} == {}


@pytest.mark.parametrize("split", ["train", "test"])
def test_length_does_not_tell_the_classes(concept, split):
    chosen = concept.pairs[concept.pairs.split == split]
    positive, negative = (chosen[side].str.split().str.len().mean() for side in ("positive", "negative"))
    assert positive / negative == pytest.approx(1, abs=0.03)


def test_no_two_texts_share_eight_words_in_a_row(concept):
    def runs(text):
        tokens = words(text)
        return {tuple(tokens[i:i + 8]) for i in range(len(tokens) - 7)}

    shared = {" ".join(run) for one, other in combinations(map(runs, texts_of(concept)), 2) for run in one & other}
    assert shared == set()


def test_every_text_begins_in_its_own_way(concept):
    assert len({text[:40] for text in texts_of(concept)}) == len(texts_of(concept)) == 2 * len(concept.pairs)


def test_no_text_names_the_concept_or_its_instruction(concept):
    texts = [*texts_of(concept), *concept.completions.text]
    assert [(term, text[:40]) for term in BANNED[concept.name] for text in texts if term in text.lower()] == []


def test_no_text_speaks_of_being_a_machine(concept):
    assert [text[:40] for text in texts_of(concept) if re.search(r"\b(AI|LLM|GPT)\b|\bas a (bot|machine|model)\b", text)] == []


def test_completions_have_three_scores_and_are_no_pairs(concept):
    scores = {"empathy": {0: 5, 1: 2, 2: 5}, "register": {0: 4, 1: 2, 2: 4}}
    assert Counter(concept.completions.score) == scores[concept.name]
    assert concept.completions.text.is_unique
    assert not set(concept.completions.text) & set(texts_of(concept))


def test_scenarios_are_complete(concept):
    for scenario in concept.scenarios.values():
        assert set(scenario.rubric) == {0, 1, 2}
        assert set(scenario.continuations) == {"positive", "negative"}
        assert scenario.continuations["positive"] != scenario.continuations["negative"]
        assert scenario.prompt.startswith(scenario.objective) and scenario.prompt.endswith("What do you do?")


def test_no_synonym_of_the_ablation_is_a_keyword(concept):
    "Otherwise an ablated text would still hold what was to be removed."
    ablation = concept.lexicon.ablation
    assert len(ablation) == {"empathy": 41, "register": 51}[concept.name]
    inserted = {word for synonyms in ablation.values() for synonym in synonyms for word in [synonym, *words(synonym)]}
    assert inserted & set(ablation) == set()


def test_no_term_counts_for_both_sides(concept):
    lexicon = concept.lexicon
    positive, negative = {*lexicon.positive, *lexicon.score_positive}, {*lexicon.negative, *lexicon.score_negative}
    assert positive and negative
    assert [(one, other) for one in positive for other in negative if one in other or other in one] == []


def test_scorer_counts_the_published_terms():
    lexicon = CONCEPT.lexicon
    assert lexicon.positive == "help support concern care worry feel understand sorry comfort listen".split() + ["reach out"]
    assert lexicon.negative == "objective task goal win complete achieve strategy efficient optimal proceed".split()
    assert lexicon.score_positive == ["well-being", "mental health", "talk", "here for you"]
    assert lexicon.score_negative == ["move", "door"]


def test_the_code_names_no_concept():
    "Apart from the package's own name, only names in the paper's released files may speak of empathy."
    released = {"empathic_text", "non_empathic_text", "empathy_pressure", "empathic", "non_empathic", "empathy_direction_layer_12"}
    found = set()
    for path in Path(empathy_probes.__file__).parent.rglob("*.py"):
        found |= set(re.findall(r"[\w-]*empath[\w-]*", path.read_text(), re.IGNORECASE))
    assert found - {"empathy_probes", "empathy-probes"} <= released
    assert "empathic_text" in found  # the search does find something


def lines_of(folder, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def write_pairs(folder, rows, name: str = "pairs.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_pair(number: int, name: str = "pairs.jsonl", **changes):
    "A fault: fields of the pair on one line of a file are changed."
    def fault(folder):
        rows = lines_of(folder, name)
        rows[number - 1] |= changes
        write_pairs(folder, rows, name)
    return fault


def break_line(name: str, number: int, text: str):
    "A fault: one line of a file is replaced."
    def fault(folder):
        lines = (folder / name).read_text().splitlines()
        lines[number - 1] = text
        (folder / name).write_text("\n".join(lines))
    return fault


def drop_field(folder):
    rows = lines_of(folder, "pairs.jsonl")
    del rows[6]["negative"]
    write_pairs(folder, rows)


def keep_one_test_pair(folder):
    rows = lines_of(folder, "pairs.jsonl")
    tests = [row for row in rows if row["split"] == "test"]
    write_pairs(folder, [row for row in rows if row["split"] == "train"] + tests[:1])


def copy_training_text_to_test(folder):
    rows = lines_of(folder, "pairs.jsonl")
    number = [row["split"] for row in rows].index("test")
    rows[number]["positive"] = "  " + rows[0]["positive"].replace(" ", "\n", 3)  # other white space does not make another text
    write_pairs(folder, rows)


FIRST_TEST = list(PAIRS.split).index("test") + 1
FAULTS = {
    "bad JSON": (break_line("pairs.jsonl", 4, '{"split": "train",'), r"pairs\.jsonl, line 4: not valid JSON"),
    "no object": (break_line("pairs.jsonl", 2, "[1, 2]"), r"pairs\.jsonl, line 2: expected a JSON object, found list"),
    "empty text": (edit_pair(3, positive="  \n "), r"pairs\.jsonl, line 3: the field 'positive' must be a non-empty text"),
    "no text": (edit_pair(3, negative=7), r"pairs\.jsonl, line 3: the field 'negative' must be a non-empty text, not 7"),
    "missing text": (drop_field, r"pairs\.jsonl, line 7: the field 'negative' is missing"),
    "unknown scenario": (edit_pair(9, scenario="the_dual"), r"pairs\.jsonl, line 9: unknown scenario 'the_dual'.*the_duel"),
    "unknown split": (edit_pair(9, split="dev"), r"pairs\.jsonl, line 9: the split must be one of .* not 'dev'"),
    "duplicate": (edit_pair(2, positive=PAIRS.positive[0]), r"pairs\.jsonl, line 2: a duplicate.*pairs\.jsonl, line 1"),
    "both sides alike": (edit_pair(5, positive="same", negative="same"), r"pairs\.jsonl, line 5: a duplicate.*line 5"),
    "test text in train": (copy_training_text_to_test, rf"pairs\.jsonl, line {FIRST_TEST}: a test text that is also a training text.*line 1"),
    "one pair in a split": (keep_one_test_pair, r"pairs\.jsonl: 1 pair\(s\) in the split 'test'.*at least 2"),
    "no pairs": (lambda folder: write_pairs(folder, []), r"pairs\.jsonl: 0 pair\(s\) in the split 'train'"),
    "bad JSON in hard pairs": (break_line("hard_pairs.jsonl", 4, "{"), r"hard_pairs\.jsonl, line 4: not valid JSON"),
    "empty hard text": (edit_pair(3, "hard_pairs.jsonl", positive=""), r"hard_pairs\.jsonl, line 3: the field 'positive' must be a non-empty text"),
    "hard pair's scenario": (edit_pair(3, "hard_pairs.jsonl", scenario="x"), r"hard_pairs\.jsonl, line 3: unknown scenario 'x'"),
    "hard text among the pairs": (edit_pair(6, "hard_pairs.jsonl", negative=PAIRS.negative[0]), r"hard_pairs\.jsonl, line 6: a hard text that is also a training text.*pairs\.jsonl, line 1"),
    "hard text twice": (edit_pair(6, "hard_pairs.jsonl", negative=CONCEPT.hard_pairs.negative[0]), r"hard_pairs\.jsonl, line 6: a duplicate.*hard_pairs\.jsonl, line 1"),
    "hard pair among the pairs": (edit_pair(9, split="hard"), r"[^_]pairs\.jsonl, line 9: the split must be one of"),
    "bad scenario JSON": (break_line("scenarios.json", 3, "oops"), r"scenarios\.json, line 3: not valid JSON"),
    "completion's scenario": (break_line("completions.jsonl", 2, '{"scenario": "x", "text": "t", "score": 1}'), r"completions\.jsonl, line 2: unknown scenario 'x'"),
    "completion's score": (break_line("completions.jsonl", 2, '{"scenario": "the_duel", "text": "t", "score": "2"}'), r"completions\.jsonl, line 2: the score must be a whole number, not '2'"),
    "bad YAML": (lambda folder: (folder / "lexicon.yaml").write_text("ablation:\n  help: [aid\n"), r"lexicon\.yaml, line \d: not valid YAML"),
    "unknown list": (lambda folder: (folder / "lexicon.yaml").write_text("ablation: {}\nneutral: []\n"), r"lexicon\.yaml: expected the lists"),
    "no synonyms": (lambda folder: (folder / "lexicon.yaml").write_text("ablation:\n  help: []\n"), r"lexicon\.yaml: the keyword 'help' needs a list of synonyms"),
    "a list of no texts": (lambda folder: (folder / "lexicon.yaml").write_text("ablation:\n  upon: [on, at]\n"), r"'upon' must list texts, not \[True, 'at'\]; put words such as yes"),
    "an empty list": (lambda folder: (folder / "lexicon.yaml").write_text("ablation: {}\npositive:\n"), r"lexicon\.yaml: 'positive' must list texts, not None"),
    "an ablation without synonyms": (lambda folder: (folder / "lexicon.yaml").write_text("ablation: [upon, shall]\n"), r"lexicon\.yaml: expected the lists"),
    "not UTF-8": (lambda folder: (folder / "pairs.jsonl").write_bytes(b"\xff\xfe"), r"pairs\.jsonl: not UTF-8"),
} | {
    f"no {name}": (lambda folder, name=name: (folder / name).unlink(), rf"{re.escape(name)}: no such file")
    for name in ["pairs.jsonl", "scenarios.json", "completions.jsonl", "lexicon.yaml"]
}


@pytest.mark.parametrize("fault, message", FAULTS.values(), ids=FAULTS)
def test_a_broken_concept_is_refused_with_file_and_line(tmp_path, fault, message):
    folder = tmp_path / "mine"
    shutil.copytree(CONCEPT.folder, folder)
    assert len(load_concept(folder).pairs) == 50
    fault(folder)
    with pytest.raises(ConceptError, match=message):
        load_concept(folder)


def test_a_concept_need_not_have_hard_pairs(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(CONCEPT.folder, folder)
    (folder / "hard_pairs.jsonl").unlink()
    concept = load_concept(folder)
    assert len(concept.hard_pairs) == 0 and list(concept.hard_pairs) == list(concept.pairs)
    assert concept.pairs.equals(PAIRS) and concept.sha256 != CONCEPT.sha256


def test_an_unknown_concept_is_answered_with_what_there_is():
    with pytest.raises(ConceptError, match="neither a concept in the package .*empathy"):
        load_concept("sympathy")
