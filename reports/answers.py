"""A teacher that returned only text: what asking it gave and took, and what students answer beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.blocks import Block, Facts, Section, Table, Text
from reports.run_tables import Run, distinct_students

MATCHES = {"teacher": "As the teacher", "label": "As the label"}
LONGEST = 200  # characters of a cell


def show_answers(run: Run) -> Section | None:
    """The lessons, how students and controls answer the prompts of test, and some answers side by side."""
    asking = run.family.get("answers")
    if not asking:
        return None
    alone = run.family.get("recipe", {}).get("student", {}).get("loss") == "labels"
    blocks: list[Block] = [Text(LEAD + (ALONE if alone else "")), Facts(say_asking(asking))]
    kept = {name: label for name, label in distinct_students(run).items() if run.budgets[name].get("answers")}
    if kept:
        lines = [say_line(label, run.budgets[name]["answers"]) for name, label in kept.items()]
        rows = max(run.budgets[name]["answers"]["rows"] for name in kept)
        blocks.append(Table("answers", pd.DataFrame(lines), CAPTION.format(rows=rows)))
        blocks += [tabulate_samples(name, kept[name], run.budgets[name]["answers"]["samples"]) for name in kept]
    return Section("What the teacher wrote, and what students write", tuple(blocks))


LEAD = (
    "The teacher returned only text: its answers that the filters kept are what students learnt, by ordinary "
    "cross-entropy. Controls learnt the labels after the same prompts, or where there are none the data's own text."
)
ALONE = " Here labels alone were better on val, so that students learnt them too, and no answer."
CAPTION = (
    "The likeliest text after each of the {rows} prompts of test, by files of the precision that ships, means over the "
    "paired seeds. "
    "Valid: as the filters want it. As the teacher, as the label: the same answer, of the prompts where the teacher's "
    "was kept, or that have a label; an answer that is not valid is none. Gain: student minus control, with its 95 % "
    "interval."
)


def say_asking(asking: Mapping[str, Any]) -> dict[str, str]:
    given, kept = asking["given"], asking["kept"]
    facts = {"Answers": f"{given:,}, of which {kept:,} are kept{f' ({100 * kept / given:.1f} %)' if given else ''}"}
    for name, counts in (("Refused", asking["refused"]), ("Requests without an answer", asking["unanswered"])):
        if counts:
            facts[name] = "; ".join(f"{count:,} × {why}" for why, count in counts.items())
    right = [
        f"{gold['right']:,} of {gold['rows']:,} on {split} ({100 * gold['right'] / gold['rows']:.1f} %)"
        for split, gold in asking["gold"].items()
        if gold["rows"]
    ]
    facts |= {"Kept answers that are the label": ", ".join(right)} if right else {}
    spent = f"{asking['requests']:,} requests, {asking['prompt_tokens']:,} + {asking['answer_tokens']:,} tokens"
    facts["Spent, all runs together"] = spent if asking["money"] is None else f"{spent}, {asking['money']:,.2f}"
    if asking["repeated"]:
        facts["Requests sent twice"] = f"{asking['repeated']:,}, in flight when a run ended"
    return facts | ({"Ended early": f"at the {asking['stopped']}"} if asking["stopped"] else {})


def say_line(label: str, told: Mapping[str, Any]) -> dict[str, str]:
    line = {"Student": label, "Valid": f"{100 * told['student']['valid']:.1f} %"}
    line["Control's"] = f"{100 * told['control']['valid']:.1f} %"
    for name, title in MATCHES.items():
        if name in told["matches"]:
            match = told["matches"][name]
            line[title] = f"{100 * match['student']:.1f} %\n(control {100 * match['control']:.1f} %)"
            line[f"Gain ({name})"] = say_gain(match["difference"])
    return {title: text.replace("-", "−") if title.startswith("Gain") else text for title, text in line.items()}


def say_gain(gap: Mapping[str, float | None]) -> str:
    """`+19.0 (+14.0 to +24.0)`, of shares; without an interval where there is none, as of a single row."""
    told = [gap[end] for end in ("value", "low", "high")]
    value, low, high = (math.nan if one is None else 100 * one for one in told)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})" if math.isfinite(low + high) else f"{value:+.1f}"


def tabulate_samples(name: str, label: str, samples: list[Mapping[str, str | None]]) -> Table:
    titles = {"prompt": "Prompt", "label": "Label", "teacher": "Teacher", "student": "Student", "control": "Control"}
    lines = [{title: shorten(one[key]) for key, title in titles.items()} for one in samples]
    return Table(
        f"answers-{name}", pd.DataFrame(lines), f"{label}: some prompts of test, of the first seed. –: nothing valid."
    )


def shorten(text: str | None) -> str:
    text = "–" if text is None else " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
