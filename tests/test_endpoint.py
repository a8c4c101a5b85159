"""Clients: what is sent to an endpoint, what is taken of its answer, and every way in which it may fail."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import pytest
from fake_endpoint import start_endpoint

from family.errors import Mistakes
from family.text.client import Refused, open_client, read_wait
from family.text.endpoint import EndpointOptions, check_endpoint, make_requests, read_key

SECRET = "my PIN is 4711"


def ask(options: EndpointOptions, prompt: str = "What is a cat?"):
    return open_client(options)(make_requests(options, (prompt,))[0][0])


def refuse(options: EndpointOptions, prompt: str = "What is a cat?") -> Refused:
    with pytest.raises(Refused) as found:
        ask(options, prompt)
    assert prompt not in str(found.value)
    assert found.value.__cause__ is None
    return found.value


def test_chat_is_asked_as_openai_has_it():
    with start_endpoint(say=lambda prompt, body: "An animal.") as server:
        options = EndpointOptions(server.url, model="m", system="Be short.", max_tokens=7, seed=3, body={"stop": ["."]})
        reply = ask(options)
    (one,) = server.asked
    assert (reply.text, reply.prompt_tokens, reply.answer_tokens, reply.guessed) == ("An animal.", 4, 2, False)
    assert reply.finish == "stop"
    assert one.path == "/v1/chat/completions"
    said = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is a cat?"}]
    settings = {"model": "m", "temperature": 0.0, "max_tokens": 7, "seed": 3, "stop": ["."]}
    assert one.body == {"messages": said, **settings}
    assert "Authorization" not in one.headers


def test_completions_are_asked_for_with_a_prompt():
    with start_endpoint(say=lambda prompt, body: " an animal") as server:
        options = EndpointOptions(server.url + "/", model="m", form="completions", body={"seed": None, "n": 1})
        assert ask(options).text == " an animal"
    (one,) = server.asked
    assert one.path == "/v1/completions"
    assert one.body == {"prompt": "What is a cat?", "model": "m", "temperature": 0.0, "max_tokens": 256, "n": 1}


def test_a_request_has_the_same_id_in_every_run_and_another_for_whatever_changes_its_answer():
    options = EndpointOptions("http://127.0.0.1/v1", model="m", answers=2, temperature=1.0)
    first, second = make_requests(options, ("a", "b", "a"))
    assert [one.id for one in first] == [one.id for one in make_requests(options, ("a", "b"))[0]] + [first[0].id]
    changed = [
        replace(options, model="n"),
        replace(options, temperature=0.5),
        replace(options, max_tokens=3),
        replace(options, system="x"),
        replace(options, form="completions"),
        replace(options, body={"stop": "x"}),
        replace(options, url="http://127.0.0.1:1/v1"),
    ]
    ids = {make_requests(one, ("a",))[0][0].id for one in changed} | {first[0].id, first[1].id, second[0].id}
    assert len(ids) == len(changed) + 3
    same = replace(
        options, timeout_s=3, retries=1, at_once=9, cap_tokens=5, api_key_env="X", url="http://127.0.0.1/v1/"
    )
    assert make_requests(same, ("a",))[0][0].id == first[0].id
    assert first[0].settings["seed"] + 1 == second[0].settings["seed"]
    assert "b" not in repr(first[1]).split("settings")[0].replace(first[1].id, "")


@pytest.mark.parametrize(
    ("fault", "why", "again", "billed"),
    [
        ("429", "HTTP 429 (rate_limit_exceeded)", True, False),
        ("429 without a word", "HTTP 429", True, False),
        ("quota", "HTTP 429 (insufficient_quota)", False, False),
        ("500", "HTTP 500", True, False),
        ("400", "HTTP 400 (context_length_exceeded)", False, False),
        ("404", "HTTP 404 (model_not_found)", False, False),
        ("html", "HTML instead of JSON: is the url that of an API?", True, True),
        ("html as json", "HTML instead of JSON: is the url that of an API?", True, True),
        ("truncated", "no whole JSON", True, True),
        ("hang up", "the connection broke off", True, True),
        ("no choices", "JSON without an answer in it", True, True),
        ("number", "JSON whose answer is no text", False, True),
        ("large", "more than 1,000,000 bytes in one answer, cut off", False, True),
        ("large untold", "more than 1,000,000 bytes in one answer, cut off", False, True),
        ("redirect", "HTTP 307, a redirect, which is not followed: key and prompt would go elsewhere", False, False),
        ("see other", "HTTP 303, a redirect, which is not followed: key and prompt would go elsewhere", False, False),
    ],
)
@pytest.mark.parametrize("form", ["chat", "completions"])
def test_what_an_endpoint_may_give_instead_of_an_answer(fault, why, again, billed, form):
    with start_endpoint(fault) as server:
        problem = refuse(EndpointOptions(server.url, model="m", form=form), SECRET)
    assert (problem.why, problem.again, problem.billed) == (why, again, billed)
    assert problem.wait_s == (0.05 if fault == "429" else None)
    assert server.counts["redirected"] == 0


@pytest.mark.parametrize("fault", ["timeout", "drip", "drip head"])
def test_an_endpoint_that_does_not_end_is_waited_for_no_longer_than_told(fault):
    with start_endpoint(fault) as server:
        began = time.monotonic()
        problem = refuse(EndpointOptions(server.url, model="m", timeout_s=0.2))
        assert time.monotonic() - began < 1.5
    assert (problem.why, problem.again, problem.billed) == ("no answer within 0.2 s", True, True)


@pytest.mark.parametrize("fault", ["empty", "space"])
def test_empty_text_is_an_answer_for_the_filters(fault):
    with start_endpoint(fault) as server:
        assert ask(EndpointOptions(server.url, model="m")).text.strip() == ""


def test_no_endpoint_at_all():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    assert refuse(EndpointOptions(url, model="m")).why == "the connection is refused: is the endpoint running?"
    problem = refuse(EndpointOptions("http://no-such-host.invalid/v1", model="m", timeout_s=5))
    assert problem.why == "the host is not found"
    assert problem.again


def test_https_where_there_is_none():
    with start_endpoint() as server:
        problem = refuse(EndpointOptions(server.url.replace("http:", "https:"), model="m", timeout_s=5))
    assert problem.why.startswith("no secure connection")
    assert not server.asked


def test_the_key_is_read_from_the_environment_and_sent(monkeypatch):
    monkeypatch.setenv("MY_KEY", " sk-secret-4711\n")
    with start_endpoint(key="sk-secret-4711", say=lambda prompt, body: "your key is sk-secret-4711") as server:
        reply = ask(EndpointOptions(server.url, model="m", api_key_env="MY_KEY"))
        assert reply.text == "your key is ***"
        monkeypatch.setenv("MY_KEY", "sk-other")
        problem = refuse(EndpointOptions(server.url, model="m", api_key_env="MY_KEY"))
        assert problem.why == "HTTP 401 (invalid_api_key): is the key in MY_KEY right?"
        assert not problem.again
        problem = refuse(EndpointOptions(server.url, model="m"))
    assert problem.why == "HTTP 401 (invalid_api_key): name the variable that holds a key in api_key_env"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "names the environment variable MY_KEY, which is not set. Type: export MY_KEY=…"),
        (" ", "names the environment variable MY_KEY, which is empty"),
        ("sk-\nX-Other: 1", "names the environment variable MY_KEY, which holds characters that no key has"),
        ("schlüssel", "names the environment variable MY_KEY, which holds characters that no key has"),
    ],
)
def test_a_key_that_cannot_be_sent(value, said, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(Mistakes) as found:
        read_key(EndpointOptions("http://127.0.0.1/v1", model="m", api_key_env="MY_KEY"))
    assert f"teacher.asks.api_key_env: {said}" in str(found.value)
    assert value is None or value.strip() == "" or value not in str(found.value)


def test_how_long_an_endpoint_asks_to_wait():
    assert read_wait("3") == 3
    assert read_wait(" 0.25 ") == 0.25
    assert read_wait("Thu, 01 Jan 1970 00:01:40 GMT", now=lambda: 40.0) == 60
    assert read_wait("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert [read_wait(one) for one in (None, "soon", "-3", "", "1" * 40, "nan")] == [None] * 6


def write_client(folder, body: str) -> EndpointOptions:
    (folder / "mine.py").write_text(f"def ask(prompt, settings):\n    {body}\n")
    return EndpointOptions("mine.py:ask", folder, seed=5)


def test_any_client_by_a_users_function(tmp_path):
    options = write_client(tmp_path, 'return f\'{prompt} {settings["seed"]} {settings["request_id"]}\'')
    check_endpoint(options)
    reply = ask(options, "hello")
    assert reply.text == f"hello 5 {make_requests(options, ('hello',))[0][0].id}"
    assert reply.guessed


@pytest.mark.parametrize(
    ("body", "why", "again"),
    [
        ("raise OSError(prompt)", "mine.py:ask failed: OSError (mine.py, line 2)", True),
        ("return prompt.nothing", "mine.py:ask failed: AttributeError (mine.py, line 2)", False),
        ("raise SystemExit(prompt)", "mine.py:ask failed: SystemExit (mine.py, line 2)", True),
        ("return None", "mine.py:ask gave NoneType, not text", False),
    ],
)
def test_a_users_function_that_fails(body, why, again, tmp_path):
    problem = refuse(write_client(tmp_path, body), SECRET)
    assert (problem.why, problem.again) == (why, again)


def test_halves_of_characters_are_replaced(tmp_path):
    assert ask(write_client(tmp_path, r"return 'a\ud83d'")).text == "a?"


GOOD = EndpointOptions("http://127.0.0.1/v1", model="m")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (replace(GOOD, url="127.0.0.1:80/v1"), "teacher.path: must be http://host:port/v1, https://host/v1 or file.py"),
        (replace(GOOD, url="http://"), "teacher.path: must be http://host:port/v1"),
        (replace(GOOD, url="http://[::1/v1"), "teacher.path: is no URL"),
        (replace(GOOD, url="http://me:hunter2@host/v1"), "teacher.path: must hold no user, password or query"),
        (replace(GOOD, url="http://host/v1?key=hunter2"), "teacher.path: must hold no user, password or query"),
        (replace(GOOD, url="http://host/v 1"), "teacher.path: must be http://host:port/v1"),
        (replace(GOOD, model=None), "teacher.asks.model: must name the model"),
        (
            replace(GOOD, form="chta"),
            "teacher.asks.form: must be chat or completions. Got 'chta'. Did you mean 'chat'?",
        ),
        (replace(GOOD, answers=2), "teacher.asks.answers: must be 1 where temperature is 0"),
        (replace(GOOD, top_p=1.5), "teacher.asks.top_p: must be at most 1. Got 1.5."),
        (replace(GOOD, timeout_s=float("nan")), "teacher.asks.timeout_s: must be above 0. Got nan."),
        (replace(GOOD, at_once=0), "teacher.asks.at_once: must be 1 or more. Got 0."),
        (replace(GOOD, cap_money=3), "teacher.asks.cap_money: needs prompt_price and answer_price"),
        (replace(GOOD, body={"x": {1, 2}}), "teacher.asks.body: must hold what JSON can hold."),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(Mistakes) as found:
        check_endpoint(options)
    assert said in str(found.value)
    assert "hunter2" not in str(found.value)


def test_all_mistakes_at_once():
    with pytest.raises(Mistakes) as found:
        check_endpoint(replace(GOOD, url="ftp://x", model=None, form="x", at_once=0))
    assert len(found.value.mistakes) == 4
