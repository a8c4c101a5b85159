"""A machine that is reached by a command at a time, and may have no Python: the C runner is sent there and times.

What lies there is one folder (`benchmark.held`).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmark.c_runner import (
    MACHINES,
    NOT_RUN,
    bundle,
    bundled_words,
    find_lacking,
    open_here,
    plan_outputs,
    read_outputs,
    tensor_files,
)
from benchmark.channel import WorkerDied
from benchmark.held import Held
from benchmark.inputs import load_feeds, make_inputs
from benchmark.models import hash_model
from benchmark.types import Target

FEWEST, MOST = 10, 1000  # runs of a session
WARM_UP = 5
SLOWED = 1.1  # a session whose last third takes so much longer than its first shows a clock that falls
SESSION_S = 60  # to start one, beyond what it times
FACTS = {
    "machine": "uname -m",
    "model": "getprop ro.product.model || tr -d '\\0' < /proc/device-tree/model",
    "cpu": "grep -m1 -E '^(model name|CPU part)' /proc/cpuinfo | cut -d: -f2",
    "cores": "grep -c ^processor /proc/cpuinfo",
    "memory_kb": "grep MemTotal /proc/meminfo | tr -dc 0-9",
    "governor": "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "temperature": "cat /sys/class/thermal/thermal_zone0/temp",
    "caps_khz": "cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq",
}


@dataclass(frozen=True)
class Reply:
    """What a command there gave: exit code, output, errors."""

    code: int
    out: bytes
    err: str

    @property
    def last(self) -> str:
        """The last that was said of what went wrong; tar ends with a line that tells nothing."""
        lines = [line for line in self.err.strip().splitlines() if not line.endswith("due to previous errors")]
        return (lines or [f"it ended with code {self.code}"])[-1]


class Shell(Protocol):
    """A machine that takes commands. `where`: how it is called in messages."""

    where: str

    def run(self, command: str, data: bytes = b"", limit_s: float = 300) -> Reply:
        """Raises WorkerDied where the machine is not reached, or gives no answer in time."""
        ...

    def send(self, folder: str, files: Mapping[str, bytes]) -> Reply:
        """Copy files into a folder there, executable; it is made where the one it lies in is there."""
        ...

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """A command that goes on until its input ends, as it does when the connection is lost; its pipes are ours."""
        ...

    def close(self) -> None: ...


class DeviceChannel:
    """Answers `time` (nanoseconds of every run, session by session), `memory` (bytes) and `run` (how far off from this
    machine the outputs are)."""

    def __init__(self, shell: Shell, target: Target, feeds: Path | None, room: str):
        self._shell, self._target, self._room = shell, target, room
        self._feeds = load_feeds(feeds)
        self._launcher = str(target.options.get("launcher", ""))
        self._held: Held | None = None
        self._sent = set[str]()
        self._facts: dict[str, Any] = {}

    def ask(self, do: str, model: Path | None = None, **request: Any) -> dict[str, Any]:
        """Raises ValueError for a model that does not run there, WorkerDied where the machine is lost."""
        if do not in ("time", "memory", "run") or model is None:
            raise ValueError(f"{self._target.name} can be asked for time, memory, or to run a model. Got {do!r}.")
        inputs = self._make_inputs(model, strict=bool(request.get("strict", True)))
        try:
            self._prepare(model, inputs)
            if do == "time":
                return self._time(model, float(request["seconds"]), int(request["repeats"]))
            if do == "memory":
                session = self._start(model, 1, 0)
                return {"bytes": 1024 * (session["peak_kb"] - session["base_kb"])}
            return {"off": self._compare(model, inputs)}
        except WorkerDied:
            self._forget()
            raise

    def host(self) -> dict[str, Any]:
        """The machine's own facts; `fingerprint` is of those that stay."""
        if not self._facts:
            facts = self._read_facts()
            stay = {key: facts[key] for key in ("machine", "model", "cpu", "cores", "memory_kb")}
            stay |= {"launcher": self._launcher, "onnxruntime": bundled_version()}
            mark = hashlib.sha256(json.dumps(stay, sort_keys=True).encode()).hexdigest()[:12]
            self._facts = {"fingerprint": mark, **stay, **{key: facts[key] for key in ("governor", "temperature_c")}}
        return self._facts

    def restart(self) -> None:
        """Every session is a process of its own."""

    def close(self) -> None:
        self._forget()
        self._shell.close()

    def _make_inputs(self, model: Path, strict: bool) -> dict[str, NDArray[Any]]:
        batch = int(self._target.options.get("batch", 1))
        return make_inputs(model, open_here(model).get_inputs(), batch, self._feeds, strict=strict)

    def _time(self, model: Path, seconds: float, repeats: int) -> dict[str, Any]:
        before = self._read_facts()
        probe = float(np.median(self._start(model, FEWEST, WARM_UP)["times_ms"])) / 1e3
        count = int(np.clip(seconds / repeats / max(probe, 1e-7), FEWEST, MOST))
        sessions = [self._start(model, count, WARM_UP, seconds)["times_ms"] for _ in range(repeats)]
        after = self._read_facts()
        return {
            "samples_ns": [[round(ms * 1e6) for ms in times] for times in sessions],
            "throttled": is_throttled(sessions, before, after),
            "note": say_state(before, after),
        }

    def _compare(self, model: Path, inputs: Mapping[str, NDArray[Any]]) -> float:
        """The largest difference of an output from this machine's."""
        plan = plan_outputs(model, inputs)
        self._start(model, 1, 0)
        found = read_outputs(self._order(f"cat {self._place(model)}/output").out, plan)
        expected = zip(plan, open_here(model).run(None, dict(inputs)), strict=True)
        return max(float(np.abs(found[name].astype(float) - value).max(initial=0.0)) for name, value in expected)

    def _start(self, model: Path, runs: int, warm_up: int, seconds: float = 0.0) -> dict[str, Any]:
        """One session: what the runner says."""
        runner = " ".join(bundled_words(self._machine(), self._folder))
        threads = int(self._target.options.get("threads", 1))
        words = f"model.onnx tensors output {runs} {warm_up} {threads}"
        # onnxruntime leaves a file among temporary ones
        command = f"cd {self._place(model)} && TMPDIR={self._folder} {self._launcher} {runner} {words}"
        reply = self._shell.run(command, limit_s=SESSION_S + 20 * seconds)
        if reply.code == NOT_RUN:
            raise ValueError(f"{model} does not run on {self._target.name}: {reply.last}")
        if reply.code:
            raise WorkerDied(f"{self._target.name}: the runner on {self._shell.where} failed on {model}: {reply.last}")
        return dict(json.loads(reply.out))

    def _prepare(self, model: Path, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Runner, model and inputs there."""
        if self._held is None or not self._held.alive:
            self._forget()
            self._held = Held(self._shell.start, self._room, f"{self._target.name}: {self._shell.where}")
            self._send(self._folder, bundle(self._machine()))
        digest = hash_model(model)
        if digest not in self._sent:
            files = tensor_files(inputs, plan_outputs(model, inputs)) | {"model.onnx": model.read_bytes()}
            self._send(self._place(model), files)
            self._sent.add(digest)

    @property
    def _folder(self) -> str:
        assert self._held is not None
        return self._held.folder

    def _send(self, folder: str, files: Mapping[str, bytes]) -> None:
        self._check(self._shell.send(folder, files))

    def _order(self, command: str) -> Reply:
        return self._check(self._shell.run(command))

    def _check(self, reply: Reply) -> Reply:
        if reply.code:
            raise WorkerDied(f"{self._target.name}: {self._shell.where}: {reply.last}")
        return reply

    def _place(self, model: Path) -> str:
        return f"{self._folder}/{hash_model(model)[:16]}"

    def _machine(self) -> str:
        return find_machine(self._target, str(self.host()["machine"]))

    def _read_facts(self) -> dict[str, Any]:
        """By name; None for what the machine does not tell."""
        command = "; ".join(f"echo {name}=$({{ {how}; }} 2> /dev/null)" for name, how in FACTS.items())
        told = dict(line.split("=", 1) for line in self._order(command).out.decode(errors="replace").splitlines())
        facts = {name: told.get(name, "").strip() or None for name in FACTS}
        heat = facts["temperature"]
        return {**facts, "temperature_c": int(heat) / 1000 if heat and heat.isdigit() else None}

    def _forget(self) -> None:
        """Have the folder there removed."""
        held, self._held, self._sent = self._held, None, set()
        if held is not None:
            release(held, self._shell)


def release(held: Held, shell: Shell) -> None:
    """The folder goes with its holder; where that was not seen, it is removed if the machine is still to be reached."""
    if not held.end():
        with suppress(WorkerDied):
            shell.run(f"rm -rf {held.folder}", limit_s=30)


def bundled_version() -> str:
    """Of onnxruntime: what is sent is what is installed here."""
    from importlib.metadata import version

    return version("onnxruntime")


def find_machine(target: Target, said: str) -> str:
    """Which of `MACHINES` the runner is for: the option `machine`, or what the device says it is."""
    return str(target.options.get("machine", said))


def find_lacking_for(target: Target, said: str) -> str | None:
    """Why no runner can be sent to a device that says it is a `said`."""
    machine = find_machine(target, said)
    if machine not in MACHINES:
        return f"its processor is {machine!r}; the C runner is for {', '.join(MACHINES)} (option machine)"
    return find_lacking(machine)


def is_throttled(sessions: Sequence[Sequence[float]], before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the clock fell: the kernel lowered some processor's cap meanwhile or took one away, or most sessions
    ended slower than they began. sessions: ms of every run."""
    caps = [[int(cap) for cap in (one["caps_khz"] or "").split()] for one in (before, after)]
    capped = len(caps[1]) < len(caps[0]) or any(now < was for was, now in zip(*caps, strict=False))
    thirds = [(times[: len(times) // 3], times[-(len(times) // 3) :]) for times in sessions if len(times) >= FEWEST]
    slowed = sum(float(np.median(last)) > SLOWED * float(np.median(first)) for first, last in thirds)
    return capped or slowed > len(sessions) / 2


def say_state(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Governor and temperature, as far as told."""
    heats = [one["temperature_c"] for one in (before, after)]
    said = [f"governor {after['governor']}"] if after["governor"] else []
    said += [f"{heats[0]:.0f} to {heats[1]:.0f} °C"] if None not in heats else []
    return ", ".join(said)
