"""Targets are named data: presets, what their options may be, and what each can answer.

A transport carries models to the runtime that measures: a channel with one method, what figures are taken by, and what
has to be installed for it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from benchmark import adb, browser, emulated, node, profile, ssh
from benchmark.c_runner import MACHINES
from benchmark.channel import Channel, count_cores, open_local
from benchmark.types import TIMED, Target

DEVICE_OPTIONS = frozenset({"threads", "batch", "runner", "machine", "launcher"})

CHOICES = {"runner": ("python", "c"), "machine": tuple(MACHINES)}


def always(what: Any) -> Callable[[Target], Any]:
    """The same, whatever the options."""
    return lambda target: what


def never(target: Target) -> bool:
    return False


@dataclass(frozen=True)
class Transport:
    """`open(target, feeds)`: the channel. `meter(target)`: how figures are taken (`benchmark.meters`): "paired",
    "direct", "counted" or "estimated". `answers(target)`: the limits that may be asked for. `design_points`: how many
    models are measured to predict others from, fewer where each takes long. `missing(target)`: why it cannot be used
    from here, with the command that installs what lacks; None where it can. `provenance(target)`: what its figures
    are. `other_runtime(target)`: whether what runs there may be another version of onnxruntime than is installed
    here."""

    open: Callable[[Target, Path | None], Channel]
    meter: Callable[[Target], str]
    answers: Callable[[Target], frozenset[str]]
    options: frozenset[str]
    missing: Callable[[Target], str | None]
    provenance: Callable[[Target], str]
    design_points: int = 20
    other_runtime: Callable[[Target], bool] = never


TRANSPORTS: dict[str, Transport] = {
    "local": Transport(
        open=open_local,
        meter=always("paired"),
        answers=always(TIMED | {"memory_mb"}),
        options=frozenset({"threads", "batch"}),
        missing=count_cores,
        provenance=always("measured:host"),
    ),
    "emulated": Transport(
        open=emulated.open_emulated,
        meter=always("counted"),
        answers=emulated.find_answers,
        options=frozenset({"core", "batch"}),
        missing=emulated.find_missing,
        provenance=always("counted:emulated-isa"),
    ),
    "browser": Transport(
        open=browser.open_browser,
        meter=browser.find_meter,
        answers=browser.find_answers,
        options=frozenset({"threads", "batch", "slowdown"}),
        missing=browser.find_missing,
        provenance=browser.provenance,
        other_runtime=always(True),
    ),
    "node": Transport(
        open=node.open_node,
        meter=always("paired"),
        answers=always(TIMED),
        options=frozenset({"threads", "batch"}),
        missing=node.find_missing,
        provenance=always("measured:host"),
        other_runtime=always(True),
    ),
    "ssh": Transport(
        open=ssh.open_ssh,
        meter=ssh.find_meter,
        answers=always(TIMED | {"memory_mb"}),
        options=frozenset({"host", "user", "port", "identity", "known_hosts", "python", *DEVICE_OPTIONS}),
        missing=ssh.find_missing,
        provenance=always("measured:device"),
        other_runtime=lambda target: ssh.find_meter(target) == "paired",  # the C runner is sent with its own
    ),
    "adb": Transport(
        open=adb.open_adb,
        meter=always("direct"),
        answers=always(TIMED | {"memory_mb"}),
        options=frozenset({"serial", "server_port", *DEVICE_OPTIONS}) - {"runner"},
        missing=adb.find_missing,
        provenance=always("measured:device"),
        design_points=14,
    ),
    "profile": Transport(
        open=profile.open_profile,
        meter=always("estimated"),
        answers=always(frozenset({"latency_ms", "size_kb"})),
        options=frozenset({"profile"}),
        missing=profile.find_missing,
        provenance=always("estimated"),
        design_points=14,
    ),
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
    return TRANSPORTS[target.transport].answers(target)


def design_points(target: Target) -> int:
    """How many models are measured on this target before others are predicted (`benchmark.fit`)."""
    return TRANSPORTS[target.transport].design_points


def provenance_of(target: Target) -> str:
    """What figures of this target are: `measured:host`, `counted:emulated-isa`, …; two never share a ranking."""
    return TRANSPORTS[target.transport].provenance(target)


def unavailable(target: Target) -> str | None:
    """Why `target` cannot be measured from here, in one line, or None where it can."""
    why = TRANSPORTS[target.transport].missing(target)
    return None if why is None else f"{target.name} is skipped: {why}."


def open_channel(target: Target, feeds: Path | None = None) -> Channel:
    """Raises ValueError where the target cannot be measured from here, or for feeds that cannot be read."""
    reason = unavailable(target)
    if reason is not None:
        raise ValueError(reason)
    return TRANSPORTS[target.transport].open(target, feeds)


def resolve_target(name: str, options: Mapping[str, Any] | None = None) -> Target:
    """A preset's name, its options overridden by `options`; or any name with a `transport` among its options.

    Raises ValueError, listing what is valid and what is nearest, for an unknown name, transport or option.
    """
    given = dict(options or {})
    transport = given.pop("transport", "profile" if "profile" in given else None)
    if transport is None and name not in PRESETS:
        hint = " Or give a transport: " + ", ".join(TRANSPORTS) + "."
        raise ValueError(_say_unknown("target", name, PRESETS) + hint)
    if transport is not None and transport not in TRANSPORTS:
        raise ValueError(_say_unknown(f"transport of target {name!r}", transport, TRANSPORTS))
    preset = PRESETS.get(name)
    kept = preset if preset is not None and transport in (None, preset.transport) else None
    target = Target(
        name,
        str(transport or (kept and kept.transport)),
        {**(kept.options if kept else {"threads": 1, "batch": 1}), **given},
    )
    if kept is None:
        allowed = TRANSPORTS[target.transport].options | set(given)
        target = replace(target, options={k: v for k, v in target.options.items() if k in allowed})
    _check_options(target)
    return target


def _check_options(target: Target) -> None:
    allowed = TRANSPORTS[target.transport].options
    for option, value in target.options.items():
        if option not in allowed:
            raise ValueError(_say_unknown(f"option of target {target.name!r}", option, allowed))
        whole = isinstance(value, int) and not isinstance(value, bool)
        if option in {"threads", "batch"} and not (whole and value >= 1):
            raise ValueError(f"{option} of target {target.name!r} must be a whole number of at least 1. Got {value!r}.")
        if option in CHOICES and value not in CHOICES[option]:
            raise ValueError(_say_unknown(f"{option} of target {target.name!r}", value, frozenset(CHOICES[option])))


def _say_unknown(what: str, found: object, valid: Mapping[str, Any] | frozenset[str]) -> str:
    near = get_close_matches(str(found), list(valid), n=1)
    nearest = f" Did you mean {near[0]!r}?" if near else ""
    names = ", ".join(sorted(valid) if isinstance(valid, frozenset) else valid)
    return f"unknown {what}: {found!r}.{nearest} Valid: {names}."
