"""An endpoint that returns only text, on loopback, for the tests: real HTTP, and every fault an endpoint has.

What it says depends on the request and on how often that one came before, never on time or order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ("animal", "plant", "food", "tool")


@dataclass(frozen=True)
class Asked:
    """One request as it came. `nth`: how often the same was asked before. `held`: it gets no answer."""

    id: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    prompt: str
    nth: int
    fault: str
    held: bool


Plan = Callable[[str, int], str]  # prompt, nth → the fault that it meets, or nothing


def no_fault(prompt: str, nth: int) -> str:
    return ""


def one_in_three(prompt: str, nth: int) -> str:
    """A fault for one request in three, by the bytes of the prompt and its count."""
    number = hashlib.sha256(f"{prompt}-{nth}".encode()).digest()
    return ("500", "429", "truncated")[number[1] % 3] if number[0] % 3 == 0 else ""


def say_word(prompt: str, settings: dict[str, Any]) -> str:
    """One of WORDS, by prompt and seed."""
    number = hashlib.sha256(f"{prompt}-{settings.get('seed')}".encode()).digest()
    return f" {WORDS[number[0] % 4].capitalize()}.\n"


class FakeEndpoint(ThreadingHTTPServer):
    """`asked`: every request in the order it came. `most`: the most that were there at once."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, plan: Plan, say: Callable[[str, dict[str, Any]], str], key: str | None, wait_s: float):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.say, self.key, self.wait_s = plan, say, key, wait_s
        self.asked: list[Asked] = []
        self.counts: Counter[str] = Counter()
        self.lock, self.over = threading.Condition(), threading.Event()
        self.now = self.most = 0
        self.held_from: int | None = None  # from this many requests on, nothing is answered

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def hold(self, after: int) -> None:
        """Answer `after` requests from now on, and then none, until `free`."""
        with self.lock:
            self.held_from = len(self.asked) + after

    def free(self) -> None:
        with self.lock:
            self.held_from = None
            self.lock.notify_all()

    def wait_for_held(self, count: int, seconds: float = 30) -> None:
        """Until `count` requests wait for an answer that does not come."""
        with self.lock:
            there = self.lock.wait_for(lambda: len(self.asked) == (self.held_from or 0) + count, seconds)
        assert there, f"{len(self.asked)} requests came"

    def note(self, handler: Handler, body: dict[str, Any]) -> Asked:
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        identity = handler.headers.get("Idempotency-Key", "")
        with self.lock:
            nth = self.counts[identity]
            self.counts[identity] += 1
            fault = self.plan(prompt, nth)
            if self.key is not None and handler.headers.get("Authorization") != f"Bearer {self.key}":
                fault = "401"
            held = self.held_from is not None and len(self.asked) >= self.held_from
            one = Asked(identity, handler.path, body, dict(handler.headers), prompt, nth, fault, held)
            self.asked.append(one)
            self.now += 1
            self.most = max(self.most, self.now)
            self.lock.notify_all()
            return one


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: FakeEndpoint

    def log_message(self, *given: Any) -> None:
        pass

    def do_GET(self) -> None:
        """Where a redirect would lead."""
        self.server.counts["redirected"] += 1
        self.reply(200, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/elsewhere":
            self.do_GET()
            return
        one = self.server.note(self, body)
        try:
            if one.held:
                with self.server.lock:
                    self.server.lock.wait_for(lambda: self.server.held_from is None, 60)
                return
            self.server.over.wait(self.server.wait_s)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                FAULTS.get(one.fault, answer)(self, one)
        finally:
            with self.server.lock:
                self.server.now -= 1

    def reply(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def answer(handler: Handler, one: Asked, text: str | None = None, finish: str = "stop") -> None:
    text = handler.server.say(one.prompt, one.body) if text is None else text
    choice = {"text": text} if "prompt" in one.body else {"message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": len(one.prompt.split()), "completion_tokens": len(text.split())}
    body = {"choices": [{**choice, "finish_reason": finish}], "usage": usage}
    handler.reply(200, json.dumps(body).encode())


def error(status: int, code: str = "", **headers: str) -> Callable[[Handler, Asked], None]:
    """As OpenAI's servers put it; the message repeats the prompt, as real ones do."""

    def give(handler: Handler, one: Asked) -> None:
        body = {"error": {"message": f"cannot: {one.prompt}", "code": code or None}}
        handler.reply(status, json.dumps(body).encode(), **headers)

    return give


def say_nothing(handler: Handler, one: Asked) -> None:
    handler.server.over.wait(30)


def drip(handler: Handler, one: Asked) -> None:
    """A byte now and then, each in time, all of them never."""
    handler.reply(200, b"{", Content_Length="1000")
    while not handler.server.over.wait(0.05):
        handler.wfile.write(b" ")


def drip_head(handler: Handler, one: Asked) -> None:
    """The head of an answer, letter by letter."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
    while not handler.server.over.wait(0.05):
        handler.wfile.write(b"a")


def pour(handler: Handler, one: Asked) -> None:
    """Ten megabytes whose length is not told before."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    for _ in range(10):
        handler.wfile.write(b" " * 1_000_000)


def hang_up(handler: Handler, one: Asked) -> None:
    handler.reply(200, b'{"choices": [', Content_Length="1000")


FAULTS: dict[str, Callable[[Handler, Asked], None]] = {
    "timeout": say_nothing,
    "drip": drip,
    "drip head": drip_head,
    "hang up": hang_up,
    "429": error(429, "rate_limit_exceeded", Retry_After="0.05"),
    "429 without a word": error(429),
    "quota": error(429, "insufficient_quota"),
    "500": error(500),
    "400": error(400, "context_length_exceeded"),
    "401": error(401, "invalid_api_key"),
    "404": error(404, "model_not_found"),
    "html": lambda handler, one: handler.reply(200, b"<!doctype html><p>Welcome", "text/html; charset=utf-8"),
    "html as json": lambda handler, one: handler.reply(200, b"\n<html><p>Welcome"),
    "truncated": lambda handler, one: handler.reply(200, b'{"choices": [{"message": {"content": "ani'),
    "no choices": lambda handler, one: handler.reply(200, b'{"object": "list"}'),
    "number": lambda handler, one: handler.reply(200, b'{"choices": [{"message": {"content": 3}, "text": 3}]}'),
    "empty": lambda handler, one: answer(handler, one, ""),
    "space": lambda handler, one: answer(handler, one, " \n"),
    "length": lambda handler, one: answer(handler, one, "It is an", "length"),
    "large": lambda handler, one: answer(handler, one, "a" * 10_000_000),
    "large untold": pour,
    "redirect": lambda handler, one: handler.reply(307, b"", Location="/elsewhere"),
    "see other": lambda handler, one: handler.reply(303, b"", Location="/elsewhere"),
}


@contextlib.contextmanager
def start_endpoint(
    plan: Plan | str = no_fault,
    say: Callable[[str, dict[str, Any]], str] = say_word,
    key: str | None = None,
    wait_s: float = 0.0,
) -> Iterator[FakeEndpoint]:
    """A server in this process, stopped at the end. `plan`: or the one fault that every request meets."""
    chosen = plan if callable(plan) else lambda prompt, nth: plan
    server = FakeEndpoint(chosen, say, key, wait_s)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.free()
        server.shutdown()
        thread.join()
        server.server_close()
