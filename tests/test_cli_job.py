"""What the command line hands to the main job, how a job's ends are told, and that little is loaded for it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import family.cli
from family.errors import RunFailed, RunInUse, mistake

GOOD = "name: tiny\ndata: digits\nteacher: digits\nstudents: {space: conv}\nbudgets: {best: {target: cpu}}\n"
Built = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "budgets.yaml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> Callable[[Built], list[Any]]:
    """Put `work` in the place of the main job; gives the list of its calls."""

    def put(work: Built) -> list[Any]:
        calls: list[Any] = []

        def build(spec: Any, **options: Any) -> Any:
            calls.append((spec, options))
            return work(spec, **options)

        monkeypatch.setitem(sys.modules, "family.build", SimpleNamespace(build=build))
        return calls

    return put


def finish(code: int = 0) -> Built:
    def work(spec: Any, **options: Any) -> Any:
        options["show"]("busy")
        options["show"]("warning: odd data")
        return SimpleNamespace(exit_code=code, family={"name": spec.name}, run=Path("run"), table="the table")

    return work


def fail(problem: BaseException) -> Built:
    def work(spec: Any, **options: Any) -> Any:
        raise problem

    return work


def test_json_and_quiet(here: Path, building: Any, capsys: pytest.CaptureFixture[str]) -> None:
    building(finish())
    assert family.cli.main(["--budgets", "budgets.yaml", "--json", "--quiet"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"name": "tiny"}
    assert said.err == "warning: odd data\n"


def test_options_reach_the_job(here: Path, building: Any) -> None:
    calls = building(finish())
    arguments = ["--budgets", "budgets.yaml", "--run", "r", "--dry-run", "--workers", "3", "--storage", "sqlite:///x"]
    assert family.cli.main(arguments) == 0
    [(spec, options)] = calls
    assert (options["run"], options["dry_run"]) == (Path("r"), True)
    assert (spec.search.workers, spec.search.storage, spec.search.trials) == (3, "sqlite:///x", 60)


def test_a_mistake_found_later_has_its_line_too(here: Path, building: Any, capsys: pytest.CaptureFixture[str]) -> None:
    building(fail(mistake("students.space", "takes images.")))
    assert family.cli.main(["--budgets", "budgets.yaml"]) == 2
    assert capsys.readouterr().err == "students.space takes images (budgets.yaml, line 4).\n"


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (RunInUse("Another run works here."), 2, "Another run works here.\n"),
        (RunFailed("Stopped: the disk is full."), 1, "Stopped: the disk is full.\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on\n"),
    ],
)
def test_ends_that_are_known(
    here: Path, building: Any, capsys: pytest.CaptureFixture[str], problem: BaseException, code: int, said: str
) -> None:
    building(fail(problem))
    assert family.cli.main(["--budgets", "budgets.yaml"]) == code
    assert capsys.readouterr().err == said
    assert not (here / "build-family.log").exists()


def test_the_log_goes_elsewhere_where_there_is_no_run(here: Path, building: Any) -> None:
    building(fail(ZeroDivisionError("x")))
    assert family.cli.main(["--budgets", "budgets.yaml", "--run", "not-there"]) == 1
    assert "ZeroDivisionError" in (here / "build-family.log").read_text()


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    family.cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {name}" in said for name in family.cli.COMMANDS)
    assert all(f"{code} " in said for code in (0, 1, 2, 3, 130))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["doctor"],
        ["--budgets", "bad.yaml"],
        ["verify", "x"],
        ["schema"],
        ["init", "digits", "--out", "new.yaml"],
    ],
)
def test_no_torch_for_what_needs_none(here: Path, arguments: list[str]) -> None:
    (here / "bad.yaml").write_text("data: x\n")
    code = f"import sys; from family.cli import main; main({arguments!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True).returncode == 0
