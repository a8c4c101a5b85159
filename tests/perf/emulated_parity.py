"""What students of every built-in space give on every emulated Arm core, beside this machine, and what they execute there.

A middle student of each space at each of its precisions, untrained, on four validation rows of a built-in or small made-up
data set. Prints a table: largest difference of the outputs as a share of their greatest value, and instructions of one
inference in millions, counted twice while two threads keep both cores busy.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from datetime import date
from pathlib import Path

import numpy as np

from benchmark import emulated, host, resolve_target, unavailable
from family import spaces
from family.candidates import untrained_graphs
from family.job import Job, open_job
from family.spec import read_spec

HEAD = "data: {path: digits}\nteacher: digits\n"
CASES = {
    "conv": HEAD + "students: {space: conv}\nbudgets: {best: {target: cpu}}\n",
    "mlp": HEAD + "students: {space: mlp}\nbudgets: {best: {target: cpu}}\n",
    "encoder": HEAD + "students: {space: encoder}\nbudgets: {best: {target: cpu}}\n",
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
    over = threading.Event()
    burners = [threading.Thread(target=burn, args=(over,)) for _ in range(2)]
    for burner in burners:
        burner.start()
    worst = 0.0
    try:
        for name, text in CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                job = open_case(Path(folder), text)
                for precision, path in untrained_graphs(job, spaces.middle(job.space)).items():
                    cells = [compare(job, path, core) for core in emulated.CORES]
                    worst = max(worst, *(repeat for *_, repeat in cells))
                    shown = " | ".join(f"{off:.1e}, {millions:.3f} M" for off, millions, _ in cells)
                    print(f"| {name} | {precision} | {shown} |")
    finally:
        over.set()
    print(f"\ncounts of two processes differ by {100 * worst:.3f} % at most, both cores loaded")
    return 0


def open_case(folder: Path, text: str) -> Job:
    (folder / "budgets.yaml").write_text(text)
    return open_job(read_spec(folder / "budgets.yaml"), folder / "run", folder / "cache", lambda _: None)


def compare(job: Job, path: Path, core: str) -> tuple[float, float, float]:
    """Largest difference of four rows' outputs as a share; millions of instructions of one row; how two counts differ."""
    rows = job.task.raw("val", np.arange(4))
    session = emulated.open_here(path)
    (expected,), (found,) = session.run(None, rows), emulated.run_emulated(core, path, rows, runs=1).outputs.values()
    off = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    one = job.task.raw("val", np.arange(1))
    counts = [emulated.run_emulated(core, path, one).counts[-1]["insn"] for _ in range(2)]
    return off, counts[0] / 1e6, abs(counts[0] - counts[1]) / counts[0]


def burn(over: threading.Event) -> None:
    numbers = np.ones((200, 200))
    while not over.is_set():
        numbers @ numbers


if __name__ == "__main__":
    sys.exit(main())
