"""Everything one run works with, opened once: data, teacher, soft targets, space, targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import PATHS, Target, host_fingerprint, read_profile, resolve_target, unavailable
from family import spaces
from family.errors import Mistake, Mistakes, mistake
from family.losses import loss_of
from family.progress import Stage, Watch, watch_nothing
from family.run_folder import content_id
from family.soft_targets import open_store, score_outputs
from family.spec import DistillSpec, RangeSpec, Spec
from family.spec_checks import check_score_limit
from family.tasks import DataOptions, open_task
from family.tasks.asked_task import Asks, ask_all, ask_few, read_questions, rehearse
from family.tasks.lm_task import LmTask
from family.tasks.text_task import TextTask
from family.teachers import TeacherOptions, check_teacher, open_teacher
from family.text.causal_teachers import CausalTeacher, fit_teacher, open_causal_teacher
from family.text.endpoint import EndpointOptions
from family.text.filters import FilterOptions
from family.text.first_values import read_table
from family.text.lm_teacher import LmTeacher
from family.text.text_teacher import AnswersAlone, TextTeacher
from family.text.token_targets import LiveTargets, check_kept, open_token_store
from family.text.tokenizer import Tokenizer, read_tokenizer
from family.text.vectors import learn_vectors
from family.train import pick_device
from family.types import Store, StudentSpace, Task, Teacher

Show = Callable[[str], None]
ASKED = "asked.json"  # in the run folder: which of a teacher's answers it was built of
TEACHERS = "teachers"  # in the cache folder: those that a run trained
BEGIN_FROM_TEACHER = ("static", "encoder")  # spaces whose token embeddings may
STORED = ("int8-weights", "fp16-weights")  # precisions that suit whatever a space builds


@dataclass(frozen=True)
class Job:
    """What every step of a run reads. `folder` is the run folder, `cache` is shared between runs."""

    spec: Spec
    folder: Path
    cache: Path
    task: Task
    teacher: Teacher
    space: StudentSpace
    targets: Mapping[str, Target]
    skipped: Mapping[str, str]  # target → why it cannot be measured here
    device: str
    show: Show
    watch: Watch = watch_nothing
    host: str = field(default_factory=host_fingerprint)  # whose figures may stand beside this host's

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(self.spec.export.precisions or self.space.precisions)

    @property
    def student_id(self) -> str:
        """Stands for the space, its dimensions included, and for what its students take and give."""
        return content_id(self.built_id, {k: str(v) for k, v in self.space.dims.items()})

    @property
    def built_id(self) -> str:
        """Stands for what one student is built by: the same for a wider or narrower choice of them."""
        space, task = self.space, self.task
        return content_id(space.name, space.fingerprint, str(task.body), str(task.front), self.spec.seed)

    @property
    def fed_by(self) -> tuple[Any, ...]:
        """What students of language are fed with where they are measured, as far as `built_id` does not say; a part of
        the keys of their files and figures. Nothing of others."""
        if self.task.kind == "tokens":
            return (self.spec.students.prompt_tokens,)
        return (self.task.fingerprint,) if isinstance(self.task, TextTask) else ()

    def measured_targets(self) -> list[str]:
        """Targets that a budget names and that can be measured here, in the file's order."""
        named = dict.fromkeys(budget.target for budget in self.spec.budgets.values())
        return [name for name in named if name not in self.skipped]

    def soft_targets(self) -> Store:
        """The store: what the teacher says of every view of train and transfer, asked once."""
        return self._store

    @cached_property
    def _store(self) -> Store:
        if isinstance(self.teacher, TextTeacher):
            return AnswersAlone(self.teacher.fingerprint)
        if isinstance(self.teacher, LmTeacher):
            return self._token_store(self.teacher)
        views = min(self.spec.distill.views, self.task.views, self.teacher.views or self.task.views)
        self.watch(Stage("asking the teacher about every view of train and transfer"))
        return open_store(self.teacher, self.task, views, self.cache / "soft-targets")

    def _token_store(self, teacher: LmTeacher) -> Store:
        """Draws from the teacher's distributions, kept; where all of each is needed, a teacher asked as it goes."""
        asked = self.spec.distill
        if why := why_live(asked):
            self.show(f"note: {why}: the teacher is asked at every step, nothing is kept of what it says")
            return LiveTargets(teacher.model, self.task)
        place, ask = self.cache / "soft-targets", lambda said: self.watch(Stage(said))
        return open_token_store(teacher.model, self.task, place, asked.draws, self.spec.seed, asked.soft_targets, ask)

    @property
    def taught_by(self) -> tuple[Any, ...]:
        """Which soft targets students are trained on, where the teacher and the task do not say."""
        if not isinstance(self.teacher, LmTeacher):
            return ()
        asked = self.spec.distill
        return ("live",) if why_live(asked) else (asked.soft_targets, asked.draws, self.spec.seed)

    @cached_property
    def first_values(self) -> np.ndarray | None:
        """What a taught student's token embeddings begin from, (ids, components): the teacher's own vectors of the
        tokens. None where it gives none."""
        task, embed = self.task, getattr(self.teacher, "embed", None)
        if not isinstance(task, TextTask) or embed is None or self.space.name not in BEGIN_FROM_TEACHER:
            return None
        key = content_id(self.teacher.fingerprint, task.tokenizer.fingerprint)
        place = self.cache / TEACHERS / f"tokens-{key}.npy"
        if not place.exists():
            self.watch(Stage("asking the teacher about every token"))
        return read_table(place, embed, task.tokenizer)

    def augmented_score(self) -> float | None:
        """The teacher's score on one augmented view of val; None where there is none. Far below its clean score,
        its soft targets on such views are worth little."""
        if min(self.spec.distill.views, self.task.views, self.teacher.views or self.task.views) == 1:
            return None
        outputs = score_outputs(self.teacher, self.task, "val", self.cache / "soft-targets", view=1)
        return float(self.task.score.fn(self.task.labels("val"), outputs))

    def teacher_outputs(self, split: Any) -> np.ndarray | None:
        """What it says of a split, (rows, k); None where it returns only text."""
        if isinstance(self.teacher, TextTeacher):
            return None
        return score_outputs(self.teacher, self.task, split, self.cache / "soft-targets")


