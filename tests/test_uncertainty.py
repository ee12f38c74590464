"Nulls and intervals: calibration and determinism."

import numpy as np

from empathy_probes.method.detection import auroc, separation
from empathy_probes.evidence.uncertainty import bootstrap_interval, random_direction_null, rank_p, shuffled_label_null


def test_rank_p_is_calibrated_where_there_is_nothing_to_find():
    labels = np.repeat([1, 0], 15)
    p_values = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        positive, negative = rng.standard_normal((2, 35, 16))
        test = rng.standard_normal((30, 16))
        value = auroc(test @ (positive - negative).mean(axis=0), labels)
        null = shuffled_label_null(positive, negative, test, labels, trials=99, seed=seed)
        p_values.append(rank_p(value, null))
    assert 0.4 < np.mean(p_values) < 0.6
    assert 0.01 <= np.mean(np.array(p_values) <= 0.1) <= 0.2


def test_nulls_do_not_depend_on_the_scale_of_the_activations():
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((2, 10, 8))
    test = rng.standard_normal((6, 8))
    labels = np.repeat([1, 0], 3)
    shuffled = shuffled_label_null(*pairs, test, labels)
    np.testing.assert_array_equal(shuffled_label_null(*pairs * 1024, test * 1024, labels), shuffled)
    random = random_direction_null(test, labels)
    np.testing.assert_array_equal(random_direction_null(test * 1024, labels), random)


def test_identical_pairs_give_a_null_at_chance():
    same = np.ones((4, 3))
    null = shuffled_label_null(same, same, np.eye(3)[[0, 1]], [1, 0], trials=5)
    assert null.tolist() == [0.5] * 5


def test_bootstrap_keeps_pairs_together_and_scenarios_balanced():
    scenarios = np.repeat(["a", "b", "c"], [4, 3, 2])
    positive = np.arange(9.0)
    seen = []

    def record(scores, labels):
        drawn = scores[labels == 1].astype(int)
        np.testing.assert_array_equal(scores[labels == 0], drawn + 100)
        seen.append(sorted(scenarios[drawn]))
        return 0.0

    bootstrap_interval(positive, positive + 100, scenarios, record, trials=50)
    assert len(seen) == 50
    assert all(resample == sorted(scenarios) for resample in seen)


def test_bootstrap_repeats_with_its_seed_and_narrows_with_its_level():
    rng = np.random.default_rng(0)
    positive, negative = rng.standard_normal((2, 15))
    scenarios = np.repeat(list("abcde"), 3)

    def interval(**options):
        return bootstrap_interval(positive, negative, scenarios, separation, **options)

    assert interval(seed=1) == interval(seed=1) != interval(seed=2)
    low, high = interval(level=0.5)
    wide_low, wide_high = interval(level=0.99)
    assert wide_low < low < high < wide_high
