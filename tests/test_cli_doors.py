"""`file.py:function`: loaded by its place, its neighbours found, its faults told with the user's own line."""

import subprocess
import sys
from pathlib import Path

import pytest

import export
from family.doors import load
from family.errors import Mistakes


@pytest.fixture(autouse=True)
def _same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


def project(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def complain(reference: str, folder: Path) -> str:
    with pytest.raises(Mistakes) as caught:
        load(reference, folder, "teacher.path")
    [one] = caught.value.mistakes
    assert one.where == "teacher.path"
    assert "\n" not in one.message
    return one.message


def test_a_function_finds_its_neighbours_also_late(tmp_path: Path) -> None:
    project(tmp_path / "a", near_one="value = 3\n", late_one="value = 4\n")
    project(
        tmp_path / "a",
        main="import near_one\ndef make():\n    import late_one\n    return near_one.value + late_one.value\n",
    )
    assert load("a/main.py:make", tmp_path, "x")() == 7
    assert sys.path[-1] == str((tmp_path / "a").resolve())


def test_a_file_runs_once(tmp_path: Path) -> None:
    project(
        tmp_path,
        once="import pathlib\nwith open(__file__ + '.log', 'a') as f: f.write('x')\ndef a(): ...\ndef b(): ...\n",
    )
    load("once.py:a", tmp_path, "x")
    load("once.py:b", tmp_path, "x")
    assert (tmp_path / "once.py.log").read_text() == "x"


def test_users_modules_named_like_ours_break_neither_side(tmp_path: Path) -> None:
    project(tmp_path, export="kind = 'the user\\'s'\n", main2="import export\ndef make(): return export.kind\n")
    assert load("main2.py:make", tmp_path, "x")() == "the user's"
    assert sys.modules["export"] is export
    assert hasattr(sys.modules["export"], "Signature")


def test_two_projects_may_have_a_module_of_one_name(tmp_path: Path) -> None:
    for name in ("p", "q"):
        project(
            tmp_path / name,
            network_of=f"name = '{name}'\n",
            factory="import network_of\ndef make(): return network_of.name\n",
        )
    assert load("p/factory.py:make", tmp_path, "x")() == "p"
    assert load("q/factory.py:make", tmp_path, "x")() == "q"


def test_no_such_file_and_no_such_function(tmp_path: Path) -> None:
    project(tmp_path, teachers="import math\ndef make_teacher(): ...\nSIZE = 3\n")
    assert "names the file teacher.py, which is not there (looked for" in complain("teacher.py:f", tmp_path)
    assert "Did you mean 'teachers.py'?" in complain("teacher.py:f", tmp_path)
    said = complain("teachers.py:make_teachr", tmp_path)
    assert said.startswith("names 'make_teachr', which teachers.py does not have. It has make_teacher.")
    assert said.endswith("Did you mean 'make_teacher'?")
    assert complain("teachers.py:SIZE", tmp_path) == "must name a function. teachers.py:SIZE is of type int."
    assert complain("teachers.py", tmp_path).startswith("must be path/file.py:function. Got 'teachers.py'.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "x = 1\nimport nowhere_to_be_found\n",
            "ModuleNotFoundError: No module named 'nowhere_to_be_found' (bad.py, line 2).",
        ),
        ("def f(:\n", "SyntaxError: invalid syntax (bad.py, line 1)."),
        ("\n\nraise ValueError('first\\nsecond')\n", "ValueError: first (bad.py, line 3)."),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (bad.py, line 2)."),
        ("import bad_neighbour\n", "ZeroDivisionError: division by zero (bad_neighbour.py, line 2)."),
    ],
)
def test_a_file_that_fails(tmp_path: Path, text: str, said: str) -> None:
    project(tmp_path, bad=text, bad_neighbour="\n1 / 0\n")
    assert complain("bad.py:f", tmp_path) == f"cannot be loaded: {said}"
    project(tmp_path, bad="def f(): return 5\n")  # mended, in the same process
    assert load("bad.py:f", tmp_path, "x")() == 5


def test_a_fresh_process_loads_ours_before_the_users_folder(tmp_path: Path) -> None:
    project(tmp_path, benchmark="raise RuntimeError('the wrong one')\n", mine="def make(): return 1\n")
    code = (
        "import sys; from pathlib import Path; from family.doors import load;"
        f"assert load('mine.py:make', Path({str(tmp_path)!r}), 'x')() == 1; import benchmark; benchmark.Target"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
