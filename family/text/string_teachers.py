"""Teachers that read strings: a transformers folder or a GGUF file, an ONNX file with its tokenizer, a torch factory.

They answer whole texts, as classes or as vectors. A sentence encoder's folder says by its `modules.json` how the
vectors of tokens become one; a plain encoder's are averaged.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from family.errors import mistake
from family.run_folder import content_id
from family.teacher_kinds import (
    ONNX_PROBLEMS,
    ONNX_TYPES,
    Asked,
    TeacherOptions,
    external_files,
    file_of,
    first_line,
    hash_files,
    load_module,
    onnx_cost,
    onnx_output,
    open_session,
    pick_output,
    refuse_preprocess,
    weigh_module,
)
from family.text.causal_teachers import WEIGHTS, import_transformers, read_own
from family.text.text_source import split_columns
from family.text.tokenizer import INSTALL, import_tokenizers
from family.types import Split, Task

TOGETHER = 32  # texts that are asked at once, of about the same length
MOST = 512  # tokens of a text that a teacher reads, where it does not say how many
Answer = Callable[[list[str]], np.ndarray]  # texts (n,) → (n, k) float32


def ask_texts(answer: Answer, task: Task) -> Callable[[Split, np.ndarray, int], np.ndarray]:
    """As an Asked asks: the texts of these rows, those of about one length together."""

    def ask(split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        (texts,) = task.teacher_inputs(split, rows, view, None)
        return answer_all(answer, list(texts))

    return ask


def answer_all(answer: Answer, texts: Sequence[str]) -> np.ndarray:
    """(n, k) in the texts' order. Raises Mistakes for what is not one row each."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    parts = []
    for start in range(0, len(texts), TOGETHER):
        some = [texts[i] for i in order[start : start + TOGETHER]]
        said = np.asarray(answer(some), np.float32)
        if said.ndim < 2 or len(said) != len(some):
            wanted = f"({len(some)}, outputs)"
            raise mistake("teacher", f"must give {wanted} for {len(some)} texts. Got {said.shape}.")
        parts.append(said.reshape(len(some), -1))
    whole = np.concatenate(parts)
    back = np.empty_like(whole)
    back[order] = whole
    return back


