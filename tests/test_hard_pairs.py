"The hard pairs keep the rules that they were written by, and words alone do not solve them."

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from empathy_probes.method.detection import auroc
from empathy_probes.method.texts import labelled_texts
from empathy_probes.machine.concepts import load_concept
from empathy_probes.evidence.words import count_keywords, tfidf_scores
from test_concepts import BANNED, SCENARIOS, words

CONCEPT = load_concept("empathy")
HARD, LEXICON = CONCEPT.hard_pairs, CONCEPT.lexicon
HARD_TEXTS, HARD_LABELS = labelled_texts(HARD, "hard")
OTHERS = [*CONCEPT.pairs.positive, *CONCEPT.pairs.negative, *CONCEPT.completions.text]
KEYWORDS = list(LEXICON.ablation)
EVERYDAY = {"back", "see", "chat"}  # synonyms of keywords that are also the words for a direction, for reading and for a channel
FEELINGS = tuple("""
    afraid fear fright scare anxi nervous panic terr dread sad tear cry cries weep wept grief griev sorrow mourn lonel alone
    glad happ joy delight proud pride love loving dear darling sweetheart warm tender pity pitied mercy miser unhapp
    angr anger fury furious hate hatred shame asham guilt regret despair hopeless relie grateful thank calm brave courage
    heartbr heartf upset distress suffer ache mood emotion moved touched hug kiss bless pray
""".split())


def test_six_pairs_a_scenario_and_no_other_split():
    assert Counter(HARD.scenario) == dict.fromkeys(SCENARIOS, 6)
    assert set(HARD.split) == {"hard"} and set(HARD.source) == {"empathy_probes"}


def test_every_text_has_100_to_220_words():
    lengths = {text[:40]: len(text.split()) for text in HARD_TEXTS}
    assert {start: n for start, n in lengths.items() if not 100 <= n <= 220} == {}


def test_length_tells_neither_the_sides_of_a_pair_nor_the_classes():
    positive, negative = (HARD[side].str.split().str.len() for side in ("positive", "negative"))
    assert (positive / negative).between(1 / 1.1, 1.1).all()
    assert positive.mean() / negative.mean() == pytest.approx(1, abs=0.03)
    assert 0.4 <= auroc(np.array([*positive, *negative]), HARD_LABELS) <= 0.6


@pytest.mark.parametrize("term", LEXICON.positive + LEXICON.score_positive)
def test_no_positive_text_holds_a_term_of_the_score(term):
    assert [text[:40] for text in HARD.positive if term in text.lower()] == []


def test_no_positive_text_holds_a_keyword_or_a_synonym():
    synonyms = {synonym for listed in LEXICON.ablation.values() for synonym in listed} - EVERYDAY
    counts = count_keywords(list(HARD.positive), [*KEYWORDS, *synonyms])
    assert HARD.positive[counts > 0].str[:40].tolist() == []


def test_no_positive_text_names_a_feeling():
    named = {(text[:40], word) for text in HARD.positive for word in words(text) if word.startswith(FEELINGS)}
    assert named == set()


def test_every_negative_text_is_full_of_keywords():
    assert count_keywords(list(HARD.negative), KEYWORDS).min() >= 5


def test_both_sides_of_a_pair_are_of_one_event():
    "Each pair has a proper name that stands in both of its texts and in no other pair."
    names = [set(re.findall(r"\b[A-Z]\w{2,}", p)) & set(re.findall(r"\b[A-Z]\w{2,}", n)) for p, n in zip(HARD.positive, HARD.negative)]
    shared = Counter(name for pair in names for name in pair)
    assert [sorted(pair) for pair in names if not any(shared[name] == 1 for name in pair)] == []


def test_no_text_shares_eight_words_in_a_row_with_another():
    def runs(text):
        tokens = words(text)
        return {tuple(tokens[i:i + 8]) for i in range(len(tokens) - 7)}

    hard, others = [runs(text) for text in HARD_TEXTS], set().union(*map(runs, OTHERS))
    shared = {" ".join(run) for one, other in combinations(hard, 2) for run in one & other}
    assert shared | {" ".join(run) for one in hard for run in one & others} == set()


def test_every_text_begins_in_its_own_way():
    starts = [text[:40] for text in [*HARD_TEXTS, *OTHERS]]
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("term", BANNED)
def test_no_text_names_the_concept_or_its_instruction(term):
    assert [text[:40] for text in HARD_TEXTS if term in text.lower()] == []


def test_no_text_speaks_of_being_a_machine():
    assert [text[:40] for text in HARD_TEXTS if re.search(r"\b(AI|LLM|GPT)\b|\bas an? (bot|machine|model|AI)\b", text)] == []


def test_the_keyword_count_points_the_wrong_way():
    assert auroc(count_keywords(HARD_TEXTS, KEYWORDS), HARD_LABELS) <= 0.3


@pytest.mark.parametrize("split", ["train", "test"])
def test_ordinary_words_do_not_tell_the_classes(split):
    "Learnt on either split: near chance, so that a probe below it cannot be explained by ordinary words either."
    texts, labels = labelled_texts(CONCEPT.pairs, split)
    assert 0.25 <= auroc(tfidf_scores(texts, labels, HARD_TEXTS), HARD_LABELS) <= 0.6
