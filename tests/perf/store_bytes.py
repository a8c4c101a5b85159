"""What the soft-target store takes on disk: bytes per view, dense and sparse, at 10, 100 and 1,000 classes.

`python -P tests/perf/store_bytes.py`, some seconds. The teacher is drawn at random: only sizes matter.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from family.soft_targets import TOP, open_store

CLASSES, ROWS, VIEWS = (10, 100, 1000), {"train": 500, "transfer": 1500}, 4


@dataclass(frozen=True)
class RowsOnly:
    """As much of a task as a store asks for."""

    classes: int
    kind: str = "classification"

    @property
    def fingerprint(self) -> str:
        return f"rows-{self.classes}"

    @property
    def body(self) -> Any:
        return SimpleNamespace(outputs=(SimpleNamespace(shape=("batch", self.classes)),))

    def rows(self, split: str) -> int:
        return ROWS.get(split, 0)


@dataclass(frozen=True)
class DrawnTeacher:
    classes: int
    fingerprint: str = "drawn"
    views: int | None = None

    def outputs(self, split: str, rows: np.ndarray, view: int) -> np.ndarray:
        rng = np.random.default_rng([len(split), view, int(rows[0])])
        return rng.normal(0, 3, (len(rows), self.classes)).astype(np.float32)


def measure(classes: int, dense: bool, folder: Path) -> tuple[float, int, float]:
    """Bytes per view on disk and by the store's own account, and μs to read a batch of 64."""
    store = open_store(DrawnTeacher(classes), RowsOnly(classes), VIEWS, folder, 10**12 if dense else 0)
    assert store.dense == dense
    disk = sum(path.stat().st_size for path in folder.rglob("*.npy"))
    rng = np.random.default_rng(0)
    rows, views = rng.integers(0, ROWS["train"], 64), rng.integers(0, VIEWS, 64)
    start = time.perf_counter()
    for _ in range(200):
        store.batch("train", rows, views)
    spent = (time.perf_counter() - start) / 200
    return disk / (sum(ROWS.values()) * VIEWS), store.bytes_per_view, 1e6 * spent


def main() -> None:
    print(f"{sum(ROWS.values())} rows, {VIEWS} views, files with their headers; batches of 64")
    print(f"{'classes':>8}{'store':>8}{'bytes per view':>16}{'by its account':>16}{'batch us':>10}")
    for classes in CLASSES:
        for dense in (True, False):
            name = "dense" if dense else "sparse"
            if not dense and classes <= TOP + 1:
                print(f"{classes:8}{name:>8}{'(always dense)':>16}")
                continue
            with tempfile.TemporaryDirectory() as folder:
                disk, account, spent = measure(classes, dense, Path(folder))
            print(f"{classes:8}{name:>8}{disk:16.1f}{account:16}{spent:10.1f}")


if __name__ == "__main__":
    main()
