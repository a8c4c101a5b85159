"""What the command line says while a run works, and a dry run as data."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import family.build
from family.build import Outcome
from family.cli import main
from family.engines import ENGINES
from family.forecast import fit_budgets, forecast_time, say_forecast
from family.progress import Progress, Stage, spell
from family.spec import read_spec

GOOD = "data: digits\nteacher: digits\nstudents: {space: conv}\nbudgets:\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_say_each_new_stage_once() -> None:
    out = io.StringIO()
    with Progress(out) as show:
        show("note: task: images")
        for done in range(3):
            show.watch(Stage("search", done, 3))
        show("trial 0: width 4  val 0.9000")
    assert out.getvalue().splitlines() == ["note: task: images", "now: search", "trial 0: width 4  val 0.9000"]


def test_the_status_says_how_far_and_how_long() -> None:
    clock = Clock()
    show = Progress(io.StringIO(), clock=clock)
    show.watch(Stage("search", 0, 6))
    clock.now = 60
    assert show.status() == "now: search · 1:00 · 0 of 6"
    show.watch(Stage("search", 2, 6, 120.0, {"tiny": 0.9, "best": 0.95}))
    assert show.status() == ("now: search · 1:00 · 2 of 6 · at most about 2:00 left · best val: tiny 0.900, best 0.950")
    show.watch(Stage("search", 2, 6, None, {"best": 0.95}, about=True))
    assert show.status().endswith("best val about: best 0.950")


def test_a_terminal_gets_one_line_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = Terminal()
    with Progress(out) as show:
        show.watch(Stage("search"))
        show("bake-off: kd (val 0.9)")
    assert not show.drawing.is_alive()
    drawn = out.getvalue().split("\r\x1b[K")
    assert drawn[1].startswith("now: search")
    assert drawn[2] == "bake-off: kd (val 0.9)\n"
    assert all(len(each) < 30 for each in drawn)
    assert drawn[-1] == ""


def test_spell() -> None:
    assert [spell(s) for s in (7.9, 187, 3723)] == ["0:07", "3:07", "1:02:03"]


TOLD = {
    "students": {
        "smallest": {
            "params": {"width": 4, "depth": 1},
            "budgets": {
                "tiny": {"status": "over", "over": 34.4},
                "far": {"status": "over", "over": 0.4},
                "a b": {"status": "fits"},
                "pi": {"status": "skipped"},
            },
        }
    },
    "forecast": {
        "engine": "auto",
        "minutes": 3.6,
        "minutes_at_most": 6.2,
        "trainings": 42,
        "steps": 300,
        "step_ms": 20.61,
    },
}


def test_a_forecast_in_words() -> None:
    assert say_forecast(TOLD).splitlines() == [
        "smallest student (width 4, depth 1): tiny over by 35 times the limit, far over by 40%, a b fits, pi skipped",
        "warning: none of these fits tiny; the nearest is over by 35 times the limit",
        "warning: none of these fits far; the nearest is over by 40%",
        "forecast: about 4 minutes, up to 6 if shared weights do not rank well here (as much as 42 trainings of "
        "300 steps at 20.6 ms; candidates judged by shared weights)",
    ]


def test_fits_are_of_the_nearest_precision(tmp_path: Path) -> None:
    budgets = "  a: {target: cpu, size_kb: 2}\n  b: {target: cpu}\n  c: {target: node, size_kb: 9}\n"
    (tmp_path / "b.yaml").write_text(GOOD + budgets)
    job = SimpleNamespace(spec=read_spec(tmp_path / "b.yaml"))
    costs = {"cpu": {"fp32": {"size_kb": {"value": 8.0}}, "int8": {"size_kb": {"value": 3.0}}}}
    assert fit_budgets(job, costs) == {  # type: ignore[arg-type]
        "a": {"status": "over", "over": 0.5},
        "b": {"status": "fits"},
        "c": {"status": "skipped"},
    }


def test_the_minutes_of_the_search_bound_its_forecast(tmp_path: Path) -> None:
    text = GOOD + "  best: {target: cpu}\ndistill: {steps: 50}\nsearch: {trials: 500, minutes: MINUTES}\n"
    found = []
    for minutes in ("null", "2"):
        (tmp_path / "b.yaml").write_text(text.replace("MINUTES", minutes))
        job = SimpleNamespace(spec=read_spec(tmp_path / "b.yaml"), task=SimpleNamespace(kind="classification"))
        found.append(forecast_time(job, "tpe", measuring=1.0, step=0.1)["minutes"])  # type: ignore[arg-type]
    # 500 candidates of 50 steps and twice a second; 20 / 3 trainings for rates, 8 for losses, 6 for controls
    assert found == [pytest.approx(58.3 + 1.7, abs=0.11), pytest.approx(2 + 1.7, abs=0.11)]


def test_the_forecast_knows_what_each_engine_trains(tmp_path: Path) -> None:
    text = GOOD + "  best: {target: cpu}\ndistill: {steps: 600, loss: kd, learning_rate: 0.01, control_seeds: 1}\n"
    (tmp_path / "b.yaml").write_text(text + "search: {trials: 40, minutes: null}\n")
    job = SimpleNamespace(spec=read_spec(tmp_path / "b.yaml"), task=SimpleNamespace(kind="classification"))
    told = {e: forecast_time(job, e, measuring=0.0, step=0.1) for e in ENGINES}  # type: ignore[arg-type]
    minutes = {engine: one["minutes"] for engine, one in told.items()}  # a full training takes one
    starts = 2 * (2 + 1.5 * 2)  # of both ways: two students, shared weights for them and for the paired seed
    assert minutes == {
        "tpe": 40 + 2,
        "halving": 40 / 4 + 2 + 2,
        "supernet": 1.5 + 2 + 2 + starts,
        "auto": 1.5 + 6 / 4 + 2 + 2 + starts,
    }
    assert told["auto"]["minutes_at_most"] == 1.5 + 1.5 + 10 + 2 + 2 + starts
    assert told["halving"]["minutes_at_most"] == told["halving"]["minutes"]


def test_dry_run_prints_the_forecast_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_text(GOOD + "  best: {target: cpu}\n")
    monkeypatch.setattr(family.build, "build", lambda *_, **__: Outcome(0, TOLD, tmp_path, "words"))
    assert main(["--budgets", "b.yaml", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == TOLD


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
