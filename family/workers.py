"""Workers of one search: further processes, here or on other hosts, that ask the same study, judge and tell.

A worker is stateless: it opens the run's frozen input, finds the study by what that input stands for, reads there what
the main command found out before (the recipe, the engine), and works until enough candidates are judged. Processes
that the main command starts share its run folder; a worker elsewhere (`build-family worker`, a node of a cluster) has
its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from family.errors import StudentFamilyError, mistake
from family.job import Job, Show
from family.run_folder import write_beside
from family.spec import Spec
from family.storages import check_url

LEAVE_S = 600.0  # how long a worker may take to finish its last candidate
NAME = "STUDENT_FAMILY_WORKER"

Alive = Callable[[], frozenset[str]]


def worker_name(job: Job | None = None, role: str | None = None) -> str:
    """Of this process, as it stands beside the trials that it runs; on other hosts than one, of its folder too."""
    role = role or os.environ.get(NAME, "main")
    return role if job is None or job.spec.search.storage is None else role + folder_name(job)


def folder_name(job: Job) -> str:
    """ " of host-1a2b3c4d": no other run folder anywhere has it, and this one keeps it."""
    path = job.folder / "worker-id"
    if not path.exists():
        write_beside(path, lambda beside: beside.write_text(uuid.uuid4().hex[:8]))
    return f" of {platform.node()}-{path.read_text()}"


@contextlib.contextmanager
def start_workers(job: Job, study: str, count: int) -> Iterator[Alive]:
    """`count` processes beside this one that join `study`; what is yielded tells the names of those that live. Waits
    for them at the end, and ends them where this process fails."""
    processes = {f"worker {i + 1}": start_worker(job, study, f"worker {i + 1}") for i in range(count)}

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
            end_process(process)


def settings_of(job: Job, study: str) -> dict[str, Any]:
    """What a worker process reads from its input. It may hold a password, so it never stands in a command line."""
    return {**input_of(job), "study": study}


def input_of(job: Job) -> dict[str, Any]:
    """The run's own input, from which any process opens the same job."""
    return {"spec": job.spec.model_dump(mode="json"), "folder": str(job.spec.folder), "cache": str(job.cache)}


def read_input(settings: Mapping[str, Any]) -> tuple[Spec, Path, Path]:
    """Spec, run folder and cache of `input_of`."""
    spec = Spec.model_validate(settings["spec"] | {"folder": Path(settings["folder"])})
    return spec, Path(settings["run"]), Path(settings["cache"])


def start_worker(job: Job, study: str, name: str) -> subprocess.Popen[bytes]:
    return start_process(job, "family.workers", settings_of(job, study) | {"elsewhere": False}, name)


def start_process(job: Job, module: str, settings: Mapping[str, Any], name: str) -> subprocess.Popen[bytes]:
    """`module` in a process of its own that works in this run folder and reads its settings from its input, which stays
    open. Its last words are kept in the run folder."""
    with log_of(job, name).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,  # its end tells the process that this one is gone
            stdout=log,
            stderr=log,
            env={**os.environ, NAME: name, "PYTHONUNBUFFERED": "1"},  # its log has all that it said
            start_new_session=True,
        )
    tell(process, {**settings, "run": str(job.folder)})
    return process


def tell(process: subprocess.Popen[bytes], line: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended; its log says why
        process.stdin.write(json.dumps(line).encode() + b"\n")
        process.stdin.flush()


def end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def log_of(job: Job, name: str) -> Path:
    return job.folder / f"{name.replace(' ', '-')}.log"


def take_input() -> int:
    """This process's input as a descriptor of its own, which what a user's function starts neither has nor can read."""
    own = os.dup(0)  # closed where another program is started
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return own


def leave_with_caller(source: int) -> None:
    """End this process, whatever it does, when the one that started it is gone."""
    while os.read(source, 4096):
        continue
    os._exit(1)


def read_line(source: int) -> dict[str, Any] | None:
    """The next line of an input; None at its end."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(source, 1)
        if not part:
            return None
        line += part
    return dict(json.loads(line))


def read_settings(source: int) -> dict[str, Any]:
    """The first line of an input."""
    settings = read_line(source)
    if settings is None:
        sys.exit("no settings were given")
    return settings


def count_workers(asked: int | str) -> int:
    """`auto` is one: only then does the same seed ask for the same candidates."""
    return 1 if asked == "auto" else int(asked)


def work(settings: Mapping[str, Any]) -> None:
    """What a worker process does: join the search until it is over, in the main command's run folder or `elsewhere`,
    in one of its own."""
    from family.deaths import explain_death
    from family.job import open_job
    from family.search import join_search

    spec, run, cache = read_input(settings)
    if settings["elsewhere"]:
        join(spec, run, print, cache, settings["study"])
    else:
        with explain_death():
            join_search(open_job(spec, run, cache, print), settings["study"])


def join(
    spec: Spec, run: Path, show: Show, cache: Path | None = None, study: str | None = None, wait_s: float = 0
) -> int:
    """What a worker elsewhere does, in a run folder of its own; how many candidates it judged.

    Raises Mistakes without `search.storage`, RunInUse, RunFailed where there is no such search.
    """
    from family.build import cache_folder
    from family.deaths import explain_death
    from family.job import open_job
    from family.run_folder import explain_disk_trouble, hold_run
    from family.search import join_search

    if spec.search.storage is None:
        raise mistake("search.storage", "must say where the search is: postgresql://user@host/database.")
    check_url(spec.search.storage)
    with hold_run(run), explain_disk_trouble(run), explain_death():
        job = open_job(spec, run, cache or cache_folder(run), show)
        return join_search(job, study, wait_s)


if __name__ == "__main__":
    given = take_input()
    told = read_settings(given)
    threading.Thread(target=leave_with_caller, args=(given,), daemon=True).start()
    try:
        work(told)
    except StudentFamilyError as problem:  # its last words are shown by who started it
        sys.exit(str(problem))
