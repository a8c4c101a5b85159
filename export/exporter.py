"""torch module → ONNX file, by the quick exporter where it can and the thorough one where it must."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from export.graphs import describe, standard_opset, tidy, value_info, write_model
from export.session import RUNTIME_ERRORS
from export.simplify import simplify
from export.types import Artifact, Signature, TensorSpec

_EXPORTER_LOG = logging.getLogger("torch.onnx._internal.exporter._registration")


def to_onnx(module: nn.Module, body: Signature, path: Path, opset: int = 18) -> Artifact:
    """Write `module` in eval mode to `path`, every dimension symbolic that its signature names, the batch among them.

    The same module gives the same bytes. The graph is run at sizes other than the traced ones and
    compared with torch; where the quick exporter cannot or differs, torch's graph capture takes over (ten
    times slower).
    Raises ValueError where the module does not fit its signature or neither exporter gets it right.
    """
    with _evaluating(module):
        _check_fits(module, body)
        model = _export(module, body, opset)
    write_model(model, path)
    return describe(path, "fp32")


def _export(module: nn.Module, body: Signature, opset: int) -> onnx.ModelProto:
    try:
        model = _export_quickly(module, body, opset)
        quick = _difference(model, module, body)
    except RuntimeError as error:  # the module itself runs (checked above): the exporter is what failed
        quick = str(error)
    if quick is None:
        return model
    try:
        model = _export_thoroughly(module, body, opset)
        thorough = _difference(model, module, body)
    except RuntimeError as error:
        thorough = str(error)
    if thorough is None:
        return model
    raise ValueError(
        f"{type(module).__name__} cannot be exported. TorchScript exporter: {_first_line(quick)} "
        f"torch.export: {_first_line(thorough)}"
    )


def _export_quickly(module: nn.Module, body: Signature, opset: int) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", TracerWarning)  # what it warns of is checked by running
        torch.onnx.export(
            module,
            _inputs(module, body, rows=2),
            buffer,  # type: ignore[arg-type]  # as the TorchScript exporter allows
            dynamo=False,
            input_names=[spec.name for spec in body.inputs],
            output_names=[spec.name for spec in body.outputs],
            dynamic_axes={spec.name: _open_axes(spec) for spec in (*body.inputs, *body.outputs)},
            opset_version=opset,
        )
    return _finish(onnx.load_from_string(buffer.getvalue()), body)


def _export_thoroughly(module: nn.Module, body: Signature, opset: int) -> onnx.ModelProto:
    dims = {name: torch.export.Dim(name, min=1) for spec in body.inputs for name in _open_axes(spec).values()}
    with warnings.catch_warnings(), _quiet(_EXPORTER_LOG):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            _inputs(module, body, rows=2),
            dynamo=True,
            verbose=False,
            input_names=[spec.name for spec in body.inputs],
            output_names=[spec.name for spec in body.outputs],
            dynamic_shapes=tuple({i: dims[name] for i, name in _open_axes(spec).items()} for spec in body.inputs),
            opset_version=opset,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    if standard_opset(model) != opset:
        raise RuntimeError(f"got opset {standard_opset(model)} in place of {opset}.")
    return _finish(model, body)


def _open_axes(spec: TensorSpec) -> dict[int, str]:
    """Axis → name of every symbolic dimension."""
    return {axis: side for axis, side in enumerate(spec.shape) if isinstance(side, str)}


def _sides(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    """The shape for a batch of `rows`; other symbolic dimensions differ from batch to batch."""
    return (rows, *(side if isinstance(side, int) else 3 + 2 * rows for side in spec.shape[1:]))


def _finish(model: onnx.ModelProto, body: Signature) -> onnx.ModelProto:
    """Simplify, and state the ends as the signature does; shapes in between are left to the runtime."""
    try:
        model = simplify(model)
    except RUNTIME_ERRORS as error:
        raise RuntimeError(f"the graph does not load: {_first_line(str(error))}") from error
    for ends, specs in ((model.graph.input, body.inputs), (model.graph.output, body.outputs)):
        if [value.name for value in ends] != [spec.name for spec in specs]:
            raise RuntimeError(f"the graph's ends are {[value.name for value in ends]}.")
        del ends[:]
        ends.extend(value_info(spec) for spec in specs)
    return tidy(model)


def _difference(model: onnx.ModelProto, module: nn.Module, body: Signature) -> str | None:
    """What differs between graph and module at batches of 1 and 3 (of the other sign, so that a branch on
    values, of which a trace keeps one side, shows), or None."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        for rows in (1, 3):
            inputs = _inputs(module, body, rows, sign=1 if rows == 1 else -1)
            feeds = {s.name: x.cpu().numpy() for s, x in zip(body.inputs, inputs, strict=True)}
            for found, wanted in zip(session.run(None, feeds), _outputs(module, inputs), strict=True):
                same = found.shape == wanted.shape
                if not same or not np.allclose(found, wanted, rtol=1e-3, atol=1e-3, equal_nan=True):
                    return f"the graph differs from torch at a batch of {rows}."
    except RUNTIME_ERRORS as error:
        return f"the graph does not run: {_first_line(str(error))}"
    return None


def _check_fits(module: nn.Module, body: Signature) -> None:
    name = type(module).__name__
    try:
        outputs = _outputs(module, _inputs(module, body, rows=2))
    except (RuntimeError, TypeError) as error:
        takes = ", ".join(f"{spec.name} {spec.shape}" for spec in body.inputs)
        raise ValueError(f"{name} does not run on its signature ({takes}): {_first_line(str(error))}") from error
    shapes = [output.shape for output in outputs]
    wanted = [_sides(spec, 2) for spec in body.outputs]
    if shapes != wanted:
        raise ValueError(f"{name} must give outputs of shape {wanted} for a batch of 2. Got {shapes}")


def _outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    with torch.no_grad():
        outputs = module(*inputs)
    outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return [output.detach().cpu().numpy() for output in outputs]


def _inputs(module: nn.Module, body: Signature, rows: int, sign: int = 1) -> tuple[Tensor, ...]:
    """Made-up inputs, the same every time. A `mask` counts a prefix of each row, as real ones do."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    return tuple(_input(spec, rows, sign, generator).to(device) for spec in body.inputs)


def _input(spec: TensorSpec, rows: int, sign: int, generator: torch.Generator) -> Tensor:
    shape = _sides(spec, rows)
    if spec.name == "mask":
        time = shape[-1]
        lengths = torch.tensor([max(1, time - row * time // 3) for row in range(rows)])
        mask = torch.arange(time) < lengths.reshape(-1, *[1] * (len(shape) - 1))
        return mask.expand(shape).float().contiguous()
    if spec.dtype == "float32":
        return sign * torch.randn(shape, generator=generator)
    return torch.randint(0, 2, shape, generator=generator, dtype=getattr(torch, spec.dtype))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and ordinary attention inside, everything as it was afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX counterpart
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, training in modes:
            part.training = training


@contextmanager
def _quiet(log: logging.Logger) -> Iterator[None]:
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0][:200]
