"""The soft-target store: what the teacher says of every view of train and transfer, asked once and kept.

Views are replayed from a seed by the task, never stored. Dense stores hold float16 logits beside each row's
mean; where those would take more than `DENSE_BYTES`, a sparse store holds the top logits, mean and deviation of
all, and the log-sum-exp of the rest at a fixed grid of temperatures, as the teacher gives them and standardised.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from family.errors import mistake
from family.run_folder import content_id, write_beside, write_json
from family.types import VALUES, SoftBatch, Split, Store, Task, Teacher

FORMAT = 2
DENSE_BYTES = 2_000_000_000
IN_MEMORY = 256_000_000  # smaller arrays are taken into memory, and their hash is checked
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
TOP = 10  # 10 × (2 + 2) + 2 × 4 × 2 + 2 × 2 = 60 bytes a view
CHUNK = 512
SPLITS: tuple[Split, ...] = ("train", "transfer")


@dataclass(frozen=True)
class SoftTargets:
    """`arrays[split][field]`: (views, rows, …). Dense: `logits`, and `centre` where they are kept centred.
    Sparse: `ids`, `top`, `moments`, `rest`. `bytes_per_view` is what one view of one row takes on disk."""

    fingerprint: str
    views: int
    outputs: int
    bytes_per_view: int
    arrays: dict[Split, dict[str, np.ndarray]]

    @property
    def dense(self) -> bool:
        return "logits" in self.arrays["train"]

    @property
    def has(self) -> frozenset[str]:
        """What a loss may need, as `SoftBatch.has`."""
        kept = frozenset({"top", "moments", "rest"})
        return kept | {"all"} if self.dense else kept

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Those a loss may use with a sparse store."""
        return TEMPERATURES

    def batch(self, split: Split, rows: np.ndarray, views: np.ndarray) -> SoftBatch:
        """Soft targets of `rows` (n,) at `views` (n,), float32."""
        kept = self.arrays[split]
        if self.dense:
            logits = torch.from_numpy(kept["logits"][views, rows].astype(np.float32, copy=False))
            if "centre" in kept:
                logits = logits + torch.from_numpy(kept["centre"][views, rows])[:, None]
            return SoftBatch(logits=logits)
        take = {name: torch.from_numpy(array[views, rows].astype(np.float32)) for name, array in kept.items()}
        mean, std = take["moments"].unbind(1)
        rest = take["rest"]
        shift = mean[:, None] / torch.tensor(TEMPERATURES)
        return SoftBatch(
            ids=take["ids"].long(),
            top=take["top"] + mean[:, None],
            mean=mean,
            std=std,
            rest=torch.cat([rest[:, : len(TEMPERATURES)] + shift, rest[:, len(TEMPERATURES) :]], 1),
            temperatures=TEMPERATURES,
        )


def teacher_classes(store: Store, split: Split, rows: np.ndarray) -> np.ndarray:
    """(rows,): the class that the teacher sees in each, by its clean view."""
    said = store.batch(split, rows, np.zeros(len(rows), np.int64))
    if said.logits is not None:
        return np.asarray(said.logits.argmax(1))
    assert said.ids is not None
    assert said.top is not None
    return np.asarray(said.ids.gather(1, said.top.argmax(1, keepdim=True)).squeeze(1))


def open_store(
    teacher: Teacher,
    task: Task,
    views: int,
    folder: Path,
    dense_bytes: int = DENSE_BYTES,
    progress: Callable[[str], None] = lambda _: None,
) -> SoftTargets:
    """The store of this teacher, data and augmentation, filled now where it is not there yet.

    Filled under another name, view by view (an interrupted one goes on), and renamed when whole: a
    half-written store is never read, and of two processes the second waits. Raises Mistakes where the teacher
    has fewer views.
    """
    if teacher.views is not None and views > teacher.views:
        raise mistake("distill.views", f"must be at most {teacher.views} with this teacher. Got {views}.")
    outputs = int(task.body.outputs[0].shape[1])
    form = form_of(task, outputs, views, dense_bytes)
    key = content_id(FORMAT, teacher.fingerprint, task.fingerprint, views, form, [TOP, TEMPERATURES])
    place = folder / key
    if not (place / "done.json").exists() or is_damaged(place):
        with held(folder / f".{key}.lock"):
            if not (place / "done.json").exists() or is_damaged(place):
                fill(teacher, task, views, form, place, progress)
    done = json.loads((place / "done.json").read_text())
    arrays = {
        split: in_memory({name: np.load(place / f"{split}-{name}.npy", mmap_mode="r") for name in done["fields"]})
        for split in SPLITS
        if task.rows(split)
    }
    return SoftTargets(key, views, outputs, done["bytes_per_view"], arrays)