def why_live(asked: DistillSpec) -> str | None:
    """Why draws from a language model's distributions are not enough; None where they are."""
    if asked.on_policy:
        return f"distill.on_policy {asked.on_policy:g} has it score text that is yet to be written"
    if asked.loss not in ("auto", "labels") and "draws" not in loss_of(asked.loss, "tokens").needs:
        return f"distill.loss {asked.loss} needs all logits"
    if asked.temperature not in ("auto", 1):
        return f"distill.temperature {asked.temperature:g} needs all logits; tokens are drawn at 1"
    return "distill.soft_targets live asks for all logits" if asked.soft_targets == "live" else None


def open_job(
    spec: Spec, folder: Path, cache: Path, show: Show, watch: Watch = watch_nothing, may_train: bool = True
) -> Job:
    """Open data, teacher, space and targets; raises Mistakes with what does not fit, before any work. `may_train`:
    the built-in teacher, where no run has trained it yet."""
    task, teacher = open_data(spec, folder, cache, show, watch, may_train)
    space = open_students(spec, task)
    if loaded := spaces.find_loaded(space, task):
        show(f"note: {len(loaded)} pretrained weights of {space.name} are kept, in students and controls alike")
    if spec.distill.views > 1 and task.views == 1:
        show(
            f"note: {task.kind} rows here have one view each, since nothing augments them; "
            f"distill.views {spec.distill.views} asks for more"
        )
    targets = {name: open_target(spec, name) for name in dict.fromkeys(b.target for b in spec.budgets.values())}
    skipped = {name: why for name, target in targets.items() if (why := unavailable(target))}
    for name, why in skipped.items():
        show(f"target {name}: skipped, {why}")
    return Job(spec, folder, cache, task, teacher, space, targets, skipped, pick_device(spec.device), show, watch)


def open_students(spec: Spec, task: Task) -> StudentSpace:
    """The space, and all that only it and the data can tell. Raises Mistakes."""
    space = spaces.open_space(spec.students.space, spec.students.dims, spec.folder, task)
    check_settings(spec, task, space)
    return space


