"""Readers: from what lies on disk to a `Source`. Which one reads is decided by the path's look."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from family.doors import is_reference
from family.errors import Mistake, Mistakes, mistake
from family.run_folder import content_id, write_beside
from family.split_names import USUAL
from family.suggest import did_you_mean
from family.tasks.options import DataOptions, Source
from family.tasks.user_functions import read_user_arrays

PIXELS = (1, 3, 4)  # channels that images usually have
MAPPED = 64_000_000  # bytes from which an array of an .npz is mapped, not read
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
FORMATS = "a folder of class folders, .npz, .csv, .parquet, a saved Hugging Face dataset, or path/file.py:function"


def read_source(options: DataOptions, cache: Path | None = None) -> Source:
    """Read the data of `options.path`. Raises Mistakes naming `data.path` or `data.label`.

    With a `cache` folder, images inside a .parquet are mapped from an Arrow copy there, not held in memory.
    """
    if options.path == "digits":
        refuse_unused(options, "the built-in digits, which have labels of their own and no groups")
        return read_digits()
    if is_reference(options.path):
        made = read_user_arrays(options.path, options.folder, "data.path")
        if isinstance(made, Source):
            refuse_unused(options, f"the Source that {options.path} returns, which holds its own")
            return made
        return from_arrays(made, options)
    path = (options.folder / options.path).resolve()
    if not path.exists():
        raise mistake("data.path", f"names {options.path}, which is not there (looked for {path}).")
    if path.is_dir() and not is_hugging_face(path):
        refuse_unused(options, "a folder of images, which has class folders for labels and no groups")
        return read_image_folder(path, options)
    if path.suffix == ".npz":
        return from_arrays(load_arrays(path, "data.path"), options)
    if path.suffix in (".csv", ".parquet") or path.is_dir():
        return from_frame(read_any_frame(path, cache, "data.path"), options)
    texts = " For texts set task: text, or lm." if path.suffix in (".jsonl", ".txt") else ""
    raise mistake("data.path", f"must be {FORMATS}. Got {options.path}.{texts}")


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


def read_digits() -> Source:
    """scikit-learn's digits: 1,797 images of 8 × 8, pixels 0 to 16; 200 rows for val, 600 for test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = np.arange(len(digits.target))
    _, rest = train_test_split(rows, test_size=800, random_state=0, stratify=digits.target)
    val, test = train_test_split(rest, train_size=200, random_state=0, stratify=digits.target[rest])
    split = np.full(len(rows), "train", dtype="<U8")
    split[val], split[test] = "val", "test"
    pixels = digits.images.astype(np.uint8)[..., None]
    known = np.ones(len(rows), bool)
    return Source("images", {"image": pixels}, digits.target, known, split=split, layout="hwc", peak=16.0)


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


def attach(frame: pd.DataFrame, columns: Mapping[str, pd.Series]) -> pd.DataFrame:
    """The frame with more columns; it may have had none."""
    return frame.assign(**columns) if len(frame.columns) else pd.DataFrame(dict(columns))


def is_binary(kind: Any) -> bool:
    """Bytes, or a struct that holds `bytes` (as Hugging Face stores images)."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and is_binary(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def map_parquet(path: Path, names: list[str], cache: Path) -> Any:
    """The columns `names` as a memory-mapped Arrow table, copied once, batch by batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    seen = path.stat()
    copy = cache / f"images-{content_id(str(path), seen.st_size, seen.st_mtime_ns, names)}.arrow"

    def fill(beside: Path) -> None:
        with pq.ParquetFile(path) as file, pa.OSFile(str(beside), "wb") as sink:
            schema = pa.schema([file.schema_arrow.field(name) for name in names])
            with pa.ipc.new_file(sink, schema) as writer:
                for batch in file.iter_batches(64, columns=names):
                    writer.write_batch(batch.cast(schema))

    if not copy.exists():
        write_beside(copy, fill)
    return pa.ipc.open_file(pa.memory_map(str(copy))).read_all()


def arrow_columns(table: Any, names: list[str]) -> dict[str, pd.Series]:
    """Columns for a frame that stay where they are, in Arrow."""
    return {name: pd.Series(pd.arrays.ArrowExtensionArray(table.column(name))) for name in names}


@dataclass(frozen=True, eq=False)
class Encoded(Sequence[Any]):
    """Encoded images of an Arrow column, taken out one at a time."""

    column: Any

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: Any) -> Any:
        value = self.column[int(row)].as_py()
        return (value["bytes"] if isinstance(value, Mapping) else value) or b""


