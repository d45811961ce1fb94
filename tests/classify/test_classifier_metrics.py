"""Metrics of a classifier agree with scikit-learn and with hand-made cases."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from dermgen.classify import metrics

CLASSES = ("a", "b", "c", "d")


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=200, p=[0.6, 0.3, 0.1])  # no image of d
    logits = rng.normal(size=(200, 4)) + 1.5 * np.eye(4)[labels]
    return torch.softmax(torch.tensor(logits), 1), torch.tensor(labels)


def test_metrics_agree_with_scikit_learn_over_the_classes_that_occur(predictions):
    probabilities, labels = predictions
    measured = metrics.measure(probabilities, labels, CLASSES)
    y, p = labels.numpy(), probabilities.numpy()
    assert measured["n"] == 200
    assert measured["accuracy"] == pytest.approx(sk.accuracy_score(y, p.argmax(1)))
    assert measured["bma"] == pytest.approx(sk.balanced_accuracy_score(y, p.argmax(1)), rel=1e-6)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, p.argmax(1), labels=[0, 1, 2], zero_division=0)
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert measured[f"macro_{name}"] == pytest.approx(values.mean(), rel=1e-6)
        assert [measured["per_class"][c][name] for c in "abc"] == pytest.approx(values.tolist(), rel=1e-6)
    auroc = [sk.roc_auc_score(y == i, p[:, i]) for i in range(3)]
    assert measured["macro_auroc"] == pytest.approx(np.mean(auroc), rel=1e-6)
    average_precision = [sk.average_precision_score(y == i, p[:, i]) for i in range(3)]
    assert measured["macro_average_precision"] == pytest.approx(np.mean(average_precision), rel=1e-5)
    assert measured["confusion"] == sk.confusion_matrix(y, p.argmax(1), labels=range(4)).tolist()


def test_sensitivity_at_95_percent_specificity_is_the_best_over_all_thresholds(predictions):
    probabilities, labels = predictions
    measured = metrics.measure(probabilities, labels, CLASSES)["per_class"]["b"]["sensitivity_at_95_specificity"]
    scores, positive = probabilities[:, 1].numpy(), labels.numpy() == 1
    best = max((scores[positive] >= t).mean() for t in [*scores, 2] if (scores[~positive] < t).mean() >= 0.95)
    assert measured == pytest.approx(best, abs=1e-6)


def test_a_class_without_images_has_no_metrics(predictions):
    measured = metrics.measure(*predictions, CLASSES)
    assert measured["per_class"]["d"]["n"] == 0
    assert measured["per_class"]["d"]["recall"] is None


def test_the_calibration_error_of_a_certain_classifier_that_is_half_right_is_one_half():
    probabilities = torch.tensor([[1.0, 0.0]] * 10)
    labels = torch.tensor([0, 1] * 5)
    assert metrics.measure(probabilities, labels, ("a", "b"))["calibration_error"] == pytest.approx(0.5)
