"""Rows of named columns: .csv, .parquet, saved Hugging Face datasets; a table, or encoded images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from family.errors import mistake
from family.tasks.arrow import arrow_columns, attach, find_pictures, frame_files, is_binary, map_parquet
from family.tasks.named import is_known, no_label, refuse_boxes, take_group
from family.tasks.options import DataOptions, Source


def read_frame(path: Path, where: str) -> pd.DataFrame:
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError, UnicodeDecodeError) as problem:
        raise mistake(where, f"{path.name} cannot be read as {path.suffix}: {problem}") from problem


def read_any_frame(path: Path, cache: Path | None, where: str) -> pd.DataFrame:
    """Rows of a .csv, a .parquet or a saved Hugging Face dataset; columns of encoded images stay in Arrow."""
    if path.is_dir():
        return read_hugging_face(path, where)
    return read_parquet(path, cache, where) if path.suffix == ".parquet" else read_frame(path, where)


def read_parquet(path: Path, cache: Path | None, where: str) -> pd.DataFrame:
    """A column of encoded images stays in Arrow, mapped from disk where there is a cache."""
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        pictures = [field.name for field in schema if is_binary(field.type)]
        if not pictures:
            return read_frame(path, where)
        frame = pd.read_parquet(path, columns=[name for name in schema.names if name not in pictures])
        columns = map_parquet(path, pictures, cache) if cache else pq.read_table(path, columns=pictures)
    except (ValueError, OSError) as problem:
        raise mistake(where, f"{path.name} cannot be read as .parquet: {problem}") from problem
    return attach(frame, arrow_columns(columns, pictures))


def is_hugging_face(folder: Path) -> bool:
    return (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()


def read_hugging_face(path: Path, where: str) -> pd.DataFrame:
    """A dataset saved by `save_to_disk`: an image feature, or columns of a table."""
    try:
        import datasets
    except ImportError as problem:
        raise mistake(
            where, "is a Hugging Face dataset; install it with: pip install 'student-family[hf]'"
        ) from problem
    opened = datasets.load_from_disk(str(path))
    tables = dict(opened) if isinstance(opened, datasets.DatasetDict) else {"": opened}
    frames = []
    for name, table in tables.items():
        pictures = [c for c, feature in table.features.items() if isinstance(feature, datasets.Image)]
        whole = table.with_format("arrow")[:]
        frame = attach(whole.drop_columns(pictures).to_pandas(), arrow_columns(whole, pictures))
        for column, feature in table.features.items():
            if isinstance(feature, datasets.ClassLabel):
                frame[column] = [feature.names[i] if i >= 0 else None for i in frame[column]]
        frames.append(frame.assign(split=name) if name else frame)
    return pd.concat(frames, ignore_index=True)


def from_frame(frame: pd.DataFrame, options: DataOptions) -> Source:
    label = options.label or "label"
    refuse_boxes(frame.columns)
    if label not in frame:
        raise no_label(label, list(frame.columns))
    columns = {name: frame[name] for name in frame.columns}
    labels = columns.pop(label)
    split = columns.pop("split").astype(str).to_numpy() if "split" in columns else None
    groups = take_group(columns, options)
    known = labels.notna().to_numpy() & (True if split is None else is_known(split, options))
    truth = stack_lists(labels, known)
    pictures = find_pictures(columns)
    if pictures:
        return picture_table(columns[pictures[0]], truth, known, split, groups)
    table = encode_table(columns)
    return Source(
        "table",
        table["columns"],
        truth,
        known,
        split=split,
        groups=groups,
        preprocessing=table["preprocessing"],
        notes=table["notes"],
        warnings=table["warnings"],
    )


def stack_lists(column: pd.Series, known: np.ndarray) -> np.ndarray:
    """Labels (rows,); of a column of lists (rows, k), 0 where not known. Raises Mistakes for lists that do not fit."""
    values = column.to_numpy()
    rows = [np.asarray(value) for value in values[known]]
    if not any(row.ndim for row in rows):
        return np.asarray(values)
    if {row.ndim for row in rows} != {1} or len({len(row) for row in rows}) != 1:
        lengths = sorted({len(row) if row.ndim else 0 for row in rows})[:5]
        said = f"must be lists of one length, a number per class (0 or 1) or value. Got lengths {lengths}."
        raise mistake("data.label", said)
    wrong = [row for row in rows if row.dtype.kind not in "biuf"]
    if wrong:
        raise mistake("data.label", f"must be lists of numbers, such as [0, 1, 1]. Got {wrong[0].tolist()}.")
    stacked = np.zeros((len(values), len(rows[0])), np.result_type(*{row.dtype for row in rows}))
    stacked[known] = rows
    return stacked


def picture_table(
    column: pd.Series,
    labels: np.ndarray,
    known: np.ndarray,
    split: np.ndarray | None,
    groups: np.ndarray | None,
) -> Source:
    return Source(
        "images",
        {},
        labels,
        known,
        split=split,
        groups=groups,
        files=frame_files(column),
        layout="hwc",
        notes=("task: images, from encoded bytes",),
    )


MOST_CATEGORIES = 64


def encode_table(columns: Mapping[str, pd.Series]) -> dict[str, Any]:
    """Numbers as float32 with NaN for missing, categories as codes; the mapping goes into the manifest."""
    numbers, categories, notes, warnings = {}, {}, [], []
    for name, column in columns.items():
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            numbers[name] = column.to_numpy(np.float32, na_value=np.nan)
            continue
        text = column.astype("string")
        counts = text.value_counts()
        if len(counts) > 0.9 * len(column) and len(column) > 50:
            warnings.append(f"column '{name}' has a value of its own in nearly every row, like an id; it is left out")
            continue
        kept = sorted(counts.index[:MOST_CATEGORIES].astype(str))
        if len(counts) > MOST_CATEGORIES:
            notes.append(f"column '{name}': {len(counts)} categories, the {MOST_CATEGORIES} most frequent kept")
        codes = {value: code for code, value in enumerate(kept)}
        categories[name] = (codes, text.map(codes).fillna(-1).to_numpy(np.int64))
    arrays: dict[str, np.ndarray] = {}
    if numbers:
        arrays["numbers"] = np.stack(list(numbers.values()), 1)
    if categories:
        arrays["categories"] = np.stack([codes for _, codes in categories.values()], 1)
    if not arrays:
        raise mistake("data.path", "has no column that could be an input. For a column of texts set task: text.")
    described = {
        "numbers": list(numbers),
        "categories": {n: codes for n, (codes, _) in categories.items()},
        "unknown_code": -1,
    }
    notes.insert(0, f"task: table of {len(numbers)} numbers and {len(categories)} categories")
    return {
        "columns": arrays,
        "preprocessing": {"columns": described},
        "notes": tuple(notes),
        "warnings": tuple(warnings),
    }
