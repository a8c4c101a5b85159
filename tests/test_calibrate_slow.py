"""A profile calibrated over a real sshd tells further students' milliseconds on the device within its stated error."""

import json

import pytest
from test_benchmark_device import arm_of, needs_emulator
from test_benchmark_ssh import device, pytestmark  # noqa: F401  a fixture

from benchmark import calibrate, count_features, read_profile
from family.build import cache_folder
from family.calibrate import measure_there, spread
from family.candidates import measure_untrained, open_benches, write_feeds
from family.cli import main
from family.job import open_job, open_target
from family.sampling import even_draws
from family.spec import read_spec

FILE = """
name: calibrated
data: digits
teacher: digits
students: {space: conv}
budgets: {best: {target: cpu}}
targets: {board: OPTIONS}
"""
CORE = "cortex-a53"


@pytest.fixture(scope="module")
def folder(device, tmp_path_factory):  # noqa: F811
    """Of a budgets.yaml with the board among its targets."""
    folder = tmp_path_factory.mktemp("calibrated")
    options = dict(arm_of(device).options) | {"transport": "ssh"}
    (folder / "budgets.yaml").write_text(FILE.replace("OPTIONS", json.dumps(options)))
    return folder


@needs_emulator
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_held_out_students_lie_within_the_stated_error(folder, tmp_path):
    """Every third of 16 students is held out; all are measured in one sitting, for this machine has other work."""
    job = open_job(
        read_spec(folder / "budgets.yaml"), tmp_path, cache_folder(tmp_path), lambda _: None, may_train=False
    )
    target = open_target(job.spec, "board")
    numbers, paths = spread(job, 16)
    measured, facts = measure_there(job, target, paths)
    rows = [count_features(path, CORE, 1, write_feeds(job)) for path in paths]
    held = [i for i, n in enumerate(numbers) if n % 3 == 1 and 1 < n < 14]  # the ends are what spans the range
    known = [i for i in range(len(paths)) if i not in held]
    fitted = ([rows[i] for i in known], [measured[i] for i in known], [numbers[i] for i in known])
    profile = calibrate(*fitted, facts, CORE, target, "2026-11-26")
    ratios = [measured[i].value / profile.estimate(rows[i]) for i in held]
    print(f"\nerror {profile.error:.3f}, reach {profile.reach:.2f}, held out {[round(r, 2) for r in ratios]}")
    assert len(ratios) >= 5
    assert all(1 / profile.reach <= ratio <= profile.reach for ratio in ratios)
    assert profile.reach < 2


@needs_emulator
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_writes_a_profile_that_a_budget_can_name(folder, tmp_path, capsys):
    words = ["--budgets", str(folder / "budgets.yaml"), "--target", "board", "--core", CORE]
    words += ["--out", str(folder / "board.json"), "--students", "8", "--run", str(tmp_path / "run")]
    assert main(["calibrate", *words]) == 0
    assert "off on average where it had not seen them" in capsys.readouterr().out
    profile = read_profile(folder / "board.json")
    assert profile.provenance == "measured:device"
    text = FILE.replace("OPTIONS", "{profile: board.json}").replace("target: cpu", "target: board, latency_ms: 1000")
    (folder / "estimated.yaml").write_text(text)
    spec = read_spec(folder / "estimated.yaml")
    job = open_job(spec, tmp_path / "again", cache_folder(tmp_path), lambda _: None, may_train=False)
    with open_benches(job) as benches:
        told = [
            measure_untrained(job, params, benches)["costs"]["board"]["fp32"].get("latency_ms")
            for params in even_draws(job, 3)
        ]
    assert all(one is None or one["provenance"] == "estimated" for one in told)
    assert any(told)


@pytest.mark.slow
def test_what_is_no_device_is_told(folder, capsys):
    words = ["--budgets", str(folder / "budgets.yaml"), "--out", "x.json", "--core"]
    assert main(["calibrate", *words, "cortex-a35", "--target", "board"]) == 2
    assert "--core must be one of cortex-a53" in capsys.readouterr().err
    assert main(["calibrate", *words, CORE, "--target", "browser"]) == 2
    assert "--target must be a device that tells time" in capsys.readouterr().err
    assert main(["calibrate", *words, CORE, "--target", "nobody"]) == 2
    assert "must be a preset or a name in targets" in capsys.readouterr().err
