"""Coverage guards: the distances, the graph at every precision, the threshold, when they ship, and what is told."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf
from torch import nn

from benchmark import Measurement
from export import (
    NoFeatures,
    Runner,
    SeriesFront,
    Signature,
    TensorSpec,
    add_guard,
    describe,
    make_up_inputs,
    measure_unlikeness,
    quantise,
    read_features,
    to_onnx,
    write_student,
)
from export.accelerators import check_accelerators
from export.front import TextFront
from export.guard import find_features
from export.verify import verify
from family import guards, probes
from family.guard_told import card_guard, ship_guard, tell_guard
from family.guards import FALSE_ALARMS, find_threshold, fit_guard, guard_students, make_guard, see_guard
from family.job import Job, open_job
from family.modules import ConvStudent, EncoderStudent, MlpStudent, Rescaled
from family.run_folder import without_nan
from family.spec import read_spec
from family.students import outputs_of, train_candidate, trained_folder
from family.types import Training
from reports import Choice
from reports.guard import show_guard
from reports.run_tables import Run

SCHEMA = json.loads((Path(verify.__code__.co_filename).parent / "manifest.schema.json").read_text())
STUDENTS = {
    "mlp": (MlpStudent(12, 24, 2, 3), (12,)),
    "conv": (ConvStudent(1, 8, 6, 1, 3), (1, 8, 8)),
    "encoder": (EncoderStudent(2, 16, 16, 1, 2, 3), (2, 16)),
    "rescaled": (Rescaled(MlpStudent(12, 24, 1, 3), np.ones(3), np.full(3, 2.0)), (12,)),
    "soft": (nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 3), nn.Softmax(1)), (12,)),
}


def write_graph(folder: Path, module: nn.Module, shape: tuple[int, ...], precision: str = "fp32") -> Path:
    body = Signature((TensorSpec("x", "float32", ("batch", *shape)),), (TensorSpec("logits", "float32", ("batch", 3)),))
    to_onnx(module, body, folder / "fp32.onnx")
    if precision != "fp32":
        inputs = make_up_inputs(folder / "fp32.onnx", rows=64)
        quantise(folder / "fp32.onnx", folder / f"{precision}.onnx", precision, inputs)
    return folder / f"{precision}.onnx"


def draw(shape: tuple[int, ...], rows: int = 200, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(rows, *shape)).astype(np.float32)}


def test_distances_are_mahalanobis_to_the_nearest_centre() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 400)
    features = (rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 3 * classes[:, None]).astype(np.float32)
    centres = np.stack([features[classes == c].astype(float).mean(0) for c in range(3)])
    inverse = np.linalg.inv(ledoit_wolf(features - centres[classes], assume_centered=True)[0])
    wanted = [min(mahalanobis(one, centre, inverse) ** 2 for centre in centres) for one in features[:20]]
    assert measure_unlikeness(fit_guard(features, classes), features[:20]) == pytest.approx(wanted, rel=1e-6)


def test_without_classes_there_is_one_centre() -> None:
    features = draw((4,))["x"]
    guard = fit_guard(features, None)
    assert guard.centres == pytest.approx(np.zeros((1, 4)), abs=1e-6)
    assert measure_unlikeness(guard, features.mean(0, keepdims=True)) == pytest.approx([0], abs=1e-6)


def test_a_direction_that_never_varied_counts_as_varying_a_little() -> None:
    scales = np.array([10, 1, 0.1, 0])  # the greatest variance is about 100
    features = (draw((4,), rows=4000)["x"] * scales).astype(np.float32)
    guard = fit_guard(features, None)
    moved = features[:1] + np.array([[0, 0, 0, 0.5]], np.float32)
    gain = (measure_unlikeness(guard, moved) - measure_unlikeness(guard, features[:1]))[0]
    assert 5 < gain < 1.1 * 0.5**2 / (guards.LEAST_SHARE * 100)
    with pytest.raises(NoFeatures, match="the same for all rows"):
        fit_guard(np.ones((50, 3), np.float32), None)


@pytest.mark.parametrize("rows", [19, 20, 199, 1000])
def test_a_further_row_is_above_the_threshold_as_often_as_is_aimed_at(rows: int) -> None:
    rng = np.random.default_rng(rows)
    threshold = np.array([find_threshold(rng.exponential(size=rows)) for _ in range(400)])
    chance = np.exp(-threshold).mean()  # of a further row, were rows alike
    assert FALSE_ALARMS - 1.2 / rows < chance < FALSE_ALARMS + 0.005
    seen = rng.exponential(size=rows)
    assert (seen > find_threshold(seen)).mean() <= FALSE_ALARMS


PRECISIONS = ("fp32", "int8", "int8-dynamic", "int8-weights", "fp16-weights")
CONVOLVE = ("conv", "encoder")  # which int8-dynamic refuses


@pytest.mark.parametrize(
    ("space", "precision"), [(s, p) for s in STUDENTS for p in PRECISIONS if p != "int8-dynamic" or s not in CONVOLVE]
)
def test_the_graph_gives_what_numpy_does_and_leaves_the_rest_alone(tmp_path: Path, space: str, precision: str) -> None:
    module, shape = STUDENTS[space]
    source = write_graph(tmp_path, module, shape, precision)
    rows = draw(shape)
    features = read_features(source, [rows])
    guard = fit_guard(features, Runner(source)(rows).argmax(1))
    guard = guard.rescale(find_threshold(measure_unlikeness(guard, features)))
    made = add_guard(source, guard, tmp_path / "guarded.onnx", precision)
    assert made == describe(tmp_path / "guarded.onnx", precision)
    answers, unlike = Runner(made.path).all_outputs(rows)
    assert np.array_equal(answers, Runner(source)(rows))
    assert unlike == pytest.approx(measure_unlikeness(guard, features), rel=1e-3, abs=1e-4)
    assert (unlike > 1).mean() <= FALSE_ALARMS
    far = {"x": 40 * rows["x"]}
    assert (Runner(made.path).all_outputs(far)[1] > 1).mean() > 0.9
    one = {"x": rows["x"][:1]}
    assert Runner(made.path).all_outputs(one)[1].shape == (1,)
    again = add_guard(source, guard, tmp_path / "again.onnx", precision)
    assert again.sha256 == made.sha256


def test_no_guard_makes_a_student_fall_back_on_phones(tmp_path: Path) -> None:
    module, shape = STUDENTS["conv"]
    source = write_graph(tmp_path, module, shape)
    guard = fit_guard(read_features(source, [draw(shape)]), None)
    add_guard(source, guard, tmp_path / "guarded.onnx", "fp32")
    plain, guarded = (check_accelerators(path) for path in (source, tmp_path / "guarded.onnx"))
    for name in ("nnapi", "coreml-neuralnetwork"):
        assert (plain[name].falls_back, guarded[name].falls_back) == (False, False)


class Mixed(nn.Module):
    """Two linear layers added: which of their inputs would be the features?"""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) + self.two(torch.relu(x))


class PerStep(nn.Module):
    """A linear layer over time, of which one step is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.reshape(-1, 3, 4)).squeeze(2)


