"""Where labels go in a figure: on no other label, on as little else as can be, near what they name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[float, float, float, float]  # left, bottom, right, top
REACHES = (13.0, 19.0, 28.0, 40.0, 58.0, 80.0, 110.0)
TURNS = 16


def choose_box(candidates: Sequence[Box], taken: Sequence[Box], crossed: Sequence[Box], frame: Box) -> Box:
    """The first-best of `candidates`, in their order of preference.

    Overlap with `taken` (labels) and lying outside `frame` count most, then the area of `crossed` (marks and
    lines) that would be covered, then the place in the list. Same input, same answer.
    """
    boxes = np.asarray(candidates, float)
    inside = _overlaps(boxes, [frame]).sum(axis=1)
    outside = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - inside
    bad = outside + _overlaps(boxes, taken).sum(axis=1)
    cost = 1e4 * bad + _overlaps(boxes, crossed).sum(axis=1) + 1.2 * np.arange(len(boxes))
    left, bottom, right, top = (float(v) for v in boxes[int(np.argmin(np.round(cost, 6)))])
    return left, bottom, right, top


def surround(x: float, y: float, width: float, height: float, frame: Box) -> list[Box]:
    """Boxes of this size around a point, nearest first, below right before other sides; then all over `frame`."""
    turns = np.roll(np.linspace(0, 2 * np.pi, TURNS, endpoint=False), 2)[::-1]
    around = [
        _lean(x + reach * np.cos(turn), y + reach * np.sin(turn), np.cos(turn), np.sin(turn), width, height)
        for reach in REACHES
        for turn in turns
    ]
    lefts = np.linspace(frame[0], max(frame[0], frame[2] - width), 24)
    bottoms = np.arange(frame[1], max(frame[1] + 1, frame[3] - height), height + 2)
    rest = [(left, bottom, left + width, bottom + height) for left in lefts for bottom in bottoms]
    return around + sorted(rest, key=lambda b: np.hypot((b[0] + b[2]) / 2 - x, (b[1] + b[3]) / 2 - y))


def follow(along: Sequence[float], x: float, width: float, height: float, gap: float = 3.0) -> list[Box]:
    """Boxes beside an upright line at `x`, left before right, at the heights `along`."""
    return [(left, bottom, left + width, bottom + height) for bottom in along for left in (x - gap - width, x + gap)]


def _lean(x: float, y: float, across: float, up: float, width: float, height: float) -> Box:
    """A box that touches (x, y) with the side that looks back: `across`, `up` say where it lies from there."""
    left, bottom = x - width * (1 - across) / 2, y - height * (1 - up) / 2
    return left, bottom, left + width, bottom + height


def _overlaps(boxes: np.ndarray, others: Sequence[Box]) -> np.ndarray:
    """(boxes, others) areas in common."""
    if not len(others):
        return np.zeros((len(boxes), 1))
    theirs = np.asarray(others, float)
    low = np.maximum(boxes[:, None, :2], theirs[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], theirs[None, :, 2:])
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=2))
