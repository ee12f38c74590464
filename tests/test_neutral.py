"The neutral texts and questions have nothing to do with a concept, and a liking for a word is no knowledge."

from collections import Counter

import pytest

from empathy_probes.machine.concepts import load_concept
from empathy_probes.evidence.damage import read_neutral
from empathy_probes.evidence.words import count_keywords

NEUTRAL = read_neutral()
ASKED = [" ".join(question.values()) for question in NEUTRAL.questions]


def test_there_are_forty_texts_and_sixty_questions_and_none_twice():
    assert len(set(NEUTRAL.texts)) == 40 and len({question["question"] for question in NEUTRAL.questions}) == 60
    assert {len(text.split()) for text in NEUTRAL.texts} <= set(range(40, 61))


@pytest.mark.parametrize("text", [*NEUTRAL.texts, *ASKED], ids=lambda text: text[:30])
def test_no_text_has_a_term_of_the_concept(text):
    lexicon = load_concept("empathy").lexicon
    terms = lexicon.positive + lexicon.negative + lexicon.score_positive + lexicon.score_negative
    assert [term for term in terms if term in text.lower()] == []
    assert count_keywords([text], list(lexicon.ablation)) == [0]


def test_the_right_answer_of_a_question_is_the_wrong_one_of_its_neighbour():
    for first, second in zip(NEUTRAL.questions[::2], NEUTRAL.questions[1::2]):
        assert (first["right"], first["wrong"]) == (second["wrong"], second["right"])
    right, wrong = (Counter(question[side] for question in NEUTRAL.questions) for side in ("right", "wrong"))
    assert right == wrong
