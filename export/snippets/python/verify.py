"""Is the student folder two above whole, and does it give what it gave where it was made? `python verify.py`.

Needs numpy and onnxruntime alone. Prints what is wrong, a line each, or ok; exit code 1 or 0. A file whose hash
differs is not run, and a path that leads out of the folder is not opened.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from predict import FOLDER, load, predict


def check_files(folder: Path) -> list[str]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    problems = []
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            problems.append(f"manifest.json: {name!r} leads out of the folder")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            problems.append(f"{name} is not the file that was shipped: its sha256 differs")
    needed = {"model.onnx", "golden.json", "golden.npz"} - set(manifest["files"])
    return problems + [f"{name} is not in manifest.json" for name in sorted(needed)]


def check_golden(folder: Path) -> list[str]:
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        inputs = {name: arrays[entry["key"]] for name, entry in golden["inputs"].items()}
        expected = next(arrays[entry["key"]] for entry in golden["outputs"].values())
    outputs = predict(load(folder)[0], inputs)
    if outputs.shape != expected.shape:
        return [f"the golden output has shape {expected.shape}, the file gives {outputs.shape}"]
    largest = float(np.abs(outputs - expected).max())
    good = largest <= golden["tolerance"]
    return [] if good else [f"the golden output is off by {largest:.3g}. Allowed: {golden['tolerance']:.3g}"]


def main() -> int:
    problems = check_files(FOLDER) or check_golden(FOLDER)
    print("\n".join(problems) or "ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
