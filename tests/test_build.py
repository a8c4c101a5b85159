"""The main job on the built-in data, small: files, resume, changed budgets, missed and skipped budgets."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from export.verify import verify
from family import build as building
from family.build import Outcome, build
from family.errors import Mistakes
from family.spec import read_spec

ROOT = Path(__file__).parent.parent
BASE = """
name: small
data: {path: digits}
teacher: digits
students: {space: mlp, dims: {width: [8, 48], depth: [1, 2]}}
budgets:
BUDGETS
distill: {loss: kd, learning_rate: 0.01, steps: 80, views: 2, control_seeds: 2}
search: {trials: 4, minutes: null}
"""
TWO = "  small: {target: cpu, size_kb: 10}\n  best: {target: cpu}"


def run(folder: Path, budgets: str = TWO, dry_run: bool = False) -> tuple[Outcome, list[str]]:
    said: list[str] = []
    (folder / "budgets.yaml").write_text(BASE.replace("BUDGETS", budgets))
    return build(read_spec(folder / "budgets.yaml"), folder / "run", dry_run, said.append), said


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(cache))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDENT_FAMILY_CACHE", str(cache))
        outcome, _ = run(folder)
    assert outcome.exit_code == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, free to be changed."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def family_of(folder: Path) -> dict:
    return json.loads((folder / "run" / "family.json").read_text())


def test_every_budget_keeps_its_limits_and_has_a_folder_that_verifies(finished: Path) -> None:
    family = family_of(finished)
    assert {e["status"] for e in family["budgets"].values()} == {"kept"}
    for entry in family["budgets"].values():
        assert verify(finished / "run" / entry["student"]) == []
        for figure in entry["limits"].values():
            assert figure["high"] <= figure["limit"]
    for name, entry in family["budgets"].items():
        size = (finished / "run" / "students" / name / "model.onnx").stat().st_size
        assert entry["costs"]["size_kb"]["measured"] == pytest.approx(size / 1000)
    small = family["budgets"]["small"]
    assert small["limits"]["size_kb"]["measured"] == small["costs"]["size_kb"]["measured"]
    download = family["budgets"]["small"]["costs"]["download_kb"]
    manifest = json.loads((finished / "run" / "students" / "small" / "manifest.json").read_text())
    assert (download["measured"], download["provenance"]) == (manifest["download_bytes"] / 1000, "static")
    assert download["measured"] < size / 1000
    assert (finished / "run" / "report" / "index.html").exists()


def test_every_number_can_be_traced_to_a_record(finished: Path) -> None:
    records = pd.read_parquet(finished / "run" / "records.parquet")
    for entry in family_of(finished)["budgets"].values():
        here = records[
            (records["id"] == entry["id"])
            & (records["precision"] == entry["precision"])
            & (records["role"] == "student")
        ]
        assert here["test"].iloc[0] == entry["test"]["value"]
        assert here["size_kb_provenance"].iloc[0] == "static"
        assert here["latency_ms_provenance"].iloc[0] == "measured:host"
        assert here["host"].iloc[0]


def test_numpy_and_onnxruntime_alone_recompute_every_test_score(finished: Path) -> None:
    script = [sys.executable, "-P", str(ROOT / "examples" / "recompute.py"), str(finished / "run")]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal") == 2


def test_the_same_command_again_trains_and_measures_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "run" / "family.json").read_bytes()
    monkeypatch.setattr("family.students.train", lambda *_, **__: pytest.fail("trained again"))
    for timing in ("paired", "paired_afresh", "direct"):
        monkeypatch.setattr(f"benchmark.Bench.{timing}", lambda *_, **__: pytest.fail("measured again"))
    outcome, _ = run(folder)
    assert outcome.exit_code == 0
    assert (folder / "run" / "family.json").read_bytes() == before


def test_a_budget_nothing_can_keep_is_missed_and_says_by_how_much(folder: Path) -> None:
    outcome, _ = run(folder, TWO + "\n  dust: {target: cpu, size_kb: 0.5}")
    entry = outcome.family["budgets"]["dust"]
    assert outcome.exit_code == 3
    assert entry["status"] == "missed"
    assert entry["relax"]["size_kb"] > 0.5
    assert entry["nearest"]["id"]


def test_where_nothing_can_be_kept_the_nearest_is_trained_and_told(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, "  dust: {target: cpu, size_kb: 0.5}")
    entry = outcome.family["budgets"]["dust"]
    assert outcome.exit_code == 3
    assert entry["status"] == "missed"
    assert entry["limits"]["size_kb"]["measured"] == pytest.approx(entry["relax"]["size_kb"])
    assert f"dust: missed, relax size_kb from 0.5 to {entry['relax']['size_kb']:.4g}" in outcome.table
    assert (tmp_path / "run" / "report" / "index.html").exists()


def test_students_whose_file_is_not_what_was_trained_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("family.students.TOLERANCE", -1.0)
    outcome, said = run(tmp_path, "  best: {target: cpu}")
    assert outcome.exit_code == 3
    assert outcome.family["budgets"]["best"]["status"] == "missed"
    assert any("is left out; the file differs from torch by" in line for line in said)


def test_a_limit_on_the_score_alone_gets_the_cheapest_that_reaches_it(folder: Path) -> None:
    outcome, _ = run(folder, TWO + "\n  fair: {target: cpu, score: 0.6, cheapest_by: size_kb}")
    fair, best = (outcome.family["budgets"][name] for name in ("fair", "best"))
    trials = pd.read_parquet(folder / "run" / "trials.parquet")
    assert fair["status"] == "kept"
    assert fair["val"]["low"] >= 0.6
    assert fair["costs"]["size_kb"]["measured"] <= best["costs"]["size_kb"]["measured"]
    assert trials["judge_s"].sum() > 0


def test_untrained_graphs_stood_for_the_finalists(finished: Path) -> None:
    """Real files: the same operators and the same size but for int8's few constants; latencies are told."""
    found = family_of(finished)["untrained"]
    assert found["files"] == found["same_operators"] >= 2
    assert found["size_within"] < 0.01
    assert found["latency"].get("cpu", {"ratio": 1})["ratio"] > 0  # none where the machine was too noisy


