"""Workers of one search: further processes on this machine that ask the same study, judge and tell.

A worker is stateless: it opens the run's frozen input, the recipe and the measuring ladder that lie in the run folder,
and works until enough candidates are judged. One that dies is noticed by the process that started it, which takes up
what it left running.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from family.job import Job

LEAVE_S = 600.0  # how long a worker may take to finish its last candidate
NAME = "STUDENT_FAMILY_WORKER"

Alive = Callable[[], frozenset[str]]


def worker_name() -> str:
    """Of this process, as it stands beside the trials that it runs."""
    return os.environ.get(NAME, "main")


@contextlib.contextmanager
def start_workers(job: Job, count: int) -> Iterator[Alive]:
    """`count` processes beside this one; what is yielded tells the names of those that live. Waits for them at the
    end, and ends them where this process fails."""
    processes = {f"worker {i + 1}": start_worker(job, f"worker {i + 1}") for i in range(count)}

    def alive() -> frozenset[str]:
        return frozenset({"main", *(name for name, process in processes.items() if process.poll() is None)})

    try:
        yield alive
        for name, process in processes.items():
            if process.poll():
                job.show(f"warning: {name} ended with code {process.returncode}; see {log_of(job, name)}")
        end = time.monotonic() + LEAVE_S
        for process in processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
            if process.stdin:
                process.stdin.close()


def start_worker(job: Job, name: str) -> subprocess.Popen[bytes]:
    """Its last words are kept in the run folder."""
    settings = json.dumps({"run": str(job.folder), "folder": str(job.spec.folder), "cache": str(job.cache)})
    with log_of(job, name).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "family.workers", settings],
            stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
            stdout=log,
            stderr=log,
            env={**os.environ, NAME: name},
            start_new_session=True,
        )


def log_of(job: Job, name: str) -> Path:
    return job.folder / f"{name.replace(' ', '-')}.log"


def leave_with_caller() -> None:
    """End this process, whatever it does, when the one that started it is gone."""
    sys.stdin.buffer.read()
    os._exit(1)


def count_workers(asked: int | str) -> int:
    """`auto` is one: only then does the same seed ask for the same candidates."""
    return 1 if asked == "auto" else int(asked)


def work(settings: dict[str, Any]) -> None:
    """What a worker does: join the search of a run until it is over."""
    from family.candidates import open_benches
    from family.job import open_job
    from family.recipe import find_recipe
    from family.search import join_search
    from family.spec import Spec

    run = Path(settings["run"])
    spec = Spec.model_validate(json.loads((run / "spec.json").read_text()) | {"folder": Path(settings["folder"])})
    job = open_job(spec, run, Path(settings["cache"]), print)
    with open_benches(job) as benches:
        join_search(job, find_recipe(job).student, benches)


if __name__ == "__main__":
    threading.Thread(target=leave_with_caller, daemon=True).start()
    work(json.loads(sys.argv[1]))
