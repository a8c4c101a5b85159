"""Arm cores under emulation: the real aarch64 onnxruntime, run by `qemu-aarch64`, its instructions counted.

Whether a file loads there and what it gives are true answers, and so are counts. Emulated time is not, and is never
told. `python -P -m benchmark.emulated` fetches the aarch64 runtime from the package index and builds the two helpers.

onnxruntime reads which instructions it may use from /proc/cpuinfo, where emulation shows the host's: a root folder per
core holds one that matches the emulated core, and the libraries that the runtime needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmark.channel import WorkerDied
from benchmark.inputs import make_inputs
from benchmark.types import Target
from benchmark.worker import RUNTIME_ERRORS

RUNS, WARM_UP = 5, 2
LIMIT_S = 300
ARM_LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")
NEEDED = (
    "ld-linux-aarch64.so.1",
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "librt.so.1",
    "libpthread.so.0",
    "libgcc_s.so.1",
    "libstdc++.so.6",
)
APT = (
    "sudo apt-get install qemu-user gcc gcc-aarch64-linux-gnu libc6-arm64-cross libstdc++6-arm64-cross "
    "libgcc-s1-arm64-cross"
)
PREPARE = "python -P -m benchmark.emulated"
ELEMENTS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}


@dataclass(frozen=True)
class Core:
    """`qemu`: its name there. What /proc/cpuinfo says of it: `part`, `variant`, `revision`, `features`."""

    qemu: str
    part: str
    variant: str
    revision: str
    features: str


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
    "armv9": Core("max,sme=off", "0xd4f", "0x0", "0", V9),  # with SME one kernel of onnxruntime 1.32 errs under QEMU
}


@dataclass(frozen=True)
class Emulated:
    """One emulated session: `counts`, a dict by class of every run; `outputs` of the last by name; `runtime`."""

    counts: list[dict[str, int]]
    outputs: dict[str, NDArray[Any]]
    runtime: str


class EmulatedChannel:
    """Answers `count`: `{counts: [{insn, load, …} of each run], outputs: largest difference from this machine}`."""

    def __init__(self, core: str, batch: int, feeds: Path | None):
        self._core, self._batch, self._feeds = core, batch, feeds

    def ask(self, do: str, model: Path | None = None, **request: Any) -> dict[str, Any]:
        """Raises ValueError for a model that does not run there, WorkerDied where the emulator dies."""
        if do != "count" or model is None:
            raise ValueError(f"an emulated core can be asked to count what a model takes. Got {do!r}.")
        feeds = None
        if self._feeds is not None:
            with np.load(self._feeds, allow_pickle=False) as arrays:
                feeds = {name: arrays[name] for name in arrays.files}
        session = open_here(model)
        inputs = make_inputs(session.get_inputs(), self._batch, feeds, strict=bool(request.get("strict", True)))
        return {"counts": run_emulated(self._core, model, inputs).counts}

    def host(self) -> dict[str, Any]:
        return describe_emulator(self._core)

    def restart(self) -> None:
        """Every session is a process of its own."""

    def close(self) -> None:
        """Nothing is left running."""


def open_emulated(target: Target, feeds: Path | None) -> EmulatedChannel:
    """The channel of `emulated`; options `core` (of `CORES`), `batch`."""
    return EmulatedChannel(str(target.options["core"]), int(target.options.get("batch", 1)), feeds)


def find_missing(target: Target) -> str | None:
    """Why a core cannot be emulated here, with the command that helps."""
    core = str(target.options.get("core"))
    if core not in CORES:
        return f"it has no core {core!r} to emulate; there are {', '.join(CORES)}"
    programs = [name for name in ("qemu-aarch64", "aarch64-linux-gnu-gcc", "gcc") if shutil.which(name) is None]
    if programs or not (ARM_LIBRARIES / NEEDED[0]).exists():
        return f"it needs {', '.join(programs) or 'the arm64 libraries'}: {APT}"
    if not find_library().exists():
        return f"it needs onnxruntime {version('onnxruntime')} for aarch64: {PREPARE}"
    return None


def run_emulated(core: str, model: Path, inputs: Mapping[str, NDArray[Any]], runs: int = RUNS) -> Emulated:
    """Run `model` on `inputs` (whole batches by name) `runs` times after a warm-up.

    Raises ValueError with onnxruntime's reason where it does not run there, WorkerDied where the emulator dies.
    """
    plan = plan_outputs(model, inputs)
    with tempfile.TemporaryDirectory(prefix="emulated-") as name:
        folder = Path(name)
        tensors = write_tensors(folder, inputs, plan)
        words = [str(model.resolve()), str(tensors), str(folder / "output"), str(runs), str(WARM_UP), "1"]
        plugin = f"{build_counter()},out={folder / 'counts'}"
        emulator = ["qemu-aarch64", "-cpu", CORES[core].qemu, "-L", str(make_root(core)), "-plugin", plugin]
        done = start([*emulator, str(build_runner()), str(find_library()), *words], model)
        marks = [json.loads(line) for line in (folder / "counts").read_text().splitlines()]
        return Emulated(
            marks[-runs:], read_outputs(folder / "output", plan), str(json.loads(done.stdout)["onnxruntime"])
        )


def start(command: Sequence[str], model: Path) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, errors="replace")
    except subprocess.TimeoutExpired:
        raise WorkerDied(f"{model} did not end within {LIMIT_S} s on the emulated core.") from None
    last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    if done.returncode == 3:
        raise ValueError(f"{model} does not run on the emulated core: {last}")
    if done.returncode:
        raise WorkerDied(f"the emulator ended with code {done.returncode} on {model}. Its last words: {last}")
    return done


def open_here(model: Path) -> onnxruntime.InferenceSession:
    """On this machine, one thread. Raises ValueError for a file that is no model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        raise ValueError(f"onnxruntime cannot run {model}: {' '.join(str(error).split())}") from None


