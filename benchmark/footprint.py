"""What a model takes besides time: memory while it runs, and bytes on disk."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from benchmark.channel import Channel
from benchmark.host import host_fingerprint
from benchmark.intervals import interval_of_repeats
from benchmark.models import check_model, say_options
from benchmark.targets import open_channel, provenance_of
from benchmark.types import Measurement, Target

PROCESSES = 3


def measure_memory(models: Sequence[Path], target: Target, feeds: Path | None = None) -> list[Measurement]:
    """memory_mb of each file: how far loading and running it raises peak resident memory over the imports.

    The median of three fresh processes. 1 MB is 1,000,000 bytes.

    Raises ValueError where the target cannot be measured or a file cannot be run, WorkerDied.
    """
    paths = [check_model(Path(model)) for model in models]
    if not paths:
        return []
    if provenance_of(target) == "measured:device":  # one connection, one model in turn
        with closing(open_channel(target, feeds)) as channel:
            grown = [_grow(channel, model) for model in paths * PROCESSES]
    else:
        with ThreadPoolExecutor(os.cpu_count()) as side_by_side:  # nothing is timed
            grown = list(side_by_side.map(partial(_grow_here, target=target, feeds=feeds), paths * PROCESSES))
    samples = [sorted(mb for mb, _ in grown[i :: len(paths)]) for i in range(len(paths))]
    return [_say_memory(own, target, grown[0][1]) for own in samples]


def _grow_here(model: Path, target: Target, feeds: Path | None) -> tuple[float, str]:
    with closing(open_channel(target, feeds)) as channel:
        return _grow(channel, model)


def _grow(channel: Channel, model: Path) -> tuple[float, str]:
    """MB in a fresh process, and the fingerprint of the host."""
    channel.restart()
    return float(channel.ask("memory", model)["bytes"]) / 1e6, str(channel.host()["fingerprint"])


def _say_memory(samples: Sequence[float], target: Target, host: str) -> Measurement:
    low, high = interval_of_repeats(samples)
    return Measurement(
        "memory_mb",
        samples[PROCESSES // 2],
        max(0.0, min(low, samples[0])),
        max(high, samples[-1]),
        tuple(samples),
        target.name,
        provenance_of(target),
        f"peak resident growth over imports, {PROCESSES} fresh processes; {say_options(target)}",
        host,
    )


def measure_size(model: Path, target: Target) -> Measurement:
    """size_kb: bytes of the file, and of `<file>.data` where weights lie beside it. 1 kB is 1000 bytes."""
    return _say_bytes("size_kb", sum(path.stat().st_size for path in _list_files(model)), "bytes of the file", target)


def measure_download(model: Path, target: Target) -> Measurement:
    """download_kb: the same bytes as a web server or an app store sends them, compressed by gzip at level 9.

    It is about these weights: untrained ones compress otherwise.
    """
    size = sum(len(gzip.compress(path.read_bytes(), compresslevel=9, mtime=0)) for path in _list_files(model))
    return _say_bytes("download_kb", size, "bytes of the file compressed by gzip -9", target)


def _list_files(model: Path) -> list[Path]:
    path = check_model(Path(model))
    beside = path.with_name(path.name + ".data")
    return [path, beside] if beside.is_file() else [path]


def _say_bytes(quantity: str, size: int, protocol: str, target: Target) -> Measurement:
    kb = size / 1000
    return Measurement(quantity, kb, kb, kb, (kb,), target.name, "static", f"{protocol} ÷ 1000", host_fingerprint())
