"""An Android device as adb's own client sees it; the device is a stand-in, its processor an emulated Arm core."""

import contextlib
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import onnx
import pytest
from fake_adbd import start_device
from servers import free_port
from test_benchmark_timing import write_mlp

from benchmark import WorkerDied, adb, direct, emulated, open_meter, resolve_target, unavailable
from benchmark.targets import open_channel

MISSING = unavailable(resolve_target("cortex-a53"))
pytestmark = [
    pytest.mark.skipif(shutil.which("adb") is None, reason="no adb here: apt install adb"),
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """adb's server on a port of its own, with keys of its own; its port."""
    home, port = tmp_path_factory.mktemp("home"), free_port()
    here = os.environ | {"HOME": str(home), "ANDROID_USER_HOME": str(home)}
    server = subprocess.Popen(
        ["adb", "-P", str(port), "nodaemon", "server"], env=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 10
    while not adb.is_listening(port) and time.monotonic() < end:
        time.sleep(0.05)
    yield port
    server.terminate()
    server.wait()


@pytest.fixture
def phone(client, tmp_path):
    """The device, connected; nothing of ours stays there."""
    folder = tmp_path / "phone"
    folder.mkdir()
    with start_device(folder) as device:
        subprocess.run(
            ["adb", "-P", str(client), "connect", f"127.0.0.1:{device.port}"], check=True, capture_output=True
        )
        yield device
        end = time.monotonic() + 5
        while any(folder.iterdir()) and time.monotonic() < end:
            time.sleep(0.1)
        assert list(folder.iterdir()) == []
    subprocess.run(["adb", "-P", str(client), "disconnect"], check=True, capture_output=True)


def target_of(client, device, **changed):
    launcher = f"qemu-aarch64 -cpu cortex-a53 -L {emulated.make_root('cortex-a53')}"
    options = {"serial": f"127.0.0.1:{device.port}", "server_port": client, "machine": "aarch64", "launcher": launcher}
    return resolve_target("phone", {"transport": "adb"} | options | changed)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_mlp(tmp_path_factory.mktemp("models") / "mlp.onnx", 64, 2)


def test_a_phone_is_timed_by_its_own_client(client, phone, model):
    target = target_of(client, phone)
    assert unavailable(target) is None
    with open_meter(target) as meter:
        size, latency, p95 = meter.quickly(model)
    assert (latency.provenance, latency.target) == ("measured:device", "phone")
    assert 0 < latency.value <= p95.value
    assert size.value > 0


def test_it_gives_what_this_machine_gives_and_says_what_it_is(client, phone, model):
    with contextlib.closing(open_channel(target_of(client, phone))) as channel:
        assert channel.ask("run", model)["off"] < 1e-5
        assert channel.host()["cores"] == str(os.cpu_count())


def test_an_exit_code_comes_back_though_the_client_ends_with_0(client, phone, model, tmp_path):
    target = target_of(client, phone)
    shell = adb.AdbShell(target)
    words = ["adb", *adb.say_options(target), "shell", "exit 3"]
    assert subprocess.run(words, check=False).returncode == 0  # as on a device without adb's newer shell
    assert shell.run("exit 3").code == 3
    failed = shell.run("echo out; echo wrong >&2; false")
    assert (failed.code, failed.out, failed.last) == (1, b"out\n", "wrong")
    strange = onnx.load(model)
    strange.opset_import[0].version = 99
    (tmp_path / "strange.onnx").write_bytes(strange.SerializeToString())
    with contextlib.closing(open_channel(target)) as channel:
        with pytest.raises(WorkerDied, match=r"phone: .*cat: .*no-such-file"):
            channel._order("cat no-such-file")
        with pytest.raises(ValueError, match=r"strange\.onnx"):
            channel.ask("time", tmp_path / "strange.onnx", seconds=0.1, repeats=2)


def test_a_phone_lost_in_the_middle_of_a_command_keeps_no_file_of_errors(client, phone):
    shell = adb.AdbShell(target_of(client, phone))
    with ThreadPoolExecutor(1) as beside:
        lost = beside.submit(shell.run, "sleep 30")
        end = time.monotonic() + 5
        while not any(phone.folder.iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        assert any(phone.folder.iterdir())
        phone.lose()
        with pytest.raises(WorkerDied):
            lost.result(timeout=10)


def test_a_phone_lost_while_it_is_copied_to_keeps_nothing(client, phone, model, monkeypatch):
    """The fixture looks for what is left."""
    with contextlib.closing(open_channel(target_of(client, phone))) as channel:
        real = channel._shell.send

        def lose(folder, files):
            phone.lose()
            return real(folder, files)

        monkeypatch.setattr(channel._shell, "send", lose)
        with pytest.raises(WorkerDied, match="phone: "):
            channel.ask("run", model)


def test_what_decides_tells_memory_too(client, phone, model, monkeypatch):
    monkeypatch.setattr(direct, "SECONDS", 0.05)
    with open_meter(target_of(client, phone, machine="x86_64", launcher="")) as meter:
        (figures,) = meter.settle([model])
    told = {one.quantity: one.value for one in figures}
    assert list(told) == ["size_kb", "download_kb", "latency_ms", "latency_p95_ms", "memory_mb"]
    assert told["memory_mb"] > 0


def test_a_phone_that_disappears_is_told(client, phone, model):
    with contextlib.closing(open_channel(target_of(client, phone))) as channel:
        channel.ask("run", model)
        phone.lose()
        with pytest.raises(WorkerDied, match=r"phone: 127\.0\.0\.1:\d+: .*(not found|offline|closed|no devices)"):
            channel.ask("run", model)


def test_a_phone_that_is_not_there_is_told(client):
    said = unavailable(resolve_target("adb", {"serial": "nobody", "server_port": client}))
    assert "adb reaches no device (device 'nobody' not found); `adb devices` must list it" in said


def test_no_server_is_started_for_the_user():
    port = free_port()
    said = unavailable(resolve_target("adb", {"server_port": port}))
    assert f"adb's server does not run on port {port}: adb start-server" in said
    assert not adb.is_listening(port)
