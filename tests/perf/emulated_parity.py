"""What students of every built-in space give on every emulated core, beside this machine, and what they execute there.

`python -P tests/perf/emulated_parity.py`, about ten minutes. A middle student of each space at each precision, untrained,
on four validation rows of digits, or of made-up series of unequal length. Prints a table: largest difference of the
outputs as a share of their greatest value, and on Arm the instructions of one inference in millions, counted twice while
two processes keep both cores busy.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np

from benchmark import emulated, host, resolve_target, unavailable
from benchmark.c_runner import open_here
from family import spaces
from family.candidates import untrained_graphs
from family.job import Job, open_job
from family.spec import read_spec

DIGITS = "data: {path: digits}\nteacher: digits\n"
SERIES = "task: series\ndata: {path: series.npz}\nteacher: said.npz\n"
PRECISIONS = "fp32, int8, int8-weights, fp16-weights"
CASES = {
    "conv": (DIGITS, PRECISIONS),
    "mlp": (DIGITS, f"{PRECISIONS}, int8-dynamic"),
    "encoder": (SERIES, PRECISIONS),
}


def main() -> int:
    missing = unavailable(resolve_target("cortex-a53"))
    if missing:
        print(missing, file=sys.stderr)
        return 3
    facts = host()
    said = emulated.describe_emulator("cortex-a53")["emulator"]
    print(f"{date.today()}, {facts['cpu']}, onnxruntime {facts['onnxruntime']}, {said}\n")
    print("| student | precision | " + " | ".join(emulated.CORES) + " |")
    print("| --- | --- |" + " --- |" * len(emulated.CORES))
    worst = 0.0
    with tempfile.TemporaryDirectory() as home:
        for name in CASES:
            job = open_case(Path(home), name)
            for precision, path in untrained_graphs(job, spaces.middle(job.space)).items():
                offs = [find_difference(job, path, core) for core in emulated.CORES]
                with burn_cpu(2):
                    counts = [count_twice(job, path, core) for core in emulated.CORES]
                worst = max(worst, *(abs(one - two) / one for one, two in counts if one))
                cells = [
                    f"{off:.0e}" + (f", {one / 1e6:.3f} M" if one else "")
                    for off, (one, _) in zip(offs, counts, strict=True)
                ]
                print(f"| {name} | {precision} | {' | '.join(cells)} |", flush=True)
    print(f"\ncounts of two processes differ by {100 * worst:.3f} % at most, both cores loaded")
    return 0


def open_case(home: Path, space: str) -> Job:
    folder = home / space
    folder.mkdir()
    data, precisions = CASES[space]
    students = f"students: {{space: {space}}}\nexport: {{precisions: [{precisions}]}}\n"
    (folder / "budgets.yaml").write_text(f"{data}{students}budgets: {{best: {{target: cpu}}}}\n")
    if data is SERIES:
        make_up_series(folder)
    return open_job(read_spec(folder / "budgets.yaml"), folder / "run", home / "cache", lambda _: None)


def make_up_series(folder: Path) -> None:
    random = np.random.default_rng(0)
    label = np.arange(120) % 3
    series = (random.standard_normal((120, 6, 24)) + label[:, None, None]).astype(np.float32)
    split = np.array(["train", "val", "test"])[np.arange(120) // 40]
    np.savez(folder / "series.npz", series=series, length=random.integers(8, 25, 120), label=label, split=split)
    np.savez(folder / "said.npz", outputs=np.eye(3, dtype=np.float32)[label] * 6)


def find_difference(job: Job, path: Path, core: str) -> float:
    """The largest between four rows' outputs there and here, as a share of the greatest output."""
    rows = job.task.raw("val", np.arange(4))
    (expected,) = open_here(path).run(None, rows)
    there = emulated.run_emulated(core, path, rows, runs=1, counted=False)
    (found,) = there.outputs.values()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def count_twice(job: Job, path: Path, core: str) -> tuple[int, int]:
    """Instructions of one row in two processes, the median of several inferences as `CountMeter` tells it; zeros where
    they are not counted."""
    if not emulated.is_counted(core):
        return 0, 0
    one = job.task.raw("val", np.arange(1))
    both = [[each["insn"] for each in emulated.run_emulated(core, path, one).counts] for _ in range(2)]
    return int(np.median(both[0])), int(np.median(both[1]))


@contextmanager
def burn_cpu(cores: int) -> Iterator[None]:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


if __name__ == "__main__":
    sys.exit(main())
