"""A good budgets.yaml, and what it becomes."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

import benchmark.targets
from family.errors import Mistakes
from family.job import data_options, teacher_options
from family.spec import SizeSpec, Spec, TargetSpec, format_mistakes, read_spec, schema

WHOLE = """\
# yaml-language-server: $schema=budgets.schema.json
name: flowers
seed: 0
task: images
score: accuracy
data:
  path: photos/
  label: label
  split: {val: 0.15, test: 0.15}
  group: patient
  transfer: more-photos/
  augment: auto
teacher:
  path: teacher.onnx
  output: logits
  gives: auto
  preprocess: {size: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], layout: nchw, channels: rgb}
  classes: classes.txt
  licence: Apache-2.0
students:
  space: conv
  input: 96
  dims: {width: [8, 96], depth: [1, 4], kernel: {choices: [3, 5]}, drop: {low: 0.1, high: 1, log: true}, heads: 4}
budgets:
  watch:  {target: cortex-a53, instructions_m: 12, size_kb: 60}
  web:    {target: browser, latency_ms: 4, size_kb: 250}
  laptop: {target: cpu, latency_p95_ms: 1, memory_mb: 40}
  good:   {target: cpu, score: 0.95}
  best:   {target: cpu}
  board:  {target: pi}
  chip:   {target: mine}
targets:
  cpu: {threads: 1, batch: 1}
  pi:  {transport: ssh, host: pi@raspberrypi.local}
  mine: {transport: emulated, core: cortex-a76}
distill: {loss: auto, temperature: auto, views: 8, steps: auto, control_seeds: 3}
search:  {trials: 60, minutes: 20, engine: auto, workers: auto, storage: null}
export:  {precisions: [fp32, int8], opset: auto, max_flips: null}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "my flowers"
    for folder in ("photos", "more-photos"):
        (home / folder).mkdir(parents=True)
    for file in ("teacher.onnx", "classes.txt", "other.pt2"):
        (home / file).touch()
    (home / "code.py").write_text("def make(): ...\n")
    return home


def read(home: Path, text: str) -> Spec:
    (home / "budgets.yaml").write_text(text, encoding="utf-8")
    return read_spec(home / "budgets.yaml")


SHORT = "data: {path: photos}\nteacher: teacher.onnx\nstudents: {space: conv}\nbudgets: {best: {target: cpu}}\n"


def test_the_readmes_file_is_read_whole(home: Path) -> None:
    spec = read(home, WHOLE)
    assert spec.folder == home.resolve()
    assert spec.budgets["web"].latency_ms == 4
    assert spec.teacher[0].preprocess is not None
    assert spec.teacher[0].preprocess.size == 224
    width = spec.students.dims["width"]
    assert not isinstance(width, int | float | str)
    assert (width.low, width.high, width.log) == (8, 96, False)
    assert spec.students.dims["heads"] == 4
    assert spec.targets["pi"].model_dump(exclude_none=True) == {"transport": "ssh", "host": "pi@raspberrypi.local"}


def test_four_keys_are_enough(home: Path) -> None:
    spec = read(home, SHORT)
    assert spec.name == "my-flowers"  # the folder's name, made safe
    assert (spec.seed, spec.task, spec.score, spec.device) == (0, None, None, "auto")
    assert (spec.distill.views, spec.distill.control_seeds, spec.distill.loss) == (8, 3, "auto")
    assert (spec.search.trials, spec.search.minutes, spec.search.storage) == (60, 20, None)
    assert spec.teacher[0].path == "teacher.onnx"


def test_teacher_as_text_mapping_list_and_built_in(home: Path) -> None:
    ensemble = read(
        home, SHORT.replace("teacher.onnx", "[teacher.onnx, {path: other.pt2, gives: logits}, code.py:make]")
    )
    assert [t.path for t in ensemble.teacher] == ["teacher.onnx", "other.pt2", "code.py:make"]
    assert [t.gives for t in ensemble.teacher] == ["auto", "logits", "auto"]
    built_in = read(home, SHORT.replace("photos", "digits, keep_labels: all").replace("teacher.onnx", "digits"))
    assert (built_in.data.path, built_in.data.keep_labels, built_in.teacher[0].path) == ("digits", "all", "digits")


