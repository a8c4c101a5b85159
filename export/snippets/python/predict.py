"""Run the student in this folder with numpy, onnxruntime and, for pictures, pillow.

    python predict.py              the golden check, then what the first golden example is
    python predict.py photo.png    what a picture is

The golden check tells whether this machine gives the outputs that the student was shipped with. Copy `load`, `predict`
(or `predict_guarded`), `name_output` and `read_picture` into your app.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

FOLDER = Path(__file__).resolve().parents[2]
SHOWN = 8  # values of a long vector


def load(folder: Path = FOLDER) -> tuple[onnxruntime.InferenceSession, dict]:
    """The session and the manifest, which says what the inputs are and what the outputs mean."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session, manifest


def predict(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Named inputs, a batch each, to the outputs: logits (batch, classes), or values."""
    outputs: np.ndarray = session.run(None, inputs)[0]
    return outputs


def predict_guarded(
    session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray], manifest: dict
) -> tuple[np.ndarray, np.ndarray]:
    """The outputs, and which rows are unlike anything the student was taught (batch,): what it says of those means
    little. A student without a guard flags none."""
    outputs, *others = session.run(None, inputs)
    guard = manifest.get("guard")
    return outputs, others[-1] > guard["above"] if guard else np.zeros(len(outputs), bool)


def name_output(row: np.ndarray, manifest: dict) -> str:
    """One row of outputs in words."""
    classes = manifest["classes"]
    if classes is None:
        rest = f", … ({len(row)} values)" if len(row) > SHOWN else ""
        return "value " + ", ".join(f"{value:.6g}" for value in row[:SHOWN]) + rest
    if manifest.get("kind") == "multilabel":
        return "labels " + ", ".join(name for name, logit in zip(classes, row, strict=True) if logit > 0)
    return f"class {classes[int(np.argmax(row))]}"


def read_picture(path: str, manifest: dict) -> dict[str, np.ndarray]:
    """A picture file as the student's input, a batch of one: decoded pixels, turned by nothing and not resized."""
    from PIL import Image

    picture, (entry,) = manifest["picture"], manifest["inputs"]
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L" if picture["channels"] == 1 else "RGB"))
    for side, found, name in zip((picture["height"], picture["width"]), pixels.shape, ("high", "wide"), strict=False):
        if side not in (None, found):
            raise ValueError(f"{path} is {found} pixels {name}; this student takes {side}. Resize it as its data were")
    if entry["dtype"] == "uint8":
        pixels = np.round(pixels * (picture["white"] / 255)).astype(np.uint8)
    else:
        pixels = pixels.astype(np.float32) * np.float32(picture["white"] / 255)
    pixels = pixels.reshape(*pixels.shape[:2], picture["channels"])
    shaped = {"hwc": pixels, "chw": pixels.transpose(2, 0, 1), "hw": pixels[..., 0]}[picture["layout"]]
    return {entry["name"]: np.ascontiguousarray(shaped)[None]}


def say_row(outputs: np.ndarray, unlike: np.ndarray, manifest: dict) -> str:
    """The first row in words."""
    return name_output(outputs[0], manifest) + (" (unlike anything it was taught)" if unlike[0] else "")


def check_golden(
    session: onnxruntime.InferenceSession, manifest: dict, folder: Path = FOLDER
) -> tuple[bool, tuple[np.ndarray, np.ndarray]]:
    """Whether the golden inputs give the golden outputs here, which is printed; and what `predict_guarded` gives."""
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        inputs = {name: arrays[entry["key"]] for name, entry in golden["inputs"].items()}
        expected = next(arrays[entry["key"]] for entry in golden["outputs"].values())
    outputs, unlike = predict_guarded(session, inputs, manifest)
    largest = float(np.abs(outputs - expected).max())
    good = largest <= golden["tolerance"]
    print(f"golden check: {'ok' if good else 'FAILED'} (off by {largest:.3g}, allowed {golden['tolerance']:.3g})")
    return good, (outputs, unlike)


def main() -> int:
    session, manifest = load()
    if len(sys.argv) == 1:
        good, found = check_golden(session, manifest)
        print(f"predicted: {say_row(*found, manifest)}")
        return 0 if good else 1
    if manifest["picture"] is None:
        sys.exit(f"{manifest.get('name', 'this student')} takes no pictures: its inputs are in manifest.json")
    for path in sys.argv[1:]:
        try:
            found = predict_guarded(session, read_picture(path, manifest), manifest)
        except (OSError, ValueError) as error:
            sys.exit(str(error))
        print(f"{path}: {say_row(*found, manifest)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
