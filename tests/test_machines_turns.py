"""Turns of workers that share a storage, in threads of this process: nothing is exported, measured or trained."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from test_search import FAR_APART, RECIPE, SIZES, Fakes, Killed, open_job, run, task

from family import studies
from family.beats import Lookout, Pulse
from family.errors import RunFailed
from family.job import Job
from family.search import join_search, open_study, search
from family.storages import Patient
from family.tasks import DataTask
from family.workers import worker_name

__all__ = ["task"]  # a fixture
URL = "postgresql://u:secret@db/searches"


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Patient:
    """One storage for every worker of the test, wherever it thinks it is; who is silent for 0.4 s is dead."""
    shared = Patient(InMemoryStorage(), "here")
    monkeypatch.setattr(studies, "open_storage", lambda url: shared)
    monkeypatch.setattr("family.search.Lookout", partial(Lookout, grace_s=0.4))
    monkeypatch.setattr("family.search.Pulse", partial(Pulse, beat_s=0.05))
    monkeypatch.setattr("family.crew.PAUSE_SHARED_S", 0.02)
    monkeypatch.setattr(studies, "LOOK_S", 0.02)
    return shared


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


def open_shared(folder: Path, task: DataTask, budgets: str = SIZES, trials: int = 10, host: str = "ours") -> Job:
    job = open_job(folder, task, budgets, trials)
    settings = job.spec.search.model_copy(update={"storage": URL})
    return replace(job, spec=job.spec.model_copy(update={"search": settings}), host=host)


def join_in_thread(job: Job, judged: list[int]) -> threading.Thread:
    thread = threading.Thread(target=lambda: judged.append(join_search(job, wait_s=20)))
    thread.start()
    return thread


def all_trials(storage: Patient) -> list[optuna.trial.FrozenTrial]:
    (study,) = storage.get_all_studies()
    return storage.get_all_trials(study._study_id)


def slow_down(fakes: Fakes, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    quick = fakes.train

    def train(job: Job, params: dict, recipe: object) -> dict:
        time.sleep(seconds)
        return quick(job, params, recipe)  # type: ignore[arg-type]

    monkeypatch.setattr("family.engines.train_candidate", train)


def without_workers(trials: list[dict]) -> list[dict]:
    return [{name: value for name, value in trial.items() if name != "worker"} for trial in trials]


def test_one_worker_on_a_database_asks_what_it_asks_on_a_journal(
    tmp_path: Path, task: DataTask, fakes: Fakes, storage: Patient
) -> None:
    on_journal = run(open_job(tmp_path / "journal", task, trials=12))
    shared = run(open_shared(tmp_path / "shared", task, trials=12))
    assert without_workers(shared) == without_workers(on_journal)
    assert not (tmp_path / "shared" / "study.log").exists()


def test_workers_together_judge_exactly_as_many_as_were_asked_for(
    tmp_path: Path, task: DataTask, fakes: Fakes, storage: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(fakes, monkeypatch, 0.05)
    judged: list[int] = []
    monkeypatch.setattr("family.search.open_measuring", measure_as_the_fakes_do(fakes))
    others = [join_in_thread(open_shared(tmp_path / f"w{i}", task, trials=10), judged) for i in range(3)]
    trials = run(open_shared(tmp_path / "main", task, trials=10))
    for thread in others:
        thread.join()
    told = [t for t in all_trials(storage) if t.state == TrialState.COMPLETE]
    assert len(told) == 10
    assert sum(judged) + sum(str(t["worker"]).startswith("main of") and t["state"] == "complete" for t in trials) >= 10
    assert len(fakes.trained) == 10  # none twice, none for nothing
    assert len({t["worker"] for t in trials}) >= 3
    assert not [t for t in all_trials(storage) if t.state in (TrialState.RUNNING, TrialState.FAIL)]


def measure_as_the_fakes_do(fakes: Fakes) -> Callable:
    return lambda job, joined: contextlib.nullcontext(lambda params: fakes.measure(job, params, {}))


def test_a_guest_trains_what_others_measured(
    tmp_path: Path, task: DataTask, fakes: Fakes, storage: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(fakes, monkeypatch, 0.1)
    judged: list[int] = []
    said: list[str] = []
    guest = replace(open_shared(tmp_path / "guest", task, FAR_APART, host="another"), show=said.append)
    thread = join_in_thread(guest, judged)
    trials = run(open_shared(tmp_path / "main", task, FAR_APART))
    thread.join()
    done = [t for t in trials if t["state"] == "complete"]
    assert len(done) == 10
    assert judged[0] >= 2
    by_guest = [t for t in done if t["worker"] != done[0]["worker"]]
    assert by_guest or judged[0] == 10
    assert any("it trains only" in line for line in said)
    candidates = [t.user_attrs["candidate"] for t in all_trials(storage) if "candidate" in t.user_attrs]
    assert {c["host"] for c in candidates} == {"ours"}
    assert len(fakes.measured) == len(candidates)
    assert len(fakes.trained) == 10


def test_what_a_dead_worker_left_is_taken_up_under_its_number(
    tmp_path: Path, task: DataTask, fakes: Fakes, storage: Patient
) -> None:
    job = open_shared(tmp_path / "dead", task)
    fakes.die_at = 3
    with pytest.raises(Killed):
        run(job)
    (left,) = [t for t in all_trials(storage) if t.state == TrialState.RUNNING]
    fakes.die_at = None
    trials = run(open_shared(tmp_path / "other", task))  # another folder, another name: by its silence alone
    assert sum(t["state"] == "complete" for t in trials) == 10
    (again,) = [t for t in trials if t["number"] == left.number]
    assert again["params"] == left.user_attrs["candidate"]["params"]
    assert again["worker"] != left.user_attrs["worker"]
    assert len(fakes.trained) == 10


def test_a_worker_that_was_thought_dead_does_not_tell_twice(
    tmp_path: Path, task: DataTask, fakes: Fakes, storage: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = open_shared(tmp_path / "main", task)
    told_by_another: list[int] = []
    quick = fakes.train

    def train(job: Job, params: dict, recipe: object) -> dict:
        if len(fakes.trained) == 4 and not told_by_another:
            (mine,) = [t for t in all_trials(storage) if t.state == TrialState.RUNNING]
            storage.set_trial_state_values(mine._trial_id, state=TrialState.COMPLETE, values=[0.5, 1.0])
            told_by_another.append(mine.number)
        return quick(job, params, recipe)  # type: ignore[arg-type]

    monkeypatch.setattr("family.engines.train_candidate", train)
    trials = run(job)
    assert sum(t["state"] == "complete" for t in trials) == 10
    assert [t["val"] for t in trials if t["number"] == told_by_another[0]] == [0.5]


def test_measurements_of_others_come_into_the_main_commands_folder(
    tmp_path: Path, task: DataTask, fakes: Fakes, storage: Patient
) -> None:
    job = open_shared(tmp_path / "main", task)
    search(job, RECIPE, {"cpu": None})  # type: ignore[dict-item]
    kept = list((tmp_path / "main" / "candidates").glob("*/measurements/cpu.size_kb.json"))
    assert len(kept) == len({t.user_attrs["candidate"]["id"] for t in all_trials(storage)})


def test_a_worker_without_a_search_says_so(tmp_path: Path, task: DataTask, storage: Patient) -> None:
    said: list[str] = []
    job = replace(open_shared(tmp_path, task), show=said.append)
    with pytest.raises(RunFailed, match="holds no search of this input") as caught:
        join_search(job, wait_s=0.1)
    assert "waiting up to 0.1 s" in said[0]
    assert "secret" not in str(caught.value) + said[0]


def test_a_search_that_is_over_wants_no_worker(tmp_path: Path, task: DataTask, fakes: Fakes, storage: Patient) -> None:
    run(open_shared(tmp_path / "main", task))
    asked = len(fakes.measured)
    assert join_search(open_shared(tmp_path / "late", task)) == 0
    assert len(fakes.measured) == asked


def test_other_input_is_another_search(tmp_path: Path, task: DataTask, fakes: Fakes, storage: Patient) -> None:
    run(open_shared(tmp_path / "main", task))
    with pytest.raises(RunFailed, match="holds no search"):
        join_search(open_shared(tmp_path / "late", task, FAR_APART))


def test_names_of_workers_differ_between_folders_and_stay(tmp_path: Path, task: DataTask) -> None:
    one, other = open_shared(tmp_path / "one", task), open_shared(tmp_path / "other", task)
    assert worker_name(one) == worker_name(one)
    assert worker_name(one) != worker_name(other)
    assert worker_name(open_job(tmp_path / "journal", task)) == "main"


def test_the_study_is_the_measured_hosts(tmp_path: Path, task: DataTask, storage: Patient) -> None:
    ours, theirs = (open_shared(tmp_path, task, host=host) for host in ("ours", "theirs"))
    names = [open_study(job, RECIPE, "tpe", ["cpu"]).study_name for job in (ours, theirs)]
    assert names[0] != names[1]
    assert names[0].split("-")[0] == names[1].split("-")[0]
