"""Asking a teacher for text: every prompt so many times, written down as it comes, and judged.

A killed run repeats the requests that were in flight, whose number is said and counts against the caps; what was
written is never asked again, whatever happens to the filters.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from family.errors import RunFailed
from family.progress import Stage, Watch, watch_nothing
from family.run_folder import content_id, explain_disk_trouble, recall, remember
from family.text.answer_store import FORMAT, AnswerStore, open_store
from family.text.client import Client, Refused, Reply, open_client
from family.text.endpoint import EndpointOptions, Request, check_endpoint, make_requests
from family.text.filters import KEPT, Given, Judge, open_filters
from family.text.prompts import check_prompts
from family.text.spending import Pace, Spent, broken_cap, forecast_cost, money, say_cost

TERMS = (
    "What the provider's terms allow to be done with these answers is your affair: read them before you train on them."
)
LONGEST_WAIT_S = 60.0  # between two tries, unless the endpoint asks for more
LONGEST_ASKED_S = 600.0  # that an endpoint may ask for
IN_A_ROW = 10  # requests given up with no answer between them: the endpoint is away


@dataclass(frozen=True)
class Answer:
    """`prompt`: which, from 0; `number`: which of the answers to it. `why`: kept, or why it was refused. `value`: what
    the rule of validity took of the text."""

    prompt: int
    number: int
    text: str
    value: str
    why: str


@dataclass(frozen=True)
class Answers:
    """What came of asking. `given`: every answer, in the order of the prompts, whatever order they came in.

    `asked`: requests sent by this call; `repeated`: those of the store, ever, that were in flight when a process ended,
    and were sent again. `refused`: why → answers that the filters refused; `unanswered`: why → requests given up;
    `troubles`: why → tries that failed, in this call. `spent`: by the whole store, of which `money` is the cost where
    prices are given. `stopped`: the cap that ended it, in words, or nothing. `fingerprint` stands for what was kept,
    `asked_for` for the requests wanted and the caps; `ids`: of the requests with an answer.
    """

    given: tuple[Answer, ...]
    asked: int
    repeated: int
    refused: Mapping[str, int]
    unanswered: Mapping[str, int]
    troubles: Mapping[str, int]
    spent: Spent
    money: float | None
    stopped: str
    fingerprint: str
    asked_for: str
    ids: tuple[str, ...]

    @property
    def kept(self) -> tuple[Answer, ...]:
        return tuple(one for one in self.given if one.why == KEPT)


def collect_answers(
    options: EndpointOptions,
    prompts: Sequence[str],
    folder: Path,
    show: Callable[[str], None] = print,
    watch: Watch = watch_nothing,
    most: int | None = None,
    built_of: Path | None = None,
) -> Answers:
    """Ask for `options.answers` answers to each of the `prompts`, but for those that the store in `folder` holds.

    Every prompt gets its first answer before any gets a second. At a cap it stops, and gives what is there; where
    `most` is given, only the first `most` are asked. `built_of`: where `keep_answers` may have kept which answers
    there were; then nothing is asked, and they are those, whatever the store has gained. Raises Mistakes (options,
    key, prompts, a user's function); RunFailed where the endpoint gives no answer any more, or the disk is full: the
    same call then goes on.
    """
    check_endpoint(options)
    wanted = make_requests(options, check_prompts(prompts, "are"))
    judge, filters = open_filters(options.filters, options.folder)
    client = open_client(options)
    with explain_disk_trouble(folder), open_store(folder, show) as store:
        kept = recall_answers(built_of, wanted, options, store)
        if kept is None:
            say_before(store, list_left(wanted, store), wanted, options, show)
        else:
            show(f"note: the answers are those that this run began with ({built_of}); none is asked for")
        asking = Asking(options, client, store, list_left(wanted, store, most) if kept is None else [], watch)
        asking.run()
        given = judge_all(wanted, store, judge, filters, None if kept is None else kept["ids"])
        found = sum_up(given, wanted, store, asking)
    if kept is not None:
        found = replace(found, unanswered=kept["unanswered"], stopped=kept["stopped"])
    say_after(found, options, show)
    return found


def keep_answers(path: Path, found: Answers) -> None:
    """Write down which answers there were, once what is built of them stands."""
    told = {"ids": list(found.ids), "unanswered": dict(found.unanswered), "stopped": found.stopped}
    if recall(path, found.asked_for) != told:
        path.unlink(missing_ok=True)  # it is about answers that are gone
        remember(path, found.asked_for, lambda: told)


def recall_answers(
    path: Path | None, wanted: Sequence[Sequence[Request]], options: EndpointOptions, store: AnswerStore
) -> dict[str, Any] | None:
    """What `keep_answers` wrote about the same requests and caps; None where there is none, or answers are gone."""
    kept = None if path is None else recall(path, stand_for(wanted, options))
    return kept if kept is not None and store.answers.keys() >= set(kept["ids"]) else None


def stand_for(wanted: Sequence[Sequence[Request]], options: EndpointOptions) -> str:
    """Whatever the order of the prompts."""
    ids = sorted({one.id for row in wanted for one in row})
    return content_id(ids, options.cap_requests, options.cap_tokens, options.cap_money)


def list_left(wanted: Sequence[Sequence[Request]], store: AnswerStore, most: int | None = None) -> list[Request]:
    """Of the requests, or the first `most`, each without an answer once, in order; those that were in flight come
    first, those given up last."""
    found = list({one.id: one for row in wanted for one in row}.values())[:most]
    left = [one for one in found if one.id not in store.answers]
    return sorted(left, key=lambda one: (one.id not in store.in_flight, one.id in store.failed))


def say_before(
    store: AnswerStore,
    left: Sequence[Request],
    wanted: Sequence[Sequence[Request]],
    options: EndpointOptions,
    show: Callable[[str], None],
) -> None:
    if store.format is None:
        show(TERMS)
        store.write({"what": "store", "format": FORMAT, "at": now(), "terms": TERMS})
    again = sum(one.id in store.in_flight for one in left)
    if again:
        show(
            f"note: {again} requests were in flight when the last run ended; they are sent again, and both times count "
            "against the caps"
        )
    if store.torn:
        show(f"note: {store.torn} lines of the store were cut off, and are passed over")
    different = len({one.id for row in wanted for one in row})
    cost, how = forecast_cost(left, store.answered, options)
    show(f"asking the teacher: {different - len(left):,} of {different:,} answers are there; the others will take")
    show(f"  {say_cost(cost, options)} ({how}, where no request fails)")
    total = store.spent.plus(cost.requests, cost.prompt_tokens, cost.answer_tokens)
    if left and (cap := broken_cap(total, options)):
        show(f"note: with {say_cost(store.spent, options)} spent before, the {cap} may end it early")


class Asking:
    """Threads that ask until nothing is left, a cap is reached, or the endpoint is away."""

    def __init__(
        self, options: EndpointOptions, client: Client, store: AnswerStore, left: Sequence[Request], watch: Watch
    ):
        self.options, self.client, self.store, self.watch = options, client, store, watch
        self.left, self.wanted, self.before = deque(left), len(left), store.spent.requests
        self.pace, self.over, self.lock = Pace(options), threading.Event(), threading.Lock()
        self.troubles: Counter[str] = Counter()
        self.in_a_row, self.done, self.since = 0, 0, time.monotonic()
        self.capped = self.away = ""

    def run(self) -> None:
        """Raises RunFailed where the endpoint is away; OSError."""
        with ThreadPoolExecutor(self.options.at_once) as pool:
            working = [pool.submit(self.work) for _ in range(min(self.options.at_once, self.wanted))]
            try:
                for one in working:
                    one.result()
            finally:
                self.over.set()  # what is on its way is waited for and written
        if self.away:
            raise RunFailed(
                f"The teacher gave no answer to {IN_A_ROW} requests in a row; the last: {self.away}. What it said "
                "before is kept; the same command goes on."
            )

    def work(self) -> None:
        try:
            while not self.over.is_set():
                try:
                    request = self.left.popleft()
                except IndexError:
                    return
                self.ask(request)
        except BaseException:
            self.over.set()
            raise

    def ask(self, request: Request) -> None:
        """Until there is an answer, or no try is left."""
        for turn in range(self.options.retries + 1):
            if not self.start(request):
                return
            began = time.monotonic()
            try:
                reply = self.client(request)
            except Refused as problem:
                self.store.settle(failure_line(request, problem))
                last = turn == self.options.retries or not problem.again
                if self.fail(problem, last or (problem.wait_s or 0) > LONGEST_ASKED_S):
                    return
                self.over.wait(wait_s(self.options, request, turn, problem.wait_s))
            else:
                self.store.settle(answer_line(request, reply, time.monotonic() - began))
                self.succeed(request, reply)
                return

    def start(self, request: Request) -> bool:
        """Wait for its turn and write the intent; False where all is over."""
        self.over.wait(self.pace.book(request.prompt_tokens + request.answer_tokens))
        if self.over.is_set():
            return False
        cap = self.store.intend(intent_line(request), lambda spent: broken_cap(spent, self.options))
        if cap:
            self.capped = cap
            self.over.set()
        return not cap

    def fail(self, problem: Refused, last: bool) -> bool:
        """Count it, and say so; whether this was the last try."""
        with self.lock:
            self.troubles[problem.why] += 1
            self.say(f"{self.troubles.total()} tries failed, the last: {problem.why}")
            if problem.wait_s and not last:
                self.pace.pause(problem.wait_s)
            if last:
                self.in_a_row += 1
                if self.in_a_row >= IN_A_ROW:
                    self.away = problem.why
                    self.over.set()
        return last

    def succeed(self, request: Request, reply: Reply) -> None:
        taken = reply.prompt_tokens + reply.answer_tokens
        self.pace.correct(taken - request.prompt_tokens - request.answer_tokens)
        with self.lock:
            self.in_a_row, self.done = 0, self.done + 1
            self.say()

    def say(self, note: str = "") -> None:
        each = (time.monotonic() - self.since) / self.done if self.done else None
        seconds_left = each * (self.wanted - self.done) if each else None
        self.watch(Stage("asking the teacher", self.done, self.wanted, seconds_left, about=True, note=note))


def wait_s(options: EndpointOptions, request: Request, turn: int, asked: float | None) -> float:
    """Exponential back-off with jitter, from the seed, the request and the try: the same in every run; never less than
    the endpoint asks for."""
    jitter = random.Random(f"{options.seed}-{request.id}-{turn}").uniform(0.5, 1.5)
    return max(asked or 0.0, min(LONGEST_WAIT_S, options.first_wait_s * 2.0**turn) * jitter)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def intent_line(request: Request) -> dict[str, Any]:
    tokens = {"prompt_tokens": request.prompt_tokens, "answer_tokens": request.answer_tokens}
    return {"what": "intent", "id": request.id, "at": now(), **tokens}


def failure_line(request: Request, problem: Refused) -> dict[str, Any]:
    tokens = (request.prompt_tokens, request.answer_tokens) if problem.billed else (0, 0)
    about = {"what": "failure", "id": request.id, "at": now(), "why": problem.why}
    return {**about, "prompt_tokens": tokens[0], "answer_tokens": tokens[1]}


def answer_line(request: Request, reply: Reply, seconds: float) -> dict[str, Any]:
    about = {"what": "answer", "id": request.id, "at": now(), "settings": dict(request.settings)}
    return {**about, **vars(reply), "seconds": round(seconds, 4)}


def judge_all(
    wanted: Sequence[Sequence[Request]],
    store: AnswerStore,
    judge: Judge,
    filters: str,
    ids: Sequence[str] | None = None,
) -> tuple[Answer, ...]:
    """Judge what is there, or of that `ids`, in the order of the prompts, and write verdicts that are new."""
    known = store.answers.keys() if ids is None else set(ids)
    places = [
        (row, number)
        for row in range(len(wanted[0]))
        for number, requests in enumerate(wanted)
        if requests[row].id in known
    ]
    given = []
    for row, number in places:
        request = wanted[number][row]
        answer = store.answers[request.id]
        given.append(Given(row, request.prompt, answer["text"], answer["finish"]))
    found = [
        Answer(row, number, one.text, verdict.value, verdict.why)
        for (row, number), one, verdict in zip(places, given, judge(given), strict=True)
    ]
    by_id: dict[str, str] = {}
    for one in found:  # where several rows ask the same, the first row's verdict is the answer's
        by_id.setdefault(wanted[one.number][one.prompt].id, one.why)
    new = [{"what": "verdict", "id": id_, "filters": filters, "verdict": why} for id_, why in by_id.items()]
    new = [line for line in new if store.verdicts.get(line["id"]) != line]
    if new:
        store.write(*new)
    return tuple(found)


def sum_up(
    given: tuple[Answer, ...], wanted: Sequence[Sequence[Request]], store: AnswerStore, asking: Asking
) -> Answers:
    gave_up = {one.id: store.failed[one.id]["why"] for row in wanted for one in row if one.id in store.failed}
    kept = [(one.prompt, one.number, one.value) for one in given if one.why == KEPT]
    return Answers(
        given,
        store.spent.requests - asking.before,
        store.repeated,
        Counter(one.why for one in given if one.why != KEPT),
        Counter(gave_up.values()),
        asking.troubles,
        store.spent,
        money(store.spent, asking.options),
        asking.capped,
        content_id([[one.id for one in row] for row in wanted], kept),
        stand_for(wanted, asking.options),
        tuple(dict.fromkeys(wanted[one.number][one.prompt].id for one in given)),
    )


def say_after(found: Answers, options: EndpointOptions, show: Callable[[str], None]) -> None:
    show(f"the teacher: {found.asked:,} requests now; {len(found.given):,} answers, {len(found.kept):,} kept")
    for what, counts in (
        ("answers refused", found.refused),
        ("requests without an answer", found.unanswered),
        ("tries that failed", found.troubles),
    ):
        if counts:
            ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
            show(f"  {what}: {'; '.join(f'{count:,} × {why}' for why, count in ordered)}")
    repeated = f"; {found.repeated:,} were sent twice since a run ended before their answer" if found.repeated else ""
    show(f"  spent so far: {say_cost(found.spent, options)}{repeated}")
    if found.stopped:
        show(f"note: stopped at the {found.stopped}, with what is there; raise it and repeat the command to go on")
