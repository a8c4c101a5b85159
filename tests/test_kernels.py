"""What int8 files answer on other processors' kernels."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmark import PRESETS, WorkerDied, unavailable
from export import Runner
from family import kernels
from family.job import Job, open_job
from family.kernels import KERNELS, kernels_of
from family.spec import read_spec
from family.students import outputs_of, train_candidate
from family.types import Training
from reports.kernels import show_kernels
from reports.run_tables import Run

FILE = """
data: digits
teacher: digits
students: {space: mlp, dims: {width: [16, 48], depth: [1, 2]}}
budgets: {best: {target: cpu}}
export: {precisions: [fp32, int8]}
"""
STUDENT = {"width": 24, "depth": 2}
LABELS = Training("labels", 0.01, 60, seed=0, views=1)
MISSING = next((why for name in KERNELS if (why := unavailable(PRESETS[name]))), None)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "budgets.yaml").write_text(FILE)
    return open_job(
        read_spec(folder / "budgets.yaml"), folder / "run", folder / "cache", lambda _: None, may_train=False
    )


@pytest.fixture(scope="module")
def trained(job: Job) -> Job:
    train_candidate(job, STUDENT, LABELS)
    return job


def test_fp32_is_the_same_everywhere_and_not_asked(job: Job) -> None:
    assert kernels_of(job, STUDENT, "fp32", LABELS) == {}


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_int8_on_every_kernel_beside_fp32_here(trained: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ROWS", 80)
    found = kernels_of(trained, STUDENT, "int8", LABELS)
    assert list(found) == ["this host", *KERNELS]
    assert all(one["rows"] == 80 and one["flips"] <= 8 and 0 < one["largest"] < 0.3 for one in found.values())
    ours, plain = (outputs_of(trained, STUDENT, LABELS, p, "test")[:80] for p in ("int8", "fp32"))
    assert found["this host"]["flips"] == int((ours.argmax(1) != plain.argmax(1)).sum())
    assert found["cortex-a53"]["largest"] == pytest.approx(found["cortex-a76"]["largest"], abs=0.02)

    def never(*_: object) -> np.ndarray:
        raise AssertionError("asked again")

    monkeypatch.setattr(kernels, "run_on_core", never)
    assert kernels_of(trained, STUDENT, "int8", LABELS) == found


def test_a_kernel_that_cannot_be_emulated_is_told(trained: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "unavailable", lambda target: f"{target.name} is skipped: it needs qemu.")
    found = kernels_of(trained, STUDENT, "int8", LABELS)
    assert {name: one.get("skipped") for name, one in found.items()} == {
        "this host": None,
        **dict.fromkeys(KERNELS, "it needs qemu"),
    }


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_what_failed_once_is_asked_again_and_another_emulator_too(
    trained: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fail(core: str, *_: object) -> np.ndarray:
        asked.append(core)
        raise WorkerDied("the emulator ended with code 139.")

    monkeypatch.setattr(kernels, "ROWS", 9)
    monkeypatch.setattr(kernels, "run_on_core", fail)
    for _ in range(2):
        found = kernels_of(trained, STUDENT, "int8", LABELS)
        assert {found[name]["skipped"] for name in KERNELS} == {"the emulator ended with code 139"}
    assert asked == [*KERNELS, *KERNELS]  # no failure is kept for an answer

    def answer(core: str, model: Path, rows: dict[str, np.ndarray]) -> np.ndarray:
        asked.append(core)
        return Runner(model)(rows)

    monkeypatch.setattr(kernels, "run_on_core", answer)
    for emulator in ("7.2", "7.2", "9.0"):
        monkeypatch.setattr(kernels, "describe_core", lambda core, mark=emulator: {"fingerprint": mark})
        assert all("rows" in one for one in kernels_of(trained, STUDENT, "int8", LABELS).values())
    assert asked[2 * len(KERNELS) :] == [*KERNELS, *KERNELS]  # 7.2 once, 9.0 once


def test_the_report_tells_flips_and_what_was_not_seen() -> None:
    seen = {"what": "AVX2, no VNNI", "rows": 80, "flips": 3, "largest": 0.0213}
    kept = {
        "status": "kept",
        "id": "a",
        "precision": "int8",
        "kernels": {"old-x86": seen, "armv9": {"skipped": "no qemu"}},
    }
    run = make_run({"one": kept, "two": kept, "three": kept | {"precision": "fp32", "kernels": {}}})
    section = show_kernels(run)
    assert section is not None
    table, note = section.blocks
    assert table.frame.to_dict("records") == [
        {
            "Student": "one, two",
            "Ships": "int8",
            "Kernels": "old-x86 (AVX2, no VNNI)",
            "Answers that differ": "3 of 80",
            "Greatest difference": "2.1 %",
        }
    ]
    assert note.text == "armv9: not seen, no qemu."
    assert show_kernels(make_run({"three": kept | {"kernels": {}}})) is None


def make_run(budgets: dict) -> Run:
    run = object.__new__(Run)
    object.__setattr__(run, "family", json.loads(json.dumps({"budgets": budgets})))
    return run


def test_this_host_says_which_instructions_it_has() -> None:
    assert kernels.say_own().split(", ")[-1] in ("VNNI", "no VNNI", "dot product", "no dot product", "i8mm")
