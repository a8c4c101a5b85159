"""The nearest valid name, for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: object, valid: Iterable[str]) -> str | None:
    """The valid name most like `name`, upper and lower case alike; None where none is near."""
    lowered = {each.lower(): each for each in reversed([*valid])}
    found = get_close_matches(str(name).lower(), list(lowered), 1, 0.6)
    return lowered[found[0]] if found else None


def did_you_mean(name: object, valid: Iterable[str]) -> str:
    """ " Did you mean 'x'?", with the space before it, or nothing."""
    near = nearest(name, valid)
    return f" Did you mean '{near}'?" if near is not None and near != str(name) else ""


def list_names(names: Iterable[object], last: str = "or") -> str:
    """ "a, b or c"."""
    said = [str(name) for name in names]
    return f" {last} ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)
