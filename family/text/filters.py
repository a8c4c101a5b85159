"""Which of a teacher's answers teach: valid ones, of a sensible length, not said before, and as the user likes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from family.doors import describe_failure, file_of, hash_code, load_taking
from family.errors import Mistake, Mistakes, mistake
from family.run_folder import content_id
from family.suggest import did_you_mean, list_names

WHERE = "teacher.asks"
KEPT = "kept"
CUT_OFF = "length"  # what endpoints say of a text that ends at max_tokens
DUPLICATES = {"keep": "all stay", "prompt": "one of the same to a prompt stays", "all": "one of the same stays"}
AROUND = " \t\r\n.,;:!\"'`*"  # what may stand around an allowed answer


@dataclass(frozen=True)
class FilterOptions:
    """`valid`: a regular expression to be found in the answer, or the answers allowed. Lengths are characters, without
    space around. `duplicates`: keep, prompt (one of the same to a prompt stays) or all. `function`: `file.py:function`,
    `(prompt, answer) -> bool`, True to keep."""

    valid: str | Sequence[str] | None = None
    min_length: int = 1
    max_length: int | None = None
    duplicates: str = "keep"
    function: str | None = None


@dataclass(frozen=True)
class Given:
    """An answer to be judged; `row` is its prompt's. `finish`: why the text ends, as the endpoint says."""

    row: int
    prompt: str
    text: str
    finish: str = ""


@dataclass(frozen=True)
class Verdict:
    """`why`: kept, or why not. `value`: what the rule of validity took of the answer: its first group, or the whole
    match; of a list the allowed answer; without a rule the text without space around."""

    why: str
    value: str


Judge = Callable[[Sequence[Given]], list[Verdict]]


def open_filters(options: FilterOptions, folder: Path) -> tuple[Judge, str]:
    """What judges answers in their order, and an id that stands for it (its options, and the function's code).

    Raises Mistakes: an expression that is none, allowed answers that are none or alike, lengths below 0 or crossed, a
    function that is not there.
    """
    wrong = list_wrong(options)
    if wrong:
        raise Mistakes(wrong)
    take, user, code = open_validity(options.valid), None, ""
    if options.function is not None:
        where = f"{WHERE}.filter"
        user = load_taking(options.function, folder, where, ("prompt", "answer"))
        code = hash_code(options.function, folder)

    def judge(answers: Sequence[Given]) -> list[Verdict]:
        before: set[tuple[int, str]] = set()
        return [judge_one(one, options, take, user, before) for one in answers]

    return judge, content_id(asdict(options), code)


def list_wrong(options: FilterOptions) -> list[Mistake]:
    wrong = []
    if options.min_length < 0:
        wrong.append(Mistake(f"{WHERE}.min_length", f"must be 0 or more. Got {options.min_length}."))
    if options.max_length is not None and options.max_length < max(options.min_length, 1):
        least = f"must be at least 1 and no less than min_length ({options.min_length})"
        wrong.append(Mistake(f"{WHERE}.max_length", f"{least}. Got {options.max_length}."))
    if options.duplicates not in DUPLICATES:
        near = did_you_mean(options.duplicates, DUPLICATES)
        wrong.append(
            Mistake(f"{WHERE}.duplicates", f"must be {list_names(DUPLICATES)}. Got {options.duplicates!r}.{near}")
        )
    return wrong


def open_validity(valid: str | Sequence[str] | None) -> Callable[[str], str | None]:
    """Answer → what is taken of it, None where it is not valid. Raises Mistakes."""
    where = f"{WHERE}.valid"
    if valid is None:
        return str.strip
    if isinstance(valid, str):
        try:
            pattern = re.compile(valid)
        except re.error as problem:
            raise mistake(where, f"is no regular expression: {problem}.") from None
        return lambda text: take_match(pattern, text)
    allowed = {bare(name): name for name in valid}
    if not allowed or len(allowed) < len(valid) or "" in allowed:
        raise mistake(where, f"must list answers that differ in more than case and punctuation. Got {list(valid)!r}.")
    return lambda text: allowed.get(bare(text))


def take_match(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    if found is None:
        return None
    return (found.group(1) if pattern.groups else found.group()) or None


def open_learnt(valid: str | Sequence[str] | None) -> Callable[[str], str | None]:
    """As `open_validity`, of what students say: they learn what it takes. Where that is the first group of an
    expression, the group's own must match all they say, but for space around."""
    take = open_validity(valid)
    if not isinstance(valid, str) or not (whole := re.compile(valid)).groups:
        return take
    group = re.compile(first_group(valid), whole.flags)
    return lambda text: next((one for one in (text, text.strip()) if one and group.fullmatch(one)), None)


TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?#[^)]*\)|\(\?P<|\(\?|[()]|.", re.DOTALL)


def first_group(pattern: str) -> str:
    """The first group of an expression that has one, with its brackets: groups within keep their numbers."""
    start, depth, begun = 0, 0, None
    for token in TOKEN.finditer(pattern):
        said = token.group()
        if begun is None and said in ("(", "(?P<"):
            begun, start = depth, token.start()
        if said in ("(", "(?P<", "(?"):
            depth += 1
        elif said == ")":
            depth -= 1
            if depth == begun:
                return pattern[start : token.end()]
    raise AssertionError(pattern)


def bare(text: str) -> str:
    """Without case, and without space and punctuation around."""
    return text.strip(AROUND).casefold()


def judge_one(
    one: Given,
    options: FilterOptions,
    take: Callable[[str], str | None],
    user: Callable[..., Any] | None,
    before: set[tuple[int, str]],
) -> Verdict:
    """`before`: what was kept so far, by prompt; what is kept now is added."""
    text = one.text.strip()
    value = take(one.text)
    key = (one.row if options.duplicates == "prompt" else -1, text if value is None else value)
    if not text:
        why = "empty"
    elif len(text) < options.min_length:
        why = "too short"
    elif options.max_length is not None and len(text) > options.max_length:
        why = "too long"
    elif one.finish == CUT_OFF and options.valid is None:
        why = "cut off"
    elif value is None:
        why = "not valid"
    elif user is not None and not ask_user(str(options.function), user, one):
        why = "refused by the function"
    elif options.duplicates != "keep" and key in before:
        why = "duplicate"
    else:
        before.add(key)
        why = KEPT
    return Verdict(why, text if value is None else value)


def ask_user(reference: str, user: Callable[..., Any], one: Given) -> bool:
    where = f"{WHERE}.filter"
    try:
        said = user(one.prompt, one.text)
    except (Exception, SystemExit) as problem:  # noqa: BLE001  (it may quote the prompt)
        raise mistake(where, f"{reference} failed: {describe_failure(problem, file_of(user), quote=False)}.") from None
    if not isinstance(said, bool | np.bool_):
        raise mistake(where, f"{reference} must give True (keep) or False. It gave {type(said).__name__}.")
    return bool(said)