def open_string_factory(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """`path/file.py:function` gives a torch.nn.Module that takes a list of strings. Its method `embed`, where it has
    one, gives their vectors (n, k): students may begin from those of their tokens."""
    refuse_preprocess(options, "a teacher that takes texts as they are")
    module, key = load_module(options, folder)

    def call(function: Callable[[list[str]], Any], texts: list[str]) -> np.ndarray:
        try:
            with torch.no_grad():
                said = function(texts)
        except Exception as problem:  # whatever a user's module raises is the user's to mend
            name = type(problem).__name__
            raise mistake("teacher", f"{options.path} fails on texts: {name}: {first_line(problem)}") from problem
        return pick_output(said, options)

    embed = getattr(module, "embed", None)
    return Asked(
        ask_texts(lambda texts: call(module, texts), task),
        key,
        cost=weigh_module(module),
        embed=(lambda texts: answer_all(lambda some: call(embed, some), texts)) if callable(embed) else None,
    )


def open_string_folder(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """A folder that transformers or sentence-transformers saved."""
    place = (folder / options.path).resolve()
    if not place.is_dir():
        raise mistake("teacher", f"names {options.path}, which is no folder (looked for {place}).")
    parts, inside = read_modules(place), place
    if parts is not None:
        inside = place / parts[0].get("path", "")
    if not (inside / "config.json").is_file():
        raise mistake("teacher", f"{options.path} holds no config.json, as the folder of a transformers model does.")
    files = sorted({file for pattern in WEIGHTS for file in place.rglob(pattern)})
    pool = "mean" if parts is None else find_pooling(place, parts)
    unit = parts is not None and any(part["type"].endswith("Normalize") for part in parts)
    limit = read_json(inside / "sentence_bert_config.json").get("max_seq_length")
    return open_transformers(options, task, inside, hash_files(files), pool, unit, limit, None)


def open_string_gguf(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """A GGUF file, its weights taken to float32."""
    file = file_of(options, folder)
    return open_transformers(options, task, file.parent, hash_files([file]), "mean", False, None, file.name)


def read_json(path: Path) -> Any:
    """What the file holds; nothing where it is not there."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise mistake("teacher", f"{path.name} is no JSON: {first_line(problem)}") from problem


def read_modules(place: Path) -> list[dict[str, Any]] | None:
    """The steps of a sentence encoder. Raises Mistakes for one that is not known here."""
    if not (place / "modules.json").is_file():
        return None
    parts = list(read_json(place / "modules.json"))
    known = ("Transformer", "Pooling", "Normalize")
    odd = [part["type"].rpartition(".")[2] for part in parts if not part["type"].endswith(known)]
    if odd or not parts or not parts[0]["type"].endswith("Transformer"):
        said = f"modules.json must begin with Transformer, and hold {', '.join(known)} alone"
        raise mistake("teacher", f"{said}. Got {', '.join(odd) or 'nothing'}.")
    return parts


def find_pooling(place: Path, parts: Sequence[Mapping[str, Any]]) -> str:
    """mean, cls or max, as the folder of its Pooling says."""
    step = next((part for part in parts if part["type"].endswith("Pooling")), None)
    if step is None:
        return "mean"
    config = read_json(place / step.get("path", "1_Pooling") / "config.json")
    asked = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
    named = config.get("pooling_mode")
    found = [named] if isinstance(named, str) else [names.get(key, key) for key in asked]
    if len(found) != 1 or found[0] not in names.values():
        raise mistake("teacher", f"must pool tokens by mean, cls or max. Got {', '.join(found) or 'nothing'}.")
    return str(found[0])


def open_transformers(
    options: TeacherOptions,
    task: Task,
    place: Path,
    key: str,
    pool: str,
    unit: bool,
    limit: int | None,
    gguf_file: str | None,
) -> Asked:
    """A classifier where the task has classes or values and the folder a head for them; else an encoder."""
    refuse_preprocess(options, "a teacher that takes texts as they are")
    package, given = import_transformers(), {"gguf_file": gguf_file} if gguf_file else {}
    name = gguf_file or Path(options.path).name
    config = read_json(place / "config.json")
    classes = task.kind != "embedding" and (
        gguf_file is not None or any(a.endswith("ForSequenceClassification") for a in config.get("architectures") or ())
    )
    kind = package.AutoModelForSequenceClassification if classes else package.AutoModel
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the package's own parts
            model, loaded = kind.from_pretrained(str(place), dtype=torch.float32, output_loading_info=True, **given)
            tokenizer = package.AutoTokenizer.from_pretrained(str(place), **given)
    except ImportError as problem:  # gguf and accelerate are asked for when they are needed
        raise mistake("teacher", f"{name} needs more: {first_line(problem)} Install it with: {INSTALL}") from problem
    except Exception as problem:  # the package raises whatever its parts do
        raise mistake("teacher", f"{name} cannot be opened: {first_line(problem)}") from problem
    heads = [part for part in loaded["missing_keys"] if "position_ids" not in part and "pooler" not in part]
    if heads:
        shown = ", ".join(sorted(heads)[:3])
        said = f"{name} has no weights for {shown}"
        raise mistake("teacher", f"{said}: it was not trained to give classes. Name one that was, or its outputs.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    model = model.eval().to(options.device)
    most = min(limit or MOST, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", MOST))

    def encode(texts: list[str]) -> Any:
        columns = [split_columns(text) for text in texts]
        paired = all(len(parts) == 2 for parts in columns)
        sides = [list(side) for side in zip(*columns, strict=True)] if paired else [texts]
        return tokenizer(*sides, padding=True, truncation=True, max_length=most, return_tensors="pt").to(options.device)

    def answer(texts: list[str]) -> np.ndarray:
        with torch.no_grad():
            said = model(**encode(texts)).logits
        return np.asarray(said.float().cpu().numpy())

    def embed(texts: list[str]) -> np.ndarray:
        given = encode(texts)
        with torch.no_grad():
            base = getattr(model, model.base_model_prefix, model) if classes else model
            vectors = pool_tokens(base(**given).last_hidden_state.float(), given["attention_mask"], pool)
            vectors = nn.functional.normalize(vectors, dim=1) if unit else vectors
        return np.asarray(vectors.cpu().numpy())

    notes = [
        f"teacher: {'classifier' if classes else 'encoder'} {type(model).__name__}, {most} tokens of a text at most"
    ]
    if not classes:
        notes.append(f"teacher: vectors of tokens become one by {pool}" + (", of length 1" if unit else ""))
    labels = getattr(model.config, "id2label", None) or {}
    names = tuple(str(labels[i]) for i in sorted(labels)) if classes else ()
    return Asked(
        ask_texts(answer if classes else embed, task),
        key,
        cost=weigh_module(model),
        notes=tuple(notes),
        embed=lambda texts: answer_all(embed, texts),
        names=names,
    )


def pool_tokens(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """hidden (n, length, width), mask (n, length) of 0 and 1 → (n, width)."""
    if how == "cls":
        return hidden[:, 0]
    there = mask[:, :, None].to(hidden.dtype)
    if how == "max":
        return hidden.masked_fill(there == 0, float("-inf")).amax(1)
    return (hidden * there).sum(1) / there.sum(1).clamp(min=1)


def open_string_onnx(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """An ONNX file that takes strings, or ids made by `teacher.tokenizer` or the tokenizer.json beside it."""
    refuse_preprocess(options, "a teacher that takes texts as they are")
    path = file_of(options, folder)
    session, model = open_session(path, options.path)
    output, notes = onnx_output(session, options, int(task.body.outputs[0].shape[1]))
    takes = session.get_inputs()
    files = [path, *external_files(model, path.parent)]
    if [one.type for one in takes] == ["tensor(string)"]:
        feed: Callable[[list[str]], dict[str, np.ndarray]] = lambda texts: {takes[0].name: np.array(texts, object)}  # noqa: E731
        key = hash_files(files)
    else:
        data = find_tokenizer(options, path, folder)
        feed = id_feeder(takes, data, options.path)
        key = content_id(hash_files(files), hashlib.sha256(data).hexdigest())

    def answer(texts: list[str]) -> np.ndarray:
        given = feed(texts)
        try:
            said = np.asarray(session.run([output], given)[0])
        except ONNX_PROBLEMS as problem:
            raise mistake("teacher", f"{options.path} fails on texts: {first_line(problem)}") from problem
        if said.ndim != 3:
            return said
        mask = given.get("attention_mask", np.ones(said.shape[:2]))
        return np.asarray(pool_tokens(torch.from_numpy(said), torch.from_numpy(np.asarray(mask)), "mean").numpy())

    return Asked(ask_texts(answer, task), key, cost=onnx_cost(model, files), notes=notes)


def string_feed(options: TeacherOptions, task: Task, folder: Path, row: np.ndarray) -> dict[str, np.ndarray]:
    """The validation row (1,) as the ONNX file takes it, by input name."""
    path = file_of(options, folder)
    takes = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()
    (texts,) = task.teacher_inputs("val", row, 0, None)
    if [one.type for one in takes] == ["tensor(string)"]:
        return {takes[0].name: np.array(list(texts), np.str_)}
    return id_feeder(takes, find_tokenizer(options, path, folder), options.path)(list(texts))


def find_tokenizer(options: TeacherOptions, path: Path, folder: Path) -> bytes:
    if options.tokenizer is not None:
        return read_own(options.tokenizer, folder)
    beside = path.with_name("tokenizer.json")
    if not beside.is_file():
        said = f"must name the tokenizer.json of {options.path}, which takes ids; none lies beside it"
        raise mistake("teacher.tokenizer", f"{said} (looked for {beside}).")
    return beside.read_bytes()


def id_feeder(takes: Sequence[Any], data: bytes, path: str) -> Callable[[list[str]], dict[str, np.ndarray]]:
    """Texts → the file's inputs: ids, mask and types, padded alike, with the special tokens that the tokenizer adds."""
    try:
        opened = import_tokenizers().Tokenizer.from_buffer(data)
    except Exception as problem:  # the package has no error of its own
        raise mistake("teacher.tokenizer", f"of {path} is no tokenizer.json: {first_line(problem)}.") from problem
    parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    odd = [one.name for one in takes if one.name not in parts]
    if odd or "input_ids" not in {one.name for one in takes}:
        raise mistake("teacher", f"{path} must take {', '.join(parts)}. Got {', '.join(one.name for one in takes)}.")
    fixed = next((one.shape[1] for one in takes if isinstance(one.shape[1], int)), None)
    cut = opened.truncation or {}
    opened.enable_truncation(fixed or min(MOST, int(cut.get("max_length", MOST))))
    pads = (opened.token_to_id(name) for name in ("[PAD]", "<pad>", "<|endoftext|>"))
    pad = (opened.padding or {}).get("pad_id", next((i for i in pads if i is not None), 0))
    opened.enable_padding(length=fixed, pad_id=pad)

    def feed(texts: list[str]) -> dict[str, np.ndarray]:
        columns = [split_columns(text) for text in texts]
        found = opened.encode_batch([tuple(c) if len(c) == 2 else t for c, t in zip(columns, texts, strict=True)])
        return {
            one.name: np.array([getattr(row, parts[one.name]) for row in found], ONNX_TYPES.get(one.type, np.int64))
            for one in takes
        }

    return feed


STRING_TEACHERS: dict[str, Callable[[TeacherOptions, Task, Path, Path], Asked]] = {
    "factory": open_string_factory,
    "folder": open_string_folder,
    ".gguf": open_string_gguf,
    ".onnx": open_string_onnx,
}
