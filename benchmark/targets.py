"""Targets are named data: presets, what their options may be, and what each can answer.

A transport opens a channel to the runtime that measures there. `local` is the only one in this version;
targets of the others are valid in a file of budgets and are answered as skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from benchmark.channel import Channel, open_local
from benchmark.types import Target

TRANSPORTS: dict[str, Callable[..., Channel]] = {"local": open_local}

TIMED = frozenset({"latency_ms", "latency_p95_ms", "size_kb"})

CAN_ANSWER: dict[str, frozenset[str]] = {
    "local": TIMED | {"memory_mb"},
    "emulated": frozenset({"instructions_m", "size_kb"}),
    "browser": TIMED,
    "node": TIMED,
    "ssh": TIMED | {"memory_mb"},
    "adb": TIMED | {"memory_mb"},
}

DESIGN_POINTS: dict[str, int] = {  # models measured to predict others from: fewer where each takes long
    "local": 20,
    "emulated": 20,
    "browser": 20,
    "node": 20,
    "ssh": 20,
    "adb": 14,
}

OPTIONS: dict[str, frozenset[str]] = {
    "local": frozenset({"threads", "batch"}),
    "emulated": frozenset({"core", "batch"}),
    "browser": frozenset({"threads", "batch", "slowdown"}),
    "node": frozenset({"threads", "batch"}),
    "ssh": frozenset({"threads", "batch", "host", "user", "port", "python"}),
    "adb": frozenset({"threads", "batch", "serial"}),
}

PRESETS: dict[str, Target] = {
    "cpu": Target("cpu", "local", {"threads": 1, "batch": 1}),
    "cortex-a53": Target("cortex-a53", "emulated", {"core": "cortex-a53", "batch": 1}),
    "cortex-a72": Target("cortex-a72", "emulated", {"core": "cortex-a72", "batch": 1}),
    "cortex-a76": Target("cortex-a76", "emulated", {"core": "cortex-a76", "batch": 1}),
    "neoverse-n1": Target("neoverse-n1", "emulated", {"core": "neoverse-n1", "batch": 1}),
    "armv9": Target("armv9", "emulated", {"core": "armv9", "batch": 1}),
    "old-x86": Target("old-x86", "emulated", {"core": "old-x86", "batch": 1}),
    "browser": Target("browser", "browser", {"threads": 1, "batch": 1}),
    "browser-slow": Target("browser-slow", "browser", {"threads": 1, "batch": 1, "slowdown": 4}),
    "node": Target("node", "node", {"threads": 1, "batch": 1}),
    "ssh": Target("ssh", "ssh", {"threads": 1, "batch": 1}),
    "adb": Target("adb", "adb", {"threads": 1, "batch": 1}),
}


def can_answer(target: Target) -> frozenset[str]:
    """The budget limits this target can be asked for."""
    return CAN_ANSWER[target.transport]


def design_points(target: Target) -> int:
    """How many models are measured on this target before others are predicted (`benchmark.fit`)."""
    return DESIGN_POINTS[target.transport]


def unavailable(target: Target) -> str | None:
    """Why `target` cannot be measured from here, in one line, or None where it can."""
    if target.transport not in TRANSPORTS:
        return f"{target.name} is skipped: this version has no transport {target.transport!r}."
    threads, cores = int(target.options.get("threads", 1)), os.cpu_count() or 1
    if threads > cores:
        return f"{target.name} is skipped: it asks for {threads} threads and this machine has {cores} cores."
    return None


def resolve_target(name: str, options: Mapping[str, Any] | None = None) -> Target:
    """A preset's name, its options overridden by `options`; or any name with a `transport` among its options.

    Raises ValueError, listing what is valid and what is nearest, for an unknown name, transport or option.
    """
    given = dict(options or {})
    transport = given.pop("transport", None)
    if transport is None and name not in PRESETS:
        hint = " Or give a transport: " + ", ".join(CAN_ANSWER) + "."
        raise ValueError(_say_unknown("target", name, PRESETS) + hint)
    if transport is not None and transport not in CAN_ANSWER:
        raise ValueError(_say_unknown(f"transport of target {name!r}", transport, CAN_ANSWER))
    preset = PRESETS.get(name)
    kept = preset if preset is not None and transport in (None, preset.transport) else None
    target = Target(
        name,
        str(transport or (kept and kept.transport)),
        {**(kept.options if kept else {"threads": 1, "batch": 1}), **given},
    )
    if kept is None and target.transport == "emulated":
        target = Target(name, "emulated", {k: v for k, v in target.options.items() if k != "threads"})
    _check_options(target)
    return target


def _check_options(target: Target) -> None:
    allowed = OPTIONS[target.transport]
    for option, value in target.options.items():
        if option not in allowed:
            raise ValueError(_say_unknown(f"option of target {target.name!r}", option, allowed))
        whole = isinstance(value, int) and not isinstance(value, bool)
        if option in {"threads", "batch"} and not (whole and value >= 1):
            raise ValueError(f"{option} of target {target.name!r} must be a whole number of at least 1. Got {value!r}.")


def _say_unknown(what: str, found: object, valid: Mapping[str, Any] | frozenset[str]) -> str:
    near = get_close_matches(str(found), list(valid), n=1)
    nearest = f" Did you mean {near[0]!r}?" if near else ""
    names = ", ".join(sorted(valid) if isinstance(valid, frozenset) else valid)
    return f"unknown {what}: {found!r}.{nearest} Valid: {names}."