def plan_outputs(model: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Name → dtype, shape of what these inputs give."""
    session = open_here(model)
    found = zip(session.get_outputs(), session.run(None, dict(inputs)), strict=True)
    return {output.name: (value.dtype, value.shape) for output, value in found}


def write_tensors(folder: Path, inputs: Mapping[str, NDArray[Any]], plan: Mapping[str, Any]) -> Path:
    lines = []
    for i, (name, value) in enumerate(inputs.items()):
        source = folder / f"input-{i}"
        source.write_bytes(np.ascontiguousarray(value).tobytes())
        lines.append(f"in {name} {ELEMENTS[value.dtype.name]} {','.join(map(str, value.shape))} {source}")
    for name, (dtype, shape) in plan.items():
        lines.append(f"out {name} {dtype.itemsize * int(np.prod(shape))}")
    path = folder / "tensors"
    path.write_text("\n".join(lines) + "\n")
    return path


def read_outputs(path: Path, plan: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> dict[str, NDArray[Any]]:
    data, outputs, start_at = path.read_bytes(), {}, 0
    for name, (dtype, shape) in plan.items():
        count = int(np.prod(shape))
        outputs[name] = np.frombuffer(data, dtype, count, start_at).reshape(shape)
        start_at += count * dtype.itemsize
    return outputs


@cache
def describe_emulator(core: str) -> dict[str, Any]:
    """What counts here: emulator, core, runtime; the same everywhere, whatever the machine."""
    said = subprocess.run(["qemu-aarch64", "--version"], capture_output=True, text=True, check=True).stdout
    facts = {"emulator": said.splitlines()[0], "core": CORES[core].qemu, "onnxruntime": version("onnxruntime")}
    return {"fingerprint": hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12], **facts}


def tools_folder() -> Path:
    """Where the runtime and what is built are kept, in STUDENT_FAMILY_CACHE, else the user's cache folder."""
    home = os.environ.get("STUDENT_FAMILY_CACHE")
    base = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "student-family"
    return base / "emulated"


def find_library() -> Path:
    number = version("onnxruntime")
    return tools_folder() / number / f"libonnxruntime.so.{number}"


def fetch_library() -> Path:
    """Download the aarch64 wheel of this machine's onnxruntime and keep its library. Raises ValueError where pip
    cannot."""
    path, number = find_library(), version("onnxruntime")
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(prefix="aarch64-") as name:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", name]
        only = ["--platform", "manylinux_2_28_aarch64", "--python-version", "3.11", f"onnxruntime=={number}"]
        done = subprocess.run([*pip, *only], capture_output=True, text=True)
        wheels = list(Path(name).glob("*.whl"))
        if done.returncode or not wheels:
            raise ValueError(f"pip cannot fetch onnxruntime {number} for aarch64: {done.stderr.strip()[-300:]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            keep(path, wheel.read(f"onnxruntime/capi/{path.name}"))
    return path


def build_runner() -> Path:
    return build("run.c", ["aarch64-linux-gnu-gcc", "-O2"], ["-ldl"])


def build_counter() -> Path:
    return build("count.c", ["gcc", "-O2", "-shared", "-fPIC"], [])


def build(source: str, compiler: Sequence[str], libraries: Sequence[str]) -> Path:
    """The program built from one of our C files, once per its content."""
    text = (resources.files("benchmark") / "native" / source).read_bytes()
    path = tools_folder() / f"{Path(source).stem}-{hashlib.sha256(text).hexdigest()[:12]}"
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="build-") as name:
            (Path(name) / source).write_bytes(text)
            command = [*compiler, "-o", f"{name}/built", f"{name}/{source}", *libraries]
            subprocess.run(command, capture_output=True, check=True)
            keep(path, (Path(name) / "built").read_bytes())
        path.chmod(0o755)
    return path


def keep(path: Path, data: bytes) -> None:
    """Write beside, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.chmod(0o755)
    beside.replace(path)


def make_root(core: str) -> Path:
    """The folder that emulation takes for the root of the file system, where it holds what is asked for."""
    root = tools_folder() / f"root-{core}-{hashlib.sha256(str(CORES[core]).encode()).hexdigest()[:8]}"
    if root.exists():
        return root
    draft = root.with_name(f".{root.name}.{os.getpid()}")
    (draft / "lib").mkdir(parents=True)
    for name in NEEDED:
        shutil.copyfile(ARM_LIBRARIES / name, draft / "lib" / name)
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


def main() -> int:
    """Fetch and build all that emulated cores need; 1 where something lacks."""
    try:
        print(fetch_library())
        print(build_runner(), build_counter(), *map(make_root, CORES), sep="\n")
    except (ValueError, OSError, subprocess.CalledProcessError) as problem:
        print(f"benchmark.emulated: {problem}\n{APT}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
