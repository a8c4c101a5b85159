"""fp32 file in, file of another precision out."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from export.graphs import FRONT_PREFIX, describe, read_specs, tidy, write_model
from export.ort_tools import (
    CalibrationDataReader,
    CalibrationMethod,
    MatMulNBitsQuantizer,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)
from export.stored_weights import store_float16, store_int8
from export.tied import BLOCK, INT8_ACTIVATIONS, TIED_PREFIX, tie_int4, tie_int8, untie
from export.types import Artifact

UNBOUNDED = 1e6
LEFT = (FRONT_PREFIX, TIED_PREFIX)  # begins of names of nodes that quantisers leave alone
IN_4_BITS = ("MatMulNBits", "GatherBlockQuantized")  # what 4-bit weights go through
BOUNDING = frozenset(
    {
        "Softmax",
        "LogSoftmax",
        "ReduceMax",
        "ReduceMin",
        "GlobalMaxPool",
        "Max",
        "Min",
        "Clip",
        "Sigmoid",
        "Exp",
    }
)

Calibration = Sequence[Mapping[str, np.ndarray]]


def quantise(source: Path, path: Path, precision: str, calibration: Calibration) -> Artifact:
    """Write the fp32 file `source` at `precision` to `path`. The same inputs give the same bytes.

    `calibration` holds feeds (batches of named inputs) of training data; an untrained candidate that is only
    to be timed is served by `make_up_inputs`. Raises ValueError for a
    precision that is unknown or does not suit.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}. Got {precision!r}")
    model = PRECISIONS[precision](onnx.load(source), calibration)
    write_model(tidy(model), path)
    return describe(path, precision)


def make_up_inputs(path: Path, rows: int = 4, seed: int = 0) -> tuple[dict[str, np.ndarray], ...]:
    """One batch of made-up inputs: enough to time a candidate, not to calibrate what ships.

    Symbolic sides other than the batch are 32.
    """
    model = onnx.load(path, load_external_data=False)
    generator = np.random.default_rng(seed)
    feeds = {}
    for spec in read_specs(model.graph.input):
        shape = (rows, *(side if isinstance(side, int) else 32 for side in spec.shape[1:]))
        values: np.ndarray
        if spec.dtype == "float32":
            values = np.ones(shape) if spec.name == "mask" else generator.standard_normal(shape)
        else:
            values = generator.integers(0, 256 if spec.dtype == "uint8" else 2, shape)
        feeds[spec.name] = values.astype(spec.dtype)
    return (feeds,)


def _keep(model: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    return model


def _quantise_static(model: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    """QDQ with activations in uint8 and weights in int8 per channel; a front graph stays in float32."""
    if not calibration:
        raise ValueError("int8 needs at least one batch of calibration inputs. Got none")
    # Ranges of masked values are infinite; they are computed, though not used.
    with _workshop() as folder, np.errstate(invalid="ignore"):
        prepared, quantised = _prepare(model, folder), folder / "quantised.onnx"
        quantize_static(
            prepared,
            quantised,
            _Feeds(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=_kept_in_float(onnx.load(prepared)),
        )
        return onnx.load(quantised)


def _quantise_dynamic(model: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    """Weights in int8, activations quantised as they come: no calibration; too slow for convolutions."""
    if any(node.op_type == "Conv" for node in model.graph.node):
        raise ValueError("int8-dynamic does not suit a graph with Conv (it runs many times slower). Use int8")
    with _workshop() as folder:
        prepared, quantised = _prepare(untie(model), folder), folder / "quantised.onnx"
        kept = [node.name for node in onnx.load(prepared).graph.node if node.name.startswith(LEFT)]
        quantize_dynamic(prepared, quantised, per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=kept)
        return tie_int8(onnx.load(quantised))


def _quantise_to_4_bits(model: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    """Weights of matrix products and of embeddings in 4 bits, a scale for every `BLOCK`; activations are quantised to 8
    bits as they come. Products whose inner size is no multiple of it end with a block that is part empty."""
    with _workshop() as folder:
        prepared = onnx.load(_prepare(untie(model), folder))
        quantiser = MatMulNBitsQuantizer(
            prepared,
            block_size=BLOCK,
            is_symmetric=True,
            accuracy_level=INT8_ACTIVATIONS,
            nodes_to_exclude=[node.name for node in prepared.graph.node if node.name.startswith(LEFT)],
            op_types_to_quantize=("MatMul", "Gather"),
        )
        quantiser.process()
        made = tie_int4(quantiser.model.model)
    if not any(node.op_type in IN_4_BITS for node in made.graph.node):
        raise ValueError("int4 does not suit a graph without MatMul or Gather of weights: none would change. Use int8")
    return made


PRECISIONS: dict[str, Callable[[onnx.ModelProto, Calibration], onnx.ModelProto]] = {
    "fp32": _keep,
    "int8": _quantise_static,
    "int8-dynamic": _quantise_dynamic,
    "int4": _quantise_to_4_bits,
    "int8-weights": lambda model, calibration: store_int8(model),
    "fp16-weights": lambda model, calibration: store_float16(model),
}


class _Feeds(CalibrationDataReader):
    def __init__(self, calibration: Calibration):
        self.rest = iter(calibration)

    def get_next(self) -> dict[str, np.ndarray] | None:
        feeds = next(self.rest, None)
        return None if feeds is None else dict(feeds)


def _prepare(model: onnx.ModelProto, folder: Path) -> Path:
    """Fold and fuse as the quantiser needs it; every node gets a name."""
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"node-{i}"
    onnx.save(model, folder / "source.onnx")
    quant_pre_process(folder / "source.onnx", folder / "prepared.onnx", skip_symbolic_shape=True)
    return folder / "prepared.onnx"


def _kept_in_float(model: onnx.ModelProto) -> list[str]:
    """Nodes of a front, and those on the way of an attention mask: its -inf leaves no step for anything else.

    A value is masked from the constant that is beyond `UNBOUNDED` up to the operator that bounds it.
    """
    masked = {tensor.name for tensor in model.graph.initializer if _is_unbounded(tensor)}
    kept = []
    for node in model.graph.node:
        constants = [a.t for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
        on_the_way = not masked.isdisjoint(node.input) or any(map(_is_unbounded, constants))
        if on_the_way and node.op_type not in BOUNDING:
            masked.update(node.output)
        if on_the_way or node.name.startswith(FRONT_PREFIX):
            kept.append(node.name)
    return kept


def _is_unbounded(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return False
    return bool((np.abs(onnx.numpy_helper.to_array(tensor)) > UNBOUNDED).any())


@contextmanager
def _workshop() -> Iterator[Path]:
    """A folder for the quantiser's files, and silence: it logs on the root logger, which it also sets up."""
    root = logging.getLogger()
    handlers, disabled = root.handlers[:], root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(prefix="quantise-") as folder:
            yield Path(folder)
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
