"""Helpers, real ones: they train what was asked, to the same bits, and a run is none the worse without them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from family import helpers, room
from family.controls import train_controls
from family.helpers import count_helpers, foresee_seconds, open_helpers, part_of
from family.job import Job, open_job
from family.recipe import find_recipe
from family.room import free_bytes, usable_cores
from family.spec import read_spec
from family.starts import starts_to_try
from family.students import train_candidate, trained_folder
from family.types import Training

FILE = """
name: helpers
data: {path: digits}
teacher: digits
students: {space: mlp, dims: {width: [8, 64], depth: [1, 3]}}
budgets: {best: {target: cpu}}
"""
WANTED = [
    ({"width": width, "depth": 1}, Training("kd", 0.01, 150, seed=seed, views=2))
    for seed in (1, 2)
    for width in (8, 16)
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the teacher, trained once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def job(tmp_path: Path, cache: Path) -> Job:
    (tmp_path / "budgets.yaml").write_text(FILE)
    job = open_job(read_spec(tmp_path / "budgets.yaml"), tmp_path / "run", cache, lambda _: None)
    (tmp_path / "run").mkdir()
    job.soft_targets()
    return job


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "WORTH_S", 0.0)
    monkeypatch.setattr(helpers, "count_helpers", lambda job: 1)


def find_helpers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "family.helpers" in child.cmdline()]


def has_ended(helper: psutil.Process) -> bool:
    return not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE


def weights_of(job: Job) -> list[str]:
    files = [trained_folder(job, *one) / "student.safetensors" for one in WANTED]
    return [hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "" for file in files]


def wait_for(happened, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_helper_trains_the_same_to_the_last_bit_and_ends_with_the_run(job, tmp_path, worth_it) -> None:
    with open_helpers(job) as train_ahead:
        train_ahead(WANTED, ship=True)
        (helper,) = find_helpers()
        wait_for(lambda: all(weights_of(job)))  # this process trains none of them
        wait_for(lambda: len(list(job.folder.glob("candidates/*/trained-*/faithful.json"))) == len(WANTED))
    assert not helper.is_running()
    alone = replace(job, folder=tmp_path / "alone")
    for params, training in WANTED:
        train_candidate(alone, params, training)
    assert weights_of(alone) == weights_of(job)


def test_without_a_killed_helper_the_run_trains_all_itself_and_says_so(job, worth_it) -> None:
    said: list[str] = []
    job = replace(job, show=said.append)
    with open_helpers(job) as train_ahead:
        train_ahead(WANTED)
        (helper,) = find_helpers()
        os.kill(helper.pid, signal.SIGKILL)
        wait_for(lambda: has_ended(helper))
        train_ahead(WANTED)  # nobody listens
        done = [train_candidate(job, params, training) for params, training in WANTED]
    assert all(weights_of(job))
    assert all(one["val"] > 0.2 for one in done)
    assert said == [f"note: helper 1 ended early; see {job.folder / 'helper-1.log'}"]


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from family import helpers, room
from family.job import open_job
from family.room import free_bytes, usable_cores
from family.spec import read_spec
from family.starts import starts_to_try
from tests.test_helpers import WANTED, find_helpers
helpers.WORTH_S, helpers.count_helpers = 0.0, lambda job: 1
folder = Path(sys.argv[1])
job = open_job(read_spec(folder / "budgets.yaml"), folder / "run", Path(sys.argv[2]), lambda _: None)
with helpers.open_helpers(job) as train_ahead:
    train_ahead([(params, replace(training, steps=100_000)) for params, training in WANTED])
    print(find_helpers()[0].pid, flush=True)
    sys.stdin.read()
"""


def test_a_helper_ends_with_a_run_that_is_killed(job, tmp_path, cache) -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(cache)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as run:
        helper = psutil.Process(int(run.stdout.readline()))
        wait_for(lambda: list(job.folder.glob("candidates/*/trained-*/checkpoint*")))  # it is at work
        run.kill()
        wait_for(lambda: has_ended(helper), 20)
    assert has_ended(helper)


