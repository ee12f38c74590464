"Detection: many random cases against scikit-learn, and values that are refused."

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from empathy_probes.method.detection import accuracy, auroc, class_sd, classify, confusion, correlation, separation


@pytest.mark.parametrize("seed", range(20))
def test_auroc_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0] * int(rng.integers(1, 30)) + [1] * int(rng.integers(1, 30)))
    scores = rng.integers(0, 10, size=len(labels)).astype(np.float16)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_order_of_texts_changes_nothing():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 15)
    scores = rng.standard_normal(30) + labels
    order = rng.permutation(30)
    for statistic in [auroc, separation]:
        assert statistic(scores[order], labels[order]) == pytest.approx(statistic(scores, labels))
    for rule in ["median", "midpoint"]:
        assert accuracy(scores[order], labels[order], rule) == accuracy(scores, labels, rule)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_projections_that_are_not_finite_are_refused_everywhere(bad):
    projections = [bad, 1.0, 0.0]
    labels = [1, 1, 0]
    for statistic in [auroc, separation, class_sd]:
        with pytest.raises(ValueError, match="projection of text 0"):
            statistic(projections, labels)
    with pytest.raises(ValueError, match="projection of text 0"):
        accuracy(projections, labels, "median")
    with pytest.raises(ValueError, match="not finite"):
        correlation(projections, labels)


def test_train_rule_never_looks_at_the_test_labels():
    train = ([2.0, 0.0], [1, 0])
    predicted = classify([3.0, 0.5], [1, 0], "train", *train)
    assert predicted.tolist() == classify([3.0, 0.5], [0, 1], "train", *train).tolist() == [1, 0]


def test_confusion_of_one_class():
    counted = confusion([0, 0], [0, 0])
    assert counted["specificity"] == counted["accuracy"] == 1.0
    assert all(np.isnan(counted[name]) for name in ["precision", "recall", "f1"])
