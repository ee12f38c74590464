"The bundled concepts keep their promises, the code knows none of them, and a broken folder is refused with the file and the line."

import json
import re
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

import empathy_probes
from empathy_probes.machine.concepts import ConceptError, concept_files, load_concept

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
        assert scenario.prompt == f"{scenario.objective}\n\n{scenario.pressure}\n\nWhat do you do?"


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


def keep_pairs(keep):
    "A fault: only some of the pairs are kept."
    def fault(folder):
        write_pairs(folder, [row for row in lines_of(folder, "pairs.jsonl") if keep(row)])
    return fault


def keep_completions(*scores):
    "A fault: one completion for each of these scores."
    def fault(folder):
        rows = [{"scenario": "the_duel", "text": f"Text {number}.", "score": score} for number, score in enumerate(scores)]
        write_pairs(folder, rows, "completions.jsonl")
    return fault


def edit_scenario(**changes):
    "A fault: fields of the first scenario are changed."
    def fault(folder):
        scenarios = json.loads((folder / "scenarios.json").read_text())
        scenarios[0] |= changes
        (folder / "scenarios.json").write_text(json.dumps(scenarios))
    return fault


def replace_in(name: str, old: str, new: str):
    "A fault: the first place of a text in a file is changed."
    def fault(folder):
        content = (folder / name).read_text()
        assert old in content
        (folder / name).write_text(content.replace(old, new, 1))
    return fault


def too_many_scenarios(folder):
    "Ten pairs of four scenarios: a test of three of them has no room for each scenario."
    scenarios = json.loads((folder / "scenarios.json").read_text())
    (folder / "scenarios.json").write_text(json.dumps(scenarios[:4]))
    (folder / "hard_pairs.jsonl").unlink()
    rows = [row for row in lines_of(folder, "pairs.jsonl") if row["scenario"] != scenarios[4]["id"]]
    train = [row for scenario in scenarios[:4] for row in rows if row["scenario"] == scenario["id"] and row["split"] == "train"]
    write_pairs(folder, [row for place, row in enumerate(train) if place % 7 < 2] + [row for row in rows if row["split"] == "test"][:2])


def write_lexicon(text: str):
    "A fault: the word lists are others."
    return lambda folder: (folder / "lexicon.yaml").write_text(text)


def copy_training_text_to_test(folder):
    rows = lines_of(folder, "pairs.jsonl")
    number = [row["split"] for row in rows].index("test")
    rows[number]["positive"] = "  " + rows[0]["positive"].replace(" ", "\n", 3)  # other white space does not make another text
    write_pairs(folder, rows)


