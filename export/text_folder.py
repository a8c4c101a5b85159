"""What a text student's folder has beside every student's: its tokenizer, tried, and a file that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.text_graph import NAME, write_with_tokenizer
from export.text_ids import check_texts

IN_GRAPH = "snippets/python/in_graph.py"


def finish_text(
    draft: Path, given: Mapping[str, Any], golden: Mapping[str, np.ndarray], texts: Sequence[str], tolerance: float
) -> dict[str, Any]:
    """Try the tokenizer that lies in `draft` on the golden texts, write `model-with-tokenizer.onnx` where it is equal,
    and say of it what the manifest does. Raises ValueError where texts, ids and tokenizer do not fit together."""
    front = given["preprocessing"]
    for key, kind in (("tokenizer", str), ("nothing", int)):
        if not isinstance(front.get(key), kind):
            raise ValueError(  # noqa: TRY004 - a mistake in what the manifest says
                f"a text student's preprocessing needs {key!r}, {kind.__name__}. Got {front.get(key)!r}"
            )
    listed = {"preprocessing": front, "files": [path.name for path in draft.iterdir()]}
    problems = check_texts(draft, listed, list(texts), golden.get("input_ids"))
    if problems:
        raise ValueError("; ".join(problems))
    tokenizer = draft / front["tokenizer"]
    made = write_with_tokenizer(draft / "model.onnx", tokenizer, front, texts, draft / NAME, tolerance)
    if "file" not in made:
        (draft / IN_GRAPH).unlink()
    return made
