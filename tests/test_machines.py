"""Several workers and hosts, as far as that needs no server: locks, pulses, passwords, the file's mistakes."""

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from fake_task import open_numbers
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from family import finals, host_lock, storages
from family.beats import Lookout, Pulse
from family.build import build, freeze_input
from family.cli import main
from family.cluster import connect_to_ray
from family.errors import Mistakes, RunFailed
from family.host_lock import measure_alone, train_in_turn
from family.run_folder import remember
from family.soft_targets import SoftTargets
from family.spec import Spec, read_spec
from family.storages import Patient, check_url, hide_password, open_storage
from family.train import train
from family.types import Training

MEASURE = """
import sys, time
from pathlib import Path
from family import host_lock
host_lock.PLACE = Path(sys.argv[1])
with host_lock.measure_alone(print):
    begin = time.monotonic()
    time.sleep(0.4)
    print(begin, time.monotonic())
"""


def train_until(over: threading.Event, steps: list[float], folder: Path) -> None:
    """A training worker: when each of its steps ended is written down."""
    task = open_numbers(folder)
    training = Training("labels", 0.01, 1_000_000 // task.rows("train"), seed=0, views=1)

    def on_step(step: int) -> None:
        steps.append(time.monotonic())
        time.sleep(0.002)
        if over.is_set():
            raise InterruptedError

    with contextlib.suppress(InterruptedError):
        train(torch.nn.Linear(4, 3), task, SoftTargets("none", 1, 3, 0, {}), training, on_step=on_step)


def test_no_step_is_taken_while_two_targets_are_measured(own_host: None, tmp_path: Path) -> None:
    steps: list[float] = []
    over = threading.Event()
    trainer = threading.Thread(target=train_until, args=(over, steps, tmp_path / "data"))
    trainer.start()
    while len(steps) < 5:
        time.sleep(0.01)
        assert trainer.is_alive()
    command = [sys.executable, "-P", "-c", MEASURE, str(host_lock.PLACE)]
    measurers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [measurer.communicate(timeout=120)[0] for measurer in measurers]
    time.sleep(0.3)
    over.set()
    trainer.join()
    (one_begin, one_end), (two_begin, two_end) = sorted(tuple(map(float, line.split())) for line in said)
    assert one_end <= two_begin  # nor are both measured at once
    assert not [step for step in steps if one_begin <= step <= one_end or two_begin <= step <= two_end]
    assert steps[0] < one_begin
    assert steps[-1] > two_end  # it went on afterwards


@pytest.fixture
def own_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_lock, "PLACE", tmp_path / "host")


def test_a_step_boundary_costs_next_to_nothing(own_host: None) -> None:
    with train_in_turn() as wait:
        begin = time.perf_counter()
        for _ in range(100_000):
            wait()
        each = (time.perf_counter() - begin) / 100_000
    assert each < 20e-6  # a tiny student's step takes 500 µs and more


def test_measuring_goes_on_with_a_warning_where_a_trainer_hangs(own_host: None) -> None:
    said: list[str] = []
    with train_in_turn() as wait:
        wait()
        with measure_alone(said.append, patience_s=0.1):
            pass
    assert "others still use this host" in said[0]
    with measure_alone(said.append, patience_s=0.1):
        pass
    assert len(said) == 1


