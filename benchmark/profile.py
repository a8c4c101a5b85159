"""Milliseconds on a device that was measured once, estimated for other models from what they take.

A profile is fitted to measurements of a spread of models on the device: latency as a sum of instructions by class
(counted on an emulated core), bytes of the file, operators and a start, each with a weight that is not negative. It
says how far it errs on models that it has not seen, and nothing of models beyond what it was fitted to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.emulated import CORES, EmulatedChannel, find_missing_core, is_counted
from benchmark.intervals import find_t
from benchmark.predict import Predictor, fit, predict
from benchmark.types import Measurement, Target

FORMAT = 2
FEWEST_STUDENTS = 8  # measured students
BEYOND = 0.1  # of a feature's range, above and below, that still counts as within
NAMED = 3  # features beyond the range, in a message
Row = Mapping[str, float]


@dataclass(frozen=True)
class Profile:
    """`device`: its own facts, `fingerprint` among them. `core`: whose instructions are counted. `weights`: ms of one
    unit of each feature. `errors`: predicted ÷ measured - 1 of each calibration file by a fit that had seen no file of
    its student. `ranges`: least and greatest of every feature there. `figures`: the calibration itself, each file's
    features, ms, and the number of its student."""

    device: Mapping[str, Any]
    core: str
    threads: int
    batch: int
    weights: Mapping[str, float]
    errors: Sequence[float]
    ranges: Mapping[str, Sequence[float]]
    figures: Sequence[Mapping[str, Any]]
    provenance: str
    made: str

    @property
    def id(self) -> str:
        """12 hex digits of all that it holds."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def students(self) -> int:
        """How many were measured, each in one file or more."""
        return len({figure["student"] for figure in self.figures})

    @property
    def error(self) -> float:
        """Mean absolute relative error out of sample."""
        return float(np.mean(np.abs(self.errors)))

    @property
    def reach(self) -> float:
        """Factor within which 95 % of further models lie: Student's t over the logs of the errors out of sample. Files
        of one student err alike: they count as one."""
        logs = np.log1p(np.asarray(self.errors))
        n = self.students
        return float(np.exp(find_t(n - 1) * np.sqrt((logs**2).mean()) * (1 + 1 / n) ** 0.5))

    def estimate(self, row: Row) -> float:
        """Milliseconds. Raises ValueError for a model beyond what was calibrated."""
        beyond = [
            say_range(name, row.get(name, 0.0), *ends) for name, ends in self.ranges.items() if is_out(row, name, ends)
        ]
        if beyond or set(row) - set(self.ranges):
            odd = beyond or sorted(set(row) - set(self.ranges))
            odd = [*odd[:NAMED], *([f"and {len(odd) - NAMED} more"] if len(odd) > NAMED else [])]
            raise ValueError(f"it is beyond what profile {self.id} was calibrated on: {'; '.join(odd)}")
        return predict(Predictor(self.weights, tuple(self.errors)), row)


def is_out(row: Row, name: str, ends: Sequence[float]) -> bool:
    room = BEYOND * (ends[1] - ends[0])
    return not ends[0] - room <= row.get(name, 0.0) <= ends[1] + room


def say_range(name: str, value: float, low: float, high: float) -> str:
    return f"{name} {value:,.0f}, calibrated from {low:,.0f} to {high:,.0f}"


