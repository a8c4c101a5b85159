"""Clients that ask a teacher for text once: over HTTP, or through a user's function.

Neither the key, nor prompts, nor what an endpoint says beside its answers is ever put into a message: any of them
may hold what nobody should read. Redirects are not followed, since the key and the prompt would go elsewhere.
"""

from __future__ import annotations

import email.utils
import http.client
import io
import ipaddress
import json
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from family.doors import describe_failure, file_of, is_reference, load_taking
from family.text.endpoint import FORMS, SOURCE, EndpointOptions, Request, guess_tokens, read_key

MOST_BYTES = 1_000_000  # of one response: what is longer is cut off while it is read
AGAIN = (408, 409, 425, 429)  # statuses that may pass, beside 500 and above
BUGS = (TypeError, NameError, AttributeError, ImportError, SyntaxError)  # of a user's function: none passes


@dataclass(frozen=True)
class Reply:
    """Tokens as the endpoint counts them; `guessed` where it does not. `finish`: why the text ends, as it says."""

    text: str
    prompt_tokens: int
    answer_tokens: int
    guessed: bool
    finish: str = ""


class Refused(Exception):
    """No text came. `again`: it may pass; `wait_s`: as the endpoint wishes; `billed`: it may have cost tokens."""

    def __init__(self, why: str, again: bool = False, wait_s: float | None = None, billed: bool = False):
        super().__init__(why)
        self.why, self.again, self.wait_s, self.billed = why, again, wait_s, billed


Client = Callable[[Request], Reply]  # raises Refused


def open_client(options: EndpointOptions) -> Client:
    """What asks the teacher once. Raises Mistakes: key missing, no such function."""
    key = read_key(options)
    ask = function_client(options) if is_reference(options.url) else http_client(options, key)

    def asking(request: Request) -> Reply:
        reply = ask(request)
        if not key:
            return reply
        return replace(reply, text=reply.text.replace(key, "***"), finish=reply.finish.replace(key, "***"))

    return asking


def function_client(options: EndpointOptions) -> Client:
    fn = load_taking(options.url, options.folder, SOURCE, ("prompt", "settings"))

    def ask(request: Request) -> Reply:
        given = {**request.settings, "request_id": request.id, "timeout_s": options.timeout_s}
        try:
            text = fn(request.prompt, given)
        except (Exception, SystemExit) as problem:  # noqa: BLE001  (told without its words)
            why = f"{options.url} failed: {describe_failure(problem, file_of(fn), quote=False)}"
            raise Refused(why, again=not isinstance(problem, BUGS), billed=True) from None
        if not isinstance(text, str):
            raise Refused(f"{options.url} gave {type(text).__name__}, not text", billed=True)
        text = whole_text(text)
        return Reply(text, request.prompt_tokens, guess_tokens(text), guessed=True)

    return ask


def whole_text(text: str) -> str:
    """Without halves of characters, which no file takes."""
    return text.encode("utf-8", "replace").decode()


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any) -> None:
        return None


class InTime(io.RawIOBase):
    """What `raw` reads of a socket, as long as all of it comes within `seconds`. Raises TimeoutError."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds: float):
        self.raw, self.sock, self.end = raw, sock, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """Its head and body together take no longer than the connection's timeout, however they drip."""

    def __init__(self, sock: socket.socket, *given: Any, **named: Any):
        super().__init__(sock, *given, **named)
        seconds = sock.gettimeout()
        assert seconds is not None
        self.fp = io.BufferedReader(InTime(self.fp.detach(), sock, seconds))


class Plain(http.client.HTTPConnection):
    response_class = Response


class Secure(http.client.HTTPSConnection):
    response_class = Response


