"""`python -P -m export verify FOLDER`, `… quantise MODEL OUT --precision P --calibration NPZ` and
`… check MODEL [--out FOLDER]`."""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np

CALIBRATION_BATCH = 32
MADE_UP_TOLERANCE = 0.05  # of outputs for made-up inputs: the kernels of int8 round by a step of some activation


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
    checking = commands.add_parser("check", help="what runtimes and phones' accelerators would take of a file")
    checking.add_argument("model", type=Path)
    checking.add_argument("--out", type=Path, help="write model.ort and what else a mobile build wants there")
    checking.set_defaults(command=_check)
    options = parser.parse_args(arguments)
    problems: list[str] = options.command(options)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 2 if problems else 0


def _verify(options: argparse.Namespace) -> list[str]:
    from export.verify import list_untried, verify

    problems = verify(options.folder)
    if not problems:
        print(
            "; ".join(
                [f"{options.folder} is good: hashes, manifest and golden pair hold", *list_untried(options.folder)]
            )
        )
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


def _check(options: argparse.Namespace) -> list[str]:
    from export.accelerators import NAMES
    from export.checks import check_model, say_share
    from export.mobile import FIXED, ORT, write_mobile
    from export.precisions import make_up_inputs

    try:
        found = check_model(options.model)
        feeds = make_up_inputs(options.model)[0]
        made = {} if options.out is None else write_mobile(options.model, options.out, feeds, MADE_UP_TOLERANCE)
    except OSError as error:
        return [f"{error.filename}: {error.strerror}"]
    except ValueError as error:
        return [str(error)]
    print(f"{options.model}: runs on this onnxruntime; by lists of operators, nothing ran on a phone:")
    for name, share in found.items():
        print(f"{NAMES[name]}: {say_share(share)}")
    for name in [name for name in (ORT, FIXED) if name in made]:
        difference = made[name].get("largest_difference")
        said = made[name].get("reason") or f"outputs within {difference:.1e} of the model's"
        print(f"{options.out / name}: {said}")
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
