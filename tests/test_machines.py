"""Several workers and hosts, as far as that needs no server: locks, pulses, passwords, the file's mistakes."""

import multiprocessing
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from family import storages
from family.beats import Lookout, Pulse
from family.errors import Mistakes, RunFailed
from family.host_lock import measure_alone, train_in_turn
from family.run_folder import remember
from family.storages import Patient, check_url, hide_password, open_storage


def take_steps(place: Path, log: Path, over: float) -> None:
    """A training worker: each step takes 5 ms, and its begin and end are written down."""
    with train_in_turn(place) as wait, log.open("w") as told:
        while time.monotonic() < over:
            wait()
            begin = time.monotonic()
            time.sleep(0.005)
            told.write(f"{begin} {time.monotonic()}\n")
            told.flush()


def measure_finalists(place: Path, log: Path, after: float) -> None:
    """The final measuring of one target."""
    time.sleep(after)
    with measure_alone(print, place):
        begin = time.monotonic()
        time.sleep(0.4)
        log.write_text(f"{begin} {time.monotonic()}\n")


def read_spans(log: Path) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in (line.split() for line in log.read_text().splitlines())]


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_no_step_is_taken_while_two_targets_are_measured(tmp_path: Path) -> None:
    fork, place = multiprocessing.get_context("spawn"), tmp_path / "host"
    logs = [tmp_path / name for name in ("steps", "one", "two")]
    trainer = fork.Process(target=take_steps, args=(place, logs[0], time.monotonic() + 6))
    measurers = [fork.Process(target=measure_finalists, args=(place, log, 0.1)) for log in logs[1:]]
    trainer.start()
    end = time.monotonic() + 60
    while not (logs[0].exists() and len(logs[0].read_text()) > 100) and time.monotonic() < end:
        time.sleep(0.01)
    for process in measurers:
        process.start()
    for process in (*measurers, trainer):
        process.join()
        assert process.exitcode == 0
    steps, (one,), (two,) = map(read_spans, logs)
    assert not overlap(one, two)  # nor are both measured at once
    for measured in (one, two):
        assert not [step for step in steps if overlap(step, measured)]
    assert steps[0][0] < min(one[0], two[0])
    assert steps[-1][1] > max(one[1], two[1])  # it went on afterwards


def test_a_step_boundary_costs_next_to_nothing(tmp_path: Path) -> None:
    with train_in_turn(tmp_path / "host") as wait:
        begin = time.perf_counter()
        for _ in range(100_000):
            wait()
        each = (time.perf_counter() - begin) / 100_000
    assert each < 20e-6  # a tiny student's step takes 500 µs and more


def test_measuring_goes_on_with_a_warning_where_a_trainer_hangs(tmp_path: Path) -> None:
    said: list[str] = []
    with train_in_turn(tmp_path / "host") as wait:
        wait()
        with measure_alone(said.append, tmp_path / "host", patience_s=0.1):
            pass
    assert "others still use this host" in said[0]
    with measure_alone(said.append, tmp_path / "host", patience_s=0.1):
        pass
    assert len(said) == 1


def work_once(folder: Path, queue: object) -> None:
    def work() -> int:
        with (folder / "done").open("a") as log:
            log.write("x")
        time.sleep(0.3)
        return 7

    queue.put(remember(folder / "candidate.json", ["same"], work))  # type: ignore[attr-defined]


def test_two_workers_on_one_candidate_share_the_work(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    workers = [spawn.Process(target=work_once, args=(tmp_path, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=60) for _ in workers] == [7, 7, 7]
    for worker in workers:
        worker.join()
    assert (tmp_path / "done").read_text() == "x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["candidate.json", "done"]


def test_work_that_fails_lets_the_next_one_try(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        remember(tmp_path / "a.json", 1, lambda: 1 / 0)
    assert remember(tmp_path / "a.json", 1, lambda: 2) == 2


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///x", "SQLite's locks do not hold between hosts"),
        ("mysql://a:secret@c/d", "must be postgresql://user@host/database or grpc://host:port"),
        ("postgresq://u:secret@h/d", "Did you mean 'postgresql'?"),
        ("grpc://h", "must name host and port"),
        ("grpc://h:x", "must name host and port"),
        ("nothing", "must be postgresql://"),
    ],
)
def test_urls_that_are_no_storage(url: str, said: str) -> None:
    with pytest.raises(Mistakes, match=r"^search\.storage") as caught:
        check_url(url)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("postgresql://u:p@ss@h/d", "postgresql://u:***@h/d"),
        ("at postgresql+psycopg://u:x@h:1/d?a=b", "at postgresql+psycopg://u:***@h:1/d?a=b"),
        ("postgresql://u@h/d?password=x&b=c", "postgresql://u@h/d?password=***&b=c"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        ("grpc://h:1", "grpc://h:1"),
    ],
)
def test_passwords_are_hidden(text: str, hidden: str) -> None:
    assert hide_password(text) == hidden


