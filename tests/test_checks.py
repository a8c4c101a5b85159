"""What a run does with static checks: a target whose runtime lacks something is told first; the chosen carry theirs."""

import json
from pathlib import Path

import jsonschema
import onnx
import pytest
from test_reuse import BASE, count  # noqa: F401  timings made up, no report drawn

import export
from export import Runner
from export.verify import verify
from family import checks
from family.build import build
from family.errors import Mistakes
from family.spec import read_spec

ONE = BASE.replace("  small: {target: cpu, size_kb: 10}\n", "").replace("trials: 6", "trials: 2")
OLD = (
    "onnxruntime cannot run /tmp/x.onnx: [ONNXRuntimeError] : 1 : FAIL : Load model from /tmp/x.onnx failed: "
    "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions. Opset 18 is "
    "under development and support for this is limited. Current official support for domain ai.onnx is till opset 15."
)
SCHEMA = json.loads((Path(export.__file__).parent / "manifest.schema.json").read_text())


def run(folder: Path, text: str = ONE) -> dict:
    (folder / "budgets.yaml").write_text(text)
    return dict(build(read_spec(folder / "budgets.yaml"), folder / "run", False, lambda _: None).family)


def test_a_runtime_that_is_too_old_is_told_before_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "why_refused", lambda *_: OLD)
    monkeypatch.setattr("family.students.train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(Mistakes) as told:
        run(tmp_path)
    (mistake,) = told.value.mistakes
    assert mistake.where == "targets.cpu"
    assert mistake.message == (
        "its onnxruntime does not run the students: its opset 18 is newer than 15, the newest it knows. "
        "Install a newer one there, or leave the target out."
    )


def test_a_runtime_that_takes_the_students_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    monkeypatch.setattr(checks, "why_refused", lambda *_: pytest.fail("asked again"))
    run(tmp_path)


def test_the_chosen_carry_their_checks_and_the_files_of_mobile_builds(tmp_path: Path) -> None:
    entry = run(tmp_path)["budgets"]["best"]
    folder = tmp_path / "run" / entry["student"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert verify(folder) == []
    jsonschema.validate(manifest, SCHEMA)
    assert manifest["checks"] == entry["checks"]
    assert entry["checks"]["targets"] == {"cpu": {"runs": True, "falls_back": False}}
    nnapi = entry["checks"]["accelerators"]["nnapi"]
    assert nnapi["taken"] == nnapi["nodes"] > nnapi["taken_as_it_is"]
    assert entry["checks"]["files"] == ["model.ort", "required_operators.config", "model.fixed.onnx"]
    assert set(entry["checks"]["files"]) <= set(manifest["files"])
    assert onnx.load(folder / "model.fixed.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert Runner(folder / "model.ort").session.get_inputs()[0].name == manifest["inputs"][0]["name"]
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    run(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    (folder / "model.ort").write_bytes(b"another")
    assert verify(folder) == ["model.ort is not the file that was shipped: its sha256 differs"]
