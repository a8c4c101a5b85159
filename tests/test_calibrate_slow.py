"""A profile calibrated over a real sshd tells further students' milliseconds on the device within its stated error."""

import json

import pytest
from test_benchmark_device import arm_of, needs_emulator
from test_benchmark_ssh import device, pytestmark  # noqa: F401  a fixture

from benchmark import count_features, open_meter, read_profile
from family.build import cache_folder
from family.calibrate import measure_there, spread
from family.candidates import untrained_graphs, write_feeds
from family.cli import main
from family.job import open_job
from family.sampling import draw_pool
from family.spec import read_spec

FILE = """
name: calibrated
data: digits
teacher: digits
students: {space: conv}
budgets: {best: {target: cpu}}
targets: {board: OPTIONS}
"""
HELD_OUT = 6


@needs_emulator
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_held_out_students_lie_within_the_stated_error(device, tmp_path, capsys):  # noqa: F811
    target = arm_of(device)
    options = {name: value for name, value in target.options.items()} | {"transport": "ssh"}
    (tmp_path / "budgets.yaml").write_text(FILE.replace("OPTIONS", json.dumps(options)))
    words = ["--budgets", str(tmp_path / "budgets.yaml"), "--target", "board", "--core", "cortex-a53"]
    words += ["--out", str(tmp_path / "board.json"), "--students", "12", "--run", str(tmp_path / "run")]
    assert main(["calibrate", *words]) == 0
    profile = read_profile(tmp_path / "board.json")
    assert "off on average" in capsys.readouterr().out
    run = tmp_path / "run"
    job = open_job(read_spec(tmp_path / "budgets.yaml"), run, cache_folder(run), lambda _: None, may_train=False)
    known = set(spread(job, 12))
    pool = sorted(draw_pool(job), key=lambda one: one[1])
    further = [params for params, _ in pool[10 :: len(pool) // HELD_OUT]][:HELD_OUT]
    paths = [path for params in further for path in untrained_graphs(job, params).values() if path not in known]
    measured, _ = measure_there(job, target, paths)
    ratios = []
    for path, one in zip(paths, measured, strict=True):
        row = count_features(path, profile.core, 1, write_feeds(job))
        ratios.append(one.value / profile.estimate(row))
    print(f"error {profile.error:.3f}, reach {profile.reach:.2f}, held out {[round(r, 3) for r in ratios]}")
    within = [1 / profile.reach <= ratio <= profile.reach for ratio in ratios]
    assert len(ratios) >= HELD_OUT
    assert sum(within) >= len(within) - 1  # of twelve, 95 % within
    assert profile.reach < 2
    with open_meter(resolve(tmp_path)) as meter:
        assert meter.quickly(paths[0])[1].provenance == "estimated"


def resolve(folder):
    from benchmark import resolve_target

    return resolve_target("phone", {"profile": str(folder / "board.json")})