@pytest.mark.parametrize(
    ("module", "shape", "why"),
    [
        (nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), (1, 8, 8), "come from Conv"),
        (Mixed(), (12,), "come from Add"),
        (PerStep(), (12,), r"takes float32 of shape \('rows', 3, 4\)"),
        (nn.Sequential(nn.Flatten(), nn.Hardswish()), (3,), "come from Mul"),
    ],
)
def test_where_no_last_linear_layer_is_found_it_is_said(
    tmp_path: Path, module: nn.Module, shape: tuple[int, ...], why: str
) -> None:
    source = write_graph(tmp_path, module, shape)
    with pytest.raises(NoFeatures, match=why):
        read_features(source, [draw(shape)])


def test_a_name_that_is_taken_is_not_taken_again(tmp_path: Path) -> None:
    source = write_graph(tmp_path, STUDENTS["mlp"][0], (12,))
    guard = fit_guard(read_features(source, [draw((12,))]), None)
    model = onnx.load(source)
    model.graph.input[0].name = "unlike"
    for node in model.graph.node:
        node.input[:] = ["unlike" if name == "x" else name for name in node.input]
    onnx.save(model, source)
    assert find_features(model)
    with pytest.raises(NoFeatures, match="already a name"):
        add_guard(source, guard, tmp_path / "guarded.onnx", "fp32")


