"""Student ÷ reference by our `cpu` protocol beside the same ratio by MLCommons' load generator, single stream.

`python -P tests/perf/loadgen_ratio.py`, about ten minutes; needs `pip install 'student-family[perf]'`. Three students of
the conv space on digits at 32 × 32, fp32 and int8, untrained, each with the reference that `Bench` pairs it with. Every
round is a fresh process, in which our pairing and single-stream tests of the two take turns on the same two sessions;
medians of turns, then of rounds, since bursts of other work double single turns. Differences carry a 95 % interval of the
median over rounds.

Ours is of the least times of blocks, so the load generator's least latency is what compares with it; the median that it
tells beside is of the runs that other work of the machine hit, too. It adds the cost of a query to both, which draws ratios
towards 1; what an empty query takes there is measured in the same processes, and ratios are told with that subtracted, too.
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

from benchmark import PRESETS, Bench, host
from benchmark.models import hash_model
from benchmark.worker import Worker, pair
from family.candidates import untrained_graphs, write_feeds, write_references
from family.job import open_job
from family.spec import read_spec

CASE = """data: {path: digits}
teacher: digits
students: {space: conv, input: 32}
budgets: {best: {target: cpu}}
"""
STUDENTS = [(16, 2), (32, 2), (64, 3)]  # width, depth
ROUNDS = 12
BOUNDS = 2, 9  # of 12 ordered rounds: the 3rd and the 10th hold the median in 96 % of cases
TURNS = 10  # of a round
SECONDS = 0.05  # of our pairing in a turn
TEST_MS = 25  # of each of a turn's two single-stream tests
AGREE = 0.03
WAYS = "its least", "its least less an empty query", "its median", "its median less an empty query"


def main() -> int:
    if sys.argv[1:2] == ["--round"]:
        print(json.dumps(take_turns(*map(Path, sys.argv[2:]))))
        return 0
    facts = host()
    said = f"onnxruntime {facts['onnxruntime']}, mlcommons-loadgen {version('mlcommons-loadgen')}"
    print(f"{date.today()}, {facts['cpu']}, {said}; {ROUNDS} rounds\n")
    print(f"| student | ms | reference, ms | ours | {' | '.join(f'{way} | off, %' for way in WAYS)} |")
    print("| --- |" + " ---: |" * (3 + 2 * len(WAYS)))
    off, empty = [], []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "budgets.yaml").write_text(CASE)
        spec = read_spec(Path(folder) / "budgets.yaml")
        job = open_job(spec, Path(folder) / "run", Path(folder) / "cache", lambda _: None)
        references, feeds = write_references(job), write_feeds(job)
        with Bench(PRESETS["cpu"], references, feeds) as bench:
            for width, depth in STUDENTS:
                for precision, student in untrained_graphs(job, {"width": width, "depth": depth}).items():
                    rung = find_rung(bench, student)
                    reference = next(path for path in references if hash_model(path) == rung["sha256"])
                    rounds = [ask_round(student, reference, feeds) for _ in range(ROUNDS)]
                    ours, *theirs = (np.array(column) for column in zip(*map(find_ratios, rounds), strict=True))
                    ms = (f"{rung['ms'] * np.exp(np.median(ours)):.4f}", f"{rung['ms']:.4f}")
                    cells = [cell for way in theirs for cell in (say(way), say_off(way - ours))]
                    print(f"| {' | '.join((f'{width} × {depth} {precision}', *ms, say(ours), *cells))} |", flush=True)
                    off.append([abs(np.median(way - ours)) for way in theirs])
                    empty += [one["empty"] for one in rounds]
    least, median = np.median(empty, axis=0) / 1000
    print(f"\nan empty query takes the load generator {least:.2f} µs at least, {median:.2f} µs in the median")
    for name, share in zip(WAYS, np.expm1(np.max(off, axis=0)), strict=True):
        print(f"largest disagreement, {name}: {share:.1%}, {'within' if share <= AGREE else 'beyond'} {AGREE:.0%}")
    return 0


def find_rung(bench: Bench, student: Path) -> dict:
    """The reference that pairing takes: the nearest in cost."""
    about = bench.paired(student).value
    return min(bench.ladder(), key=lambda rung: abs(np.log(rung["ms"] / about)))


def ask_round(student: Path, reference: Path, feeds: Path) -> dict:
    command = [sys.executable, "-P", __file__, "--round", *map(str, (student, reference, feeds))]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def find_ratios(one: dict) -> list[float]:
    """Of a round, in logs: ours, and those of WAYS."""
    student, reference = (np.array(one[name]) for name in ("student", "reference"))  # (turns, 2): least, median
    empty = np.array(one["empty"])
    ways = np.log(student / reference), np.log((student - empty) / (reference - empty))
    theirs = [float(np.median(way[:, which])) for which in (0, 1) for way in ways]
    return [float(np.log(np.median(one["ours"]))), *theirs]


def take_turns(student: Path, reference: Path, feeds: Path) -> dict:
    """`ours`: ratios of blocks; `student`, `reference`: (least, median) in ns of single-stream tests; `empty`: of one
    with nothing to do."""
    with np.load(feeds) as arrays:
        worker = OneSession(1, 1, {name: arrays[name] for name in arrays.files})
    request = {"model": str(student), "references": [str(reference)], "reference_ms": [1.0], "seconds": SECONDS}
    runs = {"student": worker.open(str(student), beside=True), "reference": worker.open_reference(str(reference))}
    found: dict = {"ours": [], "student": [], "reference": []}
    for turn in range(TURNS):
        found["ours"] += [own / other for own, other in pair(worker, request)["blocks_ns"]]
        for name in ("student", "reference") if turn % 2 else ("reference", "student"):
            found[name].append(single_stream(runs[name]))
    return {**found, "empty": single_stream(lambda: None)}


class OneSession(Worker):
    """Opens a file once: what memory a session happens to get makes it faster or slower for as long as it lives."""

    def open(self, model: str, *, strict: bool = True, beside: bool = False) -> Callable[[], object]:
        if model not in self.references:
            self.references[model] = super().open(model, strict=strict, beside=beside)
        return self.references[model]


def single_stream(run: Callable[[], object]) -> list[float]:
    """The least and the median latency in ns that the load generator tells of a single-stream test."""
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
    wanted = ("Min latency", "50.00 percentile latency")
    return [float(next(line.split(":")[1] for line in lines if line.startswith(one))) for one in wanted]


def say(logs: np.ndarray) -> str:
    return f"{np.exp(np.median(logs)):.3f}"


def say_off(logs: np.ndarray) -> str:
    """The median over rounds, with its interval."""
    low, high = (100 * np.expm1(np.sort(logs)[i]) for i in BOUNDS)
    return f"{100 * np.expm1(np.median(logs)):+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    sys.exit(main())
