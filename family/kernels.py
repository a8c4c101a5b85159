"""What a shipped file answers on other processors' kernels: int8 is summed otherwise there, and may flip an answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import PRESETS, WorkerDied, describe_core, host, run_on_core, unavailable
from export import Runner
from family.job import Job
from family.run_folder import remember
from family.students import cost_of, export_trained, trained_folder
from family.types import Training

KERNELS = {
    "old-x86": "AVX2, no VNNI",
    "cortex-a53": "Arm, no dot product",
    "cortex-a76": "Arm, dot product",
    "armv9": "Arm, i8mm",
}
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
ROWS, FEWEST = 400, 8  # of test
MACS = 4e8  # multiply-accumulates of all rows together: seconds under emulation, and the same number of rows every time


def kernels_of(job: Job, params: Mapping[str, Any], precision: str, training: Training) -> dict[str, Any]:
    """`{kernel: {what, rows, flips, largest}}`, this host's first, or `{kernel: {skipped: why}}`; nothing for fp32, and
    where rows have unlike shapes, or every position an answer. On the first rows of test, against fp32 on this host."""
    if precision == "fp32" or "fp32" not in job.precisions or job.task.ragged or job.task.kind == "tokens":
        return {}
    made, rows = export_trained(job, params, training), count_rows(job, params)
    folder = trained_folder(job, params, training)
    hashes = [made[precision]["sha256"], made["fp32"]["sha256"], job.task.fingerprint]
    found: dict[str, Any] = {}
    for kernel in ("this host", *KERNELS):
        why = unavailable(PRESETS[kernel]) if kernel in KERNELS else None
        if why is not None:
            found[kernel] = {"skipped": why.removeprefix(f"{kernel} is skipped: ").rstrip(".")}
            continue
        place = folder / precision / "kernels" / f"{kernel.replace(' ', '-')}.json"
        see = partial(see_kernel, job, params, folder, precision, kernel, rows)
        by = job.host if kernel not in KERNELS else describe_core(kernel)["fingerprint"]
        try:
            found[kernel] = remember(place, [*hashes, rows, by], see)
        except (ValueError, WorkerDied) as problem:  # another time it may run
            found[kernel] = {"skipped": str(problem).rstrip(".")}
    return found


def count_rows(job: Job, params: Mapping[str, Any]) -> int:
    """As many rows of test as MACS allows, within FEWEST and ROWS."""
    cost = cost_of(job, params, job.spec.seed)
    return min(job.task.rows("test"), max(FEWEST, min(ROWS, int(MACS / max(cost, 1)))))


def see_kernel(
    job: Job, params: Mapping[str, Any], folder: Path, precision: str, kernel: str, count: int
) -> dict[str, Any]:
    """Answers of the file on a kernel beside fp32's here. Raises ValueError where it does not run there, WorkerDied
    where the emulator dies."""
    model, rows = folder / precision / "model.onnx", job.task.seen_by(params).raw("test", np.arange(count))
    ours = run_on_core(kernel, model, rows) if kernel in KERNELS else Runner(model)(rows)
    theirs = Runner(folder / "fp32" / "model.onnx")(rows)
    return {
        "what": KERNELS.get(kernel) or say_own(),
        "rows": len(ours),
        "flips": int((ours.argmax(1) != theirs.argmax(1)).sum()) if job.task.kind == "classification" else None,
        "largest": float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12)),
    }


def say_own() -> str:
    facts = host()
    flags = set(facts["cpu_flags"])
    if "asimd" in flags:
        return "Arm, i8mm" if "i8mm" in flags else "Arm, dot product" if "asimddp" in flags else "Arm, no dot product"
    return f"{facts['machine']}, {'VNNI' if flags & VNNI else 'no VNNI'}"
