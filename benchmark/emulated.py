"""Processors under emulation: the real onnxruntime for them, run by QEMU, its instructions counted on Arm.

Whether a file loads there and what it gives are true answers, and so are counts. Emulated time is not, and is never
told. `python -P -m benchmark.prepare emulated` fetches the aarch64 runtime from the package index and builds helpers.

onnxruntime reads which instructions it may use from /proc/cpuinfo, where emulation shows the host's: a root folder per
Arm core holds one that matches the emulated core, and the libraries that the runtime needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmark.c_runner import (
    MACHINES,
    NOT_RUN,
    build,
    build_runner,
    fetch_library,
    find_lacking,
    find_library,
    open_here,
    plan_outputs,
    read_outputs,
    tensor_files,
    tools_folder,
)
from benchmark.channel import WorkerDied
from benchmark.inputs import load_feeds, make_inputs
from benchmark.types import Target

RUNS, WARM_UP = 5, 2
LIMIT_S = 300
ENV = {"LANG": "C"}  # words on the stack move what lies below them, and counts with it
ARM = "aarch64"
APT = f"sudo apt-get install qemu-user gcc {MACHINES[ARM].apt}"


@dataclass(frozen=True)
class Core:
    """`qemu`: its name there. What /proc/cpuinfo says of an Arm core: `part`, `variant`, `revision`, `features`."""

    qemu: str
    part: str = ""
    variant: str = ""
    revision: str = ""
    features: str = ""
    machine: str = ARM


V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
V82 = f"{V8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
V9 = (
    f"{V82} jscvt fcma dcpodp sha3 sm3 sm4 sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb sve2 flagm2 frint "
    "svei8mm svebf16 i8mm bf16 dgh"
)
CORES: dict[str, Core] = {
    "cortex-a53": Core("cortex-a53", "0xd03", "0x0", "4", V8),
    "cortex-a72": Core("cortex-a72", "0xd08", "0x0", "3", V8),
    "cortex-a76": Core("cortex-a76", "0xd0b", "0x4", "1", V82),
    "neoverse-n1": Core("neoverse-n1", "0xd0c", "0x3", "1", V82),
    "old-x86": Core("Haswell-noTSX", machine="x86_64"),  # AVX2 without VNNI: int8 products saturate there
    "armv9": Core("max,sme=off", "0xd4f", "0x0", "0", V9),  # with SME one kernel of onnxruntime 1.32 errs under QEMU
}


@dataclass(frozen=True)
class Emulated:
    """One emulated session: `counts`, a dict by class of every run; `outputs` of the last by name; `runtime`."""

    counts: list[dict[str, int]]
    outputs: dict[str, NDArray[Any]]
    runtime: str


class EmulatedChannel:
    """Answers `count`: `{counts: [{insn, load, …} of each run]}`, and `run`, which only says that it does."""

    def __init__(self, core: str, batch: int, feeds: Path | None):
        self._core, self._batch, self._feeds = core, batch, feeds

    def ask(self, do: str, model: Path | None = None, **request: Any) -> dict[str, Any]:
        """Raises ValueError for a model that does not run there, WorkerDied where the emulator dies."""
        if do not in ("count", "run") or model is None or (do == "count" and not is_counted(self._core)):
            raise ValueError(f"{self._core} can be asked what a model takes or gives there. Got {do!r}.")
        feeds, strict = load_feeds(self._feeds), bool(request.get("strict", True))
        inputs = make_inputs(model, open_here(model).get_inputs(), self._batch, feeds, strict=strict)
        return {"counts": run_emulated(self._core, model, inputs, counted=do == "count").counts}

    def host(self) -> dict[str, Any]:
        return describe_core(self._core)

    def restart(self) -> None:
        """Every session is a process of its own."""

    def close(self) -> None:
        """Nothing is left running."""


def open_emulated(target: Target, feeds: Path | None) -> EmulatedChannel:
    """The channel of `emulated`; options `core` (of `CORES`), `batch`."""
    return EmulatedChannel(str(target.options["core"]), int(target.options.get("batch", 1)), feeds)


def is_counted(core: str) -> bool:
    """Whether instructions are counted there: the counter knows those of Arm."""
    return CORES[core].machine == ARM


def find_answers(target: Target) -> frozenset[str]:
    """The limits that may be asked for."""
    counted = target.options.get("core") not in CORES or is_counted(str(target.options["core"]))
    return frozenset({"size_kb", *(["instructions_m"] if counted else [])})


def find_missing(target: Target) -> str | None:
    """Why a core cannot be emulated here, with the command that helps."""
    return find_missing_core(str(target.options.get("core")))


def find_missing_core(core: str) -> str | None:
    if core not in CORES:
        return f"it has no core {core!r} to emulate; there are {', '.join(CORES)}"
    machine = CORES[core].machine
    programs = [f"qemu-{machine}", MACHINES[machine].compiler, *(["gcc"] if is_counted(core) else [])]
    missing = [name for name in dict.fromkeys(programs) if shutil.which(name) is None]
    return f"it needs {', '.join(missing)}: {APT}" if missing else find_lacking(machine)


def run_emulated(
    core: str, model: Path, inputs: Mapping[str, NDArray[Any]], runs: int = RUNS, *, counted: bool = True
) -> Emulated:
    """Run `model` on `inputs` (whole batches by name) `runs` times after a warm-up; `counted`: with its instructions.

    Raises ValueError with onnxruntime's reason where it does not run there, WorkerDied where the emulator dies.
    """
    plan = plan_outputs(model, inputs)
    with tempfile.TemporaryDirectory(prefix="emulated-") as name:
        folder = Path(name)
        for tensor, data in tensor_files(inputs, plan).items():
            (folder / tensor).write_bytes(data)
        for file in (model, model.with_name(f"{model.name}.data")):
            if file.exists():
                (folder / file.name.replace(model.name, "model.onnx")).symlink_to(file.resolve())
        words = ["model.onnx", "tensors", "output", str(runs), str(WARM_UP if counted else 0), "1"]
        done = start([*steady(), *emulator(core, folder if counted else None), *words], model, folder)
        lines = (folder / "counts").read_text().splitlines() if counted else []
        outputs = read_outputs((folder / "output").read_bytes(), plan)
        return Emulated([json.loads(line) for line in lines][-runs:], outputs, json.loads(done.stdout)["onnxruntime"])


def run_on_core(core: str, model: Path, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The first output on that core. Raises as `run_emulated` does."""
    return next(iter(run_emulated(core, model, inputs, runs=1, counted=False).outputs.values()))


