"""Named arrays, of an .npz or of a user's function: images, series, tables of numbers, several plain inputs."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from family.errors import mistake
from family.tasks.named import is_known, no_label, refuse_boxes, take_group
from family.tasks.options import DataOptions, Source

PIXELS = (1, 3, 4)  # channels that images usually have
MAPPED = 64_000_000  # bytes from which an array of an .npz is mapped, not read


def load_arrays(path: Path, where: str) -> dict[str, np.ndarray]:
    """Every array of an .npz. Raises Mistakes where it is none, or broken."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            mapped = {name: map_array(path, name) for name in archive.files}
            return {n: archive[n] if found is None else found for n, found in mapped.items()}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as problem:
        if "allow_pickle" in str(problem) and zipfile.is_zipfile(path):
            raise mistake(
                where,
                f"{path.name} is no readable .npz: it holds pickled objects, which are not opened. "
                "Store series of unequal lengths as (rows, channels, time) with an array `length`, "
                "names as text.",
            ) from problem
        raise mistake(where, f"{path.name} is no readable .npz: {problem}") from problem


def map_array(path: Path, name: str) -> np.ndarray | None:
    """The array `name` of an .npz, memory-mapped where large and stored uncompressed (as np.savez does)."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as handle:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size < MAPPED:
            return None
        handle.seek(member.header_offset + 26)
        handle.seek(sum(struct.unpack("<HH", handle.read(4))), 1)  # the local header's own name and extra field
        version = np.lib.format.read_magic(handle)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(handle)
        if dtype.hasobject:
            return None
        order: Any = "F" if fortran else "C"
        return np.memmap(path, dtype, "r", handle.tell(), shape, order)


def from_arrays(arrays: dict[str, np.ndarray], options: DataOptions) -> Source:
    """Named arrays: labels, `split` and the group taken out, what is left is input."""
    label = options.label or "label"
    refuse_boxes(arrays)
    if label not in arrays:
        raise no_label(label, list(arrays))
    arrays = pad_series(arrays)
    single = [name for name, values in arrays.items() if np.ndim(values) == 0]
    if single:
        raise mistake("data.path", f"holds single values instead of rows: {', '.join(single)}.")
    labels = np.asarray(arrays.pop(label))
    split = arrays.pop("split", None)
    groups = take_group(arrays, options)
    lengths = {name: len(values) for name, values in arrays.items()} | {label: len(labels)}
    lengths |= {} if split is None else {"split": len(split)}
    if len(set(lengths.values())) > 1:
        raise mistake("data.path", f"holds arrays of unequal numbers of rows: {lengths}.")
    if not arrays:
        raise mistake("data.path", f"holds no input beside the labels '{label}'.")
    known = np.ones(len(labels), bool) if split is None else is_known(split, options)
    kind, columns, layout, notes = guess_arrays(arrays, options)
    return Source(kind, columns, labels, known, split=split, groups=groups, layout=layout, notes=tuple(notes))


def pad_series(arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """Lists of series (channels, time) of unequal lengths → one padded array, and `length` beside it."""
    whole: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        rows = [np.asarray(row) for row in values] if isinstance(values, list | tuple) else []
        objects = isinstance(values, np.ndarray) and values.dtype.kind == "O"
        if objects and all(np.ndim(v) == 2 for v in values):
            rows = [np.asarray(row) for row in values]
        if not rows or len({row.shape for row in rows}) == 1:
            whole[name] = np.asarray(values)
            continue
        if {row.ndim for row in rows} != {2} or len({len(row) for row in rows}) != 1:
            shapes = sorted({row.shape for row in rows})[:5]
            raise mistake("data.path", f"'{name}' must be series (channels, time) of equal channels. Got {shapes}.")
        length = np.array([row.shape[1] for row in rows], np.int64)
        padded = np.zeros((len(rows), len(rows[0]), int(length.max())), np.float32)
        for place, row in zip(padded, rows, strict=True):
            place[:, : row.shape[1]] = row
        whole |= {name: padded, "length": length}
    return whole


def cut_series(series: np.ndarray, length: np.ndarray, where: str = "data.path") -> dict[str, np.ndarray]:
    """Series float32 with 0 from `length` on, whatever lay there.

    Raises Mistakes for lengths that cannot be.
    """
    wrong = np.flatnonzero(~((length >= 1) & (length <= series.shape[2]) & (length % 1 == 0)))
    if len(wrong):
        raise mistake(
            where,
            f"'length' must be whole numbers from 1 to {series.shape[2]}. "
            f"Got {length[wrong[0]]} in row {wrong[0]} ({len(wrong)} such rows).",
        )
    whole = np.empty(series.shape, np.float32)
    for row, (place, end) in enumerate(zip(whole, length.astype(np.int64), strict=True)):
        place[:, :end], place[:, end:] = series[row, :, :end], 0
    return {"series": whole, "length": length.astype(np.int64)}


def guess_arrays(
    arrays: dict[str, np.ndarray], options: DataOptions
) -> tuple[str, dict[str, np.ndarray], str, list[str]]:
    """What named arrays are: images, series, a table of numbers, or several plain inputs."""
    names = list(arrays)
    inputs = [n for n in names if n != "length"]
    if len(inputs) == 1:
        array = arrays[inputs[0]]
        asked = options.task
        if asked == "series" or (asked is None and "length" in names):
            if array.ndim != 3:
                raise mistake("data.path", f"series must be (rows, channels, time). Got '{inputs[0]}' {array.shape}.")
            columns = {"series": array.astype(np.float32, copy=False)}
            if "length" in arrays:
                columns = cut_series(array, arrays["length"])
            return "series", columns, "", [f"task: series, channels {array.shape[1]}, time {array.shape[2]}"]
        if asked == "images" or (asked is None and array.ndim >= 3):
            layout, how = find_layout(inputs[0], array, options.layout)
            kept = array if array.dtype == np.uint8 else array.astype(np.float32, copy=False)
            return (
                "images",
                {"image": kept},
                layout,
                [f"task: images, layout {layout} {how}"],
            )
        if array.ndim == 2:
            columns = {"numbers": array.astype(np.float32, copy=False)}
            return "table", columns, "", [f"task: table of {array.shape[1]} numbers"]
    return (
        "plain",
        {n: arrays[n].astype(np.float32, copy=False) for n in names},
        "",
        [f"task: several named inputs: {', '.join(names)}"],
    )


def find_layout(name: str, array: np.ndarray, asked: str | None) -> tuple[str, str]:
    """hw, hwc or chw, and how it was found: the axis of channels is clearly shorter than the sides of the image.

    Raises Mistakes where either end could hold the channels, and no `data.layout` says which.
    """
    if array.ndim == 3 and asked is None:
        return "hw", f"guessed from shape {array.shape[1:]}"
    if array.ndim != 4:
        where, channels = ("data.path", "[, channels]") if asked is None else ("data.layout", ", channels")
        raise mistake(
            where,
            f"images must be (rows, height, width{channels}) or (rows, channels, height, width). "
            f"Got '{name}' {array.shape}.",
        )
    if asked is not None:
        return asked, "as data.layout says"
    first, second, last = array.shape[1:]
    able = {"chw": 2 * first <= min(second, last), "hwc": 2 * last <= min(first, second)}
    if sum(able.values()) != 1:
        able = {"chw": first in PIXELS, "hwc": last in PIXELS}
    if sum(able.values()) != 1:
        raise mistake(
            "data.layout",
            f"must be given, hwc or chw: rows of '{name}' {array.shape[1:]} may be {first} × {second} pixels of "
            f"{last} channels (hwc), or {second} × {last} pixels of {first} channels (chw).",
        )
    return ("chw" if able["chw"] else "hwc"), f"guessed from shape {array.shape[1:]}"
