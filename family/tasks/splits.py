"""Splits: shares, stratified or by group; ready-made names; the rows that keep their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from family.errors import Mistake, Mistakes, mistake
from family.tasks.options import DataOptions, Source

SHARES = {"val": 0.15, "test": 0.15}
NAMES = ("train", "val", "test", "transfer")


def split_rows(source: Source, options: DataOptions, codes: np.ndarray, stratify: bool) -> dict[str, np.ndarray]:
    """Row positions per split. Raises Mistakes for splits that would be empty."""
    asked = dict(options.split or {})
    if source.split is not None and not all(isinstance(v, int | float) for v in asked.values()):
        splits = named_splits(source.split, asked)
    elif source.split is not None and asked in ({}, SHARES):
        splits = named_splits(source.split, {})
    else:
        splits = shared_splits(source, asked or SHARES, codes, stratify, options.seed)
    splits = keep_labels(take_unlabelled(splits, source.known), codes, options, stratify)
    empty = [
        Mistake("data.split", f"leaves no row in '{name}'.")
        for name in ("train", "val", "test")
        if not len(splits[name])
    ]
    if empty:
        raise Mistakes(empty)
    return splits


def named_splits(column: np.ndarray, asked: Mapping[str, Any]) -> dict[str, np.ndarray]:
    values = np.asarray(column).astype(str)
    found = sorted(set(values))
    names = {name: str(asked.get(name, name)) for name in NAMES}
    missing = [names[n] for n in ("train", "val", "test") if names[n] not in found]
    if missing:
        raise mistake("data.split", f"names {', '.join(missing)}, which no row carries. Found: {', '.join(found)}.")
    return {name: np.flatnonzero(values == names[name]) for name in NAMES}


def take_unlabelled(splits: Mapping[str, np.ndarray], known: np.ndarray) -> dict[str, np.ndarray]:
    """Train rows without a label join the transfer pool. Raises Mistakes where val or test has such rows."""
    wrong = [
        Mistake("data.label", f"is missing in {int((~known[splits[name]]).sum())} rows of '{name}'.")
        for name in ("val", "test")
        if not known[splits[name]].all()
    ]
    if wrong:
        raise Mistakes(wrong)
    train = splits["train"]
    pool = np.sort(np.concatenate([splits["transfer"], train[~known[train]]]))
    return dict(splits) | {"train": train[known[train]], "transfer": pool}


def shared_splits(
    source: Source, shares: Mapping[str, float], codes: np.ndarray, stratify: bool, seed: int
) -> dict[str, np.ndarray]:
    """Cut off test, then val.

    Groups never straddle; classes keep their shares where every class has rows enough.
    """
    labelled = np.flatnonzero(source.known)
    parts = {"transfer": np.flatnonzero(~source.known)}
    left = labelled
    for name in ("test", "val"):
        wanted = float(shares.get(name, SHARES[name])) * len(labelled) / max(len(left), 1)
        left, parts[name] = cut(left, wanted, source.groups, codes if stratify else None, seed)
    return parts | {"train": left}


def cut(
    rows: np.ndarray, share: float, groups: np.ndarray | None, codes: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    if len(rows) < 2 or not 0 < share < 1:
        raise mistake("data.split", f"cuts a share of {share:.2f} off {len(rows)} rows, which leaves an empty split.")
    if groups is not None:
        if len(set(groups[rows].tolist())) < 2:
            raise mistake("data.group", "has one group only, so that no split can be cut along it.")
        keep, off = next(GroupShuffleSplit(1, test_size=share, random_state=seed).split(rows, groups=groups[rows]))
        return np.sort(rows[keep]), np.sort(rows[off])
    able = codes is not None and np.bincount(codes[rows])[np.unique(codes[rows])].min() >= 4
    able = able and codes is not None and share * len(rows) >= len(np.unique(codes[rows]))
    strata = codes[rows] if able and codes is not None else None
    keep, off = train_test_split(rows, test_size=share, random_state=seed, stratify=strata)
    return np.sort(keep), np.sort(off)


def keep_labels(
    splits: dict[str, np.ndarray], codes: np.ndarray, options: DataOptions, stratify: bool
) -> dict[str, np.ndarray]:
    """Only `keep_labels` rows of train stay labelled; the rest joins the transfer pool."""
    keep = options.keep_labels
    if keep is None or keep >= len(splits["train"]):
        return splits
    strata = codes[splits["train"]] if stratify else None
    try:
        kept, pool = train_test_split(splits["train"], train_size=keep, random_state=options.seed, stratify=strata)
    except ValueError as problem:
        raise mistake("data.keep_labels", f"cannot keep {keep} labelled rows: {problem}") from problem
    return splits | {"train": np.sort(kept), "transfer": np.sort(np.concatenate([splits["transfer"], pool]))}
