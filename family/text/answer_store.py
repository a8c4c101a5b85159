"""The append-only store of a teacher's answers: lines of JSON, each on the disk before anything follows from it.

A line is an `intent` (a request is about to be sent), an `answer` or a `failure` (what came of it), or a `verdict` of
the filters. An intent without either was in flight when its process ended. Prompts are not in it, only hashes of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from family.errors import RunFailed
from family.text.spending import Spent

FORMAT = 1
NAME = "answers.jsonl"
NOTHING = {"prompt_tokens": 0, "answer_tokens": 0}


class AnswerStore:
    """`answers`, `verdicts`, `failed`: by request id, the last line of each kind. `in_flight`: intents without an
    outcome. `spent`: what all its requests took, those in flight at their most. `answered`: tokens of answers.
    `repeated`: intents that were asked again because a process ended with them in flight. `torn`: lines cut off."""

    def __init__(self, handle: int, data: Iterator[bytes]):
        self.handle, self.lock = handle, threading.Condition()
        self.answers: dict[str, dict[str, Any]] = {}
        self.verdicts: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, dict[str, Any]] = {}
        self.in_flight: dict[str, dict[str, Any]] = {}
        self.spent = self.answered = Spent()
        self.repeated = self.torn = self.now = 0  # `now`: requests of this process on their way
        self.format: int | None = None
        self.whole = True  # whether the file ends with a line's end
        for line in data:
            self.whole = line.endswith(b"\n")
            self.read(line)

    def read(self, line: bytes) -> None:
        try:
            found = json.loads(line)
            self.take(found)
        except (ValueError, LookupError, TypeError):
            self.torn += 1

    def take(self, line: Mapping[str, Any]) -> None:
        """Count a line, whether it was just written or read again."""
        kind = line["what"]
        if kind == "store":
            self.format = line["format"]
        elif kind == "intent":
            self.take_intent(dict(line))
        elif kind == "verdict":
            self.verdicts[line["id"]] = dict(line)
        elif kind in ("answer", "failure"):
            self.take_outcome(dict(line))
        else:
            raise LookupError(kind)

    def take_intent(self, line: dict[str, Any]) -> None:
        self.repeated += line["id"] in self.in_flight
        self.in_flight[line["id"]] = line
        self.failed.pop(line["id"], None)
        self.spent = self.spent.plus(1, line["prompt_tokens"], line["answer_tokens"])

    def take_outcome(self, line: dict[str, Any]) -> None:
        intent = self.in_flight.pop(line["id"], NOTHING)
        counts = [line[name] - intent[name] for name in ("prompt_tokens", "answer_tokens")]
        self.spent = self.spent.plus(0, *counts)
        if line["what"] == "failure":
            self.failed[line["id"]] = line
            return
        self.answers[line["id"]] = line
        self.answered = self.answered.plus(1, line["prompt_tokens"], line["answer_tokens"])

    def intend(self, line: Mapping[str, Any], forbid: Callable[[Spent], str]) -> str:
        """Write that a request is about to be sent; empty, or in words why it may not be.

        `forbid`: what would be spent → why not. Requests on their way are waited for: they may take less than feared.
        """
        with self.lock:
            while why := forbid(self.spent.plus(1, line["prompt_tokens"], line["answer_tokens"])):
                if not self.now:
                    return why
                self.lock.wait()
            self.write(line)
            self.now += 1
        return ""

    def settle(self, line: Mapping[str, Any]) -> None:
        """Write what came of a request."""
        with self.lock:
            try:
                self.write(line)
            finally:
                self.now -= 1
                self.lock.notify_all()

    def write(self, *lines: Mapping[str, Any]) -> None:
        """Append and wait until it is on the disk. Raises OSError: the line is then torn, and what follows is not."""
        data = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        data = data if self.whole else b"\n" + data
        self.whole = False
        while data:
            data = data[os.write(self.handle, data) :]
        os.fsync(self.handle)
        self.whole = True
        for line in lines:
            self.take(line)


@contextmanager
def open_store(folder: Path, show: Callable[[str], None]) -> Iterator[AnswerStore]:
    """The store in `folder`, made where there is none, held by this process alone: another one is waited for.

    Raises RunFailed where it was written in another format.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            show(f"waiting for another process, which asks the same teacher ({path})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        with path.open("rb") as data:
            store = AnswerStore(handle, data)
        if store.format is not None and store.format != FORMAT:
            raise RunFailed(f"{path} is of format {store.format}, which this version cannot read (it reads {FORMAT}).")
        yield store
    finally:
        os.close(handle)
