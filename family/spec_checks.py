"""What the types of budgets.yaml cannot say: names, files, and what each target can answer.

Works on the file's raw data, so that these mistakes are told together with the others: every check passes
over what has the wrong type, which is told elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from family.errors import Mistake, Mistakes
from family.suggest import did_you_mean, hint_target, list_names, nearest
from family.text.endpoint import check_url
from family.yaml_lines import join

TASKS = ("images", "table", "series", "text", "lm")
SPACES = ("mlp", "conv", "encoder", "static", "decoder")
REFUSED = ("detection", "segmentation")
GENERATING = ("ms_per_token", "first_token_ms")  # what a language model is timed for
ONE_ANSWER = ("latency_ms", "latency_p95_ms")  # and any other student
COSTS = ("ms_per_token", "first_token_ms", *ONE_ANSWER, "size_kb", "memory_mb", "instructions_m")
SHARES = ("accuracy", "exact_match", "macro_f1", "auroc")  # scores that lie within 0 and 1
SAFE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
FILE_REFERENCE = r"\.py:[A-Za-z_]\w*$"


def check_meaning(raw: Mapping[str, Any], folder: Path) -> Iterator[Mistake]:
    """Every mistake beyond types."""
    yield from check_names(raw, folder)
    yield from check_files(raw, folder)
    yield from check_targets(raw, folder)
    yield from check_budgets(raw)
    yield from check_precisions(raw)
    yield from check_asks(raw)
    yield from check_tokens(raw)
    yield from check_unheard(raw)
    yield from check_machines(as_mapping(raw.get("search")))


def check_asks(raw: Mapping[str, Any]) -> Iterator[Mistake]:
    """A teacher that returns only text is asked something, in a task of language, and there is one of it."""
    given = raw.get("teacher")
    for i, teacher in enumerate(given if isinstance(given, list) else [given]):
        where = f"teacher[{i}]" if isinstance(given, list) else "teacher"
        path = as_mapping(teacher).get("path") if isinstance(teacher, Mapping) else teacher
        by_text = isinstance(path, str) and path.startswith(("http://", "https://"))
        asks = isinstance(teacher, Mapping) and teacher.get("asks") is not None
        if by_text:
            yield from check_url(str(path))
        if by_text and not asks:
            yield Mistake(where, "returns only text: say in `asks` what it is asked, at least prompt and model.")
        if (by_text or asks) and raw.get("task") != "lm":
            yield Mistake("task", f"must be lm, as the teacher returns only text. Got {raw.get('task')!r}.")
        if (by_text or asks) and isinstance(given, list) and len(given) > 1:
            yield Mistake(where, "returns only text, which cannot be averaged with other teachers.")
        if asks:
            why = "is not for a teacher that returns only text"
            yield from refuse(as_mapping(teacher), ("tokenizer",), where, why)
            for part, names in NOT_OF_TEXT.items():
                yield from refuse(as_mapping(raw.get(part)), names, part, why)
        if raw.get("task") == "lm":
            yield from refuse(as_mapping(teacher), OF_OUTPUTS, where, "is not for task: lm")


def refuse(given: Mapping[str, Any], names: Iterable[str], where: str, why: str) -> Iterator[Mistake]:
    """Keys that nothing would follow, unless they say nothing."""
    for name in names:
        if given.get(name) not in (None, "auto", 0):
            yield Mistake(f"{where}.{name}", f"{why}. Leave it out.")


OF_OUTPUTS = ("output", "gives", "preprocess", "classes")  # a teacher's keys about what it takes and gives
NOT_OF_TEXT = {  # what only distributions over tokens could follow
    "distill": ("draws", "soft_targets", "on_policy", "label_weight", "temperature"),
    "students": ("tokenizer",),
}
TOKENS_ALONE = {"distill": ("draws", "soft_targets", "on_policy"), "students": ("tokenizer", "prompt_tokens")}


def check_tokens(raw: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is about next tokens goes with a teacher that gives their distributions."""
    distill = as_mapping(raw.get("distill"))
    if raw.get("task") != "lm":
        for part, names in TOKENS_ALONE.items():
            for name in names:
                if name in as_mapping(raw.get(part)):
                    yield Mistake(f"{part}.{name}", "is for task: lm. Leave it out.")
    elif distill.get("on_policy") and distill.get("loss") in ("labels", "answers"):
        yield Mistake("distill.on_policy", f"needs a loss that asks the teacher. Got loss '{distill['loss']}'.")


PICTURES_ALONE = {"data": ("layout", "augment"), "students": ("input",)}
UNHEARD = {
    "text": PICTURES_ALONE,
    "lm": {**PICTURES_ALONE, "data": (*PICTURES_ALONE["data"], "transfer", "keep_labels")},
}


