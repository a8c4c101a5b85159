"""Helpers: processes that train, from the far end, what this run is about to train one after the other.

A training is the same wherever it runs and is kept in the run folder under a lock (`run_folder.remember`), so a helper
only saves time: the run goes through its list as it would alone, finds what helpers finished, and trains what they did
not. It opens the same job from the same input, knows nothing of the search, and ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import psutil

from family import spaces
from family.candidates import candidate_id
from family.errors import StudentFamilyError
from family.job import Job, open_job
from family.students import own_training, train_candidate, trained_folder, why_unfaithful
from family.supernet import CannotRank
from family.types import Training
from family.workers import end_process, input_of, log_of, read_input, read_line, read_settings, start_process, tell

Wanted = Sequence[tuple[Mapping[str, Any], Training]]


class Ahead(Protocol):
    def __call__(self, wanted: Wanted, *, ship: bool = False) -> None:
        """`ship`: they are exported, too."""


WORTH_S = 12.0  # of trainings; a helper takes some seconds to open the job
STEP_S = 2e-3  # of one core, beside its multiply-accumulates
MACS_PER_S = 1e10
ROOM = 1.5  # of this process's own memory must be free for each helper


def train_nothing(wanted: Wanted, *, ship: bool = False) -> None:
    """For callers that have no helpers."""


@contextlib.contextmanager
def open_helpers(job: Job) -> Iterator[Ahead]:
    """What is yielded has helpers train a list of (params, training) that this process goes through next. The first
    list that is worth it starts them: one for each further core (or as `search.workers` says) as far as memory allows;
    none beside a graphics card."""
    processes: list[subprocess.Popen[bytes]] = []

    def train_ahead(wanted: Wanted, *, ship: bool = False) -> None:
        left = [(params, training) for params, training in wanted if not is_trained(job, params, training)]
        if not processes and foresee_seconds(job, left) >= WORTH_S:
            processes.extend(start_helper(job, i + 1) for i in range(count_helpers(job)))
        for i, process in enumerate(processes):
            part = [[dict(params), asdict(training)] for params, training in part_of(left, i, len(processes))]
            tell(process, {"wanted": part, "ship": ship})

    try:
        yield train_ahead
    finally:
        for number, process in enumerate(processes, 1):
            if process.poll() is not None:  # it never leaves by itself
                job.show(f"note: helper {number} ended early; see {log_of(job, f'helper {number}')}")
            end_process(process)


def count_helpers(job: Job) -> int:
    if job.device != "cpu":
        return 0
    asked = job.spec.search.workers
    wanted = usable_cores() if asked == "auto" else int(asked)
    own, free = psutil.Process().memory_info().rss, psutil.virtual_memory().available
    return max(0, min(wanted - 1, int(free / (ROOM * own))))


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_trained(job: Job, params: Mapping[str, Any], training: Training) -> bool:
    return (trained_folder(job, params, training) / "done.json").exists()


def foresee_seconds(job: Job, wanted: Wanted) -> float:
    """About what training them takes on one core, with the shared weights that some begin from."""
    macs_of: dict[str, int] = {}

    def foresee(params: Mapping[str, Any], steps: int, training: Training) -> float:
        name = candidate_id(job, params)
        if name not in macs_of:  # a user's factory may take long to build one
            module = spaces.build_student(job.space, params, job.task, training.seed)
            macs_of[name] = spaces.cost_of(module, job.task.seen_by(params))
        return steps * (STEP_S + 3 * training.batch * macs_of[name] / MACS_PER_S)  # forward, and backward twice that

    shared = {(t.loss, t.seed): (spaces.largest(job.space), t.inherits, t) for _, t in wanted if t.inherits}
    runs = [(params, own_training(job, params, t).steps, t) for params, t in wanted]
    return sum(foresee(*run) for run in (*runs, *shared.values()))


def part_of(wanted: Wanted, helper: int, helpers: int) -> Wanted:
    """What helper 0, 1, … of so many trains: all of them from the far end on, each its own, while the process that they
    help comes from the front; they meet once."""
    return wanted[::-1][helper::helpers]


def start_helper(job: Job, number: int) -> subprocess.Popen[bytes]:
    return start_process(job, "family.helpers", input_of(job), f"helper {number}")


def help_out(settings: Mapping[str, Any]) -> None:
    """What a helper does: open the job, then train whatever list comes in; it never leaves by itself."""
    lists: queue.Queue[Mapping[str, Any]] = queue.Queue()
    threading.Thread(target=listen, args=(lists,), daemon=True).start()
    spec, run, cache = read_input(settings)
    job = open_job(spec, run, cache, print)
    while True:
        asked = lists.get()
        for params, given in asked["wanted"]:
            training = Training(**given)
            with contextlib.suppress(CannotRank):  # this process's caller meets it, too, and says so
                train_candidate(job, params, training)
                if asked["ship"]:
                    why_unfaithful(job, params, training)


def listen(lists: queue.Queue[Mapping[str, Any]]) -> None:
    """Pass on what comes in; end this process, whatever it does, when the one that started it is gone."""
    while (line := read_line()) is not None:
        lists.put(line)
    os._exit(1)


if __name__ == "__main__":
    told = read_settings()
    try:
        help_out(told)
    except StudentFamilyError as problem:
        sys.exit(str(problem))
