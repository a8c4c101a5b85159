"""The command line: exit codes, one-line reasons, and nothing heavy loaded before it is needed."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import export
import family.build
from family.build import Outcome
from family.cli import LOG, main
from family.errors import RunFailed
from family.spec import schema

ROOT = Path(__file__).parents[1]
GOOD = "data: digits\nteacher: digits\nstudents: {space: conv}\nbudgets: {tiny: {target: cpu, size_kb: 6}}\n"


@pytest.fixture
def budgets(tmp_path, monkeypatch):
    """A good budgets.yaml in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "budgets.yaml").write_text(GOOD)
    return tmp_path / "budgets.yaml"


def replace_build(monkeypatch, build):
    monkeypatch.setattr(family.build, "build", build)


def run(*arguments, folder=ROOT):
    return subprocess.run(
        [sys.executable, "-P", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom family.cli import main\ncode = main(['--help'])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'optuna', 'pandas', 'sklearn', 'numpy', 'pydantic'}\n"
        "print('LOADED', code, sorted(heavy & set(sys.modules)))"
    )
    done = run("-c", code)
    assert done.stdout.splitlines()[-1] == "LOADED 0 []"
    for word in ("--budgets", "--dry-run", "init", "doctor", "report", "verify", "exit codes", "130"):
        assert word in done.stdout


def test_mistakes_load_no_torch(tmp_path):
    (tmp_path / "b.yaml").write_text(GOOD + "sed: 1\n")
    code = (
        "import sys\nfrom family.cli import main\ncode = main(['--budgets', 'b.yaml'])\n"
        "print(code, sorted({'torch', 'onnx', 'optuna'} & set(sys.modules)))"
    )
    assert run("-c", code, folder=tmp_path).stdout == "2 []\n"