def check_unheard(raw: Mapping[str, Any]) -> Iterator[Mistake]:
    """Keys that a task of language would pass over in silence."""
    task = raw.get("task")
    for part, names in UNHEARD.get(task, {}).items() if isinstance(task, str) else ():
        given = as_mapping(raw.get(part))
        for name in names:
            if given.get(name) not in (None, "none", "auto"):
                why = ", where every text teaches" if name in ("transfer", "keep_labels") else ""
                yield Mistake(f"{part}.{name}", f"is not for task: {task}{why}. Leave it out.")


def check_machines(search: Mapping[str, Any]) -> Iterator[Mistake]:
    """Where the study lives."""
    storage = search.get("storage")
    if isinstance(storage, str):
        from family.storages import check_url

        try:
            check_url(storage)
        except Mistakes as problem:
            yield from problem.mistakes


def as_mapping(value: Any) -> Mapping[str, Any]:
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}


def check_names(raw: Mapping[str, Any], folder: Path) -> Iterator[Mistake]:
    task, space = raw.get("task"), as_mapping(raw.get("students")).get("space")
    if isinstance(task, str) and any(word in task.lower() for word in REFUSED) and not is_reference(task):
        yield Mistake("task", f"'{task}' is not supported: students give one answer per example, no boxes or masks.")
    else:
        yield from check_name("task", task, TASKS, folder)
    yield from check_name("students.space", space, SPACES, folder)
    yield from check_score(raw.get("score"), folder)


def check_name(where: str, name: Any, valid: tuple[str, ...], folder: Path) -> Iterator[Mistake]:
    """One of `valid`, or path/file.py:function."""
    if not isinstance(name, str) or name in valid:
        return
    if is_reference(name):
        yield from check_reference(where, name, folder)
    else:
        allowed = list_names([*valid, "path/file.py:function"])
        yield Mistake(where, f"must be {allowed}. Got {name!r}.{did_you_mean(name, valid)}")


def check_score(name: Any, folder: Path) -> Iterator[Mistake]:
    if not isinstance(name, str):
        return
    from reports.scores import SCORES

    yield from check_name("score", name, tuple(SCORES), folder)


def is_reference(text: str) -> bool:
    return ".py:" in text or text.endswith(".py")


def check_reference(where: str, reference: str, folder: Path) -> Iterator[Mistake]:
    """`path/file.py:function`, whose file must be there."""
    file = reference.rpartition(":")[0]
    if not re.search(FILE_REFERENCE, reference):
        said = file if reference.count(".py:") else reference
        yield Mistake(where, f"must name a function: {said or 'path/file.py'}:function. Got {reference!r}.")
        return
    yield from check_file(where, file, folder)


def check_file(where: str, named: str, folder: Path) -> Iterator[Mistake]:
    path = folder / named
    if not named.strip():
        yield Mistake(where, "must not be empty.")
    elif named.startswith(("http://", "https://")) and where.startswith("teacher"):
        return  # what it is asked, and how, is gone over where it is opened
    elif "://" in named:
        yield Mistake(where, f"must be a file or folder on this machine. Got {named!r}.")
    elif not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, beside)
        yield Mistake(where, f"names {named}, which is not there (looked for {path}).{near}")


def check_files(raw: Mapping[str, Any], folder: Path) -> Iterator[Mistake]:
    for where, named in name_files(raw):
        if not isinstance(named, str) or (named == "digits" and where != "data.transfer"):
            continue
        if is_reference(named):
            yield from check_reference(where, named, folder)
        else:
            yield from check_file(where, named, folder)
    augment = as_mapping(raw.get("data")).get("augment")
    if isinstance(augment, str):
        yield from check_name("data.augment", augment, ("auto", "none"), folder)


