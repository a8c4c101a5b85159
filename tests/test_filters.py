"""Filters: which of a teacher's answers teach, and why the others do not."""

from __future__ import annotations

import pytest

from family.errors import Mistakes
from family.text.filters import FilterOptions, Given, open_filters, open_learnt, open_validity


def judge(options: FilterOptions, *texts: str, folder=None, rows=None) -> list[tuple[str, str]]:
    judging, _ = open_filters(options, folder)
    given = [Given(row, f"prompt {row}", text) for row, text in zip(rows or range(len(texts)), texts, strict=True)]
    return [(one.why, one.value) for one in judging(given)]


def test_without_rules_all_but_empty_answers_stay():
    assert judge(FilterOptions(), " yes\n", "", " \n\t") == [("kept", "yes"), ("empty", ""), ("empty", "")]


def test_lengths_are_characters_without_space_around():
    found = judge(FilterOptions(min_length=2, max_length=3), " a ", "ab", "😀😀😀 ", "abcd")
    assert [why for why, _ in found] == ["too short", "kept", "kept", "too long"]


@pytest.mark.parametrize(
    ("valid", "answer", "not_learnt"),
    [
        (r"Answer: (yes|no)", "Well. Answer: yes.", "maybe"),
        (r"(?i)answer[(:]\s*(?P<kind>(a|b)\2|[)c]+)\)", "ANSWER(bb)", "ab"),
        (r"(?:It is|is)(?# a (word) \(?(\w+)", "It is (green)", "two words"),
        (r"=( \d+)", "3 + 4 = 7", "7"),
        (r"yes|no", "Oh yes", "maybe"),
        (["Yes", "no"], "yes!", "maybe"),
    ],
)
def test_what_students_say_is_judged_by_what_they_learn(valid, answer, not_learnt):
    learnt = open_validity(valid)(answer)
    assert learnt
    assert open_learnt(valid)(learnt) == learnt
    assert open_learnt(valid)(not_learnt) is None


def test_an_answer_that_was_cut_off_stays_only_where_what_is_taken_of_it_is_whole():
    given = [Given(0, "", "Yes, it is", "length"), Given(1, "", "Yes, it is so.", "stop"), Given(2, "", "Yes.")]
    verdicts = [[one.why for one in open_filters(FilterOptions(valid=v), None)[0](given)] for v in (None, "Yes")]
    assert verdicts == [["cut off", "kept", "kept"], ["kept"] * 3]


def test_allowed_answers_are_told_apart_without_case_and_punctuation():
    found = judge(FilterOptions(valid=["Plant", "animal"]), "**plant.**", "ANIMAL!", "plants", "a plant", "plant")
    assert found[:2] == [("kept", "Plant"), ("kept", "animal")]
    assert [why for why, _ in found[2:]] == ["not valid", "not valid", "kept"]


def test_an_expression_takes_its_first_group_or_the_whole_match():
    assert judge(FilterOptions(valid=r"Answer:\s*(\w+)"), "So. Answer: plant, surely", "plant") == [
        ("kept", "plant"),
        ("not valid", "plant"),
    ]
    assert judge(FilterOptions(valid=r"\d+"), "about 42 of them") == [("kept", "42")]
    assert judge(FilterOptions(valid=r"x(y)?"), "x")[0][0] == "not valid"  # the group took nothing


def test_duplicates_to_a_prompt_and_at_all():
    texts, rows = ("a", "A", "b", "a"), [0, 0, 0, 1]
    options = {"valid": ["a", "b"]}
    found = {kind: judge(FilterOptions(**options, duplicates=kind), *texts, rows=rows) for kind in ("prompt", "all")}
    assert [why for why, _ in found["prompt"]] == ["kept", "duplicate", "kept", "kept"]
    assert [why for why, _ in found["all"]] == ["kept", "duplicate", "kept", "duplicate"]
    assert [why for why, _ in judge(FilterOptions(**options), *texts, rows=rows)] == ["kept"] * 4


def test_what_was_refused_makes_no_duplicate():
    found = judge(FilterOptions(min_length=3, duplicates="all", valid="b+"), "b", "abb", "abb")
    assert [why for why, _ in found] == ["too short", "kept", "duplicate"]


def write_filter(folder, body: str) -> FilterOptions:
    (folder / "mine.py").write_text(f"def keep(prompt, answer):\n    {body}\n")
    return FilterOptions(function="mine.py:keep")


def test_a_users_function_decides(tmp_path):
    options = write_filter(tmp_path, "return prompt.endswith('1') and answer != 'no'")
    found = judge(options, "yes", "yes", "no", folder=tmp_path)
    assert [why for why, _ in found] == ["refused by the function", "kept", "refused by the function"]


def test_a_users_function_that_fails_is_told_without_the_prompt(tmp_path):
    options = write_filter(tmp_path, "raise ValueError(prompt + answer)")
    with pytest.raises(
        Mistakes, match=r"teacher.asks.filter: mine.py:keep failed: ValueError \(mine.py, line 2\)"
    ) as e:
        judge(options, "secret", folder=tmp_path)
    assert "secret" not in str(e.value)
    assert "prompt 0" not in str(e.value)


def test_a_users_function_must_say_true_or_false(tmp_path):
    with pytest.raises(Mistakes, match=r"must give True \(keep\) or False. It gave str"):
        judge(write_filter(tmp_path, "return 'yes'"), "a", folder=tmp_path)


def test_the_id_follows_the_options_and_the_functions_code(tmp_path):
    options = write_filter(tmp_path, "return True")
    ids = [open_filters(one, tmp_path)[1] for one in (FilterOptions(), FilterOptions(min_length=2), options)]
    write_filter(tmp_path, "return False")
    assert len({*ids, open_filters(options, tmp_path)[1]}) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (FilterOptions(valid="("), "teacher.asks.valid: is no regular expression"),
        (FilterOptions(valid=["a", "A."]), "teacher.asks.valid: must list answers that differ in more than case"),
        (FilterOptions(valid=[]), "teacher.asks.valid: must list answers"),
        (FilterOptions(valid=["."]), "teacher.asks.valid: must list answers"),
        (FilterOptions(min_length=-1), "teacher.asks.min_length: must be 0 or more. Got -1."),
        (FilterOptions(min_length=5, max_length=4), "teacher.asks.max_length: must be at least 1 and no less than"),
        (FilterOptions(duplicates="promt"), "Got 'promt'. Did you mean 'prompt'?"),
        (FilterOptions(function="none.py:keep"), "teacher.asks.filter: names the file none.py, which is not there"),
    ],
)
def test_mistakes(options, said, tmp_path):
    with pytest.raises(Mistakes) as found:
        open_filters(options, tmp_path)
    assert said in str(found.value)
