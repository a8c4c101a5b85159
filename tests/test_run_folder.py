"""Done means written: beside, renamed, found again by the hash of its inputs; disk trouble is said in one line."""

import errno
from pathlib import Path

import pytest

from family.errors import RunFailed, RunInUse
from family.run_folder import explain_disk_trouble, hold_run, remember, write_beside


def test_work_is_done_once_for_the_same_inputs_and_again_for_others(tmp_path: Path) -> None:
    calls = []

    def work() -> int:
        calls.append(1)
        return len(calls)

    path = tmp_path / "step.json"
    assert [remember(path, "a", work), remember(path, "a", work), remember(path, "b", work)] == [1, 1, 2]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_beside(path, lambda beside: beside.write_text("old"))

    def fail(beside: Path) -> None:
        beside.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_beside(path, fail)
    assert path.read_text() == "old"


def test_a_second_process_is_told_and_leaves(tmp_path: Path) -> None:
    with (
        hold_run(tmp_path / "run"),
        pytest.raises(RunInUse, match="Another run works in"),
        hold_run(tmp_path / "run"),
    ):
        pass


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    def fill() -> None:
        with explain_disk_trouble(tmp_path), Path("/dev/full").open("w") as full:
            full.write("x" * 10)

    with pytest.raises(RunFailed, match="the disk is full"):
        fill()


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), explain_disk_trouble(tmp_path):
        (tmp_path / "nothing").read_text()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="cannot be written"), hold_run(tmp_path / "file" / "run"):
        pass
