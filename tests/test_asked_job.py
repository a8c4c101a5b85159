"""A file whose teacher returns only text: its mistakes, what is asked when, and what is written where."""

from __future__ import annotations

import pytest
from fake_endpoint import one_in_three, start_endpoint
from test_asked_task import KINDS, say_kind, write_rows

from family.build import build
from family.errors import Mistakes
from family.job import ASKED, asks_of, open_job
from family.spec import read_spec
from family.text.answers import TERMS
from family.text.text_teacher import TextTeacher

FILE = """\
name: kinds
task: lm
data: {path: rows.csv, text: gloss, label: kind}
teacher:
  path: URL
  asks: {model: m, prompt: "What is it? {gloss}\\nAnswer:", valid: [animal, plant], api_key_env: MY_KEY}
students: {space: decoder, dims: {width: 32, depth: 1, heads: 2, feed: 2, vocabulary: 300, context: 64}}
budgets:
  small: {target: cpu, size_kb: 400}
"""
KEY = "sk-4711-secret"


def write_file(folder, url: str, *changes: tuple[str, str]):
    text = FILE.replace("URL", url)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "b.yaml").write_text(text, encoding="utf-8")
    return folder / "b.yaml"


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path)
    with start_endpoint(say=say_kind, key=KEY) as server:
        yield server


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("task: lm\n", ""), "task: must be lm, as the teacher returns only text. Got None."),
        (
            ('  asks: {model: m, prompt: "What is it? {gloss}\\nAnswer:"', "  x: {y: 1"),
            "teacher: returns only text: say",
        ),
        (("prompt:", "promt:"), "duplicates, filter. Did you mean 'prompt'?"),
        (("model: m", "model: m, at_once: 0"), "teacher.asks.at_once: must be above 0. Got 0"),
        (("model: m", "model: m, form: chats"), "teacher.asks.form: must be"),
        (("model: m", "model: m, top_p: 1.5"), "teacher.asks.top_p"),
        (("  asks:", "  tokenizer: t.json\n  asks:"), "teacher.tokenizer: is not for a teacher that returns only"),
        (("  asks:", "  gives: logits\n  asks:"), "teacher.gives: is not for task: lm. Leave it out."),
        (
            ("{space: decoder", "{tokenizer: t.json, space: decoder"),
            "students.tokenizer: is not for a teacher that returns",
        ),
        (("budgets:", "distill: {draws: 16}\nbudgets:"), "distill.draws: is not for a teacher that returns"),
        (
            ("budgets:", "distill: {soft_targets: x}\nbudgets:"),
            "distill.soft_targets: is not for a teacher that returns",
        ),
        (("budgets:", "distill: {on_policy: 0.5}\nbudgets:"), "distill.on_policy: is not for a teacher that returns"),
        (
            ("budgets:", "distill: {label_weight: 0.5}\nbudgets:"),
            "distill.label_weight: is not for a teacher that returns",
        ),
        (("budgets:", "distill: {temperature: 2}\nbudgets:"), "distill.temperature: is not for a teacher that returns"),
    ],
)
def test_mistakes_in_the_file(change, said, tmp_path):
    write_rows(tmp_path)
    with pytest.raises(Mistakes) as found:
        read_spec(write_file(tmp_path, "http://127.0.0.1:9/v1", change))
    assert said in str(found.value)


@pytest.mark.parametrize("url", ["http://me:hunter2@host/v1", "https://host/v1?api_key=hunter2"])
def test_a_secret_in_the_url_is_refused_before_anything_is_written(url, tmp_path):
    write_rows(tmp_path)
    with pytest.raises(Mistakes, match=r"teacher.path: must hold no user, password or query") as found:
        read_spec(write_file(tmp_path, url))
    assert "hunter2" not in str(found.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("width: 32", "width: 8"), "students.dims.width"),
        (("{gloss}", "{glos}"), "teacher.asks.prompt: names the field 'glos'"),
        (("model: m", "model: m, answers: 2"), "teacher.asks.answers: must be 1 where temperature is 0"),
        (("[animal, plant]", "'('"), "teacher.asks.valid: is no regular expression"),
        (("[animal, plant]", "[animal], filter: 'none.py:f'"), "teacher.asks.filter: names the file none.py"),
        (("model: m", "model: m, prompts: none.txt"), "teacher.asks.prompts: names none.txt"),
        (("api_key_env: MY_KEY", "api_key_env: NO_KEY"), "teacher.asks.api_key_env: names the environment variable"),
        (("model: m, ", ""), "teacher.asks.model: must name the model"),
        (("size_kb: 400", "size_kb: 1"), "budgets.small.size_kb: cannot be kept"),
        (("label: kind", "label: kinds"), "data.label: names 'kinds', which is no column"),
    ],
)
def test_nothing_is_asked_where_something_is_wrong(change, said, tmp_path, endpoint):
    spec = read_spec(write_file(tmp_path, endpoint.url, change))
    with pytest.raises(Mistakes) as found:
        open_job(spec, tmp_path / "run", tmp_path / "cache", lambda line: None)
    assert said in str(found.value)
    assert not endpoint.asked


