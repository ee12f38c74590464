"What the notebook's asserts do not show: awkward text, and ablations of one text among many."

import numpy as np
import pytest

from empathy_probes.evidence.words import ablate, ablate_texts, count_keywords, tfidf_scores


@pytest.mark.parametrize(
    "text, count",
    [
        ("care", 1),
        ("CARE, Care; care.", 3),
        ("careful scare carer day-care", 1),
        ("\u201ccare\u201d (care) **care** _care_ care/care", 6),
        ("caré \u00e9care", 0),  # an accented letter is a letter
        ("care2 2care", 0),
        ("well-being well\u2010being well\u2011being wellbeing", 3),
        ("don't don\u2019t", 2),
        ("reach out, reach\n  out, reach-out, reach outside", 2),
        ("", 0),
    ],
)
def test_what_counts_as_a_word(text, count):
    assert count_keywords([text], ["care", "well-being", "don't", "reach out"]).tolist() == [count]


@pytest.mark.parametrize("keyword", ["don't", "don\u2019t", "well-being", "well\u2010being", "well\u2011being"])
def test_typographic_characters_count_as_the_plain_ones_in_text_and_keyword(keyword):
    text = "don't don\u2019t well-being well\u2010being well\u2011being"
    assert count_keywords([text], [keyword]) == (2 if "t" in keyword else 3)


def test_pattern_characters_in_keywords_are_only_characters():
    text, counts = ablate("c++ (sic) c+", {"c++": ["Rust"], "(sic)": ["[sic]"]}, np.random.default_rng(0))
    assert text == "Rust [sic] c+"
    assert counts == {"c++": 1, "(sic)": 1}


def test_a_synonym_is_inserted_as_written():
    text, _ = ablate("a b", {"a": [r"\1 \g<0>"]}, np.random.default_rng(0))
    assert text == r"\1 \g<0> b"


def test_more_than_a_hundred_keywords_are_told_apart():
    replacements = {f"word{number}x": [f"other{number}"] for number in range(150)}
    text, counts = ablate(" ".join(replacements), replacements, np.random.default_rng(0))
    assert text == " ".join(f"other{number}" for number in range(150))
    assert set(counts.values()) == {1} and len(counts) == 150


def test_everything_else_is_left_as_it_was():
    text = "First line.\r\n\r\n\tSecond \u2014 with help\u00a0here,  two spaces. \U0001f642"
    ablated, _ = ablate(text, {"help": ["aid"]}, np.random.default_rng(0))
    assert ablated == text.replace("help", "aid")


def test_a_text_is_ablated_alike_in_any_company():
    replacements = {"help": ["aid", "assist", "back", "serve"]}
    texts = [f"Text {number}: " + "help " * 20 for number in range(10)]
    together, counts = ablate_texts(texts, replacements, seed=3)
    alone = [ablate_texts([text], replacements, seed=3)[0][0] for text in texts]
    assert together == alone
    assert len({text.split(": ")[1] for text in together}) > 1  # different texts draw differently
    assert counts["help"].tolist() == [20] * 10


def test_nothing_to_replace():
    texts, counts = ablate_texts(["help"], {}, seed=0)
    assert texts == ["help"] and counts.shape == (1, 0)
    texts, counts = ablate_texts([], {"help": ["aid"]}, seed=0)
    assert texts == [] and counts.to_numpy().sum() == 0


def test_tfidf_ranks_unseen_texts():
    positive = [f"I stop and listen to what number {number} says." for number in range(10)]
    negative = [f"I run on and collect coin number {number} at once." for number in range(10)]
    scores = tfidf_scores(positive + negative, [1] * 10 + [0] * 10, ["we listen and stop", "we collect and run"])
    assert scores[0] > 0 > scores[1]
