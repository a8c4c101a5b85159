"""Kill -9 at any moment, the same command goes on and ends in the same family, measurements included."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BUDGETS = """
name: killed
data: {path: digits}
teacher: digits
students: {space: mlp, dims: {width: [8, 32], depth: [1, 2]}}
budgets:
  small: {target: cpu, size_kb: 12}
  fast: {target: cpu, latency_ms: 5}
  best: {target: cpu}
distill: {loss: kd, learning_rate: 0.01, steps: 60, views: 2, control_seeds: 2}
search: {trials: 5, minutes: null}
"""


def command(folder: Path, run: str) -> list[str]:
    return [
        sys.executable,
        "-P",
        "-m",
        "family",
        "--budgets",
        str(folder / "budgets.yaml"),
        "--run",
        str(folder / run),
    ]


def finish(folder: Path, run: str, environment: dict[str, str]) -> bytes:
    done = subprocess.run(command(folder, run), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return (folder / run / "family.json").read_bytes()


def copy_measurements(source: Path, run: Path) -> None:
    """Hand over what was measured, and nothing that was trained, exported or chosen."""
    wanted = [
        *source.glob("measuring/*"),
        *source.rglob("measurements/*.json"),
    ]
    for path in wanted:
        copy = run / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def kill_after(folder: Path, run: str, environment: dict[str, str], seconds: float) -> bool:
    """Start the run and kill its whole process group after `seconds`; whether it was still running."""
    process = subprocess.Popen(
        command(folder, run),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "budgets.yaml").write_text(BUDGETS)
    environment = {**os.environ, "STUDENT_FAMILY_CACHE": str(tmp_path / "cache")}
    finish(tmp_path, "warm", environment)  # trains the teacher
    expected = finish(tmp_path, "whole", environment)
    copy_measurements(tmp_path / "whole", tmp_path / "rehearsal")
    start = time.monotonic()
    assert finish(tmp_path, "rehearsal", environment) == expected
    lasted = time.monotonic() - start  # without measuring
    rng = random.Random(0)
    killed = 0
    for attempt in range(10):
        run = f"killed-{attempt}"
        copy_measurements(tmp_path / "whole", tmp_path / run)
        moment = rng.uniform(0.15, 0.9) * lasted
        if kill_after(tmp_path, run, environment, moment):
            killed += 1
        else:
            lasted = moment  # the machine is quicker than it was
        assert finish(tmp_path, run, environment) == expected
    assert killed >= 8  # its speed varies, so one or two may end in time
