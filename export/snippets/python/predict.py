"""Run the student in this folder with numpy and onnxruntime alone: `python predict.py`.

Prints whether this machine gives the outputs the student was shipped with, then what it predicts for the
first golden example. Copy `load` and `predict` into your app.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

FOLDER = Path(__file__).resolve().parents[2]


def load(folder: Path = FOLDER) -> tuple[onnxruntime.InferenceSession, dict]:
    """The session and the manifest, which says what the inputs are and what the outputs mean."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session, manifest


def predict(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Named inputs, a batch each, to the outputs: logits (batch, classes), or values."""
    outputs: np.ndarray = session.run(None, inputs)[0]
    return outputs


def name_output(row: np.ndarray, manifest: dict) -> str:
    """One row of outputs in words."""
    classes = manifest["classes"]
    if classes is None:
        return "value " + ", ".join(f"{value:.6g}" for value in row)
    if manifest.get("kind") == "multilabel":
        return "labels " + ", ".join(name for name, logit in zip(classes, row, strict=True) if logit > 0)
    return f"class {classes[int(np.argmax(row))]}"


def main() -> int:
    session, manifest = load()
    golden = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
    with np.load(FOLDER / "golden.npz", allow_pickle=False) as arrays:
        inputs = {name: arrays[entry["key"]] for name, entry in golden["inputs"].items()}
        expected = next(arrays[entry["key"]] for entry in golden["outputs"].values())
    outputs = predict(session, inputs)
    largest = float(np.abs(outputs - expected).max())
    good = largest <= golden["tolerance"]
    print(f"golden check: {'ok' if good else 'FAILED'} (off by {largest:.3g}, allowed {golden['tolerance']:.3g})")
    print(f"predicted: {name_output(outputs[0], manifest)}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
