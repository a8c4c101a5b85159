"""`build-family calibrate`: measure a spread of students on a device once, and fit a profile that stands in for it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path

from benchmark import (
    FEWEST_STUDENTS,
    PRESETS,
    Bench,
    DirectMeter,
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
from family.deaths import explain_death
from family.errors import Mistake, Mistakes
from family.job import Job, open_job, open_target
from family.sampling import even_draws
from family.spec import Spec

DEVICES = ("ssh", "adb", "local")


def calibrate_device(
    spec: Spec, name: str, core: str, students: int, run: Path, out: Path, show: Callable[[str], None]
) -> Profile:
    """Measure `students` untrained students of the file's space, even in log cost, at every precision, on target
    `name`; count on `core`; fit and write. Raises Mistakes, before anything is measured, for a target that is none or
    cannot be measured here, too few students, or an `out` that cannot be written or is there already."""
    if wrong := [*check_students(students), *check_out(out)]:
        raise Mistakes(wrong)
    target = check_target(spec, name, core)
    job = open_job(spec, run, cache_folder(run), show, may_train=False)
    numbers, graphs = spread(job, students)
    if wrong := check_space(len(set(numbers))):
        raise Mistakes(wrong)
    found = f"{len(graphs)} files of {len(set(numbers))} students"
    show(f"calibrating {core} for {name}: {found}, measured there and counted here")
    with explain_death():
        measured, device = measure_there(job, target, graphs)
        batch = int(target.options.get("batch", 1))
        rows = [count_features(path, core, batch, write_feeds(job)) for path in graphs]
    profile = calibrate(rows, measured, numbers, device, core, target, datetime.date.today().isoformat())
    write_profile(profile, out)
    return profile


def check_students(asked: int) -> list[Mistake]:
    if asked >= FEWEST_STUDENTS:
        return []
    wanted = f"must be at least {FEWEST_STUDENTS}, or how far the profile errs is not known"
    return [Mistake("--students", f"{wanted}. Got {asked}.")]


def check_space(found: int) -> list[Mistake]:
    if found >= FEWEST_STUDENTS:
        return []
    return [Mistake("students.dims", f"has {found} students alone; a profile needs at least {FEWEST_STUDENTS}.")]


def check_out(out: Path) -> list[Mistake]:
    """A profile is hours of a device's time: none is written over, and none is lost for want of a place."""
    folder = out.absolute().parent
    if out.exists():
        wrong = "is there already; name another file or remove it"
    elif not folder.is_dir():
        wrong = "must lie in a folder that is there"
    elif not os.access(folder, os.W_OK):
        wrong = "must lie in a folder that you may write to"
    else:
        return []
    return [Mistake("--out", f"{wrong}. Got {out}.")]


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


def spread(job: Job, students: int) -> tuple[list[int], list[Path]]:
    """The number of its student, and the file, of untrained students at every precision."""
    files = [(i, path) for i, p in enumerate(even_draws(job, students)) for path in untrained_graphs(job, p).values()]
    return [i for i, _ in files], [path for _, path in files]


def measure_there(job: Job, target: Target, graphs: list[Path]) -> tuple[list[Measurement], dict[str, object]]:
    """latency_ms of each file, and the device's own facts."""
    meter = open_meter(target, write_references(job), write_feeds(job))
    try:
        assert isinstance(meter, Bench | DirectMeter)  # a device tells time
        return meter.time_models(graphs), meter.facts()
    finally:
        meter.close()
