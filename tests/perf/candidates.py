"""Untrained candidates per minute, and what each part takes: build, export, quantise, add the front, measure.

`python -P tests/perf/candidates.py`, about a minute and a half. Twelve random students of the conv and the mlp space and
of a user's factory (plain_factory.py) on digits, fp32 and int8. Bars: 120 a minute, 60 for the factory.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmark import host
from export import merge_front, quantise, to_onnx
from family import spaces
from family.build import cache_folder
from family.candidates import calibration_feeds, measure_quickly, open_benches
from family.job import Job, open_job
from family.spec import read_spec

CANDIDATES = 12
SPEC = """
data: digits
teacher: digits
students: SPACE
budgets: {fast: {target: cpu, latency_ms: 1}}
export: {precisions: [fp32, int8]}
"""

OURS = "{space: NAME, dims: {width: [8, 64], depth: [1, 3]}}"
SPACES = {
    "conv": (OURS.replace("NAME", "conv"), 120),
    "mlp": (OURS.replace("NAME", "mlp"), 120),
    "factory": (f"{{space: '{Path(__file__).parent}/plain_factory.py:plain'}}", 60),
}


@contextmanager
def add_time(parts: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    parts[name] = parts.get(name, 0.0) + time.perf_counter() - start


def take_apart(job: Job, folder: Path, benches: dict, parts: dict[str, float], number: int) -> None:
    """One candidate as the search makes it, each part on the clock."""
    params = spaces.sample(job.space, np.random.default_rng(number))
    with add_time(parts, "build"):
        module = spaces.build_student(job.space, params, job.task, 0)
    folder.mkdir(parents=True)
    with add_time(parts, "export"):
        to_onnx(module, job.task.body, folder / "fp32.onnx", 18)
    with add_time(parts, "quantise"):
        quantise(folder / "fp32.onnx", folder / "int8.onnx", "int8", calibration_feeds(job.task, 16))
    graphs = {p: folder / f"{p}-front.onnx" for p in job.precisions}
    with add_time(parts, "front"):
        for precision, path in graphs.items():
            merge_front(folder / f"{precision}.onnx", job.task.front, path)
    with add_time(parts, "measure"):
        for path in graphs.values():
            measure_quickly(job, "cpu", "", path, benches["cpu"])


def main() -> None:
    print(f"{host()['cpu']}, onnxruntime {host()['onnxruntime']}; {CANDIDATES} candidates, fp32 and int8")
    names = ("build", "export", "quantise", "front", "measure")
    print(f"load at the start {os.getloadavg()[0]:.1f}")
    print(
        f"{'space':8}{'a minute':>10}{'bar':>6}{'s each':>9}"
        + "".join(f"{n + ' %':>12}" for n in names)
        + f"{'ladder s':>10}"
    )
    for space, (text, bar) in SPACES.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "budgets.yaml").write_text(SPEC.replace("SPACE", text))
            job = open_job(read_spec(folder / "budgets.yaml"), folder / "run", cache_folder(folder), lambda _: None)
            start = time.perf_counter()
            with open_benches(job) as benches:
                ladder = time.perf_counter() - start
                parts: dict[str, float] = {}
                for number in range(CANDIDATES + 1):
                    if number == 1:
                        parts.clear()  # the first also loads libraries
                    take_apart(job, folder / str(number), benches, parts, number)
            each = sum(parts.values()) / CANDIDATES
            shares = "".join(f"{100 * parts[n] / sum(parts.values()):12.0f}" for n in names)
            print(f"{space:8}{60 / each:10.0f}{bar:6}{each:9.2f}{shares}{ladder:10.1f}", flush=True)


if __name__ == "__main__":
    main()
