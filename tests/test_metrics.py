"What the notebook's asserts do not show: many random cases against scikit-learn, calibration of the nulls, determinism."

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from MISSING import metrics


@pytest.mark.parametrize("seed", range(20))
def test_auroc_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0] * int(rng.integers(1, 30)) + [1] * int(rng.integers(1, 30)))
    scores = rng.integers(0, 10, size=len(labels)).astype(np.float16)
    assert metrics.auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_order_of_texts_changes_nothing():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 15)
    scores = rng.standard_normal(30) + labels
    order = rng.permutation(30)
    for statistic in [metrics.auroc, metrics.separation]:
        assert statistic(scores[order], labels[order]) == pytest.approx(statistic(scores, labels))
    for rule in ["median", "midpoint"]:
        assert metrics.accuracy(scores[order], labels[order], rule) == metrics.accuracy(scores, labels, rule)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused_everywhere(bad):
    scores = [bad, 1.0, 0.0]
    labels = [1, 1, 0]
    for figure in [metrics.auroc, metrics.separation, metrics.class_sd]:
        with pytest.raises(ValueError, match="score of text 0"):
            figure(scores, labels)
    with pytest.raises(ValueError, match="score of text 0"):
        metrics.accuracy(scores, labels, "median")
    with pytest.raises(ValueError, match="not finite"):
        metrics.correlation(scores, labels)


def test_train_rule_never_looks_at_the_test_labels():
    train = ([2.0, 0.0], [1, 0])
    predicted = metrics.classify([3.0, 0.5], [1, 0], "train", *train)
    assert predicted.tolist() == metrics.classify([3.0, 0.5], [0, 1], "train", *train).tolist() == [1, 0]


def test_confusion_of_one_class():
    figures = metrics.confusion([0, 0], [0, 0])
    assert figures["specificity"] == figures["accuracy"] == 1.0
    assert all(np.isnan(figures[name]) for name in ["precision", "recall", "f1"])


def test_rank_p_is_calibrated_where_there_is_nothing_to_find():
    labels = np.repeat([1, 0], 15)
    p_values = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        positive, negative = rng.standard_normal((2, 35, 16))
        test = rng.standard_normal((30, 16))
        value = metrics.auroc(test @ (positive - negative).mean(axis=0), labels)
        null = metrics.shuffled_label_null(positive, negative, test, labels, trials=99, seed=seed)
        p_values.append(metrics.rank_p(value, null))
    assert 0.4 < np.mean(p_values) < 0.6
    assert 0.01 <= np.mean(np.array(p_values) <= 0.1) <= 0.2


def test_nulls_do_not_depend_on_the_scale_of_the_activations():
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((2, 10, 8))
    test = rng.standard_normal((6, 8))
    labels = np.repeat([1, 0], 3)
    shuffled = metrics.shuffled_label_null(*pairs, test, labels)
    np.testing.assert_array_equal(metrics.shuffled_label_null(*pairs * 1024, test * 1024, labels), shuffled)
    random = metrics.random_direction_null(test, labels)
    np.testing.assert_array_equal(metrics.random_direction_null(test * 1024, labels), random)


def test_identical_pairs_give_a_null_at_chance():
    same = np.ones((4, 3))
    null = metrics.shuffled_label_null(same, same, np.eye(3)[[0, 1]], [1, 0], trials=5)
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

    metrics.bootstrap_interval(positive, positive + 100, scenarios, record, trials=50)
    assert len(seen) == 50
    assert all(resample == sorted(scenarios) for resample in seen)


def test_bootstrap_repeats_with_its_seed_and_narrows_with_its_level():
    rng = np.random.default_rng(0)
    positive, negative = rng.standard_normal((2, 15))
    scenarios = np.repeat(list("abcde"), 3)

    def interval(**options):
        return metrics.bootstrap_interval(positive, negative, scenarios, metrics.separation, **options)

    assert interval(seed=1) == interval(seed=1) != interval(seed=2)
    low, high = interval(level=0.5)
    wide_low, wide_high = interval(level=0.99)
    assert wide_low < low < high < wide_high
