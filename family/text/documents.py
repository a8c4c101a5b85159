"""Documents for a language model: text files, or a column of text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from family.errors import mistake
from family.suggest import did_you_mean
from family.tasks.frames import is_hugging_face
from family.tasks.options import DataOptions, Source
from family.text.lines import as_objects, check_unicode, read_columns, read_text
from family.text.prompts import is_missing

FORMATS = "a .txt file, a folder of .txt files, .jsonl, .csv, .parquet or a saved Hugging Face dataset"
COLUMNS = ("text", "document", "content", "body")  # taken where data.text names none
BLANK = re.compile(r"\n\s*\n")


def read_documents(options: DataOptions, cache: Path | None = None) -> Source:
    """Documents of `options.path` as a Source whose column `text` holds strings (object), the table's others beside it;
    where `data.label` names one of those its values are the labels, else they say nothing.

    A folder of .txt files holds a document each; a .txt file documents between blank lines. Raises Mistakes naming
    `data.path` or `data.text`: also for bytes that are no UTF-8, and halves of characters, with the file and where in
    it.
    """
    path = (options.folder / options.path).resolve()
    if not path.exists():
        raise mistake("data.path", f"names {options.path}, which is not there (looked for {path}).")
    columns: Mapping[str, Any] = {}
    if path.is_dir() and not is_hugging_face(path):
        files = sorted(path.rglob("*.txt"))
        if not files:
            raise mistake("data.path", f"must be {FORMATS}. No .txt file lies in {options.path}.")
        texts = [read_text(file, "data.path") for file in files]
    elif path.suffix == ".txt":
        texts = BLANK.split(read_text(path, "data.path"))
    elif path.suffix in (".jsonl", ".csv", ".parquet") or path.is_dir():
        columns = read_columns(path, cache, "data.path")
        texts = ["" if is_missing(one) else str(one) for one in columns[pick_column(columns, options)]]
        check_unicode(texts, "data.path", path.name)
    else:
        raise mistake("data.path", f"must be {FORMATS}. Got {options.path}.")
    return as_source(texts, columns, options)


def as_word(value: Any) -> str:
    """As one would write it: without space around, and whole numbers, which a gap in their column makes floats, without
    a point."""
    is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if is_whole else str(value).strip()


def pick_column(columns: Mapping[str, Any], options: DataOptions) -> str:
    named = options.text or tuple(name for name in COLUMNS if name in columns)[:1]
    if len(named) != 1 or named[0] not in columns:
        said = f"must name the column of text: {', '.join(columns)}. Got {', '.join(named) or 'nothing'}."
        raise mistake("data.text", said + (did_you_mean(named[0], columns) if named else ""))
    return str(named[0])


def as_source(texts: Sequence[str], columns: Mapping[str, Any], options: DataOptions) -> Source:
    """Empty documents are left out, and it is said."""
    kept = np.array([i for i, text in enumerate(texts) if text.strip()], np.int64)
    if not len(kept):
        raise mistake("data.path", f"holds no text: {len(texts)} documents, all of them empty.")
    dropped = len(texts) - len(kept)
    column = as_objects([texts[i] for i in kept])

    def take(name: str | None) -> np.ndarray | None:
        if name is None or name not in columns:
            return None
        return np.array([as_word(columns[name][i]) for i in kept])

    for key, name in (("label", options.label), ("group", options.group)):
        if name is not None and name not in columns:
            raise mistake(f"data.{key}", f"names '{name}', which is no column.{did_you_mean(name, columns)}")
    known = np.array([not is_missing(columns[options.label][i]) for i in kept]) if options.label else None
    labels = take(options.label)
    return Source(
        "lm",
        {name: as_objects([values[i] for i in kept]) for name, values in columns.items()} | {"text": column},
        np.zeros(len(kept), np.int64) if labels is None else labels,
        np.ones(len(kept), bool) if known is None else known,
        split=take("split"),
        groups=take(options.group),
        notes=(f"{len(kept)} documents",),
        warnings=(f"{dropped} empty documents are left out",) if dropped else (),
    )
