"""Scores against scikit-learn, or against values worked out by hand."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics

from reports import SCORES, calibration_error

RNG = np.random.default_rng(3)
TRUTH = RNG.integers(0, 4, 200)
LOGITS = RNG.normal(size=(200, 4)) + 1.2 * np.eye(4)[TRUTH]
LABELS = (RNG.random((150, 3)) < 0.3).astype(np.float32)
LABEL_LOGITS = RNG.normal(size=(150, 3)) + LABELS
VALUES = RNG.normal(size=(120, 2))
GUESSES = VALUES + RNG.normal(size=(120, 2)) * 0.5


@pytest.mark.parametrize(
    ("name", "truth", "outputs", "expected"),
    [
        ("accuracy", TRUTH, LOGITS, metrics.accuracy_score(TRUTH, LOGITS.argmax(1))),
        ("macro_f1", TRUTH, LOGITS, metrics.f1_score(TRUTH, LOGITS.argmax(1), average="macro")),
        ("auroc", TRUTH, LOGITS, metrics.roc_auc_score(TRUTH, softmax(LOGITS, 1), multi_class="ovr")),
        ("auroc", TRUTH > 1, LOGITS[:, :2], metrics.roc_auc_score(TRUTH > 1, LOGITS[:, 1] - LOGITS[:, 0])),
        ("exact_match", LABELS, LABEL_LOGITS, metrics.accuracy_score(LABELS, LABEL_LOGITS > 0)),
        ("macro_f1", LABELS, LABEL_LOGITS, metrics.f1_score(LABELS, LABEL_LOGITS > 0, average="macro")),
        ("auroc", LABELS, LABEL_LOGITS, metrics.roc_auc_score(LABELS, expit(LABEL_LOGITS))),
        ("rmse", VALUES, GUESSES, metrics.mean_squared_error(VALUES, GUESSES) ** 0.5),
        ("mae", VALUES, GUESSES, metrics.mean_absolute_error(VALUES, GUESSES)),
        ("r2", VALUES, GUESSES, metrics.r2_score(VALUES, GUESSES)),
    ],
)
def test_equals_scikit_learn(name, truth, outputs, expected):
    assert SCORES[name].fn(truth, outputs) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "truth", "outputs"),
    [("accuracy", TRUTH, LOGITS), ("exact_match", LABELS, LABEL_LOGITS), ("mae", VALUES, GUESSES)],
)
def test_per_row_terms_average_to_the_score(name, truth, outputs):
    score = SCORES[name]
    terms = score.per_row(truth, outputs)
    assert terms.shape == (len(truth),)
    assert terms.mean() == pytest.approx(score.fn(truth, outputs))


def test_directions():
    assert {n for n, s in SCORES.items() if not s.higher_is_better} == {"rmse", "mae", "bits_per_byte"}


def test_regression_takes_flat_truth_and_column_outputs():
    assert SCORES["rmse"].fn(np.array([0.0, 0.0]), np.array([[3.0], [4.0]])) == pytest.approx(12.5**0.5)


def test_auroc_of_one_class_is_unknown():
    assert np.isnan(SCORES["auroc"].fn(np.zeros(4, int), np.ones((4, 2))))


def test_accuracy_refuses_multilabel_truth():
    with pytest.raises(ValueError, match="use exact_match, macro_f1 or auroc"):
        SCORES["accuracy"].fn(LABELS, LABEL_LOGITS)


def test_calibration_error_by_hand():
    # Confidence 0.9 on four rows of which three are right (0.15 off), 0.6 on one that is wrong.
    outputs = np.log([[0.9, 0.1]] * 4 + [[0.6, 0.4]])
    truth = np.array([0, 0, 0, 1, 1])
    assert calibration_error(truth, outputs) == pytest.approx((4 * 0.15 + 0.6) / 5)


def test_calibration_error_of_labels_counts_every_decision():
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([[40.0, -40.0]])) == pytest.approx(0.0)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([[40.0, 40.0]])) == pytest.approx(0.5)
