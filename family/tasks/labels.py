"""Labels: what kind they are, their classes, and the scores that fit them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from family.doors import is_reference
from family.errors import mistake
from family.suggest import did_you_mean
from family.tasks.options import DataOptions, Source
from family.tasks.user_functions import open_user_score, read_score_kind
from family.types import Kind
from reports import SCORES, Score

FEW_VALUES = 20  # numeric labels with more distinct values than this are a regression


def read_labels(source: Source, options: DataOptions) -> tuple[Kind, tuple[str, ...] | None, np.ndarray, list[str]]:
    """Kind, class names, and truth: (rows,) int64 | (rows, k) float32.

    Rows without a label get code 0 or NaN.
    """
    labels, known = source.labels, source.known
    if labels.ndim > 2:
        raise mistake(
            "data.label",
            f"must be (rows,) or (rows, labels). Got {labels.shape}; segmentation and detection are not supported.",
        )
    if labels.ndim == 2 and labels.shape[1] > 1 and set(np.unique(labels[known])) <= {0, 1}:
        names = source.names or tuple(str(i) for i in range(labels.shape[1]))
        return (
            "multilabel",
            names,
            labels.astype(np.float32),
            [f"labels: multi-label, {labels.shape[1]} classes"],
        )
    finite = labels.dtype.kind == "f" and bool(np.isfinite(labels[known]).all())
    if finite and labels.ndim == 1 and not (labels[known] % 1).any():
        labels = np.where(known, labels, -1).astype(np.int64)  # whole numbers, floats only for the gaps
    numeric = labels.dtype.kind == "f" or (labels.dtype.kind == "O" and pd_numeric(labels[known]))
    wants_values = wants_regression(options) and castable(labels[known])
    if labels.ndim == 2 and not castable(labels[known]):
        raise mistake("data.label", "holds text; several labels a row must be numbers.")
    if wants_values or labels.ndim == 2 or (numeric and len(set(labels[known].tolist())) > FEW_VALUES):
        values = np.where(known.reshape(-1, *[1] * (labels.ndim - 1)), labels, np.nan).astype(np.float32)
        return (
            "regression",
            None,
            values.reshape(len(values), -1),
            ["labels: numbers, so this is a regression"],
        )
    text = np.array([str(v) for v in labels.tolist()])
    classes = sorted(set(text[known].tolist()), key=natural)
    if len(classes) < 2:
        raise mistake("data.label", f"holds one class only ({', '.join(classes) or 'none'}); at least two are needed.")
    code = {name: i for i, name in enumerate(classes)}
    truth = np.array([code.get(v, 0) for v in text], np.int64)
    return "classification", tuple(classes), truth, [f"labels: {len(classes)} classes"]


def wants_regression(options: DataOptions) -> bool:
    if is_reference(options.score):
        return read_score_kind(str(options.score), options.folder) == "regression"
    return options.score in ("rmse", "mae", "r2")


def castable(values: np.ndarray) -> bool:
    try:
        values.astype(np.float32)
    except (TypeError, ValueError):
        return False
    return True


def pd_numeric(values: np.ndarray) -> bool:
    return all(isinstance(v, float) and not float(v).is_integer() for v in values[:50].tolist())


def natural(name: str) -> tuple[int, float, str]:
    """Numbers in their order, then names in theirs."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def pick_score(options: DataOptions, kind: Kind) -> Score:
    if is_reference(options.score):
        wanted = read_score_kind(str(options.score), options.folder)
        if wanted not in (None, kind):
            raise mistake("score", f"{options.score} is for {wanted}; '{options.label or 'label'}' holds {kind}.")
        return open_user_score(str(options.score), options.folder)
    fitting = {
        "classification": ("accuracy", "macro_f1", "auroc"),
        "multilabel": ("exact_match", "macro_f1", "auroc"),
        "regression": ("rmse", "mae", "r2"),
        "embedding": ("cosine",),
    }[kind]
    name = options.score or fitting[0]
    if name not in fitting or name not in SCORES:
        raise mistake(
            "score",
            f"must be one of {', '.join(fitting)} for {kind}, or path/file.py:function. "
            f"Got '{name}'.{did_you_mean(name, fitting)}",
        )
    return SCORES[name]


def check_classes(
    kind: Kind, classes: tuple[str, ...] | None, truth: np.ndarray, splits: Mapping[str, np.ndarray]
) -> None:
    if kind != "classification" or classes is None:
        return
    counts = np.bincount(truth[splits["train"]], minlength=len(classes))
    missing = [classes[i] for i in np.flatnonzero(counts == 0)]
    if missing:
        raise mistake("data.split", f"leaves train without a row of class {', '.join(missing[:5])}.")


def warn_of_rare(
    classes: tuple[str, ...] | None, kind: Kind, truth: np.ndarray, splits: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """Labels of a multi-label task that every train row has, or none."""
    if kind != "multilabel" or classes is None:
        return ()
    share = truth[splits["train"]].mean(0)
    same = [classes[i] for i in np.flatnonzero((share == 0) | (share == 1))]
    return (f"labels that no or every train row has teach nothing: {', '.join(same[:5])}",) if same else ()
