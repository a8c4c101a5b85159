"""What measures each target: asked whenever targets are opened, and part of what every figure there depends on.

A device may be exchanged under its name, a browser or an emulator renewed: figures of before are then left aside, and
what is wanted is measured anew.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from benchmark import open_meter
from family.job import Job
from family.run_folder import recall, remember


def meet(job: Job, name: str) -> None:
    """Ask what measures the target now, and keep what it says of itself; where it is not what measured before, it is
    said. Raises ValueError where it cannot be asked, WorkerDied where it is lost."""
    with closing(open_meter(job.targets[name])) as meter:
        facts = meter.facts()
    known = facts_of(job, name)
    if known is not None and known["fingerprint"] != facts["fingerprint"]:
        job.show(f"note: {name} is not measured by what measured it before ({say_change(known, facts)}): measured anew")
        place_of(job, name)[0].unlink(missing_ok=True)
    remember(*place_of(job, name), lambda: facts)


def facts_of(job: Job, name: str) -> dict[str, Any] | None:
    """What measured the target last says of itself; None before anything did."""
    return recall(*place_of(job, name))


def key_of(job: Job, name: str) -> list[str]:
    """What figures on a target depend on beside the file: the target, this host, and what else measures there."""
    return [job.targets[name].id, job.host, *others_of(job, name)]


def others_of(job: Job, name: str) -> list[str]:
    """What measures on a target where it is not this host's own runtime."""
    if job.targets[name].transport == "local":
        return []
    return [str((facts_of(job, name) or {}).get("fingerprint", ""))]


def place_of(job: Job, name: str) -> tuple[Path, list[Any]]:
    return job.folder / "measuring" / f"host-{name}.json", [job.targets[name].id, job.host]


def say_change(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The facts that differ, temperatures aside."""
    told = [key for key in now if key not in ("fingerprint", "temperature_c") and now[key] != before.get(key)]
    return "; ".join(f"{key} {before.get(key)} → {now[key]}" for key in told[:3]) or "its fingerprint differs"
