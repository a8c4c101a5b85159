"""What a teacher that is one ONNX file takes on each target, by the protocol that decides about students."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import Bench, Meter, measurement_to_dict, needs_ladder
from family.candidates import middle_row, remember_ladder, write_feeds, write_references
from family.job import Job, teacher_options
from family.measurers import key_of
from family.progress import Stage
from family.run_folder import remember, write_beside
from family.tasks.text_task import TextTask
from family.teacher_kinds import file_of, onnx_feed
from family.text.string_teachers import string_feed


def measure_teacher(job: Job, benches: Mapping[str, Meter]) -> dict[str, dict[str, Any]]:
    """`{target: latency_ms as a measurement}`, written once; empty for a teacher that is no single ONNX file, and
    without targets that cannot time it, which is said."""
    path = teacher_file(job)
    if path is None:
        return {}
    found = {}
    for name in benches:
        if not needs_ladder(job.targets[name]):
            continue
        inputs = [job.teacher.fingerprint, job.student_id, *job.fed_by, *key_of(job, name)]
        kept = remember(
            job.folder / "measuring" / f"teacher-{name}.json", inputs, partial(time_teacher, job, name, path)
        )
        if "latency_ms" in kept:
            found[name] = kept["latency_ms"]
        else:
            job.show(f"note: the teacher is not timed on {name}: {kept['why']}")
    return found


def teacher_file(job: Job) -> Path | None:
    """The file of a teacher that is one ONNX model."""
    options = teacher_options(job.spec)
    if len(options) != 1 or Path(options[0].path).suffix.lower() != ".onnx":
        return None
    return file_of(options[0], job.spec.folder)


def time_teacher(job: Job, target: str, path: Path) -> dict[str, Any]:
    """`{latency_ms}`, or `{why}` it cannot be timed: one validation row, prepared as the file takes it, beside the
    students' references, in five fresh processes."""
    job.watch(Stage(f"timing the teacher on {target}"))
    feeds = job.folder / "measuring" / "teacher-feeds.npz"
    (options,) = teacher_options(job.spec)
    if isinstance(job.task, TextTask):
        feed = string_feed(options, job.task, job.spec.folder, middle_row(job.task))
    else:
        feed = onnx_feed(options, job.task, job.spec.folder)

    def save(beside: Path) -> None:
        with beside.open("wb") as handle:
            np.savez(handle, **feed)  # type: ignore[arg-type]

    write_beside(feeds, save)
    references = write_references(job)
    ladder = remember_ladder(job, target, references, write_feeds(job))
    try:
        with Bench(job.targets[target], references, feeds, ladder=ladder) as bench:
            return {"latency_ms": measurement_to_dict(bench.paired_afresh([path])[0])}
    except ValueError as problem:
        return {"why": str(problem)}