def test_every_key_reaches_the_endpoint(tmp_path):
    given = (
        "answers: 2, temperature: 0.5, top_p: 0.9, max_tokens: 9, form: completions, system: s, body: {stop: x}, "
        "timeout_s: 3, retries: 1, at_once: 2, requests_per_minute: 5, tokens_per_minute: 6, prompt_price: 1, "
        "answer_price: 2, cap_requests: 7, cap_tokens: 8, cap_money: 3, min_length: 2, max_length: 20, "
        "duplicates: prompt, filter: 'f.py:keep', prompts: more.txt"
    )
    write_rows(tmp_path)
    spec = read_spec(write_file(tmp_path, "http://127.0.0.1:9/v1", ("model: m", f"model: m, {given}")))
    asks = asks_of(spec)
    told = {**vars(asks.endpoint), **vars(asks.endpoint.filters), "prompts": asks.more, "prompt": asks.template}
    elsewhere = {"filter": "function"}
    for name, value in spec.teacher[0].asks.model_dump().items():
        assert told[elsewhere.get(name, name)] == value


def test_answers_are_asked_for_once_whoever_opens_the_job(tmp_path, endpoint):
    spec = read_spec(write_file(tmp_path, endpoint.url))
    first, second = (open_job(spec, tmp_path / name, tmp_path / "cache", lambda line: None) for name in "ab")
    assert len(endpoint.asked) == 60
    assert first.task.fingerprint == second.task.fingerprint
    assert first.teacher.fingerprint == second.teacher.fingerprint
    assert isinstance(first.teacher, TextTeacher)
    assert {first.task.texts[i] for i in first.task.splits["transfer"]} == set(KINDS)
    assert first.soft_targets().has == {"answers"}


def test_a_run_stays_with_the_answers_that_it_was_built_of(tmp_path, endpoint):
    first = "thing 3 of"  # given up in the first run, and answered in every other
    endpoint.plan = lambda prompt, nth: "404" if first in prompt and nth == 0 else ""
    spec = read_spec(write_file(tmp_path, endpoint.url))
    a, again, b, later = (
        open_job(spec, tmp_path / name, tmp_path / "cache", lambda line: None) for name in ("a", "a", "b", "a")
    )
    assert len(endpoint.asked) == 61
    assert a.teacher.fingerprint == again.teacher.fingerprint == later.teacher.fingerprint != b.teacher.fingerprint
    assert again.teacher.asked.answers.unanswered == a.teacher.asked.answers.unanswered != {}
    (tmp_path / "a" / ASKED).unlink()
    fresh = open_job(spec, tmp_path / "a", tmp_path / "cache", lambda line: None)
    assert fresh.teacher.fingerprint == b.teacher.fingerprint


def test_a_run_whose_answers_are_gone_asks_again_once(tmp_path, endpoint):
    spec = read_spec(write_file(tmp_path, endpoint.url))
    open_job(spec, tmp_path / "run", tmp_path / "cache", lambda line: None)
    endpoint.plan = lambda prompt, nth: "404" if "thing 3 of" in prompt else ""
    for _ in range(2):
        open_job(spec, tmp_path / "run", tmp_path / "new", lambda line: None)
    assert len(endpoint.asked) == 120


def test_any_client_by_a_users_function(tmp_path):
    write_rows(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def ask(prompt, settings):\n    return 'plant' if settings['seed'] == 0 else 'no'\n"
    )
    file = write_file(tmp_path, "mine.py:ask", ("model: m, ", ""), (", api_key_env: MY_KEY", ""))
    job = open_job(read_spec(file), tmp_path / "run", tmp_path / "cache", lambda line: None)
    assert isinstance(job.teacher, TextTeacher)
    assert len(job.teacher.asked.answers.kept) == 60


def find_in_files(folder, text: str) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "rows.csv"]
    assert files
    return [path.name for path in files if text.encode() in path.read_bytes()]


def test_a_dry_run_asks_eight_and_writes_no_key(tmp_path, endpoint):
    said: list[str] = []
    spec = read_spec(write_file(tmp_path, endpoint.url))
    open_job(spec, tmp_path / "run", tmp_path / "cache", said.append, may_train=False)
    open_job(spec, tmp_path / "run", tmp_path / "cache", said.append, may_train=False)
    assert len(endpoint.asked) == 8  # and none by the second
    assert any("60 requests" in line for line in said)
    assert not find_in_files(tmp_path, KEY)
    assert KEY not in "".join(said)
    assert "of many" not in "".join(said)  # what every prompt says


@pytest.mark.slow
def test_a_family_of_a_teacher_that_returns_only_text(tmp_path, endpoint):
    endpoint.plan, said = one_in_three, []
    quick = ("budgets:", "distill: {steps: 20, control_seeds: 2, learning_rate: 0.01, loss: answers}\nbudgets:")
    end = ("size_kb: 400}", "size_kb: 400}\nsearch: {trials: 1, engine: tpe}\nexport: {precisions: [fp32]}")
    spec = read_spec(write_file(tmp_path, endpoint.url, quick, end))
    outcome = build(spec, tmp_path / "run", False, said.append)
    assert outcome.exit_code == 0
    answers, told = outcome.family["answers"], outcome.family["budgets"]["small"]["answers"]
    assert (answers["given"], answers["kept"], answers["refused"]) == (60, 54, {"not valid": 6})
    assert answers["requests"] == len(endpoint.asked) > 70
    assert said.count(TERMS) == 1
    assert set(told["matches"]) == {"teacher", "label"}
    assert 0 <= told["matches"]["label"]["student"] <= 1
    assert "What the teacher wrote, and what students write" in (tmp_path / "run/report/index.html").read_text()
    assert not find_in_files(tmp_path, KEY)
    assert "of many" not in "".join(said)
