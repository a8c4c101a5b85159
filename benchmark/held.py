"""A temporary folder on a device, made and removed by one command there.

The command ends when its input does: at our word, when this process dies, or when the connection is lost, whatever was
being copied. So nothing of ours stays.
"""

from __future__ import annotations

import secrets
import shlex
import subprocess
from collections.abc import Callable
from contextlib import suppress
from threading import Timer

from benchmark.channel import WorkerDied

START_S = 60  # until the folder is there
END_S = 5  # until it is gone


def clean_up(remove: str) -> str:
    """Of a shell: what is removed however it ends. Meanwhile it hears nothing, for a hang-up would end the `rm` too."""
    deaf = "trap '' HUP INT TERM PIPE"
    return f"gone() {{ {deaf}; {remove}; }}; trap gone EXIT; trap 'gone; exit 1' HUP INT TERM PIPE"


def hold_command(room: str) -> str:
    """Makes a folder in `room` (a path of the device, which its shell expands), says which, and waits."""
    traps = clean_up('[ -z "$d" ] || rm -rf "$d"')
    name = f'd="{room}/student-family-{secrets.token_hex(8)}"'  # known before it is made, so that it goes in any case
    make = 'mkdir "$d" || { d=; exit 1; }; echo "$d"; cat > /dev/null'
    return f"sh -c {shlex.quote(f'umask 077; {name}; {traps}; {make}')}"


class Held:
    """`folder`: there as long as this is not ended. `start` runs a command on the device, its pipes being ours.

    Raises WorkerDied where no folder can be made; `who` begins the message.
    """

    def __init__(self, start: Callable[[str], subprocess.Popen[bytes]], room: str, who: str):
        self._process = process = start(hold_command(room))
        assert process.stdout is not None
        timer = Timer(START_S, process.kill)
        timer.start()
        try:
            said = process.stdout.readline().decode(errors="replace").strip()
        except BaseException:
            self._kill()
            raise
        finally:
            timer.cancel()
        if not said.startswith("/"):
            raise WorkerDied(f"{who}: {self._last(said)}")
        self.folder = said

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> bool:
        """Whether the command there was seen to end, and so the folder to be removed."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            return self._process.wait(timeout=END_S) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _last(self, said: str) -> str:
        """What went wrong, in the device's words."""
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # so that it ends
        errors = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        self._kill()
        return (errors or [said or "it gave no folder"])[-1]
