"""A stand-in for an Android device: as much of adb's wire protocol over TCP as its own client needs to push and to run.

Messages are six little-endian words (command, two arguments, length, checksum, command inverted) and a payload. A stream
is opened for a service by name, `shell:`, `exec:` or `sync:`; every write is acknowledged before the next one. Commands
run here, in the device's folder, with `/data/local/tmp` in them standing for it. As on old devices, no exit code of a
command comes back: to the client all of them end with 0.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socketserver
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from servers import free_port

CNXN, OPEN, OKAY, CLSE, WRTE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
)
BANNER = b"device::ro.product.name=fake;ro.product.model=Fake;ro.product.device=fake;features="
ROOM = "/data/local/tmp"


class Device:
    """`port` it listens on; `lose()` cuts every connection and takes no new one."""

    def __init__(self, folder: Path):
        self.folder, self.lost, self.links = folder, False, set[Link]()
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", free_port()), self._serve)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])

    def _serve(self, request: Any, address: Any, server: Any) -> None:
        link = Link(request, self.folder)
        self.links.add(link)
        if not self.lost:
            with contextlib.suppress(OSError, ValueError):
                link.serve()
        link.reader.close()
        link.close()

    def lose(self) -> None:
        self.lost = True
        for link in list(self.links):
            link.close()


class Link:
    """One connection of the client, with its streams."""

    def __init__(self, socket: Any, folder: Path):
        self.socket, self.folder = socket, folder
        self.reader = socket.makefile("rb")
        self.lock, self.streams, self.last = threading.Lock(), dict[int, Stream](), 0

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        head = struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self.lock, contextlib.suppress(OSError):
            self.socket.sendall(head + data)

    def serve(self) -> None:
        while len(head := self.reader.read(24)) == 24:
            command, first, second, length, _, _ = struct.unpack("<6I", head)
            data = self.reader.read(length)
            if command == CNXN:
                self.send(CNXN, 0x01000000, 1 << 18, BANNER)
            elif command == OPEN:
                self.last += 1
                self.streams[self.last] = Stream(self, self.last, first, data.rstrip(b"\0").decode())
            elif command == CLSE:
                if second in self.streams:
                    self.streams.pop(second).end()
            elif second in self.streams:
                self.streams[second].take(command, data)

    def close(self) -> None:
        for stream in list(self.streams.values()):
            stream.end()
        with contextlib.suppress(OSError):
            self.socket.shutdown(2)
        self.socket.close()


class Stream:
    def __init__(self, link: Link, number: int, remote: int, service: str):
        self.link, self.number, self.remote = link, number, remote
        self.acknowledged, self.kept, self.process = threading.Semaphore(1), b"", None
        self.file: Any = None
        link.send(OKAY, number, remote)
        kind, _, rest = service.partition(":")
        if kind in ("shell", "exec"):
            threading.Thread(target=self.run, args=(rest.replace(ROOM, str(link.folder)),), daemon=True).start()
        elif kind != "sync":
            link.send(CLSE, number, remote)

    def write(self, data: bytes) -> None:
        self.acknowledged.acquire(timeout=30)
        self.link.send(WRTE, self.number, self.remote, data)

    def run(self, command: str) -> None:
        pipe = subprocess.PIPE
        self.process = process = subprocess.Popen(
            ["env", "--default-signal=HUP", "sh", "-c", command],  # a device's shell hears it, though ours may not
            cwd=self.link.folder,
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        for data in iter(lambda: process.stdout.read1(65536), b""):
            self.write(data)
        process.stdout.close()
        process.wait()
        self.end()
        self.acknowledged.acquire(timeout=30)
        self.link.send(CLSE, self.number, self.remote)

    def take(self, command: int, data: bytes) -> None:
        if command == OKAY:
            self.acknowledged.release()
            return
        self.link.send(OKAY, self.number, self.remote)
        if self.process is not None:
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.write(data)
                self.process.stdin.flush()
        else:
            self.kept += data
            self.sync()

    def sync(self) -> None:
        """What `adb push` says: STAT, SEND, DATA …, DONE."""
        while len(self.kept) >= 8:
            word, length = self.kept[:4], struct.unpack("<I", self.kept[4:8])[0]
            if word == b"DONE":
                self.kept = self.kept[8:]
                self.file.close()
                self.answer(b"OKAY" + struct.pack("<I", 0))
                continue
            if len(self.kept) < 8 + length:
                return
            data, self.kept = self.kept[8 : 8 + length], self.kept[8 + length :]
            if word == b"STAT":
                self.answer(b"STAT" + struct.pack("<3I", *stat(self.place(data))))
            elif word == b"SEND":
                path, mode = data.rsplit(b",", 1)
                self.file = self.place(path).open("wb")
                self.place(path).chmod(int(mode) & 0o777)
            elif word == b"DATA":
                self.file.write(data)
            elif word == b"QUIT":
                self.link.send(CLSE, self.number, self.remote)

    def answer(self, data: bytes) -> None:
        threading.Thread(target=self.write, args=(data,), daemon=True).start()

    def place(self, path: bytes) -> Path:
        return Path(path.decode().replace(ROOM, str(self.link.folder)))

    def end(self) -> None:
        """Its input ends, and what still runs is hung up on, as by a terminal that closes."""
        if self.process is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            if self.process.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(self.process.pid, signal.SIGHUP)


def stat(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mode, found.st_size, int(found.st_mtime)


@contextlib.contextmanager
def start_device(folder: Path) -> Iterator[Device]:
    device = Device(folder)
    threading.Thread(target=device.server.serve_forever, daemon=True).start()
    try:
        yield device
    finally:
        device.lose()
        device.server.shutdown()
        device.server.server_close()
