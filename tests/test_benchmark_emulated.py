"""Arm cores under the real emulator, with the real aarch64 runtime; skipped where they are not installed."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from test_benchmark_timing import write_mlp

from benchmark import WorkerDied, c_runner, emulated, open_meter, resolve_target, unavailable
from benchmark.c_runner import open_here, plan_outputs, tensor_files
from benchmark.emulated import CORES, run_emulated

MISSING = unavailable(resolve_target("cortex-a53"))
needs_emulator = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_mlp(tmp_path_factory.mktemp("models") / "mlp.onnx", 64, 2)


def inputs_of(model, rows):
    from benchmark.inputs import make_inputs

    return make_inputs(model, open_here(model).get_inputs(), rows, None, strict=True)


@needs_emulator
@pytest.mark.parametrize("core", CORES)
def test_every_core_gives_what_this_machine_gives(model, core):
    inputs = inputs_of(model, 4)
    (expected,) = open_here(model).run(None, inputs)
    (found,) = run_emulated(core, model, inputs, runs=2).outputs.values()
    assert found == pytest.approx(expected, abs=1e-5)


@needs_emulator
def test_counts_repeat_within_a_thousandth_under_load(model):
    with open_meter(resolve_target("cortex-a53")) as meter:
        alone = meter.quickly(model)[1]
        over = threading.Event()
        burners = [threading.Thread(target=burn, args=(over,)) for _ in range(2)]
        for burner in burners:
            burner.start()
        loaded = meter.quickly(model)[1]
        over.set()
        for burner in burners:
            burner.join()
    assert (alone.quantity, alone.provenance) == ("instructions_m", "counted:emulated-isa")
    assert loaded.value == pytest.approx(alone.value, rel=1e-3)
    assert loaded.host == alone.host


@needs_emulator
@pytest.mark.skipif(not emulated.steady(), reason="addresses cannot be kept here")
def test_counts_depend_neither_on_the_files_place_nor_on_the_environment(model, tmp_path, monkeypatch):
    away = tmp_path / ("a" * 40) / "other.onnx"
    away.parent.mkdir()
    away.write_bytes(model.read_bytes())
    first = run_emulated("cortex-a53", model, inputs_of(model, 1)).counts
    monkeypatch.setenv("SOMETHING", "x" * 500)
    assert run_emulated("cortex-a53", away, inputs_of(model, 1)).counts == first


def burn(over):
    numbers = np.ones((300, 300))
    while not over.is_set():
        numbers @ numbers


@needs_emulator
def test_multiplications_are_seen_as_such(model):
    counts = run_emulated("cortex-a53", model, inputs_of(model, 1), runs=2).counts[-1]
    weights = sum(int(np.prod(one.shape)) for one in weights_of(model))
    assert counts["fmla"] * 4 == pytest.approx(weights, rel=0.35)  # four products to an instruction, little besides
    parts = sum(value for name, value in counts.items() if name != "insn")
    assert parts == counts["insn"]


def weights_of(model):
    import onnx

    return [onnx.numpy_helper.to_array(one) for one in onnx.load(model).graph.initializer if len(one.dims) == 2]


@needs_emulator
def test_a_file_that_is_no_model_is_refused(tmp_path, model):
    wrong = tmp_path / "model.onnx"
    wrong.write_bytes(model.read_bytes()[:100])
    with pytest.raises(Exception, match=r"model\.onnx"):
        emulated.start(emulation_of(wrong, tmp_path, model), wrong, tmp_path)


def emulation_of(wrong, folder, model):
    inputs = inputs_of(model, 1)
    for name, data in tensor_files(inputs, plan_outputs(model, inputs)).items():
        (folder / name).write_bytes(data)
    return [*emulated.emulator("cortex-a53"), str(wrong), "tensors", "output", "1", "0", "1"]


@needs_emulator
def test_an_emulator_that_dies_is_told(model):
    with pytest.raises(WorkerDied, match="Its last words"):
        emulated.start(["qemu-aarch64", "-cpu", "no-such-core", "/bin/true"], model)


def test_a_core_that_does_not_exist_is_named(monkeypatch):
    said = unavailable(resolve_target("mine", {"transport": "emulated", "core": "cortex-m4"}))
    assert said is not None
    assert "mine is skipped: it has no core 'cortex-m4' to emulate; there are cortex-a53" in said


def test_without_the_emulator_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(emulated.shutil, "which", lambda name: None)
    said = unavailable(resolve_target("cortex-a72"))
    assert said is not None
    assert "it needs qemu-aarch64, aarch64-linux-gnu-gcc, gcc: sudo apt-get install qemu-user" in said


def test_without_the_runtime_it_says_how_to_fetch_it(monkeypatch, tmp_path):
    monkeypatch.setattr(emulated.shutil, "which", lambda name: name)
    arm = replace(c_runner.MACHINES["aarch64"], libraries=tmp_path)
    monkeypatch.setitem(c_runner.MACHINES, "aarch64", arm)
    for name in arm.needed:
        (tmp_path / name).touch()
    monkeypatch.setenv("STUDENT_FAMILY_CACHE", str(tmp_path / "nothing"))
    said = unavailable(resolve_target("cortex-a72"))
    assert said is not None
    assert "for aarch64: python -P -m benchmark.prepare emulated" in said


def test_the_device_says_which_machine_it_is():
    facts = emulated.describe_files(CORES["cortex-a76"])
    assert "CPU part\t: 0xd0b" in facts["proc/cpuinfo"]
    assert "asimddp" in facts["proc/cpuinfo"]
    assert "asimddp" not in emulated.describe_files(CORES["cortex-a53"])["proc/cpuinfo"]


def test_time_is_never_told(model):
    with pytest.raises(ValueError, match="can be asked what a model takes or gives"):
        emulated.EmulatedChannel("cortex-a53", 1, None).ask("time", model, seconds=1)
    assert "latency_ms" not in resolve_answers("cortex-a53")


def resolve_answers(name):
    from benchmark import can_answer

    return can_answer(resolve_target(name))


def test_a_file_that_is_no_model_is_told_before_anything_runs(tmp_path):
    (tmp_path / "bad.onnx").write_text("no model")
    with pytest.raises(ValueError, match=r"onnxruntime cannot run .*bad\.onnx"):
        emulated.EmulatedChannel("cortex-a53", 1, None).ask("count", tmp_path / "bad.onnx")
