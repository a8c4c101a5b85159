from export.front import Front, ImageFront, PlainFront, SeriesFront, TableFront
from export.types import Artifact, Parity, Signature, TensorSpec

__all__ = [
    "Artifact",
    "Front",
    "ImageFront",
    "Parity",
    "PlainFront",
    "SeriesFront",
    "Signature",
    "TableFront",
    "TensorSpec",
]
