"""What can be said of a file without a device: whether onnxruntime has its operators, what phones' accelerators would
take of it, and the files that a mobile build of onnxruntime wants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnxruntime.capi import onnxruntime_pybind11_state

from export.accelerators import Accelerator, check_accelerators
from export.graphs import all_graphs
from export.session import RUNTIME_ERRORS, Runner

MOST_NAMED = 5
# What onnxruntime says, whatever its language, and what it means.
REASONS = (
    (r"Opset (\d+) is under development.* till opset (\d+)", "its opset {0} is newer than {1}, the newest it knows"),
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        "its IR {0} is newer than {1}",
    ),
    (r"([\w.]+:\w+)\(-?\d+\) is not a registered function/op", "it has no operator {0}"),
    (r"No Op registered for (\w+) with domain_version of (\d+)", "it has no operator {0} in opset {1}"),
    (r"Could not find an implementation for ([\w.:]+)\((\d+)\)", "it has no kernel of {0} ({1}) for these types"),
)


def find_refusal(path: Path) -> str | None:
    """Why onnxruntime cannot run the file here on the CPU, in one line that names all operators it lacks; None where it
    can. Raises ValueError for a file that is no model."""
    try:
        Runner(path)
    except RUNTIME_ERRORS as error:
        try:
            lacking = list_lacking(onnx.load(path, load_external_data=False))
        except DecodeError:
            raise ValueError(f"{path} is not an ONNX file") from None
        except FileNotFoundError:
            raise ValueError(f"there is no file {path}") from None
        why = f"it has no operator {', '.join(lacking)}" if lacking else say_refusal(str(error))
        return f"onnxruntime {onnxruntime.__version__} does not run it: {why}"
    return None


def list_lacking(model: onnx.ModelProto) -> tuple[str, ...]:
    """Operators that the installed onnxruntime registers neither as an operator nor as a kernel of the CPU, whatever
    their version and types; named `domain:Operator` outside the standard domain."""
    state = onnxruntime_pybind11_state
    known = {(schema.domain, schema.name) for schema in state.get_all_operator_schema()}
    known |= {(kernel.domain, kernel.op_name) for kernel in state.get_all_opkernel_def()}
    known |= {(function.domain, function.name) for function in model.functions}
    used = {(node.domain, node.op_type) for graph in all_graphs(model.graph) for node in graph.node}
    standard = {(domain if domain != "ai.onnx" else "", name) for domain, name in used}
    return tuple(f"{domain}:{name}" if domain else name for domain, name in sorted(standard - known))


def say_refusal(text: str) -> str:
    """What some onnxruntime, of whatever language, said when it refused a file, in plain words; where it is none of
    `REASONS`, its own words on one line."""
    flat = " ".join(text.split())
    for pattern, words in REASONS:
        if found := re.search(pattern, flat):
            return words.format(*found.groups())
    return flat


def check_model(path: Path) -> dict[str, Any]:
    """As plain data, by accelerator: `nodes`, `taken`, `taken_as_it_is` (with a symbolic batch), `parts`,
    `needs_fixed_shapes`, `falls_back`, and `reason` where it does. Raises ValueError for what onnxruntime does not
    run."""
    refusal = find_refusal(path)
    if refusal:
        raise ValueError(f"{path.name}: {refusal}")
    return {name: _as_data(found) for name, found in check_accelerators(path).items()}


def _as_data(found: Accelerator) -> dict[str, Any]:
    best = found.best
    data = {
        "nodes": best.nodes,
        "taken": best.taken,
        "taken_as_it_is": found.as_it_is.taken,
        "parts": best.parts,
        "needs_fixed_shapes": found.needs_fixed,
        "falls_back": found.falls_back,
    }
    return data | ({"reason": say_fall_back(found)} if found.falls_back else {})


def say_fall_back(found: Accelerator) -> str:
    """What is left to the CPU, and why."""
    best = found.best
    pieces = f" in {best.parts} pieces" if best.parts and best.parts > 1 else ""
    said = [f"{best.taken} of {best.nodes} nodes{pieces}"]
    if best.lacking:
        more = f" and {len(best.lacking) - MOST_NAMED} more" if len(best.lacking) > MOST_NAMED else ""
        said.append(f"not listed: {', '.join(best.lacking[:MOST_NAMED])}{more}")
    if best.dynamic:
        said.append(f"{best.dynamic} of shapes that are not fixed")
    return "; ".join(said)


def say_share(found: Mapping[str, Any]) -> str:
    """One accelerator's share (`check_model`) in words."""
    if found["falls_back"]:
        return f"falls back, takes {found['reason']}"
    return f"takes all {found['nodes']} nodes" + (" once shapes are fixed" if found["needs_fixed_shapes"] else "")
