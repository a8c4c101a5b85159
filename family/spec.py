"""budgets.yaml as frozen data, and every mistake in it at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from benchmark import PRESETS, can_answer, resolve_target
from family.errors import Mistake, Mistakes, mistake

SPACES = ("mlp", "conv", "encoder")
TASKS = ("images", "table", "series")
PRECISIONS = ("fp32", "int8", "int8-dynamic")
COSTS = ("latency_ms", "latency_p95_ms", "size_kb", "memory_mb", "instructions_m")
BUILT_IN = ("digits",)
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitSpec(Part):
    """Shares, or the names that ready-made splits carry."""

    train: str | None = None
    val: float | str | None = None
    test: float | str | None = None
    transfer: str | None = None

    @model_validator(mode="after")
    def check(self) -> SplitSpec:
        shares = [v for v in (self.val, self.test) if isinstance(v, float | int)]
        if any(not 0 < v < 1 for v in shares) or sum(shares) >= 1:
            raise ValueError(f"shares must lie above 0 and sum to less than 1. Got {shares}")
        return self


class DataSpec(Part):
    path: str
    label: str | None = None
    split: SplitSpec | None = None
    group: str | None = None
    transfer: str | None = None
    augment: str | dict[str, Any] = "auto"
    keep_labels: Count | Literal["all"] | None = None


class PreprocessSpec(Part):
    size: Count | tuple[Count, Count] | None = None
    mean: list[float] | None = None
    std: list[Positive] | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    channels: Literal["rgb", "bgr"] | None = None


class TeacherSpec(Part):
    path: str
    output: str | None = None
    gives: Literal["auto", "logits", "probabilities"] = "auto"
    preprocess: PreprocessSpec | None = None
    classes: str | None = None
    licence: str | None = None
    origin: str | None = None


class RangeSpec(Part):
    low: float | None = None
    high: float | None = None
    step: Positive | None = None
    log: bool = False
    choices: list[Any] | None = None

    @model_validator(mode="after")
    def check(self) -> RangeSpec:
        if self.choices is None and (self.low is None or self.high is None):
            raise ValueError("needs low and high, or choices")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low must not be above high. Got {self.low:g} and {self.high:g}")
        return self


def pair_as_range(value: Any) -> Any:
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(f"must be a value, [low, high], {{low, high, step, log}} or {{choices: […]}}. Got {list(value)}")
        return {"low": value[0], "high": value[1]}
    return value


Narrowed = Annotated[RangeSpec | int | float | str, BeforeValidator(pair_as_range)]


class StudentsSpec(Part):
    space: str
    input: Count | tuple[Count, Count] | None = None
    dims: dict[str, Narrowed] = Field(default_factory=dict)


class Budget(Part):
    target: str
    latency_ms: Positive | None = None
    latency_p95_ms: Positive | None = None
    size_kb: Positive | None = None
    memory_mb: Positive | None = None
    instructions_m: Positive | None = None
    score: float | None = None
    cheapest_by: Literal["latency_ms", "latency_p95_ms", "size_kb", "memory_mb", "instructions_m"] | None = None


class TargetSpec(BaseModel):
    """A preset's options, or a transport with its options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    transport: str | None = None
    threads: Count | None = None
    batch: Count | None = None


class DistillSpec(Part):
    loss: Literal["auto", "kd", "dkd", "dist", "standardised", "mse", "labels"] = "auto"
    temperature: Positive | Literal["auto"] = "auto"
    learning_rate: Positive | Literal["auto"] = "auto"
    views: Count = 8
    steps: Count | Literal["auto"] = "auto"
    control_seeds: Count = 3


class SearchSpec(Part):
    trials: Count = 60
    minutes: Positive | None = 20
    engine: Literal["auto", "tpe"] = "auto"
    workers: Literal["auto", 1] = "auto"


class ExportSpec(Part):
    precisions: list[Literal["fp32", "int8", "int8-dynamic"]] = Field(default_factory=list)
    opset: Annotated[int, Field(ge=18, le=20)] | Literal["auto"] = "auto"


def string_as_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def as_list(value: Any) -> Any:
    return [string_as_path(v) for v in (value if isinstance(value, list) else [value])]


