"""A paired seed whose file is not what was trained is left out of its comparison, and the run goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_reuse import BASE, count  # noqa: F401  timings made up

from family import students
from family.build import build
from family.spec import read_spec
from reports import draw_report

ONE_SEED = BASE.replace("  small: {target: cpu, size_kb: 10}\n", "").replace("trials: 6", "trials: 2")


def run(folder: Path, text: str, patch: pytest.MonkeyPatch, unfaithful: set[int]) -> tuple[dict[str, Any], list[str]]:
    """The budget's entry in family.json, and what was said; `unfaithful`: seeds whose files are not faithful."""
    real, said = students.export_trained, list[str]()

    def export(job: Any, params: Any, training: Any) -> Any:
        if training.seed in unfaithful and training.loss == "labels":
            raise students.Unfaithful("the file differs from torch by 9")
        return real(job, params, training)

    patch.setattr("family.students.export_trained", export)
    (folder / "budgets.yaml").write_text(text)
    outcome = build(read_spec(folder / "budgets.yaml"), folder / "run", False, said.append)
    assert "best" in outcome.table
    return json.loads((folder / "run" / "family.json").read_text()), said


def test_the_verdict_comes_from_the_seeds_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ONE_SEED.replace("control_seeds: 2", "control_seeds: 3")
    family, said = run(tmp_path, text, monkeypatch, {1001})
    best = family["budgets"]["best"]
    assert best["seeds"] == [1000, 1002]
    assert best["control"]["left_out_seeds"] == [1001]
    assert best["control"]["verdict"] != "no verdict"
    line = f"seed 1001 of student {best['id']} is left out of its comparison"
    assert any(line in one and "of the control the file differs from torch by 9" in one for one in said)
    assert any("Seed 1001 of student" in warning for warning in family["warnings"])


@pytest.mark.parametrize(("unfaithful", "left"), [({1000}, [1001]), ({1000, 1001}, [])])
def test_too_few_pairs_give_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unfaithful: set[int], left: list[int]
) -> None:
    family, _ = run(tmp_path, ONE_SEED, monkeypatch, unfaithful)
    best = family["budgets"]["best"]
    assert best["status"] == "kept"
    assert best["seeds"] == left
    assert best["control"]["verdict"] == "no verdict"
    assert bool(best["control"]["difference"]) == bool(left)
    assert (tmp_path / "run" / "students" / "best" / "MODEL_CARD.md").exists()


def test_a_report_says_that_there_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, ONE_SEED, monkeypatch, {1000, 1001})
    page = draw_report(tmp_path / "run").read_text()
    assert "not compared with labels alone, for too few paired seeds could be" in page