def test_numbers_keep_their_kind_and_splits_may_be_names(home: Path) -> None:
    spec = read(
        home,
        SHORT.replace("photos", "photos, split: {train: a, val: b, test: c}").replace(
            "conv", "mlp, input: {height: 8, width: 16}"
        ),
    )
    assert spec.students.input == SizeSpec(height=8, width=16)
    assert spec.data.split is not None
    assert spec.data.split.model_dump(exclude_none=True) == {"train": "a", "val": "b", "test": "c"}


def test_a_spec_is_frozen_and_goes_through_json(home: Path) -> None:
    spec = read(home, WHOLE)
    with pytest.raises(ValueError, match="frozen"):
        spec.seed = 1
    kept = json.loads(json.dumps(spec.model_dump(mode="json")))
    assert "folder" not in kept
    assert Spec.model_validate({**kept, "folder": spec.folder}) == spec


def test_the_main_cost_is_the_first_that_a_budget_limits(home: Path) -> None:
    spec = read(home, WHOLE)
    assert spec.main_cost("cortex-a53") == "instructions_m"
    assert spec.main_cost("browser") == "latency_ms"
    assert spec.main_cost("cpu") == "latency_ms"  # a p95 limit counts as latency
    assert spec.main_cost("pi") == "latency_ms"  # nothing limited: latency, where it is answered
    assert spec.main_cost("mine") == "size_kb"
    size = read(home, SHORT.replace("best: {target: cpu}", "a: {target: cpu, size_kb: 9}, b: {target: cpu}"))
    assert size.main_cost("cpu") == "size_kb"


@pytest.mark.parametrize("text", [WHOLE, SHORT])
def test_what_is_read_fits_the_schema(home: Path, text: str) -> None:
    read(home, text)
    jsonschema.validate(YAML(typ="safe").load(text), schema())


def test_a_file_that_contains_itself_is_refused(home: Path) -> None:
    with pytest.raises(Mistakes, match=r"search\.trials: must be a whole number"):
        read(home, SHORT + "search: &s {trials: *s}\n")


def test_options_of_targets_are_those_that_benchmark_knows() -> None:
    known = frozenset().union(*(one.options for one in benchmark.TRANSPORTS.values()))
    assert set(TargetSpec.model_fields) - {"transport"} == known


def test_a_mistake_is_found_on_its_line_whatever_the_budget_is_called(home: Path) -> None:
    wrong = "  v1.2: {target: cpu}\n  v1: {target: cpu, size_kb: -1}\n  v1.3:\n    target: cpu\n    size_kb: 0\n"
    text = SHORT.replace("{best: {target: cpu}}", "") + wrong
    with pytest.raises(Mistakes) as caught:
        read(home, text)
    first, second = format_mistakes(caught.value, home / "budgets.yaml").splitlines()
    assert first.endswith("(budgets.yaml, line 6).")
    assert second.startswith("budgets.v1.3.size_kb must be above 0. Got 0 (budgets.yaml, line 9)")


def test_the_students_input_is_a_side_or_height_and_width(home: Path) -> None:
    for given, size in (("96", (96, 96)), ("{height: 32, width: 48}", (32, 48))):
        spec = read(home, SHORT.replace("{space: conv}", f"{{space: conv, input: {given}}}"))
        assert data_options(spec).student_input == size
        assert Spec.model_validate(json.loads(spec.model_dump_json())).students.input == spec.students.input


def test_classes_of_a_teacher_may_be_listed(home: Path) -> None:
    spec = read(home, SHORT.replace("teacher.onnx", "{path: teacher.onnx, classes: [cat, 3]}"))
    assert spec.teacher[0].classes == ["cat", "3"]
    assert teacher_options(spec)[0].classes == ["cat", "3"]
