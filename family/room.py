"""What this process may use of the host: cores and memory, a container's limits counted."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # bytes; cgroup v1 says no limit by a number above


def usable_cores() -> int:
    """At least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(core_quota())))


def core_quota() -> float:
    """Cores' worth of time that the control group allows (v2, v1); infinite where it sets no limit."""
    words = read_words(GROUPS / "cpu.max")
    if not words:
        words = read_words(GROUPS / "cpu/cpu.cfs_quota_us") + read_words(GROUPS / "cpu/cpu.cfs_period_us")
    if len(words) < 2 or words[0] in ("max", "-1"):
        return 1e9
    return int(words[0]) / int(words[1])


def free_bytes() -> int:
    """Of memory: of the host, or of the control group where that leaves less."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = read_words(GROUPS / limit), read_words(GROUPS / used)
        if most and now and most[0] != "max" and int(most[0]) < UNLIMITED:
            free = min(free, max(0, int(most[0]) - int(now[0])))
    return free


def read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