FILE = """
data: digits
teacher: digits
students: {space: mlp, dims: {width: [16, 48], depth: [1, 2]}}
budgets:
  roomy: {target: cpu, size_kb: 500}
  tight: {target: cpu, size_kb: SIZE}
  free: {target: cpu}
  gone: {target: cpu, size_kb: 1}
distill: {views: 1}
export: {precisions: [fp32, int8], guard: GUARD}
"""
STUDENT = {"width": 24, "depth": 1}
LABELS = Training("labels", 0.01, 60, seed=0, views=1)
FINALISTS = {"a": STUDENT}


def open_with(folder: Path, guard: str = "auto", size: float = 10.0) -> Job:
    folder.mkdir(exist_ok=True)
    (folder / "budgets.yaml").write_text(FILE.replace("GUARD", guard).replace("SIZE", str(size)))
    said: list[str] = []
    job = open_job(read_spec(folder / "budgets.yaml"), folder / "run", folder / "cache", said.append)
    return dataclasses.replace(job, show=said.append)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run in which one student is trained; its teacher is asked too."""
    folder = tmp_path_factory.mktemp("guards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("family.builtin_teacher.STEPS", 60)
        job = open_with(folder)
        train_candidate(job, STUDENT, LABELS)
        for precision in ("fp32", "int8"):
            outputs_of(job, STUDENT, LABELS, precision, "val")
    return folder


class SizeMeter:
    """Sizes, and latency as a multiple of them; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def settle(self, models: list[Path]) -> list[list[Measurement]]:
        self.asked += 1
        sizes = [path.stat().st_size / 1e3 for path in models]
        return [[say("size_kb", size, 1.0), say("latency_ms", size / 1e3, 1.01)] for size in sizes]


def say(quantity: str, value: float, factor: float) -> Measurement:
    return Measurement(quantity, value, value / factor, value * factor, (value,), "cpu", "made up", "", "here")


def choices_of(precision: str) -> dict[str, Choice]:
    kept = Choice("kept", "a", precision, None, None, {}, {})
    return dict.fromkeys(("roomy", "tight", "free"), kept) | {"gone": Choice("missed", None, None, None, None, {}, {})}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_guard_ships_where_the_file_with_it_keeps_the_budget(folder: Path, precision: str) -> None:
    job = open_with(folder)
    plain = trained_folder(job, STUDENT, LABELS) / precision / "model.onnx"
    job = open_with(folder, size=plain.stat().st_size / 1e3 + 1)  # its file fits, and no more than a kB beside it
    meter = SizeMeter()
    found = guard_students(job, choices_of(precision), FINALISTS, LABELS, {"cpu": meter})
    assert meter.asked == 1
    assert {name: one["on"] for name, one in found.items()} == {"roomy": True, "tight": False, "free": True}
    assert "its size_kb would be" in found["tight"]["why"]
    guarded = plain.with_name("guarded.onnx")
    cost = found["tight"]["costs"]["size_kb"]
    assert (cost["without"], cost["with"]) == (plain.stat().st_size / 1e3, guarded.stat().st_size / 1e3)
    assert cost["ratio"] == cost["ratio_low"] == pytest.approx(cost["with"] / cost["without"])
    slow = found["free"]["costs"]["latency_ms"]
    assert slow["ratio_low"] < slow["ratio"] < slow["ratio_high"]
    assert found["free"]["largest_difference"] == 0
    before = guarded.read_bytes()
    again = guard_students(open_with(folder, "true"), choices_of(precision), FINALISTS, LABELS, {"cpu": meter})
    assert meter.asked == 1  # nothing is measured or written twice
    assert guarded.read_bytes() == before
    assert again["roomy"] == found["roomy"]


