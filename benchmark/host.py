"""What the measuring machine is, and a short fingerprint of it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

X86_FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
ARM_FLAGS = ("asimd", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2", "sme")


@cache
def _read_cpuinfo() -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo, or nothing on other systems."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _read_governor() -> str | None:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        return path.read_text().strip()
    except OSError:
        return None


def host() -> dict[str, Any]:
    """Hardware and runtime versions of this machine, to be recorded beside every number."""
    info = _read_cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "physical_cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "cpu_flags": [flag for flag in X86_FLAGS + ARM_FLAGS if flag in flags],
        "governor": _read_governor(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "numpy": version("numpy"),
    }


@cache
def host_fingerprint() -> str:
    """12 hex digits of the hardware and the runtime's version; equal where figures may be compared."""
    facts = host()
    keys = ("cpu", "machine", "cores", "memory_gib", "cpu_flags", "onnxruntime")
    text = json.dumps([platform.system(), *(facts[key] for key in keys)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