def open_data(spec: Spec, folder: Path, cache: Path, show: Show, watch: Watch, may_train: bool) -> tuple[Task, Teacher]:
    """The task and its teacher; a language model comes first, since it brings the tokenizer, and one that returns only
    text when nothing else can be wrong, since it costs. Which answers the run in `folder` was built of stays there."""
    options = data_options(spec)
    teachers = [replace(one, may_train=may_train) for one in teacher_options(spec)]
    if spec.task == "lm" and spec.teacher[0].asks is not None:
        questions = read_questions(options, asks_of(spec), cache / "data")
        open_students(spec, rehearse(questions))
        ask = partial(ask_all, built_of=folder / ASKED) if may_train else ask_few
        asked = ask(questions, cache / "answers", show, watch)
        task: Task = asked.task
        say_all(show, task.notes, task.warnings)
        teacher: Teacher = TextTeacher(asked)
    elif spec.task == "lm":
        model = open_causal(spec)
        own = open_own_tokenizer(spec) or model.tokenizer
        task = open_task(replace(options, tokenizer=own.data), cache / "data")
        say_all(show, task.notes, task.warnings)
        assert isinstance(task, LmTask)
        teacher = LmTeacher(fit_teacher(model, task.tokenizer), task)
    else:
        task = open_task(options, cache / "data")
        say_all(show, task.notes, task.warnings)
        if isinstance(task, TextTask) and task.waits:
            task, teacher = learn_vectors(teachers, task, spec.folder, cache / TEACHERS)
        else:
            teacher = open_teacher(teachers, task, spec.folder, cache / TEACHERS)
        check_teacher(teacher, task)
    say_all(show, teacher.notes, ())
    return task, teacher


def open_causal(spec: Spec) -> CausalTeacher:
    """Raises Mistakes where there are several: their tokens would have to be the same, and their logits averaged."""
    if len(spec.teacher) > 1:
        raise mistake("teacher", f"must be one for task: lm. Got {len(spec.teacher)}.")
    return open_causal_teacher(spec.teacher[0].path, spec.folder, spec.teacher[0].tokenizer, pick_device(spec.device))


def open_own_tokenizer(spec: Spec) -> Tokenizer | None:
    """The students', where the file names one."""
    named = spec.students.tokenizer
    return read_tokenizer((spec.folder / named).resolve(), "students.tokenizer") if named else None


def asks_of(spec: Spec) -> Asks:
    """What a teacher that returns only text is asked, and how."""
    (teacher,) = spec.teacher
    assert teacher.asks is not None
    given = teacher.asks.model_dump()
    filters = {key: given.pop(key) for key in ("valid", "min_length", "max_length", "duplicates")}
    filters["function"] = given.pop("filter")
    prompt, more = given.pop("prompt"), given.pop("prompts")
    endpoint = EndpointOptions(teacher.path, spec.folder, **given, seed=spec.seed, filters=FilterOptions(**filters))
    return Asks(prompt, more, endpoint)


def check_settings(spec: Spec, task: Task, space: StudentSpace) -> None:
    """What only data and space can tell of the file's settings. Raises Mistakes, all at once."""
    wrong = []
    allowed = dict.fromkeys((*space.precisions, *STORED))
    odd = [p for p in spec.export.precisions or () if p not in allowed]
    if odd:
        able = ", ".join(allowed)
        wrong.append(Mistake("export.precisions", f"{', '.join(odd)} is not for {space.name}, which has {able}."))
    if spec.export.max_flips is not None and task.kind != "classification":
        wrong.append(Mistake("export.max_flips", f"counts changed classes; this data is for {task.kind}."))
    if spec.export.max_flips is not None and "fp32" not in (spec.export.precisions or space.precisions):
        wrong.append(Mistake("export.max_flips", "compares with fp32, which export.precisions leaves out."))
    if isinstance(task, LmTask) and task.shared and not why_live(spec.distill):
        check_kept(spec.distill.soft_targets, spec.distill.draws)
    wrong += check_prompt(spec.students.prompt_tokens, space)
    for name, budget in spec.budgets.items():
        wrong += check_score_limit(f"budgets.{name}", budget.score, task.score.name)
        wrong += check_vocabulary(f"budgets.{name}.size_kb", budget.size_kb, space)
    if wrong:
        raise Mistakes(wrong)


