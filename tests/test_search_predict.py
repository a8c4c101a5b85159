"""Costs predicted in the search: on made-up costs, and on real files of a user's factory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from benchmark import Bench, resolve_target
from family import predicting, spaces, stand_in
from family.candidates import measure_untrained, violation, write_feeds, write_references
from family.features import count_features
from family.job import Job
from family.predicting import CostFilter, open_filter
from family.sampling import draw_pool
from family.search import draw_start, search
from family.spec import read_spec
from family.stand_in import warn
from family.tasks import DataOptions, DataTask, open_task
from family.types import Training

RECIPE = Training("kd", 0.01, 10, 0)
PLAIN = Path(__file__).parent / "perf" / "plain_factory.py"
SPEC = """
data: digits
teacher: digits
students: {space: SPACE, dims: DIMS}
budgets: BUDGETS
search: {trials: TRIALS, minutes: null, engine: tpe}
export: {precisions: [fp32]}
"""
TIGHT = "{tiny: {target: cpu, latency_ms: 0.02, size_kb: 60}, small: {target: cpu, size_kb: 40}}"
Say = Callable[[dict], dict[str, float]]


class Nobody:
    """A teacher that is not asked."""

    fingerprint = "nobody"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> DataTask:
    folder = tmp_path_factory.mktemp("digits")
    return open_task(DataOptions("digits", folder), folder)


def open_job(
    folder: Path,
    task: DataTask,
    budgets: str = TIGHT,
    space: str = "mlp",
    dims: str = "{width: [8, 256]}",
    trials: int = 40,
) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    text = SPEC.replace("SPACE", space).replace("BUDGETS", budgets).replace("DIMS", dims)
    (folder / "budgets.yaml").write_text(text.replace("TRIALS", str(trials)))
    spec = read_spec(folder / "budgets.yaml")
    opened = spaces.open_space(spec.students.space, spec.students.dims, folder, task)
    targets = {"cpu": resolve_target("cpu")}
    return Job(spec, folder, folder, task, Nobody(), opened, targets, {}, "cpu", lambda _: None)  # type: ignore[arg-type]


def weights(params: dict) -> float:
    width, depth = params["width"], params["depth"]
    return 64 * width + (depth - 1) * width**2 + 10 * width


def say_costs(params: dict) -> dict[str, float]:
    """Four bytes a weight; a latency that grows with them, as timed: 3 % more or less, the same for the same student."""
    noise = np.random.default_rng(int(weights(params))).standard_normal()
    return {"size_kb": weights(params) * 4 / 1000, "latency_ms": (0.005 + weights(params) / 1e6) * np.exp(0.03 * noise)}


def say_noise(params: dict) -> dict[str, float]:
    """Costs that nothing explains."""
    noise = np.random.default_rng(int(weights(params))).standard_normal()
    return {"size_kb": float(np.exp(2 * noise)), "latency_ms": float(np.exp(2 * noise))}


class Fakes:
    """Costs as `say` tells them; what was measured for the design and in the search."""

    def __init__(self, patch: pytest.MonkeyPatch, say: Say = say_costs):
        self.say, self.designed, self.measured = say, [], []
        patch.setattr("family.predicting.try_measuring", self.measure_design)
        patch.setattr("family.search.try_measuring", self.measure)
        patch.setattr("family.engines.train_candidate", lambda job, params, recipe: {"val": 0.5})

    def tell(self, params: dict) -> dict:
        return {"cpu": {"fp32": {name: {"value": value} for name, value in self.say(dict(params)).items()}}}

    def measure_design(self, job: Job, params: dict, benches: dict) -> dict:
        self.designed.append(dict(params))
        return {"costs": self.tell(params)}

    def measure(self, job: Job, params: dict, benches: dict) -> dict:
        self.measured.append(dict(params))
        return {"costs": self.tell(params), "export_s": 0.1, "measure_s": 0.4}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


def open_fake_filter(job: Job) -> CostFilter:
    found = open_filter(job, {"cpu": None})  # type: ignore[dict-item]
    assert found is not None
    return found


def run(job: Job) -> tuple[list[dict], dict]:
    searched = search(job, RECIPE, {"cpu": None})  # type: ignore[dict-item]
    return searched.trials, dict(searched.summary)


class Mixed(nn.Module):
    """Layers, and operators that no layer stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.deep, self.head = nn.Conv2d(6, 6, 3, groups=6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.deep(torch.relu(self.norm(self.conv(x)))))
        rows = x.flatten(2).transpose(1, 2)  # (1, 36, 6)
        return self.head((rows @ rows.transpose(1, 2) @ rows).mean(1))


