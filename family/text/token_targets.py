"""What a causal teacher says of every position: drawn tokens kept on disk, or every logit asked anew.

Drawing is unbiased (Anshumann et al. 2025, arXiv 2503.16870): the expected share of a token among the draws is its
probability. The draws of a position are stratified, one from each of j equal slices of the cumulated probabilities: a
mean over them errs no more than one over independent draws, and shares of likely tokens err much less. Kept are the
distinct tokens and how often each was drawn: 3 bytes a draw, 5 where there are more than 65,536 tokens.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from family.errors import mistake
from family.run_folder import content_id, write_json
from family.soft_targets import SPLITS, finish, held, in_memory, is_damaged, open_field
from family.text.causal_teachers import CausalTeacher
from family.text.token_losses import REFUSED
from family.types import SoftBatch, Split, Task

FORMAT = 1
DRAWS, LEAST, MOST = 32, 16, 64
CHUNK = 16  # rows asked, written and marked at once
SMALL_IDS = 65_536  # ids below it take two bytes


@dataclass(frozen=True)
class TokenTargets:
    """`arrays[split]`: `ids` and `counts`, both (rows, length, draws), counts 0 where room was not needed."""

    fingerprint: str
    draws: int
    bytes_per_token: int
    arrays: dict[Split, dict[str, np.ndarray]]
    views: int = 1
    has: frozenset[str] = frozenset({"draws"})
    temperatures: tuple[float, ...] = (1.0,)

    @property
    def bytes_per_view(self) -> int:
        """Of a row."""
        return self.bytes_per_token * int(self.arrays["train"]["ids"].shape[1])

    def batch(self, split: Split, rows: np.ndarray, views: np.ndarray) -> SoftBatch:
        """`draws` int64 and `counts` float32 of `rows` (n,), each (n, length, draws). Text has one view."""
        kept = self.arrays[split]
        return SoftBatch(
            draws=torch.from_numpy(kept["ids"][rows].astype(np.int64)),
            counts=torch.from_numpy(kept["counts"][rows].astype(np.float32)),
        )


@dataclass(frozen=True, eq=False)
class LiveTargets:
    """The same, but every logit, asked of the teacher at every step."""

    teacher: CausalTeacher
    task: Task
    views: int = 1
    bytes_per_view: int = 0
    has: frozenset[str] = frozenset({"all", "draws"})
    temperatures: tuple[float, ...] = (1.0,)

    @property
    def fingerprint(self) -> str:
        return content_id("live", self.teacher.fingerprint, self.task.fingerprint)

    def batch(self, split: Split, rows: np.ndarray, views: np.ndarray) -> SoftBatch:
        return self.say(self.task.inputs(split, rows, 0)[0])

    def say(self, ids: Tensor) -> SoftBatch:
        """Of any text: ids (n, length) → `logits` (n, length, V)."""
        return SoftBatch(logits=self.teacher.logits(ids))


def open_token_store(
    teacher: CausalTeacher,
    task: Task,
    folder: Path,
    draws: int = DRAWS,
    seed: int = 0,
    kept: str = "drawn",
    progress: Callable[[str], None] = lambda _: None,
) -> TokenTargets:
    """The store of this teacher and data, filled now where it is not there yet; a fill that was stopped goes on.

    `kept`: "drawn", or "top": the likeliest tokens, and what the others have given to the true token (`top_row`).
    Raises Mistakes for another, and for draws that are too many or too few.
    """
    check_kept(kept, draws)
    key = content_id(FORMAT, teacher.fingerprint, task.fingerprint, draws, seed if kept == "drawn" else None, kept)
    place = folder / key
    if not (place / "done.json").exists() or is_damaged(place):
        with held(folder / f".{key}.lock"):
            if not (place / "done.json").exists() or is_damaged(place):
                fill(teacher, task, Plan(kept, draws, seed), place, progress)
    done = json.loads((place / "done.json").read_text())
    arrays = {
        split: in_memory({name: np.load(place / f"{split}-{name}.npy", mmap_mode="r") for name in ("ids", "counts")})
        for split in SPLITS
        if task.rows(split)
    }
    return TokenTargets(key, draws, done["bytes_per_token"], arrays)


def check_kept(kept: str, draws: int) -> None:
    if kept in REFUSED:
        raise mistake("distill.soft_targets", f"'{kept}' {REFUSED[kept]}")
    if kept not in ROWS:
        raise mistake("distill.soft_targets", f"must be {', '.join(ROWS)} or live. Got '{kept}'.")
    if not LEAST <= draws <= MOST:
        raise mistake("distill.draws", f"must be from {LEAST} to {MOST} a position. Got {draws}.")


@dataclass(frozen=True)
class Plan:
    kept: str
    draws: int
    seed: int


def fill(teacher: CausalTeacher, task: Task, plan: Plan, place: Path, progress: Callable[[str], None]) -> None:
    part = place.with_name(f".{place.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        if task.rows(split):
            fill_split(teacher, task, split, plan, part, progress)
    sizes = [np.load(file, mmap_mode="r") for file in part.glob("train-*.npy")]
    about = {"teacher": teacher.fingerprint, "task": task.fingerprint, "draws": plan.draws, "seed": plan.seed}
    finish(part, place, about | {"bytes_per_token": sum(array.itemsize * array.shape[2] for array in sizes)})


def fill_split(
    teacher: CausalTeacher, task: Task, split: Split, plan: Plan, part: Path, progress: Callable[[str], None]
) -> None:
    """Append chunk after chunk to both files; after an interruption, from the first row not yet marked."""
    marker, count = part / f"{split}.json", task.rows(split)
    first = int(json.loads(marker.read_text())["rows"]) if marker.exists() else 0
    files: dict[str, BinaryIO] = {}
    with contextlib.ExitStack() as opened:
        for start in range(first, count, CHUNK):
            rows = np.arange(start, min(start + CHUNK, count))
            progress(f"teacher: {split}, rows {start} of {count}")
            for name, values in list_tokens(teacher, task, split, rows, plan).items():
                if name not in files:
                    path = part / f"{split}-{name}.npy"
                    files[name] = opened.enter_context(open_field(path, values, (count,), first))
                files[name].write(values.tobytes())
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            write_json(marker, {"rows": int(rows[-1]) + 1})


def list_tokens(
    teacher: CausalTeacher, task: Task, split: Split, rows: np.ndarray, plan: Plan
) -> dict[str, np.ndarray]:
    """`ids` and `counts` (n, length, draws) of these rows."""
    logits, labels = teacher.logits(task.inputs(split, rows, 0)[0]), task.lessons(split)[rows]
    place = SPLITS.index(split)
    found = [
        ROWS[plan.kept](logits[i], labels[i], plan.draws, np.random.default_rng([plan.seed, place, int(row)]))
        for i, row in enumerate(rows)
    ]
    ids, counts = (np.stack(parts) for parts in zip(*found, strict=True))
    return {"ids": ids.astype(np.uint16 if logits.shape[2] <= SMALL_IDS else np.uint32), "counts": counts}


def draw_row(logits: Tensor, labels: Tensor, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Logits (length, V) → distinct tokens drawn and how often each was, both (length, draws), filled up with 0."""
    below = logits.double().softmax(1).cumsum(1)
    points = (np.arange(draws) + rng.random((len(logits), draws))) / draws
    points = np.minimum(points, np.nextafter(1.0, 0.0))
    found = torch.searchsorted(below / below[:, -1:], torch.from_numpy(points), right=True)
    return count_runs(found.numpy())


