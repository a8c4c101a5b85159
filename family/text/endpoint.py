"""What is asked of a teacher that gives only text: its options, gone over before any work, and requests with an id."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from family.doors import hash_code, is_reference
from family.errors import Mistake, Mistakes, mistake
from family.suggest import did_you_mean, list_names
from family.text.filters import FilterOptions

SOURCE, WHERE = "teacher.path", "teacher.asks"
FORMS = {"chat": "/chat/completions", "completions": "/completions"}
BYTES_A_TOKEN = 4  # where usage is not told: about right for English
UNSAID_TOKENS = 1000  # an answer's, reserved where max_tokens is not given


@dataclass(frozen=True)
class EndpointOptions:
    """`url`: http(s)://host/v1, or `file.py:function`, `(prompt, settings) -> text`, relative to `folder`; settings are
    the sampling settings, `request_id` and `timeout_s`, which such a client keeps itself.

    `form`: chat or completions. Sampling settings that are None are not sent; `body` holds further fields of the
    request and may override any (None leaves it out). Answer number i is asked with seed + i. `api_key_env`: the
    environment variable that holds the key. A request that fails is tried `retries` times more, first after about
    `first_wait_s`, then twice that, and so on. Prices are per 1000 tokens, caps those of the whole store.
    """

    url: str
    folder: Path = Path()
    model: str | None = None
    form: str = "chat"
    system: str | None = None
    answers: int = 1
    temperature: float | None = 0.0
    top_p: float | None = None
    max_tokens: int | None = 256
    seed: int | None = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    api_key_env: str | None = None
    timeout_s: float = 60.0
    retries: int = 5
    first_wait_s: float = 1.0
    at_once: int = 4
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    prompt_price: float | None = None
    answer_price: float | None = None
    cap_requests: int | None = None
    cap_tokens: int | None = None
    cap_money: float | None = None
    filters: FilterOptions = field(default_factory=FilterOptions)


@dataclass(frozen=True)
class Request:
    """`id` stands for the teacher, its settings, the prompt and the answer's number: the same in every run."""

    id: str
    prompt: str = field(repr=False)
    settings: Mapping[str, Any]
    prompt_tokens: int  # a guess
    answer_tokens: int  # at most


def check_endpoint(options: EndpointOptions) -> None:
    """Raises every Mistake of the options that can be found without asking (filters: `open_filters`)."""
    wrong = [
        *check_source(options),
        *check_numbers(options),
        *check_prices(options),
    ]
    if options.form not in FORMS:
        near = did_you_mean(options.form, FORMS)
        wrong.append(Mistake(f"{WHERE}.form", f"must be {list_names(FORMS)}. Got {options.form!r}.{near}"))
    if options.answers > 1 and options.temperature == 0:
        said = f"must be 1 where temperature is 0: the teacher would say the same again. Got {options.answers}."
        wrong.append(Mistake(f"{WHERE}.answers", said))
    try:
        json.dumps(dict(options.body))
    except (TypeError, ValueError):
        wrong.append(Mistake(f"{WHERE}.body", "must hold what JSON can hold."))
    if wrong:
        raise Mistakes(wrong)


def check_source(options: EndpointOptions) -> list[Mistake]:
    if is_reference(options.url):
        return []
    if not options.model:
        return [*check_url(options.url), Mistake(f"{WHERE}.model", "must name the model that the endpoint is to run.")]
    return check_url(options.url)


def check_url(url: str) -> list[Mistake]:
    """A URL is not quoted where it may hold a password."""
    where = SOURCE
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        plain = url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        return [Mistake(where, "is no URL. It must be http://host:port/v1, https://host/v1 or file.py:function.")]
    if "@" in parts.netloc or parts.query or parts.fragment:
        return [Mistake(where, "must hold no user, password or query: a key belongs into api_key_env's variable.")]
    if not (whole and plain):
        return [Mistake(where, f"must be http://host:port/v1, https://host/v1 or file.py:function. Got {url!r}.")]
    return []


LEAST = {  # option → the least it may be, and whether that itself is allowed
    "answers": (1, True),
    "temperature": (0, True),
    "top_p": (0, False),
    "max_tokens": (1, True),
    "timeout_s": (0, False),
    "retries": (0, True),
    "first_wait_s": (0, True),
    "at_once": (1, True),
    "requests_per_minute": (0, False),
    "tokens_per_minute": (0, False),
    "prompt_price": (0, True),
    "answer_price": (0, True),
    "cap_requests": (1, True),
    "cap_tokens": (1, True),
    "cap_money": (0, False),
}


def check_numbers(options: EndpointOptions) -> list[Mistake]:
    wrong = []
    for name, (least, allowed) in LEAST.items():
        value = getattr(options, name)
        if value is None or (math.isfinite(value) and (value > least or (allowed and value == least))):
            continue
        bound = f"{least} or more" if allowed else f"above {least}"
        wrong.append(Mistake(f"{WHERE}.{name}", f"must be {bound}. Got {value}."))
    if options.top_p is not None and options.top_p > 1:
        wrong.append(Mistake(f"{WHERE}.top_p", f"must be at most 1. Got {options.top_p}."))
    return wrong


def check_prices(options: EndpointOptions) -> list[Mistake]:
    if options.cap_money is None or options.prompt_price is not None or options.answer_price is not None:
        return []
    return [Mistake(f"{WHERE}.cap_money", "needs prompt_price and answer_price, each per 1000 tokens.")]


def read_key(options: EndpointOptions) -> str | None:
    """The key, from the environment alone. Raises Mistakes where it is missing, or no header can carry it."""
    if options.api_key_env is None:
        return None
    where, name = f"{WHERE}.api_key_env", options.api_key_env
    key = os.environ.get(name, "").strip()
    if not key:
        said = "which is empty" if name in os.environ else "which is not set"
        raise mistake(where, f"names the environment variable {name}, {said}. Type: export {name}=…")
    if not (key.isascii() and key.isprintable()):
        raise mistake(where, f"names the environment variable {name}, which holds characters that no key has.")
    return key


def make_requests(options: EndpointOptions, prompts: tuple[str, ...]) -> list[list[Request]]:
    """For every number of an answer, the requests (prompts,). Equal prompts make equal requests."""
    settings = [settings_of(options, number) for number in range(options.answers)]
    source = options.url.rstrip("/")
    code = hash_code(source, options.folder) if is_reference(source) else ""
    known = [source, code, options.form, options.system]
    most = next((s[n] for s in settings for n in ("max_tokens", "max_completion_tokens") if n in s), UNSAID_TOKENS)
    most = most if isinstance(most, int) else UNSAID_TOKENS
    before = guess_tokens(options.system or "")
    return [
        [
            Request(request_id(known, own, number, prompt), prompt, own, before + guess_tokens(prompt), most)
            for prompt in prompts
        ]
        for number, own in enumerate(settings)
    ]


def settings_of(options: EndpointOptions, number: int) -> dict[str, Any]:
    """The sampling settings of answer `number`, as they are sent and recorded."""
    plain = {
        "model": options.model,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_tokens": options.max_tokens,
        "seed": None if options.seed is None else options.seed + number,
    }
    return {name: value for name, value in {**plain, **options.body}.items() if value is not None}


def request_id(known: list[Any], settings: Mapping[str, Any], number: int, prompt: str) -> str:
    text = json.dumps([known, settings, number, prompt], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def guess_tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // BYTES_A_TOKEN)
