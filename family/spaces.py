"""Student spaces: dimensions as data and a build. Built in: `mlp`, `conv`, `encoder`, `decoder`, those of texts, and
`file.py:function`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export import Signature
from family.doors import hash_code, is_reference, load
from family.errors import Mistake, Mistakes, mistake
from family.modules import ConvStudent, EncoderStudent, MlpStudent, Rescaled, hash_weights
from family.run_folder import content_id
from family.suggest import did_you_mean
from family.tasks.lm_task import LmTask
from family.tasks.text_task import VOCABULARIES, TextTask
from family.text.decoder import DecoderStudent, shape_of
from family.text.readers import static, token_encoder
from family.text.tokenizer import LEAST
from family.types import Dim, StudentSpace, Task

Params = Mapping[str, Any]


def mlp() -> StudentSpace:
    """Fully connected layers over all inputs, flattened and joined."""
    dims = {"width": Dim(8, 512, log=True), "depth": Dim(1, 4)}

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
            raise mistake("students.space", f"conv takes images (channels, height, width). Got inputs of {shape[1:]}.")
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
            raise mistake("students.space", f"encoder takes series (channels, time). Got inputs of {shape[1:]}.")
        heads = int(params["heads"])
        width = max(heads, round(int(params["width"]) / heads) * heads)
        return EncoderStudent(int(shape[1]), int(shape[2]), width, int(params["depth"]), heads, outputs_of(signature))

    return StudentSpace("encoder", dims, build, ("fp32", "int8"))


def decoder() -> StudentSpace:
    """A causal transformer over tokens. `context` is one, and `vocabulary` the teacher's, unless the file says more."""
    dims = {
        "width": Dim(32, 256, step=32),
        "depth": Dim(1, 6),
        "heads": Dim(choices=(2, 4)),
        "feed": Dim(choices=(2, 3, 4)),
        "vocabulary": Dim(LEAST, 1_000_000),
        "context": Dim(16, 4096),
    }

    def build(params: Params, signature: Signature) -> nn.Module:
        if signature.inputs[0].name != "input_ids":
            raise mistake("students.space", f"decoder is for task: lm. Got inputs {signature.inputs[0].name}.")
        return DecoderStudent(shape_of(params))

    return StudentSpace("decoder", dims, build, ("fp32", "int8-dynamic", "int4"), nests=False)


SPACES: dict[str, Callable[[], StudentSpace]] = {
    "mlp": mlp,
    "conv": conv,
    "encoder": encoder,
    "static": static,
    "decoder": decoder,
}
OF_TEXTS = {"encoder": token_encoder}  # spaces whose students are others where they read tokens


def outputs_of(signature: Signature) -> int:
    return int(signature.outputs[0].shape[-1])


def open_space(name: str, options: Mapping[str, Any] | None, folder: Path, task: Task) -> StudentSpace:
    """The space by name or `file.py:function`, its dimensions narrowed, checked by building three students.

    Raises Mistakes naming every dimension that is unknown or out of range, or what a build got wrong.
    """
    if isinstance(task, LmTask) and name != "decoder":
        raise mistake("students.space", f"must be decoder for task: lm. Got {name}.")
    reads = task.body.inputs[0].name == "input_ids" and task.kind != "tokens"
    built_in = {**SPACES, **OF_TEXTS} if reads else SPACES
    space = built_in[name]() if name in SPACES else open_foreign(name, folder)
    space = narrow(space, {**defaults_of(space, task), **(options or {})})
    check_shared(space, task)
    space = fit_vocabulary(space, task)
    for pick in (smallest, middle, largest):
        check_build(space, pick(space), task)
    return space if name in SPACES else replace(space, fingerprint=fingerprint_of(space, name, folder, task))


def defaults_of(space: StudentSpace, task: Task) -> dict[str, Any]:
    """Dimensions that the task narrows where the file does not: what teacher, tokenizer and texts fix."""
    if isinstance(task, LmTask) and space.name == "decoder":
        return {"context": task.context, "vocabulary": task.vocabulary}
    if isinstance(task, TextTask) and {"vocabulary", "length"} <= set(space.dims) and space.name in SPACES:
        return {"vocabulary": {"choices": VOCABULARIES}, "length": task.front.length}
    return {}