class Spec(Part):
    """The whole file; `folder` is where it lies, and relative paths in it start there."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "family"
    seed: Annotated[int, Field(ge=0)] = 0
    task: Literal["images", "table", "series"] | None = None
    score: str | None = None
    data: Annotated[DataSpec, BeforeValidator(string_as_path)]
    teacher: Annotated[list[TeacherSpec], BeforeValidator(as_list), Field(min_length=1)]
    students: StudentsSpec
    budgets: Annotated[dict[str, Budget], Field(min_length=1)]
    targets: dict[str, TargetSpec] = Field(default_factory=dict)
    distill: DistillSpec = DistillSpec()
    search: SearchSpec = SearchSpec()
    export: ExportSpec = ExportSpec()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    folder: Annotated[Path, Field(exclude=True)] = Path()


def schema() -> dict[str, Any]:
    """The published JSON schema, for editors."""
    made = Spec.model_json_schema()
    made["properties"].pop("folder")
    made["title"] = "budgets.yaml of student-family"
    for key, model in (("data", "DataSpec"), ("teacher", "TeacherSpec")):
        one = {"$ref": f"#/$defs/{model}"}
        either: list[Any] = [{"type": "string"}, one]
        made["properties"][key] = {"anyOf": [*either, {"type": "array", "items": {"anyOf": either}}] if key == "teacher" else either}
    pair = {"type": "array", "minItems": 2, "maxItems": 2}
    made["$defs"]["StudentsSpec"]["properties"]["dims"]["additionalProperties"]["anyOf"].append(pair)
    return made


def read_spec(path: Path) -> Spec:
    """Read the file. Raises Mistakes with every mistake in it."""
    raw = read_yaml(path)
    raw = {**raw, "folder": path.resolve().parent}
    raw.setdefault("name", re.sub(r"[^A-Za-z0-9_.-]", "-", path.resolve().parent.name) or "family")
    try:
        spec = Spec.model_validate(raw)
    except ValidationError as problem:
        raise Mistakes([explain(error, raw) for error in distinct(problem.errors())]) from problem
    wrong = [*check_names(spec), *check_targets(spec), *check_files(spec)]
    if wrong:
        raise Mistakes(wrong)
    return spec


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise mistake("", f"There is no file {path} (looked for {path.resolve()}). `build-family init` writes one.")
    if path.is_dir():
        raise mistake("", f"{path} is a folder; --budgets takes a YAML file.")
    try:
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as problem:
        mark = problem.problem_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown line"
        raise mistake("", f"{path.name} is not YAML: {(problem.problem or 'it cannot be read').splitlines()[0]} ({at}).") from problem
    except (YAMLError, UnicodeDecodeError) as problem:
        raise mistake("", f"{path.name} is not YAML: {str(problem).splitlines()[0]}.") from problem
    if not isinstance(raw, dict):
        what = "is empty" if raw is None else f"holds a {type(raw).__name__}"
        raise mistake("", f"{path.name} {what}; it must be a mapping with data, teacher, students and budgets.")
    return raw


def distinct(errors: list[Any]) -> Iterator[Any]:
    """Of a union's many complaints about one place, the first."""
    seen = set()
    for error in errors:
        place = tuple(part for part in error["loc"] if is_place(part))
        if place not in seen:
            seen.add(place)
            yield error


def is_place(part: Any) -> bool:
    """Whether a part of pydantic's location is a key of the file, not a branch of a union."""
    branch = r"^(float|int|str|bool|constrained-.*|literal\[.*|tuple\[.*|RangeSpec|function-.*|list\[.*|dict\[.*|nullable)"
    return isinstance(part, int) or not re.match(branch, str(part))


def explain(error: Any, raw: Mapping[str, Any]) -> Mistake:
    where = ".".join(str(p) for p in error["loc"] if is_place(p))
    where = re.sub(r"^teacher\.0\.", "teacher.", where) if not isinstance(raw.get("teacher"), list) else where
    given, context = error["input"], error.get("ctx", {})
    kind = error["type"]
    if kind == "extra_forbidden":
        return Mistake(where, unknown_key(error["loc"]))
    if kind == "missing":
        return Mistake(where, "is missing.")
    said = {
        "greater_than": f"must be above {context.get('gt')}.",
        "greater_than_equal": f"must be at least {context.get('ge')}.",
        "less_than_equal": f"must be at most {context.get('le')}.",
        "literal_error": f"must be {context.get('expected')}.",
        "too_short": "must not be empty.",
        "string_pattern_mismatch": "must hold letters, digits, '-', '_' and '.' only.",
    }.get(kind)
    if kind == "value_error":
        return Mistake(where, f"{context['error']}.")
    near = nearest(str(given), re.findall(r"'([^']+)'", str(context.get("expected", ""))))
    return Mistake(where, f"{said or must_be(error)} Got {given!r}.{near}")


def must_be(error: Any) -> str:
    wanted = error["msg"].removeprefix("Input should be ").split(", unable")[0].split(", got")[0]
    return f"must be {wanted}."