def check_prompt(prompt: int | None, space: StudentSpace) -> list[Mistake]:
    """A prompt that students of the smallest context could not take in."""
    context = spaces.smallest(space).get("context")
    if prompt is None or context is None or prompt <= int(context):
        return []
    return [Mistake("students.prompt_tokens", f"must be at most the smallest context, {context}. Got {prompt}.")]


LEAST_BITS = 4  # of a weight, at the smallest precision


def check_vocabulary(where: str, size_kb: float | None, space: StudentSpace) -> list[Mistake]:
    """A limit on size that the smallest student's table of tokens breaks alone, whatever its precision."""
    smallest = spaces.smallest(space)
    if size_kb is None or not {"vocabulary", "width"} <= set(smallest):
        return []
    tokens, width = int(smallest["vocabulary"]), int(smallest["width"])
    least = tokens * width * LEAST_BITS / 8 / 1000
    if least <= size_kb:
        return []
    said = f"cannot be kept: {tokens:,} tokens of width {width} alone take {least:,.0f} kB at {LEAST_BITS} bits"
    return [
        Mistake(where, f"{said}. Got {size_kb:g}. Narrow students.dims.vocabulary, or take a teacher's text alone.")
    ]


def say_all(show: Show, notes: tuple[str, ...], warnings: tuple[str, ...]) -> None:
    for note in notes:
        show(f"note: {note}")
    for warning in warnings:
        show(f"warning: {warning}")


def open_target(spec: Spec, name: str) -> Target:
    """With its paths, which are relative to the file's folder, as they are found from here."""
    options = spec.targets.get(name)
    given = options.model_dump(exclude_none=True) if options else {}
    paths = {key: str(spec.folder / Path(given[key]).expanduser()) for key in given if key in PATHS}
    target = resolve_target(name, given | paths)
    if "profile" not in paths:
        return target
    calibration = read_profile(Path(paths["profile"])).id  # another calibration is another target
    return replace(target, options={**target.options, "id": calibration})


LIMITS = (
    "latency_ms",
    "latency_p95_ms",
    "ms_per_token",
    "first_token_ms",
    "size_kb",
    "memory_mb",
    "instructions_m",
    "score",
)


def limits_of(budget: Any) -> dict[str, float]:
    """The limits a budget sets, by name."""
    return {name: value for name in LIMITS if (value := getattr(budget, name)) is not None}


def cost_limits(budget: Any) -> dict[str, float]:
    """The limits a budget sets on what a student costs: all but its score."""
    return {name: value for name, value in limits_of(budget).items() if name != "score"}


def data_options(spec: Spec) -> DataOptions:
    data, size = spec.data, spec.students.input
    side = (size, size) if isinstance(size, int) else (size.height, size.width) if size else None
    return DataOptions(
        path=data.path,
        folder=spec.folder,
        task=spec.task,
        score=spec.score,
        label=data.label,
        split=data.split.model_dump(exclude_none=True) if data.split else None,
        group=data.group,
        layout=data.layout,
        transfer=data.transfer,
        augment=data.augment,
        keep_labels=10**9 if data.keep_labels == "all" else data.keep_labels,
        student_input=side,
        seed=spec.seed,
        views=spec.distill.views,
        text=(data.text,) if isinstance(data.text, str) else tuple(data.text or ()),
        vocabularies=values_of(spec.students.dims.get("vocabulary")),
        context=min(values_of(spec.students.dims.get("context")), default=None),
        lengths=values_of(spec.students.dims.get("length")),
    )


def values_of(dim: Any) -> tuple[int, ...]:
    """Whole numbers that the file narrows a dimension to: a value, choices, or the ends of a range."""
    if isinstance(dim, RangeSpec):
        given = dim.choices if dim.choices is not None else [dim.low, dim.high]
    else:
        given = [dim]
    return tuple(int(value) for value in given if isinstance(value, int | float))


def teacher_options(spec: Spec) -> list[TeacherOptions]:
    return [
        TeacherOptions(
            path=teacher.path,
            output=teacher.output,
            gives=teacher.gives,
            preprocess=teacher.preprocess.model_dump(exclude_none=True) if teacher.preprocess else None,
            classes=teacher.classes,
            licence=teacher.licence,
            origin=teacher.origin,
            device=pick_device(spec.device),
            tokenizer=teacher.tokenizer,
        )
        for teacher in spec.teacher
    ]
