"""A run that is killed between a request and its answer: what is repeated, and what never is."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fake_endpoint import WORDS, one_in_three, start_endpoint

from family.text.answer_store import NAME
from family.text.answers import Answers, collect_answers
from family.text.endpoint import EndpointOptions
from family.text.filters import FilterOptions

ASKING = """
import sys
from pathlib import Path
import test_answers_killed
print("ready", flush=True)
sys.stdin.readline()
test_answers_killed.collect(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
"""
AT_ONCE = 4


def collect(url: str, folder: Path, count: int, show=print, **given) -> Answers:
    filters = FilterOptions(valid=WORDS)
    options = EndpointOptions(url, model="m", first_wait_s=0.0, at_once=AT_ONCE, filters=filters, **given)
    return collect_answers(options, [f"Thing {i}?" for i in range(count)], folder, show)


@contextlib.contextmanager
def start_asking(url: str, folder: Path, count: int) -> Iterator[subprocess.Popen]:
    """A process that asks as soon as it is told to."""
    command = [sys.executable, "-c", ASKING, url, str(folder), str(count)]
    given = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": Path(__file__).parent, "text": True}
    with subprocess.Popen(command, **given) as asking:
        try:
            yield asking
        finally:
            asking.kill()


def kill_amid(asking: subprocess.Popen, server, after: int) -> None:
    """Let it get `after` more answers or faults, and kill it (SIGKILL) while all that it asks then is in flight."""
    server.hold(after)
    assert asking.stdout.readline() == "ready\n"
    asking.stdin.write("go\n")
    asking.stdin.flush()
    server.wait_for_held(AT_ONCE)
    asking.kill()
    asking.wait()
    server.free()


def lines_of(folder: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    return [line for line in lines if line["what"] == kind]


def test_after_a_kill_only_what_was_in_flight_is_repeated(tmp_path):
    with start_endpoint() as server, start_asking(server.url, tmp_path, 20) as asking:
        kill_amid(asking, server, 7)
        answered = {line["id"] for line in lines_of(tmp_path, "answer")}
        held = {one.id for one in server.asked if one.held}
        assert (len(answered), len(held)) == (7, 4)
        assert {line["id"] for line in lines_of(tmp_path, "intent")} == answered | held
        said: list[str] = []
        found = collect(server.url, tmp_path, 20, said.append, cap_requests=24)
        later = [one.id for one in server.asked[11:]]
    assert (
        "note: 4 requests were in flight when the last run ended; they are sent again, and both times count" in said[0]
    )
    assert found.repeated == 4
    assert len(found.kept) == 20
    assert found.spent.requests == len(server.asked) == 24
    assert held <= set(later)
    assert len(later) == len(set(later)) == 13
    assert not answered & set(later)


def test_what_is_repeated_counts_against_the_cap(tmp_path):
    with start_endpoint() as server, start_asking(server.url, tmp_path, 20) as asking:
        kill_amid(asking, server, 7)
        found = collect(server.url, tmp_path, 20, lambda line: None, cap_requests=16)
    assert found.stopped == "cap_requests of 16"
    assert (found.asked, len(found.kept), len(server.asked)) == (5, 12, 16)


def test_one_in_three_fails_and_three_kills_repeat_no_answer(tmp_path):
    count = 150
    with start_endpoint(one_in_three) as server, contextlib.ExitStack() as stack:
        for asking in [stack.enter_context(start_asking(server.url, tmp_path, count)) for _ in range(3)]:
            kill_amid(asking, server, 40)
        said: list[str] = []
        found = collect(server.url, tmp_path, count, said.append)
        answered = Counter(one.id for one in server.asked if not one.fault and not one.held)
        failures = sum(bool(one.fault) and not one.held for one in server.asked)
        held = sum(one.held for one in server.asked)
    assert said[0].startswith("note: 4 requests were in flight when the last run ended")
    assert len(found.kept) == count
    assert set(answered.values()) == {1}
    assert len(answered) == count
    assert held == found.repeated == 3 * AT_ONCE
    assert len(lines_of(tmp_path, "failure")) == failures > count / 4
    assert found.spent.requests == len(server.asked) == count + failures + held