def fit_vocabulary(space: StudentSpace, task: Task) -> StudentSpace:
    """The space without vocabularies beyond what the texts gave."""
    dim = space.dims.get("vocabulary")
    if dim is None or not isinstance(task, TextTask | LmTask) or (isinstance(task, LmTask) and task.shared):
        return space
    most = task.front.vocabulary if isinstance(task, TextTask) else task.vocabulary
    if dim.choices is not None:
        fitting = Dim(choices=tuple(dict.fromkeys(min(size, most) for size in dim.choices)))
    else:
        fitting = on_grid(replace(dim, low=min(dim.low or most, most), high=min(dim.high or most, most)))
    return replace(space, dims={**space.dims, "vocabulary": fitting})


def check_shared(space: StudentSpace, task: Task) -> None:
    """Students that are taught token by token have the teacher's tokens, all of them. Raises Mistakes."""
    if not isinstance(task, LmTask) or not task.shared:
        return
    asked = sorted({int(pick(space).get("vocabulary", task.vocabulary)) for pick in (smallest, largest)})
    if asked != [task.vocabulary]:
        said = f"must be {task.vocabulary}, the teacher's, for distillation token by token. Got {asked}."
        raise mistake("students.dims.vocabulary", f"{said} Leave it out to have that.")


def fingerprint_of(space: StudentSpace, name: str, folder: Path, task: Task) -> str:
    """Changes with the user's code and with the weights that the build loads: students of before are others."""
    return content_id(hash_code(name, folder), hash_weights(build_student(space, middle(space), task, 0)))


def open_foreign(name: str, folder: Path) -> StudentSpace:
    """Call the user's function; it gives a StudentSpace or `{"dims": …, "build": …}`."""
    if not is_reference(name):
        hint = did_you_mean(name, SPACES)
        known = ", ".join(SPACES)
        raise mistake("students.space", f"must be one of {known} or path/file.py:function. Got '{name}'.{hint}")
    made = call_user(f"{name}()", load(name, folder, "students.space"))
    if isinstance(made, StudentSpace):
        made = {"dims": made.dims, "build": made.build, "precisions": made.precisions}
    if not (isinstance(made, Mapping) and {"dims", "build"} <= set(made) and callable(made["build"])):
        found = f"a mapping of {', '.join(map(str, made))}" if isinstance(made, Mapping) else type(made).__name__
        wanted = "a StudentSpace or {'dims': …, 'build': a function of (params, signature)}"
        raise mistake("students.space", f"{name} must return {wanted}. Got {found}.")
    dims = {str(key): declare(str(key), value, name) for key, value in made["dims"].items()}
    return StudentSpace(name, dims, made["build"], tuple(made.get("precisions", ("fp32", "int8"))))


def call_user(what: str, call: Callable[..., Any], *given: Any) -> Any:
    """Run a user's code; whatever it raises is told as the user's mistake."""
    try:
        return call(*given)
    except Mistakes:
        raise
    except Exception as problem:
        raise mistake("students.space", f"{what} failed with {type(problem).__name__}: {problem}") from problem


def declare(key: str, value: Any, name: str) -> Dim:
    """A dimension as a user's space declares it."""
    dim = value if isinstance(value, Dim) else as_dim(value)
    wrong = broken(dim) if dim is not None else f"is not readable: {value!r}"
    if dim is None or wrong:
        allowed = "a value, [low, high], {low, high, step, log} or {choices}"
        raise mistake("students.space", f"{name}: its dimension '{key}' {wrong}. Allowed: {allowed}.")
    return on_grid(dim)


def as_dim(value: Any) -> Dim | None:
    """A dimension from what YAML holds: value | [low, high] | {low, high, step, log} | {choices}."""
    if isinstance(value, Mapping):
        if value.get("choices") is not None:
            return Dim(choices=tuple(value["choices"]))
        return Dim(value.get("low"), value.get("high"), value.get("step"), bool(value.get("log", False)))
    if isinstance(value, list | tuple):
        return Dim(value[0], value[1]) if len(value) == 2 else None
    return Dim(choices=(value,))


def broken(dim: Dim) -> str:
    """What is wrong with a dimension in itself, or nothing."""
    if dim.choices is not None:
        return "" if dim.choices else "has no choices"
    if not (is_number(dim.low) and is_number(dim.high)):
        return f"needs numbers for low and high, got {dim.low!r} and {dim.high!r}"
    low, high = float(dim.low or 0), float(dim.high or 0)
    if low > high:
        return f"has low {low:g} above high {high:g}"
    if dim.step is not None and not (is_number(dim.step) and dim.step > 0):
        return f"needs a step above 0, got {dim.step!r}"
    return f"is even in log and needs a low above 0, got {low:g}" if dim.log and low <= 0 else ""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def on_grid(dim: Dim) -> Dim:
    """`high` moved down onto the grid of `step`."""
    if dim.choices is not None or dim.step is None or dim.low is None or dim.high is None:
        return dim
    return replace(dim, high=dim.low + math.floor((dim.high - dim.low) / dim.step + 1e-9) * dim.step)


