"The crossed texts keep the rules that they were written by, and no simple shortcut tells the deed."

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from empathy_probes.method.detection import auroc
from empathy_probes.method.texts import labelled_texts
from empathy_probes.machine.concepts import CROSSED_KINDS, load_concept
from empathy_probes.evidence.crossed import SHORTCUTS, crossed_effects, crossed_texts, shortcut_detectors
from empathy_probes.evidence.words import count_keywords
from test_concepts import BANNED, SCENARIOS, words
from test_hard_pairs import FEELINGS, HARD_TEXTS, KEYWORDS, LEXICON

CONCEPT = load_concept("empathy")
CROSSED, TEXTS = CONCEPT.crossed, crossed_texts(CONCEPT)
DEED = np.tile([1, 1, 0, 0], len(CROSSED))
WARM, PLAIN = ["deed_and_words", "words"], ["deed", "neither"]
FEELINGS_AND_CARE = (*FEELINGS, "sorry", "care", "caring", "feel", "felt", "kind", "gentle")


def warm_words(text):
    "How many words name a feeling or care."
    return sum(word.startswith(FEELINGS_AND_CARE) for word in words(text))


def test_eight_situations_a_scenario_half_by_each_hand():
    assert Counter(CROSSED.scenario) == dict.fromkeys(SCENARIOS, 8)
    assert (CROSSED.groupby(["scenario", "source"]).size() == 4).all() and CROSSED.source.nunique() == 2


def test_lengths():
    lengths = CROSSED[list(CROSSED_KINDS)].map(lambda text: len(text.split()))
    assert lengths.to_numpy().min() >= 150 and lengths.to_numpy().max() <= 250
    assert (lengths.max(axis=1) / lengths.min(axis=1)).max() <= 1.05


def test_the_four_texts_of_a_situation_are_alike_in_form():
    marks = [",", ".", "?", "'\"‘’“”", ":;", "–—-", "!", "\n"]
    for situation in CROSSED[list(CROSSED_KINDS)].to_numpy():
        first_person = [100 * SHORTCUTS["first person"](text)[0] for text in situation]
        assert max(first_person) - min(first_person) <= 1, situation[0][:40]
        for mark in marks:
            counts = [sum(text.count(sign) for sign in mark) for text in situation]
            assert max(counts) - min(counts) <= 2, (situation[0][:40], mark)


@pytest.mark.parametrize("warm, plain", [("deed_and_words", "deed"), ("words", "neither")])
def test_warm_words_stand_where_they_should_and_nowhere_else(warm, plain):
    assert count_keywords(list(CROSSED[warm]), KEYWORDS).min() >= 4
    assert min(map(warm_words, CROSSED[warm])) >= 5
    assert count_keywords(list(CROSSED[plain]), KEYWORDS).max() == 0
    assert max(map(warm_words, CROSSED[plain])) == 0
    terms = LEXICON.positive + LEXICON.score_positive
    assert [text[:40] for text in CROSSED[plain] if any(term in text.lower() for term in terms)] == []


def test_the_deed_changes_neither_the_warm_words_nor_the_ends_of_a_text():
    for helps, goes_on in [("deed_and_words", "words"), ("deed", "neither")]:
        for one, other in zip(CROSSED[helps], CROSSED[goes_on]):
            assert abs(np.diff(count_keywords([one, other], KEYWORDS))[0]) <= 1
            assert words(one)[:20] == words(other)[:20] and words(one)[-20:] == words(other)[-20:]


def test_no_text_shares_eight_words_in_a_row_with_another_situation_or_file():
    def runs(texts):
        return {tuple(tokens[i:i + 8]) for tokens in map(words, texts) for i in range(len(tokens) - 7)}

    others = runs([*HARD_TEXTS, *CONCEPT.pairs.positive, *CONCEPT.pairs.negative, *CONCEPT.completions.text])
    situations = [runs(texts) for texts in CROSSED[list(CROSSED_KINDS)].to_numpy()]
    assert {" ".join(run) for situation in situations for run in situation & others} == set()
    assert {" ".join(run) for one, other in combinations(situations, 2) for run in one & other} == set()


@pytest.mark.parametrize("term", [*BANNED, "task-focus"])
def test_no_text_names_the_concept_or_its_instruction(term):
    assert [text[:40] for text in TEXTS if term in text.lower()] == []
    assert [text[:40] for text in TEXTS if re.search(r"\b(AI|LLM|GPT)\b", text)] == []


DETECTED = shortcut_detectors(*labelled_texts(CONCEPT.pairs, "train"), TEXTS)


@pytest.mark.parametrize("shortcut", DETECTED)
def test_no_shortcut_that_is_learnt_on_the_training_pairs_tells_the_deed(shortcut):
    "Over all texts, and within a situation: there an effect of 0.3 standard deviations is small beside the spread of texts."
    assert 0.4 < auroc(DETECTED[shortcut], DEED) < 0.6
    assert abs(crossed_effects(DETECTED[shortcut]).value[0]) < 0.3
