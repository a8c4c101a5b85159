"""What a run says of costs: a dry run that trains not even the teacher, minutes that count preparation, a timed teacher."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import optuna
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from test_reuse import BASE, count  # noqa: F401  timings made up

from family.build import build
from family.search import count_preparation
from family.spec import read_spec
from reports import draw_report

ONE = BASE.replace("  small: {target: cpu, size_kb: 10}\n", "").replace("trials: 6", "trials: 2")


def test_a_dry_run_does_not_train_the_built_in_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("family.builtin_teacher.train_teacher", lambda *_: pytest.fail("trained"))
    (tmp_path / "budgets.yaml").write_text(ONE)
    said: list[str] = []
    outcome = build(read_spec(tmp_path / "budgets.yaml"), tmp_path / "run", True, said.append)
    assert "best fits" in outcome.table
    assert any("the built-in teacher is trained by the first run" in line for line in said)
    assert not list((tmp_path / "cache").rglob("*.pt"))


@pytest.mark.parametrize(("minutes", "counted"), [(None, 100.0), (60, 100.0), (1, 30.0)])
def test_preparation_counts_for_half_of_the_minutes_at_most(minutes: float | None, counted: float) -> None:
    study = optuna.create_study()
    job = SimpleNamespace(spec=SimpleNamespace(search=SimpleNamespace(minutes=minutes)))
    for seconds in (100.0, 5.0):  # a resumed run's engine is ready
        count_preparation(study, job, seconds)  # type: ignore[arg-type]
        assert study.user_attrs["seconds"] == counted


def write_teacher(path: Path) -> None:
    """A linear classifier of digits, as a file that is larger than it need be."""
    images, labels = load_digits(return_X_y=True)
    fitted = LogisticRegression(max_iter=200).fit(images / 16, labels)
    wide = np.eye(64, 512, dtype=np.float32)
    narrow = np.zeros((512, 10), np.float32)
    narrow[:64] = fitted.coef_.T
    nodes = [
        helper.make_node("Flatten", ["picture"], ["flat"]),
        helper.make_node("MatMul", ["flat", "wide"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "narrow", "bias"], ["logits"]),
    ]
    weights = {"wide": wide, "narrow": narrow, "bias": fitted.intercept_.astype(np.float32)}
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_a_teacher_that_is_a_file_is_timed_on_every_target(tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher.onnx")
    (tmp_path / "budgets.yaml").write_text(ONE.replace("teacher: digits", "teacher: teacher.onnx"))
    build(read_spec(tmp_path / "budgets.yaml"), tmp_path / "run", False, lambda _: None)
    family = json.loads((tmp_path / "run" / "family.json").read_text())
    timed = family["teacher"]["cost"]["latency_ms"]["cpu"]
    assert timed["value"] == pytest.approx((tmp_path / "teacher.onnx").stat().st_size / 1e6)
    assert timed["low"] < timed["value"] < timed["high"]
    records = pd.read_parquet(tmp_path / "run" / "records.parquet").set_index("role")
    assert records.loc["teacher", "latency_ms"] == timed["value"]
    assert records.loc["teacher", "target"] == "cpu"
    page = draw_report(tmp_path / "run").read_text()
    assert "times smaller and" in page
    assert "times faster than the teacher" in page
