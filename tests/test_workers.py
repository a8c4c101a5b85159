"""Two workers on one search, real ones: nothing is asked twice, and what a killed one left is taken up."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from family.candidates import open_benches
from family.job import open_job
from family.search import search
from family.spec import read_spec
from family.types import Training

FILE = """
name: workers
data: {path: digits}
teacher: digits
students: {space: mlp, dims: {width: [8, 64], depth: [1, 3]}}
budgets:
  small: {target: cpu, size_kb: 30}
  best: {target: cpu}
distill: {loss: kd, learning_rate: 0.01, steps: 600, views: 2, control_seeds: 1}
search: {trials: 12, minutes: null, engine: tpe, workers: 2}
"""


def run_search(folder: Path) -> list[dict]:
    (folder / "budgets.yaml").write_text(FILE)
    spec = read_spec(folder / "budgets.yaml")
    run = folder / "run"
    run.mkdir()
    (run / "spec.json").write_text(spec.model_dump_json())
    job = open_job(spec, run, folder / "cache", lambda _: None)
    job.soft_targets()
    with open_benches(job) as benches:
        return search(job, Training("kd", 0.01, 600, seed=0, views=2), benches).trials


def find_worker() -> psutil.Process | None:
    for child in psutil.Process().children():
        try:
            if "family.workers" in child.cmdline():
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def kill_at_work(journal: Path, killed: list[int]) -> None:
    """Kill the worker with -9 as soon as the journal shows that it runs a trial."""
    end = time.monotonic() + 300  # a busy machine takes over a minute to get that far
    while time.monotonic() < end:
        worker = find_worker()
        if worker and journal.exists() and b'"worker 1"' in journal.read_bytes():
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)
            return
        time.sleep(0.02)


@pytest.mark.parametrize("kill", [False, True])
def test_two_workers_judge_as_many_as_were_asked_for(tmp_path: Path, kill: bool) -> None:
    killed: list[int] = []
    killer = threading.Thread(target=kill_at_work, args=(tmp_path / "run" / "study.log", killed))
    if kill:
        killer.start()
    trials = run_search(tmp_path)
    if kill:
        killer.join()
        assert killed
    done = [t for t in trials if t["state"] == "complete"]
    assert 12 <= len(done) <= 13  # both may ask for the last one at the same moment
    assert not [t for t in trials if t["state"] not in ("complete", "pruned")]
    assert len({t["number"] for t in trials}) == len(trials)
    assert len({t["id"] for t in done}) >= 9  # other seeds, other candidates
    if not kill:
        assert {t["worker"] for t in done} == {"main", "worker 1"}
    assert find_worker() is None
