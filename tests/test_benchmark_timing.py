"""Real timing of tiny models: figures, intervals and their coverage, resuming, and workers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

import benchmark
from benchmark import Bench, WorkerDied, measure_memory, measure_size
from benchmark.footprint import measure_download

CPU = benchmark.PRESETS["cpu"]


def write_mlp(path: Path, width: int, depth: int = 2, *, first: int | str = "batch") -> Path:
    """relu(x @ W) `depth` times; x: (batch, width)."""
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(depth):
        weight = random.standard_normal((width, width)).astype(np.float32) / width**0.5
        weights.append(onnx.numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"x{i}" if i else "x", f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"x{i + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [first, width]) for name in ("x", f"x{depth}")]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {width: write_mlp(folder / f"mlp{width}.onnx", width) for width in (128, 256, 320, 512)}


@pytest.fixture(scope="module")
def ladder(models: dict[int, Path]) -> list[dict]:
    with Bench(CPU, [models[512], models[128], models[256]], ladder_seconds=0.9) as bench:
        return bench.ladder()


def test_ladder_rises_and_says_where_it_was_measured(ladder):
    assert [rung["reference"] for rung in ladder] == ["mlp128.onnx", "mlp256.onnx", "mlp512.onnx"]
    assert ladder[0]["ms"] < ladder[1]["ms"] < ladder[2]["ms"]
    assert all(rung["host"] == benchmark.host_fingerprint() and rung["repeat_spread"] > 0 for rung in ladder)


def test_recorded_ladder_is_not_measured_again(models, ladder):
    with Bench(CPU, [models[128], models[256], models[512]], ladder=ladder) as bench:
        assert bench.ladder() == ladder
        assert bench._channel.pid is None  # nothing was started for it


@pytest.mark.parametrize(("key", "value"), [("host", "elsewhere"), ("threads", 2), ("sha256", "0")])
def test_ladder_of_something_else_is_refused(models, ladder, key, value):
    references = [models[128], models[256], models[512]]
    with pytest.raises(ValueError, match="the recorded ladder"):
        Bench(CPU, references, ladder=[{**rung, key: value} for rung in ladder])


def test_paired_keeps_samples_and_picks_the_nearest_reference(models, ladder):
    with Bench(CPU, [models[128], models[256], models[512]], ladder=ladder) as bench:
        one = bench.paired(models[256], seconds=0.2)
    assert one.quantity == "latency_ms"
    assert one.value == pytest.approx(np.median(one.samples))
    assert one.low < one.value < one.high
    assert "mlp256.onnx" in one.protocol
    assert one.value == pytest.approx(ladder[1]["ms"], rel=0.25)  # the same file: ratio 1


def test_timing_afresh_uses_new_processes_and_holds_what_differs_between_them(models, ladder):
    with Bench(CPU, [models[128], models[256], models[512]], ladder=ladder) as bench:
        pids = []
        restart = bench._channel.restart
        bench._channel.restart = lambda: (pids.append(bench._channel.pid), restart())
        one, two = bench.paired_afresh([models[256], models[320]], seconds=0.02)
    assert len(pids) == len(set(pids)) == 5
    assert one.quantity == "latency_ms"
    assert len(one.samples) == len(two.samples) == 5  # a median of each process
    assert one.value == pytest.approx(np.median(one.samples), rel=1e-4)
    assert one.low <= min(one.samples) <= max(one.samples) <= one.high
    assert "5 fresh processes" in one.protocol
    assert "mlp256.onnx" in one.protocol


@pytest.mark.slow  # wants a machine at rest
def test_intervals_of_what_decides_cover_further_measurements(models, ladder, capsys):
    """An interval over fresh processes holds the centre of 12 such measurements, each in processes of its own."""
    references = [models[128], models[256], models[512]]
    measured = []
    for _ in range(12):
        with Bench(CPU, references, ladder=ladder) as bench:
            measured.append(bench.paired_afresh([models[320], models[256]]))
    tell_coverage(capsys, "afresh", [one for pair in measured for one in pair[:1]], 0.8)
    tell_coverage(capsys, "afresh, a reference itself", [one for pair in measured for one in pair[1:]], 0.8)


@pytest.mark.slow  # wants a machine at rest
def test_intervals_of_quick_timing_cover_repeats_in_one_process(models, ladder, capsys):
    with Bench(CPU, [models[128], models[256], models[512]], ladder=ladder) as bench:
        tell_coverage(capsys, "paired", [bench.paired(models[320], seconds=0.1) for _ in range(40)], 0.8)


def tell_coverage(capsys, what, repeats, least):
    """95 % is meant; with few repeats that drift together somewhat less is no proof of a fault."""
    centre = np.median([one.value for one in repeats])
    covered = np.mean([one.low <= centre <= one.high for one in repeats])
    half = np.median([one.high / one.value - 1 for one in repeats])
    with capsys.disabled():
        print(f"\n{what}: {covered:.0%} of {len(repeats)} intervals (± {half:.1%}) hold the centre")
    assert covered >= least
    assert half < 0.5


def test_slowed_reference_is_flagged(models, ladder):
    """As if the reference had been twice as quick at rest."""
    quick = [{**rung, "least_ms": rung["least_ms"] / 2} for rung in ladder]
    with Bench(CPU, [models[128], models[256], models[512]], ladder=quick) as bench:
        assert bench.paired(models[256], seconds=0.05).noisy


def test_direct_gives_median_and_p95(models):
    with Bench(CPU) as bench:
        median, p95 = bench.direct(models[256], seconds=0.3)
    assert (median.quantity, p95.quantity) == ("latency_direct_ms", "latency_p95_ms")
    assert median.low <= median.value <= median.high
    assert median.value <= p95.value
    assert median.value == pytest.approx(np.median(median.samples), rel=1e-3)
    assert 0.001 < median.value < 50


def test_bigger_batches_take_longer(models):
    times = []
    for batch in (1, 64):
        with Bench(benchmark.resolve_target("cpu", {"batch": batch})) as bench:
            times.append(bench.direct(models[512], seconds=0.1)[0].value)
    assert times[1] > 2 * times[0]


def test_feeds_are_used_and_refused_when_they_do_not_fit(models, tmp_path):
    np.savez(tmp_path / "good.npz", x=np.ones((3, 128), np.float32))
    np.savez(tmp_path / "narrow.npz", x=np.ones((3, 100), np.float32))
    np.savez(tmp_path / "other.npz", y=np.ones((3, 128), np.float32))
    np.savez(tmp_path / "double.npz", x=np.ones((3, 128)))
    (tmp_path / "text.npz").write_text("no")
    with Bench(CPU, feeds=tmp_path / "good.npz") as bench:
        bench.direct(models[128], seconds=0.05)
    for name, said in [("narrow", "shape"), ("other", "lack the input 'x'"), ("double", "takes float32")]:
        with Bench(CPU, feeds=tmp_path / f"{name}.npz") as bench, pytest.raises(ValueError, match=said):
            bench.direct(models[128], seconds=0.05)
    for name in ("text.npz", "absent.npz"):
        with pytest.raises(ValueError, match=r"are not an \.npz"):
            Bench(CPU, feeds=tmp_path / name)


def test_bad_models_are_refused_and_the_worker_goes_on(models, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_text("not a model")
    fixed = write_mlp(tmp_path / "fixed.onnx", 16, first=1)
    with Bench(benchmark.resolve_target("cpu", {"batch": 4})) as bench:
        with pytest.raises(ValueError, match=r"cannot run .*bad\.onnx"):
            bench.direct(bad)
        with pytest.raises(ValueError, match="fixed batch of 1; the target asks for 4"):
            bench.direct(fixed)
        with pytest.raises(ValueError, match=r"no model file .*absent"):
            bench.direct(tmp_path / "absent.onnx")
        with pytest.raises(ValueError, match="at least one reference"):
            bench.paired(models[128])
        pid = bench._channel.pid
        assert bench.direct(models[128], seconds=0.05)[0].value > 0
        assert bench._channel.pid == pid


def test_dead_worker_is_told_and_replaced(models):
    with Bench(CPU) as bench:
        bench.direct(models[128], seconds=0.05)
        threading.Timer(0.3, os.kill, (bench._channel.pid, signal.SIGKILL)).start()
        with pytest.raises(WorkerDied, match=r"ended by signal 9 during 'time' of .*mlp128\.onnx"):
            bench.direct(models[128], seconds=5)
        assert bench.direct(models[128], seconds=0.05)[0].value > 0


@pytest.fixture
def interrupts():
    """SIGINT raises KeyboardInterrupt also where the tests were started with it ignored, as in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_leaves_no_process_and_no_stale_answer(models, interrupts):
    with Bench(CPU) as bench:
        bench.direct(models[128], seconds=0.05)
        pid = bench._channel.pid
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            bench.direct(models[128], seconds=10)
        assert time.monotonic() - start < 5
        assert not psutil.pid_exists(pid)
        assert bench.direct(models[256], seconds=0.05)[0].value > 0
        pid = bench._channel.pid
    assert not psutil.pid_exists(pid)


