"""A device behind a real sshd on loopback, with keys of its own; skipped where there is no sshd."""

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from servers import free_port
from test_benchmark_timing import write_mlp

from benchmark import Bench, WorkerDied, measure_memory, resolve_target, unavailable
from benchmark.targets import open_channel

SSHD = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd",) if Path(p).exists()), None)
pytestmark = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="no sshd here: apt install openssh-server openssh-client"
)


@contextlib.contextmanager
def start_sshd(folder):
    """An sshd with its own host key and one user key, its sessions' temporary files in `folder/tmp`."""
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "tmp").mkdir()
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nStrictModes no\nPasswordAuthentication no\nUsePAM no\nPermitRootLogin prohibit-password\n"
        f"SetEnv TMPDIR={folder}/tmp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # it wants this one to separate privileges
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=log)
    host_key = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host_key[0]} {host_key[1]}\n")
    try:
        end = time.monotonic() + 10
        while "listening" not in (folder / "log").read_text() and time.monotonic() < end:
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sshd")
    with start_sshd(folder) as port:
        yield folder, port


def target_of(device, **changed):
    folder, port = device
    options = {"transport": "ssh", "host": "127.0.0.1", "user": getpass.getuser(), "port": port}
    options |= {"identity": str(folder / "user"), "known_hosts": str(folder / "known"), "python": sys.executable}
    return resolve_target("pi", options | changed)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {width: write_mlp(folder / f"mlp{width}.onnx", width, 2) for width in (64, 256)}


def left_there(device):
    """What our folders hold on the device, after a moment to clean up."""
    end = time.monotonic() + 5
    while any((device[0] / "tmp").iterdir()) and time.monotonic() < end:
        time.sleep(0.1)
    return sorted(p.name for p in (device[0] / "tmp").iterdir())


def test_it_measures_there_and_leaves_nothing(device, models):
    target = target_of(device)
    assert unavailable(target) is None
    with Bench(target, list(models.values()), ladder_seconds=0.3) as bench:
        small, large = (bench.paired(models[width], 0.1) for width in (64, 256))
        assert any((device[0] / "tmp").iterdir())
    assert small.value < large.value
    assert (small.provenance, small.target) == ("measured:device", "pi")
    assert len(small.samples) >= 8
    assert left_there(device) == []


def test_memory_and_facts_come_from_the_device(device, models):
    target = target_of(device)
    (memory,) = measure_memory([models[256]], target)
    assert memory.value > 0
    assert memory.provenance == "measured:device"
    with contextlib.closing(open_channel(target)) as channel:
        facts = channel.host()
    assert {"fingerprint", "cpu", "governor", "temperature_c", "onnxruntime"} <= set(facts)
    assert facts["fingerprint"] == memory.host
    assert left_there(device) == []


def test_an_unknown_host_key_is_refused_with_the_line_that_adds_it(device, tmp_path):
    (tmp_path / "known").write_text("")
    said = unavailable(target_of(device, known_hosts=str(tmp_path / "known")))
    assert f"ssh-keyscan -p {device[1]} 127.0.0.1 >> {tmp_path / 'known'}" in said
    assert (tmp_path / "known").read_text() == ""


def test_another_host_key_than_the_known_one_is_refused_and_not_added(device, tmp_path):
    stranger = (device[0] / "stranger.pub").read_text().split()
    before = f"[127.0.0.1]:{device[1]} {stranger[0]} {stranger[1]}\n"
    (tmp_path / "known").write_text(before)
    said = unavailable(target_of(device, known_hosts=str(tmp_path / "known")))
    assert f"is not the one in {tmp_path / 'known'}: it may be another machine" in said
    assert f"ssh-keygen -f {tmp_path / 'known'} -R '[127.0.0.1]:{device[1]}'" in said
    assert "keyscan" not in said
    assert (tmp_path / "known").read_text() == before


def test_a_wrong_key_is_told(device):
    said = unavailable(target_of(device, identity=str(device[0] / "stranger")))
    assert "cannot be reached" in said
    assert "Permission denied" in said


def test_no_python_there_is_told(device):
    said = unavailable(target_of(device, python="/no/such/python"))
    assert "has no Python with numpy and onnxruntime" in said
    assert "pip install numpy onnxruntime" in said


def test_nobody_answers(device):
    said = unavailable(target_of(device, port=free_port()))
    assert "cannot be reached" in said
    assert "refused" in said


def test_a_connection_lost_while_measuring_is_told_and_made_anew(device, models):
    target = target_of(device)
    with contextlib.closing(open_channel(target)) as channel:
        assert channel.ask("probe", models[64])["ns"] > 0
        os.kill(channel.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="pi, "):
            channel.ask("probe", models[64])
        assert channel.ask("probe", models[64])["ns"] > 0
    assert left_there(device) == []


def test_a_worker_killed_there_is_told(device, models):
    with contextlib.closing(open_channel(target_of(device))) as channel:
        channel.ask("probe", models[64])
        (worker,) = [p for p in psutil.process_iter(["cmdline"]) if is_worker(p.info["cmdline"])]
        worker.kill()
        with pytest.raises(WorkerDied, match="the measuring process"):
            channel.ask("probe", models[64])
    assert left_there(device) == []


def is_worker(words):
    return bool(words) and words[1:3] == ["-m", "benchmark.worker"] and "feeds" in words[-1]


def test_a_connection_lost_while_the_runner_is_copied_keeps_nothing(device, models):
    """The folder was there, and what it is filled by never said so."""
    with contextlib.closing(open_channel(target_of(device))) as channel:
        real, made = channel._shell.run, []

        def lose(command, *given, **named):
            made.extend(p.name for p in (device[0] / "tmp").iterdir())
            server = psutil.Process(int((device[0] / "pid").read_text()))
            for one in server.children(recursive=False):
                one.kill()
            return real(command.replace("tar ", "sleep 0.2; tar "), *given, **named)

        channel._shell.run = lose
        with pytest.raises(WorkerDied, match="pi"):
            channel.ask("probe", models[64])
        channel._shell.run = real
        assert len(made) == 1
        assert left_there(device) == []
        assert channel.ask("probe", models[64])["ns"] > 0
    assert left_there(device) == []


def test_this_process_gone_keeps_nothing_there(device, models):
    """As if it were killed: its ends of the pipes close, and nobody says goodbye."""
    channel = open_channel(target_of(device))
    channel.ask("probe", models[64])
    channel._held._process.stdin.close()
    assert left_there(device) == []
    channel.close()


def test_a_full_disk_there_is_told(device, models, tmp_path):
    big = tmp_path / "big.onnx"
    big.write_bytes(models[256].read_bytes())
    with contextlib.closing(open_channel(target_of(device))) as channel:
        channel.ask("probe", models[64])
        with pytest.raises(WorkerDied, match="pi: "):
            channel._run("cat > /dev/full", big.read_bytes())


def test_a_target_without_a_host_says_how_to_write_one():
    said = unavailable(resolve_target("ssh"))
    assert "it has no host; write targets: {ssh: {transport: ssh, host: user@machine}}" in said
