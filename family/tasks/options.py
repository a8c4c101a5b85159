"""What the tasks need to know of the file, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DataOptions:
    """`path` and `transfer` are relative to `folder`.

    `split` holds shares (val, test) or names of ready-made splits. `text`: columns of text. Of a language model:
    `tokenizer`, a tokenizer.json that the teacher brings; `context`, the smallest that students may have. Of text:
    `vocabularies` and `lengths`, those that students may have.
    """

    path: str
    folder: Path
    task: str | None = None
    score: str | None = None
    label: str | None = None
    split: Mapping[str, Any] | None = None
    group: str | None = None
    layout: str | None = None  # hwc | chw, of arrays of images
    transfer: str | None = None
    augment: Any = "auto"
    keep_labels: int | None = None
    student_input: tuple[int, int] | None = None
    seed: int = 0
    views: int = 8
    text: tuple[str, ...] = ()
    tokenizer: bytes | None = None
    vocabularies: tuple[int, ...] = ()
    context: int | None = None
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Source:
    """Rows as they lie on disk, before any split.

    columns: raw inputs by name, each (rows, …); or, for images in files, `files` to decode one by one.
    labels: (rows,) or (rows, k); `known[i]` says whether row i has one.
    split: "train" | "val" | "test" | "transfer" | "".
    """

    kind: str  # images | table | series | plain | text | lm
    columns: Mapping[str, np.ndarray]
    labels: np.ndarray
    known: np.ndarray
    names: tuple[str, ...] | None = None  # class names where the source itself names them
    split: np.ndarray | None = None
    groups: np.ndarray | None = None
    files: Sequence[Any] = ()  # paths, or encoded bytes
    layout: str = ""
    peak: float = 255.0  # the brightest value a uint8 pixel can have
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return len(self.known)