def test_features_by_hand() -> None:
    module = Mixed().train()
    found = count_features(module, (torch.randn(1, 3, 8, 8),))
    assert found["conv9 macs"] == 64 * 6 * 27
    assert found["conv9 macs by 8"] == 64 * 9 * 8 * 8  # 3 and 6 channels as 8
    assert found["depthwise macs"] == 36 * 6 * 9
    assert found["linear macs"] == 30
    assert found["matmul macs"] == 2 * 36 * 36 * 6
    assert found["matmul count"] == found["relu count"] == 2
    assert found["relu elements"] == 6 * 64 + 6 * 36
    assert found["conv9 count off 4 in above 0"] == found["conv9 count off 4 out above 0"] == 1
    assert "conv9 count off 4 out above 16" not in found
    assert found["weights"] == sum(p.numel() for p in module.parameters())
    assert not any("norm" in name for name in found)  # folded at export
    assert module.training


def test_the_multiply_accumulates_are_those_counted_elsewhere(tmp_path: Path, task: DataTask) -> None:
    for space in ("mlp", "conv"):
        job = open_job(tmp_path / space, task, space=space, dims="{width: [8, 32]}")
        module = spaces.build_student(job.space, spaces.middle(job.space), task, 0)
        inputs = task.inputs("val", np.arange(1), 0)
        found = count_features(module, inputs)
        assert sum(v for n, v in found.items() if n.endswith(" macs")) == spaces.count_macs(module, inputs)


