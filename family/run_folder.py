"""The run folder: every step writes beside, renames, and is found again by the hash of its inputs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from family.errors import RunFailed, RunInUse


@contextlib.contextmanager
def hold_run(folder: Path) -> Iterator[Path]:
    """Hold `folder` for this process; a second process is told so and leaves.

    Raises RunInUse; RunFailed where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a+")
    except OSError as problem:
        raise RunFailed(
            f"The run folder {folder} cannot be written ({problem.strerror}). Choose another with --run."
        ) from problem
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            handle.seek(0)
            raise RunInUse(
                f"Another run works in {folder} (process {handle.read().strip() or 'unknown'}). "
                "Wait for it, stop it, or choose another folder with --run."
            ) from problem
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield folder


@contextlib.contextmanager
def explain_disk_trouble(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that became read-only into one clear line."""
    try:
        yield
    except OSError as problem:
        known = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "writing is not allowed",
        }
        if problem.errno not in known:
            raise
        raise RunFailed(
            f"Stopped: {known[problem.errno]} ({problem.filename or folder}). What was finished is kept; "
            "make room or choose another folder, then repeat the same command."
        ) from problem


def content_id(*parts: Any) -> str:
    """Twelve hex digits that stand for `parts` (anything JSON can hold)."""
    text = json.dumps(parts, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not belong in a JSON file")


def write_beside(path: Path, write: Callable[[Path], Any]) -> Path:
    """Call `write` with a temporary path beside `path`, then rename: `path` is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # caches are shared between processes
    write(temporary)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)
    return path


def write_json(path: Path, value: Any) -> Path:
    text = json.dumps(value, indent=1, default=_plain) + "\n"
    return write_beside(path, lambda beside: beside.write_text(text))


def without_nan(value: Any) -> Any:
    """The same with null for what is no number: JSON has none."""
    if isinstance(value, Mapping):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float | np.floating) and not math.isfinite(value) else value


def write_table(path: Path, table: pd.DataFrame) -> Path:
    return write_beside(path, lambda beside: table.to_parquet(beside, index=False))


def remember(path: Path, inputs: Any, work: Callable[[], Any]) -> Any:
    """The result of `work`, from `path` where it was done for the same `inputs`, else done now and kept. Of several
    workers that want it at once, one does it and the others wait for it."""
    kept = recall(path, inputs)
    if kept is not None:
        return kept
    with hold_file(path.with_name(f".{path.name}.lock")):
        kept = recall(path, inputs)
        if kept is not None:
            return kept
        result = json.loads(json.dumps(work(), default=_plain))
        write_json(path, {"inputs": content_id(inputs), "result": result})
    return result


@contextlib.contextmanager
def hold_file(path: Path) -> Iterator[None]:
    """Wait for the lock at `path` and hold it; the file is gone afterwards, and the lock with a killed process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not is_at(path, handle):
                continue  # who held it before has removed it
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def is_at(path: Path, handle: IO[str]) -> bool:
    try:
        return path.stat().st_ino == os.fstat(handle.fileno()).st_ino
    except FileNotFoundError:
        return False


def recall(path: Path, inputs: Any) -> Any | None:
    """What `remember` kept at `path` for the same `inputs`; None where there is nothing."""
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return kept["result"] if kept["inputs"] == content_id(inputs) else None
