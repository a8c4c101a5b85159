"""The folder of a student of texts: its tokenizer with it, strings among its examples, programs that take them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export.folder import check_given, write_folder, write_golden, write_json, write_snippets
from export.text_graph import NAME, write_with_tokenizer
from export.text_ids import KIND, open_tokenizer, to_ids
from export.types import Artifact

NEEDED = ("characters", "length", "nothing", "pad", "tokenizer", "vocabulary")
IN_GRAPH = "snippets/python/in_graph.py"
PROGRAMS = {
    "python": ["text/python", "python/verify.py"],
    "javascript": ["text/javascript", "javascript/npz.mjs", "javascript/serve.mjs", "javascript/student.mjs"],
    "c": ["text/c", "c/Makefile", "c/predict.c", "c/student.h"],
    "cpp": ["text/cpp", "cpp/Makefile", "cpp/predict.cpp", "cpp/student.hpp"],
    "kotlin": ["text/kotlin", "kotlin/Student.kt"],
    "swift": ["text/swift", "swift/Student.swift"],
}


def write_text_student(
    folder: Path,
    artifact: Artifact,
    manifest: Mapping[str, Any],
    texts: Sequence[str],
    tokenizer: bytes,
    card: str,
    beside: Sequence[Path] = (),
) -> Path:
    """Write the folder of one student beside, then rename; an older folder is replaced.

    `manifest` as `write_student` takes it; its `preprocessing` is the data of a `TextFront` with `tokenizer` (the name
    of its file), `nothing` (the id of a text without tokens), `characters` (how many of a text are read at most) and,
    where several are read as one, `columns` and `separator`. `tokenizer`: the bytes of a tokenizer.json. Golden are
    `texts`, their ids and what the file gives for them. `model-with-tokenizer.onnx` lies beside where it is equal
    (`text_graph`). Raises ValueError where the manifest lacks something, or the tokenizer is none or gives an id that
    the student has not; ImportError without the package tokenizers.
    """
    check_given(manifest)
    front = manifest["preprocessing"] or {}
    missing = sorted(set(NEEDED) - set(front))
    if missing or front.get("kind") != KIND:
        raise ValueError(f"preprocessing must be of kind text with {', '.join(NEEDED)}. It lacks {', '.join(missing)}")
    if not texts:
        raise ValueError("a folder needs at least one golden text. Got none")
    ids = to_ids(open_tokenizer(tokenizer), texts, front)
    if int(ids.max()) >= front["vocabulary"]:
        raise ValueError(f"ids must be below the vocabulary of {front['vocabulary']}. The tokenizer gives {ids.max()}")
    given = dict(manifest) | {"picture": None}

    def fill(draft: Path) -> None:
        (draft / front["tokenizer"]).write_bytes(tokenizer)
        write_golden(draft, artifact.precision, {"input_ids": ids}, given)
        golden = json.loads((draft / "golden.json").read_text(encoding="utf-8"))
        write_json(draft / "golden.json", golden | {"texts": list(texts)})
        write_snippets(draft, str(given.get("name", "student")), KIND, PROGRAMS)
        model, joined = draft / "model.onnx", draft / NAME
        tolerances = [entry.get("tolerance", golden["tolerance"]) for entry in golden["outputs"].values()]
        given["with_tokenizer"] = write_with_tokenizer(model, tokenizer, front, texts, joined, tolerances)
        if not joined.exists():
            (draft / IN_GRAPH).unlink()

    return write_folder(folder, artifact, given, card, beside, fill)
