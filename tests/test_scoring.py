"Scoring of steered samples: what the notebook's small examples do not show."
import numpy as np
import pandas as pd
import pytest

from empathy_probes.method.scoring import DEFINITIONS, SETTING, change_from_zero, count_terms, outcomes, rates, score_samples
from empathy_probes.method.scoring import success
from empathy_probes.method.texts import Lexicon

LEXICON = Lexicon(ablation={}, positive=["help"], negative=["goal"])


def sweep(positive_share: dict[float, float], n: int = 10, **columns) -> pd.DataFrame:
    "A scored setting in which a given share of each alpha's samples uses the concept's language."
    rows = [
        dict(model="m", layer=1, scenario="s", alpha=alpha, sample=i, text="I will help." if i < share * n else "The goal.")
        for alpha, share in positive_share.items()
        for i in range(n)
    ]
    return score_samples(pd.DataFrame(rows).assign(**columns), LEXICON)


@pytest.mark.parametrize("text", ["", " \n", "help", "é", "\U0001f642", "help " * 10_000])
def test_any_text_gets_defined_scores(text):
    scored = score_samples(pd.DataFrame({"text": [text]}), LEXICON)
    numbers = scored.drop(columns="text").astype(float)
    assert np.isfinite(numbers.to_numpy()).all()
    assert scored.word_score.between(0, 1).all()


@pytest.mark.parametrize("term", ["don't", "don\u2019t", "well-being", "well\u2011being"])
def test_typographic_characters_count_as_the_plain_ones(term):
    "A model that writes them would seem to use none of the listed terms."
    plain, typographic = "I don't see well-being.", "I don\u2019t see well\u2011being, or well\u2010being."
    assert [count_terms(plain, [term]), count_terms(typographic, [term])] == [1, 1]


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_term_is_refused(blank):
    "The empty string is in every text, so every text would count one term more."
    with pytest.raises(ValueError, match="a term is blank"):
        count_terms("I will help.", ["help", blank])


def test_equal_shares_of_unequal_counts_are_ties():
    few = sweep({0.0: 0.6, 1.0: 0.6}, n=5)
    many = sweep({-1.0: 0.6}, n=10)
    conditions = rates(pd.concat([few, many]))
    assert change_from_zero(conditions, "rate").tolist() == [0, 0, 0]
    assert not outcomes(conditions, "ties_miss").success.any()


def test_change_keeps_index_and_order_whatever_the_rows():
    conditions = rates(sweep({-1.0: 0.1, 0.0: 0.5, 1.0: 0.9}))
    shuffled = conditions.iloc[[2, 0, 1]]
    change = change_from_zero(shuffled, "rate")
    assert change.index.tolist() == [2, 0, 1]
    assert change.round(9).tolist() == [0.4, -0.4, 0]


def test_each_setting_has_its_own_baseline():
    low = sweep({0.0: 0.2, 1.0: 0.4})
    high = sweep({0.0: 0.8, 1.0: 0.4}, layer=2)
    judged = outcomes(rates(pd.concat([low, high])), "ties_miss")
    assert judged.set_index("layer").success.to_dict() == {1: True, 2: False}


def test_a_sweep_with_a_further_column_is_split_by_it():
    real = sweep({0.0: 0.2, 1.0: 0.9}, direction="probe")
    random = sweep({0.0: 0.2, 1.0: 0.2}, direction="random")
    setting = [*SETTING, "direction"]
    table = success(rates(pd.concat([real, random]), setting), "strict", setting).set_index("direction")
    # the texts are too short to be coherent, so that strict success is out of reach
    assert table.success_rate.to_dict() == {"probe": 0, "random": 0}
    table = success(rates(pd.concat([real, random]), setting), "ties_miss", setting).set_index("direction")
    assert table.success_rate.to_dict() == {"probe": 1, "random": 0}


def test_a_setting_without_alpha_zero_is_named():
    conditions = rates(sweep({-1.0: 0.1, 1.0: 0.9}))
    with pytest.raises(ValueError, match="alpha 0.*'layer': 1"):
        success(conditions)


def test_a_stricter_definition_never_finds_more():
    rng = np.random.default_rng(0)
    alphas = [-3.0, -1.0, 0.0, 1.0, 3.0]
    for _ in range(20):
        conditions = rates(sweep(dict(zip(alphas, rng.integers(0, 5, len(alphas)) / 4)), n=4))
        conditions["coherence"] = rng.uniform(size=len(conditions))
        found = [success(conditions, definition).success_rate[0] for definition in DEFINITIONS]
        assert found == sorted(found, reverse=True)