def calibrate(
    rows: Sequence[Row],
    measured: Sequence[Measurement],
    students: Sequence[int],
    device: Mapping[str, Any],
    core: str,
    target: Target,
    made: str,
) -> Profile:
    """Fit a profile to what files with these features took. `students`: the number of each file's student, whose
    precisions are left out together when errors are found. `made`: a date. Raises ValueError for fewer than eight."""
    if len(set(students)) < FEWEST_STUDENTS:
        raise ValueError(f"a profile needs at least {FEWEST_STUDENTS} measured students. Got {len(set(students))}.")
    fitted = fit(rows, [one.value for one in measured], students)
    names = sorted({name for row in rows for name in row})
    values = {name: [float(row.get(name, 0.0)) for row in rows] for name in names}
    return Profile(
        device,
        core,
        int(target.options.get("threads", 1)),
        int(target.options.get("batch", 1)),
        fitted.weights,
        fitted.errors,
        {name: (min(all_of), max(all_of)) for name, all_of in values.items()},
        [
            {
                "student": student,
                "features": dict(row),
                "latency_ms": one.value,
                "low": one.low,
                "high": one.high,
                "noisy": one.noisy,
            }
            for student, row, one in zip(students, rows, measured, strict=True)
        ],
        measured[0].provenance,
        made,
    )


def count_features(model: Path, core: str, batch: int, feeds: Path | None) -> dict[str, float]:
    """Instructions by class of one inference, bytes of the file, operators, and a start. Raises ValueError for a file
    that does not run on the emulated core, WorkerDied."""
    import onnx  # late: who only measures needs none

    counts = EmulatedChannel(core, batch, feeds).ask("count", model, strict=False)["counts"]
    classes = {name: float(np.median([one[name] for one in counts])) for name in counts[0] if name != "insn"}
    operators = len(onnx.load(model, load_external_data=False).graph.node)
    return {**classes, "bytes": float(model.stat().st_size), "operators": float(operators), "start": 1.0}


def write_profile(profile: Profile, path: Path) -> None:
    text = json.dumps({"format": FORMAT, "id": profile.id, **asdict(profile)}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read_profile(path: Path) -> Profile:
    """Raises ValueError for a file that is none, or was changed by hand."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        known, said = kept.pop("format"), kept.pop("id")
        profile = Profile(**kept)
    except OSError as problem:
        raise ValueError(f"there is no profile {path}: {problem.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{path} is no profile; `build-family calibrate` writes them") from None
    if known != FORMAT or profile.id != said or profile.core not in CORES or not is_counted(profile.core):
        raise ValueError(f"{path} is not as `build-family calibrate` wrote it")
    return profile


class ProfileChannel:
    """Answers `estimate`: `{ms, low, high}`, or `{beyond: why}`."""

    def __init__(self, profile: Profile, feeds: Path | None):
        self.profile, self._feeds = profile, feeds

    def ask(self, do: str, model: Path | None = None, **request: Any) -> dict[str, Any]:
        """Raises ValueError for a file that does not run on the emulated core, WorkerDied."""
        if do != "estimate" or model is None:
            raise ValueError(f"a profile can be asked to estimate a model. Got {do!r}.")
        row = count_features(model, self.profile.core, self.profile.batch, self._feeds)
        try:
            ms = self.profile.estimate(row)
        except ValueError as problem:
            return {"beyond": str(problem)}
        return {"ms": ms, "low": ms / self.profile.reach, "high": ms * self.profile.reach}

    def host(self) -> dict[str, Any]:
        """The device that was measured; the fingerprint is the profile's own."""
        return {**self.profile.device, "fingerprint": self.profile.id, "profile": self.profile.id}

    def restart(self) -> None:
        """Every count is a process of its own."""

    def close(self) -> None:
        """Nothing is left running."""


def open_profile(target: Target, feeds: Path | None) -> ProfileChannel:
    """The channel of `profile`; option `profile`, a file. Raises ValueError for one that cannot be read."""
    return ProfileChannel(read_profile(Path(str(target.options["profile"]))), feeds)


def find_missing(target: Target) -> str | None:
    """Why nothing can be estimated from here, with the command that helps."""
    if "profile" not in target.options:
        return f"it has no profile; write targets: {{{target.name}: {{profile: file.json}}}}"
    try:
        profile = read_profile(Path(str(target.options["profile"])))
    except ValueError as problem:
        return str(problem)
    return find_missing_core(profile.core)
