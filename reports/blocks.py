"""What a section of a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Table:
    """`frame` as shown; `raw` (default: the same) goes to NAME.csv."""

    name: str
    frame: pd.DataFrame
    caption: str = ""
    raw: pd.DataFrame | None = None


@dataclass(frozen=True)
class Picture:
    """Goes to NAME.png and NAME.svg; `alt` says what it shows."""

    name: str
    figure: Figure
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Facts:
    """Terms and what they are."""

    facts: Mapping[str, str]


@dataclass(frozen=True)
class Items:
    items: tuple[str, ...]


Block = Text | Table | Picture | Facts | Items


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]
