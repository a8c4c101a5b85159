"""onnxruntime without Python: a small C program (`native/run.c`), the runtime's library, and all that both need.

For machines that have no Python, and for emulated ones. `bundle` is what such a machine is sent: it brings its own C
library, so that it runs on whatever Linux or Android there is. Built once by a compiler here; the runtime comes from
the package index, in the version that is installed here.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmark.worker import RUNTIME_ERRORS

ELEMENTS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}
LOADABLE = ("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libgcc_s.so.1", "libstdc++.so.6")
NOT_RUN = 3  # what the runner ends with where the model does not run

Plan = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]  # of outputs: name → dtype, shape


@dataclass(frozen=True)
class Machine:
    """`compiler` for it, where its `libraries` lie here, what its `loader` is called; `apt`: packages with both."""

    compiler: str
    libraries: Path
    loader: str
    apt: str

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.loader, *LOADABLE)


MACHINES: dict[str, Machine] = {
    "aarch64": Machine(
        "aarch64-linux-gnu-gcc",
        Path("/usr/aarch64-linux-gnu/lib"),
        "ld-linux-aarch64.so.1",
        "gcc-aarch64-linux-gnu libc6-arm64-cross libstdc++6-arm64-cross libgcc-s1-arm64-cross",
    ),
    "x86_64": Machine("gcc", Path("/lib/x86_64-linux-gnu"), "ld-linux-x86-64.so.2", "gcc libc6 libstdc++6 libgcc-s1"),
}


def find_lacking(machine: str) -> str | None:
    """What lacks here to make a runner for `machine` (of `MACHINES`), with the command that helps."""
    of = MACHINES[machine]
    missing = [] if shutil.which(of.compiler) else [of.compiler]
    missing += [] if all((of.libraries / name).exists() for name in of.needed) else [f"the {machine} libraries"]
    if missing:
        return f"it needs {', '.join(missing)}: sudo apt-get install {of.apt}"
    if not find_library(machine).exists():
        return f"it needs onnxruntime {version('onnxruntime')} for {machine}: python -P -m benchmark.prepare emulated"
    return None


def bundle(machine: str) -> dict[str, bytes]:
    """Files by name: the runner, the runtime and their libraries; `bundled_words` starts them. About 40 MB."""
    of = MACHINES[machine]
    files = {name: (of.libraries / name).read_bytes() for name in of.needed}
    return files | {"run": build_runner(machine).read_bytes(), "libonnxruntime.so": find_library(machine).read_bytes()}


def bundled_words(machine: str, folder: str) -> list[str]:
    """The command that starts the bundle that lies in `folder`; the runner's own words follow."""
    start = [f"{folder}/{MACHINES[machine].loader}", "--library-path", folder]
    return [*start, f"{folder}/run", f"{folder}/libonnxruntime.so"]


def open_here(model: Path) -> onnxruntime.InferenceSession:
    """On this machine, one thread. Raises ValueError for a file that is no model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        raise ValueError(f"onnxruntime cannot run {model}: {' '.join(str(error).split())}") from None


def plan_outputs(model: Path, inputs: Mapping[str, NDArray[Any]]) -> Plan:
    """What these inputs give, by running it here."""
    session = open_here(model)
    found = zip(session.get_outputs(), session.run(None, dict(inputs)), strict=True)
    return {output.name: (value.dtype, value.shape) for output, value in found}


def tensor_files(inputs: Mapping[str, NDArray[Any]], plan: Plan) -> dict[str, bytes]:
    """The runner's TENSORS, named `tensors`, and the files of values that it names, relative to the working folder."""
    files, lines = {}, []
    for i, (name, value) in enumerate(inputs.items()):
        files[f"input-{i}"] = np.ascontiguousarray(value).tobytes()
        lines.append(f"in {name} {ELEMENTS[value.dtype.name]} {','.join(map(str, value.shape))} input-{i}")
    for name, (dtype, shape) in plan.items():
        lines.append(f"out {name} {dtype.itemsize * int(np.prod(shape))}")
    return files | {"tensors": ("\n".join(lines) + "\n").encode()}


def read_outputs(data: bytes, plan: Plan) -> dict[str, NDArray[Any]]:
    """The runner's OUTPUT by name."""
    outputs, start_at = {}, 0
    for name, (dtype, shape) in plan.items():
        count = int(np.prod(shape))
        outputs[name] = np.frombuffer(data, dtype, count, start_at).reshape(shape)
        start_at += count * dtype.itemsize
    return outputs


def tools_folder() -> Path:
    """Where the runtime and what is built are kept, in STUDENT_FAMILY_CACHE, else the user's cache folder."""
    home = os.environ.get("STUDENT_FAMILY_CACHE")
    base = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "student-family"
    return base / "emulated"


def find_library(machine: str) -> Path:
    """The runtime's library for `machine`; this machine's own is in the installed package."""
    number = version("onnxruntime")
    own = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime.so.{number}"
    if machine == platform.machine() and own.exists():
        return own
    return tools_folder() / number / machine / own.name


def fetch_library(machine: str) -> Path:
    """Download the machine's wheel of the onnxruntime installed here and keep its library. Raises ValueError where pip
    cannot."""
    path, number = find_library(machine), version("onnxruntime")
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(prefix=f"{machine}-") as name:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", name]
        only = ["--platform", f"manylinux_2_28_{machine}", "--python-version", "3.11", f"onnxruntime=={number}"]
        done = subprocess.run([*pip, *only], capture_output=True, text=True)
        wheels = list(Path(name).glob("*.whl"))
        if done.returncode or not wheels:
            raise ValueError(f"pip cannot fetch onnxruntime {number} for {machine}: {done.stderr.strip()[-300:]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            keep(path, wheel.read(f"onnxruntime/capi/{path.name}"))
    return path


def build_runner(machine: str) -> Path:
    return build("run.c", machine, [MACHINES[machine].compiler, "-O2"], ["-ldl"])


def build(source: str, label: str, compiler: Sequence[str], libraries: Sequence[str] = ()) -> Path:
    """The program built from one of our C files, once per its content."""
    text = (resources.files("benchmark") / "native" / source).read_bytes()
    path = tools_folder() / f"{Path(source).stem}-{label}-{hashlib.sha256(text).hexdigest()[:12]}"
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="build-") as name:
            (Path(name) / source).write_bytes(text)
            command = [*compiler, "-o", f"{name}/built", f"{name}/{source}", *libraries]
            subprocess.run(command, capture_output=True, check=True)
            keep(path, (Path(name) / "built").read_bytes())
    return path


def keep(path: Path, data: bytes) -> None:
    """Write beside, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.chmod(0o755)
    beside.replace(path)
