"""What students answer beside their teacher: counted by hand, and as the report tells it."""

from __future__ import annotations

import numpy as np
import pytest
from fake_endpoint import start_endpoint
from test_asked_task import KINDS, ask, asks, number_of, write_rows

from family.text.answering import compare_matches, go_on, pick_samples, truths_of, until
from reports.answers import say_asking, say_line, show_answers
from reports.run_tables import Run


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")

    def say(prompt, settings):
        return "nothing" if number_of(prompt) % 5 == 0 else KINDS[0]

    with start_endpoint(say=say) as server:
        return ask(write_rows(folder, lambda i: i % 3 != 1), asks(server.url, folder), folder)[0]


def test_matches_are_counted_among_prompts_with_a_truth(asked):
    rows = [int(i) for i in asked.questions.splits["test"]]
    numbers = [number_of(asked.questions.prompts[i]) for i in rows]
    truths = truths_of(asked, rows)
    assert set(truths["label"]) == set(rows)
    assert set(truths["teacher"]) == {i for i, n in zip(rows, numbers, strict=True) if n % 5}
    right = [KINDS[n % 2] for n in numbers]
    told = {"student": [right, right], "control": [[None] * len(rows), right]}
    gold = compare_matches(asked, rows, truths["label"], told)
    assert (gold["rows"], gold["student"], gold["control"]) == (len(rows), 1.0, 0.5)
    assert gold["difference"]["value"] == pytest.approx(0.5)
    teacher = compare_matches(asked, rows, truths["teacher"], told)
    assert teacher["rows"] == len(truths["teacher"])
    assert teacher["student"] == pytest.approx(np.mean([n % 2 == 0 for n in numbers if n % 5]))


def test_samples_stand_side_by_side(asked):
    rows = [int(i) for i in asked.questions.splits["test"]]
    told = {"student": [[f"s{i}" for i in rows]], "control": [[None for _ in rows]]}
    found = pick_samples(asked, rows, told)
    assert 1 < len(found) <= 6
    assert found[0]["prompt"] == asked.questions.prompts[rows[0]]
    assert (found[1]["student"], found[1]["control"]) == (f"s{rows[1]}", None)


def test_an_answer_ends_where_the_student_ends_it(asked):
    """The 'student' says 7, 8, 9 and ends, if the prompt's last token is 5; others never end."""
    task, after = asked.task.seen_by(PARAMS), {5: 7, 7: 8, 8: 9, 9: asked.task.start}

    def runner(feeds):
        logits = np.zeros((*feeds["input_ids"].shape, task.vocabulary), np.float32)
        for row, last in enumerate(feeds["input_ids"][:, -1]):
            logits[row, -1, after.get(int(last), 20)] = 1
        return logits

    told = go_on(task, runner, np.array([[1, 4, 5], [1, 4, 6]]), 6)
    assert told == [[7, 8, 9], [20] * 6]
    assert until([3, 1, 4, 1], 1) == [3]


PARAMS = {"width": 32, "depth": 1, "heads": 2, "feed": 2, "vocabulary": 300, "context": 64}
ASKING = {
    "given": 1240,
    "kept": 992,
    "repeated": 23,
    "stopped": "",
    "refused": {"not valid": 240, "empty": 8},
    "unanswered": {},
    "requests": 1804,
    "prompt_tokens": 30_000,
    "answer_tokens": 4_000,
    "money": 1.5,
    "gold": {"val": {"rows": 200, "right": 180}, "test": {"rows": 0, "right": 0}},
}


def match(student: float, control: float) -> dict:
    gap = {"value": student - control, "low": student - control - 0.05, "high": student - control + 0.05}
    return {"rows": 300, "student": student, "control": control, "difference": gap}


TOLD = {
    "rows": 320,
    "student": {"valid": 1.0},
    "control": {"valid": 0.995},
    "matches": {"teacher": match(0.71, 0.52), "label": match(0.66, 0.67)},
    "samples": [{"prompt": "a" * 300, "label": "plant", "teacher": None, "student": "plant", "control": "food"}],
}


def test_the_report_tells_what_asking_gave_and_took():
    facts = say_asking(ASKING)
    assert facts["Answers"] == "1,240, of which 992 are kept (80.0 %)"
    assert facts["Refused"] == "240 × not valid; 8 × empty"
    assert facts["Kept answers that are the label"] == "180 of 200 on val (90.0 %)"
    assert facts["Spent, all runs together"] == "1,804 requests, 30,000 + 4,000 tokens, 1.50"
    assert facts["Requests sent twice"] == "23, in flight when a run ended"
    assert not {"Requests without an answer", "Ended early"} & set(facts)


def test_the_report_tells_how_students_answer():
    line = say_line("small", TOLD)
    assert line["As the teacher"] == "71.0 %\n(control 52.0 %)"
    assert line["Gain (teacher)"] == "+19.0 (+14.0 to +24.0)"
    assert line["Gain (label)"] == "−1.0 (−6.0 to +4.0)"
    unknown = {"value": 0.25, "low": None, "high": None}
    alone = {"label": {**match(0.75, 0.5), "difference": unknown}}
    assert say_line("small", {**TOLD, "matches": alone})["Gain (label)"] == "+25.0"
    budget = {"status": "kept", "id": "a", "precision": "fp32", "target": "cpu", "answers": TOLD}
    run = Run({"answers": ASKING, "budgets": {"small": budget}}, *[None] * 4)
    section = show_answers(run)
    assert "labels alone" not in section.blocks[0].text
    alone = Run({**run.family, "recipe": {"student": {"loss": "labels"}}}, *[None] * 4)
    assert "no answer" in show_answers(alone).blocks[0].text
    samples = section.blocks[-1].frame
    assert samples["Prompt"][0] == "a" * 199 + "…"
    assert samples["Teacher"][0] == "–"
    assert show_answers(Run({"answers": {}, "budgets": {}}, *[None] * 4)) is None
