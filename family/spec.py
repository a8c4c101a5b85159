"""budgets.yaml as frozen data, and every mistake in it at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from family.errors import Mistake, Mistakes, mistake
from family.spec_checks import (
    FILE_REFERENCE,
    SAFE_NAME,
    SPACES,
    TASKS,
    can_target_answer,
    check_meaning,
)
from family.spec_mistakes import show, translate_errors
from family.yaml_lines import Document, find_duplicates, find_line, format_mistakes, read_document

__all__ = ["Budget", "DataSpec", "Spec", "TeacherSpec", "format_mistakes", "read_spec", "schema"]


def name_or_file(*names: str) -> WithJsonSchema:
    """For editors: one of the names, or path/file.py:function."""
    return WithJsonSchema({"anyOf": [{"enum": [*names]}, {"type": "string", "pattern": FILE_REFERENCE}]})


Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Strict(), Field(gt=0, lt=1)]
Count = Annotated[int, Strict(), Field(gt=0)]
Flag = Annotated[bool, Strict()]
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]
Auto = Literal["auto"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Cost = Literal[
    "latency_ms", "latency_p95_ms", "ms_per_token", "first_token_ms", "size_kb", "memory_mb", "instructions_m"
]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SplitSpec(Part):
    """Shares of val and test, or the names that ready-made splits carry."""

    train: str | None = None
    val: Share | str | None = None
    test: Share | str | None = None
    transfer: str | None = None

    @field_validator("train", mode="before")
    @classmethod
    def name_train(cls, value: Any) -> Any:
        if isinstance(value, int | float):
            raise ValueError(  # noqa: TRY004  pydantic collects ValueErrors
                f"must be the name of a ready-made split; of shares, train gets the rest. Got {value}"
            )
        return value

    @model_validator(mode="after")
    def leave_rows_to_train(self) -> SplitSpec:
        shares = [v for v in (self.val, self.test) if isinstance(v, float)]
        if shares and any(isinstance(v, str) for v in (self.train, self.val, self.test, self.transfer)):
            raise ValueError("must hold either shares of val and test, or names of ready-made splits, not both")
        if sum(shares) >= 1:
            raise ValueError(f"must leave rows to train: val and test must sum to less than 1. Got {sum(shares):g}")
        return self


class DataSpec(Part):
    path: str
    """A folder of class folders, .npz, .csv, .parquet, a saved Hugging Face dataset, path/file.py:function,
    or the built-in digits."""
    label: str | None = None
    """The array or column with the labels."""
    text: str | Annotated[list[str], Field(min_length=1)] | None = None
    """The column with the text; several are read as one, a separator between them."""
    split: SplitSpec | None = None
    group: str | None = None
    """Rows with the same value of this column never straddle splits."""
    layout: Literal["hwc", "chw"] | None = None
    """Of arrays of images (rows, height, width, channels) or (rows, channels, height, width); default: by shape."""
    transfer: str | None = None
    """Unlabelled examples, in any of the formats of path; the teacher labels them."""
    augment: Annotated[str, name_or_file("auto", "none")] | dict[str, Any] = "auto"
    """auto, none, a mapping of shift, flip, scale, or path/file.py:function of (row, generator)."""
    keep_labels: Count | Literal["all"] | None = None
    """Keep the labels of this many train rows; the rest joins the transfer pool. Built-in digits: 200."""


class PreprocessSpec(Part):
    size: Count | Pair | None = None
    """A side in pixels, or [height, width]."""
    mean: list[Number] | None = None
    std: list[Positive] | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    channels: Literal["rgb", "bgr"] | None = None


def tell_names(value: Any) -> str:
    return "list" if isinstance(value, list) else "file"


def read_name(value: Any) -> Any:
    """A class called 3 as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ClassName = Annotated[str, BeforeValidator(read_name, json_schema_input_type=str | int)]
NameList = Annotated[list[ClassName], Field(min_length=2), Tag("list")]
Names = Annotated[NameList | Annotated[str, Tag("file")], Discriminator(tell_names)]