def test_all_files_with_a_guard_are_measured_together(folder: Path) -> None:
    job = dataclasses.replace(open_with(folder, size=1000), host="of both")
    choices = {**choices_of("fp32"), "free": Choice("kept", "a", "int8", None, None, {}, {})}
    meter = SizeMeter()
    found = guard_students(job, choices, FINALISTS, LABELS, {"cpu": meter})
    assert meter.asked == 1
    assert found["roomy"]["costs"]["size_kb"]["with"] > found["free"]["costs"]["size_kb"]["with"]

    class RefusesSeveral(SizeMeter):
        def settle(self, models: list[Path]) -> list[list[Measurement]]:
            if len(models) > 2:
                raise ValueError("it has no operator Abs.")
            return super().settle(models)

    job = dataclasses.replace(job, host="of each")
    assert guard_students(job, choices, FINALISTS, LABELS, {"cpu": RefusesSeveral()}) == found


class ReachMeter(SizeMeter):
    """A profile that does not reach the file with a guard, or only that one."""

    def __init__(self, untold: int) -> None:
        super().__init__()
        self.untold = untold

    def settle(self, models: list[Path]) -> list[list[Measurement]]:
        settled = super().settle(models)
        beyond = dataclasses.replace(say("latency_ms", math.nan, 1.0), samples=(), protocol="it is beyond profile x")
        settled[self.untold][1] = beyond
        return settled


def limit_latency(job: Job) -> Job:
    budgets = {name: b.model_copy(update={"latency_ms": 1000.0}) for name, b in job.spec.budgets.items()}
    budgets["free"] = job.spec.budgets["free"]
    return dataclasses.replace(job, spec=job.spec.model_copy(update={"budgets": budgets}), host="profiled")


def test_a_limit_that_is_not_told_of_the_guarded_file_counts_as_broken(folder: Path) -> None:
    job = limit_latency(open_with(folder, size=1000))
    found = guard_students(job, choices_of("fp32"), FINALISTS, LABELS, {"cpu": ReachMeter(1)})
    assert {name: one["on"] for name, one in found.items()} == {"roomy": False, "tight": False, "free": True}
    assert found["roomy"]["why"] == "its latency_ms is untold: it is beyond profile x"
    known = {"measured": 0.1, "low": 0.1, "high": 0.1, "provenance": "estimated"}
    shipped = ship_guard({"limits": {}, "costs": {"latency_ms": known, "size_kb": known}}, found["free"])
    assert list(shipped["costs"]) == ["size_kb"]  # blank: the latency of the file without is not this file's


def test_where_only_the_guarded_file_is_told_its_costs_have_no_ratio(folder: Path) -> None:
    job = dataclasses.replace(limit_latency(open_with(folder, size=1000)), host="profiled otherwise")
    found = guard_students(job, choices_of("fp32"), FINALISTS, LABELS, {"cpu": ReachMeter(0)})["roomy"]
    assert found["on"]
    cost = without_nan(found["costs"]["latency_ms"])
    assert cost["with"] > 0
    assert cost["without"] is cost["ratio"] is cost["ratio_low"] is None


def test_true_warns_where_auto_notes_and_false_does_nothing(folder: Path) -> None:
    for guard, word in (("auto", "note"), ("true", "warning")):
        job = open_with(folder, guard, size=1)
        said = []
        guard_students(
            dataclasses.replace(job, show=said.append), choices_of("fp32"), FINALISTS, LABELS, {"cpu": SizeMeter()}
        )
        assert [line.split(" ships")[0] for line in said] == [f"{word}: tight"]
    assert guard_students(open_with(folder, "false"), choices_of("fp32"), FINALISTS, LABELS, {}) == {}


