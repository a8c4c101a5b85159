"""What can be wrong with data, found before any work."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from family.errors import Mistake, Mistakes
from family.tasks.arrow import decode
from family.tasks.options import Source

SHOWN = 5


def collect(*steps: Callable[[], object]) -> None:
    """Run every step; then raise the Mistakes of all that failed, together."""
    found: list[Mistake] = []
    for step in steps:
        try:
            step()
        except Mistakes as problem:
            found += problem.mistakes
    if found:
        raise Mistakes(found)


def bad_rows(values: np.ndarray, bad: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Rows where `bad` holds anywhere, read in pieces: `values` may be larger than memory."""
    piece = max(1, 50_000_000 // max(values[:1].nbytes, 1))
    parts = [
        start
        + np.flatnonzero(bad(values[start : start + piece]).reshape(len(values[start : start + piece]), -1).any(1))
        for start in range(0, len(values), piece)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def check_values(source: Source) -> None:
    """Raises Mistakes for NaN or infinity where they cannot be meant (a table's numbers may be missing)."""
    wrong = []
    for name, values in source.columns.items():
        if values.dtype.kind != "f":
            continue
        rows = bad_rows(values, np.isinf if source.kind == "table" else lambda part: ~np.isfinite(part))
        if len(rows):
            what = "infinite values" if source.kind == "table" else "NaN or infinite values"
            wrong.append(
                Mistake("data.path", f"'{name}' holds {what} in {len(rows)} rows, first {rows[:SHOWN].tolist()}.")
            )
    if source.labels.dtype.kind == "f":
        bad = np.isinf(source.labels) | (
            np.isnan(source.labels) & source.known.reshape(-1, *[1] * (source.labels.ndim - 1))
        )
        rows = np.flatnonzero(bad.reshape(len(bad), -1).any(1))
        if len(rows):
            wrong.append(
                Mistake(
                    "data.label",
                    f"holds NaN or infinite values in {len(rows)} rows, first {rows[:SHOWN].tolist()}.",
                )
            )
    if wrong:
        raise Mistakes(wrong)


def image_sizes(source: Source) -> set[tuple[int, int]]:
    """Sides of every encoded image. Raises Mistakes naming those that are corrupt or truncated."""

    def side(file: object) -> tuple[int, int] | None:
        try:
            height, width = decode(file).shape[:2]
        except (OSError, ValueError, SyntaxError, EOFError, struct.error):
            return None
        return height, width

    with ThreadPoolExecutor(2) as pool:
        sides = list(pool.map(side, source.files))
    broken = [i for i, found in enumerate(sides) if found is None]
    if broken:
        names = [getattr(source.files[i], "name", f"row {i}") for i in broken[:SHOWN]]
        raise Mistakes(
            [Mistake("data.path", f"holds {len(broken)} corrupt or truncated images, first {', '.join(names)}.")]
        )
    return {found for found in sides if found is not None}


def warn_of_duplicates(keys: np.ndarray, splits: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Rows of one split that stand, equal to the last bit, in one that came before it."""
    taught = np.concatenate([splits["train"], splits["transfer"]])
    found = []
    for name, there, where in (
        ("val", taught, "train or transfer"),
        ("test", taught, "train or transfer"),
        ("test", splits["val"], "val"),
    ):
        again = int(np.isin(keys[splits[name]], keys[there]).sum())
        if again:
            found.append(f"{again} of {len(splits[name])} {name} rows stand in {where} too: scores are flattered")
    return tuple(found)


def row_keys(source: Source) -> np.ndarray:
    """A hash per row over all its raw inputs."""
    if source.files:
        raw = (f if isinstance(f, bytes) else Path(f).read_bytes() for f in source.files)
        return np.array([hashlib.sha256(b).hexdigest()[:16] for b in raw])
    arrays = [np.ascontiguousarray(values) for values in source.columns.values()]
    return np.array(
        [hashlib.sha256(b"".join(a[i].tobytes() for a in arrays)).hexdigest()[:16] for i in range(source.rows)]
    )
