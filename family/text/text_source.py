"""Texts with what is known of them: tables with a column of text, folders of text files, pools without labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from family.doors import is_reference
from family.errors import mistake
from family.suggest import did_you_mean
from family.tasks.folders import list_files, list_pool
from family.tasks.frames import is_hugging_face, stack_lists
from family.tasks.labels import FEW_VALUES, wants_regression
from family.tasks.named import is_known, no_label, refuse_unused, take_group
from family.tasks.options import DataOptions, Source
from family.tasks.user_functions import read_user_arrays
from family.text.lines import as_objects, check_unicode, read_columns, read_text
from family.text.prompts import is_missing

FORMATS = "a folder of class folders with .txt files, .jsonl, .csv, .parquet, a saved Hugging Face dataset, or "
FORMATS += "path/file.py:function"
TABLES = (".jsonl", ".csv", ".parquet")
COLUMNS = ("text", "sentence", "document", "content", "body")  # taken where data.text names none
ENDINGS = (".txt",)
SEPARATOR = " \x1e "  # between columns read as one: a record separator, which texts do not hold
SPELT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
LONGEST = 100_000  # characters that are kept of a text
Columns = Mapping[str, Sequence[Any]]


def read_texts(options: DataOptions, cache: Path) -> Source:
    """The data of `options.path` as a Source whose column `text` holds strings (object), "" where a row has none. Where
    neither `data.label` nor a column `label` says anything, no row is known. Raises Mistakes."""
    if is_reference(options.path):
        made = read_user_arrays(options.path, options.folder, "data.path")
        if isinstance(made, Source):
            raise mistake("data.path", f"{options.path} must return named arrays for task: text, one of them text.")
        return from_columns({name: list(values) for name, values in made.items()}, options)
    path = (options.folder / options.path).resolve()
    if not path.exists():
        raise mistake("data.path", f"names {options.path}, which is not there (looked for {path}).")
    if path.is_dir() and not is_hugging_face(path):
        return read_folder(path, options)
    if path.suffix in TABLES or path.is_dir():
        return from_columns(read_columns(path, cache, "data.path"), options)
    raise mistake("data.path", f"must be {FORMATS} for task: text. Got {options.path}.")


def read_folder(folder: Path, options: DataOptions) -> Source:
    """mails/<class>/<file>.txt, or mails/<train|val|test>/<class>/<file>.txt and mails/transfer/<file>.txt."""
    refuse_unused(options, "a folder of text files, which has class folders for labels and no groups")
    files, split = list_files(folder, options, ENDINGS, "text files")
    texts, notes = clean([read_text(file, "data.path") for file, _ in files], "data.path")
    labels = np.array([label for _, label in files])
    known = is_known(split, options)
    said = f"task: text, {len(files)} files of {len(set(labels[known]))} class folders"
    found = {"text": as_objects(texts)}
    return Source("text", found, labels, known, split=split if split.any() else None, notes=(said, *notes))


def from_columns(columns: Columns, options: DataOptions) -> Source:
    named = pick_columns(columns, options)
    texts, notes = clean(join_columns(columns, named), "data.path")
    rest: dict[str, Any] = {name: values for name, values in columns.items() if name not in named}
    label = options.label or "label"
    if label not in rest and options.label is not None:
        raise no_label(label, list(columns))
    split = np.array([str(value) for value in rest["split"]]) if "split" in rest else None
    groups = take_group({name: as_objects(values) for name, values in rest.items()}, options)
    known = np.zeros(len(texts), bool)
    labels, names = np.zeros(len(texts), np.int64), None
    if label in rest:
        known = np.array([not is_missing_label(value) for value in rest[label]])
        known &= True if split is None else is_known(split, options)
        labels, names = read_label_column(rest[label], known, wants_regression(options))
    said = f"task: text, {len(texts)} rows of {' and '.join(named)}"
    return Source(
        "text",
        {"text": as_objects(texts)},
        labels,
        known,
        names=names,
        split=split,
        groups=groups,
        preprocessing={"columns": list(named), "separator": SEPARATOR} if len(named) > 1 else {},
        notes=(said, *notes),
    )


def pick_columns(columns: Columns, options: DataOptions) -> tuple[str, ...]:
    """Those that `data.text` names, else the usual one, else the only one that holds strings and has no other use."""
    missing = [name for name in options.text if name not in columns]
    if missing:
        said = f"names '{missing[0]}', which is no column. Found: {', '.join(columns)}."
        raise mistake("data.text", said + did_you_mean(missing[0], columns))
    if options.text:
        return options.text
    usual = [name for name in COLUMNS if name in columns]
    taken = (options.label or "label", "split", options.group)
    free = [name for name in columns if name not in taken and all(isinstance(v, str) for v in columns[name][:50])]
    found = usual[:1] or (free if len(free) == 1 else [])
    if not found:
        raise mistake("data.text", f"must name the column of text. Found: {', '.join(columns)}.")
    return tuple(found)


def join_columns(columns: Columns, named: Sequence[str]) -> list[str]:
    parts = ([as_text(value) for value in columns[name]] for name in named)
    return [SEPARATOR.join(row) if any(row) else "" for row in zip(*parts, strict=True)]


def as_text(value: Any) -> str:
    return "" if is_missing(value) else str(value).replace("\x1e", " ")


def split_columns(text: str) -> list[str]:
    """The columns that a text was joined from."""
    return text.split(SEPARATOR)


def clean(texts: Sequence[str], where: str) -> tuple[list[str], tuple[str, ...]]:
    """Texts with nothing but space in them as "", enormous ones cut. Raises Mistakes for what is no Unicode."""
    check_unicode(texts, where)
    long = sum(len(text) > LONGEST for text in texts)
    notes = (f"{long} texts have more than {LONGEST:,} characters; what follows is not read",) if long else ()
    return [text[:LONGEST] if text.strip() else "" for text in texts], notes


def is_missing_label(value: Any) -> bool:
    return is_missing(value) if np.ndim(value) == 0 else False


def read_label_column(
    values: Sequence[Any], known: np.ndarray, as_values: bool = False
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Labels (rows,), or (rows, k) of lists: 0 and 1 of lists of class names, whose names come sorted beside them.
    Text that spells numbers, as all cells of a .csv do, is numbers where a regression is wanted (`as_values`), or where
    they are broken and too many for classes."""
    lists = [value for value, here in zip(values, known, strict=True) if here and np.ndim(value) == 1]
    if any(isinstance(one, str) for value in lists for one in value):
        return read_name_lists(values, known)
    plain = as_objects([list(value) if np.ndim(value) else value for value in values])
    if lists:
        return stack_lists(pd.Series(plain), known), None
    told = [value for value, here in zip(values, known, strict=True) if here]
    spelt = spell_out(told)
    if spelt and (as_values or (len(set(spelt)) > FEW_VALUES and any(value % 1 for value in spelt))):
        told = spelt
    if told and all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in told):
        found = np.full(len(values), np.nan)
        found[known] = told
        return found, None
    return np.array([str(value) if here else "" for value, here in zip(values, known, strict=True)]), None