def unknown_key(loc: tuple[Any, ...]) -> str:
    model: Any = Spec
    for part in loc[:-1]:
        model = next((m for m in models_below(model, part) if m), model)
    names = [n for n in model.model_fields if n != "folder"]
    return f"is no key here. Allowed: {', '.join(names)}.{nearest(str(loc[-1]), names)}"


def models_below(model: Any, part: Any) -> list[Any]:
    field = model.model_fields.get(str(part)) if hasattr(model, "model_fields") else None
    homes = {"data": DataSpec, "teacher": TeacherSpec, "students": StudentsSpec, "budgets": Budget, "distill": DistillSpec,
             "search": SearchSpec, "export": ExportSpec, "preprocess": PreprocessSpec, "split": SplitSpec, "dims": RangeSpec}  # fmt: skip
    return [homes.get(str(part))] if field is not None or str(part) in homes else []


def nearest(name: str, allowed: Any) -> str:
    found = get_close_matches(name, list(allowed), 1, 0.5)
    return f" Did you mean '{found[0]}'?" if found else ""


def check_names(spec: Spec) -> Iterator[Mistake]:
    space = spec.students.space
    if space not in SPACES and ".py:" not in space:
        yield Mistake("students.space", f"must be one of {', '.join(SPACES)} or path/file.py:function. Got '{space}'.{nearest(space, SPACES)}")
    for name in spec.budgets:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            yield Mistake(f"budgets.{name}", "is also a folder's name: use letters, digits, '-', '_' and '.' only.")


def check_targets(spec: Spec) -> Iterator[Mistake]:
    for name, options in spec.targets.items():
        if name not in PRESETS and options.transport is None:
            yield Mistake(f"targets.{name}", f"is no preset, so it needs a transport. Presets: {', '.join(PRESETS)}.{nearest(name, PRESETS)}")
    for name, budget in spec.budgets.items():
        where = f"budgets.{name}"
        given = spec.targets.get(budget.target)
        try:
            target = resolve_target(budget.target, given.model_dump(exclude_none=True) if given else None)
        except ValueError as problem:
            known = [*PRESETS, *spec.targets]
            yield Mistake(f"{where}.target", f"{problem}" if given else f"must be one of {', '.join(known)}. Got '{budget.target}'.{nearest(budget.target, known)}")
            continue
        for limit in COSTS:
            if getattr(budget, limit) is not None and limit not in can_answer(target):
                answers = ", ".join(sorted(can_answer(target))) or "nothing yet"
                yield Mistake(f"{where}.{limit}", f"cannot be answered by target '{budget.target}', which answers {answers}.")


def check_files(spec: Spec) -> Iterator[Mistake]:
    named = [("data.path", spec.data.path), *[(f"teacher{'' if len(spec.teacher) == 1 else f'.{i}'}.path", t.path) for i, t in enumerate(spec.teacher)]]
    for where, reference in named:
        file = reference.split(".py:")[0] + ".py" if ".py:" in reference else reference
        if reference not in BUILT_IN and not (spec.folder / file).exists():
            yield Mistake(where, f"names {file}, which is not there (looked for {spec.folder / file}).")
    if ".py:" in spec.students.space and not (spec.folder / (spec.students.space.split(".py:")[0] + ".py")).exists():
        yield Mistake("students.space", f"names {spec.students.space}, whose file is not there.")


def format_mistakes(mistakes: Mistakes, path: Path) -> str:
    """A line per mistake: YAML path, what is wrong, file and line."""
    lines = read_lines(path)
    said = []
    for one in mistakes.mistakes:
        line = find_line(lines, one.where)
        at = f" ({path.name}, line {line})" if line else f" ({path.name})" if one.where else ""
        said.append(f"{one.where} {one.message}".strip().rstrip(".") + f"{at}." if one.where else one.message)
    return "\n".join(said)


def read_lines(path: Path) -> Any:
    try:
        return YAML().load(path.read_text(encoding="utf-8"))
    except (YAMLError, OSError, UnicodeDecodeError):
        return None


def find_line(node: Any, where: str) -> int | None:
    """The line of the deepest key of `where` that is in the file."""
    line = None
    for part in where.split("."):
        marks = getattr(node, "lc", None)
        key: Any = int(part) if part.isdigit() and isinstance(node, list) else part
        if marks is None or (isinstance(node, dict) and key not in node):
            break
        data = marks.data or {}
        if key not in data:
            break
        line = data[key][0] + 1
        node = node[key]
    return line
