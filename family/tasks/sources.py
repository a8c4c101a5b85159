"""Readers: from what lies on disk to a `Source`. Which one reads is decided by the path's look."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from family.doors import is_reference
from family.errors import mistake
from family.tasks.arrays import from_arrays, load_arrays
from family.tasks.folders import read_image_folder
from family.tasks.frames import from_frame, is_hugging_face, read_any_frame
from family.tasks.named import refuse_unused
from family.tasks.options import DataOptions, Source
from family.tasks.user_functions import read_user_arrays

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