class Open(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def http_open(self, sent: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(Plain, sent)

    def https_open(self, sent: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(Secure, sent)


def http_client(options: EndpointOptions, key: str | None) -> Client:
    url = options.url.rstrip("/") + FORMS[options.form]
    proxies = [urllib.request.ProxyHandler({})] if is_here(urlsplit(url).hostname or "") else []
    opener = urllib.request.build_opener(Open, NoRedirect, *proxies)
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "student-family"}
    if key:
        headers["Authorization"] = f"Bearer {key}"

    def ask(request: Request) -> Reply:
        body = json.dumps({**ask_for(request.prompt, options), **request.settings}).encode()
        named = {**headers, "Idempotency-Key": request.id}
        sent = urllib.request.Request(url, body, named, method="POST")
        return read_reply(*fetch(opener, sent, options, key), request, options.form)

    return ask


def is_here(host: str) -> bool:
    """Whether a host is this machine: no proxy stands between."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ask_for(prompt: str, options: EndpointOptions) -> dict[str, Any]:
    if options.form == "completions":
        return {"prompt": prompt if options.system is None else f"{options.system}\n\n{prompt}"}
    first = [] if options.system is None else [{"role": "system", "content": options.system}]
    return {"messages": [*first, {"role": "user", "content": prompt}]}


def fetch(
    opener: urllib.request.OpenerDirector, sent: urllib.request.Request, options: EndpointOptions, key: str | None
) -> tuple[bytes, str]:
    """The body of a whole response of status 200, and its type. Raises Refused."""
    timeout_s = options.timeout_s
    slow = Refused(f"no answer within {timeout_s:g} s", again=True, billed=True)
    broken = Refused("the connection broke off", again=True, billed=True)
    try:
        with opener.open(sent, timeout=timeout_s) as response:
            return read_body(response), response.headers.get_content_type()
    except HTTPError as answer:
        with answer:
            raise explain_status(answer, options, key) from None
    except TimeoutError:
        raise slow from None
    except URLError as problem:
        raise slow if isinstance(problem.reason, TimeoutError) else explain_connection(problem.reason) from None
    except (OSError, http.client.HTTPException):
        raise broken from None


def read_body(response: http.client.HTTPResponse) -> bytes:
    """What came, if it came whole and is no longer than `MOST_BYTES`. Raises Refused, OSError."""
    large = Refused(f"more than {MOST_BYTES:,} bytes in one answer, cut off", billed=True)
    if (response.length or 0) > MOST_BYTES:
        raise large
    found = bytearray()
    while piece := response.read1(65_536):
        found += piece
        if len(found) > MOST_BYTES:
            raise large
    if response.length:
        raise Refused("the connection broke off", again=True, billed=True)
    return bytes(found)


def explain_status(answer: HTTPError, options: EndpointOptions, key: str | None) -> Refused:
    status = answer.code
    if 300 <= status < 400:
        return Refused(f"HTTP {status}, a redirect, which is not followed: key and prompt would go elsewhere")
    code = read_code(answer, key)
    again = (status in AGAIN or status >= 500) and code != "insufficient_quota"
    why = f"HTTP {status}" + (f" ({code})" if code else "")
    if status in (401, 403):
        named = options.api_key_env
        why += f": is the key in {named} right?" if named else ": name the variable that holds a key in api_key_env"
    return Refused(why, again, read_wait(answer.headers.get("Retry-After")))


def read_code(answer: IO[bytes], key: str | None) -> str:
    """The endpoint's own word for an error (`model_not_found`), where it is one word and not the key."""
    try:
        error = json.loads(answer.read(MOST_BYTES))["error"]
        code = str(error.get("code") or error.get("type") or "")
    except (OSError, http.client.HTTPException, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    return code if re.fullmatch("[a-z_]{3,40}", code) and not (key and key in code) else ""


def read_wait(said: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Seconds that `Retry-After` asks for: a number or a date; None where it says neither."""
    if said is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", said.strip()):
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - now())
    except (ValueError, OverflowError):
        return None


def explain_connection(reason: object) -> Refused:
    if isinstance(reason, ssl.SSLError):
        return Refused("no secure connection: the certificate is not trusted, or it is no https")
    if isinstance(reason, socket.gaierror):
        return Refused("the host is not found", again=True)
    if isinstance(reason, ConnectionRefusedError):
        return Refused("the connection is refused: is the endpoint running?", again=True)
    return Refused("no connection", again=True)


def read_reply(data: bytes, kind: str, request: Request, form: str) -> Reply:
    """The text of the first choice. Raises Refused."""
    if kind == "text/html" or data.lstrip()[:1] == b"<":
        raise Refused("HTML instead of JSON: is the url that of an API?", again=True, billed=True)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused("no whole JSON", again=True, billed=True) from None
    try:
        choice = found["choices"][0]
        text = choice["message"]["content"] if form == "chat" else choice["text"]
    except (LookupError, TypeError):
        raise Refused("JSON without an answer in it", again=True, billed=True) from None
    if text is not None and not isinstance(text, str):
        raise Refused("JSON whose answer is no text", billed=True)
    text, finish = whole_text(text or ""), choice.get("finish_reason")
    usage = found.get("usage") if isinstance(found.get("usage"), dict) else {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    told = [count for count in counts if type(count) is int and 0 <= count < 2**40]
    prompt_tokens, answer_tokens = told if len(told) == 2 else (request.prompt_tokens, guess_tokens(text))
    finish = finish if isinstance(finish, str) and re.fullmatch("[a-z_]{1,40}", finish) else ""
    return Reply(text, prompt_tokens, answer_tokens, len(told) < 2, finish)
