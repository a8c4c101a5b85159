"""The folder of a student that writes: its tokenizer with it, and programs that stream its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.folder import (
    check_given,
    describe_array,
    golden_tolerance,
    run_named,
    write_folder,
    write_json,
    write_snippets,
)
from export.front import StepFront
from export.session import Runner
from export.steps import go_on, step_feeds
from export.text_ids import STEP, open_tokenizer, prompt_ids
from export.types import Artifact

CONTINUED = 32  # tokens that golden prompts are continued by
NEEDED = ("context", "end", "head", "heads", "layers", "start", "tokenizer", "vocabulary")
PROGRAMS = {
    "python": ["decoder/python", "python/verify.py"],
    "javascript": ["decoder/javascript", "javascript/npz.mjs", "javascript/serve.mjs"],
}


def write_decoder_student(
    folder: Path,
    artifact: Artifact,
    manifest: Mapping[str, Any],
    prompts: Sequence[str],
    tokenizer: bytes,
    card: str,
    beside: Sequence[Path] = (),
) -> Path:
    """Write the folder of one student beside, then rename; an older folder is replaced.

    `manifest` as `write_student` takes it; its `preprocessing` is the data of a `StepFront` with `tokenizer` (the name
    of its file), `vocabulary`, and the ids `start` and `end`. `tokenizer`: the bytes of a tokenizer.json. Golden are
    `prompts`, of which the first also becomes the golden inputs, and what the file goes on with. A
    `tokenizer_config.json` or `genai_config.json` in `beside` ships in the place of the one written here. Raises
    ValueError where the manifest lacks something, a prompt leaves no room to go on, or the tokenizer is none or gives
    an id that the student has not; ImportError without the package tokenizers.
    """
    check_given(manifest)
    front = manifest["preprocessing"] or {}
    missing = sorted(set(NEEDED) - set(front))
    if missing or front.get("kind") != STEP:
        lacks = f" that lacks {', '.join(missing)}" if missing else ""
        raise ValueError(
            f"preprocessing must be of kind step with {', '.join(NEEDED)}. Got kind {front.get('kind')!r}{lacks}"
        )
    opened = open_tokenizer(tokenizer)
    read = read_prompts(prompts, opened, front)

    def fill(draft: Path) -> None:
        (draft / front["tokenizer"]).write_bytes(tokenizer)
        _write_golden(draft, artifact.precision, read, opened, front)
        for name, told in (("genai_config.json", genai_config(front)), ("tokenizer_config.json", TOKENIZER_CONFIG)):
            if not (draft / name).exists():
                write_json(draft / name, told)
        write_snippets(draft, str(manifest.get("name", "student")), "decoder", PROGRAMS)

    return write_folder(folder, artifact, manifest, card, beside, fill)


Prompts = list[tuple[str, list[int]]]


def read_prompts(prompts: Sequence[str], opened: Any, front: Mapping[str, Any]) -> Prompts:
    """Each with its ids, the start before them."""
    if not prompts:
        raise ValueError("a folder needs at least one golden prompt. Got none")
    read = [(text, prompt_ids(opened, text, front)) for text in prompts]
    for text, ids in read:
        if len(ids) >= front["context"]:
            raise ValueError(
                f"a golden prompt must have fewer than {front['context']} tokens. {text[:40]!r} has {len(ids)}"
            )
        if max(ids) >= front["vocabulary"]:
            raise ValueError(
                f"ids must be below the vocabulary of {front['vocabulary']}. The tokenizer gives {max(ids)}"
            )
    return read


def _write_golden(draft: Path, precision: str, read: Prompts, opened: Any, front: Mapping[str, Any]) -> None:
    """The first prompt as every student's golden inputs; of all of them ids, logits and the greedy continuation."""
    runner = Runner(draft / "model.onnx")
    steps = StepFront(front["layers"], front["heads"], front["head"], front["context"])
    inputs = step_feeds(steps, read[0][1])
    outputs = run_named(runner, inputs)
    arrays = {f"input/{name}": array for name, array in inputs.items()}
    arrays |= {f"output/{name}": array for name, array in outputs.items()}
    told = []
    for i, (text, ids) in enumerate(read):
        key = f"prompt/{i}/logits"
        arrays[key] = runner(step_feeds(steps, ids))[0, -1]
        found = list(go_on(runner, steps, ids, front["end"], CONTINUED))
        entry = {"prompt": text, "ids": ids, "logits": describe_array(key, arrays[key])}
        told.append(entry | {"continuation": found, "text": opened.decode(found)})
    np.savez_compressed(draft / "golden.npz", **arrays)  # type: ignore[arg-type]
    golden = {
        "tolerance": golden_tolerance(precision, outputs),
        "inputs": {name: describe_array(f"input/{name}", array) for name, array in inputs.items()},
        "outputs": {name: describe_array(f"output/{name}", array) for name, array in outputs.items()},
        "prompts": told,
    }
    write_json(draft / "golden.json", golden)


TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast"}  # which has genai read tokenizer.json


def genai_config(front: Mapping[str, Any]) -> dict[str, Any]:
    """What onnxruntime-genai asks to know of `model.onnx`, as its builder writes it for models of the kind."""
    decoder = {
        "session_options": {"provider_options": []},
        "filename": "model.onnx",
        "head_size": front["head"],
        "hidden_size": front["heads"] * front["head"],
        "num_attention_heads": front["heads"],
        "num_key_value_heads": front["heads"],
        "num_hidden_layers": front["layers"],
        "inputs": {
            "input_ids": "input_ids",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",
        "vocab_size": front["vocabulary"],
        "context_length": front["context"],
        "bos_token_id": front["start"],
        "eos_token_id": front["end"],
        "pad_token_id": front["end"],
        "decoder": decoder,
    }
    search = {"do_sample": False, "max_length": front["context"], "past_present_share_buffer": False}
    return {"model": model, "search": search}
