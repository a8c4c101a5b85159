"""Causal teachers: what they think of every next token. A torch factory, a transformers folder, or a GGUF file.

A student can be taught token by token only where it reads the same tokens, so a teacher brings its tokenizer.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from family.doors import load
from family.errors import mistake
from family.modules import hash_weights
from family.run_folder import content_id
from family.teacher_kinds import code_files, first_line, hash_files
from family.text.tokenizer import INSTALL, Tokenizer, open_tokenizer

POSITIONS = 4096  # asked at once: of 50 thousand tokens, 800 MB of logits
KINDS = "path/file.py:function, the folder of a transformers model, or a .gguf file"
WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.model", "*.txt")  # what a transformers folder is known by


@dataclass(frozen=True, eq=False)
class CausalTeacher:
    """`ask`: ids (n, length) int64 → logits (n, length, at least `vocabulary`). `context`: tokens at most, where known.
    Probabilities are those of the first `vocabulary` tokens."""

    ask: Callable[[Tensor], Tensor]
    tokenizer: Tokenizer
    vocabulary: int
    fingerprint: str
    context: int | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def logits(self, ids: Tensor) -> Tensor:
        """ids (n, length) int64 → (n, length, vocabulary) float32. Raises Mistakes for what is no logits."""
        if self.context is not None and ids.shape[1] > self.context:
            raise mistake("teacher", f"reads {self.context} tokens at most. The students' context is {ids.shape[1]}.")
        rows = max(1, POSITIONS // ids.shape[1])
        with torch.no_grad():
            return torch.cat([self.check(self.ask(some), some) for some in ids.split(rows)])

    def check(self, said: Tensor, ids: Tensor) -> Tensor:
        if said.ndim != 3 or said.shape[:2] != ids.shape or said.shape[2] < self.vocabulary:
            wanted = f"({len(ids)}, {ids.shape[1]}, {self.vocabulary} or more)"
            raise mistake("teacher", f"must give logits {wanted} for ids {tuple(ids.shape)}. Got {tuple(said.shape)}.")
        said = said[:, :, : self.vocabulary].float().cpu()
        if not said.isfinite().all():
            raise mistake("teacher", "gives NaN or infinite logits.")
        return said


def open_causal_teacher(path: str, folder: Path, tokenizer: str | None = None, device: str = "cpu") -> CausalTeacher:
    """`tokenizer`: a tokenizer.json, where the teacher brings none. Raises Mistakes for what cannot be opened."""
    place = (folder / path).resolve()
    own = read_own(tokenizer, folder) if tokenizer is not None else None
    if ".py:" in path:
        return open_factory(path, folder, own, device)
    if place.suffix == ".gguf":
        return open_gguf(place, own, device)
    if place.is_dir():
        return open_folder(place, own, device)
    raise mistake("teacher", f"must be {KINDS}. Got {path} (looked for {place}).")


def read_own(tokenizer: str, folder: Path) -> bytes:
    path = (folder / tokenizer).resolve()
    if not path.is_file():
        raise mistake("teacher.tokenizer", f"names {tokenizer}, which is not there (looked for {path}).")
    return path.read_bytes()


def open_factory(path: str, folder: Path, own: bytes | None, device: str) -> CausalTeacher:
    """A function without arguments that gives a torch.nn.Module of ids; its attribute `tokenizer`: the bytes of a
    tokenizer.json, or a path to it."""
    try:
        module = load(path, folder, "teacher")()
    except Exception as problem:  # whatever a user's function raises is the user's to mend
        raise mistake("teacher", f"{path} failed: {type(problem).__name__}: {first_line(problem)}") from problem
    if not isinstance(module, nn.Module):
        raise mistake("teacher", f"{path} must return a torch.nn.Module. Got {type(module).__name__}.")
    found = own if own is not None else getattr(module, "tokenizer", None)
    if not isinstance(found, bytes | str | Path):
        raise mistake(
            "teacher.tokenizer", f"must name a tokenizer.json: {path} has no attribute `tokenizer` that says one."
        )
    data = found if isinstance(found, bytes) else read_own(str(found), folder)
    door = (folder / path.rpartition(":")[0]).resolve()
    key = content_id(hash_files([door, *code_files(module, door.parent)]), hash_weights(module))
    return as_teacher(module, data, key, path, None, device)


def open_folder(place: Path, own: bytes | None, device: str) -> CausalTeacher:
    """A folder that transformers saved."""
    if not (place / "config.json").is_file():
        raise mistake("teacher", f"must be {KINDS}. {place.name} holds no config.json.")
    files = sorted({file for pattern in WEIGHTS for file in place.glob(pattern)})
    return open_transformers(place, own, hash_files(files), device)


def open_gguf(place: Path, own: bytes | None, device: str) -> CausalTeacher:
    """A GGUF file, its weights taken to float32."""
    if not place.is_file():
        raise mistake("teacher", f"names {place.name}, which is not there (looked for {place}).")
    return open_transformers(place.parent, own, hash_files([place]), device, place.name)


def open_transformers(
    place: Path, own: bytes | None, key: str, device: str, gguf_file: str | None = None
) -> CausalTeacher:
    package, given = import_transformers(), {"gguf_file": gguf_file} if gguf_file else {}
    name = gguf_file or place.name
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # bars of progress, of GGUF's parts
            warnings.simplefilter("ignore")  # of the package's own parts
            module = package.AutoModelForCausalLM.from_pretrained(str(place), dtype=torch.float32, **given)
            data = own if own is not None else find_tokenizer(package, place, given)
    except ImportError as problem:  # gguf and accelerate are asked for when they are needed
        raise mistake("teacher", f"{name} needs more: {first_line(problem)} Install it with: {INSTALL}") from problem
    except Exception as problem:  # the package raises whatever its parts do
        raise mistake("teacher", f"{name} cannot be opened: {first_line(problem)}") from problem
    context = getattr(module.config, "max_position_embeddings", None)
    return as_teacher(module, data, key, name, context, device)


def find_tokenizer(package: Any, place: Path, given: Mapping[str, Any]) -> bytes:
    if (file := place / "tokenizer.json").is_file() and not given:
        return file.read_bytes()
    opened = package.AutoTokenizer.from_pretrained(str(place), **given)
    return str(opened.backend_tokenizer.to_str()).encode()


def import_transformers() -> Any:
    """The package, quiet. Raises Mistakes with what installs it."""
    try:
        import transformers
    except ImportError as problem:
        raise mistake(
            "teacher", f"of this kind needs the package transformers; install it with: {INSTALL}"
        ) from problem
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def as_teacher(module: nn.Module, data: bytes, key: str, name: str, context: int | None, device: str) -> CausalTeacher:
    try:
        tokenizer = open_tokenizer(data)
    except (ValueError, KeyError, TypeError) as problem:
        raise mistake("teacher.tokenizer", f"of {name} is no tokenizer.json: {first_line(problem)}.") from problem
    module = module.eval().to(device)

    def ask(ids: Tensor) -> Tensor:
        try:
            said = module(ids.to(device))
        except (RuntimeError, TypeError, ValueError, IndexError) as problem:
            raise mistake("teacher", f"{name} fails on ids {tuple(ids.shape)}: {first_line(problem)}") from problem
        found = getattr(said, "logits", said)
        if not isinstance(found, Tensor):
            raise mistake("teacher", f"{name} must give a tensor of logits. Got {type(found).__name__}.")
        return found

    probe = ask(torch.zeros(1, 2, dtype=torch.int64))
    tensors = [*module.parameters(), *module.buffers()]
    cost = {
        "parameters": sum(p.numel() for p in module.parameters()),
        "size_kb": sum(t.numel() * t.element_size() for t in tensors) / 1000,
    }
    wide, size = int(probe.shape[-1]), tokenizer.size
    if wide < size:
        raise mistake("teacher.tokenizer", f"has {size} tokens; {name} gives logits of {wide} alone.")
    padded = f"teacher: {wide} logits for {size} tokens; the {wide - size} that pad the vocabulary are cut"
    key = content_id(key, identity(tokenizer))
    return CausalTeacher(ask, tokenizer, size, key, context, cost, (padded,) if wide > size else ())


def identity(tokenizer: Tokenizer, size: int | None = None) -> str:
    """Stands for what decides which ids a text becomes: normaliser, splitting, vocabulary, merges, and tokens added to
    them; of the first `size` ids alone where it is given. How a text is padded, cut, framed or decoded is no part."""
    parts = json.loads(tokenizer.data)
    model = parts["model"]
    vocab = sorted((i, name) for name, i in list_vocabulary(model) if size is None or i < size)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", [])]
    added = sorted((t["id"], t["content"]) for t in parts.get("added_tokens") or [] if size is None or t["id"] < size)
    same = {key: model.get(key) for key in ("type", "unk_token", "byte_fallback", "continuing_subword_prefix")}
    known = [parts.get("normalizer"), parts.get("pre_tokenizer"), same, vocab, merges, added]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def list_vocabulary(model: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Names and ids: of a mapping, or of a list of (name, score)."""
    vocab = model["vocab"]
    return list(vocab.items()) if isinstance(vocab, dict) else [(str(one[0]), i) for i, one in enumerate(vocab)]


