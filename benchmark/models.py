"""A model file that is to be measured: is it there, what is in it, and how the target's options are said."""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmark.inputs import feeds_beside
from benchmark.types import Target


def check_model(path: Path) -> Path:
    """The absolute path. Raises ValueError where there is no such file."""
    if not path.is_file():
        raise ValueError(f"there is no model file {path}.")
    return path.resolve()


def hash_model(path: Path) -> str:
    """Of the file, and of the inputs of its own that may lie beside it: fed otherwise it costs something else."""
    own = feeds_beside(path)
    return hashlib.sha256(path.read_bytes() + (own.read_bytes() if own.is_file() else b"")).hexdigest()


def say_options(target: Target) -> str:
    threads, batch = target.options.get("threads", 1), target.options.get("batch", 1)
    return f"{threads} thread{'s' if threads != 1 else ''}, batch {batch}"
