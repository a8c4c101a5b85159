"""The nouns of `export`: what a graph takes and gives, and what a file that ships is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor. `shape` holds ints and names of symbolic dimensions; the first is always "batch"."""

    name: str
    dtype: str  # numpy name: float32, uint8, int64
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Signature:
    """Named inputs and outputs, in the order a module's `forward` takes and gives them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference of a file's outputs from the reference's, over `rows` real inputs."""

    largest: float
    tolerance: float
    rows: int

    @property
    def kept(self) -> bool:
        return self.largest <= self.tolerance


@dataclass(frozen=True)
class Artifact:
    """An ONNX file at one precision."""

    path: Path
    precision: str
    size_bytes: int
    sha256: str
    opset: int
    operators: tuple[str, ...]
    parity: Parity | None = None
