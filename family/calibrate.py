"""`build-family calibrate`: measure a spread of students on a device once, and fit a profile that stands in for it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

from benchmark import (
    PRESETS,
    Measurement,
    Profile,
    Target,
    calibrate,
    count_features,
    open_meter,
    provenance_of,
    unavailable,
    write_profile,
)
from family.build import cache_folder
from family.candidates import untrained_graphs, write_feeds, write_references
from family.errors import Mistake, Mistakes
from family.job import Job, open_job, open_target
from family.sampling import even_draws
from family.spec import Spec

DEVICES = ("ssh", "adb", "local")


def calibrate_device(
    spec: Spec, name: str, core: str, students: int, run: Path, out: Path, show: Callable[[str], None]
) -> Profile:
    """Measure `students` untrained students of the file's space, even in log cost, at every precision, on target
    `name`; count on `core`; fit and write. Raises Mistakes for a target that is none or cannot be measured here."""
    target = check_target(spec, name, core)
    job = open_job(spec, run, cache_folder(run), show, may_train=False)
    graphs = spread(job, students)
    show(f"calibrating {core} for {name}: {len(graphs)} files of {students} students, measured there and counted here")
    measured, device = measure_there(job, target, graphs)
    batch = int(target.options.get("batch", 1))
    rows = [count_features(path, core, batch, write_feeds(job)) for path in graphs]
    profile = calibrate(rows, measured, device, core, target, datetime.date.today().isoformat())
    write_profile(profile, out)
    return profile


def check_target(spec: Spec, name: str, core: str) -> Target:
    known = [*spec.targets, *(p for p in PRESETS if p not in spec.targets)]
    if name not in known:
        raise Mistakes(
            [Mistake("--target", f"must be a preset or a name in targets: {', '.join(known)}. Got {name!r}.")]
        )
    target = open_target(spec, name)
    if target.transport not in DEVICES:
        raise Mistakes([Mistake("--target", f"must be a device that tells time (ssh, adb, cpu). Got {name!r}.")])
    counted = [one for one in PRESETS if provenance_of(PRESETS[one]) == "counted:emulated-isa" and one != "old-x86"]
    if core not in counted:
        raise Mistakes([Mistake("--core", f"must be one of {', '.join(counted)}. Got {core!r}.")])
    for one in (target, PRESETS[core]):
        if why := unavailable(one):
            raise Mistakes([Mistake("", why)])
    return target


def spread(job: Job, students: int) -> list[Path]:
    """Files of untrained students, at every precision."""
    return [path for params in even_draws(job, students) for path in untrained_graphs(job, params).values()]


def measure_there(job: Job, target: Target, graphs: list[Path]) -> tuple[list[Measurement], dict[str, object]]:
    """latency_ms of each file, and the device's own facts."""
    meter = open_meter(target, write_references(job), write_feeds(job))
    try:
        settled = meter.settle(graphs)
        facts = meter.facts()
    finally:
        meter.close()
    latencies = [next(one for one in figures if one.quantity == "latency_ms") for figures in settled]
    return latencies, facts
