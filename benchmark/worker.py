"""The process that measures: one JSON line in, one JSON line out. `python -P -m benchmark.worker SETTINGS`.

SETTINGS is a JSON object: threads, batch, feeds (an .npz or null). It ends when its input does, even in the
middle of a run, so that no caller leaves one behind.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state

from benchmark.host import host, host_fingerprint
from benchmark.inputs import load_feeds, make_inputs

RUNTIME_ERRORS = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
BLOCK_NS = 2_000_000
FEWEST_PAIRS = 8
MOST_SAMPLES = 1000  # of one repeat of a direct measurement

Run = Callable[[], Any]


@dataclass
class Worker:
    threads: int
    batch: int
    feeds: Mapping[str, NDArray[Any]] | None
    references: dict[str, Run] = field(default_factory=dict)

    def open(self, model: str, *, strict: bool = True, beside: bool = False) -> Run:
        """A warm model as a function of nothing. With `strict`, feeds that do not fit are refused.

        beside: another model runs in turn with it, and threads that wait must not spin into its time.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.force_spinning_stop", "1" if beside else "0")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs = make_inputs(Path(model), session.get_inputs(), self.batch, self.feeds, strict=strict)

        def run() -> Any:
            return session.run(None, inputs)

        for _ in range(3):
            run()
        return run

    def open_reference(self, model: str) -> Run:
        if model not in self.references:
            self.references[model] = self.open(model, strict=False, beside=True)
        return self.references[model]


def time_block(run: Run, count: int) -> int:
    """The least time of `count` runs, in ns."""
    best = sys.maxsize
    for _ in range(count):
        start = perf_counter_ns()
        run()
        best = min(best, perf_counter_ns() - start)
    return best


def time_block_for(run: Run, ns: int) -> int:
    """The least time of the runs that fit into `ns`, in ns."""
    end = perf_counter_ns() + ns
    best = time_block(run, 1)
    while perf_counter_ns() < end:
        best = min(best, time_block(run, 1))
    return best


def count_runs(cost_ns: int) -> int:
    """How many runs make a block."""
    return max(1, round(BLOCK_NS / max(cost_ns, 1)))


def pair(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    """Interleaved blocks of a model and of the reference nearest to it in cost."""
    run = worker.open(request["model"], strict=request.get("strict", True), beside=True)
    nearest, cost_ns = find_nearest(worker, run, request["references"], request["reference_ms"])
    reference = worker.open_reference(request["references"][nearest])
    reference_ns = min(time_block_for(reference, BLOCK_NS) for _ in range(3))
    counts = count_runs(cost_ns), count_runs(reference_ns)
    blocks: list[tuple[int, int]] = []
    end = perf_counter_ns() + int(request["seconds"] * 1e9)
    while len(blocks) < FEWEST_PAIRS or perf_counter_ns() < end:
        if len(blocks) % 2:  # either may come first, so that neither always inherits the other's cache
            second = time_block(reference, counts[1])
            blocks.append((time_block(run, counts[0]), second))
        else:
            first = time_block(run, counts[0])
            blocks.append((first, time_block(reference, counts[1])))
    return {"nearest": nearest, "blocks_ns": blocks}


def find_nearest(worker: Worker, run: Run, references: list[str], ms: list[float]) -> tuple[int, int]:
    """The reference nearest in log cost, by a short probe beside the middle one; and the cost in ns."""
    middle = len(references) // 2
    beside = worker.open_reference(references[middle])
    probes = [(time_block_for(run, BLOCK_NS), time_block_for(beside, BLOCK_NS)) for _ in range(3)]
    cost = min(own for own, _ in probes)
    estimate = ms[middle] * float(np.median([own / other for own, other in probes]))
    distance = np.abs(np.log(np.asarray(ms) / estimate))
    return int(np.argmin(distance)), cost


def probe(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    """About how long one run takes."""
    run = worker.open(request["model"], strict=False)
    return {"ns": min(time_block_for(run, BLOCK_NS) for _ in range(5))}


def time_directly(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    """Each run's time, in ns, of `repeats` sessions in a row; evenly thinned where they are many."""
    repeats = int(request["repeats"])
    samples = []
    for _ in range(repeats):
        run = worker.open(request["model"], strict=request.get("strict", True))
        ns = request["seconds"] * 1e9 / repeats
        step = max(1, round(ns / max(time_block_for(run, BLOCK_NS), 1) / MOST_SAMPLES))
        samples.append(list(time_runs(run, ns, step)))
    return {"samples_ns": samples}


def time_runs(run: Run, ns: float, step: int) -> Iterator[int]:
    """The time of each `step`-th run for `ns`, at least five."""
    end, told = perf_counter_ns() + ns, 0
    while told < 5 or perf_counter_ns() < end:
        for _ in range(step - 1):
            run()
        start = perf_counter_ns()
        run()
        yield perf_counter_ns() - start
        told += 1


def grow(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    """By how many bytes the peak resident memory grows when the model is loaded and run. For a process that holds no
    more than the imports: a fork of one would count what it shares with its parent as its own."""
    before = reset_peak()
    run = worker.open(request["model"])
    for _ in range(10):
        run()
    return {"bytes": read_peak() - before}


def reset_peak() -> int:
    """Peak resident bytes so far; where Linux allows it, the peak is first set to what is resident now."""
    gc.collect()
    with suppress(OSError):  # not Linux, or not allowed: the peak after the imports is the baseline
        Path("/proc/self/clear_refs").write_text("5")
    return read_peak()


def read_peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def tell_host(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    """What this machine is."""
    return {"fingerprint": host_fingerprint(), **host()}


ANSWERS: dict[str, Callable[[Worker, Mapping[str, Any]], dict[str, Any]]] = {
    "pair": pair,
    "probe": probe,
    "time": time_directly,
    "memory": grow,
    "host": tell_host,
}


def answer(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return ANSWERS[request["do"]](worker, request)
    except RUNTIME_ERRORS as error:
        reason = " ".join(str(error).split())
        return {"error": f"onnxruntime cannot run {request['model']}: {reason}"}
    except ValueError as error:
        return {"error": f"{request['model']}: {error}"}


def read_requests(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the caller is gone or has had enough; what still runs is for nobody


def main() -> None:
    settings = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    feeds = load_feeds(settings["feeds"] and Path(settings["feeds"]))
    worker = Worker(settings["threads"], settings["batch"], feeds)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=read_requests, args=(requests,), daemon=True).start()
    gc.disable()
    while True:
        reply = answer(worker, json.loads(requests.get()))
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        gc.collect()


if __name__ == "__main__":
    main()
