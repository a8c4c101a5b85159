"""A channel carries requests to the process that measures, and its answers back: one method, `ask`.

The process has the interpreter of this one and nothing of its memory: no torch, no training threads, and no
terminal, so that Ctrl-C reaches the caller alone, who then ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import IO, Any, Protocol
from zipfile import BadZipFile

import numpy as np

from benchmark.host import host, host_fingerprint
from benchmark.types import Target


class WorkerDied(RuntimeError):
    """The measuring process ended or hung in the middle of a request; the next request starts a new one."""


class Channel(Protocol):
    def ask(self, do: str, model: Path | None = None, **request: Any) -> dict[str, Any]: ...

    def host(self) -> dict[str, Any]:
        """What measures: `fingerprint`, equal where figures may be compared, and facts."""
        ...

    def restart(self) -> None: ...

    def close(self) -> None: ...


class ProcessChannel:
    """A process on this machine that answers each JSON line with another, started by `command` at the first request."""

    def __init__(self, command: Sequence[str]):
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def ask(self, do: str, model: Path | None = None, **request: Any) -> dict[str, Any]:
        """The worker's answer. Raises ValueError for a model it cannot run, WorkerDied when it is gone."""
        line = json.dumps({"do": do, "model": None if model is None else str(model), **request})
        limit_s = 300 + 20 * float(request.get("seconds", 0))
        try:
            answer = self._exchange(line, limit_s)
        except BaseException:  # Ctrl-C included: an answer still to come must not be taken for the next one
            self._stop()
            raise
        if answer is None:
            raise WorkerDied(self._tell_death(do, model))
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def host(self) -> dict[str, Any]:
        return {"fingerprint": host_fingerprint(), **host()}

    def restart(self) -> None:
        self._stop()

    def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        process, self._process = self._process, None
        errors, self._errors = self._errors, None
        if process is not None:
            _end(process)
        if errors is not None:
            errors.close()

    def _exchange(self, line: str, limit_s: float) -> dict[str, Any] | None:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = Timer(limit_s, process.kill)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            reply = process.stdout.readline()
        except BrokenPipeError:
            return None
        finally:
            timer.cancel()
        return dict(json.loads(reply)) if reply.endswith("\n") else None

    def _start(self) -> subprocess.Popen[str]:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            start_new_session=True,
        )
        return self._process

    def _tell_death(self, do: str, model: Path | None) -> str:
        process, errors = self._process, self._errors
        assert process is not None
        assert errors is not None
        code = process.wait()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        self._stop()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        last = f" Its last words: {lines[-1]}" if lines else ""
        return f"the measuring process {how} during {do!r} of {model}.{last}"


def open_local(target: Target, feeds: Path | None) -> ProcessChannel:
    """The channel of `local`; options `threads`, `batch`. ValueError for feeds it cannot read."""
    if feeds is not None:
        check_feeds(Path(feeds))
    settings = {
        "threads": target.options.get("threads", 1),
        "batch": target.options.get("batch", 1),
        "feeds": None if feeds is None else str(Path(feeds).resolve()),
    }
    return ProcessChannel([sys.executable, "-P", "-m", "benchmark.worker", json.dumps(settings)])


def count_cores(target: Target) -> str | None:
    """Why this machine cannot give the target its threads."""
    threads, cores = int(target.options.get("threads", 1)), os.cpu_count() or 1
    return f"it asks for {threads} threads and this machine has {cores} cores" if threads > cores else None


def check_feeds(feeds: Path) -> None:
    try:
        with np.load(feeds, allow_pickle=False) as arrays:
            for name in arrays.files:
                arrays[name]
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"the feeds {feeds} are not an .npz of arrays by input name: {error}") from error


def _end(process: subprocess.Popen[str]) -> None:
    """End of input asks the worker to leave, even in the middle of a run; after two seconds it is killed."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # it is gone already
        process.stdin.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        process.stdout.close()
