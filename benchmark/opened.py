"""What every meter has: a target, the open channel to it, and the fingerprint of what measures there."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmark.targets import open_channel
from benchmark.types import Target


class Opened:
    """A target with its channel; a context manager that ends it. Raises ValueError where it cannot be measured."""

    def __init__(self, target: Target, feeds: Path | None = None):
        self._target, self._feeds = target, feeds
        self._channel = open_channel(target, feeds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def facts(self) -> dict[str, Any]:
        """What measures: its fingerprint, and what it says of itself, as plain data."""
        return dict(self._channel.host())

    @cached_property
    def host(self) -> str:
        """Fingerprint of what measures: equal where figures may be compared."""
        return str(self._channel.host()["fingerprint"])
