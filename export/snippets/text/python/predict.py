"""Run the student of texts in this folder with numpy, onnxruntime and tokenizers.

    python predict.py                     the golden check, then what the first golden example is
    python predict.py "a text" "another"  what each text is; of a student of several columns, one text's columns

The golden check tells whether this machine gives the ids and outputs that the student was shipped with. Copy `load`,
`load_tokenizer`, `encode`, `predict` (or `predict_guarded`) and `name_output` into your app.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parents[2]
SHOWN = 8  # values of a long vector


def load(folder: Path = FOLDER) -> tuple[onnxruntime.InferenceSession, dict]:
    """The session and the manifest, which says what the inputs are and what the outputs mean."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session, manifest


def load_tokenizer(manifest: dict, folder: Path = FOLDER) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / manifest["preprocessing"]["tokenizer"]))


def encode(tokenizer: "Tokenizer", texts: Sequence[str], manifest: dict) -> dict[str, np.ndarray]:
    """Texts as the student's input, a batch: ids (texts, longest), each row padded at its end."""
    front = manifest["preprocessing"]
    read = [text[: front["characters"]] for text in texts]
    found = tokenizer.encode_batch(read, add_special_tokens=False)
    rows = [one.ids[: front["length"]] or [front["nothing"]] for one in found]
    ids = np.full((len(rows), max(map(len, rows))), front["pad"], np.int64)
    for row, own in zip(ids, rows, strict=True):
        row[: len(own)] = own
    return {"input_ids": ids}


def predict(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Inputs as `encode` gives them to the outputs: logits (batch, classes), or values."""
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


def say_row(row: np.ndarray, unlike: bool, manifest: dict) -> str:
    return name_output(row, manifest) + (" (unlike anything it was taught)" if unlike else "")


def join_columns(texts: Sequence[str], manifest: dict) -> Sequence[str]:
    """The texts, or where the student reads several columns as one: that one."""
    separator = manifest["preprocessing"].get("separator")
    return texts if separator is None else [separator.join(texts)]


def say_rows(texts: Sequence[str], found: tuple[np.ndarray, np.ndarray], manifest: dict) -> None:
    """Print each text, or its columns, with its row in words."""
    outputs, unlike = found
    names = texts if len(texts) == len(outputs) else [" | ".join(texts)]
    for name, row, strange in zip(names, outputs, unlike, strict=True):
        print(f"{name}: {say_row(row, strange, manifest)}")


def find_other_ids(tokenizer: "Tokenizer", texts: Sequence[str], wanted: np.ndarray, manifest: dict) -> list[int]:
    """Which texts, counted from 0, get other ids here than the golden ones."""
    pad, found = manifest["preprocessing"]["pad"], encode(tokenizer, texts, manifest)["input_ids"]
    width = max(found.shape[1], wanted.shape[1])
    found, wanted = (np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=pad) for ids in (found, wanted))
    return [int(i) for i in np.flatnonzero((found != wanted).any(axis=1))]


def check_golden(
    session: onnxruntime.InferenceSession, tokenizer: "Tokenizer", manifest: dict, folder: Path = FOLDER
) -> tuple[bool, tuple[np.ndarray, np.ndarray]]:
    """Whether the golden texts give the golden ids and outputs here, which is printed; what `predict_guarded` gives."""
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        inputs = {name: arrays[entry["key"]] for name, entry in golden["inputs"].items()}
        expected = next(arrays[entry["key"]] for entry in golden["outputs"].values())
    outputs, unlike = predict_guarded(session, inputs, manifest)
    largest = float(np.abs(outputs - expected).max())
    others = find_other_ids(tokenizer, golden["texts"], inputs["input_ids"], manifest)
    good = largest <= golden["tolerance"] and not others
    said = f", other ids for text {others[0] + 1}" if others else ""
    print(f"golden check: {'ok' if good else 'FAILED'} (off by {largest:.3g}, allowed {golden['tolerance']:.3g}{said})")
    return good, (outputs, unlike)


def main() -> int:
    session, manifest = load()
    tokenizer = load_tokenizer(manifest)
    texts = sys.argv[1:]
    if not texts:
        good, (outputs, unlike) = check_golden(session, tokenizer, manifest)
        print(f"predicted: {say_row(outputs[0], unlike[0], manifest)}")
        return 0 if good else 1
    try:
        found = predict_guarded(session, encode(tokenizer, join_columns(texts, manifest), manifest), manifest)
    except UnicodeEncodeError:
        sys.exit("a text must be valid Unicode")
    say_rows(texts, found, manifest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
