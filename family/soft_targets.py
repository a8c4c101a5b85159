"""The soft-target store: what the teacher says of every view of train and transfer, asked once and kept.

Views are replayed from a seed by the task, never stored. Dense stores hold float16 logits; where those would take
more than `DENSE_BYTES`, a sparse store holds the top logits, mean and deviation of all, and the log-sum-exp of the
rest at a fixed grid of temperatures.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from family.run_folder import content_id, write_json
from family.types import SoftBatch, Split, Task, Teacher

DENSE_BYTES = 2_000_000_000
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
TOP = 10  # 10 × (2 + 2) + 4 × 4 + 2 × 2 = 60 bytes a view
CHUNK = 512
SPLITS: tuple[Split, ...] = ("train", "transfer")


@dataclass(frozen=True)
class SoftTargets:
    """`arrays[split][field]`: dense `logits` (views, rows, k); sparse `ids`, `top`, `moments`, `rest`."""

    fingerprint: str
    views: int
    outputs: int
    arrays: dict[str, dict[str, np.ndarray]]

    @property
    def dense(self) -> bool:
        return "logits" in self.arrays["train"]

    @property
    def has(self) -> frozenset[str]:
        return (
            frozenset({"all", "top", "moments", "rest"})
            if self.dense
            else frozenset({"top", "moments", "rest"})
        )

    @property
    def temperatures(self) -> tuple[float, ...]:
        return TEMPERATURES

    @property
    def bytes_per_view(self) -> int:
        return int(sum(a.nbytes // (a.shape[0] * a.shape[1]) for a in self.arrays["train"].values()))

    def batch(self, split: Split, rows: np.ndarray, views: np.ndarray) -> SoftBatch:
        """Soft targets of `rows` (n,) at `views` (n,), float32."""
        kept = self.arrays[split]
        if self.dense:
            return SoftBatch(logits=torch.from_numpy(kept["logits"][views, rows].astype(np.float32)))
        take = {name: torch.from_numpy(array[views, rows].astype(np.float32)) for name, array in kept.items()}
        moments = take["moments"]
        ids = take["ids"].long()
        return SoftBatch(
            ids=ids,
            top=take["top"],
            mean=moments[:, 0],
            std=moments[:, 1],
            rest=take["rest"],
            temperatures=TEMPERATURES,
        )


def open_store(
    teacher: Teacher,
    task: Task,
    views: int,
    folder: Path,
    dense_bytes: int = DENSE_BYTES,
    progress: Callable[[str], None] = lambda _: None,
) -> SoftTargets:
    """The store of this teacher, data and augmentation, filled now where it is not there yet.

    Written under another name and renamed when whole: a half-written store is never read.
    """
    outputs = int(task.body.outputs[0].shape[1])
    rows = sum(task.rows(split) for split in SPLITS)
    dense = 2 * outputs * rows * views <= dense_bytes or outputs <= TOP + 1
    key = content_id(teacher.fingerprint, task.fingerprint, views, "dense" if dense else [TOP, TEMPERATURES])
    place = folder / key
    if not (place / "done.json").exists():
        fill(teacher, task, views, dense, place, progress)
    arrays = {
        split: {path.stem.split("-")[1]: read_array(path) for path in sorted(place.glob(f"{split}-*.npy"))}
        for split in SPLITS
        if task.rows(split)
    }
    return SoftTargets(key, views, outputs, arrays)


def read_array(path: Path) -> np.ndarray:
    """Memory-mapped; small arrays are taken into memory."""
    array = np.load(path, mmap_mode="r")
    return np.array(array) if array.nbytes < 256_000_000 else array


def fill(
    teacher: Teacher, task: Task, views: int, dense: bool, place: Path, progress: Callable[[str], None]
) -> None:
    fields = sparse_fields if not dense else value_fields if task.kind == "regression" else dense_fields
    part = place.with_name(f".{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for split in SPLITS:
        if not task.rows(split):
            continue
        maps: dict[str, np.memmap] = {}
        for view in range(views):
            progress(f"teacher: {split}, view {view + 1} of {views}")
            for rows in chunks(task.rows(split)):
                said = teacher.outputs(split, rows, view)
                for name, values in fields(said).items():
                    if name not in maps:
                        shape = (views, task.rows(split), *values.shape[1:])
                        path = part / f"{split}-{name}.npy"
                        maps[name] = np.lib.format.open_memmap(path, "w+", values.dtype, shape)
                    maps[name][view, rows] = values
        for array in maps.values():
            array.flush()
    write_json(
        part / "done.json",
        {"views": views, "dense": dense, "teacher": teacher.fingerprint, "task": task.fingerprint},
    )
    shutil.rmtree(place, ignore_errors=True)
    part.rename(place)


def chunks(rows: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + CHUNK, rows)) for start in range(0, rows, CHUNK)]


def dense_fields(said: np.ndarray) -> dict[str, np.ndarray]:
    """Logits (rows, k) as float16."""
    return {"logits": np.clip(said, -60_000, 60_000).astype(np.float16)}


def value_fields(said: np.ndarray) -> dict[str, np.ndarray]:
    """Values (rows, k) of a regression, which may be of any size, as float32."""
    return {"logits": said.astype(np.float32)}


def sparse_fields(said: np.ndarray) -> dict[str, np.ndarray]:
    """The top logits and what is needed of the rest; logits (n, k) → fields (n, …)."""
    ids = np.argsort(-said, axis=1)[:, :TOP]
    top = np.take_along_axis(said, ids, 1)
    rest = said.astype(np.float64).copy()
    np.put_along_axis(rest, ids, -np.inf, 1)
    sums = np.stack([log_sum_exp(rest / t) for t in TEMPERATURES], 1)
    moments = np.stack([said.mean(1), said.std(1)], 1)
    return {
        "ids": ids.astype(np.uint16 if said.shape[1] < 65_536 else np.uint32),
        "top": top.astype(np.float16),
        "rest": sums.astype(np.float32),
        "moments": moments.astype(np.float16),
    }


def log_sum_exp(values: np.ndarray) -> np.ndarray:
    most = values.max(1, keepdims=True)
    return np.asarray(np.log(np.exp(values - most).sum(1)) + most[:, 0])


def score_outputs(teacher: Teacher, task: Task, split: Split, folder: Path) -> np.ndarray:
    """The teacher's clean outputs (rows, k) on val or test, kept; test is asked only when it is read."""
    path = folder / f"clean-{content_id(teacher.fingerprint, task.fingerprint, split)}.json"
    array = path.with_suffix(".npy")
    if not path.exists():
        outputs = np.concatenate([teacher.outputs(split, rows, 0) for rows in chunks(task.rows(split))])
        array.parent.mkdir(parents=True, exist_ok=True)
        part = array.with_name(f".{array.name}.part")
        with part.open("wb") as handle:
            np.save(handle, outputs.astype(np.float32))
        part.rename(array)
        path.write_text(json.dumps({"rows": len(outputs)}))
    return np.asarray(np.load(array))
