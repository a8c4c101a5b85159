"""Folders of files in class folders, perhaps inside folders of ready-made splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from family.errors import mistake
from family.split_names import USUAL
from family.tasks.named import is_known
from family.tasks.options import DataOptions, Source

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")


def read_image_folder(folder: Path, options: DataOptions) -> Source:
    """photos/<class>/<file>, or photos/<train|val|test>/<class>/<file> and photos/transfer/<file>."""
    found, split = list_files(folder, options, IMAGE_ENDINGS, "images")
    known = is_known(split, options)
    labels = np.array([label for _, label in found])
    return Source(
        "images",
        {},
        labels,
        known,
        split=split if split.any() else None,
        files=tuple(file for file, _ in found),
        layout="hwc",
        notes=(f"task: images, {len(found)} files of {len(set(labels[known]))} class folders",),
    )


def list_files(
    folder: Path, options: DataOptions, endings: tuple[str, ...], what: str
) -> tuple[list[tuple[Path, str]], np.ndarray]:
    """Files and the names of the class folders they lie in; and of every file its ready-made split, or ""."""
    parts = find_split_folders(folder, options, endings)
    found = {
        split: list_classes(part, endings)
        if is_known(split, options)
        else [(file, "") for file in list_pool(part, endings)]
        for split, part in parts.items()
    }
    empty = [split for split, own in found.items() if not own]
    if empty:
        inside = f"{folder.name}/{empty[0]}".rstrip("/")
        raise mistake("data.path", f"{inside} has no {what} in class folders ({', '.join(endings)}).")
    files = [one for own in found.values() for one in own]
    return files, np.array([split for split, own in found.items() for _ in own])


def find_split_folders(folder: Path, options: DataOptions, endings: tuple[str, ...]) -> dict[str, Path]:
    """Folders of ready-made splits by name, or the folder itself as "".

    Raises Mistakes where only some of the folders look like splits: which are classes cannot be told.
    """
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    asked = {n: v for n, v in (options.split or {}).items() if isinstance(v, str)}
    usual = {name for names in USUAL.values() for name in names}
    parts = {p.name: p for p in inside if p.name.lower() in usual or p.name in asked.values()}
    others = [p.name for p in inside if p.name not in parts and list_pool(p, endings)]
    if parts and others:
        raise mistake(
            "data.path",
            f"{folder.name} holds {', '.join(parts)}, which by name are ready-made splits, beside "
            f"{', '.join(others[:5])}, which are none. It must hold either class folders, or train, val and test "
            "with class folders inside; rename, or name them in data.split.",
        )
    return parts or {"": folder}


def list_classes(folder: Path, endings: tuple[str, ...]) -> list[tuple[Path, str]]:
    """Files and the names of the class folders they lie in."""
    groups = sorted(p for p in folder.iterdir() if p.is_dir())
    return [(file, group.name) for group in groups for file in list_pool(group, endings)]


def list_pool(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files of such endings anywhere below."""
    return [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in endings]
