"""Splits: shares, stratified or by group; ready-made names; the rows that keep their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from family.errors import Mistake, Mistakes, mistake
from family.split_names import USUAL
from family.tasks.options import DataOptions, Source

SHARES = {"val": 0.15, "test": 0.15}
NAMES = ("train", "val", "test", "transfer")


def split_rows(
    source: Source, options: DataOptions, codes: np.ndarray, stratify: bool
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Row positions per split, notes and warnings. Raises Mistakes for splits that would be empty."""
    asked, strata = dict(options.split or {}), codes if stratify else None
    notes: list[str] = []
    warnings: list[str] = []
    if source.split is not None and uses_names(source.split, asked):
        named = {name: value for name, value in asked.items() if isinstance(value, str)}
        splits, notes, warnings = ready_splits(source, named, strata, options.seed)
    else:
        splits = shared_splits(source, asked or SHARES, strata, options.seed)
        if source.split is not None:
            notes.append("split: the shares of data.split are cut from all rows; the ready-made splits are not used")
    splits = keep_labels(take_unlabelled(splits, source.known), codes, options, stratify)
    empty = [
        Mistake("data.split", f"leaves no row in '{name}'.")
        for name in ("train", "val", "test")
        if not len(splits[name])
    ]
    if empty:
        raise Mistakes(empty)
    return splits, notes, [*warnings, *warn_of_straddling(source.groups, splits)]


def uses_names(column: np.ndarray, asked: Mapping[str, Any]) -> bool:
    """Whether ready-made splits are taken: unless other shares are asked for, or the default ones where they must
    be, as there is no ready-made test."""
    if not all(isinstance(v, int | float) for v in asked.values()):
        return True
    return not asked or (asked == SHARES and "test" in find_names(np.unique(column.astype(str)), {}))


def find_names(found: Iterable[str], asked: Mapping[str, Any]) -> dict[str, str]:
    """What each split is called among the names `found`: as asked, or else one of its usual names."""
    lowered = {name.lower(): name for name in sorted(found, reverse=True) if name not in asked.values()}
    names = {}
    for split, usual in USUAL.items():
        if split in asked:
            names[split] = str(asked[split])
        elif known := [lowered[name] for name in usual if name in lowered]:
            names[split] = known[0]
    return names


def ready_splits(
    source: Source, asked: Mapping[str, Any], codes: np.ndarray | None, seed: int
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Rows by the names they carry; where none is called val, it is cut off train, which is said."""
    assert source.split is not None
    values = source.split.astype(str)
    found = sorted(set(values))
    names = find_names(found, asked)
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    if twice:
        raise mistake(
            "data.split", f"names '{twice.pop()}' twice; every row is in one split. Found: {', '.join(found)}."
        )
    missing = [names.get(n, n) for n in ("train", "test", *{"val"} & set(names)) if names.get(n) not in found]
    if missing:
        said = f"names {', '.join(missing)}, which no row carries. Found: {', '.join(found)}."
        raise mistake("data.split", f"{said} Or cut shares of all rows: {{val: 0.15, test: 0.15}}.")
    splits = {n: np.flatnonzero(values == names[n]) if n in names else np.zeros(0, np.int64) for n in NAMES}
    notes = [f"split: '{name}' is {split}" for split, name in names.items() if name != split and split not in asked]
    if "val" not in names:
        taught = splits["train"][source.known[splits["train"]]]
        _, splits["val"] = cut(taught, SHARES["val"], source.groups, codes, seed)
        splits["train"] = np.setdiff1d(splits["train"], splits["val"])
        notes.append(f"split: no rows are called val; {len(splits['val'])} of train ({SHARES['val']:.0%}) became it")
    left = {name: int((values == name).sum()) for name in found if name not in names.values()}
    warnings = [f"{count} rows of split '{name}' are left out" for name, count in left.items()]
    return splits, notes, warnings


def warn_of_straddling(groups: np.ndarray | None, splits: Mapping[str, np.ndarray]) -> list[str]:
    """Groups that stand on both sides of what is learnt and what is scored."""
    if groups is None:
        return []
    taught = np.concatenate([splits["train"], splits["transfer"]])
    sides = [set(groups[rows].tolist()) for rows in (taught, splits["val"], splits["test"])]
    both = (sides[0] & sides[1]) | (sides[0] & sides[2]) | (sides[1] & sides[2])
    if not both:
        return []
    shown = ", ".join(sorted(both)[:3]) + (", …" if len(both) > 3 else "")
    return [f"{len(both)} of {len(set.union(*sides))} groups ({shown}) straddle splits: scores are flattered"]


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
    source: Source, shares: Mapping[str, float], codes: np.ndarray | None, seed: int
) -> dict[str, np.ndarray]:
    """Cut off test, then val.

    Groups never straddle; classes keep their shares where every class has rows enough.
    """
    labelled = np.flatnonzero(source.known)
    parts = {"transfer": np.flatnonzero(~source.known)}
    left = labelled
    for name in ("test", "val"):
        wanted = float(shares.get(name, SHARES[name])) * len(labelled) / max(len(left), 1)
        left, parts[name] = cut(left, wanted, source.groups, codes, seed)
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
