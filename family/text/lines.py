"""Text as it lies on disk: files, lines of JSON, and tables whose cells stay what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from family.errors import mistake
from family.tasks.frames import read_any_frame


def read_text(file: Path, where: str) -> str:
    """Raises Mistakes naming the file and the byte where it is no UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        said = f"must be UTF-8. {file.name} is none at byte {problem.start}: {problem.reason}."
        raise mistake(where, said) from problem


def read_columns(path: Path, cache: Path | None, where: str) -> Mapping[str, list[Any]]:
    """Columns of a .jsonl, .csv, .parquet or saved Hugging Face dataset. Cells of a .csv are text, and None where there
    is nothing in them: "NA" and "007" stay what they are. Raises Mistakes."""
    if path.suffix == ".jsonl":
        rows = list(read_lines(path, where))
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}
    if path.suffix == ".csv":
        frame = read_cells(path, where)
        return {str(name): [value or None for value in frame[name].tolist()] for name in frame}
    frame = read_any_frame(path, cache, where)
    return {str(name): frame[name].tolist() for name in frame}


def read_cells(path: Path, where: str) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as problem:  # a UnicodeDecodeError is a ValueError
        raise mistake(where, f"{path.name} cannot be read as .csv in UTF-8: {problem}") from problem


def read_lines(path: Path, where: str) -> Iterator[dict[str, Any]]:
    """The object in every line that is not empty."""
    for number, line in enumerate(read_text(path, where).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as problem:
            raise mistake(where, f"must hold JSON in every line. Line {number}: {problem}.") from problem
        if not isinstance(row, dict):
            raise mistake(where, f"must hold an object in every line. Line {number}: {str(row)[:40]!r}.")
        yield row


def check_unicode(texts: Sequence[str], where: str, named: str | None = None) -> None:
    """Raises Mistakes naming the row (of `named`) with half a character, which JSON can hold and no file takes."""
    for row, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as problem:
            place = f"Row {row}" if named is None else f"Row {row} of {named}"
            said = f"must hold valid Unicode. {place} has half a character at place {problem.start}."
            raise mistake(where, said) from None


def as_objects(values: Sequence[Any]) -> np.ndarray:
    """(n,) of anything, lists among it."""
    made = np.empty(len(values), object)
    made[:] = values
    return made
