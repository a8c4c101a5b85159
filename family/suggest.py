"""The nearest valid name, for messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: object, valid: Iterable[str]) -> str | None:
    """The valid name most like `name`, upper and lower case alike; None where none is near."""
    lowered = {each.lower(): each for each in reversed([*valid])}
    found = get_close_matches(str(name).lower(), list(lowered), 1, 0.6)
    return lowered[found[0]] if found else None


def did_you_mean(name: object, valid: Iterable[str]) -> str:
    """ " Did you mean 'x'?", with the space before it, or nothing."""
    near = nearest(name, valid)
    return f" Did you mean '{near}'?" if near is not None and near != str(name) else ""


def list_names(names: Iterable[object], last: str = "or") -> str:
    """ "a, b or c"."""
    said = [str(name) for name in names]
    return f" {last} ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


DEVICES = {
    "raspberry raspberrypi raspi rpi pi": "For a Raspberry Pi itself write {transport: ssh, host: pi@…} under targets; "
    "for its instructions, cortex-a53 (Pi 3), cortex-a72 (Pi 4) or cortex-a76 (Pi 5).",
    "jetson board arm aarch": "For the device itself write {transport: ssh, host: user@…} under targets; for its "
    "instructions, cortex-a53, cortex-a72, cortex-a76 or armv9.",
    "android phone mobile pixel galaxy": "For an Android phone use adb; for its instructions, cortex-a53, cortex-a76 "
    "or armv9.",
    "ios iphone ipad apple coreml": "No target reaches iOS; armv9 has the nearest instructions.",
    "gpu cuda nvidia mps tpu npu": "Students are measured on processors, such as cpu; what trains is set by device, at "
    "the top level.",
    "web wasm chrome chromium firefox safari": "For the web use browser or browser-slow.",
    "laptop desktop pc server host localhost local": "For this machine use cpu.",
    "mcu microcontroller arduino esp stm": "No target is a microcontroller: students run in onnxruntime.",
}  # words in a target's name → the preset or transport that is meant


def hint_target(name: str, valid: Iterable[str]) -> str:
    """What is meant by a target's name that is no preset, with a space before it; or the nearest valid name."""
    words = set(re.findall("[a-z]+", name.lower()))
    found = [hint for known, hint in DEVICES.items() if words & {*known.split()}]
    return f" {found[0]}" if found else did_you_mean(name, valid)
