"""`python -P -m export verify FOLDER` and `… quantise MODEL OUT --precision P --calibration NPZ`."""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np

CALIBRATION_BATCH = 32


def main(arguments: list[str] | None = None) -> int:
    """0: done, or the folder is good. 2: what is wrong goes to stderr, one line each."""
    parser = argparse.ArgumentParser(prog="python -m export")
    commands = parser.add_subparsers(required=True)
    verifying = commands.add_parser("verify", help="check a student folder: hashes, manifest, golden pair")
    verifying.add_argument("folder", type=Path)
    verifying.set_defaults(command=_verify)
    quantising = commands.add_parser("quantise", help="write an fp32 file at another precision")
    quantising.add_argument("model", type=Path)
    quantising.add_argument("out", type=Path)
    quantising.add_argument("--precision", default="int8")
    quantising.add_argument("--calibration", type=Path, help=".npz of inputs by name, rows first")
    quantising.set_defaults(command=_quantise)
    options = parser.parse_args(arguments)
    problems: list[str] = options.command(options)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 2 if problems else 0


def _verify(options: argparse.Namespace) -> list[str]:
    from export.verify import verify

    problems = verify(options.folder)
    if not problems:
        print(f"{options.folder} is good: hashes, manifest and golden pair hold")
    return problems


def _quantise(options: argparse.Namespace) -> list[str]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from export.precisions import quantise
    from export.session import RUNTIME_ERRORS

    try:
        calibration = _read_calibration(options.calibration)
        artifact = quantise(options.model, options.out, options.precision, calibration)
    except DecodeError:
        return [f"{options.model} is not an ONNX file"]
    except OSError as error:
        return [f"{error.filename}: {error.strerror}" if error.filename else str(error)]
    except (ValueError, *RUNTIME_ERRORS) as error:
        return [str(error).strip().splitlines()[0]]
    print(f"{artifact.path}: {artifact.precision}, {artifact.size_bytes} bytes")
    return []


def _read_calibration(path: Path | None) -> list[dict[str, np.ndarray]]:
    if path is None:
        return []
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (zipfile.BadZipFile, ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} is not an .npz of arrays") from None
    rows = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(rows) != 1 or 0 in rows:
        raise ValueError(f"{path} must hold as many rows for each input. Got {sorted(rows)}")
    return [
        {name: array[start : start + CALIBRATION_BATCH] for name, array in arrays.items()}
        for start in range(0, rows.pop(), CALIBRATION_BATCH)
    ]


if __name__ == "__main__":
    sys.exit(main())
