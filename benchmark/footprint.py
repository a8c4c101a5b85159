"""What a model takes besides time: memory while it runs, and bytes on disk."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from benchmark.bench import check_model, say_options
from benchmark.host import host_fingerprint
from benchmark.intervals import interval_of_repeats
from benchmark.targets import TRANSPORTS, unavailable
from benchmark.types import Measurement, Target

PROCESSES = 3


def measure_memory(model: Path, target: Target, feeds: Path | None = None) -> Measurement:
    """memory_mb: how far loading and running `model` raises peak resident memory over the imports.

    The median of three fresh processes. 1 MB is 1,000,000 bytes.

    Raises ValueError where the target cannot be measured or the file cannot be run, WorkerDied.
    """
    reason = unavailable(target)
    if reason is not None:
        raise ValueError(reason)
    samples = sorted(_grow_once(check_model(Path(model)), target, feeds) for _ in range(PROCESSES))
    low, high = interval_of_repeats(samples)
    return Measurement(
        "memory_mb",
        samples[PROCESSES // 2],
        max(0.0, min(low, samples[0])),
        max(high, samples[-1]),
        tuple(samples),
        target.name,
        "measured:host",
        f"peak resident growth over imports, {PROCESSES} fresh processes; {say_options(target)}",
        host_fingerprint(),
    )


def measure_size(model: Path, target: Target) -> Measurement:
    """size_kb: bytes of the file, and of `<file>.data` where weights lie beside it. 1 kB is 1000 bytes."""
    path = check_model(Path(model))
    beside = path.with_name(path.name + ".data")
    size = path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
    kb = size / 1000
    return Measurement(
        "size_kb", kb, kb, kb, (kb,), target.name, "static", "bytes of the file ÷ 1000", host_fingerprint()
    )


def _grow_once(model: Path, target: Target, feeds: Path | None) -> float:
    with closing(TRANSPORTS[target.transport](target, feeds)) as channel:
        return float(channel.ask("memory", model)["bytes"]) / 1e6