def test_the_filter_never_refuses_what_measuring_would_keep(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    job = open_job(tmp_path, task)
    costs = open_fake_filter(job)
    pool = [params for params, _ in draw_pool(job)]
    kept = [violation(job, fakes.tell(dict(params))) <= 0 for params in pool]
    passed = [costs.may_fit(job, params) for params in pool]
    assert sum(kept) > 20
    assert all(may for may, keeps in zip(passed, kept, strict=True) if keeps)
    refused = sum(not may for may in passed)
    assert refused > 0.9 * (len(pool) - sum(kept)) - 10  # and nearly all else is refused


def test_a_predicted_prune_is_told_and_nothing_is_made(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    job = open_job(tmp_path, task)
    trials, summary = run(job)
    told = [t for t in trials if t["predicted"]]
    assert told
    assert {t["state"] for t in told} == {"pruned"}
    assert all(t["violation"] > 0 and t["measure_s"] is None for t in told)
    for trial in told:
        assert violation(job, fakes.tell(trial["params"])) == pytest.approx(trial["violation"], rel=0.1, abs=0.05)
    assert len(fakes.measured) == len(trials) - len(told)
    assert summary["predicted"] == len(told)
    assert summary["predicted_from"] == len(fakes.designed) == 20
    assert "margin" in summary["prediction"]["latency_ms fp32 on cpu"]
    assert sum(t["state"] == "complete" for t in trials) == 40


def test_the_design_is_measured_once_and_a_resumed_run_predicts_the_same(
    tmp_path: Path, task: DataTask, fakes: Fakes
) -> None:
    job = open_job(tmp_path, task)
    first = open_fake_filter(job)
    again = open_fake_filter(open_job(tmp_path, task))
    assert len(fakes.designed) == 20
    assert again == first
    wider = open_job(tmp_path, task, dims="{width: [8, 300]}")
    open_fake_filter(wider)
    assert len(fakes.designed) == 40  # other students


def test_an_error_too_great_is_said_and_nothing_is_refused(
    tmp_path: Path, task: DataTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fakes(monkeypatch, say_noise)
    said: list[str] = []
    job = replace(open_job(tmp_path, task), show=said.append)
    costs = open_fake_filter(job)
    assert costs.predictors == {"cpu": {"fp32": {}}}
    assert costs.may_fit(job, spaces.largest(job.space))
    trials, summary = run(job)
    assert not [t for t in trials if t["predicted"]]
    assert all(error.startswith("not predicted") for error in summary["prediction"].values())
    assert any("latency_ms fp32 on cpu not predicted" in line for line in said)


def test_budgets_without_limits_and_few_trials_need_no_design(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    assert open_filter(open_job(tmp_path, task, "{best: {target: cpu}}"), {"cpu": None}) is None  # type: ignore[dict-item]
    assert open_filter(open_job(tmp_path, task, trials=23), {"cpu": None}) is None  # type: ignore[dict-item]
    assert not fakes.designed


def test_start_up_draws_lie_within_the_budgets_and_are_even_in_log_cost(
    tmp_path: Path, task: DataTask, fakes: Fakes
) -> None:
    job = open_job(tmp_path, task, trials=48)
    costs = open_fake_filter(job)
    draws = draw_start(job, 12, costs)
    assert len(draws) == 12
    assert sum(violation(job, fakes.tell(dict(p))) <= 0 for p in draws) >= 11  # the last within the margin
    sizes = np.sort(np.log([weights(dict(p)) for p in draws]))
    assert np.diff(sizes).max() < 2 * np.diff(sizes).mean()
    assert sum(dict(p) in fakes.designed for p in draws) >= 3  # already measured


def test_a_budget_without_limits_draws_its_share_from_the_whole_space(
    tmp_path: Path, task: DataTask, fakes: Fakes
) -> None:
    job = open_job(tmp_path, task, "{tiny: {target: cpu, size_kb: 10}, best: {target: cpu}}")
    draws = [weights(dict(p)) * 4 / 1000 for p in draw_start(job, 8, open_fake_filter(job))]
    assert max(draws[0::2]) <= 10.4
    assert max(draws[1::2]) > 300


def test_a_users_factory_is_filtered_on_real_files(
    tmp_path: Path, task: DataTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused unmade is made and measured after all: none of it keeps the budget."""
    monkeypatch.setattr("family.engines.train_candidate", lambda job, params, recipe: {"val": 0.5})
    dims = "{first: [4, 12], second: [4, 24], hidden: [4, 48]}"
    job = open_job(tmp_path, task, "{small: {target: cpu, size_kb: 8}}", f"'{PLAIN}:plain'", dims, trials=24)
    with Bench(job.targets["cpu"], write_references(job), write_feeds(job), ladder_seconds=0.3) as bench:
        benches = {"cpu": bench}
        searched = search(job, RECIPE, benches)
        told = [t for t in searched.trials if t["predicted"]]
        assert searched.summary["predicted_from"] == 12
        for trial in told[:3]:
            assert violation(job, measure_untrained(job, trial["params"], benches)["costs"]) > 0
    assert "size_kb fp32 on cpu" in searched.summary["prediction"]
    assert len(told) >= 1


def write_graph(path: Path, operators: list[str], bytes_of_weights: int = 400) -> Path:
    nodes = [helper.make_node(one, [f"v{i}"], [f"v{i + 1}"]) for i, one in enumerate(operators)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in ("v0", f"v{len(operators)}")]
    weight = helper.make_tensor("w", TensorProto.UINT8, [bytes_of_weights], bytes(bytes_of_weights), raw=True)
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def figure(value: float, noisy: bool = False) -> dict:
    return {"latency_ms": {"value": value, "low": value / 1.02, "high": value * 1.02, "noisy": noisy}}


@pytest.mark.parametrize("same", [True, False])
def test_untrained_graphs_are_compared_with_the_files_that_ship(
    tmp_path: Path, task: DataTask, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    job, finalists = open_job(tmp_path, task), {name: {"width": 8, "depth": i + 1} for i, name in enumerate("abc")}
    untrained = write_graph(tmp_path / "untrained.onnx", ["Relu", "Sigmoid"])
    (tmp_path / "trained" / "fp32").mkdir(parents=True)
    write_graph(
        tmp_path / "trained/fp32/model.onnx", ["Relu", "Sigmoid"] if same else ["Sigmoid", "Relu"], 400 if same else 900
    )
    monkeypatch.setattr(stand_in, "untrained_graphs", lambda job, params: {"fp32": untrained})
    monkeypatch.setattr(stand_in, "trained_folder", lambda job, params, recipe: tmp_path / "trained")
    times = iter(
        [figure(0.98), figure(1.02), figure(1.0)] if same else [figure(1.2), figure(1.21), figure(9, noisy=True)]
    )
    monkeypatch.setattr(stand_in, "measure_untrained", lambda *_: {"costs": {"cpu": {"fp32": next(times)}}})
    measured = {name: {"cpu": {"fp32": figure(1.0)}} for name in finalists}
    found = stand_in.compare_untrained(job, finalists, RECIPE, measured, {"cpu": None})  # type: ignore[dict-item]
    latency = found["latency"]["cpu"]
    assert (found["finalists"], found["files"]) == (3, 3)
    if same:
        assert found["same_operators"] == 3
        assert found["size_within"] == 0
        assert latency["ratio"] == pytest.approx(1.0, abs=1e-3)
        assert latency["low"] < 1 < latency["high"]
        assert not found["warnings"]
    else:
        assert found["same_operators"] == 0
        assert found["size_within"] > 0.3
        assert latency["files"] == 2  # the noisy one says nothing
        assert latency["low"] > 1.1
        assert len(found["warnings"]) == 3


def test_without_finalists_there_is_nothing_to_compare(tmp_path: Path, task: DataTask) -> None:
    assert stand_in.compare_untrained(open_job(tmp_path, task), {}, RECIPE, {}, {}) == {}


def test_a_latency_that_may_be_equal_is_no_warning() -> None:
    assert warn([], {}, {"cpu": {"ratio": 1.08, "low": 1.02, "high": 1.14, "files": 4}}) == []
    assert "1.08" in warn([], {}, {"cpu": {"ratio": 1.08, "low": 1.06, "high": 1.1, "files": 4}})[0]


def test_the_design_is_as_small_as_the_slowest_target_asks(
    tmp_path: Path, task: DataTask, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "design_points", lambda target: 13)
    open_fake_filter(open_job(tmp_path, task))
    assert len(fakes.designed) == 13


def test_candidates_of_one_search_share_the_precisions_asked_for(tmp_path: Path, task: DataTask, fakes: Fakes) -> None:
    """Other precisions are fitted anew."""
    job = open_job(tmp_path, task)
    open_fake_filter(job)
    export = job.spec.export.model_copy(update={"precisions": ["int8"]})
    open_fake_filter(replace(job, spec=job.spec.model_copy(update={"export": export})))
    assert len(fakes.designed) == 40
