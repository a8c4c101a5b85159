"""What the file's keys name inside the data: label, group, split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from family.errors import Mistake, Mistakes, mistake
from family.suggest import did_you_mean
from family.tasks.options import DataOptions


def refuse_unused(options: DataOptions, what: str) -> None:
    """Raises Mistakes for keys that name a column where there are none."""
    keys = {"label": "the labels", "group": "the groups"}
    wrong = [
        Mistake(
            f"data.{key}",
            f"is not for {what}. Got '{value}'; leave it out. It names {said} in .npz, .csv, .parquet, "
            "a saved Hugging Face dataset, or what path/file.py:function returns.",
        )
        for key, said in keys.items()
        if (value := getattr(options, key)) is not None
    ]
    if wrong:
        raise Mistakes(wrong)


NO_CLASSES = ("bbox", "bboxes", "boxes", "objects", "segmentation", "mask", "masks")


def refuse_boxes(names: Iterable[str]) -> None:
    if set(NO_CLASSES) & set(names):
        raise mistake(
            "data.path",
            "holds boxes or masks: detection and segmentation are not supported, classes and values are.",
        )


def take_group(columns: Any, options: DataOptions) -> np.ndarray | None:
    if options.group is None:
        return None
    if options.group not in columns:
        raise mistake(
            "data.group",
            f"'{options.group}' is not there. Found: {', '.join(columns)}.{did_you_mean(options.group, columns)}",
        )
    return np.asarray(columns.pop(options.group)).astype(str)


def no_label(label: str, there: list[str]) -> Exception:
    return mistake("data.label", f"'{label}' is not there. Found: {', '.join(there)}.{did_you_mean(label, there)}")


def is_known(split: np.ndarray | str, options: DataOptions) -> np.ndarray:
    """Whether rows of this split have a label: all but those of the pool, by the name that data.split gives it."""
    names, asked = np.asarray(split).astype(str), (options.split or {}).get("transfer")
    return np.asarray(np.char.lower(names) != "transfer" if asked is None else names != str(asked))
