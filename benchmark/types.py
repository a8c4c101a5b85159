"""The nouns of `benchmark`: a target is named data, a measurement is a figure with all that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TIMED = frozenset({"latency_ms", "latency_p95_ms", "size_kb"})  # limits that a stopwatch and a file answer


@dataclass(frozen=True)
class Target:
    """A device or runtime: a transport's name and its options (`threads`, `batch`, …)."""

    name: str
    transport: str
    options: Mapping[str, Any] = field(default_factory=dict)


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
