"""onnxruntime in Node and in a real browser; skipped where they are not installed."""

import base64
import json
import re

import numpy as np
import onnx
import psutil
import pytest
from test_benchmark_timing import write_mlp

from benchmark import (
    Bench,
    WorkerDied,
    browser,
    can_answer,
    node,
    open_meter,
    resolve_target,
    unavailable,
    why_refused,
)
from benchmark.c_runner import open_here
from benchmark.inputs import make_inputs
from benchmark.targets import open_channel


def needs(name):
    why = unavailable(resolve_target(name))
    return pytest.param(name, marks=pytest.mark.skipif(why is not None, reason=str(why)))


BOTH = [needs("node"), needs("browser")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {width: write_mlp(folder / f"mlp{width}.onnx", width, 2) for width in (64, 128, 192)}


@pytest.mark.parametrize("name", BOTH)
def test_outputs_are_those_of_python(models, name):
    channel = open_channel(resolve_target(name))
    try:
        (found,) = channel.ask("run", models[64])["outputs"].values()
    finally:
        channel.close()
    session = open_here(models[64])
    (expected,) = session.run(None, make_inputs(models[64], session.get_inputs(), 1, None, strict=True))
    assert np.reshape(found["data"], found["dims"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", BOTH)
def test_a_larger_model_takes_longer_beside_references(models, name):
    with Bench(resolve_target(name), [models[64], models[192]], ladder_seconds=0.3) as bench:
        small, large = (bench.paired(models[width], 0.1) for width in (64, 192))
        assert small.value < large.value
        assert small.low <= small.value <= small.high
        assert small.host == bench.host
        assert [rung["host"] for rung in bench.ladder()] == [bench.host] * 2
    assert small.provenance == {"node": "measured:host", "browser": "measured:host-browser"}[name]


@pytest.mark.parametrize("name", BOTH)
def test_a_broken_model_is_told_and_the_next_one_runs(models, tmp_path, name):
    channel = open_channel(resolve_target(name))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(models[64].read_bytes())
    channel.ask("run", broken)  # its inputs are known from now on
    broken.write_bytes(b"no model at all")
    try:
        with pytest.raises(ValueError, match=re.escape("broken.onnx")):
            channel.ask("run", broken)
        assert channel.ask("run", models[64])["outputs"]
    finally:
        channel.close()


@pytest.mark.parametrize("name", BOTH)
def test_what_a_runtime_lacks_is_its_own_word(models, tmp_path, name):
    own, new = onnx.load(models[64]), onnx.load(models[64])
    own.graph.node[0].domain = "my.own"
    own.opset_import.append(onnx.helper.make_opsetid("my.own", 1))
    new.opset_import[0].version = 99
    onnx.save(own, tmp_path / "own.onnx")
    onnx.save(new, tmp_path / "new.onnx")
    target = resolve_target(name)
    assert why_refused(target, [models[64], models[128]]) is None
    assert "my.own:" in why_refused(target, [models[64], tmp_path / "own.onnx"])
    assert "Opset 99" in why_refused(target, [tmp_path / "new.onnx"])


@pytest.mark.parametrize("name", [needs("browser")])
def test_a_browser_that_crashes_is_told_and_started_again(models, name):
    channel = open_channel(resolve_target(name))
    try:
        channel.ask("run", models[64])
        tabs = [p for p in psutil.Process(channel.pid).children(recursive=True) if "--type=renderer" in p.cmdline()]
        assert tabs
        for tab in tabs:
            tab.kill()
        with pytest.raises(WorkerDied, match="the measuring process ended with code 1"):
            channel.ask("run", models[64])
        assert channel.ask("run", models[64])["outputs"]
        started = psutil.Process(channel.pid).children(recursive=True)
    finally:
        channel.close()
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive


@pytest.mark.parametrize("name", [needs("browser-slow")])
def test_a_slowed_browser_tells_means_of_long_windows(models, name, monkeypatch):
    monkeypatch.setattr("benchmark.direct.REPEATS", 2)
    target = resolve_target(name)
    assert "latency_p95_ms" not in can_answer(target)
    meter = open_meter(target)
    try:
        size, latency = meter.quickly(models[192])
    finally:
        meter.close()
    assert (size.quantity, latency.quantity) == ("size_kb", "latency_ms")
    assert latency.provenance == "measured:host-throttled"
    assert "means over 1.5 s after as much warm-up" in latency.protocol
    assert len(latency.samples) == 2


def test_without_programs_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(node.shutil, "which", lambda name: None)
    assert unavailable(resolve_target("node")) == "node is skipped: it needs node: sudo apt-get install nodejs npm."
    said = unavailable(resolve_target("browser"))
    assert said == "browser is skipped: it needs a Chromium: sudo apt-get install chromium."
    with pytest.raises(ValueError, match="it needs npm: sudo apt-get install npm"):
        node.prepare()


def test_without_packages_it_says_how_to_install_them(monkeypatch, tmp_path):
    monkeypatch.setattr(node.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(browser, "find_spec", lambda name: True)
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(tmp_path))
    for name in ("node", "browser"):
        assert "python -P -m benchmark.prepare javascript" in str(unavailable(resolve_target(name)))
    monkeypatch.setattr(browser, "find_spec", lambda name: None)
    assert "pip install 'student-family[browser]'" in str(unavailable(resolve_target("browser")))


def test_only_models_that_were_asked_about_are_served(tmp_path):
    asked = str(tmp_path / "model.onnx")
    pages = object.__new__(browser.Pages)
    pages._models = {asked}
    assert pages.find(browser.urlsplit(f"/model?path={asked}")) == tmp_path / "model.onnx"
    assert pages.find(browser.urlsplit("/model?path=/etc/passwd")) is None
    assert pages.find(browser.urlsplit("/js/../../../etc/passwd")).parent == node.js_folder()
    assert pages.find(browser.urlsplit("/elsewhere/x")) is None


def test_inputs_travel_as_they_are():
    value = np.arange(6, dtype=np.int64).reshape(2, 3)
    told = json.loads(json.dumps(node.encode(value)))
    assert told["dims"] == [2, 3]
    assert np.frombuffer(base64.b64decode(told["data"]), told["type"]).tolist() == value.ravel().tolist()