@pytest.mark.parametrize("command", ["init", "doctor", "report", "verify", "schema"])
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: build-family {command}" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("student-family ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--budgets"),
        (["--budgets", "b.yaml", "--workers", "0"], "must be a whole number of at least 1. Got '0'"),
        (["--budgets", "b.yaml", "--dry"], "There is no file b.yaml"),
        (["budgets.yaml"], "Say build-family --budgets budgets.yaml"),
        (["docter"], "Did you mean 'doctor'?"),
        (["--budgets", "b.yaml", "--nonsense"], "--nonsense"),
        (["report"], "RUN"),
        (["verify"], "STUDENT"),
    ],
)
def test_wrong_arguments_exit_2(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    caught = capsys.readouterr()
    assert said in caught.err
    assert caught.out == ""


def test_mistakes_exit_2_on_stderr_with_their_lines(budgets, capsys):
    budgets.write_text(GOOD.replace("conv", "konv") + "sed: 1\n")
    assert main(["--budgets", "budgets.yaml"]) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    space, key = caught.err.splitlines()
    assert space.startswith("students.space must be ")
    assert space.endswith("Did you mean 'conv'? (budgets.yaml, line 3)")
    assert key.endswith("Did you mean 'seed'? (budgets.yaml, line 5)")
    assert not (budgets.parent / "runs").exists()


def test_mistakes_as_json(budgets, capsys):
    budgets.write_text(GOOD + "sed: 1\n")
    assert main(["--budgets", "budgets.yaml", "--json"]) == 2
    (one,) = json.loads(capsys.readouterr().out)["mistakes"]
    assert (one["where"], one["file"], one["line"]) == ("sed", "budgets.yaml", 5)


@pytest.mark.parametrize("code", [0, 3])
def test_what_a_run_ends_with_is_printed_and_its_code_returned(budgets, code, monkeypatch, capsys):
    asked = {}

    def build(spec, run, dry_run, show, **_):
        asked.update(spec=spec, run=run, dry_run=dry_run)
        show("working")
        show("warning: few rows")
        return Outcome(code, {"format": 1}, Path("r"), "the table")

    replace_build(monkeypatch, build)
    assert main(["--budgets", "budgets.yaml", "--run", "r", "--dry-run", "--workers", "2"]) == code
    caught = capsys.readouterr()
    assert caught.out == "the table\n"
    assert caught.err == "working\nwarning: few rows\n"
    assert (asked["run"], asked["dry_run"], asked["spec"].search.workers) == (Path("r"), True, 2)
    assert main(["--budgets", "budgets.yaml", "--json", "--quiet"]) == code
    caught = capsys.readouterr()
    assert json.loads(caught.out) == {"format": 1}
    assert caught.err == "warning: few rows\n"


def test_stopped_by_the_user(budgets, monkeypatch, capsys):
    def build(spec, run, dry_run, show, **_):
        raise KeyboardInterrupt

    replace_build(monkeypatch, build)
    assert main(["--budgets", "budgets.yaml"]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on\n"


@pytest.mark.parametrize("run_exists", [True, False])
def test_a_failure_of_ours_is_one_line_and_a_log(budgets, run_exists, monkeypatch, capsys):
    def build(spec, run, dry_run, show, **_):
        raise ZeroDivisionError("no rows\nmore about it")

    replace_build(monkeypatch, build)
    home = budgets.parent
    if run_exists:
        home = Path("r")
        home.mkdir()
    assert main(["--budgets", "budgets.yaml", "--run", "r"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"Failed: ZeroDivisionError: no rows. Details: {home / LOG}"
    log = (home / LOG).read_text()
    assert "Traceback" in log
    assert "more about it" in log


def test_a_run_that_cannot_go_on_leaves_no_log(budgets, monkeypatch, capsys):
    def build(spec, run, dry_run, show, **_):
        raise RunFailed("Stopped: the disk is full.")

    replace_build(monkeypatch, build)
    assert main(["--budgets", "budgets.yaml"]) == 1
    assert capsys.readouterr().err == "Stopped: the disk is full.\n"
    assert not (budgets.parent / LOG).exists()


def test_a_run_folder_that_cannot_be_written(budgets, capsys):
    (budgets.parent / "file").write_text("in the way")
    assert main(["--budgets", "budgets.yaml", "--run", "file/run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"The run folder {budgets.parent / 'file/run'} cannot be written (Not a directory). Choose another with --run."
    )


def test_two_runs_in_one_folder(budgets, capsys):
    run = budgets.parent / "r"
    run.mkdir()
    with (run / ".lock").open("w") as held:
        held.write("4711")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["--budgets", "budgets.yaml", "--run", "r"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Another run works in {run} (process 4711). Wait for it")
    assert not (run / "spec.json").exists()


def test_report_on_a_folder_that_is_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "flowers").mkdir(parents=True)
    (tmp_path / "runs" / "flowers" / "family.json").write_text("{}")
    assert main(["report", "runs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "runs holds no family.json and no records.parquet, so it is no finished run. Finished runs: runs/flowers."
    )
    assert main(["report", "nowhere"]) == 2
    assert "nowhere holds no family.json" in capsys.readouterr().err


def test_verify_an_absent_folder(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"There is no folder {tmp_path / 'none'}")


def test_verify_a_folder_that_is_no_student(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    caught = capsys.readouterr()
    assert "manifest.json" in caught.err
    assert caught.out == ""


def test_verify_a_student_folder_whole_and_tampered(tmp_path, capsys):
    folder = write_student(tmp_path)
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: good\n"
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    assert main(["verify", str(folder)]) == 2
    caught = capsys.readouterr()
    assert "model.onnx" in caught.err
    assert caught.out == ""


def write_student(folder: Path) -> Path:
    """A student folder as a run writes it."""
    front = export.TableFront((1.0, 2.0), (1.0, 3.0), (), ())
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    export.to_onnx(module, export.body_signature(front, 3, "logits"), folder / "body.onnx")
    artifact = export.merge_front(folder / "body.onnx", front, folder / "shipped.onnx")
    facts = {"name": "x", "kind": "classification", "classes": ["a", "b", "c"], "preprocessing": front}
    golden = {"numbers": np.array([[0.5, 1.0], [2.0, 4.0]], np.float32)}
    facts["teacher"] = {"licence": None, "origin": None}
    return export.write_student(folder / "watch", artifact, facts, golden, "# A card\n")


def test_schema(tmp_path, capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    assert main(["schema", "--out", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == schema()
    assert main(["schema", "--out", str(tmp_path / "no" / "s.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_init_writes_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "digits"]) == 0
    before = (tmp_path / "budgets.yaml").read_text()
    (tmp_path / "budgets.yaml").write_text("mine")
    assert main(["init", "digits"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "budgets.yaml is there already" in line
    assert (tmp_path / "budgets.yaml").read_text() == "mine"
    assert main(["init", "digits", "--force"]) == 0
    assert (tmp_path / "budgets.yaml").read_text() == before


def test_module_and_command_are_one():
    assert run("-m", "family", "--version").stdout.startswith("student-family ")
