"""Encoded images in a column: of Arrow where they lie there, taken out one at a time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from family.run_folder import content_id, write_beside


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


def find_pictures(columns: Any) -> list[str]:
    """Names of the columns, of a frame or a mapping, that hold encoded images."""
    return [str(name) for name in columns if is_image_column(columns[name])]


def is_image_column(column: pd.Series) -> bool:
    if isinstance(column.dtype, pd.ArrowDtype):
        return is_binary(column.dtype.pyarrow_dtype)
    first = column.dropna().iloc[0] if column.notna().any() else None
    return isinstance(first, bytes) or (isinstance(first, Mapping) and "bytes" in first)


def frame_files(column: pd.Series) -> Sequence[Any]:
    """Encoded images of a column: left in Arrow where they lie there."""
    if isinstance(column.dtype, pd.ArrowDtype):
        import pyarrow as pa

        return Encoded(pa.chunked_array(column.array.__arrow_array__()))
    return tuple(v["bytes"] if isinstance(v, Mapping) else v for v in column)


def decode(file: Any) -> np.ndarray:
    """Pixels (height, width, 3) uint8 of a file or of encoded bytes. Raises OSError where it is broken."""
    from PIL import Image

    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
        picture.load()
        return np.asarray(picture.convert("RGB"))