@cache
def steady() -> tuple[str, ...]:
    """Words before the emulator that keep addresses the same, where this machine allows it: some of the runtime's ways
    depend on them, and a count with them."""
    words = (shutil.which("setarch") or "", "-R")
    allowed = words[0] and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if allowed else ()


def emulator(core: str, counts: Path | None = None) -> list[str]:
    """The command of the runner on that core; `counts`: a folder in which a file `counts` is written."""
    of = CORES[core]
    words = [shutil.which(f"qemu-{of.machine}") or f"qemu-{of.machine}", "-cpu", of.qemu]
    words += ["-L", str(make_root(core))] if of.machine == ARM else []
    words += ["-plugin", f"{build_counter()},out={counts / 'counts'}"] if counts else []
    return [*words, str(build_runner(of.machine)), str(find_library(of.machine))]


def start(command: Sequence[str], model: Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, errors="replace", cwd=folder, env=ENV
        )
    except subprocess.TimeoutExpired:
        raise WorkerDied(f"{model} did not end within {LIMIT_S} s on the emulated core.") from None
    last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    if done.returncode == NOT_RUN:
        raise ValueError(f"{model} does not run on the emulated core: {last}")
    if done.returncode:
        raise WorkerDied(f"the emulator ended with code {done.returncode} on {model}. Its last words: {last}")
    return done


@cache
def describe_core(core: str) -> dict[str, Any]:
    """What counts here: emulator, core, runtime; the same everywhere, whatever the machine."""
    program = f"qemu-{CORES[core].machine}"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    facts = {"emulator": said.splitlines()[0], "core": CORES[core].qemu, "onnxruntime": version("onnxruntime")}
    return {"fingerprint": hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12], **facts}


def build_counter() -> Path:
    return build("count.c", "plugin", ["gcc", "-O2", "-shared", "-fPIC"])


def make_root(core: str) -> Path:
    """The folder that emulation takes for the root of the file system, where it holds what is asked for."""
    root = tools_folder() / f"root-{core}-{hashlib.sha256(str(CORES[core]).encode()).hexdigest()[:8]}"
    if root.exists():
        return root
    draft = root.with_name(f".{root.name}.{os.getpid()}")
    (draft / "lib").mkdir(parents=True)
    for name in MACHINES[ARM].needed:
        shutil.copyfile(MACHINES[ARM].libraries / name, draft / "lib" / name)
        (draft / "lib" / name).chmod(0o755)
    for place, text in describe_files(CORES[core]).items():
        (draft / place).parent.mkdir(parents=True, exist_ok=True)
        (draft / place).write_text(text)
    try:
        draft.rename(root)
    except OSError:  # another process was first
        shutil.rmtree(draft)
    return root


def describe_files(core: Core) -> dict[str, str]:
    """What the runtime reads about a machine with one such core."""
    cpu = "sys/devices/system/cpu"
    cpuinfo = {
        "processor": "0",
        "BogoMIPS": "108.00",
        "Features": core.features,
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": core.variant,
        "CPU part": core.part,
        "CPU revision": core.revision,
    }
    lists = ("core_siblings_list", "cluster_cpus_list", "package_cpus_list", "thread_siblings_list")
    topology = {"physical_package_id": "0", "core_id": "0", "cluster_id": "0", **dict.fromkeys(lists, "0")}
    return {
        "proc/cpuinfo": "".join(f"{key}\t: {value}\n" for key, value in cpuinfo.items()) + "\n",
        f"{cpu}/kernel_max": "7\n",
        **{f"{cpu}/{name}": "0\n" for name in ("possible", "present", "online")},
        **{f"{cpu}/cpu0/topology/{name}": f"{value}\n" for name, value in topology.items()},
        **{f"{cpu}/cpu0/cpufreq/cpuinfo_{end}_freq": "2000000\n" for end in ("max", "min")},
    }


def prepare() -> list[str]:
    """Fetch and build all that emulated processors need; where it lies. Raises ValueError or OSError where something
    lacks."""
    try:
        made = [path for machine in MACHINES for path in (fetch_library(machine), build_runner(machine))]
        made += [build_counter(), *(make_root(name) for name, core in CORES.items() if core.machine == ARM)]
    except (OSError, subprocess.CalledProcessError) as problem:
        raise ValueError(f"{problem}; {APT}") from None
    return [str(path) for path in made]
