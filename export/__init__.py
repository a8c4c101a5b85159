"""From a student to the files an edge app drops in.

What needs torch or onnx is loaded on first use, so that `export.verify` runs where neither is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from export.front import Front, ImageFront, PlainFront, SeriesFront, StepFront, TableFront, TextFront
from export.types import Artifact, Parity, Signature, TensorSpec

if TYPE_CHECKING:
    from export.checks import check_model, find_refusal, say_refusal, say_share
    from export.decoder import DecoderBlocks, write_decoder
    from export.decoder_folder import write_decoder_student
    from export.exporter import to_onnx
    from export.folder import write_student
    from export.front_torch import apply_front
    from export.graphs import describe, list_operators
    from export.guard import Guard, NoFeatures, add_guard, measure_unlikeness, read_features
    from export.mobile import write_mobile
    from export.precisions import PRECISIONS, make_up_inputs, quantise
    from export.preprocess import front_graph, merge_front
    from export.session import Runner, check_parity, run
    from export.signatures import body_signature, front_data, past_names, raw_signature
    from export.text_folder import write_text_student

_HOMES = {
    "DecoderBlocks": "decoder",
    "Guard": "guard",
    "NoFeatures": "guard",
    "PRECISIONS": "precisions",
    "Runner": "session",
    "add_guard": "guard",
    "apply_front": "front_torch",
    "body_signature": "signatures",
    "check_model": "checks",
    "check_parity": "session",
    "describe": "graphs",
    "find_refusal": "checks",
    "front_data": "signatures",
    "front_graph": "preprocess",
    "list_operators": "graphs",
    "make_up_inputs": "precisions",
    "measure_unlikeness": "guard",
    "merge_front": "preprocess",
    "past_names": "signatures",
    "quantise": "precisions",
    "raw_signature": "signatures",
    "read_features": "guard",
    "run": "session",
    "say_refusal": "checks",
    "say_share": "checks",
    "to_onnx": "exporter",
    "write_decoder": "decoder",
    "write_decoder_student": "decoder_folder",
    "write_mobile": "mobile",
    "write_student": "folder",
    "write_text_student": "text_folder",
}

__all__ = [
    "PRECISIONS",
    "Artifact",
    "DecoderBlocks",
    "Front",
    "Guard",
    "ImageFront",
    "NoFeatures",
    "Parity",
    "PlainFront",
    "Runner",
    "SeriesFront",
    "Signature",
    "StepFront",
    "TableFront",
    "TensorSpec",
    "TextFront",
    "add_guard",
    "apply_front",
    "body_signature",
    "check_model",
    "check_parity",
    "describe",
    "find_refusal",
    "front_data",
    "front_graph",
    "list_operators",
    "make_up_inputs",
    "measure_unlikeness",
    "merge_front",
    "past_names",
    "quantise",
    "raw_signature",
    "read_features",
    "run",
    "say_refusal",
    "say_share",
    "to_onnx",
    "write_decoder",
    "write_decoder_student",
    "write_mobile",
    "write_student",
    "write_text_student",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    value = getattr(import_module(f"export.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