def test_what_a_recipe_hands_out_is_what_it_trains_and_all_but_what_follows_from_it(job) -> None:
    wanted: list[tuple[dict, Training]] = []
    recipe = find_recipe(job, lambda more, *, ship=False: wanted.extend(more))
    assert recipe.student.inherits or recipe.starts["student"]
    listed = {trained_folder(job, *one) for one in wanted}
    trained = {path.parent for path in job.folder.glob("candidates/*/trained-*/done.json")}
    assert listed <= trained  # nothing for nobody
    others = [json.loads((folder / "done.json").read_text())["result"] for folder in trained - listed]
    assert len(others) <= 2 + 2 * 4  # the winner's other temperatures, and the grid's lower half where it is tried
    assert len(listed) >= 20
    chosen = {"a": {"width": 8, "depth": 1}, "b": {"width": 16, "depth": 1}}
    pairs: list[tuple[dict, Training]] = []
    train_controls(job, chosen, recipe, lambda more, *, ship: pairs.extend(more))
    assert all((trained_folder(job, *one) / "done.json").exists() for one in pairs)
    assert len(pairs) == len(chosen) * 2 * job.spec.distill.control_seeds


@pytest.mark.parametrize("helpers_there", [1, 2, 3, 7])
def test_helpers_share_all_of_it_and_none_twice_from_the_end(helpers_there) -> None:
    parts = [part_of(range(10), i, helpers_there) for i in range(helpers_there)]
    assert sorted(number for part in parts for number in part) == list(range(10))
    assert parts[0][0] == 9
    assert all(list(part) == sorted(part, reverse=True) for part in parts)


def test_nobody_is_started_for_what_is_little_or_known(job) -> None:
    seconds = foresee_seconds(job, WANTED)
    assert 0 < seconds < helpers.WORTH_S
    assert foresee_seconds(job, [(p, replace(t, steps=10 * t.steps)) for p, t in WANTED]) == pytest.approx(10 * seconds)
    with open_helpers(job) as train_ahead:
        train_ahead(WANTED)
        assert not find_helpers()


def test_there_are_as_many_as_cores_or_as_asked_for_as_far_as_memory_allows(job, monkeypatch) -> None:
    def with_workers(workers) -> Job:
        return replace(
            job, spec=job.spec.model_copy(update={"search": job.spec.search.model_copy(update={"workers": workers})})
        )

    monkeypatch.setattr(helpers, "usable_cores", lambda: 4)
    assert count_helpers(with_workers("auto")) == 3
    assert count_helpers(with_workers(1)) == 0
    assert count_helpers(with_workers(2)) == 1
    assert count_helpers(replace(with_workers(2), device="cuda")) == 0
    monkeypatch.setattr(helpers, "usable_cores", lambda: 64)
    assert count_helpers(with_workers("auto")) == helpers.MOST
    own = psutil.Process().memory_info().rss
    monkeypatch.setattr(helpers, "free_bytes", lambda: 3.5 * own)
    assert count_helpers(with_workers("auto")) == 2
    assert count_helpers(with_workers(2)) == 1  # and a worker beside
    assert count_helpers(with_workers(3)) == 0


def test_a_containers_limits_count(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(room, "GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)), raising=False)
    assert usable_cores() == 32
    free = free_bytes()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900\n")
    assert usable_cores() == 32
    assert free_bytes() > free / 2
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert usable_cores() == 2
    assert free_bytes() == 100
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores() == 1


def test_a_helper_that_finds_other_data_leaves_and_the_run_goes_on(job, monkeypatch, worth_it) -> None:
    monkeypatch.setattr(helpers, "known_by", lambda job: ["another"])
    said: list[str] = []
    job = replace(job, show=said.append)
    with open_helpers(job) as train_ahead:
        train_ahead(WANTED)
        (helper,) = find_helpers()
        wait_for(lambda: has_ended(helper))
        train_candidate(job, *WANTED[0])
    assert said == [f"note: helper 1 ended early; see {job.folder / 'helper-1.log'}"]
    assert "where the run has ['another']; it cannot help" in (job.folder / "helper-1.log").read_text()


def test_where_no_process_can_be_started_the_run_says_so_and_goes_on(job, monkeypatch, worth_it) -> None:
    def refuse(*_) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(helpers, "start_process", refuse)
    said: list[str] = []
    with open_helpers(replace(job, show=said.append)) as train_ahead:
        train_ahead(WANTED)
    assert said == ["note: 0 helpers instead of 1: Resource temporarily unavailable"]


def test_what_a_users_function_starts_cannot_read_what_a_helper_is_told() -> None:
    code = (
        "import os, subprocess, sys; from family.workers import read_line, take_input; source = take_input(); "
        "subprocess.run(['cat'], check=True); print(read_line(source), read_line(source))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input='{"a": 1}\n', capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "{'a': 1} None"


def test_starts_are_handed_out_only_where_weights_can_be_shared(job) -> None:
    assert starts_to_try(job, WANTED[0][1])
    apart = replace(job, space=replace(job.space, nests=False))
    assert starts_to_try(apart, WANTED[0][1]) == []