def fit_teacher(teacher: CausalTeacher, tokenizer: Tokenizer) -> CausalTeacher:
    """The teacher for students that read with `tokenizer`: itself, or with the tokens cut that its larger vocabulary of
    the same family has more. Raises Mistakes where an id means something else to each."""
    ours, theirs = tokenizer.size, teacher.tokenizer.size
    if identity(tokenizer) == identity(teacher.tokenizer):
        return teacher
    if ours < theirs and identity(tokenizer) == identity(teacher.tokenizer, ours):
        note = f"teacher: its last {theirs - ours} tokens, which the students' tokenizer has not, are cut"
        return replace(teacher, vocabulary=ours, notes=(*teacher.notes, note))
    raise mistake(
        "students.tokenizer",
        f"must be the teacher's for distillation token by token. The students' has {ours} tokens, the teacher's "
        f"{theirs}, {first_difference(tokenizer, teacher.tokenizer)}. Leave it out to take the teacher's, or let the "
        "teacher answer in text, which needs no common tokenizer.",
    )


def first_difference(ours: Tokenizer, theirs: Tokenizer) -> str:
    """The first id that means something else, in words."""
    names = [one.opened.id_to_token for one in (ours, theirs)]
    for i in range(min(ours.size, theirs.size)):
        a, b = (name(i) for name in names)
        if a != b:
            return f"and id {i} is {a!r} here, {b!r} there"
    return "with the same first tokens, but texts are split or merged in another way"


__all__ = ["CausalTeacher", "fit_teacher", "identity", "open_causal_teacher"]