@pytest.mark.parametrize("url", ["postgresql://u:secret@127.0.0.1:1/d", "grpc://127.0.0.1:1"])
def test_a_server_that_is_not_there_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg2" if url.startswith("p") else "grpc")
    monkeypatch.setattr(storages, "CONNECT_S", 1)
    with pytest.raises(RunFailed, match="cannot be reached at") as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("url", "extra"), [("postgresql://u:secret@h/d", "postgres"), ("grpc://h:1", "grpc")])
def test_a_missing_driver_is_named_with_its_command(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages, "find_spec", lambda name: None)
    with pytest.raises(Mistakes, match=rf"pip install 'student-family\[{extra}\]'"):
        open_storage(url)


class Flaky(InMemoryStorage):
    """Away for the next `left` calls that ask for attributes."""

    left = 0

    def get_study_user_attrs(self, study_id: int) -> dict:
        if self.left:
            self.left -= 1
            raise optuna.exceptions.StorageInternalError("lost") from OperationalError("select", {}, Exception("gone"))
        return super().get_study_user_attrs(study_id)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("family.storages.time.sleep", lambda s: None)


def test_calls_are_repeated_while_the_server_is_away(no_pause: None) -> None:
    inner = Flaky()
    storage = Patient(inner, "here")
    study = optuna.create_study(storage=storage)
    study.set_user_attr("a", 1)
    assert storage.back == 0
    inner.left = 3
    assert study.user_attrs == {"a": 1}
    assert storage.back > 0


def test_a_server_that_stays_away_ends_the_worker(no_pause: None) -> None:
    inner = Flaky()
    study = optuna.create_study(storage=Patient(inner, "postgresql://u:***@h/d", away_s=0.05))
    inner.left = 10**9
    with pytest.raises(RunFailed, match="has not answered for 0"):
        _ = study.user_attrs


def test_other_errors_are_not_repeated() -> None:
    study = optuna.create_study(storage=Patient(InMemoryStorage(), "here"))
    with pytest.raises(KeyError):
        study._storage.get_trial(99)


def test_a_pulse_counts_up_and_stops_with_its_trial() -> None:
    study = optuna.create_study()
    trial = study.ask()
    with Pulse(study, guest="g", beat_s=0.01).beating() as pulse:
        with pulse.of(trial._trial_id):
            time.sleep(0.2)
        beats = study.trials[0].user_attrs["beat"]
        assert beats >= 3
        assert study.user_attrs["guest g"] >= 3
        study.tell(trial, 1.0)
        time.sleep(0.1)
        assert study.trials[0].user_attrs["beat"] == beats
    assert study.user_attrs["guest g"] is None  # it has left


def test_a_pulse_of_a_trial_that_another_told_is_no_failure() -> None:
    study = optuna.create_study()
    trial = study.ask()
    study.tell(trial, 1.0)
    with Pulse(study, beat_s=0.01).beating() as pulse, pulse.of(trial._trial_id):
        time.sleep(0.05)
    with pytest.raises(UpdateFinishedTrialError):
        study._storage.set_trial_user_attr(trial._trial_id, "beat", 1)


def trial_that_beats(number: int, beat: int | None) -> SimpleNamespace:
    return SimpleNamespace(number=number, user_attrs={"worker": "w", "beat": beat}, datetime_start=None)


def test_silence_longer_than_the_grace_abandons_a_trial() -> None:
    now = [0.0]
    lookout = Lookout(grace_s=30, clock=lambda: now[0])
    assert not lookout.is_abandoned(trial_that_beats(1, 5))
    now[0] = 1000.0  # this worker trained meanwhile; the other has beaten
    assert not lookout.is_abandoned(trial_that_beats(1, 200))
    now[0] = 1029.0
    assert not lookout.is_abandoned(trial_that_beats(1, 200))
    now[0] = 1031.0
    assert lookout.is_abandoned(trial_that_beats(1, 200))
    assert not lookout.is_abandoned(trial_that_beats(2, 200))


def test_silence_while_the_storage_was_away_does_not_count() -> None:
    now, back = [0.0], [0.0]
    lookout = Lookout(back=lambda: back[0], grace_s=30, clock=lambda: now[0])
    assert not lookout.is_abandoned(trial_that_beats(1, 5))
    now[0], back[0] = 100.0, 90.0  # the storage came back ten seconds ago
    assert not lookout.is_abandoned(trial_that_beats(1, 5))
    now[0] = 121.0
    assert lookout.is_abandoned(trial_that_beats(1, 5))


def test_guests_count_while_they_beat() -> None:
    now = [0.0]
    lookout = Lookout(grace_s=30, clock=lambda: now[0])
    assert lookout.count_guests({"guest a": 1, "guest b": 7, "guest c": None, "seconds": 3.0}) == 2
    now[0] = 31.0
    assert lookout.count_guests({"guest a": 1, "guest b": 8}) == 1


def test_states_stay_within_optunas_rules() -> None:
    """What a running trial is queued by again, and that one of several makes it running."""
    study = optuna.create_study()
    trial = study.ask()
    storage = study._storage
    assert storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)
    assert storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING)
    assert not storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING)
