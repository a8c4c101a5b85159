"""What measures: exchanged under its name, dying, lost; and what a target's figures depend on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from test_benchmark_profile import fitted
from test_search import FAR_APART, Fakes, fakes, open_job, run, size, task  # noqa: F401  fixtures
from test_text_task import open_rows

from benchmark import WorkerDied, resolve_target, write_profile
from family import deaths, measurers
from family.candidates import measuring_place, opset
from family.cli import main
from family.errors import RunFailed
from family.job import Job, open_target
from family.spec import read_spec
from family.studies import input_id, study_id
from family.tasks import DataTask
from family.types import Training

SMALL = {"width": 8, "depth": 1}
SSH = resolve_target("cpu", {"transport": "ssh", "host": "pi@home"})


@pytest.fixture
def job(tmp_path: Path, task: DataTask) -> Job:  # noqa: F811
    said: list[str] = []
    return dataclasses.replace(open_job(tmp_path, task), show=said.append, targets={"cpu": SSH})


class Machine:
    """A meter that only says what it is."""

    def __init__(self, **facts: Any):
        self._facts = facts

    def facts(self) -> dict[str, Any]:
        return self._facts

    def close(self) -> None:
        pass


def test_a_machine_exchanged_under_its_name_measures_anew(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    job = dataclasses.replace(job, show=said.append)
    keys = []
    for mark, cpu in (("a", "A53"), ("a", "A53"), ("b", "A76"), ("b", "A76")):
        one = Machine(fingerprint=mark, cpu=cpu, temperature_c=40)
        monkeypatch.setattr(measurers, "open_meter", lambda target, one=one: one)
        measurers.meet(job, "cpu")
        recipe = Training("kd", 0.01, 10, 0)
        place = measuring_place(job, SMALL, "cpu", "")
        keys.append(json.dumps([measurers.key_of(job, "cpu"), place[1], study_id(job, recipe, "tpe", ["cpu"])]))
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert said == [
        "note: cpu is not measured by what measured it before (cpu A53 → A76): measured anew",
    ]
    facts = measurers.facts_of(job, "cpu")
    assert facts is not None
    assert facts["fingerprint"] == "b"


def test_the_same_calibration_is_the_same_target_wherever_it_lies(tmp_path: Path) -> None:
    text = "data: digits\nteacher: digits\nstudents: {space: mlp}\nbudgets: {a: {target: pi}}\ntargets: {pi: {profile: pi.json}}\n"
    ids = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "budgets.yaml").write_text(text)
        write_profile(fitted(), tmp_path / name / "pi.json")
        target = open_target(read_spec(tmp_path / name / "budgets.yaml"), "pi")
        assert Path(target.options["profile"]).samefile(tmp_path / name / "pi.json")
        ids.append(target.id)
    assert ids[0] == ids[1]
    assert str(tmp_path) not in ids[0]
    write_profile(fitted(seed=1), tmp_path / "there" / "pi.json")
    assert open_target(read_spec(tmp_path / "there" / "budgets.yaml"), "pi").id != ids[0]


def test_keys_of_ssh_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "{transport: ssh, host: pi, identity: keys/id, known_hosts: ~/known}"
    text = "data: digits\nteacher: digits\nstudents: {space: mlp}\nbudgets: {a: {target: pi}}\n"
    text += f"targets: {{pi: {options}}}\n"
    (tmp_path / "budgets.yaml").write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    target = open_target(read_spec(tmp_path / "budgets.yaml"), "pi")
    assert Path(target.options["identity"]) == tmp_path / "keys" / "id"
    assert Path(target.options["known_hosts"]) == tmp_path / "home" / "known"
    assert str(tmp_path) not in target.id
    assert target.portable.options["host"] == "pi"
    assert target.id != dataclasses.replace(target, options={**target.options, "host": "other"}).id


def test_a_study_is_found_by_the_same_file_in_another_folder(job: Job) -> None:
    elsewhere = dataclasses.replace(SSH, options={**SSH.options, "identity": "/elsewhere/id"})
    assert input_id(dataclasses.replace(job, targets={"cpu": elsewhere})) == input_id(job)


def test_a_measuring_process_that_dies_once_is_asked_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(*given: Any) -> dict[str, Any]:
        asked.append(given)
        if len(asked) < deaths.TRIES:
            raise WorkerDied("gone.")
        return {"costs": {}}

    monkeypatch.setattr(deaths, "measure_untrained", measure)
    assert deaths.try_measuring(job, SMALL, {}) == {"costs": {}}
    assert len(asked) == deaths.TRIES


def test_of_which_candidate_it_dies_or_whether_the_target_is_lost(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*given: Any) -> dict[str, Any]:
        raise WorkerDied("the measuring process was ended by signal 11 during 'pair' of model.onnx.")

    monkeypatch.setattr(deaths, "measure_untrained", die)
    monkeypatch.setattr(deaths, "untrained_graphs", lambda job, params: {"fp32": Path("small.onnx")})
    monkeypatch.setattr(deaths, "measure_quickly", lambda *given: {})
    with pytest.raises(deaths.Unmeasurable, match="signal 11 during 'pair' of model"):
        deaths.try_measuring(job, SMALL, {"cpu": None})
    monkeypatch.setattr(deaths, "measure_quickly", die)
    with pytest.raises(RunFailed, match=r"^Stopped: the measuring process was ended by signal 11.*the same command\.$"):
        deaths.try_measuring(job, SMALL, {"cpu": None})


def test_a_candidate_that_nothing_can_measure_fails_and_the_search_goes_on(
    tmp_path: Path,
    task: DataTask,  # noqa: F811
    fakes: Fakes,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    job = dataclasses.replace(open_job(tmp_path, task, FAR_APART, trials=10), show=said.append)

    def measure(job: Job, params: dict, benches: dict) -> dict:
        if 100 < size(params) < 300:
            raise deaths.Unmeasurable("the measuring process was ended by signal 9")
        return fakes.measure(job, params, benches)

    monkeypatch.setattr("family.search.try_measuring", measure)
    trials = run(job)
    gone = [t for t in trials if t["state"] == "fail"]
    assert gone
    assert {t["unmeasurable"] for t in gone} == {"the measuring process was ended by signal 9"}
    assert sum(t["state"] == "complete" for t in trials) == 10
    assert sum("is left out; the measuring process was ended" in line for line in said) == len(gone)
    asked = len(fakes.measured)
    assert run(job) == trials  # it is over, and nothing is asked again
    assert len(fakes.measured) == asked


def test_a_run_whose_target_is_lost_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def die(*given: Any) -> None:
        raise WorkerDied("pi: home: Connection refused")

    monkeypatch.setattr("family.build.score_teacher", lambda job: None)
    monkeypatch.setattr("family.build.check_runtimes", die)
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "budgets.yaml").write_text(
        "data: digits\nteacher: digits\nstudents: {space: mlp}\nbudgets: {a: {target: cpu}}\n"
    )
    words = ["--budgets", str(tmp_path / "budgets.yaml"), "--run", str(tmp_path / "run"), "--dry-run", "--quiet"]
    assert main(words) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("Stopped: pi: home: Connection refused. What was finished is kept;")
    assert not [line for line in said if "Traceback" in line]


def test_keys_of_images_hold_nothing_of_language(job: Job) -> None:
    assert job.fed_by == ()
    assert measuring_place(job, SMALL, "cpu", "")[1][:4] == [job.built_id, dict(SMALL), job.precisions, opset(job)]


def test_other_texts_of_the_same_shape_are_measured_anew(job: Job, tmp_path: Path) -> None:
    keys = []
    for word in ("ash", "elm"):
        rows = [{"text": f"{word} {i % 7}", "label": "ab"[i % 2]} for i in range(40)]
        folder = tmp_path / word
        folder.mkdir()
        other = dataclasses.replace(job, task=open_rows(folder, rows, vocabularies=(262,), lengths=(8,)))
        keys.append((other.built_id, measuring_place(other, SMALL, "cpu", "")[1]))
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]
