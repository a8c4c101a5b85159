"""Small tasks and teachers for tests."""

from pathlib import Path

import numpy as np

from family.tasks import DataOptions, DataTask, open_task


def open_npz(folder: Path, arrays: dict[str, np.ndarray], **options) -> DataTask:
    """A task over named arrays, written to `folder/data.npz` first."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", **arrays)
    return open_task(DataOptions("data.npz", folder, **options), folder / "cache")


def open_numbers(folder: Path, classes: int = 3, rows: int = 120, **options) -> DataTask:
    """A table of four numbers whose class is where the first is largest, classes equally frequent."""
    rng = np.random.default_rng(0)
    label = np.arange(rows) % classes
    numbers = rng.normal(size=(rows, 4)).astype(np.float32)
    numbers[:, 0] += 2 * label
    return open_npz(folder, {"numbers": numbers, "label": label}, **options)


class CountingTeacher:
    """Says fixed logits per row and view, and counts how often it is asked."""

    fingerprint = "counting"
    views = None
    cost = {}  # noqa: RUF012
    notes = ()

    def __init__(self, outputs: int):
        self.outputs_wide, self.calls = outputs, 0

    def outputs(self, split: str, rows: np.ndarray, view: int) -> np.ndarray:
        self.calls += 1
        return say(split, rows, view, self.outputs_wide)


def say(split: str, rows: np.ndarray, view: int, outputs: int) -> np.ndarray:
    """(rows, outputs) float32, a draw of its own for every split, view and row."""
    offset = {"train": 1, "transfer": 2, "val": 3, "test": 4}[split]
    drawn = [np.random.default_rng([offset, view, int(r)]).normal(0, 3, outputs) for r in rows]
    return np.array(drawn, np.float32)