def spell_out(told: Sequence[Any]) -> list[float]:
    """The numbers that text spells; none where any does not."""
    if not all(isinstance(value, str) and SPELT.fullmatch(value.strip()) for value in told):
        return []
    return [float(value) for value in told]


def read_name_lists(values: Sequence[Any], known: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """(rows, classes) of 0 and 1."""
    wrong = [value for value, here in zip(values, known, strict=True) if here and np.ndim(value) != 1]
    if wrong:
        raise mistake("data.label", f"must be a list of class names in every row. Got {wrong[0]!r}.")
    rows = [set(map(str, value)) if here else set() for value, here in zip(values, known, strict=True)]
    names = tuple(sorted(set().union(*rows)))
    if len(names) < 2:
        raise mistake("data.label", f"names one class only ({names[0]}); at least two are needed.")
    return np.array([[name in row for name in names] for row in rows], np.float32), names


def read_pool(options: DataOptions, named: Sequence[str], cache: Path) -> list[str]:
    """Unlabelled texts of `data.transfer`, in any format that the data could have; labels in it are not looked at."""
    where, asked = "data.transfer", str(options.transfer)
    path = (options.folder / asked).resolve()
    if is_reference(asked):
        made = read_user_arrays(asked, options.folder, where)
        if isinstance(made, Source):
            raise mistake(where, f"{asked} must return named arrays for task: text, one of them text.")
        columns: Columns = {name: list(values) for name, values in made.items()}
    elif not path.exists():
        raise mistake(where, f"names {asked}, which is not there (looked for {path}).")
    elif path.is_dir() and not is_hugging_face(path):
        files = list_pool(path, ENDINGS)
        columns = {"text": [read_text(file, where) for file in files]}
    elif path.suffix in TABLES or path.is_dir():
        columns = read_columns(path, cache, where)
    else:
        raise mistake(where, f"must be {FORMATS} for task: text. Got {asked}.")
    named = named if all(name in columns for name in named) else [n for n in COLUMNS if n in columns][:1]
    if not named:
        raise mistake(where, f"lacks the data's column of text. It has {', '.join(columns)}.")
    texts, _ = clean(join_columns(columns, named), where)
    kept = [text for text in texts if text]
    if not kept:
        raise mistake(where, f"{asked} holds no text.")
    return kept
