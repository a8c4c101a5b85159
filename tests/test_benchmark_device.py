# ruff: noqa: F811  fixtures of another module
"""The C runner on a device behind a real sshd on loopback; the device is an emulated Arm core where there is one."""

import contextlib
import subprocess
import threading
import time

import numpy as np
import psutil
import pytest
from test_benchmark_ssh import device, left_there, models, pytestmark, target_of  # noqa: F401  fixtures

from benchmark import (
    WorkerDied,
    direct,
    emulated,
    footprint,
    measure_memory,
    open_meter,
    opened,
    resolve_target,
    unavailable,
)
from benchmark.c_runner import find_lacking
from benchmark.device import FACTS, Reply, is_throttled, say_state
from benchmark.targets import open_channel

MISSING = unavailable(resolve_target("cortex-a53"))
needs_emulator = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def arm_of(device, **changed):
    """An Arm board, as far as the runner can tell."""
    launcher = f"qemu-aarch64 -cpu cortex-a53 -L {emulated.make_root('cortex-a53')}"
    return target_of(device, runner="c", machine="aarch64", launcher=launcher, **changed)


@pytest.fixture
def nothing_left(device):
    """Nothing of ours stays on the device."""
    yield
    assert left_there(device) == []


@needs_emulator
def test_an_arm_device_without_python_is_timed(device, models, nothing_left):
    target = arm_of(device, python="/no/such/python")
    assert unavailable(target) is None
    with open_meter(target) as meter:
        size, latency, p95 = meter.quickly(models[64])
        assert any((device[0] / "tmp").iterdir())
    assert (size.quantity, latency.quantity, p95.quantity) == ("size_kb", "latency_ms", "latency_p95_ms")
    assert latency.provenance == p95.provenance == "measured:device"
    assert 0 < latency.value <= p95.value
    assert len(latency.samples) >= 50


@needs_emulator
def test_it_gives_what_this_machine_gives(device, models, nothing_left):
    with contextlib.closing(open_channel(arm_of(device))) as channel:
        assert channel.ask("run", models[64])["off"] < 1e-5


@needs_emulator
def test_its_memory_grows_with_the_model(device, models, nothing_left):
    small, large = measure_memory([models[64], models[256]], arm_of(device))
    assert 0 < small.value < large.value


needs_runner = pytest.mark.skipif(bool(find_lacking("x86_64")), reason=str(find_lacking("x86_64")))


@needs_runner
def test_what_decides_tells_memory_too(device, models, nothing_left, monkeypatch):
    monkeypatch.setattr(direct, "SECONDS", 0.05)
    with open_meter(target_of(device, runner="c", machine="x86_64")) as meter:
        (figures,) = meter.settle([models[64]])
    assert [one.quantity for one in figures][-3:] == ["latency_ms", "latency_p95_ms", "memory_mb"]
    assert figures[-1].provenance == "measured:device"


@needs_runner
def test_memory_is_asked_through_one_connection_a_model_in_turn(device, models, monkeypatch):
    opened, at_once, most = [], 0, 0

    def counted(*given):
        opened.append(open_channel(*given))
        real = opened[-1].ask

        def ask(*asked, **request):
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                return real(*asked, **request)
            finally:
                at_once -= 1

        opened[-1].ask = ask
        return opened[-1]

    monkeypatch.setattr(footprint, "open_channel", counted)
    measure_memory([models[64], models[256]], target_of(device, runner="c", machine="x86_64"))
    assert (len(opened), most) == (1, 1)


def test_this_machine_by_the_c_runner_is_a_device_too(device, models, nothing_left):
    target = target_of(device, runner="c")
    if (why := unavailable(target)) is not None:
        pytest.skip(why)
    with contextlib.closing(open_channel(target)) as channel:
        answer = channel.ask("time", models[64], seconds=0.1, repeats=3)
        facts = channel.host()
    assert len(answer["samples_ns"]) == 3
    assert np.median(answer["samples_ns"]) > 0
    assert {"fingerprint", "cpu", "governor", "temperature_c", "onnxruntime", "machine"} <= set(facts)


@needs_emulator
def test_a_file_that_does_not_run_there_is_told_and_the_device_goes_on(device, models, tmp_path, nothing_left):
    import onnx

    strange = onnx.load(models[64])
    strange.opset_import[0].version = 99
    (tmp_path / "strange.onnx").write_bytes(strange.SerializeToString())
    with contextlib.closing(open_channel(arm_of(device))) as channel:
        with pytest.raises(ValueError, match=r"strange\.onnx"):
            channel.ask("time", tmp_path / "strange.onnx", seconds=0.1, repeats=2)
        assert channel.ask("time", models[64], seconds=0.05, repeats=2)["samples_ns"]


@needs_emulator
def test_a_connection_lost_while_measuring_is_told_and_made_anew(device, models, nothing_left):
    target = arm_of(device)
    with contextlib.closing(open_channel(target)) as channel:
        channel.ask("run", models[64])
        killer = threading.Thread(target=kill_for, args=(device, 3.0))
        killer.start()
        with pytest.raises(WorkerDied, match="pi: "):
            channel.ask("time", models[64], seconds=60, repeats=2)
        killer.join()
        assert channel.ask("run", models[64])["off"] < 1e-5


