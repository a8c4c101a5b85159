"""Recompute every test score of a run from its student folders, with numpy and onnxruntime, of texts tokenizers too.

    python examples/recompute.py runs/digits

Exits 1 where a score differs from family.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def recompute(score: str, truth: np.ndarray, outputs: np.ndarray) -> float:
    if score == "accuracy":
        return float((outputs.argmax(1) == truth).mean())
    if score == "rmse":
        return float(np.sqrt(((outputs - truth) ** 2).mean()))
    if score == "mae":
        return float(np.abs(outputs - truth).mean())
    if score == "cosine":
        lengths = np.linalg.norm(outputs, axis=1) * np.linalg.norm(truth, axis=1)
        return float(((outputs * truth).sum(1) / lengths).mean())
    raise SystemExit(f"recompute knows accuracy, rmse, mae and cosine. Got {score}.")


def read_texts(folder: Path, texts: np.ndarray) -> list[dict[str, np.ndarray]]:
    """What the student's own tokenizer makes of the texts, as its manifest says: one at a time, as an app asks."""
    from tokenizers import Tokenizer

    said = json.loads((folder / "manifest.json").read_text())["preprocessing"]
    tokenizer = Tokenizer.from_file(str(folder / said["tokenizer"]))
    tokens = [
        found.ids[: said["length"]] or [said["nothing"]]
        for found in tokenizer.encode_batch(texts.tolist(), add_special_tokens=False)
    ]
    return [{"input_ids": np.array([ids], np.int64)} for ids in tokens]


def main(run: Path) -> int:
    family = json.loads((run / "family.json").read_text())
    rows = np.load(run / "test-rows.npz")
    truth = rows["truth"]
    feeds = {name.removeprefix("input:"): rows[name] for name in rows.files if name.startswith("input:")}
    differs = 0
    for name, entry in family["budgets"].items():
        if entry["status"] != "kept":
            continue
        session = onnxruntime.InferenceSession(str(run / entry["student"] / "model.onnx"))
        given = read_texts(run / entry["student"], feeds["text"]) if "text" in feeds else [feeds]
        outputs = np.concatenate([session.run(None, one)[0] for one in given])
        found, said = recompute(family["score"]["name"], truth, outputs), entry["test"]["value"]
        same = abs(found - said) < 1e-6
        differs += not same
        print(f"{name:12} recomputed {found:.6f}  family.json {said:.6f}  {'equal' if same else 'DIFFERENT'}")
    return int(differs > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
