"""An Android device reached by its own client, adb: the C runner is pushed there and times.

Experimental: not yet seen on a phone, only the real client against a stand-in for the device. The device's shell may be
plain: it is not asked for an exit code. adb's server is the user's; none is started.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmark.channel import WorkerDied, check_feeds
from benchmark.device import DeviceChannel, Reply, find_lacking_for
from benchmark.held import clean_up
from benchmark.types import Target

ROOM = "/data/local/tmp"
COPY_S = 300
CODE, ERRORS = "--exit-code", "--errors"


def order(command: str) -> str:
    """A plain shell's exit code does not come back, nor errors apart from output: both are printed after it. The file
    of errors is named before it is made, so that it goes wherever the connection is lost."""
    kept = f"{ROOM}/.student-family-{secrets.token_hex(8)}"
    traps = clean_up('[ -z "$k" ] || rm -f "$k"')
    make = '( umask 077; set -C; : > "$k" ) 2> /dev/null || k='
    told = f'code=$?; echo; echo {CODE} $code; echo {ERRORS}; [ -z "$k" ] || cat "$k"'
    return f'k={kept}; {traps}; {make}; ( {command} ) 2> "${{k:-/dev/null}}"; {told}'


class AdbShell:
    """Commands on a device, by adb."""

    def __init__(self, target: Target):
        self.where = str(target.options.get("serial", "the device"))
        self._name = target.name
        self._words = ["adb", *say_options(target)]

    def run(self, command: str, data: bytes = b"", limit_s: float = COPY_S) -> Reply:
        """Raises WorkerDied where the device is not reached, or gives no answer in time."""
        done = self._call("exec-out", order(command), limit_s=limit_s)
        reply = read_reply(done.stdout)
        if reply is None:
            raise WorkerDied(f"{self._name}: {self.where}: {last_of(done)}")
        return reply

    def send(self, folder: str, files: Mapping[str, bytes]) -> Reply:
        """Under ROOM, every file executable."""
        made = self.run(f"[ -d {folder} ] || mkdir {folder}")
        if made.code:
            return made
        with tempfile.TemporaryDirectory(prefix="adb-") as name:
            for file, data in files.items():
                (Path(name) / file).write_bytes(data)
                (Path(name) / file).chmod(0o700)
            done = self._call("push", *(str(Path(name) / file) for file in files), folder, limit_s=COPY_S)
        return Reply(done.returncode, b"", last_of(done))

    def start(self, command: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*self._words, "shell", command], stdin=pipe, stdout=pipe, stderr=pipe)

    def close(self) -> None:
        """adb's own server is the user's."""

    def _call(self, *words: str, limit_s: float) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run([*self._words, *words], capture_output=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            raise WorkerDied(f"{self._name}: {self.where} did not answer within {limit_s:g} s.") from None


def open_adb(target: Target, feeds: Path | None) -> DeviceChannel:
    """The channel of `adb`; options `serial`, `server_port`, `machine`, `launcher` (words before the runner, such as
    `taskset f0` for the fast cores), `threads`, `batch`. ValueError for feeds it cannot read."""
    if feeds is not None:
        check_feeds(feeds)
    return DeviceChannel(AdbShell(target), target, feeds, room=ROOM)


def say_options(target: Target) -> list[str]:
    options = target.options
    words = ["-P", str(options["server_port"])] if "server_port" in options else []
    return [*words, *(["-s", str(options["serial"])] if "serial" in options else [])]


def find_missing(target: Target) -> str | None:
    """Why no device can be used from here."""
    if shutil.which("adb") is None:
        return "it needs adb: sudo apt-get install adb"
    port = find_port(target)
    if not is_listening(port):
        return f"adb's server does not run on port {port}: adb start-server"
    words = ["adb", *say_options(target), "exec-out", order("uname -m")]
    try:
        done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return "adb did not answer within 60 s"
    reply = read_reply(done.stdout)
    if reply is None:
        return f"adb reaches no device ({last_of(done)}); `adb devices` must list it as `device`"
    if reply.code:
        return f"the device does not say what processor it has ({reply.last})"
    return find_lacking_for(target, reply.out.decode(errors="replace").strip())


def read_reply(said: bytes) -> Reply | None:
    """What `order` printed; None where it did not come to its end."""
    out, mark, rest = said.rpartition(f"\n{CODE} ".encode())
    code, _, errors = rest.decode(errors="replace").partition(f"\n{ERRORS}\n")
    return Reply(int(code), out, errors) if mark and code.isdecimal() else None


def find_port(target: Target) -> int:
    """Where adb's server listens: option `server_port`, adb's own variable, or its default."""
    return int(target.options.get("server_port", os.environ.get("ANDROID_ADB_SERVER_PORT", 5037)))


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def last_of(done: subprocess.CompletedProcess[bytes]) -> str:
    said = (done.stderr or done.stdout).decode(errors="replace").strip()
    last = (said.splitlines() or [f"it ended with code {done.returncode}"])[-1]
    return last.removeprefix("adb: ").removeprefix("error: ")
