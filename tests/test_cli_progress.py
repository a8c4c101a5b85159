"""What the command line says while a run works, and a dry run as data."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import family.build
from family.build import Outcome
from family.cli import main, read_forecast
from family.forecast import duration, fitted
from family.progress import Progress, spell
from family.spec import read_spec

GOOD = "data: digits\nteacher: digits\nstudents: {space: conv}\nbudgets:\n"
TABLE = (
    "smallest student (width 4, depth 1): tiny over by 3437%, a b fits, pi skipped\n"
    "forecast: about 4 minutes (42 trainings of 300 steps at 20.6 ms)\n"
    "something new"
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_say_what_a_silence_is_for() -> None:
    out = io.StringIO()
    with Progress(out, trials=6, minutes=None, dry_run=False) as show:
        show("note: task: images")
        show("teacher: val accuracy 0.94")
        show("bake-off: kd (val 0.9)")
        show("trial 0: width 4  val 0.9000  0.2")
    assert out.getvalue().splitlines() == [
        "note: task: images",
        "teacher: val accuracy 0.94",
        "now: asking the teacher; then learning rate, loss or the first trial",
        "bake-off: kd (val 0.9)",
        "now: search",
        "trial 0: width 4  val 0.9000  0.2",
    ]


def test_trials_done_and_time_left() -> None:
    clock = Clock()
    show = Progress(io.StringIO(), trials=6, minutes=None, dry_run=False, clock=clock)
    show("bake-off: kd (val 0.9)")
    assert "search left" not in show.status()
    for now, line in ((30, "trial 0: a  val 0.9"), (40, "trial 1: a  diverged"), (60, "trial 2: a  val 0.8")):
        clock.now = now
        show(line)
    assert show.status() == (
        "now: search · 1:00 · 2 trials trained here, 6 wanted in all · at most about 2:00 of search left"
    )


def test_time_left_where_no_bake_off_came_first_and_within_the_minutes() -> None:
    clock = Clock()
    show = Progress(io.StringIO(), trials=100, minutes=1, dry_run=False, clock=clock)
    show("learning rate for kd: 0.01 (10 short runs)")
    clock.now = 20.0
    show("trial 0: a  val 0.9")
    assert show.seconds_left() == 40


def test_a_terminal_gets_one_line_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = Terminal()
    with Progress(out, trials=6, minutes=None, dry_run=False) as show:
        show("bake-off: kd (val 0.9)")
    assert not show.drawing.is_alive()
    drawn = out.getvalue().split("\r\x1b[K")
    assert drawn[1] == "bake-off: kd (val 0.9)\n"
    assert drawn[2].startswith("now: search")
    assert all(len(each) < 30 for each in drawn)
    assert drawn[-1] == ""


def test_spell() -> None:
    assert [spell(s) for s in (7.9, 187, 3723)] == ["0:07", "3:07", "1:02:03"]


def test_a_dry_run_as_data() -> None:
    told = read_forecast(TABLE)
    budgets = {"tiny": {"status": "over", "over": 34.37}, "a b": {"status": "fits"}, "pi": {"status": "skipped"}}
    assert told["students"] == {"smallest": {"params": "width 4, depth 1", "budgets": budgets}}
    assert told["forecast"] == {"minutes": 4, "trainings": 42, "steps": 300, "step_ms": 20.6}
    assert told["notes"] == ["something new"]


def test_every_line_of_a_real_fit_is_read(tmp_path: Path) -> None:
    """The forecast's own words, so that they cannot drift from what is read here; so does the next test."""
    budgets = "  a: {target: cpu, size_kb: 2}\n  b: {target: cpu}\n  c: {target: node, size_kb: 9}\n"
    (tmp_path / "b.yaml").write_text(GOOD + budgets)
    job = SimpleNamespace(spec=read_spec(tmp_path / "b.yaml"))
    line = fitted(job, {"cpu": {"fp32": {"size_kb": {"value": 3.0}}}})  # type: ignore[arg-type]
    told = read_forecast(f"middle student (x): {line}")
    assert told["students"]["middle"]["budgets"] == {
        "a": {"status": "over", "over": 0.5},
        "b": {"status": "fits"},
        "c": {"status": "skipped"},
    }


def test_a_real_duration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.yaml").write_text(GOOD + "  best: {target: cpu}\ndistill: {steps: 50}\nsearch: {trials: 5}\n")
    job = SimpleNamespace(spec=read_spec(tmp_path / "b.yaml"), space=None, task=None)
    nothing = SimpleNamespace(build_student=lambda *_: None, middle=lambda _: {})
    monkeypatch.setattr("family.forecast.spaces", nothing)
    told = read_forecast(duration(job, measuring=60.0, step=0.0205))  # type: ignore[arg-type]
    assert told["notes"] == []
    assert (told["forecast"]["steps"], told["forecast"]["step_ms"]) == (50, 20.5)


def test_dry_run_prints_the_forecast_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_text(GOOD + "  best: {target: cpu}\n")
    monkeypatch.setattr(family.build, "build", lambda *_, **__: Outcome(0, {}, tmp_path, TABLE))
    assert main(["--budgets", "b.yaml", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forecast"]["minutes"] == 4


def test_without_arguments_the_first_steps_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "--dry-run" in said
    assert "build-family init" in said


def test_a_run_folder_given_to_verify_names_its_students(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "students" / "best").mkdir(parents=True)
    (tmp_path / "students" / "best" / "manifest.json").touch()
    assert main(["verify", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(f"Students here: {tmp_path / 'students' / 'best'}.\n")
