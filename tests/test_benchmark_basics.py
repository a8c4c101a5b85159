"""Targets, statistics, plain data and the command, without much timing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import benchmark
from benchmark import Target, can_answer, resolve_target, unavailable
from benchmark.inputs import make_inputs
from benchmark.intervals import find_t, interval_of_repeats, median_error, pooled_spread


class Input:
    def __init__(self, name, shape, type="tensor(float)"):
        self.name, self.shape, self.type = name, shape, type


def test_import_loads_no_torch_and_no_onnx():
    code = (
        "import sys, benchmark, benchmark.worker, benchmark.__main__;"
        "print({'torch', 'onnx', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_every_preset_resolves_and_says_why_it_is_skipped():
    assert unavailable(resolve_target("cpu")) is None
    for name, preset in benchmark.PRESETS.items():
        assert resolve_target(name) == preset
        why = unavailable(preset)
        assert why is None or why.startswith(f"{name} is skipped: ")


def test_can_answer():
    assert can_answer(resolve_target("cpu")) == {"latency_ms", "latency_p95_ms", "memory_mb", "size_kb"}
    assert can_answer(resolve_target("cortex-a53")) == {"instructions_m", "size_kb"}
    assert can_answer(resolve_target("old-x86")) == {"size_kb"}
    assert "memory_mb" not in can_answer(resolve_target("browser"))


def test_own_target_by_transport():
    pi = resolve_target("pi", {"transport": "ssh", "host": "pi@raspberrypi.local"})
    assert pi == Target("pi", "ssh", {"threads": 1, "batch": 1, "host": "pi@raspberrypi.local"})
    assert resolve_target("cpu", {"threads": 2}).options == {"threads": 2, "batch": 1}
    assert "100000 threads" in unavailable(resolve_target("cpu", {"threads": 100_000}))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cortex-a35", {}, r"unknown target: 'cortex-a35'\. Did you mean 'cortex-a.*Valid: cpu, cortex-a53"),
        ("pi", {"transport": "sssh"}, r"Did you mean 'ssh'\? Valid: local"),
        ("cpu", {"thread": 2}, r"'thread'\. Did you mean 'threads'\? Valid: batch, threads"),
        ("cpu", {"threads": 0}, "at least 1. Got 0"),
        ("cpu", {"batch": True}, "at least 1. Got True"),
    ],
)
def test_wrong_targets_are_told(name, options, said):
    with pytest.raises(ValueError, match=said):
        resolve_target(name, options)


def test_intervals_by_hand():
    assert find_t(4) == pytest.approx(stats.t.ppf(0.975, 4))
    low, high = interval_of_repeats([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.30265 * (4 / 3) ** 0.5, 2 + 4.30265 * (4 / 3) ** 0.5), rel=1e-5)
    spread, freedom = pooled_spread([[1.0, np.e], [1.0, 1.0]])
    assert (spread, freedom) == (pytest.approx(0.5), 2)  # squared deviations 2 · 0.25 over 2 degrees
    assert median_error([2.0] * 40) == 0


def test_repeat_interval_covers_a_further_repeat():
    random = np.random.default_rng(1)
    draws = random.normal(10, 1, (4000, 6))
    held = [low <= row[5] <= high for row in draws for low, high in [interval_of_repeats(row[:5])]]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_made_inputs_are_the_same_every_time():
    signature = [
        Input("x", ["n", 3, 8, 8]),
        Input("ids", ["n", 5], "tensor(int64)"),
        Input("b", ["n", 9], "tensor(uint8)"),
    ]
    first, second = (make_inputs(Path("model.onnx"), signature, 2, None, strict=True) for _ in range(2))
    assert {name: (one.shape, one.dtype.name) for name, one in first.items()} == {
        "x": ((2, 3, 8, 8), "float32"),
        "ids": ((2, 5), "int64"),
        "b": ((2, 9), "uint8"),
    }
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert set(first["ids"].ravel()) <= {0, 1}


def test_feeds_are_cut_and_repeated():
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}
    for batch, rows in [(2, [0, 1]), (5, [0, 1, 2, 0, 1])]:
        fitted = make_inputs(Path("model.onnx"), [Input("x", ["n", 2])], batch, feeds, strict=True)["x"]
        assert np.array_equal(fitted, feeds["x"][rows])


def test_open_dimension_asks_for_feeds():
    with pytest.raises(ValueError, match="open dimension 'time'"):
        make_inputs(Path("model.onnx"), [Input("x", ["n", "time"])], 1, None, strict=True)


def test_inputs_beside_a_model_go_before_those_of_all(tmp_path):
    np.savez(tmp_path / "decode.feeds.npz", x=np.array([[3.0, 4.0]], np.float32))
    feeds = {"x": np.zeros((1, 2), np.float32)}
    made = {
        name: make_inputs(tmp_path / f"{name}.onnx", [Input("x", ["n", 2])], 1, feeds, strict=True)["x"].tolist()
        for name in ("decode", "prefill")
    }
    assert made == {"decode": [[3.0, 4.0]], "prefill": [[0.0, 0.0]]}


def test_measurement_round_trip():
    one = benchmark.Measurement("size_kb", 2.0, 2.0, 2.0, (2.0,), "cpu", "static", "p", "h", noisy=True)
    data = json.loads(json.dumps(benchmark.measurement_to_dict(one)))
    assert benchmark.measurement_from_dict(data) == one
    with pytest.raises(ValueError, match=r"missing \['value'\], unknown \['val'\]"):
        benchmark.measurement_from_dict({("val" if k == "value" else k): v for k, v in data.items()})


def test_host_is_told():
    facts = benchmark.host()
    assert {"cpu", "cores", "memory_gib", "os", "python", "onnxruntime", "numpy", "governor"} <= set(facts)
    assert len(benchmark.host_fingerprint()) == 12
    json.dumps(facts)


def run_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


def test_command_measures(tmp_path):
    from onnx import TensorProto, helper, save

    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, str(tmp_path / "m.onnx"))
    (tmp_path / "benchmark.py").write_text("raise SystemExit(9)")  # must not stand in for ours
    done = run_command("m.onnx", "--seconds", "0.1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    quantities = [one["quantity"] for one in json.loads(done.stdout)["measurements"]]
    assert quantities == ["latency_direct_ms", "latency_p95_ms", "memory_mb", "size_kb", "download_kb"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["bad.onnx"], 2, "cannot run"),
        (["absent.onnx"], 2, "no model file"),
        (["bad.onnx", "--target", "cpuu"], 2, "Did you mean 'cpu'?"),
        (["bad.onnx", "--target", "adb"], 3, "adb is skipped"),
        (["bad.onnx", "--feeds", "bad.onnx"], 2, "not an .npz"),
    ],
)
def test_command_tells_mistakes_in_one_line(tmp_path, arguments, code, said):
    (tmp_path / "bad.onnx").write_text("no model")
    done = run_command(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
