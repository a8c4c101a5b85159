"""Student ÷ reference by our `cpu` protocol beside the same ratio by MLCommons' load generator, single stream.

`python -P tests/perf/loadgen_ratio.py`, about four minutes; needs `pip install 'student-family[perf]'`. Four students
of the conv space on digits at 32 × 32, untrained, each with the reference that `Bench` pairs it with. In every round our protocol
has a fresh process and so has the load generator, which there times student and reference in turn.

The load generator adds the cost of a query to both, which draws ratios towards 1. What an empty query takes there is
measured in the same processes, and the ratio is told as it comes and with that subtracted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy import stats

from benchmark import PRESETS, Bench, host
from benchmark.models import hash_model
from benchmark.worker import Worker
from family.candidates import untrained_graphs, write_feeds, write_references
from family.job import open_job
from family.spec import read_spec

CASE = """data: {path: digits}
teacher: digits
students: {space: conv, input: 32}
budgets: {best: {target: cpu}}
"""
STUDENTS = [(8, 1), (16, 2), (32, 2), (64, 3)]  # width, depth
ROUNDS = 2
SECONDS = 0.4  # of our protocol in a round
TEST_MS = 150  # of one run of the load generator; four of them in a round for each of the pair
AGREE = 0.03


def main() -> int:
    if sys.argv[1:2] == ["--loadgen"]:
        print(json.dumps(ask_loadgen(*map(Path, sys.argv[2:]))))
        return 0
    facts = host()
    said = f"onnxruntime {facts['onnxruntime']}, mlcommons-loadgen {version('mlcommons-loadgen')}"
    print(f"{date.today()}, {facts['cpu']}, {said}; {ROUNDS} rounds\n")
    print("| student | ms | reference, ms | ours | loadgen | off, % | less an empty query | off, % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    off, empty = [], []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "budgets.yaml").write_text(CASE)
        job = open_job(read_spec(Path(folder) / "budgets.yaml"), Path(folder) / "run", Path(folder) / "cache", print)
        references, feeds = write_references(job), write_feeds(job)
        with Bench(PRESETS["cpu"], references, feeds) as bench:
            ladder = bench.ladder()
        for width, depth in STUDENTS:
            for precision, student in untrained_graphs(job, {"width": width, "depth": depth}).items():
                found, reference_ms = compare(student, references, feeds, ladder)
                ours, told, less = (np.log(found[way]) for way in ("ours", "loadgen", "less"))
                cells = [
                    f"{width} × {depth} {precision}",
                    f"{reference_ms * np.exp(ours.mean()):.4f}",
                    f"{reference_ms:.4f}",
                ]
                cells += [say(ours), say(told), say_off(told - ours), say(less), say_off(less - ours)]
                print(f"| {' | '.join(cells)} |", flush=True)
                off.append((abs((told - ours).mean()), abs((less - ours).mean())))
                empty += found["empty"]
    worst = np.expm1(np.max(off, axis=0))
    print(f"\nan empty query takes the load generator {np.median(empty) / 1000:.2f} µs")
    for name, share in zip(("as it comes", "less an empty query"), worst, strict=True):
        print(f"largest disagreement {name}: {share:.1%}, {'within' if share <= AGREE else 'beyond'} {AGREE:.0%}")
    return 0


def compare(student: Path, references: list[Path], feeds: Path, ladder: list) -> tuple[dict[str, list[float]], float]:
    """Ratios of every round by `ours`, `loadgen` and `less` (an empty query); ns of an `empty` one. And the
    reference's ms."""
    with Bench(PRESETS["cpu"], references, feeds, ladder=ladder) as bench:
        about = bench.paired(student, SECONDS).value
    rung = min(ladder, key=lambda one: abs(np.log(one["ms"] / about)))
    reference = next(p for p in references if rung["sha256"] == hash_model(p))
    found: dict[str, list[float]] = {"ours": [], "loadgen": [], "less": [], "empty": []}
    for i in range(ROUNDS):
        for way in ("ours", "loadgen") if i % 2 else ("loadgen", "ours"):
            if way == "ours":
                with Bench(PRESETS["cpu"], [reference], feeds, ladder=[rung]) as bench:
                    found["ours"].append(bench.paired(student, SECONDS).value / rung["ms"])
                continue
            command = [sys.executable, "-P", __file__, "--loadgen", *map(str, (student, reference, feeds))]
            ns = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            found["loadgen"].append(np.exp(np.mean(np.log(ns["student"]) - np.log(ns["reference"]))))
            empty = float(np.median(ns["empty"]))
            less = [np.log(np.asarray(ns[who]) - empty) for who in ("student", "reference")]
            found["less"].append(np.exp(np.mean(less[0] - less[1])))
            found["empty"].append(empty)
    return found, float(rung["ms"])


def ask_loadgen(student: Path, reference: Path, feeds: Path) -> dict[str, list[float]]:
    """Medians in ns of several single-stream tests, student and reference in turn, and of an empty query."""
    with np.load(feeds) as arrays:
        worker = Worker(1, 1, {name: arrays[name] for name in arrays.files})
    runs = {
        name: worker.open(str(path), strict=False) for name, path in (("student", student), ("reference", reference))
    }
    runs["empty"] = lambda: None
    found: dict[str, list[float]] = {name: [] for name in runs}
    for order in (("student", "reference"), ("reference", "student")) * 2:
        for name in (*order, "empty"):
            found[name].append(single_stream(runs[name]))
    return found


def single_stream(run: Callable[[], object]) -> float:
    """The median latency in ns that the load generator tells of a single-stream test."""
    import mlperf_loadgen as loadgen

    def issue(samples: list) -> None:
        run()
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(one.id, 0, 0) for one in samples])

    def nothing(*_: object) -> None:
        pass

    settings = loadgen.TestSettings()
    settings.scenario, settings.mode = loadgen.TestScenario.SingleStream, loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = TEST_MS, 64
    settings.single_stream_expected_latency_ns = 2000  # of how many queries it makes ready
    with tempfile.TemporaryDirectory() as folder:
        logs = loadgen.LogSettings()
        output = loadgen.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        logs.log_output, logs.enable_trace = output, False
        system, library = loadgen.ConstructSUT(issue, nothing), loadgen.ConstructQSL(1, 1, nothing, nothing)
        loadgen.StartTestWithLogSettings(system, library, settings, logs, "")
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
        lines = (Path(folder) / "mlperf_log_summary.txt").read_text().splitlines()
    return float(next(line.split(":")[1] for line in lines if line.startswith("50.00 percentile latency")))


def say(logs: np.ndarray) -> str:
    return f"{np.exp(logs.mean()):.3f}"


def say_off(logs: np.ndarray) -> str:
    """The mean over rounds, with its 95 % interval."""
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    value, low, high = (100 * np.expm1(end) for end in (logs.mean(), logs.mean() - half, logs.mean() + half))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    sys.exit(main())