def test_a_target_that_refuses_the_file_gets_none(folder: Path) -> None:
    class Refuses:
        def settle(self, models: list[Path]) -> list[list[Measurement]]:
            raise ValueError("it has no operator GlobalMaxPool.")

    job = dataclasses.replace(open_with(folder), host="another")
    found = guard_students(job, choices_of("fp32"), FINALISTS, LABELS, {"cpu": Refuses()})
    assert found["roomy"]["why"] == "cpu gives no figures of it: it has no operator GlobalMaxPool"


def test_too_few_rows_of_val_give_no_threshold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = open_with(folder)
    monkeypatch.setattr(guards, "FEWEST", 10_000)
    monkeypatch.setattr(guards, "VERSION", 0)
    assert "takes 10000 rows of val. Got" in make_guard(job, STUDENT, "fp32", LABELS)["why"]


@pytest.fixture(scope="module")
def entry(folder: Path) -> dict:
    """A budget's entry in family.json, as far as guards go."""
    job = open_with(folder)
    found = guard_students(job, choices_of("int8"), FINALISTS, LABELS, {"cpu": SizeMeter()})["roomy"]
    seen = see_guard(job, STUDENT, "int8", LABELS)
    limits = {"size_kb": {"limit": 500, "measured": found["costs"]["size_kb"]["without"], "provenance": "static"}}
    return {"id": "a", "precision": "int8", "status": "kept", "limits": limits, "guard": {**found, **seen}}


def test_false_alarms_are_few_and_foreign_inputs_are_flagged(entry: dict) -> None:
    alarms, caught = entry["guard"]["false_alarms"], entry["guard"]["caught"]
    assert alarms["val"]["value"] <= alarms["aim"] == 0.05
    assert alarms["test"]["low"] < 0.05
    assert alarms["test"]["rows"] == 600
    assert caught["noise"]["value"] > 0.9
    assert caught["pixels shuffled"]["value"] > 0.9
    assert "handwritten digits (scikit-learn's)" not in caught


def test_the_folder_with_a_guard_is_whole_and_its_program_says_what_is_unlike(
    folder: Path, entry: dict, tmp_path: Path
) -> None:
    job = open_with(folder)
    path = trained_folder(job, STUDENT, LABELS) / "int8" / "guarded.onnx"
    manifest = {"name": "g", "kind": "classification", "classes": list("0123456789"), "teacher": None}
    manifest |= {"preprocessing": job.task.front, **tell_guard(entry)}
    noise = np.random.default_rng(0).integers(0, 17, (2, 8, 8, 1)).astype(np.uint8)
    for name, golden in (("like", job.task.raw("val", np.arange(2))), ("unlike", {"image": noise})):
        student = write_student(tmp_path / name, describe(path, "int8"), manifest, golden, card_guard(entry))
        assert verify(student) == []
        written = json.loads((student / "manifest.json").read_text())
        jsonschema.validate(written, SCHEMA)
        assert written["guard"]["output"] == written["outputs"][1]["name"] == "unlike"
        for script, said in (("verify.py", "ok"), ("predict.py", "")):
            done = subprocess.run(
                [sys.executable, student / "snippets" / "python" / script], capture_output=True, text=True, check=True
            )
            assert said in done.stdout
        assert ("(unlike anything it was taught)" in done.stdout) == (name == "unlike")
    golden = json.loads((student / "golden.json").read_text())
    golden["outputs"]["unlike"]["tolerance"] = -1.0
    (student / "golden.json").write_text(json.dumps(golden))
    assert verify(student)
    with pytest.raises(ValueError, match="guard must be one of"):
        write_student(
            tmp_path / "x", describe(path.with_name("model.onnx"), "int8"), manifest, {"image": noise}, "card"
        )


