"""Scores by name: plain functions of (truth, outputs), so that intervals can resample them.

Classification: truth (rows,) class numbers, outputs (rows, classes) logits; one column is read as the
logit of class 1. Multilabel: truth (rows, labels) of 0 and 1, outputs (rows, labels) logits. Regression:
truth and outputs are values, (rows, outputs) or (rows,). Embeddings: both are vectors, (rows, k). Language
models: sums over a row's tokens, as `score_bits_per_byte` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax
from scipy.stats import rankdata


@dataclass(frozen=True)
class Score:
    """`fn(truth, outputs)`: truth (rows,) int or (rows, k) float; outputs (rows, k): logits, or values.

    `per_row`, where the score is a mean over rows, gives the terms of that mean: (rows,).
    """

    name: str
    higher_is_better: bool
    fn: Callable[[np.ndarray, np.ndarray], float]
    per_row: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


def predict(outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Classes (rows,) for class-number truth; 0/1 (rows, labels) for multilabel truth."""
    outputs = np.asarray(outputs).reshape(len(outputs), -1)
    if truth.ndim == 2:
        return np.asarray(outputs > 0, dtype=np.int64)
    if outputs.shape[1] == 1:
        return np.asarray(outputs[:, 0] > 0, dtype=np.int64)
    return np.asarray(outputs.argmax(axis=1))


def rate_hits(truth: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """(rows,) of 1.0 where the class is right."""
    truth = np.asarray(truth)
    if truth.ndim != 1:
        raise ValueError(
            f"accuracy needs one class number per row. Got truth of shape {truth.shape}; "
            "for multilabel data use exact_match, macro_f1 or auroc."
        )
    return np.asarray(predict(outputs, truth) == truth, dtype=float)


def rate_exact_matches(truth: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """(rows,) of 1.0 where every label of the row is right."""
    truth = np.asarray(truth)
    if truth.ndim != 2:
        raise ValueError(f"exact_match needs multilabel truth (rows, labels). Got shape {truth.shape}.")
    return np.asarray((predict(outputs, truth) == (truth > 0.5)).all(axis=1), dtype=float)


def score_macro_f1(truth: np.ndarray, outputs: np.ndarray) -> float:
    """Mean of the classes' F1, over classes that occur or are predicted; an undefined F1 of a label is 0."""
    truth = np.asarray(truth)
    guess = predict(outputs, truth)
    if truth.ndim == 2:
        hits = ((guess == 1) & (truth > 0.5)).sum(axis=0)
        total = (guess == 1).sum(axis=0) + (truth > 0.5).sum(axis=0)
        return float(np.mean(2 * hits / np.maximum(total, 1)))
    size = int(max(truth.max(), guess.max())) + 1
    hits = np.bincount(truth[guess == truth], minlength=size)
    total = np.bincount(truth, minlength=size) + np.bincount(guess, minlength=size)
    return float(np.mean(2 * hits[total > 0] / total[total > 0]))


def score_auroc(truth: np.ndarray, outputs: np.ndarray) -> float:
    """Area under the ROC curve; several classes or labels: mean of one against the rest, over those that
    have both kinds of rows. NaN where none has."""
    truth, outputs = np.asarray(truth), np.asarray(outputs).reshape(len(outputs), -1)
    if truth.ndim == 2:
        positive, ranked = truth > 0.5, outputs
    elif outputs.shape[1] <= 2:
        positive, ranked = (
            (truth == 1)[:, None],
            outputs[:, -1:] - (outputs[:, :1] if outputs.shape[1] == 2 else 0),
        )
    else:
        positive, ranked = (
            truth[:, None] == np.arange(outputs.shape[1]),
            softmax(outputs.astype(float), axis=1),
        )
    count = positive.sum(axis=0)
    use = (count > 0) & (count < len(truth))
    if not use.any():
        return float("nan")
    ranks = (rankdata(ranked[:, use], axis=0) * positive[:, use]).sum(axis=0)
    count = count[use]
    return float(np.mean((ranks - count * (count + 1) / 2) / (count * (len(truth) - count))))


def _errors(truth: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    outputs = np.asarray(outputs, dtype=float).reshape(len(outputs), -1)
    return np.asarray(outputs - np.asarray(truth, dtype=float).reshape(outputs.shape))


def score_rmse(truth: np.ndarray, outputs: np.ndarray) -> float:
    """Root of the mean squared error over rows and outputs."""
    return float(np.sqrt(np.mean(_errors(truth, outputs) ** 2)))


def rate_absolute_errors(truth: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """(rows,) mean absolute error of each row's outputs."""
    return np.asarray(np.abs(_errors(truth, outputs)).mean(axis=1))


def score_r2(truth: np.ndarray, outputs: np.ndarray) -> float:
    """Mean over outputs of 1 - residual / total sum of squares; NaN where no output varies."""
    errors = _errors(truth, outputs)
    values = np.asarray(truth, dtype=float).reshape(errors.shape)
    total = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    if not (total > 0).any():
        return float("nan")
    return float(np.mean(1 - (errors**2).sum(axis=0)[total > 0] / total[total > 0]))


def rate_cosines(truth: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """(rows,) cosine similarity of the vectors; 0 where one is null."""
    a, b = (np.asarray(side, dtype=float).reshape(len(side), -1) for side in (truth, outputs))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1))


def score_bits_per_byte(truth: np.ndarray, outputs: np.ndarray) -> float:
    """Bits of all text over its bytes. truth (rows, 2): bytes and tokens; outputs (rows, 3): bits first."""
    return float(np.asarray(outputs, np.float64)[:, 0].sum() / np.asarray(truth, np.float64)[:, 0].sum())


def calibration_error(truth: np.ndarray, outputs: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the top class (Guo et al. 2017, eq. 3): equal-width bins of confidence,
    |accuracy - confidence| weighted by rows. Multilabel: over all label decisions."""
    truth, outputs = np.asarray(truth), np.asarray(outputs, dtype=float).reshape(len(outputs), -1)
    right = predict(outputs, truth) == (truth > 0.5 if truth.ndim == 2 else truth)
    if truth.ndim == 2 or outputs.shape[1] == 1:
        confidence = np.maximum(expit(outputs), expit(-outputs)).reshape(right.shape)
    else:
        confidence = softmax(outputs, axis=1).max(axis=1)
    right, confidence = right.ravel().astype(float), confidence.ravel()
    where = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(where, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


SCORES: dict[str, Score] = {
    "accuracy": Score("accuracy", True, lambda t, o: float(rate_hits(t, o).mean()), rate_hits),
    "exact_match": Score("exact_match", True, lambda t, o: float(rate_exact_matches(t, o).mean()), rate_exact_matches),
    "macro_f1": Score("macro_f1", True, score_macro_f1),
    "auroc": Score("auroc", True, score_auroc),
    "rmse": Score("rmse", False, score_rmse),
    "mae": Score("mae", False, lambda t, o: float(rate_absolute_errors(t, o).mean()), rate_absolute_errors),
    "r2": Score("r2", True, score_r2),
    "cosine": Score("cosine", True, lambda t, o: float(rate_cosines(t, o).mean()), rate_cosines),
    "bits_per_byte": Score("bits_per_byte", False, score_bits_per_byte),
}
