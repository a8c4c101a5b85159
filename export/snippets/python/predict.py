"""Run the student in this folder with numpy, onnxruntime and, for pictures, pillow.

    python predict.py              the golden check, then what the first golden example is
    python predict.py photo.png    what a picture is

The golden check tells whether this machine gives the outputs that the student was shipped with. Copy `load`, `predict`,
`name_output` and `read_picture` into your app.
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


def check_golden(session: onnxruntime.InferenceSession, folder: Path = FOLDER) -> tuple[bool, np.ndarray]:
    """Whether the golden inputs give the golden outputs here, which is printed; and the outputs."""
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        inputs = {name: arrays[entry["key"]] for name, entry in golden["inputs"].items()}
        expected = next(arrays[entry["key"]] for entry in golden["outputs"].values())
    outputs = predict(session, inputs)
    largest = float(np.abs(outputs - expected).max())
    good = largest <= golden["tolerance"]
    print(f"golden check: {'ok' if good else 'FAILED'} (off by {largest:.3g}, allowed {golden['tolerance']:.3g})")
    return good, outputs


def main() -> int:
    session, manifest = load()
    if len(sys.argv) == 1:
        good, outputs = check_golden(session)
        print(f"predicted: {name_output(outputs[0], manifest)}")
        return 0 if good else 1
    if manifest["picture"] is None:
        sys.exit(f"{manifest.get('name', 'this student')} takes no pictures: its inputs are in manifest.json")
    for path in sys.argv[1:]:
        try:
            outputs = predict(session, read_picture(path, manifest))
        except (OSError, ValueError) as error:
            sys.exit(str(error))
        print(f"{path}: {name_output(outputs[0], manifest)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
