"""What is known of students without a device: whether every target's runtime takes them, told before any training, and
of the chosen what phones' accelerators would take, with the files that mobile builds of onnxruntime want."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import provenance_of, why_refused
from export import Runner, say_refusal, write_mobile
from export.folder import golden_tolerance, run_named
from export.hashes import hash_file
from family import spaces
from family.candidates import measured_file, opset, untrained_graphs, write_feeds
from family.errors import Mistake, Mistakes
from family.job import Job
from family.run_folder import recall, remember


def check_runtimes(job: Job) -> None:
    """Ask the runtime of every target that may have another onnxruntime than this one whether it takes the smallest
    student, at every precision; where it does, once. Raises Mistakes with what each lacks."""
    graphs = [measured_file(job, path) for path in untrained_graphs(job, spaces.smallest(job.space)).values()]
    wrong = []
    for name in job.measured_targets():
        place = job.folder / "measuring" / f"runs-{name}.json"
        inputs = [job.student_id, job.precisions, opset(job), job.targets[name].id, job.host]
        refusal = None if recall(place, inputs) else why_refused(job.targets[name], graphs, write_feeds(job))
        if refusal is None:
            remember(place, inputs, lambda: True)
        else:
            said = f"its onnxruntime does not run the students: {say_refusal(refusal)}."
            wrong.append(Mistake(f"targets.{name}", f"{said} Install a newer one there, or leave the target out."))
    if wrong:
        raise Mistakes(wrong)


def check_student(
    job: Job, model: Path, precision: str, golden: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], list[Path]]:
    """The checks of one chosen file, as `family.json` and the manifest hold them, and the files that ship beside it;
    made once for a file."""
    folder = model.with_name(f"mobile-{model.stem}")  # with a guard and without are two files

    def work() -> dict[str, Any]:
        tolerance = golden_tolerance(precision, run_named(Runner(model), golden))
        return write_mobile(model, folder, golden, tolerance)

    found = dict(remember(folder / "checks.json", [hash_file(model), version("onnxruntime")], work))
    targets = {name: check_target(job, name) for name in job.targets}
    return {"targets": targets, **found}, [folder / name for name in found["files"]]


def check_target(job: Job, name: str) -> dict[str, Any]:
    """Of a file that was measured on every target that is there, each of which has CPU kernels for all of it."""
    if name in job.skipped:
        return {"runs": None, "falls_back": None, "reason": job.skipped[name]}
    if provenance_of(job.targets[name]) == "estimated":
        return {"runs": None, "falls_back": None, "reason": "its figures are estimated; it was not run there"}
    return {"runs": True, "falls_back": False}
