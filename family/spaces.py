"""Student spaces: dimensions as data and a build. Built in: `mlp`, `conv`, `encoder`; foreign: `file.py:function`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export import Signature
from family.doors import load
from family.errors import Mistake, Mistakes, mistake
from family.modules import ConvStudent, EncoderStudent, MlpStudent, Rescaled
from family.types import Dim, StudentSpace, Task

Params = Mapping[str, Any]


def mlp() -> StudentSpace:
    """Fully connected layers over all inputs, flattened and joined."""
    dims = {"width": Dim(8, 512, log=True, step=None), "depth": Dim(1, 4)}

    def build(params: Params, signature: Signature) -> nn.Module:
        size = sum(math.prod(int(n) for n in spec.shape[1:]) for spec in signature.inputs)
        return MlpStudent(size, int(params["width"]), int(params["depth"]), outputs_of(signature))

    return StudentSpace("mlp", dims, build, ("fp32", "int8", "int8-dynamic"))


def conv() -> StudentSpace:
    """Residual depthwise-separable convolutions over (channels, height, width), any side from 8 up."""
    dims = {"width": Dim(4, 128, log=True), "depth": Dim(1, 4)}

    def build(params: Params, signature: Signature) -> nn.Module:
        shape = signature.inputs[0].shape
        if len(shape) != 4:
            raise mistake(
                "students.space", f"conv takes images (channels, height, width). Got inputs of {shape[1:]}."
            )
        channels, height, width = (int(n) for n in shape[1:])
        if min(height, width) < 8:
            raise mistake("students.input", f"conv needs sides of at least 8. Got {height} × {width}.")
        return ConvStudent(
            channels, min(height, width), int(params["width"]), int(params["depth"]), outputs_of(signature)
        )

    return StudentSpace("conv", dims, build, ("fp32", "int8"))


def encoder() -> StudentSpace:
    """A small transformer encoder over series (channels, time), with an optional mask."""
    dims = {"width": Dim(8, 128, log=True), "depth": Dim(1, 4), "heads": Dim(choices=(1, 2, 4))}

    def build(params: Params, signature: Signature) -> nn.Module:
        shape = signature.inputs[0].shape
        if len(shape) != 3:
            raise mistake(
                "students.space", f"encoder takes series (channels, time). Got inputs of {shape[1:]}."
            )
        heads = int(params["heads"])
        width = max(heads, round(int(params["width"]) / heads) * heads)
        return EncoderStudent(
            int(shape[1]), int(shape[2]), width, int(params["depth"]), heads, outputs_of(signature)
        )

    return StudentSpace("encoder", dims, build, ("fp32", "int8-dynamic"))


SPACES: dict[str, Callable[[], StudentSpace]] = {"mlp": mlp, "conv": conv, "encoder": encoder}


def outputs_of(signature: Signature) -> int:
    return int(signature.outputs[0].shape[1])


def open_space(name: str, narrowed: Mapping[str, Any] | None, folder: Path, task: Task) -> StudentSpace:
    """The space by name or `file.py:function`, its dimensions narrowed, checked by building three students.

    Raises Mistakes naming every dimension that is unknown or out of range, or what a build got wrong.
    """
    space = SPACES[name]() if name in SPACES else open_foreign(name, folder)
    space = narrow(space, narrowed or {})
    for pick in (smallest, middle, largest):
        check_build(space, pick(space), task)
    return space


def open_foreign(name: str, folder: Path) -> StudentSpace:
    if ".py:" not in name:
        near = get_close_matches(name, SPACES, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise mistake(
            "students.space",
            f"must be one of {', '.join(SPACES)} or path/file.py:function. Got '{name}'.{hint}",
        )
    made = load(name, folder, "students.space")()
    if isinstance(made, StudentSpace):
        return made
    if isinstance(made, Mapping) and {"dims", "build"} <= set(made):
        dims = {
            key: value if isinstance(value, Dim) else as_dim(value) for key, value in made["dims"].items()
        }
        return StudentSpace(name, dims, made["build"], tuple(made.get("precisions", ("fp32", "int8"))))
    raise mistake(
        "students.space",
        f"{name} must return a StudentSpace or {{'dims': …, 'build': …}}. Got {type(made).__name__}.",
    )


def as_dim(value: Any) -> Dim:
    """A dimension from what YAML holds: value | [low, high] | {low, high, step, log} | {choices}."""
    if isinstance(value, Dim):
        return value
    if isinstance(value, Mapping):
        if "choices" in value:
            return Dim(choices=tuple(value["choices"]))
        return Dim(value.get("low"), value.get("high"), value.get("step"), bool(value.get("log", False)))
    if isinstance(value, list | tuple) and len(value) == 2:
        return Dim(value[0], value[1])
    return Dim(choices=(value,))


def narrow(space: StudentSpace, narrowed: Mapping[str, Any]) -> StudentSpace:
    dims, wrong = dict(space.dims), []
    for name, value in narrowed.items():
        where = f"students.dims.{name}"
        if name not in dims:
            near = get_close_matches(name, dims, 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            wrong.append(Mistake(where, f"is no dimension of {space.name}; it has {', '.join(dims)}.{hint}"))
            continue
        value = as_dim(value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value)
        wrong += [Mistake(where, text) for text in out_of_range(value, dims[name])]
        dims[name] = replace(value, log=value.log or dims[name].log) if value.choices is None else value
    if wrong:
        raise Mistakes(wrong)
    return replace(space, dims=dims)


def out_of_range(asked: Dim, declared: Dim) -> list[str]:
    if declared.choices is not None:
        given = asked.choices or (asked.low, asked.high)
        bad = [v for v in given if v not in declared.choices]
        return [f"must be among {list(declared.choices)}. Got {bad}."] if bad else []
    given = asked.choices or (asked.low, asked.high)
    bad = [v for v in given if not isinstance(v, int | float) or not declared.low <= v <= declared.high]  # type: ignore[operator]
    return [f"must lie within {declared.low} to {declared.high}. Got {bad}."] if bad else []


def check_build(space: StudentSpace, params: Params, task: Task) -> None:
    """Build and run once on two rows; what comes out must be (2, outputs) and finite."""
    module = build_student(space, params, task, 0).eval()
    inputs = task.inputs("val", np.array([0, 0]), 0)
    with torch.no_grad():
        given = module(*inputs)
    wanted = (2, int(task.body.outputs[0].shape[1]))
    if not isinstance(given, Tensor) or tuple(given.shape) != wanted or not torch.isfinite(given).all():
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise mistake(
            "students.space",
            f"{space.name} built with {describe_params(params)} must give finite outputs of shape {wanted} for inputs "
            f"{[tuple(i.shape) for i in inputs]}. Got {shape}.",
        )


def whole(dim: Dim) -> bool:
    return all(
        isinstance(v, int) or v is None or float(v).is_integer() for v in (dim.low, dim.high, dim.step)
    )


def smallest(space: StudentSpace) -> dict[str, Any]:
    return {name: dim.choices[0] if dim.choices else plain(dim, dim.low) for name, dim in space.dims.items()}


def largest(space: StudentSpace) -> dict[str, Any]:
    return {
        name: dim.choices[-1] if dim.choices else plain(dim, dim.high) for name, dim in space.dims.items()
    }


def middle(space: StudentSpace) -> dict[str, Any]:
    """The middle of every dimension, in log where it is even in log."""
    return {name: at(dim, 0.5) for name, dim in space.dims.items()}


def sample(space: StudentSpace, rng: np.random.Generator) -> dict[str, Any]:
    return {name: at(dim, float(rng.uniform())) for name, dim in space.dims.items()}


def at(dim: Dim, share: float) -> Any:
    """The value at `share` (0..1) of the dimension."""
    if dim.choices:
        return dim.choices[min(int(share * len(dim.choices)), len(dim.choices) - 1)]
    low, high = float(dim.low or 0), float(dim.high or 0)
    value = (
        math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        if dim.log
        else low + share * (high - low)
    )
    if dim.step:
        value = low + round((value - low) / dim.step) * dim.step
    return plain(dim, min(max(value, low), high))


def plain(dim: Dim, value: float | None) -> Any:
    return round(float(value or 0)) if whole(dim) else float(value or 0)


def suggest(trial: Any, space: StudentSpace) -> dict[str, Any]:
    """Ask an Optuna trial for every dimension."""
    return {name: suggest_one(trial, name, dim) for name, dim in space.dims.items()}


def suggest_one(trial: Any, name: str, dim: Dim) -> Any:
    if dim.choices:
        return trial.suggest_categorical(name, dim.choices)
    if whole(dim):
        step = 1 if dim.log else int(dim.step or 1)
        return trial.suggest_int(name, int(dim.low or 0), int(dim.high or 0), step=step, log=dim.log)
    return trial.suggest_float(name, dim.low, dim.high, step=None if dim.log else dim.step, log=dim.log)


def build_student(space: StudentSpace, params: Params, task: Task, seed: int) -> nn.Module:
    """The module with weights drawn from `seed`; for regression its outputs are in the labels' units."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = space.build(dict(params), task.body)
    return module if task.target_scale is None else Rescaled(module, *task.target_scale)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of convolutions and linear layers for `inputs`; matrix products elsewhere are not counted."""
    total = 0

    def count(layer: Any, _: Any, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        total += output.numel() * weight[0].numel()

    hooks = [
        m.register_forward_hook(count)
        for m in module.modules()
        if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]
    was = module.training
    with torch.no_grad():
        module.eval()(*inputs)
    module.train(was)
    for hook in hooks:
        hook.remove()
    return total


def describe_params(params: Params) -> str:
    return ", ".join(f"{name} {value}" for name, value in params.items())
