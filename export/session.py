"""Running a file: onnxruntime on one thread, and how far its outputs are from a reference's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
)

from export.types import Parity

RUNTIME_ERRORS = (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
)  # what onnxruntime raises for a file or inputs it cannot take; they share no base of their own


class Runner:
    """A file, loaded once on one thread. Called with named inputs it gives the first output."""

    def __init__(self, path: Path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.all_outputs(feeds)[0]

    def all_outputs(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self.session.run(None, dict(feeds))
        return outputs


def run(path: Path, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output of the file at `path` for `feeds`."""
    return Runner(path)(feeds)


def check_parity(
    path: Path,
    batches: Iterable[Mapping[str, np.ndarray]],
    expected: Iterable[np.ndarray],
    tolerance: float,
) -> Parity:
    """Run the file over `batches` and compare with the reference's outputs, batch by batch.

    A value that is finite on one side alone is infinitely far. Raises ValueError where shapes differ.
    """
    runner, largest, rows = Runner(path), 0.0, 0
    for feeds, wanted in zip(batches, expected, strict=True):
        found = runner(feeds)
        if found.shape != wanted.shape:
            raise ValueError(f"{path.name} gives outputs of shape {found.shape}, the reference {wanted.shape}")
        largest = max(largest, largest_difference(found, wanted))
        rows += len(found)
    return Parity(largest, tolerance, rows)


def largest_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """max |found - wanted|; equal infinities and NaN on both sides count as 0, on one side as infinity."""
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    if same.all():
        return 0.0
    distance = np.abs(found[~same].astype(np.float64) - wanted[~same].astype(np.float64))
    return float(np.where(np.isnan(distance), np.inf, distance).max())
