"""The nouns of `benchmark`: a target is named data, a measurement is a figure with all that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

TIMED = frozenset({"latency_ms", "latency_p95_ms", "size_kb"})  # limits that a stopwatch and a file answer

PATHS = frozenset({"profile", "identity", "known_hosts"})  # options that say where a file lies here


@dataclass(frozen=True)
class Target:
    """A device or runtime: a transport's name and its options (`threads`, `batch`, …)."""

    name: str
    transport: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def portable(self) -> Target:
        """Without the options that say where a file lies here."""
        return replace(self, options={key: value for key, value in self.options.items() if key not in PATHS})

    @property
    def id(self) -> str:
        """All that its figures depend on, as text: the same wherever files lie here."""
        return str(self.portable)


@dataclass(frozen=True)
class Measurement:
    """One quantity of one model on one target. `low` and `high` bound a 95 % interval of `value`; all three are NaN
    where the target cannot tell it, and `protocol` then says why.

    quantity: latency_ms (paired ratio × the reference's median at rest), latency_direct_ms (median as timed),
    latency_p95_ms, memory_mb, size_kb, download_kb. provenance: `measured:host`, `static`, …
    """

    quantity: str
    value: float
    low: float
    high: float
    samples: tuple[float, ...]
    target: str
    provenance: str
    protocol: str
    host: str  # fingerprint
    noisy: bool = False