Price = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]


class AsksSpec(Part):
    """What is asked of a teacher that returns only text, and how."""

    prompt: str
    """A template with columns of the data in braces: "Gloss: {text}\\nAnswer:"."""
    prompts: str | None = None
    """A file of further prompts, whose answers are learnt too: .txt, one a line, or the column prompt of .jsonl, .csv
    or .parquet."""
    model: str | None = None
    form: Literal["chat", "completions"] = "chat"
    system: str | None = None
    answers: Count = 1
    """To each prompt."""
    temperature: Price | None = 0.0
    top_p: Share | Literal[1] | None = None
    max_tokens: Count | None = 256
    body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request."""
    api_key_env: str | None = None
    """The environment variable that holds the key; the key itself is never written."""
    timeout_s: Positive = 60.0
    retries: Annotated[int, Strict(), Field(ge=0)] = 5
    at_once: Count = 4
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    prompt_price: Price | None = None
    """Of 1000 tokens."""
    answer_price: Price | None = None
    cap_requests: Count | None = None
    """Asking stops here, all runs together."""
    cap_tokens: Count | None = None
    cap_money: Positive | None = None
    valid: str | Annotated[list[str], Field(min_length=1)] | None = None
    """A regular expression to be found in an answer, or the answers allowed; others are not learnt."""
    min_length: Count = 1
    """Characters."""
    max_length: Count | None = None
    duplicates: Literal["keep", "prompt", "all"] = "keep"
    """prompt: one of the same to a prompt stays; all: one of the same."""
    filter: str | None = None
    """path/file.py:function of (prompt, answer), True to keep."""


class TeacherSpec(Part):
    path: str
    """.onnx, .pt2, path/file.py:function, stored outputs (.npz, .parquet); of a language model a transformers folder,
    .gguf, or http(s)://host/v1, an endpoint that returns only text."""
    asks: AsksSpec | None = None
    """Of a teacher that returns only text: what it is asked."""
    output: str | None = None
    """Which output, where there are several."""
    gives: Literal["auto", "logits", "probabilities"] = "auto"
    tokenizer: str | None = None
    """Of a language model, or of an .onnx that reads texts: its tokenizer.json, where it brings none."""
    preprocess: PreprocessSpec | None = None
    classes: Names | None = None
    """The order of its outputs, where it is not the data's: a text file of one class a line, or a list of names."""
    licence: str | None = None
    origin: str | None = None