def count_runs(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending ids (n, j) with repetitions → distinct ids (n, j) int64 and counts (n, j) uint8, filled up with 0."""
    slots = np.zeros(found.shape, np.int64)
    slots[:, 1:] = (found[:, 1:] != found[:, :-1]).cumsum(1)
    rows = np.broadcast_to(np.arange(len(found))[:, None], found.shape)
    ids, counts = np.zeros_like(found), np.zeros(found.shape, np.uint8)
    ids[rows, slots] = found
    np.add.at(counts, (rows, slots), 1)
    return ids, counts


def top_row(logits: Tensor, labels: Tensor, kept: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Logits (length, V) → the kept - 1 likeliest tokens with their probabilities p, then the true token (which may be
    among them) with the rest r = 1 - Σ p; where there is none, nothing.

    What a student is taught is then p + r [token is the true one]. Where true tokens come as often as the teacher says,
    that is p (1 + r) on average for a kept token and p r for another: biased too, but no token is told never to come.
    """
    p, ids = logits.double().softmax(1).topk(kept - 1, 1)
    rest = (1 - p.sum(1, keepdim=True)).clamp_min(0) * (labels >= 0)[:, None]
    shares = torch.cat([p, rest], 1).numpy().astype(np.float16)
    return torch.cat([ids, labels.clamp_min(0)[:, None]], 1).numpy(), shares


ROWS: dict[str, Callable[[Tensor, Tensor, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]] = {
    "drawn": draw_row,
    "top": top_row,
}

__all__ = ["DRAWS", "LiveTargets", "TokenTargets", "check_kept", "open_token_store"]