def name_files(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """YAML path and value of every key that names a file."""
    data = raw.get("data")
    if isinstance(data, str):
        yield "data", data
    for key in ("path", "transfer"):
        if key in as_mapping(data):
            yield f"data.{key}", as_mapping(data)[key]
    given = raw.get("teacher")
    for i, teacher in enumerate(given if isinstance(given, list) else [given]):
        where = f"teacher[{i}]" if isinstance(given, list) else "teacher"
        if isinstance(teacher, str):
            yield where, teacher
        for key in ("path", "classes"):
            if key in as_mapping(teacher):
                yield f"{where}.{key}", as_mapping(teacher)[key]


def can_target_answer(name: str, options: Mapping[str, Any]) -> frozenset[str]:
    """The limits that target `name` answers; what times a student times a language model. Raises ValueError where it is
    no target."""
    from benchmark import can_answer, resolve_target

    answers = can_answer(resolve_target(name, options))
    return answers | set(GENERATING) if "latency_ms" in answers else answers


def check_targets(raw: Mapping[str, Any], folder: Path) -> Iterator[Mistake]:
    from benchmark import PRESETS, read_profile

    for name, options in as_mapping(raw.get("targets")).items():
        given = as_mapping(options)
        if name not in PRESETS and not {"transport", "profile"} & set(given):
            known = f"its name is no preset ({', '.join(PRESETS)})"
            yield Mistake(f"targets.{name}", f"must have a transport, as {known}.{hint_target(name, PRESETS)}")
            continue
        try:
            can_target_answer(name, given)
            if isinstance(given.get("profile"), str):
                read_profile(folder / given["profile"])
        except (ValueError, TypeError) as problem:
            yield Mistake(f"targets.{name}", f"cannot be used: {str(problem).rstrip('.')}.")


def check_budgets(raw: Mapping[str, Any]) -> Iterator[Mistake]:
    from benchmark import PRESETS

    own = as_mapping(raw.get("targets"))
    folders: dict[str, str] = {}
    for name, given in as_mapping(raw.get("budgets")).items():
        where, budget = f"budgets.{name}", as_mapping(given)
        twin = folders.setdefault(name.lower(), name)
        if twin != name:
            yield Mistake(where, f"differs from '{twin}' by upper and lower case alone, and both name a folder.")
        target = budget.get("target")
        if isinstance(target, str) and target not in own and target not in PRESETS:
            known = [*dict.fromkeys([*own, *PRESETS])]
            said = f"must be a preset or a name in targets: {', '.join(known)}. Got {target!r}."
            yield Mistake(
                f"{where}.target",
                said + (did_you_mean(target, own) if nearest(target, known) in own else hint_target(target, PRESETS)),
            )
        elif isinstance(target, str):
            untimed = ONE_ANSWER if raw.get("task") == "lm" else GENERATING
            yield from check_limits(where, budget, target, as_mapping(own.get(target)), untimed)
            yield from check_timing(where, budget, raw.get("task"))
        yield from check_score_limit(where, budget.get("score"), raw.get("score"))


def check_limits(
    where: str, budget: Mapping[str, Any], target: str, options: Mapping[str, Any], untimed: tuple[str, ...]
) -> Iterator[Mistake]:
    """Limits that the target cannot answer; `untimed`: those that such students are not timed for."""
    try:
        answers = can_target_answer(target, options)
    except (ValueError, TypeError):
        return  # told by check_targets
    able = list_names([cost for cost in COSTS if cost in answers and cost not in untimed], "and")
    for cost in COSTS:
        if budget.get(cost) is not None and cost not in answers:
            yield Mistake(f"{where}.{cost}", f"cannot be answered by target '{target}', which answers {able}.")
    by = budget.get("cheapest_by")
    if by in COSTS and by not in answers:
        yield Mistake(f"{where}.cheapest_by", f"{by} cannot be answered by target '{target}', which answers {able}.")


def check_timing(where: str, budget: Mapping[str, Any], task: Any) -> Iterator[Mistake]:
    """A language model is timed by token, any other student by answer; a user's task may be either."""
    refused = ONE_ANSWER if task == "lm" else GENERATING
    wanted = GENERATING if task == "lm" else ONE_ANSWER
    if isinstance(task, str) and is_reference(task):
        return
    whom = "task: lm" if task == "lm" else "students that give one answer"
    for cost in refused:
        if budget.get(cost) is not None:
            yield Mistake(f"{where}.{cost}", f"is not for {whom}, which {list_names(wanted, 'and')} time.")
    by = budget.get("cheapest_by")
    if by in refused:
        yield Mistake(f"{where}.cheapest_by", f"{by} is not for {whom}, which {list_names(wanted, 'and')} time.")


def check_score_limit(where: str, limit: Any, score: Any) -> Iterator[Mistake]:
    if score in SHARES and isinstance(limit, int | float) and not isinstance(limit, bool) and not 0 <= limit <= 1:
        hint = f" Did you mean {limit / 100:g}?" if 1 < limit <= 100 else ""
        yield Mistake(f"{where}.score", f"must lie within 0 and 1, as {score} does. Got {limit:g}.{hint}")


def check_precisions(raw: Mapping[str, Any]) -> Iterator[Mistake]:
    given: Any = as_mapping(raw.get("export")).get("precisions")
    if given == []:
        yield Mistake(
            "export.precisions",
            "must name at least one of fp32, int8, int8-dynamic, int4, int8-weights and fp16-weights.",
        )
    for i, name in enumerate(given if isinstance(given, list) else []):
        if name in given[:i]:
            yield Mistake(join("export.precisions", i), f"names {name} again.")