def test_killed_caller_leaves_no_process(models):
    code = (
        "import sys, pathlib, benchmark; bench = benchmark.Bench(benchmark.PRESETS['cpu']);"
        "model = pathlib.Path(sys.argv[1]); bench.direct(model, 0.05);"
        "print(bench._channel.pid, flush=True); bench.direct(model, 60)"
    )
    command = [sys.executable, "-P", "-c", code, str(models[128])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        pid = int(caller.stdout.readline())
        caller.kill()
    end = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # nobody may be there to reap an orphan
    except psutil.NoSuchProcess:
        return False


def test_memory_grows_with_the_model(models, tmp_path):
    small, large = measure_memory([models[128], write_mlp(tmp_path / "l.onnx", 1024, 4)], CPU)
    assert large.low <= large.value <= large.high
    assert large.value - small.value > 12  # 16.8 MB of weights against 0.1
    assert len(large.samples) == 3


def test_size_counts_kilobytes_of_a_thousand(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"0" * 1500)
    (tmp_path / "m.onnx.data").write_bytes(b"0" * 500)
    one = measure_size(tmp_path / "m.onnx", CPU)
    assert (one.value, one.low, one.high, one.provenance) == (2.0, 2.0, 2.0, "static")


def test_download_is_what_gzip_leaves(tmp_path):
    noise = np.random.default_rng(0).bytes(1000)
    (tmp_path / "m.onnx").write_bytes(b"0" * 100_000)
    (tmp_path / "m.onnx.data").write_bytes(noise)
    one = measure_download(tmp_path / "m.onnx", CPU)
    assert (one.quantity, one.provenance) == ("download_kb", "static")
    assert 1.0 < one.value < 1.3  # zeros go, noise stays
    assert measure_download(tmp_path / "m.onnx", CPU) == one
