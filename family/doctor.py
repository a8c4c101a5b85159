"""What this machine can do: each target usable or not, why not, and what to install.

Loads no torch: what is asked of it is read from its package's metadata and from the system.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

NAME = "student-family"

# What the transports need: program (any of several) → how to install it. npm packages begin with "npm:".
EMULATED = {
    "qemu-aarch64": "sudo apt-get install qemu-user",
    "aarch64-linux-gnu-gcc": "sudo apt-get install gcc-aarch64-linux-gnu libc6-arm64-cross libstdc++6-arm64-cross "
    "libgcc-s1-arm64-cross",
    "gcc": "sudo apt-get install gcc",
}
NEEDS: Mapping[str, Mapping[str, str]] = {
    "local": {},
    "emulated": EMULATED,
    "profile": EMULATED,
    "browser": {
        "chromium|chromium-browser|google-chrome|google-chrome-stable": "sudo apt-get install chromium",
        "npm": "sudo apt-get install npm",
        "npm:onnxruntime-web": "python -P -m benchmark.prepare javascript",
    },
    "node": {
        "node": "sudo apt-get install nodejs",
        "npm": "sudo apt-get install npm",
        "npm:onnxruntime-node": "python -P -m benchmark.prepare javascript",
    },
    "ssh": {"ssh": "sudo apt-get install openssh-client"},
    "adb": {"adb": "sudo apt-get install adb"},
}


def doctor(arguments: Sequence[str]) -> int:
    """Print the findings, or with --json as JSON. Returns 0."""
    parser = argparse.ArgumentParser(
        prog="build-family doctor",
        description="What this machine can do: each target usable or not, why not, and what to install.",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    found = examine()
    print(json.dumps(found, indent=1) if options.json else format_findings(found))
    return 0


def examine() -> dict[str, Any]:
    """The findings as plain data: python, machine, gpu, packages, extras, targets."""
    return {
        "version": version(NAME),
        "python": {"version": platform.python_version(), "path": sys.executable},
        "machine": examine_machine(),
        "gpu": find_gpus(),
        "packages": dict(list_packages(None)),
        "extras": {name: examine_extra(name) for name in list_extras()},
        "targets": examine_targets(),
    }


def examine_machine() -> dict[str, Any]:
    from benchmark import host
    from family.room import usable_cores

    facts = host()
    keys = ("cpu", "machine", "cores", "physical_cores", "memory_gib", "governor", "os")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return {key: facts[key] for key in keys} | {"usable_cores": usable_cores(), "free_disk_gib": round(free, 1)}


def find_gpus() -> dict[str, Any]:
    """GPUs that the system names, and whether the installed torch is built for one."""
    torch = find_version("torch") or ""
    found = list_nvidia()
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found.append("Apple GPU (mps)")
    return {"found": found, "torch": torch or None, "torch_for_cpu_alone": torch.endswith("+cpu")}


def list_nvidia() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        asked = subprocess.run(
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in asked.stdout.splitlines() if line.strip()]


def find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def list_packages(extra: str | None) -> Iterator[tuple[str, str | None]]:
    """Package and installed version (None: not installed) of our dependencies, or of one extra's."""
    for requirement in requires(NAME) or []:
        name = re.match(r"[\w.-]+", requirement)
        belongs = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", requirement)
        if name and (belongs.group(1) if belongs else None) == extra:
            yield name.group(), find_version(name.group())


def list_extras() -> list[str]:
    found = [re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", requirement) for requirement in requires(NAME) or []]
    return list(dict.fromkeys(match.group(1) for match in found if match))


def examine_extra(name: str) -> dict[str, Any]:
    missing = [package for package, found in list_packages(name) if found is None]
    install = f"pip install '{NAME}[{name}]'" if missing else None
    return {"installed": not missing, "missing": missing, "install": install}


def examine_targets() -> dict[str, dict[str, Any]]:
    """Per preset: transport, usable, why not, the limits it answers, and which of its needs are missing."""
    from benchmark import PRESETS, can_answer, unavailable

    found = {}
    for name, target in PRESETS.items():
        why = unavailable(target)
        found[name] = {
            "transport": target.transport,
            "usable": why is None,
            "why": why,
            "answers": sorted(can_answer(target)),
            "missing": find_missing(target.transport),
        }
    return found


def find_missing(transport: str) -> list[dict[str, str]]:
    needs = NEEDS.get(transport, {})
    return [{"needs": need, "install": how} for need, how in needs.items() if not is_installed(need)]


def is_installed(need: str) -> bool:
    if need.startswith("npm:"):
        from benchmark.node import find_package

        return find_package(need[4:]) is not None
    return any(shutil.which(program) for program in need.split("|"))


def format_findings(found: Mapping[str, Any]) -> str:
    """The findings for a person."""
    return "\n".join(
        [
            f"{NAME} {found['version']}, Python {found['python']['version']} ({found['python']['path']})",
            *format_machine(found["machine"]),
            format_gpu(found["gpu"]),
            "",
            "targets",
            *(line for name, target in found["targets"].items() for line in format_target(name, target)),
            *format_installs(found["targets"]),
            "",
            "extras",
            *(format_extra(name, extra) for name, extra in found["extras"].items()),
            "",
            "packages",
            *(f"  {name:16} {found or 'NOT INSTALLED'}" for name, found in found["packages"].items()),
        ]
    )


def format_machine(machine: Mapping[str, Any]) -> list[str]:
    cores = f"{machine['usable_cores']} of {machine['cores']} cores usable"
    return [
        f"{machine['cpu']}, {machine['machine']}, {machine['os']}",
        f"{cores}, {machine['memory_gib']} GiB memory, {machine['free_disk_gib']} GiB free here",
    ]


def format_gpu(gpu: Mapping[str, Any]) -> str:
    if not gpu["found"]:
        return "no GPU found; training runs on the CPU"
    said = "GPU: " + ", ".join(gpu["found"])
    cpu_torch = f"; torch {gpu['torch']} is built for the CPU alone and will not use it"
    return said + (cpu_torch if gpu["torch_for_cpu_alone"] else "")


def format_target(name: str, target: Mapping[str, Any]) -> list[str]:
    if target["usable"]:
        return [f"  {name:14} usable   answers {', '.join(target['answers'])}"]
    return [f"  {name:14} skipped  {str(target['why']).removeprefix(f'{name} is skipped: ')}"]


def format_installs(targets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What targets lack, each once."""
    lines: dict[str, list[str]] = {}
    for name, target in targets.items():
        for missing in target["missing"]:
            need = missing["needs"].split("|")[0].removeprefix("npm:")
            lines.setdefault(f"  {need} is not installed: {missing['install']}", []).append(name)
    return [f"{line}   (for {', '.join(names)})" for line, names in lines.items()]


def format_extra(name: str, extra: Mapping[str, Any]) -> str:
    if extra["installed"]:
        return f"  {name:14} installed"
    return f"  {name:14} lacks {', '.join(extra['missing'])}: {extra['install']}"