class RangeSpec(Part):
    low: Number | None = None
    high: Number | None = None
    step: Positive | None = None
    log: Flag = False
    choices: Annotated[list[Any], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def make_sense(self) -> RangeSpec:
        bounds = (self.low, self.high)
        if self.choices is not None and bounds != (None, None):
            raise ValueError("must have either choices, or low and high")
        if self.choices is None and None in bounds:
            raise ValueError("must have low and high, or choices")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low must not be above high. Got low {self.low:g}, high {self.high:g}")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError(f"low must be above 0 where log is true. Got {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("must have either log or step")
        return self


def read_pair(value: Any) -> Any:
    """[low, high] as a mapping."""
    if isinstance(value, list):
        if len(value) != 2:
            raise ValueError(f"must be a value, [low, high], {{low, high, step, log}} or {{choices: […]}}. Got {value}")
        return {"low": value[0], "high": value[1]}
    return value


def tell_range(value: Any) -> str:
    return "range" if isinstance(value, dict | list | RangeSpec) else "value"


PairSpec = Annotated[list[Number], Field(min_length=2, max_length=2)]
Range = Annotated[RangeSpec, BeforeValidator(read_pair, json_schema_input_type=RangeSpec | PairSpec)]
Value = Annotated[int, Strict()] | Number | str
Narrowed = Annotated[Annotated[Range, Tag("range")] | Annotated[Value, Tag("value")], Discriminator(tell_range)]


class SizeSpec(Part):
    """Sides of an image in pixels."""

    height: Count
    width: Count


def read_size(value: Any) -> Any:
    if isinstance(value, list):
        raise ValueError(  # noqa: TRY004  pydantic collects ValueErrors
            "must be one number, the side of a square, or {height: …, width: …}; a list would search the size, "
            f"which this version does not. Got {show(value)}"
        )
    return value


def tell_size(value: Any) -> str:
    return "sides" if isinstance(value, dict | SizeSpec) else "side"


Sides = Annotated[Annotated[SizeSpec, Tag("sides")] | Annotated[Count, Tag("side")], Discriminator(tell_size)]
Size = Annotated[Sides, BeforeValidator(read_size, json_schema_input_type=Count | SizeSpec)]


class StudentsSpec(Part):
    space: Annotated[str, name_or_file(*SPACES)]
    input: Size | None = None
    """The students' own input size in pixels: a side, or {height, width}; default: the data's."""
    prompt_tokens: Count | None = None
    """Of a language model: the prompt that first_token_ms is about; default: half of the context."""
    tokenizer: str | None = None
    """Of a language model: a tokenizer.json that must be the teacher's; default: the teacher's."""
    dims: dict[str, Narrowed] = Field(default_factory=dict)
    """Narrows what the space declares: value, [low, high], {low, high, step, log} or {choices: […]}."""


class Budget(Part):
    target: str
    latency_ms: Positive | None = None
    """Median, milliseconds."""
    latency_p95_ms: Positive | None = None
    ms_per_token: Positive | None = None
    """Of a language model: median time of one more token, the context full but for it."""
    first_token_ms: Positive | None = None
    """Of a language model: median time to the first token after students.prompt_tokens."""
    size_kb: Positive | None = None
    """The file that ships, kB."""
    memory_mb: Positive | None = None
    """Peak resident growth, MB."""
    instructions_m: Positive | None = None
    """Millions of instructions per inference; of a language model, per token."""
    score: Number | None = None
    """At least as good as this; then the cheapest student wins."""
    cheapest_by: Cost | None = None


class TargetSpec(Part):
    """A preset's options, or a transport with its options."""

    transport: str | None = None
    threads: Count | None = None
    batch: Count | None = None
    core: str | None = None
    slowdown: Positive | None = None
    host: str | None = None
    user: str | None = None
    port: Count | None = None
    python: str | None = None
    """Of the device, with numpy and onnxruntime."""
    identity: str | None = None
    """Private key file; otherwise as ssh is set up."""
    known_hosts: str | None = None
    """File of host keys that are trusted; otherwise the user's own."""
    runner: str | None = None
    """python, or c where the device has none."""
    machine: str | None = None
    """What the C runner is built for; otherwise what the device says it is."""
    launcher: str | None = None
    """Words before the C runner, such as `taskset f0`."""
    serial: str | None = None
    server_port: Count | None = None
    """Of adb's server, where it is not the usual one."""
    profile: str | None = None
    """File of `build-family calibrate`: a device's milliseconds are estimated from it."""


class DistillSpec(Part):
    loss: Literal[
        "auto",
        "kd",
        "dkd",
        "dist",
        "standardised",
        "mse",
        "cosine",
        "labels",
        "forward_kl",
        "reverse_kl",
        "skewed_kl",
        "skewed_reverse_kl",
        "answers",
    ] = "auto"
    """Of language models those from forward_kl on, and labels."""
    temperature: Positive | Auto = "auto"
    views: Count = 8
    """Augmented views of each sample that the teacher speaks of."""
    draws: Count = 32
    """Of a language model: tokens kept of the teacher's distribution at each position, 16 to 64."""
    soft_targets: str = "drawn"
    """Of a language model: drawn; top, the likeliest tokens with the rest given to the true one; or live, every logit,
    asked at every step."""
    on_policy: Annotated[Number, Field(ge=0, le=1)] = 0
    """Of a language model: share of the steps whose text the student writes and the teacher scores, live."""
    label_weight: Annotated[Number, Field(ge=0, le=1)] | Auto = "auto"
    """Share of the labels' own loss in a student's; auto: 0.1, of a language model 0."""
    steps: Count | Auto = "auto"
    """auto: about 20 passes over train and transfer, or what short trials of fewer and more find enough."""
    patience: Annotated[int, Strict(), Field(ge=0)] | Auto = "auto"
    """So many looks at val in a row without a better one end a training; 0: every step is taken, as auto does."""
    control_seeds: Count = 3
    learning_rate: Positive | Auto = "auto"


class ClusterSpec(Part):
    kind: Literal["ray"]
    address: str = "auto"
    """Of the cluster's head, host:port; auto: the one that this machine belongs to."""
    workers: Count | Auto = "auto"
    """How many the cluster is asked to place; auto: one for every core that it has."""


def read_cluster(value: Any) -> Any:
    """A kind alone as a mapping."""
    return {"kind": value} if isinstance(value, str) else value


class SearchSpec(Part):
    trials: Count = 60
    """Candidates ranked or trained; those pruned before training do not count."""
    minutes: Positive | None = 20
    """Bounds the search, what its engine trains to get ready included (for half of them at most); finals and controls
    always complete."""
    engine: Literal["auto", "supernet", "halving", "tpe"] = "auto"
    """What judges a candidate: weights that all students share, a short run, a full training; auto: the first that can
    be trusted."""
    workers: Count | Auto = "auto"
    """Processes that search; auto is one, and only then the same seed asks for the same candidates. As many train
    what the recipe compares and the controls, which are the same for any number; there auto is one for each core."""
    storage: str | None = None
    """postgresql://user@host/database or grpc://host:port, for workers on several hosts; default: a journal in the run
    folder."""
    engine_cluster: (
        Annotated[ClusterSpec, BeforeValidator(read_cluster, json_schema_input_type=Literal["ray"] | ClusterSpec)]
        | None
    ) = None
    """Places workers on the nodes of a cluster that runs already: ray, or {kind: ray, address: …, workers: …}."""


class ExportSpec(Part):
    precisions: list[Literal["fp32", "int8", "int8-dynamic", "int4", "int8-weights", "fp16-weights"]] = Field(
        default_factory=list
    )
    """Default: those of the student space. int8-weights and fp16-weights store weights small and compute in fp32."""
    opset: Annotated[int, Strict(), Field(ge=18, le=20)] | Auto = "auto"
    max_flips: Annotated[float, Strict(), Field(ge=0, le=1)] | None = None
    """Largest share of rows whose class another precision may change against fp32."""
    guard: Flag | Auto = "auto"
    """A second output that says how unlike its transfer data an input is: auto and true give it to every student whose
    budget allows it (true warns where one does not), false to none."""


def read_path(value: Any) -> Any:
    """A plain string as a mapping."""
    if isinstance(value, dict | BaseModel):
        return value
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004  pydantic collects ValueErrors
            f"must be a path, or a mapping with path. Got {show(value)}"
        )
    return {"path": value}


def read_teachers(value: Any) -> Any:
    if isinstance(value, str | dict | list | BaseModel):
        return value if isinstance(value, list) else [value]
    raise ValueError(f"must be a path, a mapping with path, or a list of those. Got {show(value)}")


def read_students(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(  # noqa: TRY004
            f"must be a mapping, such as {{space: {value if value in SPACES else SPACES[0]}}}. Got {value!r}"
        )
    return value


def read_device(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("gpu", "cuda:0", "nvidia"):
        raise ValueError(f"must be auto, cpu, cuda or mps. Got {value!r}. Did you mean 'cuda'?")
    return value


OneTeacher = str | TeacherSpec
SafeName = Annotated[str, Field(pattern=SAFE_NAME)]


class Spec(Part):
    """The whole file; relative paths in it start at `folder`, where it lies."""

    name: SafeName = "family"
    """Default: the name of the file's folder."""
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**31)] = 0
    task: Annotated[str, name_or_file(*TASKS)] | None = None
    """images, table, series, text, lm, or path/file.py:function of (options), which gives a Task; default: guessed from
    the data, and said."""
    score: str | None = None
    """accuracy, exact_match, macro_f1, auroc, rmse, mae, r2, cosine, bits_per_byte, or path/file.py:function of (truth,
    outputs), whose attribute higher_is_better says which way it runs; default: by the kind of labels."""
    data: Annotated[DataSpec, BeforeValidator(read_path, json_schema_input_type=str | DataSpec)]
    teacher: Annotated[
        list[Annotated[TeacherSpec, BeforeValidator(read_path, json_schema_input_type=OneTeacher)]],
        BeforeValidator(
            read_teachers,
            json_schema_input_type=OneTeacher | Annotated[list[OneTeacher], Field(min_length=1)],
        ),
        Field(min_length=1),
    ]
    students: Annotated[StudentsSpec, BeforeValidator(read_students, json_schema_input_type=StudentsSpec)]
    budgets: Annotated[dict[SafeName, Budget], Field(min_length=1)]
    targets: dict[str, TargetSpec] = Field(default_factory=dict)
    distill: DistillSpec = DistillSpec()
    search: SearchSpec = SearchSpec()
    export: ExportSpec = ExportSpec()
    device: Annotated[Device, BeforeValidator(read_device, json_schema_input_type=Device)] = "auto"
    folder: Annotated[Path, Field(exclude=True)] = Path()

    def main_cost(self, target: str) -> str:
        """The first of latency, instructions, size that any budget limits on `target`; by default its
        latency, or its size where it answers no latency."""
        budgets = [b for b in self.budgets.values() if b.target == target]
        for cost in ("ms_per_token", "first_token_ms", "latency_ms", "latency_p95_ms", "instructions_m", "size_kb"):
            if any(getattr(budget, cost) is not None for budget in budgets):
                return "latency_ms" if cost == "latency_p95_ms" else cost
        given = self.targets.get(target)
        answers = can_target_answer(target, given.model_dump(exclude_none=True) if given else {})
        latency = "ms_per_token" if self.task == "lm" else "latency_ms"
        return latency if latency in answers else "size_kb"


def read_spec(path: Path) -> Spec:
    """Read and check the file. Raises Mistakes with every mistake in it."""
    document = read_document(path)
    raw = require_mapping(document, path)
    folder = path.resolve().parent
    spec, wrong = validate(raw, folder)
    wrong = [*find_duplicates(document), *wrong]
    told = [m.where for m in wrong]
    wrong += [m for m in check_meaning(raw, folder) if not is_told(m.where, told)]
    if wrong or spec is None:
        raise Mistakes(sorted(wrong, key=lambda m: find_line(document, m.where) or 0))
    return spec


def is_told(where: str, told: list[str]) -> bool:
    """Whether a mistake was told of this place already, or of an option of this target."""
    return where in told or (where.startswith("targets.") and any(t.startswith(f"{where}.") for t in told))


def require_mapping(document: Document, path: Path) -> dict[str, Any]:
    wanted = "it must be a mapping with data, teacher, students and budgets"
    if document.data is None:
        raise mistake("", f"{path.name} is empty; {wanted}. `build-family init` writes one.")
    if not isinstance(document.data, dict):
        raise mistake("", f"{path.name} holds {describe_kind(document.data)}; {wanted}.")
    return {str(key): value for key, value in document.data.items()}


def describe_kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"only {str(value)[:40]!r}"


def validate(raw: Mapping[str, Any], folder: Path) -> tuple[Spec | None, list[Mistake]]:
    """The Spec, or what pydantic found wrong."""
    default = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.name).strip("-.") or "family"
    given = {"name": default, **raw, "folder": folder}
    wrong = [Mistake("folder", "is no key of this file.")] if "folder" in raw else []
    try:
        return Spec.model_validate(given), wrong
    except ValidationError as problem:
        return None, wrong + translate_errors(problem, raw, Spec)


def schema() -> dict[str, Any]:
    """The published JSON schema of budgets.yaml, for editors."""
    made = Spec.model_json_schema()
    made["properties"].pop("folder")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "budgets.yaml of student-family",
    }
