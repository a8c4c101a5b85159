"""Real servers for the tests: started here, on loopback, and stopped here."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NO_POSTGRES = "no PostgreSQL server here: apt install postgresql"


def find_program(name: str) -> str:
    """On the path, or where Debian puts it. Fails with the command that installs it."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = shutil.which(name) or next(map(str, places), None)
    assert found, NO_POSTGRES
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Postgres:
    folder: Path
    port: int
    user: str | None  # who runs it: it refuses to be root's

    @property
    def url(self) -> str:
        return f"postgresql://family:secret@127.0.0.1:{self.port}/postgres"

    @property
    def driver_url(self) -> str:
        """For Optuna itself, which leaves the driver to SQLAlchemy: it may take one that is not here."""
        return self.url.replace("postgresql://", "postgresql+psycopg2://")

    def control(self, *words: str) -> None:
        run_as(self.user, [find_program("pg_ctl"), "-D", str(self.folder / "data"), "-w", *words])

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        options += " -c max_connections=200"
        self.control("start", "-l", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        self.control("stop", "-m", "immediate")

    def restart(self, away_s: float) -> None:
        self.stop()
        time.sleep(away_s)
        self.start()


def run_as(user: str | None, command: list[str]) -> None:
    done = subprocess.run(command, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/")
    assert done.returncode == 0, f"{command}: {done.stderr}"


@contextlib.contextmanager
def start_postgres() -> Iterator[Postgres]:
    """A fresh server, stopped at the end."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = next(name for name in ("postgres", "nobody") if name in names) if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="family-pg-", ignore_cleanup_errors=True) as name:
        server = Postgres(Path(name), free_port(), user)
        if user:
            shutil.chown(server.folder, user)
        (server.folder / "password").write_text("secret\n")
        initdb = [find_program("initdb"), "-D", str(server.folder / "data"), "-U", "family", "-A", "scram-sha-256"]
        (server.folder / "password").chmod(0o644)
        run_as(user, [*initdb, "--pwfile", str(server.folder / "password"), "-E", "UTF8", "--no-sync"])
        server.start()
        try:
            yield server
        finally:
            server.stop()
