"""A machine reached by ssh: runner, inputs and models are copied there, measured there, and removed again.

`runner: python` sends this package's own worker, as it is; the device needs Python with numpy and onnxruntime.
`runner: c` sends a small program with all it needs (`benchmark.c_runner`). What authenticates is the user's own ssh
configuration. A host key that is not known is refused, with the line that adds it.
"""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from benchmark.channel import ProcessChannel, WorkerDied, check_feeds
from benchmark.device import DeviceChannel, Reply, find_lacking_for, release
from benchmark.held import Held
from benchmark.inputs import feeds_beside
from benchmark.models import hash_model
from benchmark.types import Target

SENT = ("worker.py", "inputs.py", "host.py")
CONNECT_S = 15
COPY_S = 300
LOST = 255  # what ssh itself ends with
ORDERS = ("BatchMode=yes", "StrictHostKeyChecking=yes", f"ConnectTimeout={CONNECT_S}", "ServerAliveInterval=15")
ROOM = "${TMPDIR:-/tmp}"
# onnxruntime leaves a file among temporary ones
SERVE = "cd {folder} && TMPDIR={folder} exec {python} -m benchmark.worker {settings}"


class SshShell:
    """Commands on another machine, through one connection for all of them."""

    def __init__(self, target: Target):
        self.where = say_where(target)
        self._name = target.name
        self._sockets = tempfile.TemporaryDirectory(prefix="ssh-")
        self.words = ["ssh", *say_options(target, Path(self._sockets.name)), self.where]

    def run(self, command: str, data: bytes = b"", limit_s: float = COPY_S) -> Reply:
        """Raises WorkerDied where the machine is not reached, or gives no answer in time."""
        try:
            done = subprocess.run([*self.words, command], input=data, capture_output=True, timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise WorkerDied(f"{self._name}: {self.where} did not answer within {limit_s:g} s.") from None
        reply = Reply(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
        if reply.code == LOST:
            raise WorkerDied(f"{self._name}: {self.where}: {reply.last}")
        return reply

    def send(self, folder: str, files: Mapping[str, bytes]) -> Reply:
        return self.run(f"sh -c '[ -d {folder} ] || mkdir {folder}' && tar -xf - -C {folder}", pack(files))

    def start(self, command: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*self.words, command], stdin=pipe, stdout=pipe, stderr=pipe)

    def close(self) -> None:
        subprocess.run([*self.words[:-1], "-O", "exit", self.where], capture_output=True, check=False)
        self._sockets.cleanup()


class SshChannel(ProcessChannel):
    """A Python worker on another machine, spoken to through ssh's own pipes."""

    def __init__(self, target: Target, feeds: Path | None):
        options = target.options
        self._name, self._feeds = target.name, feeds
        self._python = str(options.get("python", "python3"))
        self._shell = SshShell(target)
        self._settings = {"threads": options.get("threads", 1), "batch": options.get("batch", 1)}
        self._held: Held | None = None
        self._sent = dict[str, str]()
        self._facts: dict[str, Any] = {}
        super().__init__([])

    def ask(self, do: str, model: Path | None = None, **request: Any) -> dict[str, Any]:
        """Raises ValueError for what cannot run there, WorkerDied where the connection or the worker is lost."""
        if self._held is None or not self._held.alive:
            self.restart()
            self._forget()
            self._prepare()
        if "references" in request:
            request["references"] = [self._send(Path(path)) for path in request["references"]]
        there = None if model is None else Path(self._send(model))
        try:
            return super().ask(do, there, **request)
        except WorkerDied as problem:
            self._forget()
            raise WorkerDied(f"{problem} ({self._name}, {self._shell.where})") from None
        except ValueError as problem:
            raise ValueError(str(problem).replace(str(there), str(model))) from None

    def host(self) -> dict[str, Any]:
        """The device's own facts."""
        self._facts = self._facts or self.ask("host")
        return self._facts

    def close(self) -> None:
        self.restart()
        self._forget()
        self._shell.close()

    def _prepare(self) -> None:
        """A folder there with the runner and the inputs."""
        self._held = Held(self._shell.start, ROOM, f"{self._name}: {self._shell.where}")
        folder = self._held.folder
        self._run(f"tar -xf - -C {folder}", pack(worker_files(self._feeds)))
        settings = {**self._settings, "feeds": f"{folder}/feeds.npz" if self._feeds else None}
        serve = SERVE.format(folder=folder, python=self._python, settings=shlex.quote(json.dumps(settings)))
        self._command = [*self._shell.words, f"sh -c {shlex.quote(serve)}"]

    def _send(self, model: Path) -> str:
        """Its path there, copied once in the life of the folder, with inputs of its own where it has some."""
        digest, feeds = hash_model(model), feeds_beside(model)
        if digest not in self._sent:
            assert self._held is not None
            path = Path(f"{self._held.folder}/{digest[:16]}.onnx")
            self._run(f"cat > {path}", model.read_bytes())
            if feeds.is_file():
                self._run(f"cat > {feeds_beside(path)}", feeds.read_bytes())
            self._sent[digest] = str(path)
        return self._sent[digest]

    def _run(self, command: str, data: bytes) -> bytes:
        try:
            reply = self._shell.run(command, data)
        except WorkerDied:
            self._forget()
            raise
        if reply.code:
            self._forget()
            raise WorkerDied(f"{self._name}: {self._shell.where}: {reply.last}")
        return reply.out

    def _forget(self) -> None:
        """Have the folder there removed."""
        held, self._held, self._sent = self._held, None, {}
        if held is not None:
            release(held, self._shell)


def open_ssh(target: Target, feeds: Path | None) -> SshChannel | DeviceChannel:
    """The channel of `ssh`; options `host` (also user@host), `user`, `port`, `identity`, `known_hosts`, `runner`,
    `python` or `machine` and `launcher` (words before the C runner), `threads`, `batch`. ValueError for feeds it cannot
    read."""
    if feeds is not None:
        check_feeds(feeds)
    if target.options.get("runner") == "c":
        return DeviceChannel(SshShell(target), target, feeds, room=ROOM)
    return SshChannel(target, feeds)


def find_meter(target: Target) -> str:
    """A worker there can hold a reference beside a model; the C runner times one model at a time."""
    return "direct" if target.options.get("runner") == "c" else "paired"


def worker_files(feeds: Path | None) -> dict[str, bytes]:
    """The runner as a package of its own, and the inputs."""
    files = {f"benchmark/{name}": (resources.files("benchmark") / name).read_bytes() for name in SENT}
    return files | {"benchmark/__init__.py": b""} | ({"feeds.npz": feeds.read_bytes()} if feeds is not None else {})


def pack(files: Mapping[str, bytes]) -> bytes:
    """A tar of them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o700
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def say_where(target: Target) -> str:
    host, user = str(target.options.get("host", "")), target.options.get("user")
    return f"{user}@{host}" if user else host


def say_options(target: Target, sockets: Path | None = None) -> list[str]:
    options: Mapping[str, Any] = target.options
    words = [word for order in ORDERS for word in ("-o", order)]
    if "known_hosts" in options:
        words += ["-o", f"UserKnownHostsFile={options['known_hosts']}", "-o", "GlobalKnownHostsFile=/dev/null"]
    if "identity" in options:
        words += ["-i", str(options["identity"]), "-o", "IdentitiesOnly=yes"]
    if "port" in options:
        words += ["-p", str(options["port"])]
    if sockets is not None:  # one connection for all that is copied and asked
        words += ["-o", "ControlMaster=auto", "-o", f"ControlPath={sockets}/%C", "-o", "ControlPersist=60"]
    return words


def find_missing(target: Target) -> str | None:
    """Why the device cannot be used from here; it is asked once."""
    if shutil.which("ssh") is None:
        return "it needs ssh: sudo apt-get install openssh-client"
    if not target.options.get("host"):
        return f"it has no host; write targets: {{{target.name}: {{transport: ssh, host: user@machine}}}}"
    by_c = target.options.get("runner") == "c"
    asked = "uname -m" if by_c else ask_python(target)
    code, said, out = ask_once("ssh", *say_options(target), say_where(target), asked)
    if code == 0:
        return find_lacking_for(target, out.strip()) if by_c else None
    last = (said.splitlines() or [f"code {code}"])[-1].strip()
    if code != LOST:
        return (
            f"{say_where(target)} has no Python with numpy and onnxruntime ({last}): pip install numpy onnxruntime, "
            f"or runner: c in the target's options, which needs none"
        )
    if "Host key verification failed" in said:
        host, port = say_where(target).rpartition("@")[2], target.options.get("port")
        known = target.options.get("known_hosts", "~/.ssh/known_hosts")
        if "IDENTIFICATION HAS CHANGED" in said:
            name = f"[{host}]:{port}" if port else host
            return (
                f"the host key of {host} is not the one in {known}: it may be another machine. If you know why: "
                f"ssh-keygen -f {known} -R {shlex.quote(name)}"
            )
        return (
            f"the host key of {host} is not known. If it is the machine you mean: "
            f"ssh-keyscan {f'-p {port} ' if port else ''}{host} >> {known}"
        )
    return f"{say_where(target)} cannot be reached: {last.rstrip('.')}"


def ask_python(target: Target) -> str:
    """Not imported: onnxruntime leaves a file of its own among the temporary ones."""
    python = str(target.options.get("python", "python3"))
    return f'{python} -c \'from importlib.metadata import version; version("numpy"), version("onnxruntime")\''


@cache
def ask_once(*command: str) -> tuple[int, str, str]:
    """Exit code, errors and output of a log-in; every meter of a run would make it again."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=4 * CONNECT_S, errors="replace")
    except subprocess.TimeoutExpired:
        return LOST, "it does not answer", ""
    return done.returncode, done.stderr.strip(), done.stdout