def form_of(task: Task, outputs: int, views: int, dense_bytes: int) -> str:
    """exact: float32 values; dense: float16 logits; sparse: for classes so many that dense takes too much."""
    if task.kind in VALUES:
        return "exact"
    rows = sum(task.rows(split) for split in SPLITS)
    fits = (2 * outputs + 4) * rows * views <= dense_bytes
    return "dense" if fits or outputs <= 2 * TOP or task.kind == "multilabel" else "sparse"


def in_memory(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Small fields out of the memory map; small dense logits put together again once, not at every step."""
    fields = {n: a if a.nbytes > IN_MEMORY else np.array(a) for n, a in fields.items()}
    if "centre" in fields and 2 * fields["logits"].nbytes <= IN_MEMORY:
        return {"logits": fields["logits"].astype(np.float32) + fields["centre"][..., None]}
    return fields


def is_damaged(place: Path) -> bool:
    """Whether a file differs from what was written: its size always, its hash where it is small."""
    files = json.loads((place / "done.json").read_text())["files"]
    return any(
        not (path := place / name).is_file()
        or path.stat().st_size != kept["bytes"]
        or (kept["bytes"] <= IN_MEMORY and hash_file(path) != kept["sha256"])
        for name, kept in files.items()
    )


def hash_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def held(lock: Path) -> Iterator[None]:
    """Wait for the lock and hold it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fill(teacher: Teacher, task: Task, views: int, form: str, place: Path, progress: Callable[[str], None]) -> None:
    """Ask the teacher, view by view, then hash, mark and rename."""
    part = place.with_name(f".{place.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        if task.rows(split):
            fill_split(teacher, task, split, views, FORMS[form], part, progress)
    train = {p.name[6:-4]: bytes_a_view(np.load(p, mmap_mode="r")) for p in sorted(part.glob("train-*.npy"))}
    about: dict[str, Any] = {
        "teacher": teacher.fingerprint,
        "task": task.fingerprint,
        "views": views,
        "form": form,
    }
    finish(part, place, about | {"fields": [*train], "bytes_per_view": sum(train.values())})


def finish(part: Path, place: Path, about: Mapping[str, Any]) -> None:
    """Hash every array of a store that was filled at `part`, mark it as done and rename it to `place`."""
    files = {p.name: {"bytes": p.stat().st_size, "sha256": hash_file(p)} for p in sorted(part.glob("*.npy"))}
    write_json(part / "done.json", {**about, "files": files})
    shutil.rmtree(place, ignore_errors=True)
    part.rename(place)


def bytes_a_view(array: np.ndarray) -> int:
    return int(array.nbytes // (array.shape[0] * array.shape[1]))


Fields = Callable[[np.ndarray], dict[str, np.ndarray]]


def fill_split(
    teacher: Teacher,
    task: Task,
    split: Split,
    views: int,
    fields: Fields,
    part: Path,
    progress: Callable[[str], None],
) -> None:
    """Append view after view to one file a field; after an interruption, from the first one not yet whole."""
    marker, count = part / f"{split}.json", task.rows(split)
    first = int(json.loads(marker.read_text())["views"]) if marker.exists() else 0
    files: dict[str, BinaryIO] = {}
    with contextlib.ExitStack() as opened:
        for view in range(first, views):
            progress(f"teacher: {split}, view {view + 1} of {views}")
            for rows in chunks(count):
                for name, values in fields(teacher.outputs(split, rows, view)).items():
                    if name not in files:
                        path = part / f"{split}-{name}.npy"
                        files[name] = opened.enter_context(open_field(path, values, (views, count), first * count))
                    files[name].write(values.tobytes())
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            write_json(marker, {"views": view + 1})


def open_field(path: Path, like: np.ndarray, shape: tuple[int, ...], first: int) -> BinaryIO:
    """An .npy file for values (*shape, …) as those of `like` (n, …), open where value `first` of all begins.

    Written in order rather than through a memory map, so that a full disk is an OSError and not a signal.
    """
    header = io.BytesIO()
    about = {
        "descr": np.lib.format.dtype_to_descr(like.dtype),
        "fortran_order": False,
        "shape": (*shape, *like.shape[1:]),
    }
    np.lib.format.write_array_header_1_0(header, about)
    file = path.open("r+b" if first else "w+b")
    if not first:
        file.write(header.getvalue())
    file.seek(len(header.getvalue()) + first * (like.nbytes // len(like)))
    file.truncate()
    return file


def chunks(rows: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + CHUNK, rows)) for start in range(0, rows, CHUNK)]


def exact_fields(said: np.ndarray) -> dict[str, np.ndarray]:
    return {"logits": said.astype(np.float32)}


def dense_fields(said: np.ndarray) -> dict[str, np.ndarray]:
    """Logits (n, k) as float16 around the row's mean (n,), so that an offset costs no digits."""
    centre = said.mean(1, dtype=np.float64)
    small = np.clip(said - centre[:, None], -60_000, 60_000)
    return {"logits": small.astype(np.float16), "centre": centre.astype(np.float32)}


def sparse_fields(said: np.ndarray) -> dict[str, np.ndarray]:
    """Logits (n, k) → `ids`, `top` (n, j): the greatest, as differences from the mean; `moments` (n, 2): mean
    and deviation of all; `rest` (n, 2 × temperatures): log-sum-exp of the others at each temperature, of the
    logits minus their mean and of the standardised ones.
    """
    moments = np.stack([said.mean(1, dtype=np.float64), said.std(1, dtype=np.float64)], 1).astype(np.float16)
    centred = said.astype(np.float64) - said.mean(1, dtype=np.float64)[:, None]
    ids = np.argsort(-said, axis=1, kind="stable")[:, :TOP]
    others = centred.copy()
    np.put_along_axis(others, ids, -np.inf, 1)
    scale = moments[:, 1].astype(np.float64)[:, None] + 1e-7
    rest = [log_sum_exp(side / t) for side in (others, others / scale) for t in TEMPERATURES]
    return {
        "ids": ids.astype(np.uint16 if said.shape[1] < 65_536 else np.uint32),
        "top": np.take_along_axis(centred, ids, 1).astype(np.float16),
        "rest": np.stack(rest, 1).astype(np.float16),
        "moments": moments,
    }


FORMS: dict[str, Fields] = {"exact": exact_fields, "dense": dense_fields, "sparse": sparse_fields}


def log_sum_exp(values: np.ndarray) -> np.ndarray:
    most = values.max(1, keepdims=True)
    return np.asarray(np.log(np.exp(values - most).sum(1)) + most[:, 0])


def score_outputs(teacher: Teacher, task: Task, split: Split, folder: Path, view: int = 0) -> np.ndarray:
    """The teacher's outputs (rows, outputs) float32 on val or test, clean or in an augmented view, kept.

    Apart from the store, so that test is asked only when it is read.
    """
    name = f"view-{view}" if view else "clean"
    path = folder / f"{name}-{split}-{content_id(FORMAT, teacher.fingerprint, task.fingerprint)}.npy"
    if not path.exists():
        outputs = np.concatenate([teacher.outputs(split, rows, view) for rows in chunks(task.rows(split))])
        write_beside(path, lambda beside: save_array(beside, outputs.astype(np.float32)))
    return np.asarray(np.load(path))


def save_array(path: Path, array: np.ndarray) -> None:
    """`np.save` to exactly this name."""
    with path.open("wb") as handle:
        np.save(handle, array)