def narrow(space: StudentSpace, options: Mapping[str, Any]) -> StudentSpace:
    """The space with some dimensions narrowed; raises Mistakes with all that is wrong."""
    dims, wrong = dict(space.dims), []
    for name, value in options.items():
        where = f"students.dims.{name}"
        if name not in dims:
            hint = did_you_mean(name, dims)
            wrong.append(Mistake(where, f"is no dimension of {space.name}; it has {', '.join(dims)}.{hint}"))
            continue
        plain_value = value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value
        found = narrow_dim(dims[name], plain_value)
        if isinstance(found, Dim):
            dims[name] = found
        else:
            wrong.append(Mistake(where, found))
    if wrong:
        raise Mistakes(wrong)
    return replace(space, dims=dims)


def narrow_dim(declared: Dim, value: Any) -> Dim | str:
    """The narrower dimension, or what is wrong with it."""
    asked = as_dim(value)
    if asked is None:
        return f"must be a value, [low, high], {{low, high, step, log}} or {{choices}}. Got {value!r}."
    if declared.choices is not None:
        return narrow_choices(declared.choices, asked)
    if asked.choices is not None:
        outside = [v for v in asked.choices if not fits(declared, v)]
        if outside or not asked.choices:
            return f"must be {describe_dim(declared)}. Got {listed(outside)}."
        return Dim(choices=tuple(plain(declared, v) for v in asked.choices))
    low = declared.low if asked.low is None else asked.low
    high = declared.high if asked.high is None else asked.high
    outside = [v for v in (low, high) if not fits(declared, v)]
    if outside:
        return f"must be {describe_dim(declared)}. Got {listed(outside)}."
    step = declared.step if asked.step is None else asked.step
    if step is not None and whole(declared) and not float(step).is_integer():
        return f"must have a whole step, as its values are whole numbers. Got {step:g}."
    step = int(step) if step is not None and whole(declared) else step
    narrowed = Dim(plain(declared, low), plain(declared, high), step, asked.log or declared.log)
    wrong = broken(narrowed)
    return f"{wrong}." if wrong else on_grid(narrowed)


def narrow_choices(declared: tuple[Any, ...], asked: Dim) -> Dim | str:
    """Choices narrowed by choices, or by a range that keeps those within."""
    if asked.choices is None and not (is_number(asked.low) and is_number(asked.high)):
        asked = Dim(choices=(asked.low, asked.high))  # a list of two names
    if asked.choices is None:
        low, high = float(asked.low or 0), float(asked.high or 0)
        kept = tuple(v for v in declared if is_number(v) and low <= v <= high)
        return Dim(choices=kept) if kept else f"must be among {list(declared)}. Got {low:g} to {high:g}."
    outside = [v for v in asked.choices if v not in declared]
    return f"must be among {list(declared)}. Got {outside}." if outside else Dim(choices=asked.choices)


def listed(values: Iterable[Any]) -> str:
    return ", ".join(f"{v:g}" if is_number(v) else repr(v) for v in values) or "no choices"


def fits(declared: Dim, value: Any) -> bool:
    """Whether a value lies within a declared range; whole numbers where the range is whole."""
    if not is_number(value) or (whole(declared) and not float(value).is_integer()):
        return False
    return bool(float(declared.low or 0) <= value <= float(declared.high or 0))


def describe_dim(dim: Dim) -> str:
    kind = "a whole number" if whole(dim) else "a number"
    return f"{kind} from {dim.low:g} to {dim.high:g}"