@pytest.mark.slow
def test_stored_weights_are_chosen_from_like_any_precision(tmp_path: Path) -> None:
    """Under a limit that fp32 breaks, a file that stores its weights small ships, and flips are counted against fp32."""
    stored = "export: {precisions: [fp32, int8-weights, fp16-weights]}\n"
    space = BASE.replace("width: [8, 48], depth: [1, 2]", "width: 32, depth: 1").replace("trials: 4", "trials: 1")
    (tmp_path / "budgets.yaml").write_text(space.replace("BUDGETS", "  small: {target: cpu, size_kb: 5}") + stored)
    outcome = build(read_spec(tmp_path / "budgets.yaml"), tmp_path / "run", False, lambda _: None)
    entry = outcome.family["budgets"]["small"]
    assert (entry["status"], entry["precision"]) == ("kept", "int8-weights")
    assert verify(tmp_path / "run" / entry["student"]) == []
    assert entry["flips"]["vs_fp32"] <= 0.02 * entry["flips"]["rows"]
    rows = pd.read_parquet(tmp_path / "run" / "records.parquet").query("role == 'student'").set_index("precision")
    assert rows.loc["int8-weights", "size_kb"] < rows.loc["fp16-weights", "size_kb"] < rows.loc["fp32", "size_kb"]
    assert (rows["download_kb"] < 1.05 * rows["size_kb"]).all()


def test_a_target_that_is_not_here_is_skipped_with_a_reason(folder: Path) -> None:
    outcome, said = run(folder, TWO + "\n  pi: {target: cortex-a53, size_kb: 10}")
    assert outcome.exit_code == 3
    assert outcome.family["budgets"]["pi"]["status"] == "skipped"
    assert outcome.family["budgets"]["pi"]["reason"]
    assert any("cortex-a53" in line for line in said)


def test_where_every_target_is_skipped_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "build_family", lambda _: pytest.fail("went on"))
    outcome, _ = run(tmp_path, "  pi: {target: cortex-a53, size_kb: 10}")
    assert outcome.exit_code == 3


def test_a_dry_run_trains_nothing_and_says_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("family.students.train", lambda *_, **__: pytest.fail("trained"))
    outcome, _ = run(tmp_path, "  dust: {target: cpu, size_kb: 0.5}\n  best: {target: cpu}", dry_run=True)
    assert "dust over by" in outcome.table
    assert "best fits" in outcome.table
    assert "forecast" in outcome.table


def test_a_relative_cache_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", "here")
    with pytest.raises(Mistakes, match="absolute"):
        run(tmp_path)