def test_what_ships_is_what_the_manifest_and_the_card_tell(entry: dict) -> None:
    given = entry | {"costs": entry["limits"]}
    shipped = ship_guard(given, entry["guard"])
    assert shipped["limits"]["size_kb"]["measured"] == entry["guard"]["costs"]["size_kb"]["with"]
    assert shipped["costs"] == shipped["limits"] != entry["limits"]
    off = entry | {"guard": {"on": False, "why": "x"}}
    assert ship_guard(given, off["guard"])["limits"] == entry["limits"]
    assert (tell_guard(off), card_guard(off), tell_guard({})) == ({}, "", {})
    assert "upside down" in card_guard(entry)


def test_the_report_says_what_is_caught_and_why_one_is_off(entry: dict) -> None:
    off = {"on": False, "why": "its size_kb would be 12, above 6", "costs": entry["guard"]["costs"]}
    budgets = {"roomy": entry, "tight": entry | {"guard": off}, "none": {"status": "missed"}}
    section = show_guard(Run({"budgets": budgets}, *[None] * 3, {}))
    lead, costs, flags, said = section.blocks
    assert "What is not flagged is not thereby right" in lead.text
    assert costs.frame["Guard"].tolist() == ["on", "off\nits size_kb would be 12, above 6"]
    assert flags.frame["Inputs"].tolist()[2:] == list(entry["guard"]["caught"])
    assert said.items[0].startswith("roomy: flags at least 90 % of noise")
    assert show_guard(Run({"budgets": {"old": {"status": "kept"}}}, *[None] * 3, {})) is None


def test_texts_keep_their_padding_in_every_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.array([[5, 6, 7, 8], [9, 9, 0, 0], [3, 0, 0, 0]])
    seen = [{"input_ids": np.array([[20, 21, 0]])}, {"input_ids": np.array([[22, 23, 24, 25]])}]
    monkeypatch.setattr(probes, "raw_batches", lambda *given: iter(seen))
    for name, change in probes.text_changes(SimpleNamespace(rows=lambda split: 2), TextFront(4, 300)).items():
        made = change({"input_ids": ids}, np.random.default_rng(0))["input_ids"]
        assert np.array_equal(made == 0, ids == 0), name
        assert made.dtype == ids.dtype
        assert made.max() < 300
        if name == "one token throughout":
            assert len(set(made[0])) == 1
        if name == "tokens of other texts each":
            assert set(made[made != 0]) <= set(range(20, 26))
        assert not np.array_equal(made, ids)


def test_series_keep_their_padding_in_every_probe() -> None:
    class Few:
        ragged, kind = False, "classification"
        front = SeriesFront(2, 6, (0.0, 0.0), (1.0, 1.0), True)

        def rows(self, split: str) -> int:
            return 4

        def raw(self, split: str, rows: np.ndarray) -> dict[str, np.ndarray]:
            series = np.random.default_rng(0).normal(size=(4, 2, 6)).astype(np.float32)[rows]
            length = np.array([6, 3, 4, 1])[rows]
            series[np.arange(6) >= length[:, None, None] + np.zeros((1, 2, 1), int)] = 0
            return {"series": series, "length": length}

    class FakeJob:
        task = Few()

    before = FakeJob.task.raw("test", np.arange(4))
    for name, change in probes.list_changes(FakeJob(), FakeJob.task).items():
        after = change(before, np.random.default_rng(1))
        assert (after["series"][1, :, 3:] == 0).all(), name
        assert not np.array_equal(after["series"], before["series"]), name
        assert np.array_equal(after["length"], before["length"])
    backwards = probes.list_changes(FakeJob(), FakeJob.task)["backwards"](before, np.random.default_rng(1))["series"]
    assert np.array_equal(backwards[1, :, :3], before["series"][1, :, 2::-1])
