"""A changed file redoes only what it must: steps, measurements and exports counted over small runs on digits.

Timing is made up from the size of the files, so that every run chooses the same; training and exports are real.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmark import Measurement, Target, measure_size
from family.build import build
from family.spec import read_spec

BASE = """
name: reuse
data: {path: digits}
teacher: digits
students: {space: mlp, dims: {width: [8, 48], depth: [1, 2]}}
budgets:
  small: {target: cpu, size_kb: 10}
  best: {target: cpu}
distill: {loss: kd, learning_rate: 0.01, steps: 60, views: 1, control_seeds: 2}
search: {trials: 6, minutes: null, engine: tpe}
export: {precisions: [fp32, int8], guard: false}
"""
SMALL_ALONE = BASE.replace("  best: {target: cpu}\n", "")
TWIN = "targets: {twin: {transport: local}}\n"


class Counts(Counter[str]):
    """What the runs of a test did: `steps`, `shared steps`, `exports`, and timings by target."""

    def take(self) -> dict[str, int]:
        """What was done since the last call; nothing is said of what was not done."""
        done = dict(self)
        self.clear()
        return done


COUNTS = Counts()


class MadeUpBench:
    """Latency by the size of the file; every timing is counted."""

    def __init__(self, target: Target, *_: Any, **__: Any):
        self.target = target

    def __enter__(self) -> "MadeUpBench":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        return {"fingerprint": "here"}

    def ladder(self) -> list[dict[str, Any]]:
        COUNTS[f"ladder {self.target.name}"] += 1
        return []

    def time(self, quantity: str, path: Path) -> Measurement:
        COUNTS[f"timed {self.target.name}"] += 1
        value = path.stat().st_size / 1e6
        return Measurement(
            quantity, value, value * 0.99, value * 1.01, (value,), self.target.name, "made up", "", "here"
        )

    def paired_afresh(self, paths: Sequence[Path]) -> list[Measurement]:
        return [self.time("latency_ms", path) for path in paths]

    def quickly(self, path: Path) -> list[Measurement]:
        return [measure_size(path, self.target), self.time("latency_ms", path)]

    def settle(self, paths: Sequence[Path]) -> list[list[Measurement]]:
        timed = ("latency_ms", "latency_direct_ms", "latency_p95_ms")
        return [
            [
                measure_size(path, self.target),
                *(self.time(q, path) for q in timed),
                *make_up_memory([path], self.target),
            ]
            for path in paths
        ]

    def close(self) -> None:
        pass


def make_up_memory(paths: Sequence[Path], target: Target, feeds: Path | None = None) -> list[Measurement]:
    COUNTS[f"memory {target.name}"] += len(paths)
    return [Measurement("memory_mb", 1.0, 1.0, 1.0, (1.0,), target.name, "made up", "", "here") for _ in paths]


def count_calls(patch: pytest.MonkeyPatch, where: str, what: str, steps_of: Any = lambda *_: 1) -> None:
    module, name = where.rsplit(".", 1)
    real = getattr(__import__(module, fromlist=[name]), name)

    def counted(*given: Any, **named: Any) -> Any:
        COUNTS[what] += steps_of(*given)
        return real(*given, **named)

    patch.setattr(where, counted)


@pytest.fixture(scope="module", autouse=True)
def count(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDENT_FAMILY_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("family.builtin_teacher.STEPS", 60)
        for room in ("candidates", "teacher_cost"):
            patch.setattr(f"family.{room}.Bench", MadeUpBench)
        patch.setattr("family.candidates.open_meter", MadeUpBench)
        patch.setattr("family.candidates.measure_memory", make_up_memory)
        patch.setattr("family.build.draw_report", lambda folder: folder)
        count_calls(patch, "family.train.take_step", "steps")
        count_calls(patch, "family.supernet.run_steps", "shared steps", lambda *given: given[2].steps)
        count_calls(patch, "family.candidates.to_onnx", "exports")
        yield


def run(folder: Path, text: str = BASE) -> dict[str, int]:
    """What the run of this file in this folder did."""
    COUNTS.clear()
    (folder / "budgets.yaml").write_text(text)
    build(read_spec(folder / "budgets.yaml"), folder / "run", False, lambda _: None)
    return COUNTS.take()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, count: None) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    done = run(folder)
    assert done["steps"] == 60 * trained(folder).total()
    assert done["exports"] > 0
    assert done["timed cpu"] > 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, free to be changed."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def trained(folder: Path) -> Counter[str]:
    """Trainings that lie in the run folder, by candidate."""
    return Counter(path.parent.parent.name for path in (folder / "run" / "candidates").glob("*/trained-*/done.json"))


def measured(folder: Path) -> set[str]:
    return set(pd.read_parquet(folder / "run" / "trials.parquet")["id"])


def finalists(folder: Path) -> set[str]:
    records = pd.read_parquet(folder / "run" / "records.parquet")
    return set(records[records["finalist"]]["id"])


def judged(folder: Path) -> set[str]:
    trials = pd.read_parquet(folder / "run" / "trials.parquet")
    return set(trials[trials["state"] == "complete"]["id"])


def family_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "family.json").read_text())


def chosen(folder: Path) -> set[str]:
    return {entry["id"] for entry in family_of(folder)["budgets"].values() if entry["status"] == "kept"}


def check_trained(folder: Path, finished: Path, done: dict[str, int], seeds: int = 2) -> None:
    """A training for each candidate judged for the first time, and pairs for each chosen for the first time."""
    judged_anew, chosen_anew = judged(folder) - judged(finished), chosen(folder) - chosen(finished)
    wanted = Counter(judged_anew) + Counter(dict.fromkeys(chosen_anew, 2 * seeds))
    assert trained(folder) - trained(finished) == wanted
    assert done.get("steps", 0) == 60 * wanted.total()


def test_the_same_file_again_does_nothing(folder: Path, finished: Path) -> None:
    assert run(folder) == {}
    assert family_of(folder) == family_of(finished)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: reuse", "name: another"),
        ("teacher: digits", "teacher: {path: digits, licence: MIT, origin: here}"),
        ("name: reuse", "# a comment\nname: reuse\ndevice: cpu"),
        ("engine: tpe", "engine: tpe, workers: 1"),
        ("minutes: null", "minutes: 90"),
    ],
)
def test_what_changes_no_student_does_nothing(folder: Path, old: str, new: str) -> None:
    assert run(folder, BASE.replace(old, new)) == {}


def test_another_limit_that_the_same_candidates_keep_does_nothing(folder: Path) -> None:
    asked = len(pd.read_parquet(folder / "run" / "trials.parquet"))
    assert run(folder, BASE.replace("size_kb: 10", "size_kb: 10.001")) == {}
    assert family_of(folder)["search"]["known_from_before"] == 6
    assert len(pd.read_parquet(folder / "run" / "trials.parquet")) == asked


def test_a_wider_limit_judges_what_was_pruned_and_fits_now(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    run(before, SMALL_ALONE.replace("size_kb: 10", "size_kb: 6"))
    shutil.copytree(before, after)
    pruned = measured(before) - judged(before)
    assert pruned
    done = run(after, SMALL_ALONE.replace("size_kb: 10", "size_kb: 60"))
    check_trained(after, before, done)
    assert judged(after) - judged(before) <= pruned  # nothing was asked for anew
    assert judged(after) - judged(before)
    assert family_of(after)["search"]["trials"] >= 6
    assert done["timed cpu"] == 2 * 3 * len(finalists(after) - finalists(before))  # as finalists; nobody as a candidate


def test_a_tighter_limit_asks_for_what_is_missing(folder: Path, finished: Path) -> None:
    done = run(folder, SMALL_ALONE.replace("size_kb: 10", "size_kb: 6"))
    check_trained(folder, finished, done)
    assert family_of(folder)["search"]["trials"] == 6
    known = judged(finished) & judged(folder)
    assert known
    assert judged(folder) > known
    assert family_of(folder)["search"]["known_from_before"] == len(known)


def test_a_budget_removed_trains_nothing(folder: Path, finished: Path) -> None:
    done = run(folder, BASE.replace("  small: {target: cpu, size_kb: 10}\n", ""))
    check_trained(folder, finished, done)
    assert not judged(folder) - judged(finished)


def test_a_budget_added_trains_what_it_chooses_and_back_again_nothing(folder: Path, finished: Path) -> None:
    more = BASE.replace("  best:", "  tiny: {target: cpu, size_kb: 7}\n  best:")
    check_trained(folder, finished, run(folder, more))
    assert run(folder) == {}
    assert family_of(folder)["budgets"].keys() == {"small", "best"}
    assert {n: e["id"] for n, e in family_of(folder)["budgets"].items()} == {
        n: e["id"] for n, e in family_of(finished)["budgets"].items()
    }
    assert run(folder, more) == {}


def test_a_limit_on_another_quantity_measures_that_alone(folder: Path, finished: Path) -> None:
    done = run(folder, BASE.replace("size_kb: 10", "size_kb: 10, memory_mb: 5"))
    check_trained(folder, finished, done)
    assert done == {"memory cpu": 2 * len(measured(finished))}


def test_a_first_limit_on_latency_times_what_only_sizes_were_known_of(folder: Path, finished: Path) -> None:
    """Sizes alone are known of candidates until a budget asks for more, whoever told them."""
    done = run(folder, BASE.replace("size_kb: 10", "size_kb: 10, latency_ms: 5"))
    check_trained(folder, finished, done)
    assert done["timed cpu"] == 2 * len(measured(finished))
    assert done.keys() <= {"timed cpu", "ladder cpu"}


def test_another_target_is_measured_there_and_nothing_is_trained(folder: Path, finished: Path) -> None:
    done = run(folder, BASE.replace("  best:", "  other: {target: twin, size_kb: 10}\n  best:") + TWIN)
    assert done.keys() == {"ladder twin", "timed twin", "memory twin"}
    assert not trained(folder) - trained(finished)
    assert family_of(folder)["budgets"]["other"]["status"] == "kept"


def test_guards_measure_the_chosen_files_with_and_without_and_change_no_choice(folder: Path, finished: Path) -> None:
    done = run(folder, BASE.replace("guard: false", "guard: auto"))
    budgets, before = family_of(folder)["budgets"], family_of(finished)["budgets"]
    files = {(entry["id"], entry["precision"]) for entry in budgets.values()}
    assert done == {"timed cpu": 3 * 2 * len(files), "memory cpu": 2 * len(files)}
    for name, entry in budgets.items():
        same = before[name].keys() - {"checks", "limits", "costs"}  # which are of the file that ships
        assert {key: entry[key] for key in same} == {key: before[name][key] for key in same}
        shipped = folder / "run" / entry["student"] / "model.onnx"
        figure = "with" if entry["guard"]["on"] else "without"
        assert entry["guard"]["costs"]["size_kb"][figure] == shipped.stat().st_size / 1e3
    assert run(folder, BASE.replace("guard: false", "guard: auto")) == {}
    assert run(folder) == {}
    assert (folder / "run/students/best/model.onnx").read_bytes() == (
        finished / "run/students/best/model.onnx"
    ).read_bytes()


def test_more_trials_judge_only_the_new_ones(folder: Path, finished: Path) -> None:
    done = run(folder, BASE.replace("trials: 6", "trials: 9"))
    check_trained(folder, finished, done)
    assert judged(finished) < judged(folder)
    trials = pd.read_parquet(folder / "run" / "trials.parquet")
    assert (trials["state"] == "complete").sum() == 9


def test_another_engine_takes_what_is_trained_and_the_judge_it_chose_is_known(folder: Path, finished: Path) -> None:
    done = run(folder, BASE.replace("engine: tpe", "engine: auto"))
    engine = family_of(folder)["search"]["engine"]
    assert engine in ("supernet", "halving")
    recipe = family_of(folder)["recipe"]
    inheriting = sum(recipe[way]["inherits"] > 0 for way in ("student", "control"))
    assert done["shared steps"] == 60 * (2 + 2 * inheriting)  # to compare starts, and of every paired seed
    short = 6 * 20 if engine == "supernet" else 20 * (6 + len(judged(folder)))  # anchors; steps: 20 at least
    assert done["steps"] <= short + 60 * (trained(folder) - trained(finished)).total()
    if engine == "supernet":  # halving by name trains no shared weights to begin from
        assert run(folder, BASE.replace("engine: tpe", "engine: supernet")) == {}
    assert run(folder) == {}


def test_the_compute_of_controls_is_that_of_both_ways_of_every_seed(folder: Path, finished: Path) -> None:
    """Every training takes the same steps here, so each way of each seed takes what the chosen took."""
    told = family_of(finished)["compute"]
    assert told["controls"] == pytest.approx(2 * 2)
    assert told["students"] == 1
    assert told["others"] > 0
    assert told["everything"] == pytest.approx(sum(value for name, value in told.items() if name != "everything"))
    run(folder, BASE.replace("control_seeds: 2", "control_seeds: 3"))
    assert family_of(folder)["compute"]["controls"] == pytest.approx(3 * 2)


def test_one_more_control_seed_trains_that_seed_alone(folder: Path, finished: Path) -> None:
    done = run(folder, BASE.replace("control_seeds: 2", "control_seeds: 3"))
    assert trained(folder) - trained(finished) == Counter(dict.fromkeys(chosen(finished), 2))
    assert done["steps"] == 60 * 2 * len(chosen(finished))
    assert done.keys() == {"steps", "exports"}


def test_a_wider_space_keeps_the_students_it_shares(folder: Path, finished: Path) -> None:
    """Its smallest student is the same, the others are drawn anew."""
    run(folder, BASE.replace("width: [8, 48]", "width: [8, 64]"))
    assert judged(folder) & judged(finished)
    anew = trained(folder) - trained(finished)
    assert anew
    assert not anew.keys() & (judged(finished) - chosen(folder))


def test_a_run_killed_while_it_carries_ends_as_one_that_was_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SMALL_ALONE.replace("size_kb: 10", "size_kb: 8")
    shutil.copytree(folder, tmp_path / "whole")
    run(tmp_path / "whole", text)
    left = [4]

    def die(*given: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*given)

    from family import carry

    real = carry.carry
    with monkeypatch.context() as patch:
        patch.setattr(carry, "carry", die)
        with pytest.raises(KeyboardInterrupt):
            run(folder, text)
    run(folder, text)
    assert family_of(folder) == family_of(tmp_path / "whole")
