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
from family.errors import RunFailed, StudentFamilyError
from family.host_lock import train_in_turn
from family.job import Job, open_job
from family.room import free_bytes, usable_cores
from family.students import cost_of, own_training, train_candidate, trained_folder, why_unfaithful
from family.supernet import CannotRank
from family.types import Training
from family.workers import (
    end_process,
    input_of,
    log_of,
    read_input,
    read_line,
    read_settings,
    start_process,
    take_input,
    tell,
)

TRAINED, CHECKED = "done.json", "faithful.json"  # what is there of a training when it is done

Wanted = Sequence[tuple[Mapping[str, Any], Training]]


class Ahead(Protocol):
    def __call__(self, wanted: Wanted, *, ship: bool = False) -> None:
        """`ship`: they are exported and checked, too."""


WORTH_S = 12.0  # of trainings; a helper takes some seconds to open the job
STEP_S = 2e-3  # of one core, beside its multiply-accumulates
MACS_PER_S = 1e10
ROOM = 1.5  # of this process's own memory must be free for each helper
MOST = 7  # helpers


def train_nothing(wanted: Wanted, *, ship: bool = False) -> None:
    """For callers that have no helpers."""


@contextlib.contextmanager
def open_helpers(job: Job) -> Iterator[Ahead]:
    """What is yielded has helpers train a list of (params, training) that this process goes through next. The first
    list that is worth it starts them: one for each further core (or as `search.workers` says) as far as memory allows;
    none beside a graphics card."""
    processes: list[subprocess.Popen[bytes]] = []
    wanted_helpers = count_helpers(job)

    def train_ahead(wanted: Wanted, *, ship: bool = False) -> None:
        if not wanted_helpers:
            return
        places = {trained_folder(job, *one): one for one in wanted}  # each training once
        left = [one for place, one in places.items() if not (place / (CHECKED if ship else TRAINED)).exists()]
        if not processes and foresee_seconds(job, left) >= WORTH_S:
            start_helpers(job, min(wanted_helpers, len(left) - 1), processes)
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
    """Where a number of workers is given, as many may search beside them, and need room, too."""
    if job.device != "cpu":
        return 0
    asked = job.spec.search.workers
    wanted, others = (usable_cores(), 0) if asked == "auto" else (int(asked), int(asked) - 1)
    room = int(free_bytes() / (ROOM * psutil.Process().memory_info().rss)) - others
    return max(0, min(wanted - 1, room, MOST))


def start_helpers(job: Job, count: int, processes: list[subprocess.Popen[bytes]]) -> None:
    """They only save time: where a process cannot be started, the run goes on with those that were."""
    try:
        for number in range(1, count + 1):
            processes.append(
                start_process(job, "family.helpers", {**input_of(job), "known": known_by(job)}, f"helper {number}")
            )
    except OSError as problem:
        job.show(f"note: {len(processes)} helpers instead of {count}: {problem.strerror}")


def known_by(job: Job) -> list[Any]:
    """What a helper must find equal, or its trainings would be others."""
    return [job.student_id, job.task.fingerprint, job.teacher.fingerprint, list(job.taught_by)]


def foresee_seconds(job: Job, wanted: Wanted) -> float:
    """About what training them takes on one core, with the shared weights that some begin from."""
    macs_of: dict[str, int] = {}

    def foresee(params: Mapping[str, Any], steps: int, training: Training) -> float:
        name = candidate_id(job, params)
        if name not in macs_of:  # a user's factory may take long to build one
            macs_of[name] = cost_of(job, params, training.seed)
        return steps * (STEP_S + 3 * training.batch * macs_of[name] / MACS_PER_S)  # forward, and backward twice that

    shared = {(t.loss, t.seed): (spaces.largest(job.space), t.inherits, t) for _, t in wanted if t.inherits}
    runs = [(params, own_training(job, params, t).steps, t) for params, t in wanted]
    return sum(foresee(*run) for run in (*runs, *shared.values()))


def part_of(wanted: Wanted, helper: int, helpers: int) -> Wanted:
    """What helper 0, 1, … of so many trains: all of them from the far end on, each its own, while the process that they
    help comes from the front; they meet once."""
    return wanted[::-1][helper::helpers]


def help_out(settings: Mapping[str, Any], source: int) -> None:
    """What a helper does: open the job, then train whatever list comes in, each item unless a newer list is there: what
    the process that it helps asks for next, it has gone through all before. It never leaves by itself.

    Raises RunFailed where what it opened is not what that process has."""
    lists: queue.Queue[Mapping[str, Any]] = queue.Queue()
    threading.Thread(target=listen, args=(lists, source), daemon=True).start()
    spec, run, cache = read_input(settings)
    with in_the_room():
        job = open_job(spec, run, cache, print)
    if known_by(job) != settings["known"]:
        raise RunFailed(f"This helper found {known_by(job)} where the run has {settings['known']}; it cannot help.")
    while True:
        asked = lists.get()
        for params, given in asked["wanted"]:
            if not lists.empty():
                break
            training = Training(**given)
            with contextlib.suppress(CannotRank):  # the process that it helps meets it, too, and says so
                train_candidate(job, params, training)
                if asked["ship"]:
                    with in_the_room():
                        why_unfaithful(job, params, training)


@contextlib.contextmanager
def in_the_room() -> Iterator[None]:
    """Not while finalists are measured on this host, and they are not measured while this lasts."""
    with train_in_turn() as wait:
        wait()
        yield


def listen(lists: queue.Queue[Mapping[str, Any]], source: int) -> None:
    """Pass on what comes in; end this process, whatever it does, when the one that started it is gone."""
    try:
        while (line := read_line(source)) is not None:
            lists.put(line)
    finally:
        os._exit(1)


if __name__ == "__main__":
    given = take_input()
    told = read_settings(given)
    try:
        help_out(told, given)
    except StudentFamilyError as problem:
        sys.exit(str(problem))