FIRST_TEST = list(PAIRS.split).index("test") + 1
FAULTS = {
    "bad JSON": (break_line("pairs.jsonl", 4, '{"split": "train",'), r"pairs\.jsonl, line 4: not valid JSON"),
    "no object": (break_line("pairs.jsonl", 2, "[1, 2]"), r"pairs\.jsonl, line 2: expected a JSON object, found \[1, 2\]"),
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
    "completion's score": (break_line("completions.jsonl", 2, '{"scenario": "the_duel", "text": "t", "score": "2"}'), r"completions\.jsonl, line 2: the score must be one of the ratings \(0, 1, 2\), not '2'"),
    "bad YAML": (lambda folder: (folder / "lexicon.yaml").write_text("ablation:\n  help: [aid\n"), r"lexicon\.yaml, line \d: not valid YAML"),
    "unknown list": (lambda folder: (folder / "lexicon.yaml").write_text("ablation: {}\nneutral: []\n"), r"lexicon\.yaml: expected the lists"),
    "no synonyms": (lambda folder: (folder / "lexicon.yaml").write_text("ablation:\n  help: []\n"), r"lexicon\.yaml: the keyword 'help' needs a list of synonyms"),
    "a list of no texts": (lambda folder: (folder / "lexicon.yaml").write_text("ablation:\n  upon: [on, at]\n"), r"'upon' must list texts, not \[True, 'at'\]; put words such as yes"),
    "an empty list": (lambda folder: (folder / "lexicon.yaml").write_text("ablation: {}\npositive:\n"), r"lexicon\.yaml: 'positive' must list texts, not None"),
    "an ablation without synonyms": (lambda folder: (folder / "lexicon.yaml").write_text("ablation: [upon, shall]\n"), r"lexicon\.yaml: expected the lists"),
    "score -1": (keep_completions(0, 1, -1, 2), r"completions\.jsonl, line 3: the score must be one of the ratings \(0, 1, 2\), not -1"),
    "score 3": (keep_completions(0, 1, 2, 3), r"completions\.jsonl, line 4: the score must be one of the ratings .* not 3"),
    "score true": (keep_completions(0, True, 2), r"completions\.jsonl, line 2: the score must be one of the ratings .* not True"),
    "no completions": (keep_completions(), r"completions\.jsonl: the scores are \[\]; section 4\.3 needs at least 3"),
    "two completions": (keep_completions(0, 2), r"completions\.jsonl: the scores are \[0, 2\]; section 4\.3 needs at least 3"),
    "no completion rated 2": (keep_completions(0, 1, 1), r"completions\.jsonl: the scores are .* one rated 0 and one rated 2"),
    "no completion rated 0": (keep_completions(1, 2, 2), r"completions\.jsonl: the scores are .* one rated 0 and one rated 2"),
    "one training scenario": (keep_pairs(lambda row: row["split"] == "test" or row["scenario"] == "the_maze"), r"pairs\.jsonl: all training pairs are of the scenario 'the_maze'; a layer"),
    "a scenario in the test alone": (keep_pairs(lambda row: row["split"] == "test" or row["scenario"] != "the_maze"), r"pairs\.jsonl: 0 training pair\(s\) of the scenario 'the_maze'; at least 2"),
    "a scenario without pairs": (keep_pairs(lambda row: row["scenario"] != "the_maze"), r"pairs\.jsonl: 0 training pair\(s\) of the scenario 'the_maze'"),
    "many scenarios and few pairs": (too_many_scenarios, r"pairs\.jsonl: 10 pairs of 4 scenarios; 30% of the pairs must have room for every scenario"),
    "blank term": (write_lexicon("ablation: {}\npositive: [help, '']\n"), r"lexicon\.yaml: the term '' of 'positive' is empty"),
    "term with a blank": (write_lexicon("ablation: {}\nnegative: [goal, 'task ']\n"), r"lexicon\.yaml: the term 'task ' of 'negative' .* blanks at its ends"),
    "score term with a blank": (write_lexicon("ablation: {}\nscore_positive: [' talk']\n"), r"lexicon\.yaml: the term ' talk' of 'score_positive'"),
    "blank score term": (write_lexicon("ablation: {}\nscore_negative: [' ']\n"), r"lexicon\.yaml: the term ' ' of 'score_negative'"),
    "blank keyword": (write_lexicon("ablation: {'': [aid]}\n"), r"lexicon\.yaml: the term '' of ''"),
    "keyword with a blank": (write_lexicon("ablation: {'help ': [aid]}\n"), r"lexicon\.yaml: the term 'help ' of 'help '"),
    "blank synonym": (write_lexicon("ablation: {help: [aid, ' ']}\n"), r"lexicon\.yaml: the term ' ' of 'help'"),
    "keyword twice": (write_lexicon("ablation:\n  help: [aid]\n  care: [tend]\n  help: [hand]\n"), r"lexicon\.yaml, line 4: not valid YAML \(the key 'help' is given twice, first in line 2"),
    "prompt twice": (lambda folder: (folder / "prompts.yaml").write_text("positive: a\nnegative: b\npositive: c\n"), r"prompts\.yaml, line 3: .*the key 'positive' is given twice, first in line 1"),
    "control character in YAML": (write_lexicon("ablation: {}\npositive: [\a]\n"), r"lexicon\.yaml: not valid YAML \(unacceptable character"),
    "scenario's key twice": (replace_in("scenarios.json", '"title":', '"title": "The First", "title":'), r"scenarios\.json: the key 'title' is given twice, as 'The First' and as"),
    "pair's key twice": (replace_in("pairs.jsonl", '"split": "train"', '"split": "test", "split": "train"'), r"pairs\.jsonl, line 1: the key 'split' is given twice, as 'test' and as 'train'"),
    "completion's key twice": (break_line("completions.jsonl", 2, '{"scenario": "the_duel", "text": "t", "score": 2, "score": 0}'), r"completions\.jsonl, line 2: the key 'score' is given twice, as '2' and as '0'"),
    "field under two names": (break_line("completions.jsonl", 2, '{"scenario": "the_maze", "scenario_id": "the_duel", "text": "t", "score": 2}'), r"completions\.jsonl, line 2: 'scenario_id' and 'scenario' are one field"),
    "null": (break_line("pairs.jsonl", 2, "null"), r"pairs\.jsonl, line 2: expected a JSON object, found null"),
    "empty object": (break_line("pairs.jsonl", 2, "{}"), r"pairs\.jsonl, line 2: the field 'split' is missing"),
    "scenario's field misspelt": (edit_scenario(qestion="Was tust du?"), r"scenarios\.json, scenario 1: unknown field 'qestion'; known are"),
    "blank question": (edit_scenario(question=" "), r"scenarios\.json, scenario 1: the field 'question' must be a non-empty text"),
    "rubric of another rating": (edit_scenario(rubric={"3": "More."}), r"scenarios\.json, scenario 1: rubric must hold texts under \['0', '1', '2'\]"),
    "rubric in a list": (edit_scenario(rubric=["None.", "Some."]), r"scenarios\.json, scenario 1: rubric must hold texts under"),
    "one continuation": (edit_scenario(continuations={"positive": "I go."}), r"scenarios\.json, scenario 1: continuations needs both"),
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


WITHOUT_BLANKS = {
    "Chinese": "我放下手里的活，坐在她身边，一直等到她把话说完，然后问她想让我做些什么。",
    "Japanese": "私は仕事の手を止めて、彼女が話し終えるまでそばに座り、何をしてほしいかを尋ねた。",
    "Thai": "ฉันหยุดทำงานและนั่งข้างเธอจนกระทั่งเธอพูดจบแล้วถามว่าเธออยากให้ฉันทำอะไร",
}
WITH_BLANKS = {
    "English": "I stop, sit down beside her, and wait. " * 8 + "On the wall somebody wrote 我听见了你的话.",
    "German": "Die Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetzgebung kümmert mich nicht, ich bleibe. " * 3,
    "Arabic": "توقفت عن العمل وجلست بجانبها حتى انتهت من الكلام ثم سألتها ماذا تريد مني أن أفعل. " * 3,
    "Korean": "나는 하던 일을 멈추고 그녀가 말을 마칠 때까지 옆에 앉아 있었고, 무엇을 해 주면 좋을지 물었다. " * 3,
    "Hindi": "मैंने काम रोक दिया और जब तक उसने बात पूरी नहीं की तब तक उसके पास बैठा रहा। " * 3,
}


@pytest.mark.parametrize("text", WITHOUT_BLANKS.values(), ids=WITHOUT_BLANKS)
@pytest.mark.parametrize("name", ["pairs.jsonl", "completions.jsonl", "scenarios.json"])
def test_a_text_without_blanks_between_words_is_refused(tmp_path, name, text):
    "No keyword would be found in it, and no sample in its language would ever be coherent."
    edits = {"pairs.jsonl": edit_pair(7, negative=text), "completions.jsonl": edit_pair(7, name="completions.jsonl", text=text), "scenarios.json": edit_scenario(objective=text)}
    folder = shutil.copytree(CONCEPT.folder, tmp_path / "mine")
    edits[name](folder)
    place = "scenario 1" if name == "scenarios.json" else "line 7"
    with pytest.raises(ConceptError, match=rf"{re.escape(name)}, {place}: the field '\w+' is written without blanks \(.*keywords and coherence mean nothing here"):
        load_concept(folder)


@pytest.mark.parametrize("text", WITH_BLANKS.values(), ids=WITH_BLANKS)
def test_a_text_with_blanks_is_taken_in_any_language(tmp_path, text):
    folder = shutil.copytree(CONCEPT.folder, tmp_path / "mine")
    edit_pair(7, negative=text)(folder)
    assert load_concept(folder).pairs.negative[6] == text


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    folder = shutil.copytree(CONCEPT.folder, tmp_path / "mine")
    text = "I stop.\u2028I sit down.\u2029I wait.\x85I listen."
    rows = lines_of(folder, "pairs.jsonl")
    rows[6]["negative"] = text
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert load_concept(folder).pairs.negative[6] == text


def test_a_scenario_may_end_in_a_question_of_its_own(tmp_path):
    folder = shutil.copytree(CONCEPT.folder, tmp_path / "mine")
    edit_scenario(question="Was tust du?")(folder)
    first, second = list(load_concept(folder).scenarios.values())[:2]
    assert first.prompt.endswith("\n\nWas tust du?") and second.prompt.endswith("\n\nWhat do you do?")


def test_every_file_is_among_the_concepts_files_and_an_edit_shows(tmp_path):
    "Snakemake runs again what a file of `concept_files` has changed for, and the manifest records each file's sum."
    folder = shutil.copytree(CONCEPT.folder, tmp_path / "mine")
    before = load_concept(folder)
    assert sorted(before.files) == sorted(path.name for path in folder.iterdir()) == sorted(path.name for paths in concept_files(folder).values() for path in paths)
    for name in before.files:
        (folder / name).write_text((folder / name).read_text() + "\n")
        after = load_concept(folder)
        assert [changed for changed in before.files if after.files[changed] != before.files[changed]] == [name]
        before = after


def test_a_folder_may_not_have_a_name_of_the_packages(tmp_path, monkeypatch):
    "Without this the package's concept is read, and not the folder beside the preset or in the working directory."
    folder = shutil.copytree(REGISTER.folder, tmp_path / "empathy")
    monkeypatch.chdir(tmp_path)
    for concept in ("empathy", "./empathy", folder):
        with pytest.raises(ConceptError, match=rf"{folder}: 'empathy' is one of the package's concepts; give the folder another name"):
            load_concept(concept)
    assert load_concept("register").folder == REGISTER.folder == load_concept(REGISTER.folder).folder



def test_a_folder_may_lie_in_a_path_with_blanks(tmp_path):
    folder = shutil.copytree(CONCEPT.folder, tmp_path / "my own study" / "mine")
    assert load_concept(folder).name == "mine"


def test_an_unknown_concept_is_answered_with_what_there_is():
    with pytest.raises(ConceptError, match="neither a concept in the package .*empathy"):
        load_concept("sympathy")
