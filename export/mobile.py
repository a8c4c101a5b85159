"""The files that a mobile build of onnxruntime wants beside a model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from export.accelerators import fix_batch
from export.checks import check_model
from export.graphs import write_model
from export.ort_tools import create_config_from_models
from export.session import RUNTIME_ERRORS, Runner, largest_difference

ORT, OPERATORS, FIXED = "model.ort", "required_operators.config", "model.fixed.onnx"
# Fusions that every CPU has, so that the file runs on any: "all" adds layouts of the machine that converts, "basic"
# leaves int8 to float kernels (twice the time), and saved runtime optimisations fail to replay on attention.
LEVEL = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def write_mobile(model: Path, folder: Path, feeds: Mapping[str, np.ndarray], tolerance: float) -> dict[str, Any]:
    """Write into `folder` `model.ort` with `required_operators.config`, for builds of onnxruntime reduced to what it
    needs, and `model.fixed.onnx`, whose batch is 1, where an accelerator takes more of it.

    Returns plain data: `accelerators` (`check_model`), `files` (names of what was written) and of both models, by name,
    the `largest_difference` of their outputs for `feeds`, or the `reason` why one is not kept: it does not run, or
    differs by more than `tolerance`. The bytes of model.ort, their number too, differ from one conversion to
    the next, for onnxruntime orders its tables at random. Raises ValueError where onnxruntime does not run the model.
    """
    accelerators = check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ORT, OPERATORS, FIXED):
        (folder / name).unlink(missing_ok=True)
    made = {ORT: _keep_if_equal(model, folder / ORT, _convert, feeds, tolerance)}
    if any(found["needs_fixed_shapes"] for found in accelerators.values()):
        one = {name: array[:1] for name, array in feeds.items()}
        made[FIXED] = _keep_if_equal(model, folder / FIXED, _fix, one, tolerance)
    if (folder / ORT).exists():
        _list_operators(folder)
    files = [name for name in (ORT, OPERATORS, FIXED) if (folder / name).exists()]
    return {"accelerators": accelerators, "files": files, **made}


def _keep_if_equal(
    model: Path, made: Path, make: Callable[[Path, Path], None], feeds: Mapping[str, np.ndarray], tolerance: float
) -> dict[str, Any]:
    try:
        make(model, made)
        pairs = zip(Runner(model).all_outputs(feeds), Runner(made).all_outputs(feeds), strict=True)
        difference = max(largest_difference(found, wanted) for wanted, found in pairs)
        reason = "" if difference <= tolerance else f"its outputs are off by {difference:.3g}, above {tolerance:.3g}"
    except RUNTIME_ERRORS as error:
        difference, reason = float("nan"), " ".join(str(error).split())
    if reason:
        made.unlink(missing_ok=True)
        return {"reason": reason}
    return {"largest_difference": difference}


def _convert(model: Path, made: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVEL
    options.optimized_model_filepath = str(made)
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _fix(model: Path, made: Path) -> None:
    write_model(fix_batch(onnx.load(model)), made)


def _list_operators(folder: Path) -> None:
    """With types, for builds that leave those out too. The folder's path is kept out of the file."""
    log = logging.getLogger("ort_format_model.utils")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves closing to the collector
            create_config_from_models([folder / ORT], folder / OPERATORS, True)
    finally:
        log.setLevel(level)
    text = (folder / OPERATORS).read_text(encoding="utf-8")
    (folder / OPERATORS).write_text(text.replace(str(folder / ORT), ORT), encoding="utf-8")
