"""The transfer pool: unlabelled examples from elsewhere, read as the data are and appended to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from family.doors import is_reference
from family.errors import mistake
from family.tasks.arrays import cut_series, load_arrays, pad_series
from family.tasks.arrow import find_pictures, frame_files, join_files
from family.tasks.folders import IMAGE_ENDINGS
from family.tasks.frames import is_hugging_face, read_any_frame
from family.tasks.options import DataOptions, Source
from family.tasks.user_functions import read_user_arrays

WHERE = "data.transfer"
POOLS = "a folder of images, .npz, .csv, .parquet, a saved Hugging Face dataset, or path/file.py:function"


def join_transfer(
    source: Source, splits: dict[str, np.ndarray], truth: np.ndarray, options: DataOptions, cache: Path
) -> tuple[Source, dict[str, np.ndarray], np.ndarray]:
    """Append the unlabelled examples of `data.transfer` to the source, as transfer rows."""
    if options.transfer is None:
        return source, splits, truth
    pool = read_pool(source, options, cache)
    count = len(pool.files) or len(next(iter(pool.columns.values())))
    if {n: v.shape[1:] for n, v in pool.columns.items()} != {n: v.shape[1:] for n, v in source.columns.items()}:
        raise mistake(
            WHERE,
            f"has inputs {[v.shape[1:] for v in pool.columns.values()]}, "
            f"the data has {[v.shape[1:] for v in source.columns.values()]}.",
        )
    for name, values in source.columns.items():
        if not np.can_cast(pool.columns[name].dtype, values.dtype, "same_kind"):
            raise mistake(WHERE, f"holds '{name}' as {pool.columns[name].dtype}; the data hold it as {values.dtype}.")
    rows = np.arange(source.rows, source.rows + count)
    blank = np.zeros((count, *truth.shape[1:]), truth.dtype)
    joined = replace(
        source,
        columns={n: np.concatenate([v, pool.columns[n].astype(v.dtype)]) for n, v in source.columns.items()},
        files=join_files(source.files, pool.files),
        labels=np.concatenate([source.labels, np.repeat(source.labels[:1], count, 0)]),
        known=np.concatenate([source.known, np.zeros(count, bool)]),
        groups=None if source.groups is None else np.concatenate([source.groups, np.full(count, "transfer")]),
    )
    return (
        joined,
        splits | {"transfer": np.concatenate([splits["transfer"], rows])},
        np.concatenate([truth, blank]),
    )


def read_pool(source: Source, options: DataOptions, cache: Path) -> Source:
    """The unlabelled examples, in any format that the data could have; labels in it are not looked at."""
    named = str(options.transfer)
    if is_reference(named):
        made = read_user_arrays(named, options.folder, WHERE)
        return made if isinstance(made, Source) else take_arrays(made, source, options)
    path = (options.folder / named).resolve()
    if not path.exists():
        raise mistake(WHERE, f"names {named}, which is not there (looked for {path}).")
    if path.is_dir() and not is_hugging_face(path):
        return take_folder(path, source, named)
    if path.suffix == ".npz":
        return take_arrays(load_arrays(path, WHERE), source, options)
    if path.suffix in (".csv", ".parquet") or path.is_dir():
        return take_frame(read_any_frame(path, cache, WHERE), source, named)
    raise mistake(WHERE, f"must be {POOLS}. Got {named}.")


def take_folder(path: Path, source: Source, named: str) -> Source:
    if not source.files:
        raise mistake(WHERE, f"is a folder of images; the data are {describe_data(source)}. Got {named}.")
    files = tuple(f for f in sorted(path.rglob("*")) if f.suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise mistake(WHERE, f"{named} has no images.")
    return replace(source, files=files)


def describe_data(source: Source) -> str:
    return "images in files" if source.files else f"arrays {', '.join(source.columns)}"


def take_arrays(arrays: dict[str, Any], source: Source, options: DataOptions) -> Source:
    """Arrays by the data's own input names, or the only one there is."""
    if source.files:
        raise mistake(WHERE, f"holds arrays; the data are images in files. Got {options.transfer}.")
    apart = (options.label or "label", "split", options.group)
    given = pad_series({name: values for name, values in arrays.items() if name not in apart})
    if len(given) == 1 and len(source.columns) == 1:
        given = dict(zip(source.columns, given.values(), strict=True))
    if set(given) != set(source.columns):
        raise mistake(WHERE, f"has arrays {', '.join(given)}; the data has {', '.join(source.columns)}.")
    if "length" in given and source.kind == "series":
        given = cut_series(given["series"], given["length"], WHERE)
    return replace(source, columns=given)


def take_frame(frame: pd.DataFrame, source: Source, named: str) -> Source:
    """Encoded images, or the data's own columns with the data's own codes of categories."""
    if source.files:
        pictures = find_pictures(frame)
        if not pictures:
            raise mistake(
                WHERE, f"{named} has no column of images, which the data are. It has {', '.join(map(str, frame))}."
            )
        return replace(source, files=frame_files(frame[pictures[0]]))
    described = source.preprocessing.get("columns")
    if described is None:
        raise mistake(WHERE, f"{named} is a table; the data are {describe_data(source)}.")
    return replace(source, columns=encode_alike(frame, described))


def encode_alike(frame: pd.DataFrame, described: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Numbers (rows, n) float32 and codes (rows, m) int64 in the order and with the mapping of the data."""
    numbers, categories = described["numbers"], described["categories"]
    missing = [name for name in [*numbers, *categories] if name not in frame]
    if missing:
        raise mistake(
            WHERE, f"lacks columns that the data has: {', '.join(missing)}. It has {', '.join(map(str, frame))}."
        )
    text = [name for name in numbers if not pd.api.types.is_numeric_dtype(frame[name]) and frame[name].notna().any()]
    if text:
        raise mistake(WHERE, f"holds no numbers in columns that hold numbers in the data: {', '.join(text)}.")
    arrays = {}
    if numbers:
        plain = [pd.to_numeric(frame[name]).to_numpy(np.float32, na_value=np.nan) for name in numbers]
        arrays["numbers"] = np.stack(plain, 1)
    if categories:
        coded = [
            frame[n].astype("string").map(codes).fillna(described["unknown_code"]) for n, codes in categories.items()
        ]
        arrays["categories"] = np.stack([column.to_numpy(np.int64) for column in coded], 1)
    return arrays
