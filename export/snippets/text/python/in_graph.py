"""The same student with its tokenizer inside the file: strings go in, and the package tokenizers is not needed.

    python in_graph.py                     the golden check, then what the first golden example is
    python in_graph.py "a text" "another"  what each text is; of a student of several columns, one text's columns

Needs onnxruntime-extensions, whose operator reads a text up to its first NUL.
"""

import json
import sys

import numpy as np
import onnxruntime
from onnxruntime_extensions import get_library_path
from predict import FOLDER, join_columns, load, predict_guarded, say_row, say_rows


def open_with_tokenizer(manifest: dict) -> onnxruntime.InferenceSession:
    """Takes `text`, an array of strings (batch,), and gives what the student gives."""
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    file = FOLDER / manifest["with_tokenizer"]["file"]
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def main() -> int:
    _, manifest = load()
    session, texts = open_with_tokenizer(manifest), sys.argv[1:]
    if not texts:
        return check_golden(session, manifest)
    inputs = {"text": np.array(join_columns(texts, manifest), object)}
    say_rows(texts, predict_guarded(session, inputs, manifest), manifest)
    return 0


def check_golden(session: onnxruntime.InferenceSession, manifest: dict) -> int:
    golden = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
    with np.load(FOLDER / "golden.npz", allow_pickle=False) as arrays:
        expected = next(arrays[entry["key"]] for entry in golden["outputs"].values())
    outputs, unlike = predict_guarded(session, {"text": np.array(golden["texts"], object)}, manifest)
    largest = float(np.abs(outputs - expected).max())
    good = largest <= golden["tolerance"]
    print(f"golden check: {'ok' if good else 'FAILED'} (off by {largest:.3g}, allowed {golden['tolerance']:.3g})")
    print(f"predicted: {say_row(outputs[0], unlike[0], manifest)}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
