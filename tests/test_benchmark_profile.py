"""Profiles of devices: fitted, kept, refused where they do not reach."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_benchmark_timing import write_mlp

from benchmark import (
    Measurement,
    calibrate,
    can_answer,
    open_meter,
    provenance_of,
    read_profile,
    resolve_target,
    unavailable,
    write_profile,
)
from family.candidates import over_limits
from family.untold import UNKNOWN, value_of, why_untold

MISSING = unavailable(resolve_target("cortex-a53"))
needs_emulator = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
PI = resolve_target("pi", {"transport": "ssh", "host": "pi@home"})


def measured(ms):
    return Measurement("latency_ms", ms, ms * 0.99, ms * 1.01, (ms,), "pi", "measured:device", "", "abc")


def made_up(count=16, noise=0.02, seed=0):
    """Rows whose latency is known: 2 ns an integer instruction, 1 ns a fmla, 0.05 ms a start, and some noise."""
    rng = np.random.default_rng(seed)
    rows = [{"int": rng.uniform(1e4, 1e6), "fmla": rng.uniform(1e4, 2e6), "start": 1.0} for _ in range(count)]
    truth = [2e-6 * row["int"] + 1e-6 * row["fmla"] + 0.05 for row in rows]
    return rows, [ms * float(np.exp(noise * rng.standard_normal())) for ms in truth]


def fitted(**made):
    rows, ms = made_up(**made)
    return calibrate(
        rows, [measured(one) for one in ms], range(len(rows)), {"fingerprint": "abc"}, "cortex-a53", PI, "2026-11-26"
    )


def test_the_weights_are_found_again():
    profile = fitted(noise=0.0)
    assert profile.weights["int"] == pytest.approx(2e-6, rel=1e-3)
    assert profile.weights["fmla"] == pytest.approx(1e-6, rel=1e-3)
    assert profile.weights["start"] == pytest.approx(0.05, rel=1e-2)
    assert profile.error < 1e-6


def test_further_models_lie_within_the_stated_reach_as_often_as_it_says():
    """Over 40 calibrations, each held against 50 models it had not seen: 95 % within, give or take."""
    within = []
    for seed in range(40):
        profile = fitted(noise=0.1, seed=seed)
        rows, ms = made_up(count=50, noise=0.1, seed=1000 + seed)
        for row, truth in zip(rows, ms, strict=True):
            try:
                ratio = truth / profile.estimate(row)
            except ValueError:
                continue
            within.append(1 / profile.reach <= ratio <= profile.reach)
    assert len(within) > 1500
    assert 0.92 < np.mean(within) < 0.99


def test_what_is_beyond_the_calibration_is_refused():
    profile = fitted()
    row = made_up()[0][0]
    with pytest.raises(
        ValueError, match=rf"beyond what profile {profile.id} was calibrated on: fmla 9,000,000, calibr"
    ):
        profile.estimate(row | {"fmla": 9e6})
    with pytest.raises(ValueError, match=r"calibrated on: fmla [^;]*; int [^;]*; start [^;]*$"):
        profile.estimate(dict.fromkeys(row, 9000000000.0))
    many = {f"odd{i}": 1.0 for i in range(5)}
    with pytest.raises(ValueError, match="odd0; odd1; odd2; and 2 more"):
        profile.estimate(row | many)
    with pytest.raises(ValueError, match="dot"):
        profile.estimate(row | {"dot": 1.0})
    assert profile.estimate(row) > 0


def test_it_is_kept_in_a_file_and_a_changed_one_is_refused(tmp_path):
    profile = fitted()
    write_profile(profile, tmp_path / "pi.json")
    again = read_profile(tmp_path / "pi.json")
    assert again.id == profile.id
    assert again.reach == profile.reach
    kept = json.loads((tmp_path / "pi.json").read_text())
    kept["weights"]["int"] *= 2
    (tmp_path / "pi.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"pi\.json is not as `build-family calibrate` wrote it"):
        read_profile(tmp_path / "pi.json")
    (tmp_path / "pi.json").write_text("{}")
    with pytest.raises(ValueError, match=r"pi\.json is no profile"):
        read_profile(tmp_path / "pi.json")
    with pytest.raises(ValueError, match="there is no profile"):
        read_profile(tmp_path / "no.json")


def test_too_few_students_are_refused_however_many_files_each_has():
    with pytest.raises(ValueError, match=r"at least 8 measured students\. Got 7"):
        fitted(count=7)
    rows, ms = made_up(count=14)
    with pytest.raises(ValueError, match=r"at least 8 measured students\. Got 7"):
        calibrate(rows, [measured(one) for one in ms], [i // 2 for i in range(14)], {}, "cortex-a53", PI, "2026-11-26")


def in_pairs(seed, count, spread=0.1):
    """Two files a student that err alike, as fp32 and int8 of one architecture do."""
    rng = np.random.default_rng(seed)
    rows, truth = made_up(count=2 * count, noise=0.0, seed=seed)
    alike = np.repeat(np.exp(spread * rng.standard_normal(count)), 2)
    return rows, [ms * factor for ms, factor in zip(truth, alike, strict=True)], [i // 2 for i in range(2 * count)]


def test_the_stated_reach_holds_where_files_of_a_student_err_alike():
    """Over 60 calibrations of 8 students in 16 files, each held against 30 further students. A fit that has seen the
    other file of a student errs less on this one than on a student that it has not seen."""
    within, students = [], []
    for seed in range(60):
        rows, ms, numbers = in_pairs(seed, 8)
        said = ({"fingerprint": "abc"}, "cortex-a53", PI, "2026-11-26")
        profile = calibrate(rows, [measured(one) for one in ms], numbers, *said)
        students.append(profile.students)
        further, truth, _ = in_pairs(1000 + seed, 30)
        for row, one in zip(further, truth, strict=True):
            try:
                ratio = one / profile.estimate(row)
            except ValueError:
                continue
            within.append(1 / profile.reach <= ratio <= profile.reach)
    assert set(students) == {8}
    assert len(within) > 1500
    assert 0.93 < np.mean(within) < 0.995


def test_a_students_files_are_left_out_together():
    rows, ms, numbers = in_pairs(0, 8)
    ms[:2] = [3 * one for one in ms[:2]]  # the first student is unlike all others
    said = ({"fingerprint": "abc"}, "cortex-a53", PI, "2026-11-26")
    together = calibrate(rows, [measured(one) for one in ms], numbers, *said)
    alone = calibrate(rows, [measured(one) for one in ms], range(len(rows)), *said)
    assert together.errors[0] == pytest.approx(1 / 3 - 1, abs=0.2)
    assert abs(together.errors[0]) > abs(alone.errors[0])
    assert together.reach > alone.reach


def test_a_target_with_a_profile_needs_no_transport_and_says_that_it_estimates(tmp_path):
    write_profile(fitted(), tmp_path / "pi.json")
    target = resolve_target("phone", {"profile": str(tmp_path / "pi.json")})
    assert (target.transport, provenance_of(target)) == ("profile", "estimated")
    assert can_answer(target) == {"latency_ms", "size_kb"}
    assert "no profile" in unavailable(resolve_target("phone", {"profile": str(tmp_path / "no.json")}))


@needs_emulator
def test_a_file_is_estimated_and_of_one_beyond_it_is_said_why_not(tmp_path):
    from benchmark import count_features

    paths = [write_mlp(tmp_path / f"{width}.onnx", width, 2) for width in range(32, 128, 12)]
    rows = [count_features(path, "cortex-a53", 1, None) for path in paths]
    ms = [1e-6 * sum(row.values()) for row in rows]
    said = ({"fingerprint": "abc"}, "cortex-a53", PI, "2026-11-26")
    profile = calibrate(rows, [measured(one) for one in ms], range(len(rows)), *said)
    write_profile(profile, tmp_path / "pi.json")
    with open_meter(resolve_target("phone", {"profile": str(tmp_path / "pi.json")})) as meter:
        size, latency = meter.quickly(paths[3])
        _, beyond = meter.quickly(write_mlp(tmp_path / "big.onnx", 512, 4))
        assert meter.facts()["profile"] == meter.host == profile.id
    assert latency.provenance == "estimated"
    assert latency.low <= ms[3] <= latency.high
    assert profile.id in latency.protocol
    assert size.quantity == "size_kb"
    assert np.isnan([beyond.value, beyond.low, beyond.high]).all()
    assert beyond.protocol.startswith(f"it is beyond what profile {profile.id} was calibrated on: ")


def test_what_cannot_be_told_keeps_no_limit():
    figures = {"size_kb": {"value": 5.0}}
    assert over_limits(figures, {"size_kb": 10}) < 0
    assert over_limits(figures, {"size_kb": 10, "latency_ms": 1.0}) > 1e6
    assert value_of(figures, "latency_ms") == UNKNOWN
    figures["latency_ms"] = {"value": np.nan, "protocol": "it is beyond the profile"}
    assert over_limits(figures, {"latency_ms": 1.0}) > 1e6
    assert why_untold(figures, ["size_kb", "latency_ms"]) == "its latency_ms is untold: it is beyond the profile"
    assert why_untold(figures, ["size_kb"]) is None


def test_a_profile_differs_with_anything_it_holds():
    profile = fitted()
    assert replace(profile, core="cortex-a76").id != profile.id