def check_build(space: StudentSpace, params: Params, task: Task) -> None:
    """Build and run once on two rows; what comes out must be (2, outputs) and finite, and be trainable."""
    what = f"{space.name} built with {describe_params(params)}"
    module = call_user(what, build_student, space, params, task, 0)
    if not any(p.requires_grad for p in module.parameters()):
        raise mistake("students.space", f"{what} has no parameters to train.")
    rows = np.arange(2) % task.rows("val")
    seen = task.seen_by(params)
    inputs = seen.inputs("val", rows, 0)
    module.eval()
    with torch.no_grad():
        given = call_user(f"{what}: its forward", module, *inputs)
    wanted = (2, *inputs[0].shape[1:2], outputs_of(seen.body)) if task.kind == "tokens" else (2, outputs_of(seen.body))
    if not isinstance(given, Tensor) or tuple(given.shape) != wanted or not torch.isfinite(given).all():
        shapes = ", ".join(str(tuple(i.shape)) for i in inputs)
        raise mistake(
            "students.space",
            f"{what} must give finite outputs of shape {wanted} for inputs {shapes}. Got {describe_output(given)}.",
        )


def describe_output(given: Any) -> str:
    if not isinstance(given, Tensor):
        return type(given).__name__
    return f"{tuple(given.shape)}" + ("" if torch.isfinite(given).all() else " with NaN or inf")


def whole(dim: Dim) -> bool:
    """Whether a range is of whole numbers: declared by ints."""
    return all(isinstance(v, int) or v is None for v in (dim.low, dim.high, dim.step))


def smallest(space: StudentSpace) -> dict[str, Any]:
    return {name: dim.choices[0] if dim.choices else plain(dim, dim.low) for name, dim in space.dims.items()}


def largest(space: StudentSpace) -> dict[str, Any]:
    return {name: dim.choices[-1] if dim.choices else plain(dim, dim.high) for name, dim in space.dims.items()}


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
    if dim.log:
        return snap(dim, math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
    return snap(dim, low + share * (high - low))


def snap(dim: Dim, value: float) -> Any:
    """The nearest value that the dimension has."""
    low, high = float(dim.low or 0), float(dim.high or 0)
    if dim.step:
        value = low + round((value - low) / dim.step) * dim.step
    return plain(dim, min(max(value, low), high))


def plain(dim: Dim, value: float | None) -> Any:
    return round(float(value or 0)) if whole(dim) else float(value or 0)


def suggest(trial: Any, space: StudentSpace) -> dict[str, Any]:
    """Ask an Optuna trial for every dimension."""
    return {name: suggest_one(trial, name, dim) for name, dim in space.dims.items()}


def suggest_one(trial: Any, name: str, dim: Dim) -> Any:
    """One dimension; where it is even in log and has a step, the value asked for is moved onto the grid."""
    if dim.choices:
        return trial.suggest_categorical(name, dim.choices)
    step = None if dim.log else dim.step
    if whole(dim):
        value = trial.suggest_int(name, dim.low, dim.high, step=step or 1, log=dim.log)
    else:
        value = trial.suggest_float(name, dim.low, dim.high, step=step, log=dim.log)
    return snap(dim, value) if dim.log else value


def build_student(space: StudentSpace, params: Params, task: Task, seed: int) -> nn.Module:
    """The module with weights drawn from `seed`, torch's own generator left as it was; weights that a user's
    build loads are kept. For regression its outputs are in the labels' units."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any = space.build(dict(params), task.seen_by(params).body)
    if not isinstance(module, nn.Module):
        found = type(module).__name__
        raise mistake("students.space", f"{space.name} must build a torch.nn.Module. Got {found}.")
    return module if task.target_scale is None else Rescaled(module, *task.target_scale)


def find_loaded(space: StudentSpace, task: Task) -> tuple[str, ...]:
    """Names of parameters that the build loads: the same under two seeds, and not of one value throughout."""
    one, two = (dict(build_student(space, middle(space), task, seed).named_parameters()) for seed in (1, 2))
    return tuple(n for n, p in one.items() if torch.equal(p, two[n]) and p.numel() > 1 and bool(p.std() > 0))


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of convolutions and linear layers for `inputs`.

    Matrix products elsewhere (attention's scores and mixing) are not counted.
    """
    total = 0

    def count(layer: Any, _: Any, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        total += output.numel() * weight[0].numel()

    hooks = [
        m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]
    was = module.training
    try:
        with torch.no_grad():
            module.eval()(*inputs)
    finally:
        module.train(was)
        for hook in hooks:
            hook.remove()
    return total


def cost_of(module: nn.Module, task: Task) -> int:
    """Multiply-accumulates of one row of `task` as the module meets it."""
    return count_macs(module, task.inputs("train", np.arange(1), 0))


def describe_params(params: Params) -> str:
    return ", ".join(f"{name} {value}" for name, value in params.items())
