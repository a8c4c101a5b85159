"""What asking a teacher takes: counted, forecast, capped, and paced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from family.text.endpoint import EndpointOptions, Request

ENOUGH = 10  # answers from which their mean tokens are a forecast


@dataclass(frozen=True)
class Spent:
    """Requests sent, failed ones too, and tokens. Where nothing came back that counts them (a connection that broke
    off, a request in flight when the process was killed), tokens are the most it may have taken."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def plus(self, requests: int, prompt_tokens: int, answer_tokens: int) -> Spent:
        return Spent(self.requests + requests, self.prompt_tokens + prompt_tokens, self.answer_tokens + answer_tokens)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


def money(spent: Spent, options: EndpointOptions) -> float | None:
    """In the currency of the prices; None where none is given."""
    if options.prompt_price is None and options.answer_price is None:
        return None
    cost = spent.prompt_tokens * (options.prompt_price or 0) + spent.answer_tokens * (options.answer_price or 0)
    return cost / 1000


def broken_cap(spent: Spent, options: EndpointOptions) -> str:
    """The first cap that is broken, in words; empty where all are kept."""
    cost = money(spent, options)
    for name, value in (("requests", spent.requests), ("tokens", spent.tokens), ("money", cost)):
        cap = getattr(options, f"cap_{name}")
        if cap is not None and value is not None and value > cap:
            return f"cap_{name} of {cap:,}"
    return ""


def forecast_cost(left: Sequence[Request], answered: Spent, options: EndpointOptions) -> tuple[Spent, str]:
    """What the requests `left` will take, where none fails, and how it is known.

    `answered`: tokens of answers known so far, one request each. From `ENOUGH` of them on their mean is taken, before
    that a guess for the prompts and `max_tokens` for the answers.
    """
    if answered.requests >= ENOUGH:
        mean = [len(left) * count / answered.requests for count in (answered.prompt_tokens, answered.answer_tokens)]
        return Spent(len(left), round(mean[0]), round(mean[1])), f"by the mean of {answered.requests:,} answers"
    most = Spent(len(left), sum(one.prompt_tokens for one in left), sum(one.answer_tokens for one in left))
    return most, "at most, by a guess for the prompts"


def say_cost(spent: Spent, options: EndpointOptions) -> str:
    cost = money(spent, options)
    said = f"{spent.requests:,} requests, {spent.prompt_tokens:,} + {spent.answer_tokens:,} tokens"
    return said if cost is None else f"{said}, {cost:,.2f} by the prices given"


class Pace:
    """When the next request may start: requests stand apart so that no minute holds more than is allowed."""

    def __init__(self, options: EndpointOptions, clock: Callable[[], float] = time.monotonic):
        self.apart = 60 / options.requests_per_minute if options.requests_per_minute else 0.0
        self.per_token = 60 / options.tokens_per_minute if options.tokens_per_minute else 0.0
        self.clock, self.lock = clock, threading.Lock()
        self.next_request = self.next_token = self.paused = 0.0

    def book(self, tokens: int) -> float:
        """Seconds to wait before a request of `tokens`, which is counted on."""
        with self.lock:
            now = self.clock()
            start = max(now, self.next_request, self.next_token, self.paused)
            self.next_request = start + self.apart
            self.next_token = start + self.per_token * tokens
            return start - now

    def pause(self, seconds: float) -> None:
        """No request that is booked from now on starts before `seconds` are over."""
        with self.lock:
            self.paused = max(self.paused, self.clock() + seconds)

    def correct(self, tokens: int) -> None:
        """A request took `tokens` more than was booked (fewer below 0)."""
        with self.lock:
            self.next_token += self.per_token * tokens
