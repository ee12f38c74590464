"Nulls and intervals: calibration and determinism."

import numpy as np
from scipy.stats import ttest_1samp

from empathy_probes.method.detection import auroc
from empathy_probes.evidence.intervals import auroc_interval, detection_intervals
from empathy_probes.evidence.uncertainty import random_direction_null, rank_p, shuffled_label_null


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


def test_the_score_interval_of_an_auroc_covers_whatever_the_projections_are():
    rng = np.random.default_rng(0)
    scenarios = np.repeat(np.linspace(-1, 1, 5), 3)  # some scenarios lie higher than others
    drawn = {
        "normal": rng.standard_normal((2, 1000, 15)),
        "long tails": rng.standard_t(3, (2, 1000, 15)),
        "unequal spread": rng.standard_normal((2, 1000, 15)) * np.array([2, 1])[:, None, None],
        "scenarios differ": rng.standard_normal((2, 1000, 15)) + scenarios,
    }
    for name, (positive, negative) in drawn.items():
        for gap in (0, 1.2, 2.5):
            found = ((positive + gap)[:, :, None] > negative[:, None, :]).mean(axis=(1, 2)).round(9)
            ends = {value: auroc_interval(value, 15, 15) for value in np.unique(found)}
            covered = np.mean([ends[value][0] <= found.mean() <= ends[value][1] for value in found])
            assert covered > 0.925, (name, gap, covered)


def test_the_jackknife_of_separation_is_the_interval_of_the_mean_difference():
    positive, negative = np.random.default_rng(0).standard_normal((2, 15))
    usual = ttest_1samp(positive - negative, 0).confidence_interval(0.95)
    [_, row, _] = detection_intervals(positive, negative)
    np.testing.assert_allclose([row["lower"], row["upper"]], [usual.low, usual.high])
