"""How figures are taken on a target: paired with references, directly, counted or estimated. One shape for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmark.bench import Bench
from benchmark.counted import CountMeter
from benchmark.direct import DirectMeter
from benchmark.estimated import EstimateMeter
from benchmark.targets import TRANSPORTS
from benchmark.types import Measurement, Target


class Meter(Protocol):
    """Takes figures of model files on one target. `host`: fingerprint of what measures."""

    @property
    def host(self) -> str: ...

    def facts(self) -> dict[str, Any]:
        """What measures: its fingerprint, and what it says of itself, as plain data."""
        ...

    def quickly(self, model: Path) -> list[Measurement]:
        """What every candidate of a search is measured for."""
        ...

    def settle(self, models: Sequence[Path]) -> list[list[Measurement]]:
        """What decides: all quantities of each of `models`, taken together, longer."""
        ...

    def close(self) -> None: ...


def needs_ladder(target: Target) -> bool:
    """Whether figures of this target are paired with references, which are measured once."""
    return TRANSPORTS[target.transport].meter(target) == "paired"


def open_meter(
    target: Target,
    references: Sequence[Path] = (),
    feeds: Path | None = None,
    ladder: Sequence[Mapping[str, Any]] | None = None,
) -> Meter:
    """Raises ValueError where the target cannot be measured from here."""
    if needs_ladder(target):
        return Bench(target, references, feeds, ladder=ladder)
    meters: dict[str, Callable[[Target, Path | None], Meter]] = {
        "direct": DirectMeter,
        "counted": CountMeter,
        "estimated": EstimateMeter,
    }
    return meters[TRANSPORTS[target.transport].meter(target)](target, feeds)
