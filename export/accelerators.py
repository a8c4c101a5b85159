"""What the accelerators of phones would take of a file: by onnxruntime's own lists of operators; nothing is run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.ort_tools import fix_output_shapes, make_dim_param_fixed, optimize_model, usability_checker

# "Supported ops" of onnxruntime's page on its XNNPACK execution provider, with the rank of the first input that its
# notes ask for ("only 2D"). XNNPACK is in no published wheel or npm package: this is the list, never tried here.
XNNPACK: dict[str, int | None] = {
    "AveragePool": 4,
    "Conv": 4,
    "ConvTranspose": 4,
    "Gemm": 2,
    "MatMul": 2,
    "MaxPool": 4,
    "QLinearAveragePool": 4,
    "QLinearConv": 4,
    "QLinearConvTranspose": 4,
    "QLinearSoftmax": None,
    "Resize": None,
    "Softmax": None,
}
NAMES = {
    "nnapi": "NNAPI",
    "coreml-neuralnetwork": "Core ML NeuralNetwork",
    "coreml-mlprogram": "Core ML MLProgram",
    "xnnpack": "XNNPACK",
}
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Share:
    """An accelerator takes `taken` of `nodes` nodes, in `parts` connected pieces (None where that costs nothing).
    `lacking`: operators of nodes that it leaves; `dynamic`: nodes that it leaves for shapes that are not fixed."""

    nodes: int
    taken: int
    parts: int | None
    lacking: tuple[str, ...] = ()
    dynamic: int = 0


@dataclass(frozen=True)
class Accelerator:
    """Shares of a file as it is, and with a batch of 1 in place of a symbolic one."""

    as_it_is: Share
    fixed: Share

    @property
    def needs_fixed(self) -> bool:
        return self.fixed.taken > self.as_it_is.taken

    @property
    def best(self) -> Share:
        return self.fixed if self.needs_fixed else self.as_it_is

    @property
    def falls_back(self) -> bool:
        """Whether part of the file would run on the phone's CPU."""
        return self.best.taken < self.best.nodes


def check_accelerators(path: Path) -> dict[str, Accelerator]:
    """By name of `ACCELERATORS`. The file must run on onnxruntime (`checks.find_refusal`)."""
    fixed = fix_batch(onnx.load(path))
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        onnx.save(fixed, Path(folder) / "fixed.onnx")
        ways = [_as_loaded(path, Path(folder)), _as_loaded(Path(folder) / "fixed.onnx", Path(folder))]
    return {name: Accelerator(*(check(model) for model in ways)) for name, check in ACCELERATORS.items()}


def fix_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose inputs have 1 in place of every symbolic first dimension. Other symbolic sides stay."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    firsts = [dim for value in model.graph.input for dim in value.type.tensor_type.shape.dim[:1]]
    for name in {dim.dim_param for dim in firsts if dim.dim_param}:
        make_dim_param_fixed(fixed.graph, name, 1)
    fix_output_shapes(fixed)
    return fixed


def _as_loaded(path: Path, folder: Path) -> onnx.ModelProto:
    """The graph as an accelerator is offered it: after onnxruntime's basic level, with the shapes that are known."""
    optimize_model(path, folder / "loaded.onnx", log_level=4)
    model = onnx.shape_inference.infer_shapes(onnx.load(folder / "loaded.onnx"))
    if not model.graph.value_info:  # so says the checker where shapes were not looked for
        model.graph.value_info.extend(model.graph.output)
    return model


def _check_nnapi(model: onnx.ModelProto) -> Share:
    return _read(usability_checker.check_nnapi_partitions(model, True))


def _check_coreml(listed: str) -> Callable[[onnx.ModelProto], Share]:
    return lambda model: _read(usability_checker.check_coreml_partitions(model, True, listed))


def _read(found: usability_checker.PartitioningInfo) -> Share:
    lacking = sorted(name.removeprefix("ai.onnx:") for name in found.unsupported_ops)
    dynamic = found.nodes_unsupported_due_to_dynamic_input
    return Share(found.num_nodes, found.num_supported_nodes, found.num_partitions, tuple(lacking), dynamic)


def _check_xnnpack(model: onnx.ModelProto) -> Share:
    """Of nodes but those that only quantise. One between them counts where its quantised form is listed."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    nodes = [node for node in model.graph.node if node.op_type not in QUANTISERS]
    left = [node.op_type for node in nodes if not _is_listed(node, ranks, made)]
    return Share(len(nodes), len(nodes) - len(left), None, tuple(sorted(set(left))))


def _is_listed(node: onnx.NodeProto, ranks: Mapping[str, int], made: Mapping[str, str]) -> bool:
    quantised = bool(node.input) and made.get(node.input[0]) == "DequantizeLinear"
    name = f"QLinear{node.op_type}" if quantised else node.op_type
    return name in XNNPACK and XNNPACK[name] in (None, ranks.get(node.input[0]))


ACCELERATORS: dict[str, Callable[[onnx.ModelProto], Share]] = {
    "nnapi": _check_nnapi,
    "coreml-neuralnetwork": _check_coreml("coreml_supported_neuralnetwork_ops.md"),
    "coreml-mlprogram": _check_coreml("coreml_supported_mlprogram_ops.md"),
    "xnnpack": _check_xnnpack,
}
