"""ONNX files: describing them, and making them small and the same every time."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import onnx

from export.hashes import hash_file
from export.types import Artifact, Parity, TensorSpec

FRONT_PREFIX = "front/"


def describe(path: Path, precision: str, parity: Parity | None = None) -> Artifact:
    """What there is to say of a file. Operators outside the standard domain are named `domain:Operator`."""
    model = onnx.load(path, load_external_data=False)
    return Artifact(
        path=path,
        precision=precision,
        size_bytes=path.stat().st_size,
        sha256=hash_file(path),
        opset=standard_opset(model),
        operators=tuple(sorted(set(_name_operators(model)))),
        parity=parity,
    )


def list_operators(path: Path) -> tuple[str, ...]:
    """The operator of every node, in the order they run, named as in `describe`."""
    return tuple(_name_operators(onnx.load(path, load_external_data=False)))


def _name_operators(model: onnx.ModelProto) -> list[str]:
    return [
        f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        for graph in all_graphs(model.graph)
        for node in graph.node
    ]


def standard_opset(model: onnx.ModelProto) -> int:
    version: int = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return version


def read_specs(values: Collection[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Graph inputs or outputs as specs; a dimension without value or name is "?"."""
    return tuple(
        TensorSpec(
            value.name,
            str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
            tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
                for dim in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
    )


def value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return onnx.helper.make_tensor_value_info(spec.name, kind, list(spec.shape))


def tidy(model: onnx.ModelProto, keep: Collection[str] | None = None) -> onnx.ModelProto:
    """Drop what tells of the machine that wrote the file, and shorten inner names, which fill a small file.

    In place. Names of inputs and outputs stay (or only those in `keep`); graphs with branches keep all names.
    """
    model.producer_name, model.producer_version, model.doc_string, model.domain = "", "", "", ""
    del model.metadata_props[:]
    for graph in all_graphs(model.graph):
        _strip(graph)
    model.graph.name = "student"
    _drop_unused_domains(model)
    if not model.functions and len(list(all_graphs(model.graph))) == 1:
        ends = [value.name for value in [*model.graph.input, *model.graph.output]]
        shorten_names(model.graph, ends if keep is None else keep)
    return model


def shorten_names(graph: onnx.GraphProto, keep: Collection[str]) -> None:
    """Rename weights to w0, w1, …, values to v0, … and nodes to n0, …, in place.

    What is in `keep` keeps its name, and so does what starts with `front/`, by which the quantiser knows it.
    """
    names = {name: name for name in ("", *keep)}
    weights, values, nodes = (_fresh_names(prefix, names.keys() - {""}) for prefix in "wvn")

    def rename(old: str, fresh: Iterator[str]) -> str:
        if old not in names:
            names[old] = old if old.startswith(FRONT_PREFIX) else next(fresh)
        return names[old]

    for tensor in graph.initializer:
        tensor.name = rename(tensor.name, weights)
    for value in graph.input:
        value.name = rename(value.name, values)
    for node in graph.node:
        node.name = node.name if node.name.startswith(FRONT_PREFIX) else next(nodes)
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [rename(name, values) for name in node.output]
    for value in graph.output:
        value.name = names[value.name]


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write beside, then rename. The same model gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(model.SerializeToString(deterministic=True))
    partial.replace(path)


def _fresh_names(prefix: str, taken: Collection[str]) -> Iterator[str]:
    taken = frozenset(taken)
    return (name for i in itertools.count() if (name := f"{prefix}{i}") not in taken)


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    """onnxruntime declares every domain it knows, the standard one by its long name too."""
    used = {node.domain for graph in all_graphs(model.graph) for node in graph.node}
    used |= {node.domain for function in model.functions for node in function.node}
    kept = [onnx.helper.make_opsetid("", standard_opset(model))]
    kept += [entry for entry in model.opset_import if entry.domain in used - {"", "ai.onnx"}]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _strip(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    for item in [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]:
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_graphs(attribute.g)
