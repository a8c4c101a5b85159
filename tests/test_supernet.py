"""Shared weights: slices that are what a small student would be, gradients that land where they belong, ranking."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_task import open_numbers
from test_tune import Says
from torch import nn

from benchmark import resolve_target
from family import spaces
from family.engines import ENGINES
from family.job import Job
from family.sampling import even_draws
from family.spec import SearchSpec, read_spec
from family.students import train_candidate
from family.supernet import (
    CannotRank,
    Supernet,
    add_gradients,
    check_nesting,
    compute_loss,
    copy_slices,
    fit_estimate,
    judge_slice,
    train_supernet,
)
from family.types import Dim, StudentSpace, Training

SPEC = """
data: digits
teacher: digits
students: {space: mlp, dims: {width: [8, 32], depth: [1, 2]}}
budgets: {best: {target: cpu}}
search: {trials: 10, minutes: null}
"""
RECIPE = Training("kd", 1e-2, 60, 0, batch=32, views=1)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("supernet")
    (folder / "budgets.yaml").write_text(SPEC)
    spec = read_spec(folder / "budgets.yaml")
    task = open_numbers(folder, rows=900, keep_labels=60)
    space = spaces.narrow(spaces.mlp(), {"width": [8, 32], "depth": [1, 2]})
    teacher = Says(np.eye(3)[task.truth] * 6, task.row_ids, "good")
    return Job(spec, folder, folder, task, teacher, space, {"cpu": resolve_target("cpu")}, {}, "cpu", lambda _: None)


def built(job: Job, width: int, depth: int) -> nn.Module:
    return spaces.build_student(job.space, {"width": width, "depth": depth}, job.task, 0)


def test_every_engine_that_the_file_may_ask_for_is_there() -> None:
    (allowed,) = (field.annotation.__args__ for name, field in SearchSpec.model_fields.items() if name == "engine")
    assert set(allowed) == set(ENGINES)


def test_a_slice_is_the_leading_part_of_every_weight(job: Job) -> None:
    large, small = built(job, 32, 2), built(job, 8, 1)
    copy_slices(dict(large.named_parameters()), small)
    assert torch.equal(small.layers[0].weight, large.layers[0].weight[:8])
    assert torch.equal(small.head.weight, large.head.weight[:, :8])
    assert torch.equal(small.norms[0].weight, large.norms[0].weight[:8])


def test_gradients_are_those_of_the_small_module_and_nothing_else(job: Job) -> None:
    """As by autograd through the slices themselves: of what was cut out, and 0 elsewhere."""
    large, small = built(job, 32, 2), built(job, 8, 1)
    big = dict(large.named_parameters())
    copy_slices(big, small)
    inputs = job.task.inputs("train", np.arange(16), 0)
    small(*inputs).square().mean().backward()
    for value in big.values():
        value.grad = torch.zeros_like(value)
    add_gradients(small, big)
    ours = {name: value.grad.clone() for name, value in big.items()}
    large.zero_grad(set_to_none=True)
    sliced = {name: big[name][tuple(slice(0, n) for n in value.shape)] for name, value in small.named_parameters()}
    torch.func.functional_call(small, sliced, inputs).square().mean().backward()
    for name, value in big.items():
        wanted = torch.zeros_like(value) if value.grad is None else value.grad
        torch.testing.assert_close(ours[name], wanted, rtol=1e-5, atol=1e-7)
    assert ours["layers.1.weight"].abs().sum() == 0
    assert ours["layers.0.weight"][8:].abs().sum() == 0


def test_slices_learn_and_the_largest_ranks_above_the_smallest(job: Job) -> None:
    pool = even_draws(job, 8)
    before = judge_slice(job, Supernet(built(job, 32, 2).eval(), 0.0), {"width": 8, "depth": 1})
    supernet = train_supernet(job, RECIPE, pool)
    scores = [judge_slice(job, supernet, params) for params in pool]
    assert min(score for score, _ in scores) > before[0] + 0.2
    assert supernet.macs > 0
    estimate = fit_estimate(job, supernet, pool)
    assert estimate.slope < 0
    assert estimate.score(scores[0][1]) == pytest.approx(scores[0][0], abs=0.15)


def test_shared_weights_are_trained_once_and_the_same_after_a_kill(job: Job, tmp_path: Path, monkeypatch) -> None:
    pool = even_draws(job, 8)
    whole = train_supernet(replace(job, folder=tmp_path / "whole"), RECIPE, pool)
    broken = replace(job, folder=tmp_path / "broken")
    monkeypatch.setattr("family.train.CHECKPOINT_SECONDS", 0.0)
    steps = [0]

    def die(*given):
        steps[0] += 1
        if steps[0] == 70:  # two students a step: within the 35th
            raise KeyboardInterrupt
        return compute_loss(*given)

    with monkeypatch.context() as patch:
        patch.setattr("family.supernet.compute_loss", die)
        with pytest.raises(KeyboardInterrupt):
            train_supernet(broken, RECIPE, pool)
    resumed = train_supernet(broken, RECIPE, pool)
    for name, value in whole.largest.named_parameters():
        assert torch.equal(value, dict(resumed.largest.named_parameters())[name]), name
    monkeypatch.setattr("family.supernet.run_steps", lambda *_: pytest.fail("trained again"))
    train_supernet(broken, RECIPE, pool)


class Renamed(nn.Module):
    """A student whose layers are called after their width: nothing is shared."""

    def __init__(self, width: int):
        super().__init__()
        self.add_module(f"layer{width}", nn.Linear(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return next(iter(self.children()))(x)


def test_a_space_that_does_not_nest_is_told_and_judged_by_short_runs(job: Job, tmp_path: Path) -> None:
    space = StudentSpace("mine", {"width": Dim(1, 8)}, lambda params, _: Renamed(params["width"]))
    said: list[str] = []
    other = replace(job, space=space, folder=tmp_path, show=said.append)
    with pytest.raises(CannotRank, match=r"layer1.weight of width 1 has shape \(3, 4\)"):
        check_nesting(other, [])
    judge = ENGINES["auto"](other, RECIPE)
    assert judge.name == "halving"
    assert judge.score({"width": 4}) > 0.3
    (line,) = said
    assert "short runs rank the candidates, for weights cannot be shared" in line


def test_auto_tells_how_far_shared_weights_agree(job: Job, tmp_path: Path, monkeypatch) -> None:
    said: list[str] = []
    other = replace(job, folder=tmp_path, show=said.append)
    monkeypatch.setattr("family.engines.TRUSTED", -1.0)
    assert ENGINES["auto"](other, RECIPE).name == "supernet"
    monkeypatch.setattr("family.engines.TRUSTED", 1.1)
    judge = ENGINES["auto"](other, RECIPE)
    assert judge.name == "halving"
    assert -1 <= judge.facts["agreement"] <= 1
    assert "rank agreement of shared weights with 6 short runs" in said[0]
    assert "not 1.1 or more" in said[1]


def test_a_student_that_is_no_slice_begins_from_values_of_its_own(job: Job, tmp_path: Path) -> None:
    """The space's corners and the pool nest; one student between them does not."""

    def build_odd(params: dict, signature: object) -> nn.Module:
        odd = params["width"] == 17
        module = nn.Sequential(nn.Flatten(), nn.Linear(signature.inputs[0].shape[1], params["width"]))  # type: ignore[attr-defined]
        return nn.Sequential(
            *(module if not odd else nn.Sequential(nn.Identity(), *module)), nn.Linear(params["width"], 3)
        )

    said: list[str] = []
    space = StudentSpace("odd", {"width": Dim(low=8, high=32, step=8)}, build_odd)
    here = replace(job, space=space, folder=tmp_path, show=said.append)
    training = replace(RECIPE, inherits=20, steps=20)
    assert train_candidate(here, {"width": 16}, training)["inherited"]
    assert not said
    assert not train_candidate(here, {"width": 17}, training)["inherited"]
    assert "begins from values of its own" in said[0]
