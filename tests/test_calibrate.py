"""What `build-family calibrate` refuses before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from family import calibrate
from family.cli import main

FILE = """
data: digits
teacher: digits
students: {space: mlp, dims: {width: [8, 9], depth: 1}}
budgets: {best: {target: cpu}}
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that is right but for what a test adds; measuring fails the test."""

    def never(*_: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(calibrate, "measure_there", never)
    monkeypatch.setattr(calibrate, "unavailable", lambda target: None)
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "budgets.yaml").write_text(FILE)
    right = ["--budgets", str(tmp_path / "budgets.yaml"), "--target", "cpu", "--core", "cortex-a53"]
    return ["calibrate", *right, "--out", str(tmp_path / "cpu.json"), "--run", str(tmp_path / "run")]


def test_too_few_students_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--students", "7"]) == 2
    assert "--students must be at least 8, or how far the profile errs is not known. Got 7" in capsys.readouterr().err


def test_a_space_of_too_few_students_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "students.dims has 2 students alone; a profile needs at least 8" in capsys.readouterr().err


def test_a_profile_is_not_written_over(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cpu.json").write_text("hours of work")
    assert main(words) == 2
    assert "--out is there already; name another file or remove it. Got" in capsys.readouterr().err
    assert (tmp_path / "cpu.json").read_text() == "hours of work"
    (tmp_path / "cpu.json").unlink()
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert "--out is there already" in capsys.readouterr().err


def test_a_profile_needs_a_place(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path / "none" / "cpu.json"), "--students", "2"]) == 2
    said = capsys.readouterr().err
    assert "--out must lie in a folder that is there. Got" in said
    assert "--students must be at least 8" in said  # all at once
    monkeypatch.setattr(calibrate.os, "access", lambda *_: False)
    assert main(words) == 2
    assert "--out must lie in a folder that you may write to. Got" in capsys.readouterr().err
