"""What a teacher is asked: prompts from a file, or from a template over the rows of the data.

Messages name files, lines and rows, never a prompt's text: it may hold what nobody should read.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from family.errors import mistake
from family.suggest import did_you_mean, list_names

FILE, WHERE = "teacher.asks.prompts", "teacher.asks.prompt"
COLUMN = "prompt"
MOST = 1_000_000  # characters of one prompt: no model reads more
SHOWN = 5


def read_prompts(file: str, folder: Path, where: str = FILE) -> tuple[str, ...]:
    """Prompts of a .txt (one a line, empty lines left out), or of the column `prompt` of a .jsonl, .csv or .parquet.

    A relative file starts at `folder`. Raises Mistakes: no such file, no such column, not UTF-8, nothing in it, a
    prompt that is empty, no text, or longer than `MOST` characters.
    """
    path = (folder / file).resolve()
    if not path.is_file():
        raise mistake(where, f"names {file}, which is not there (looked for {path}).")
    if path.suffix not in READERS:
        raise mistake(where, f"must be a file ending in {list_names(READERS)}. Got {file}.")
    return check_prompts(READERS[path.suffix](path, where), f"{path.name} holds", where)


def check_prompts(prompts: Sequence[Any], which: str, where: str = WHERE) -> tuple[str, ...]:
    """The same as text. Raises Mistakes for none at all, and for those that are no text, empty or too long, by their
    rows (the first is 0); `which` begins the message."""
    if not len(prompts):
        raise mistake(where, f"{which} no prompts.")
    for what, is_bad in (
        ("that are missing or no text", lambda one: not isinstance(one, str)),
        ("that are empty", lambda one: not one.strip()),
        (f"of more than {MOST:,} characters", lambda one: len(one) > MOST),
    ):
        rows = [row for row, one in enumerate(prompts) if is_bad(one)]
        if rows:
            raise mistake(where, f"{which} {len(rows)} prompts {what}, first in rows {rows[:SHOWN]}.")
    return tuple(prompts)


def fill_template(template: str, rows: Mapping[str, Sequence[Any]], where: str = WHERE) -> tuple[str, ...]:
    """`template` with each row's values in place of its `{fields}`; `{{` stands for a brace.

    rows: {field: values (rows,)}. Raises Mistakes: a template without fields or with anything but plain names in
    braces, a field that the data does not have, a value that is missing.
    """
    names = list_fields(template, where)
    for name in names:
        if name not in rows:
            there = list_names(rows, "and") or "none"
            raise mistake(
                where, f"names the field '{name}', which the data lacks. It has {there}.{did_you_mean(name, rows)}"
            )
        empty = [row for row, value in enumerate(rows[name]) if is_missing(value)]
        if empty:
            raise mistake(where, f"uses '{name}', which is missing in {len(empty)} rows, first {empty[:SHOWN]}.")
    columns = [rows[name] for name in names]
    filled = [template.format(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]
    return check_prompts(filled, "makes", where)


def list_fields(template: str, where: str = WHERE) -> list[str]:
    """The names in braces, each once. Raises Mistakes."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as problem:
        raise mistake(where, f"is no template: {problem}. A brace that is meant is written twice.") from None
    names = []
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if not name.isidentifier() or form or conversion:
            raise mistake(where, f"must hold plain names in braces, such as {{text}}. Got {{{name or ''}…}}.")
        names.append(name)
    if not names:
        raise mistake(where, "is a template without a field in braces, such as {text}: every row would ask the same.")
    return list(dict.fromkeys(names))


def is_missing(value: Any) -> bool:
    """None, NaN, or text with nothing in it."""
    return value is None or (isinstance(value, str) and not value.strip()) or is_nan(value)


def is_nan(value: Any) -> bool:
    try:
        return math.isnan(value)
    except (TypeError, ValueError):
        return False


def read_utf8(path: Path, where: str) -> list[str]:
    """Lines without their ends; a byte order mark is left out. Raises Mistakes naming the first line that is not
    UTF-8."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise mistake(where, f"{path.name} is not UTF-8 (line {line}).") from None
    return [line.removesuffix("\r") for line in text.split("\n")]


def read_lines(path: Path, where: str) -> list[Any]:
    return [line for line in read_utf8(path, where) if line.strip()]


def read_jsonl(path: Path, where: str) -> list[Any]:
    found = []
    for number, line in enumerate(read_utf8(path, where), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise mistake(where, f"{path.name} holds no JSON in line {number}.") from None
        if not isinstance(row, dict) or COLUMN not in row:
            raise mistake(
                where, f"{path.name} must hold an object with '{COLUMN}' in each line. Line {number} has none."
            )
        found.append(row[COLUMN])
    return found


def read_table(path: Path, where: str) -> list[Any]:
    import pandas as pd

    if path.suffix == ".csv":
        read_utf8(path, where)
    try:
        if path.suffix == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        else:
            frame = pd.read_parquet(path)
    except (ValueError, OSError) as problem:
        kind = type(problem).__name__  # the words of the problem may quote the file
        raise mistake(where, f"{path.name} cannot be read as {path.suffix} ({kind}).") from None
    if COLUMN not in frame:
        has = list_names(frame.columns, "and") or "none"
        raise mistake(
            where, f"{path.name} has no column '{COLUMN}'. It has {has}.{did_you_mean(COLUMN, frame.columns)}"
        )
    return list(frame[COLUMN])


READERS = {".txt": read_lines, ".jsonl": read_jsonl, ".csv": read_table, ".parquet": read_table}