def kill_for(device, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for one in ssh_servers_of(device):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        time.sleep(0.01)


def ssh_servers_of(device):
    """The processes that serve our connections: children of the sshd that the test started."""
    server = psutil.Process(int((device[0] / "pid").read_text()))
    return server.children()


@needs_emulator
def test_a_connection_lost_while_copying_is_told(device, models, nothing_left):
    target = arm_of(device)
    channel = open_channel(target)
    with contextlib.closing(channel):
        real = channel._shell.send

        def lose(folder, files):
            killer = threading.Thread(target=kill_for, args=(device, 3.0))
            killer.start()
            try:
                return real(folder, files)
            finally:
                killer.join()

        channel._shell.send = lose
        with pytest.raises(WorkerDied, match="pi: "):
            channel.ask("run", models[64])
        channel._shell.send = real
        assert channel.ask("run", models[64])["off"] < 1e-5


@pytest.fixture
def small_disk(tmp_path):
    """Two megabytes of their own, where this user may mount them."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@needs_emulator
def test_a_full_disk_there_is_told_and_left_empty(device, models, small_disk, nothing_left):
    with contextlib.closing(open_channel(arm_of(device))) as channel:
        channel._room = str(small_disk)
        with pytest.raises(WorkerDied, match=r"pi: .*No space left on device"):
            channel.ask("run", models[64])
        assert list(small_disk.iterdir()) == []


def test_a_machine_that_no_runner_is_for_is_told(device):
    with pytest.raises(ValueError, match=r"unknown machine of target 'pi': 'riscv64'.*Valid: aarch64, x86_64"):
        target_of(device, runner="c", machine="riscv64")
    with pytest.raises(ValueError, match=r"unknown runner of target 'pi': 'rust'.*Valid: c, python"):
        target_of(device, runner="rust")


def facts(cap="1800000", heat=50.0):
    return dict.fromkeys(FACTS) | {"caps_khz": cap, "temperature_c": heat, "governor": "performance"}


def test_a_clock_that_falls_is_flagged():
    steady = [[1.0] * 30] * 5
    falling = [[1.0] * 15 + [1.3] * 15] * 5
    assert not is_throttled(steady, facts(), facts())
    assert is_throttled(steady, facts(), facts(cap="1200000"))
    big_little = "1800000 1800000 2400000"
    assert not is_throttled(steady, facts(cap=big_little), facts(cap=big_little))
    assert is_throttled(steady, facts(cap=big_little), facts(cap="1800000 1800000 1400000"))  # not cpu0
    assert is_throttled(steady, facts(cap=big_little), facts(cap="1800000 1800000"))  # a processor was taken away
    assert is_throttled(falling, facts(), facts())
    assert not is_throttled([*steady[:3], *falling[:2]], facts(), facts())
    assert not is_throttled(steady, facts(cap=None), facts(cap=None))


class Throttled:
    """A channel whose device's clock falls."""

    def __init__(self, throttled):
        self.throttled = throttled

    def ask(self, do, model=None, **request):
        return {"samples_ns": [[10**6] * 20] * 5, "throttled": self.throttled, "note": "50 to 90 °C"}

    def host(self):
        return {"fingerprint": "abc"}

    def close(self):
        pass


@pytest.mark.parametrize("throttled", [True, False])
def test_a_figure_of_a_clock_that_fell_is_marked(models, monkeypatch, throttled):
    monkeypatch.setattr(opened, "open_channel", lambda target, feeds: Throttled(throttled))
    with open_meter(resolve_target("phone", {"transport": "adb"})) as meter:
        _, latency, p95 = meter.quickly(models[64])
    assert latency.noisy == p95.noisy == throttled
    assert "50 to 90 °C" in latency.protocol


def test_the_caps_of_all_processors_are_read(tmp_path):
    for i, cap in enumerate((1800000, 2400000)):
        place = tmp_path / f"cpu{i}" / "cpufreq"
        place.mkdir(parents=True)
        (place / "scaling_max_freq").write_text(f"{cap}\n")
    (tmp_path / "cpufreq").mkdir()
    how = FACTS["caps_khz"].replace("/sys/devices/system/cpu", str(tmp_path))
    said = subprocess.run(["sh", "-c", f"echo caps=$({how})"], capture_output=True, text=True, check=True).stdout
    assert said == "caps=1800000 2400000\n"


def test_governor_and_temperature_stand_beside_the_figure():
    assert say_state(facts(heat=48.6), facts(heat=61.2)) == "governor performance, 49 to 61 °C"
    assert say_state(facts(heat=None), facts()) == "governor performance"


def test_the_last_words_are_what_went_wrong():
    assert Reply(1, b"", "tar: x\ntar: write error: No space left on device\n").last.endswith("No space left on device")
    assert Reply(7, b"", "").last == "it ended with code 7"
