"""Asking a teacher for text: what is written when, what is asked again, what is spent, and what is kept."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace

import pytest
from fake_endpoint import WORDS, one_in_three, start_endpoint

from family.errors import Mistakes, RunFailed
from family.text import answers
from family.text.answer_store import NAME, open_store
from family.text.answers import TERMS, collect_answers, wait_s
from family.text.client import Refused
from family.text.endpoint import EndpointOptions, make_requests
from family.text.filters import FilterOptions
from family.text.spending import Pace, Spent, broken_cap, forecast_cost, money

PROMPTS = tuple(f"Which kind is thing {i}? hunter2" for i in range(12))
VALID = FilterOptions(valid=WORDS)


def quick(url: str, **given) -> EndpointOptions:
    """Without a wait between tries."""
    return EndpointOptions(url, **{"model": "m", "first_wait_s": 0.0, "filters": VALID} | given)


def collect(options: EndpointOptions, folder, prompts=PROMPTS):
    said: list[str] = []
    found = collect_answers(options, prompts, folder, said.append)
    return found, "\n".join(said)


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def test_every_prompt_gets_an_answer_that_is_written_and_judged(tmp_path):
    with start_endpoint() as server:
        found, said = collect(quick(server.url), tmp_path)
    assert [one.prompt for one in found.given] == list(range(12))
    assert found.kept == found.given
    assert {one.value for one in found.kept} <= set(WORDS)
    assert found.asked == len(server.asked) == 12
    written = lines_of(tmp_path)
    assert Counter(line["what"] for line in written) == {"store": 1, "intent": 12, "answer": 12, "verdict": 12}
    answer = next(line for line in written if line["what"] == "answer")
    assert answer["settings"] == {"model": "m", "temperature": 0.0, "max_tokens": 256, "seed": 0}
    assert answer["finish"] == "stop"
    assert {line["verdict"] for line in written if line["what"] == "verdict"} == {"kept"}
    assert said.count(TERMS) == 1
    assert (tmp_path / NAME).stat().st_mode & 0o077 == 0


def test_nothing_written_is_asked_again_and_the_terms_are_said_once(tmp_path):
    with start_endpoint() as server:
        first, _ = collect(quick(server.url), tmp_path)
        second, said = collect(quick(server.url, filters=FilterOptions(valid=["plant"])), tmp_path)
        third, _ = collect(quick(server.url), tmp_path)
        more, _ = collect(quick(server.url), tmp_path, (*PROMPTS, "one more"))
    assert len(server.asked) == 13
    assert (second.asked, more.asked) == (0, 1)
    assert "12 of 12 answers are there" in said
    assert TERMS not in said
    assert len(second.kept) + second.refused["not valid"] == 12
    assert 0 < len(second.kept) < 12
    assert third.fingerprint == first.fingerprint != second.fingerprint
    assert more.given[:12] == first.given


def test_the_intent_is_on_the_disk_before_the_request_is_sent(tmp_path):
    missing = []

    def look(prompt: str, nth: int) -> str:
        known = {line["id"] for line in lines_of(tmp_path) if line["what"] == "intent"}
        missing.extend(one.id for one in requests if one.prompt == prompt and one.id not in known)
        return ""

    with start_endpoint(look) as server:
        requests = make_requests(quick(server.url), PROMPTS)[0]
        collect(quick(server.url), tmp_path)
        assert [one.id for one in server.asked] == [one.id for one in requests] or len(server.asked) == 12
        assert {one.id for one in server.asked} == {one.id for one in requests}
    assert missing == []


def test_what_fails_is_tried_again_under_the_same_id(tmp_path):
    with start_endpoint(one_in_three) as server:
        found, said = collect(quick(server.url), tmp_path)
    failed = [one for one in server.asked if one.fault]
    assert len(failed) == found.troubles.total() > 2
    assert len(found.given) == 12
    assert found.asked == found.spent.requests == len(server.asked) == 12 + len(failed)
    assert {one.id for one in failed} <= {one.id for one in server.asked if not one.fault}
    assert "tries that failed" in said


def test_the_same_faults_give_the_same_answers_and_the_same_count(tmp_path):
    counts = []
    for name in "ab":
        with start_endpoint(one_in_three) as server:
            found, _ = collect(quick(server.url, at_once=1 if name == "a" else 4), tmp_path / name)
            counts.append((Counter(one.fault for one in server.asked), [one.value for one in found.kept]))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("fault", ["429", "429 without a word", "500", "html", "truncated", "hang up", "timeout"])
def test_a_fault_that_passes_costs_one_more_request(fault, tmp_path):
    options = {"timeout_s": 0.2} if fault == "timeout" else {}
    with start_endpoint(lambda prompt, nth: fault if nth == 0 else "") as server:
        found, _ = collect(quick(server.url, **options), tmp_path, PROMPTS[:2])
    assert (len(found.kept), found.asked, len(server.asked)) == (2, 4, 4)


@pytest.mark.parametrize("fault", ["quota", "400", "404", "large", "number", "redirect"])
def test_a_fault_that_does_not_pass_is_not_tried_again(fault, tmp_path):
    with start_endpoint(lambda prompt, nth: fault if prompt == PROMPTS[0] else "") as server:
        found, said = collect(quick(server.url), tmp_path)
        assert (len(found.kept), len(server.asked)) == (11, 12)
        assert sum(found.unanswered.values()) == 1
        assert "requests without an answer: 1 × " in said
        again, _ = collect(quick(server.url), tmp_path)  # what was given up is tried by the next run
    assert (again.asked, len(server.asked)) == (1, 13)


def test_empty_text_is_refused_by_the_filters_and_never_asked_again(tmp_path):
    with start_endpoint(lambda prompt, nth: "empty" if prompt == PROMPTS[3] else "") as server:
        for _ in range(2):
            found, _ = collect(quick(server.url), tmp_path)
    assert len(server.asked) == 12
    assert found.refused == {"empty": 1}
    assert 3 not in [one.prompt for one in found.kept]


def test_text_that_ends_at_the_most_tokens_is_refused_and_never_asked_again(tmp_path):
    with start_endpoint(lambda prompt, nth: "length" if prompt == PROMPTS[3] else "") as server:
        for _ in range(2):
            found, _ = collect(quick(server.url, filters=FilterOptions()), tmp_path)
    assert len(server.asked) == 12
    assert found.refused == {"cut off": 1}


def test_an_endpoint_that_is_away_ends_the_run_which_goes_on_later(tmp_path):
    with start_endpoint(lambda prompt, nth: "500" if nth < 2 else "") as server:
        with pytest.raises(RunFailed, match=r"no answer to 10 requests in a row; the last: HTTP 500"):
            collect(quick(server.url, retries=0, at_once=1), tmp_path)
        assert len(server.asked) == 10
        with pytest.raises(RunFailed):
            collect(quick(server.url, retries=0, at_once=1), tmp_path)
        found, _ = collect(quick(server.url, retries=2), tmp_path)
    assert len(found.kept) == 12
    assert found.spent.requests == len(server.asked)


def test_several_answers_to_a_prompt_each_with_its_own_seed(tmp_path):
    options = {"answers": 3, "temperature": 0.8, "at_once": 1}
    with start_endpoint() as server:
        found, _ = collect(quick(server.url, **options), tmp_path, PROMPTS[:4])
        filters = replace(VALID, duplicates="prompt")
        fewer, _ = collect(quick(server.url, **options, filters=filters), tmp_path, PROMPTS[:4])
    assert [one.body["seed"] for one in server.asked] == [0] * 4 + [1] * 4 + [2] * 4
    assert [(one.prompt, one.number) for one in found.given] == [(p, n) for p in range(4) for n in range(3)]
    said = [{one.value for one in found.kept if one.prompt == p} for p in range(4)]
    assert len(fewer.kept) == sum(map(len, said)) < 12


def test_equal_prompts_are_asked_once_and_each_has_the_answer(tmp_path):
    with start_endpoint() as server:
        found, _ = collect(quick(server.url), tmp_path, ("same", "other", "same"))
    assert len(server.asked) == 2
    assert [one.prompt for one in found.kept] == [0, 1, 2]
    assert found.kept[0].value == found.kept[2].value


def test_no_more_requests_at_once_than_allowed(tmp_path):
    with start_endpoint(wait_s=0.02) as server:
        collect(quick(server.url, at_once=3), tmp_path)
    assert server.most == 3


def test_a_429_pauses_all_requests_for_as_long_as_it_says(tmp_path):
    paused = []
    with start_endpoint(lambda prompt, nth: "429" if (prompt, nth) == (PROMPTS[0], 0) else "") as server:
        options = quick(server.url, at_once=1)
        pause = Pace.pause
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pace, "pause", lambda self, seconds: paused.append(seconds) or pause(self, seconds))
            collect(options, tmp_path, PROMPTS[:2])
    assert paused == [0.05]


def test_waits_double_are_the_same_in_every_run_and_never_less_than_asked():
    options = EndpointOptions("http://127.0.0.1/v1", model="m", first_wait_s=1.0)
    request = make_requests(options, ("a",))[0][0]
    waits = [wait_s(options, request, turn, None) for turn in range(12)]
    assert waits == [wait_s(options, request, turn, None) for turn in range(12)]
    for turn, wait in enumerate(waits):
        assert 0.5 <= wait / min(60.0, 2.0**turn) <= 1.5
    assert wait_s(options, request, 0, 30.0) == 30.0


def test_requests_stand_apart_by_the_rates():
    now = [0.0]
    options = EndpointOptions("http://127.0.0.1/v1", requests_per_minute=60, tokens_per_minute=600)
    pace = Pace(options, lambda: now[0])
    assert [pace.book(10), pace.book(5)] == [0.0, 1.0]
    pace.correct(20)  # the first took 20 more: 2 s
    assert pace.book(10) == pytest.approx(1.0 + 0.5 + 2.0)
    pace.pause(60)
    assert pace.book(10) == 60
    now[0] = 100.0
    assert pace.book(10) == 0.0


def test_the_cost_is_forecast_before_and_told_after(tmp_path):
    prices = {"prompt_price": 1.0, "answer_price": 10.0, "max_tokens": 8}
    with start_endpoint() as server:
        options = quick(server.url, **prices)
        guess = sum(one.prompt_tokens for one in make_requests(options, PROMPTS)[0])
        found, said = collect(options, tmp_path)
        _, more = collect(options, tmp_path, (*PROMPTS, "one more"))
    before = said.index(f"12 requests, {guess} + 96 tokens, {(guess + 960) / 1000:,.2f} by the prices given (at most")
    assert before < said.index("spent so far")
    assert (found.spent.prompt_tokens, found.spent.answer_tokens) == (12 * 6, 12)
    assert found.money == pytest.approx(0.072 + 0.12)
    assert "1 requests, 6 + 1 tokens, 0.02 by the prices given (by the mean of 12 answers" in more


def test_a_forecast_is_the_mean_of_what_is_known():
    options = EndpointOptions("http://127.0.0.1/v1", model="m", max_tokens=50)
    left = make_requests(options, ("abcd" * 5,) * 3)[0]
    assert forecast_cost(left, Spent(9, 90, 90), options)[0] == Spent(3, 15, 150)
    assert forecast_cost(left, Spent(10, 100, 20), options)[0] == Spent(3, 30, 6)


def test_money_and_caps_by_hand():
    options = EndpointOptions("http://x/v1", prompt_price=2.0, answer_price=6.0, cap_money=1.0, cap_tokens=300)
    assert money(Spent(1, 200, 100), options) == pytest.approx(1.0)
    assert broken_cap(Spent(1, 200, 100), options) == ""
    assert broken_cap(Spent(1, 201, 100), options) == "cap_tokens of 300"
    assert broken_cap(Spent(1, 190, 110), options) == "cap_money of 1.0"
    assert money(Spent(1, 200, 100), EndpointOptions("http://x/v1")) is None


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_cap_is_kept_and_ends_with_what_is_there(at_once, tmp_path):
    with start_endpoint(one_in_three) as server:
        options = quick(server.url, cap_requests=7, at_once=at_once)
        found, said = collect(options, tmp_path)
        assert found.asked == len(server.asked) == 7
        assert "the cap_requests of 7 may end it early" in said
        assert "stopped at the cap_requests of 7" in said
        assert collect(options, tmp_path)[0].asked == 0
        further, _ = collect(replace(options, cap_requests=100), tmp_path)
    assert len(further.kept) == 12
    assert further.spent.requests == len(server.asked)


def test_a_cap_on_tokens_waits_for_what_is_on_its_way(tmp_path):
    """Each request may take 8 + 8 tokens and takes 6 + 1: four at once may take 64, and yet seven are sent."""
    with start_endpoint() as server:
        found, _ = collect(quick(server.url, max_tokens=8, cap_tokens=60, at_once=4), tmp_path)
    assert found.spent == Spent(7, 42, 7)
    assert found.stopped == "cap_tokens of 60"


def test_the_key_and_the_prompts_are_nowhere_in_the_store_or_in_what_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-4711-secret")

    def repeat(prompt, settings):
        return "plant; your key is sk-4711-secret"

    with start_endpoint(one_in_three, key="sk-4711-secret", say=repeat) as server:
        options = quick(server.url, api_key_env="MY_KEY", filters=FilterOptions())
        found, said = collect(options, tmp_path)
        monkeypatch.setenv("MY_KEY", "sk-4711-secreT")
        with pytest.raises(RunFailed) as failed:
            collect(options, tmp_path, [f"{one}!" for one in PROMPTS])
    assert found.kept[0].value == "plant; your key is ***"
    assert "is the key in MY_KEY right?" in str(failed.value)
    for text in (said, str(failed.value), *(path.read_text() for path in tmp_path.rglob("*.*"))):
        assert "sk-4711" not in text
        assert "hunter2" not in text


def test_a_missing_key_and_bad_prompts_are_told_before_anything_is_sent(tmp_path, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with start_endpoint() as server:
        with pytest.raises(Mistakes, match="MY_KEY, which is not set"):
            collect(quick(server.url, api_key_env="MY_KEY"), tmp_path)
        with pytest.raises(Mistakes, match=r"are 1 prompts that are empty, first in rows \[1\]"):
            collect(quick(server.url), tmp_path, ("a", " "))
        with pytest.raises(Mistakes, match="no regular expression"):
            collect(quick(server.url, filters=FilterOptions(valid="(")), tmp_path)
    assert not server.asked


def test_a_line_that_was_cut_off_is_passed_over_and_its_request_repeated(tmp_path):
    with start_endpoint() as server:
        collect(quick(server.url), tmp_path)
        path = tmp_path / NAME
        whole = path.read_bytes().splitlines(keepends=True)
        last = max(i for i, line in enumerate(whole) if b'"answer"' in line)
        path.write_bytes(b"".join(whole[:last]) + whole[last][:40])
        found, said = collect(quick(server.url), tmp_path)
    assert "note: 1 requests were in flight when the last run ended" in said
    assert "1 lines of the store were cut off" in said
    assert (len(found.kept), found.asked, found.repeated, found.spent.requests) == (12, 1, 1, 13)
    assert len(server.asked) == 13


def test_what_was_in_flight_comes_first_even_if_it_failed_before(tmp_path):
    options = quick("http://127.0.0.1:9/v1")
    wanted = make_requests(options, PROMPTS)
    first, second, third = wanted[0][:3]
    with open_store(tmp_path, print) as store:
        for request in (second, third):
            store.write(answers.intent_line(request), answers.failure_line(request, Refused("HTTP 500", again=True)))
        store.write(answers.intent_line(third))
    with open_store(tmp_path, print) as store:
        left = answers.list_left(wanted, store)
        assert set(store.in_flight) == {third.id}
    assert (left[0], left[1], left[-1]) == (third, first, second)


@pytest.mark.parametrize("junk", [b"null\n", b"[]\n", b'{"what": "answer"}\n', b"\xff\xfe\n", b'{"what": "x"}\n'])
def test_lines_that_say_nothing_are_passed_over(junk, tmp_path):
    with start_endpoint() as server:
        collect(quick(server.url), tmp_path)
        with (tmp_path / NAME).open("ab") as handle:
            handle.write(junk)
        found, said = collect(quick(server.url), tmp_path)
    assert (found.asked, len(found.kept)) == (0, 12)
    assert "1 lines of the store were cut off" in said


def test_a_store_of_another_format_is_left_alone(tmp_path):
    (tmp_path / NAME).write_text('{"what": "store", "format": 9}\n')
    with pytest.raises(RunFailed, match="is of format 9, which this version cannot read"):
        collect(quick("http://127.0.0.1:9/v1"), tmp_path)


def test_a_full_disk_ends_it_kindly_and_the_same_call_goes_on(tmp_path, monkeypatch):
    write, written = answers.AnswerStore.write, []

    def full(self, *lines):
        written.append(lines)
        if len(written) > 9:
            raise OSError(28, "No space left on device")
        write(self, *lines)

    with start_endpoint() as server:
        monkeypatch.setattr(answers.AnswerStore, "write", full)
        with pytest.raises(RunFailed, match="disk is full"):
            collect(quick(server.url), tmp_path)
        monkeypatch.undo()
        found, _ = collect(quick(server.url), tmp_path)
    assert len(found.kept) == 12


def test_a_second_process_waits_for_the_first(tmp_path):
    """flock is by open file, so two handles of one process stand for two processes."""
    with start_endpoint() as server:
        options, said, found = quick(server.url), [], []
        with open_store(tmp_path, said.append):
            other = threading.Thread(
                target=lambda: found.append(collect_answers(options, PROMPTS, tmp_path, said.append))
            )
            other.start()
            other.join(0.3)
            assert other.is_alive()
            assert "another process" in said[0]
        other.join(10)
    assert len(found[0].kept) == 12