def test_workers_on_one_candidate_share_the_work(tmp_path: Path) -> None:
    done, results = [], []

    def work() -> int:
        done.append("once")
        time.sleep(0.2)
        return 7

    wanted = lambda: results.append(remember(tmp_path / "candidate.json", ["same"], work))  # noqa: E731
    workers = [threading.Thread(target=wanted) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [7, 7, 7]
    assert done == ["once"]
    assert [p.name for p in tmp_path.iterdir()] == ["candidate.json"]


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


def test_finalists_are_measured_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []

    @contextlib.contextmanager
    def hold(warn: object):  # type: ignore[no-untyped-def]
        held.append("taken")
        yield
        held.append("free")

    monkeypatch.setattr(finals, "measure_alone", hold)
    monkeypatch.setattr(finals, "measuring_inputs", lambda *given: (Path("f/measurements.json"), [1]))
    monkeypatch.setattr(finals, "trained_folder", lambda *given: Path("f"))
    monkeypatch.setattr(finals, "recall", lambda path, inputs: None)
    monkeypatch.setattr(finals, "settle", lambda *given: held.append("measured") or {"a": {}})
    monkeypatch.setattr(finals, "remember", lambda path, inputs, work: work())
    job = SimpleNamespace(show=print, watch=lambda stage: None, precisions=["fp32"])
    finals.measure_finalists(job, {"a": {}}, None, {"cpu": None})  # type: ignore[arg-type, dict-item]
    assert held == ["taken", "measured", "free"]
    monkeypatch.setattr(finals, "recall", lambda path, inputs: {})
    finals.measure_finalists(job, {"a": {}}, None, {"cpu": None})  # type: ignore[arg-type, dict-item]
    assert "taken" not in held[3:]  # what was measured before needs no quiet


FILE = """
data: digits
teacher: digits
students: {space: mlp}
budgets: {best: {target: cpu}}
search: {SEARCH}
"""


def read(folder: Path, search: str) -> Spec:
    (folder / "budgets.yaml").write_text(FILE.replace("SEARCH", search))
    return read_spec(folder / "budgets.yaml")


def test_a_cluster_in_both_forms(tmp_path: Path) -> None:
    short = read(tmp_path, "storage: 'postgresql://u@h/d', engine_cluster: ray").search.engine_cluster
    assert short is not None
    assert (short.kind, short.address, short.workers) == ("ray", "auto", "auto")
    long = "storage: 'grpc://h:1', engine_cluster: {kind: ray, address: 'h:6379', workers: 4}"
    cluster = read(tmp_path, long).search.engine_cluster
    assert cluster is not None
    assert (cluster.address, cluster.workers) == ("h:6379", 4)


@pytest.mark.parametrize(
    ("search", "where", "said"),
    [
        ("engine_cluster: rai", "search.engine_cluster", "must be ray. Got 'rai'. Did you mean 'ray'?"),
        ("engine_cluster: {kind: ray, worker: 4}", "search.engine_cluster.worker", "Did you mean 'workers'?"),
        ("engine_cluster: {kind: ray, workers: 0}", "search.engine_cluster.workers", "must be above 0 or auto. Got 0."),
        ("storage: 'postgresq://u:secret@h/d'", "search.storage", "u:***@h/d'. Did you mean 'postgresql'?"),
        ("storage: 'sqlite:///a.db'", "search.storage", "a journal in the run folder"),
    ],
)
def test_mistakes_about_machines(tmp_path: Path, search: str, where: str, said: str) -> None:
    with pytest.raises(Mistakes) as caught:
        read(tmp_path, search)
    (found,) = caught.value.mistakes
    assert found.where == where
    assert said in found.message


def test_a_cluster_needs_a_storage(tmp_path: Path) -> None:
    spec = read(tmp_path, "engine_cluster: ray")
    with pytest.raises(Mistakes, match=r"search\.engine_cluster: needs search\.storage"):
        build(spec, tmp_path / "run", False, print)


def test_the_runs_copy_of_its_input_holds_no_password(tmp_path: Path) -> None:
    spec = read(tmp_path, "storage: 'postgresql://u:secret@h/d'")
    freeze_input(spec, tmp_path)
    assert "postgresql://u:***@h/d" in (tmp_path / "spec.json").read_text()
    assert "secret" not in (tmp_path / "spec.json").read_text()


def test_the_worker_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    read(tmp_path, "trials: 4")
    assert main(["worker", "--budgets", "budgets.yaml"]) == 2
    assert "search.storage must say where the search is" in capsys.readouterr().err


def test_the_worker_command_where_no_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("grpc", reason="needs the extra [grpc], which `make test-slow` installs")
    monkeypatch.chdir(tmp_path)
    read(tmp_path, "trials: 4")
    monkeypatch.setattr(storages, "CONNECT_S", 1)
    assert main(["worker", "--budgets", "budgets.yaml", "--storage", "grpc://127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert "search.storage cannot be reached at grpc://127.0.0.1:1" in said
    assert "Traceback" not in said
    assert (tmp_path / "runs" / f"{tmp_path.name}-worker").is_dir()


def test_ray_is_not_loaded_unless_asked_for() -> None:
    code = "import sys, family.cluster, family.search; print('ray' in sys.modules, 'grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_without_ray_its_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("family.cluster.importlib.util.find_spec", lambda name: None)
    with pytest.raises(Mistakes, match=r"pip install 'student-family\[ray\]'"):
        connect_to_ray("auto")