@dataclass(frozen=True, eq=False)
class Joined(Sequence[Any]):
    """The files of the data, and after them those of a pool."""

    first: Sequence[Any]
    more: Sequence[Any]

    def __len__(self) -> int:
        return len(self.first) + len(self.more)

    def __getitem__(self, row: Any) -> Any:
        return self.first[row] if row < len(self.first) else self.more[row - len(self.first)]


def join_files(files: Sequence[Any], more: Sequence[Any]) -> Sequence[Any]:
    return Joined(files, more) if files else more


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


def find_pictures(columns: Any) -> list[str]:
    """Names of the columns, of a frame or a mapping, that hold encoded images."""
    return [str(name) for name in columns if is_image_column(columns[name])]


def is_image_column(column: pd.Series) -> bool:
    if isinstance(column.dtype, pd.ArrowDtype):
        return is_binary(column.dtype.pyarrow_dtype)
    first = column.dropna().iloc[0] if column.notna().any() else None
    return isinstance(first, bytes) or (isinstance(first, Mapping) and "bytes" in first)


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


def frame_files(column: pd.Series) -> Sequence[Any]:
    """Encoded images of a column: left in Arrow where they lie there."""
    if isinstance(column.dtype, pd.ArrowDtype):
        import pyarrow as pa

        return Encoded(pa.chunked_array(column.array.__arrow_array__()))
    return tuple(v["bytes"] if isinstance(v, Mapping) else v for v in column)


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


def read_image_folder(folder: Path, options: DataOptions) -> Source:
    """photos/<class>/<file>, or photos/<train|val|test>/<class>/<file> and photos/transfer/<file>."""
    found, split = list_files(folder, options, IMAGE_ENDINGS, "images")
    known = is_known(split, options)
    labels = np.array([label for _, label in found])
    return Source(
        "images",
        {},
        labels,
        known,
        split=split if split.any() else None,
        files=tuple(file for file, _ in found),
        layout="hwc",
        notes=(f"task: images, {len(found)} files of {len(set(labels[known]))} class folders",),
    )


def list_files(
    folder: Path, options: DataOptions, endings: tuple[str, ...], what: str
) -> tuple[list[tuple[Path, str]], np.ndarray]:
    """Files and the names of the class folders they lie in; and of every file its ready-made split, or ""."""
    parts = find_split_folders(folder, options, endings)
    found = {
        split: list_classes(part, endings)
        if is_known(split, options)
        else [(file, "") for file in list_pool(part, endings)]
        for split, part in parts.items()
    }
    empty = [split for split, own in found.items() if not own]
    if empty:
        inside = f"{folder.name}/{empty[0]}".rstrip("/")
        raise mistake("data.path", f"{inside} has no {what} in class folders ({', '.join(endings)}).")
    files = [one for own in found.values() for one in own]
    return files, np.array([split for split, own in found.items() for _ in own])


def find_split_folders(folder: Path, options: DataOptions, endings: tuple[str, ...]) -> dict[str, Path]:
    """Folders of ready-made splits by name, or the folder itself as "".

    Raises Mistakes where only some of the folders look like splits: which are classes cannot be told.
    """
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    asked = {n: v for n, v in (options.split or {}).items() if isinstance(v, str)}
    usual = {name for names in USUAL.values() for name in names}
    parts = {p.name: p for p in inside if p.name.lower() in usual or p.name in asked.values()}
    others = [p.name for p in inside if p.name not in parts and list_pool(p, endings)]
    if parts and others:
        raise mistake(
            "data.path",
            f"{folder.name} holds {', '.join(parts)}, which by name are ready-made splits, beside "
            f"{', '.join(others[:5])}, which are none. It must hold either class folders, or train, val and test "
            "with class folders inside; rename, or name them in data.split.",
        )
    return parts or {"": folder}


def list_classes(folder: Path, endings: tuple[str, ...]) -> list[tuple[Path, str]]:
    """Files and the names of the class folders they lie in."""
    groups = sorted(p for p in folder.iterdir() if p.is_dir())
    return [(file, group.name) for group in groups for file in list_pool(group, endings)]


def list_pool(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files of such endings anywhere below."""
    return [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in endings]


def is_known(split: np.ndarray | str, options: DataOptions) -> np.ndarray:
    """Whether rows of this split have a label: all but those of the pool, by the name that data.split gives it."""
    names, asked = np.asarray(split).astype(str), (options.split or {}).get("transfer")
    return np.asarray(np.char.lower(names) != "transfer" if asked is None else names != str(asked))


def decode(file: Any) -> np.ndarray:
    """Pixels (height, width, 3) uint8 of a file or of encoded bytes. Raises OSError where it is broken."""
    from PIL import Image

    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
        picture.load()
        return np.asarray(picture.convert("RGB"))


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
