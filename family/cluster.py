"""Workers on the nodes of a cluster that runs already: the cluster places them, Optuna's storage coordinates.

On Ray each worker is one task, which starts the same process as any worker (`family.workers`) on its node, with a run
folder of its own, gone when it ends. The budgets file's data, teacher and Python files lie under the same paths on
every node. A node whose cache lacks the soft targets gets them through Ray's object store, once, and asks no teacher.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from family.errors import mistake
from family.job import Job
from family.spec import ClusterSpec
from family.storages import hide_password
from family.workers import settings_of

WHERE = "search.engine_cluster"
LEAVE_S = 10.0
WANTS_STORE = "wants the store"
Packed = list[tuple[str, np.ndarray]]  # path within the cache, bytes


@contextlib.contextmanager
def place_workers(job: Job, study: str) -> Iterator[None]:
    """Workers on the cluster that the file names, if it names one, while this lasts."""
    cluster = job.spec.search.engine_cluster
    if cluster is None:
        yield
        return
    with CLUSTERS[cluster.kind](job, study, cluster):
        yield


@contextlib.contextmanager
def place_on_ray(job: Job, study: str, cluster: ClusterSpec) -> Iterator[None]:
    """Cancels at the end what has not left by itself: tasks that never got a core, or all where this process fails.

    Raises Mistakes where Ray is not installed, or there is no cluster at the address.
    """
    ray = connect_to_ray(cluster.address)
    try:
        count = int(ray.cluster_resources().get("CPU", 1)) if cluster.workers == "auto" else cluster.workers
        job.show(f"search: {count} workers are placed on the Ray cluster")
        leave = threading.Event()
        tending = threading.Thread(target=tend_tasks, args=(ray, job, study, count, leave), daemon=True)
        tending.start()
        try:
            yield
            tending.join(LEAVE_S)  # every trial is told by now
        finally:
            leave.set()
            tending.join()
    finally:
        ray.shutdown()


CLUSTERS: dict[str, Callable[[Job, str, ClusterSpec], contextlib.AbstractContextManager[None]]] = {"ray": place_on_ray}


def connect_to_ray(address: str) -> Any:
    """The module, connected."""
    if importlib.util.find_spec("ray") is None:
        raise mistake(WHERE, "needs Ray: pip install 'student-family[ray]'.")
    import ray

    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as problem:
        why = str(problem).splitlines()[0].rstrip(".")
        hint = "Start one: ray start --head; and on every other node: ray start --address=HOST:PORT."
        raise mistake(f"{WHERE}.address", f"no Ray cluster answers at {address} ({why}). {hint}") from None
    return ray


def tend_tasks(ray: Any, job: Job, study: str, count: int, leave: threading.Event) -> None:
    """Start the tasks, send the store to those that want it, say which fail; until all have ended or `leave`."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a node's own files never stand in for ours
    task = ray.remote(num_cpus=1, max_retries=-1)(run_on_node)
    settings = settings_of(job, study) | {"store": f"soft-targets/{job.soft_targets().fingerprint}"}
    waiting = [task.remote(settings, []) for _ in range(count)]
    sent = None
    try:
        while waiting and not leave.is_set():
            ended, waiting = ray.wait(waiting, timeout=0.5)
            for one in ended:
                answer = outcome_of(ray, one)
                if answer == WANTS_STORE:
                    sent = sent or ray.put(pack_cache(job))
                    waiting.append(task.remote(settings, [sent]))
                elif answer:
                    job.show(f"warning: a worker on the cluster ended: {answer}")
        for one in waiting:
            ray.cancel(one, force=True)
    except (ray.exceptions.RayError, ConnectionError) as problem:
        job.show(f"warning: the Ray cluster is lost ({(str(problem).splitlines() or ['no reason'])[0]})")


def outcome_of(ray: Any, task: Any) -> str:
    """What a task that has ended answers; of a failed one, the last line of what is known."""
    try:
        return str(ray.get(task))
    except ray.exceptions.RayError as problem:
        return hide_password((str(problem).strip().splitlines() or [type(problem).__name__])[-1])


def pack_cache(job: Job) -> Packed:
    """The soft targets, and the built-in teacher where that is asked."""
    folders = [job.cache / "soft-targets" / job.soft_targets().fingerprint]
    if any(teacher.path == "digits" for teacher in job.spec.teacher):
        folders.append(job.cache / "teachers")
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    return [(str(file.relative_to(job.cache)), np.fromfile(file, np.uint8)) for file in files]


def run_on_node(settings: Mapping[str, Any], sent: Sequence[Any]) -> str:
    """The task: one worker process, in a folder of its own. Carried to the node whole, so it imports for itself."""
    import json
    import os
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    cache = Path(os.environ.get("STUDENT_FAMILY_CACHE") or settings["cache"])
    if not (cache / settings["store"] / "done.json").exists():
        if not sent:
            return WANTS_STORE
        unpack_cache(cache, sent[0])
    with tempfile.TemporaryDirectory(prefix="student-family-worker-") as folder:
        told = json.dumps({**settings, "cache": str(cache), "run": folder, "elsewhere": True})
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "family.workers"],
            stdin=subprocess.PIPE,  # its end tells the worker that this task is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "STUDENT_FAMILY_WORKER": "node"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(told + "\n")
        process.stdin.flush()
        said = process.stdout.read().strip().splitlines()
        return "" if process.wait() == 0 else (said or [f"code {process.returncode}"])[-1]


def unpack_cache(cache: Path, sent: Any) -> None:
    """Write the files, once on a node: of several tasks one does, the others wait for it."""
    import fcntl

    import ray

    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".unpacking.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = sorted(ray.get(sent), key=lambda file: file[0].endswith("done.json"))  # which says that all are there
        for name, content in files:
            path = cache / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f".{path.name}.part")
                part.write_bytes(content.tobytes())
                part.replace(path)
