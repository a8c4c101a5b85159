"""Several hosts for real: PostgreSQL and Ray, started and stopped here. Workers die, the database goes, a node is lost.

Needs a PostgreSQL server (apt install postgresql) and pip install 'student-family[postgres,grpc,ray]'.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from servers import Postgres, free_port, start_postgres
from sqlalchemy.exc import SQLAlchemyError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FILE = """
name: machines
data: {path: digits}
teacher: digits
students: {space: mlp, dims: {width: [8, 64], depth: [1, 3]}}
budgets:
  small: {target: cpu, size_kb: 30}
  best: {target: cpu, BEST: 400}
distill: {loss: kd, learning_rate: 0.01, steps: STEPS, views: 2, control_seeds: 1}
search: {trials: 8, minutes: null, engine: tpe, workers: 1, storage: 'URL'CLUSTER}
"""
GUEST = """
import dataclasses, sys
from pathlib import Path
import family.job
from family import workers
from family.spec import read_spec
opened = family.job.open_job
family.job.open_job = lambda *given: dataclasses.replace(opened(*given), host="another host")
spec = read_spec(Path("budgets.yaml"))
print(workers.join(spec, Path("run").absolute(), print, wait_s=300), flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def drivers() -> None:
    missing = [name for name in ("psycopg2", "grpc", "ray") if importlib.util.find_spec(name) is None]
    assert not missing, f"{missing} are not installed: pip install 'student-family[postgres,grpc,ray]'"


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with start_postgres() as server:
        yield server


STEPS = 1500
WHILE_NODES_START = 5000  # steps: with fewer the search was over before a node of the cluster had begun


def write_file(folder: Path, url: str, best: str = "size_kb", steps: int = STEPS, cluster: str = "") -> Path:
    folder.mkdir(parents=True)
    text = FILE.replace("URL", url).replace("BEST", best).replace("STEPS", str(steps)).replace("CLUSTER", cluster)
    (folder / "budgets.yaml").write_text(text)
    return folder


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """What a test started ends with it, also where it failed half-way: others would hear from it otherwise."""
    yield
    while STARTED:
        stop(STARTED.pop())


def stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A command of ours in that folder; what it says goes to `said`."""
    command = [sys.executable, "-P", *words] if words[0] == "-c" else [sys.executable, "-P", "-m", "family", *words]
    with (folder / "said").open("a") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, text=True, start_new_session=True)
    STARTED.append(process)
    return process


def start_main(folder: Path) -> subprocess.Popen[str]:
    return start(folder, "--budgets", "budgets.yaml", "--run", "run")


def start_worker(folder: Path) -> subprocess.Popen[str]:
    return start(folder, "worker", "--budgets", "budgets.yaml", "--run", "run")


def finish(*processes: subprocess.Popen[str], folder: Path) -> None:
    for process in processes:
        try:
            code = process.wait(timeout=900)
        finally:
            stop(process)
        assert code == 0, (folder / "said").read_text()


def read_trials(url: str) -> list[FrozenTrial]:
    (study,) = optuna.get_all_study_summaries(url)
    return optuna.load_study(study_name=study.study_name, storage=url).get_trials()


def wait_for(url: str, what: Callable[[list[FrozenTrial]], bool], seconds: float = 300) -> list[FrozenTrial]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            trials = read_trials(url)
        except (ValueError, SQLAlchemyError, StorageInternalError):  # no study yet, or no tables
            trials = []
        if what(trials):
            return trials
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s")


def worker_of(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("worker", ""))


def at_work(role: str) -> Callable[[list[FrozenTrial]], bool]:
    def look(trials: list[FrozenTrial]) -> bool:
        running = [t for t in trials if t.state == TrialState.RUNNING and "candidate" in t.user_attrs]
        return any(worker_of(t).startswith(role) for t in running)

    return look


def check_all_told(trials: list[FrozenTrial]) -> None:
    """Eight were asked for and eight were told, each once, each another candidate: the start-up draws. What two workers
    asked for at once beyond that was put back, and waits for a search that wants more."""
    trials = [t for t in trials if t.number < 8 or t.state != TrialState.WAITING]
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 8
    assert [t.number for t in trials] == list(range(8))
    assert len({t.user_attrs["candidate"]["id"] for t in trials}) == 8


def family_of(folder: Path) -> dict[str, Any]:
    """What is promised to be the same: the chosen students, their precisions and the hashes of their files."""
    family = json.loads((folder / "run" / "family.json").read_text())
    return {
        name: {key: entry[key] for key in ("status", "id", "precision", "params") if key in entry}
        for name, entry in family["budgets"].items()
    }


def hashes_of(folder: Path) -> dict[str, list[str]]:
    """Of each student's model and examples: what is promised to be the same. Its card tells measured times, and the
    bytes of model.ort differ from one conversion to the next."""
    found = {path.parent.name: path for path in (folder / "run" / "students").glob("*/manifest.json")}
    files = {name: json.loads(path.read_text())["files"] for name, path in found.items()}
    return {name: [own[one]["sha256"] for one in ("model.onnx", "golden.npz")] for name, own in files.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same job by one worker, on its own journal."""
    return run_alone(tmp_path_factory.mktemp("alone") / "main")


def run_alone(folder: Path, steps: int = STEPS) -> Path:
    write_file(folder, "", steps=steps)
    text = (folder / "budgets.yaml").read_text().replace(", storage: ''", "")
    (folder / "budgets.yaml").write_text(text)
    finish(start_main(folder), folder=folder)
    return folder


def check_same_family(folder: Path, alone: Path) -> None:
    assert family_of(folder) == family_of(alone)
    assert hashes_of(folder) == hashes_of(alone)


def no_password(folder: Path) -> None:
    """It stands in the user's own file alone."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "budgets.yaml":
            assert b"secret" not in path.read_bytes(), path


def test_two_workers_with_folders_of_their_own(tmp_path: Path, postgres: Postgres, alone: Path) -> None:
    main, other = (write_file(tmp_path / name, postgres.url) for name in ("main", "other"))
    worker = start_worker(other)  # it waits for the main command
    time.sleep(10)
    finish(start_main(main), folder=main)
    finish(worker, folder=other)
    trials = read_trials(postgres.driver_url)
    check_all_told(trials)
    assert {worker_of(t).split()[0] for t in trials} == {"main", "worker"}
    check_same_family(main, alone)
    told = pd.read_parquet(main / "run" / "trials.parquet")
    assert len(told) == 8
    assert "waiting up to 600 s" in (other / "said").read_text()
    no_password(main)
    no_password(other)
    # both are over: the same command again asks nothing more
    finish(start_worker(other), folder=other)
    finish(start_main(main), folder=main)
    check_all_told(read_trials(postgres.driver_url))


def test_a_worker_killed_at_work(tmp_path: Path, postgres: Postgres, alone: Path) -> None:
    main, other = (write_file(tmp_path / name, postgres.url) for name in ("main", "other"))
    leader, worker = start_main(main), start_worker(other)
    trials = wait_for(postgres.driver_url, at_work("worker"))
    os.killpg(worker.pid, signal.SIGKILL)
    left = [t.number for t in trials if worker_of(t).startswith("worker") and t.state == TrialState.RUNNING]
    finish(leader, folder=main)
    trials = read_trials(postgres.driver_url)
    check_all_told(trials)
    assert left
    check_same_family(main, alone)


def test_the_main_command_killed_and_resumed(tmp_path: Path, postgres: Postgres, alone: Path) -> None:
    """The worker goes on meanwhile and takes up what the main command left."""
    main, other = (write_file(tmp_path / name, postgres.url) for name in ("main", "other"))
    leader, worker = start_main(main), start_worker(other)
    wait_for(postgres.driver_url, lambda trials: at_work("main")(trials) and at_work("worker")(trials))
    os.killpg(leader.pid, signal.SIGKILL)
    finish(worker, folder=other)
    check_all_told(read_trials(postgres.driver_url))
    finish(start_main(main), folder=main)
    check_all_told(read_trials(postgres.driver_url))
    check_same_family(main, alone)


def test_the_database_restarted(tmp_path: Path, postgres: Postgres, alone: Path) -> None:
    main, other = (write_file(tmp_path / name, postgres.url) for name in ("main", "other"))
    processes = [start_main(main), start_worker(other)]
    wait_for(postgres.driver_url, lambda trials: sum(t.state == TrialState.COMPLETE for t in trials) >= 2)
    postgres.restart(away_s=8)
    finish(*processes, folder=main)
    check_all_told(read_trials(postgres.driver_url))
    check_same_family(main, alone)


def test_an_unlike_host_trains_and_never_measures(tmp_path: Path, postgres: Postgres) -> None:
    """With a limit on latency: its candidates were measured by the main command's host."""
    main, other = (write_file(tmp_path / name, postgres.url, best="latency_ms") for name in ("main", "other"))
    guest = start(other, "-c", GUEST)
    finish(start_main(main), folder=main)
    finish(guest, folder=other)
    trials = read_trials(postgres.driver_url)
    check_all_told(trials)
    by_guest = [t for t in trials if worker_of(t).startswith("worker")]
    assert by_guest
    assert "it trains only" in (other / "said").read_text()
    assert not list((other / "run").rglob("untrained.json"))  # no measurement
    assert not list((other / "run").rglob("ladder-*.json"))
    hosts = {t.user_attrs["candidate"]["host"] for t in trials}
    assert len(hosts) == 1
    assert "another host" not in hosts


def test_sizes_alone_any_host_may_say(tmp_path: Path, postgres: Postgres, alone: Path) -> None:
    main, other = (write_file(tmp_path / name, postgres.url) for name in ("main", "other"))
    guest = start(other, "-c", GUEST)
    finish(start_main(main), folder=main)
    finish(guest, folder=other)
    check_all_told(read_trials(postgres.driver_url))
    assert "it trains only" not in (other / "said").read_text()
    check_same_family(main, alone)


def test_through_a_grpc_proxy(tmp_path: Path, postgres: Postgres, alone: Path) -> None:
    port = free_port()
    serve = (
        "import sys; from optuna.storages import get_storage, run_grpc_proxy_server as run\n"
        "run(get_storage(sys.argv[1]), host='127.0.0.1', port=int(sys.argv[2]))"
    )
    proxy = subprocess.Popen([sys.executable, "-P", "-W", "ignore", "-c", serve, postgres.driver_url, str(port)])
    try:
        main, other = (write_file(tmp_path / name, f"grpc://127.0.0.1:{port}") for name in ("main", "other"))
        worker = start_worker(other)
        finish(start_main(main), folder=main)
        finish(worker, folder=other)
    finally:
        proxy.terminate()
        proxy.wait()
    check_all_told(read_trials(postgres.driver_url))
    check_same_family(main, alone)


def test_a_node_of_a_ray_cluster_lost(tmp_path: Path, postgres: Postgres) -> None:
    """The nodes' cache has no soft targets: they come through the object store, and no teacher is asked."""
    from ray.cluster_utils import Cluster

    cache = tmp_path / "cache of the nodes"
    before = os.environ.get("STUDENT_FAMILY_CACHE")
    os.environ["STUDENT_FAMILY_CACHE"] = str(cache)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        os.environ["STUDENT_FAMILY_CACHE"] = str(tmp_path / "cache")
        asks = f", engine_cluster: {{kind: ray, address: '{cluster.address}'}}"
        main = write_file(tmp_path / "main", postgres.url, steps=WHILE_NODES_START, cluster=asks)
        leader = start_main(main)
        wait_for(postgres.driver_url, at_work("node"))
        cluster.remove_node(nodes[0], allow_graceful=False)
        finish(leader, folder=main)
    finally:
        cluster.shutdown()
        os.environ.pop("STUDENT_FAMILY_CACHE")
        if before is not None:
            os.environ["STUDENT_FAMILY_CACHE"] = before
    trials = read_trials(postgres.driver_url)
    check_all_told(trials)
    assert any(worker_of(t).startswith("node") for t in trials)
    (store,) = cache.glob("soft-targets/*/done.json")
    (own,) = (tmp_path / "cache").glob("soft-targets/*/done.json")
    assert store.read_bytes() == own.read_bytes()
    check_same_family(main, run_alone(tmp_path / "alone" / "main", WHILE_NODES_START))
