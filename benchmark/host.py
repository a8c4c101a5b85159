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

try:
    import psutil
except ImportError:  # a device has numpy and onnxruntime alone
    psutil = None

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


def _memory_bytes() -> int:
    if psutil:
        return int(psutil.virtual_memory().total)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_temperature() -> float | None:
    """Of the first thermal zone, in °C."""
    try:
        return int(Path("/sys/class/thermal/thermal_zone0/temp").read_text()) / 1000
    except (OSError, ValueError):
        return None


def host() -> dict[str, Any]:
    """Hardware and runtime versions of this machine, to be recorded beside every number."""
    info = _read_cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "physical_cores": psutil.cpu_count(logical=False) if psutil else None,
        "memory_gib": round(_memory_bytes() / 2**30),
        "cpu_flags": [flag for flag in X86_FLAGS + ARM_FLAGS if flag in flags],
        "governor": _read_governor(),
        "temperature_c": _read_temperature(),
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
