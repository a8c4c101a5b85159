"""What a teacher may be: a torch factory, a program, an ONNX file, stored outputs, the built-in one."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnxruntime.capi import onnxruntime_pybind11_state

from family.builtin_teacher import digits_teacher
from family.doors import load
from family.errors import mistake
from family.modules import hash_weights
from family.run_folder import content_id
from family.types import Split, Task

CHUNK = 256  # rows a teacher is asked at once
SPLITS: tuple[Split, ...] = ("train", "transfer", "val", "test")
ONNX_PROBLEMS: tuple[type[Exception], ...] = tuple(
    found
    for found in vars(onnxruntime_pybind11_state).values()
    if isinstance(found, type) and issubclass(found, Exception)
)  # onnxruntime's own, without a base in common


@dataclass(frozen=True)
class TeacherOptions:
    """One entry of `teacher`. `gives`: auto, logits or probabilities; `classes` is the order of its outputs: names,
    or a file of them, one a line; `output` a name, or for a tuple a position."""

    path: str
    output: str | None = None
    gives: str = "auto"
    preprocess: Mapping[str, Any] | None = None
    classes: str | Sequence[str] | None = None
    licence: str | None = None
    origin: str | None = None
    device: str = "cpu"  # of a torch factory's module
    may_train: bool = True  # the built-in one, where it is not there yet
    tokenizer: str | None = None  # of a file that takes ids: its tokenizer.json


@dataclass(frozen=True, eq=False)
class Asked:
    """A teacher as found: `ask(split, rows, view) -> (rows, k)` as it speaks, before logarithms and order. `embed`: of
    one that reads strings, their vectors (n, k); `names`: what it calls its outputs, where it says so."""

    ask: Callable[[Split, np.ndarray, int], np.ndarray]
    fingerprint: str
    views: int | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    embed: Callable[[Sequence[str]], np.ndarray] | None = None
    names: tuple[str, ...] = ()


def first_line(problem: BaseException) -> str:
    text = str(problem).strip()
    return text.splitlines()[0] if text else type(problem).__name__


def file_of(options: TeacherOptions, folder: Path) -> Path:
    path = (folder / options.path).resolve()
    if not path.is_file():
        raise mistake("teacher", f"names {options.path}, which is not there (looked for {path}).")
    return path


def hash_files(paths: Sequence[Path]) -> str:
    """Stands for the files' bytes, in this order."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            total.update(hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()[:16]


def open_factory(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """`path/file.py:function`, called without arguments, gives a torch.nn.Module with its weights."""
    module, key = load_module(options, folder)
    return ask_module(module, options, task, key)


def load_module(options: TeacherOptions, folder: Path) -> tuple[torch.nn.Module, str]:
    """The factory's module in eval mode on its device, and what stands for its code and weights."""
    make = load(options.path, folder, "teacher")
    try:
        module = make()
    except Exception as problem:  # whatever a user's function raises is the user's to mend
        text = f"{options.path} failed: {type(problem).__name__}: {first_line(problem)}"
        raise mistake("teacher", text) from problem
    if not isinstance(module, torch.nn.Module):
        raise mistake("teacher", f"{options.path} must return a torch.nn.Module. Got {type(module).__name__}.")
    if any(torch.nn.parameter.is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        raise mistake("teacher", f"{options.path} has weights without values (a lazy layer). It must load its weights.")
    door = (folder / options.path.rpartition(":")[0]).resolve()
    key = content_id(hash_files([door, *code_files(module, door.parent)]), hash_weights(module))
    return module.eval().to(options.device), key


def code_files(module: torch.nn.Module, folder: Path) -> list[Path]:
    """The files below the factory's folder that define the module and its parts."""
    found = {Path(file).resolve() for m in module.modules() if (file := source_of(type(m)))}
    return sorted(path for path in found if path.is_relative_to(folder) and path.is_file())


def source_of(kind: type) -> str | None:
    try:
        return inspect.getsourcefile(kind)
    except (TypeError, OSError):
        return None


def open_program(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """A `.pt2` program of torch.export; a batch size fixed at export is kept to."""
    path = file_of(options, folder)
    try:
        program = torch.export.load(path)
    except (RuntimeError, ValueError, OSError, KeyError, AssertionError, zipfile.BadZipFile) as problem:
        raise mistake("teacher", f"{options.path} is no .pt2 program: {first_line(problem)}") from problem
    return ask_module(program.module(), options, task, hash_files([path]), fixed_batch(program))


def fixed_batch(program: torch.export.ExportedProgram) -> int | None:
    """The batch size a program was exported for, None where any will do."""
    users = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in users]
    sizes = [value.shape[0] for value in values if isinstance(value, torch.Tensor) and value.ndim]
    return next((int(size) for size in sizes if isinstance(size, int)), None)


def ask_module(
    module: torch.nn.Module, options: TeacherOptions, task: Task, key: str, batch: int | None = None
) -> Asked:
    device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))

    def run(arrays: Sequence[np.ndarray]) -> np.ndarray:
        inputs = [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]
        try:
            with torch.no_grad():
                said = module(*inputs)
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as problem:
            raise mistake(
                "teacher", f"fails on the data's inputs ({describe(arrays)}): {first_line(problem)}"
            ) from problem
        return pick_output(said, options)

    def ask(split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        return run_batches(run, task.teacher_inputs(split, rows, view, options.preprocess), batch)

    return Asked(ask, key, cost=weigh_module(module))


def weigh_module(module: torch.nn.Module) -> dict[str, float]:
    tensors = [*module.parameters(), *module.buffers()]
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "size_kb": sum(t.numel() * t.element_size() for t in tensors) / 1000,
    }


def describe(arrays: Sequence[np.ndarray]) -> str:
    return ", ".join(f"{array.shape} {array.dtype}" for array in arrays)


def pick_output(said: Any, options: TeacherOptions) -> np.ndarray:
    """The tensor `teacher.output` names: of a mapping by name, of a tuple by position; else the first."""
    if isinstance(said, Mapping):
        name = options.output or next(iter(said))
        if name not in said:
            raise mistake("teacher.output", f"'{name}' is no output of {options.path}. It has {', '.join(said)}.")
        said = said[name]
    elif isinstance(said, tuple | list):
        place = options.output or "0"
        if not place.isdigit() or int(place) >= len(said):
            raise mistake("teacher.output", f"must be a position, 0 to {len(said) - 1}. Got '{place}'.")
        said = said[int(place)]
    if not isinstance(said, torch.Tensor):
        raise mistake("teacher", f"{options.path} must give a tensor. Got {type(said).__name__}.")
    return np.asarray(said.detach().cpu().float().numpy())


Run = Callable[[Sequence[np.ndarray]], np.ndarray]


def run_batches(run: Run, arrays: Sequence[np.ndarray], batch: int | None) -> np.ndarray:
    """Outputs (rows, k), asked in batches of exactly `batch` where that is fixed (the last one filled up)."""
    size = batch or CHUNK
    parts = []
    for start in range(0, len(arrays[0]), size):
        given = [array[start : start + size] for array in arrays]
        count = len(given[0])
        if batch and count < batch:
            given = [np.concatenate([a, np.repeat(a[-1:], batch - count, 0)]) for a in given]
        said = run(given)
        if said.ndim == 0 or len(said) != len(given[0]):
            raise mistake(
                "teacher",
                f"gives outputs of shape {said.shape} for {len(given[0])} rows; one row each is needed.",
            )
        parts.append(said.reshape(len(said), -1)[:count])
    return np.concatenate(parts)


def open_session(path: Path, named: str) -> tuple[onnxruntime.InferenceSession, onnx.ModelProto]:
    """The file ready to run, silent, and its graph without external weights. Raises Mistakes for what is no model."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        return session, onnx.load(path, load_external_data=False)
    except (*ONNX_PROBLEMS, DecodeError) as problem:
        raise mistake("teacher", f"{named} is no ONNX model: {first_line(problem)}") from problem


def open_onnx(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """An ONNX file alone; a batch size fixed in it is kept to."""
    path = file_of(options, folder)
    session, model = open_session(path, options.path)
    files = [path, *external_files(model, path.parent)]
    output, notes = onnx_output(session, options, int(task.body.outputs[0].shape[1]))
    takes = order_inputs(session.get_inputs(), list(task.raw("train", np.arange(1))))
    sizes = [i.shape[0] for i in takes if i.shape]
    batch = next((size for size in sizes if isinstance(size, int)), None)

    def run(arrays: Sequence[np.ndarray]) -> np.ndarray:
        feed = {i.name: cast(a, i, options) for i, a in zip(takes, arrays, strict=True)}
        try:
            said = session.run([output], feed)[0]
        except ONNX_PROBLEMS as problem:
            raise mistake(
                "teacher", f"fails on the data's inputs ({describe(arrays)}): {first_line(problem)}"
            ) from problem
        if not isinstance(said, np.ndarray):
            raise mistake("teacher.output", f"'{output}' of {options.path} gives no tensor but {type(said).__name__}.")
        return said

    def ask(split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        arrays = task.teacher_inputs(split, rows, view, options.preprocess)
        check_onnx_inputs(takes, arrays, options.path)
        return run_batches(run, arrays, batch)

    return Asked(ask, hash_files(files), cost=onnx_cost(model, files), notes=notes)


def onnx_cost(model: onnx.ModelProto, files: Sequence[Path]) -> dict[str, float]:
    return {
        "parameters": int(sum(np.prod(tensor.dims, dtype=np.int64) for tensor in model.graph.initializer)),
        "size_kb": sum(file.stat().st_size for file in files) / 1000,
    }


def onnx_feed(options: TeacherOptions, task: Task, folder: Path) -> dict[str, np.ndarray]:
    """The first validation row as the file takes it, by input name."""
    session = onnxruntime.InferenceSession(str(file_of(options, folder)), providers=["CPUExecutionProvider"])
    takes = order_inputs(session.get_inputs(), list(task.raw("train", np.arange(1))))
    arrays = task.teacher_inputs("val", np.arange(1), 0, options.preprocess)
    return {i.name: cast(a, i, options) for i, a in zip(takes, arrays, strict=True)}


def external_files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """The files that hold weights beside the model."""
    names = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    return sorted(folder / name for name in names)


def onnx_output(session: Any, options: TeacherOptions, wanted: int) -> tuple[str, tuple[str, ...]]:
    """The output to read: the named one, the only one, the only one of the right width, else the first."""
    outputs = session.get_outputs()
    names = [o.name for o in outputs]
    if options.output is not None:
        if options.output not in names:
            raise mistake(
                "teacher.output",
                f"'{options.output}' is no output of {options.path}. It has {', '.join(names)}.",
            )
        return options.output, ()
    fitting = [o.name for o in outputs if "float" in o.type and o.shape and o.shape[-1] == wanted]
    name = fitting[0] if len(fitting) == 1 else names[0]
    return name, () if len(names) == 1 else (f"teacher: of the outputs {', '.join(names)}, '{name}' is taken",)


def order_inputs(inputs: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """The file's inputs in the data's order: by name where the names are the same, else as they stand."""
    by_name = {i.name: i for i in inputs}
    return [by_name[name] for name in names] if set(by_name) == set(names) else list(inputs)


def check_onnx_inputs(wanted: Sequence[Any], arrays: Sequence[np.ndarray], path: str) -> None:
    same = len(wanted) == len(arrays) and all(
        len(i.shape) == a.ndim
        and all(not isinstance(w, int) or w == g for w, g in zip(i.shape[1:], a.shape[1:], strict=True))
        for i, a in zip(wanted, arrays, strict=False)
    )
    if not same:
        ours = ", ".join(f"{a.shape[1:]} {a.dtype}" for a in arrays)
        theirs = ", ".join(f"{i.name} {tuple(i.shape[1:])} {i.type}" for i in wanted)
        raise mistake(
            "teacher.preprocess",
            f"the data gives {ours} a row; {path} takes {theirs}. Set size and layout so that they agree.",
        )


ONNX_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
}  # fmt: skip


def cast(array: np.ndarray, wanted: Any, options: TeacherOptions) -> np.ndarray:
    """The array in the file's own type; fractions are never cut off silently."""
    kind = ONNX_TYPES.get(wanted.type)
    if kind is None:
        raise mistake("teacher", f"{options.path} takes {wanted.name} as {wanted.type}; the data gives {array.dtype}.")
    if np.issubdtype(kind, np.integer) and array.dtype.kind == "f":
        whole = np.rint(array)
        limits = np.iinfo(kind)
        fits = np.allclose(array, whole, atol=1e-2) and limits.min <= whole.min() and whole.max() <= limits.max
        if not fits or whole.max() <= 1:
            raise mistake(
                "teacher.preprocess",
                f"gives {array.dtype} from {array.min():.3g} to {array.max():.3g}; {options.path} takes "
                f"{wanted.name} as {wanted.type}. For whole pixels of 0 to 255 set std to 0.0039215686.",
            )
        array = whole
    return array.astype(kind, copy=False)


def open_stored(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """Outputs without a model, in the clean view: `outputs` (rows, k) in the data's own order, or arrays named
    after the splits, each in the split's order."""
    refuse_preprocess(options, "stored outputs, which take no inputs")
    path = file_of(options, folder)
    try:
        stored = read_stored(path, options.output)
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as problem:
        raise mistake("teacher", f"{options.path} holds no stored outputs: {first_line(problem)}") from problem
    by_split = stored if isinstance(stored, dict) else take_splits(stored, task, options.path)
    check_stored(by_split, task, options.path)
    notes = ("teacher: stored outputs, one clean view; students see no augmentation",)
    return Asked(lambda split, rows, _: by_split[split][rows], hash_files([path]), views=1, notes=notes)


def refuse_preprocess(options: TeacherOptions, what: str) -> None:
    if options.preprocess:
        found = ", ".join(options.preprocess)
        raise mistake("teacher.preprocess", f"is not for {what}. Got {found}; leave it out.")


def read_stored(path: Path, name: str | None) -> np.ndarray | dict[Split, np.ndarray]:
    """(rows, k) float32, or one such array a split."""
    if path.suffix == ".parquet":
        return read_table(pd.read_parquet(path), name)
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz archive")  # noqa: TRY004 - caught with the reader's own
        named = name or "outputs"
        if named in archive:
            return two_columns(archive[named])
        if name is None and "val" in archive:
            return {split: two_columns(archive[split]) for split in SPLITS if split in archive}
        raise ValueError(f"no array '{named}'. It has {', '.join(archive.files)}")


def two_columns(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32).reshape(len(array), -1)


def read_table(frame: pd.DataFrame, name: str | None) -> np.ndarray:
    """A column of lists (`outputs`), or else every column, all numbers."""
    column = name or "outputs"
    if column in frame:
        return two_columns(np.stack([np.asarray(value, np.float32) for value in frame[column]]))
    if name is not None:
        raise ValueError(f"no column '{name}'. It has {', '.join(map(str, frame.columns))}")
    strange = [str(c) for c in frame.columns if frame[c].dtype.kind not in "fiu"]
    if strange:
        raise ValueError(f"columns {', '.join(strange)} are no numbers")
    return two_columns(frame.to_numpy(np.float32))


def take_splits(table: np.ndarray, task: Task, path: str) -> dict[Split, np.ndarray]:
    ids = {split: task.row_ids(split) for split in SPLITS}
    last = max(int(i.max()) for i in ids.values() if len(i))
    if len(table) <= last:
        raise mistake("teacher", f"{path} holds outputs for {len(table)} rows; the data has {last + 1}.")
    return {split: table[i] for split, i in ids.items()}


def check_stored(by_split: Mapping[Split, np.ndarray], task: Task, path: str) -> None:
    for split in SPLITS:
        there, needed = len(by_split.get(split, ())), task.rows(split)
        if needed and there != needed:
            raise mistake("teacher", f"{path} holds outputs for {there} rows of {split}; the data has {needed}.")


def open_digits(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """The teacher of the built-in data: trained by the first run with all labels of train, then kept."""
    if task.classes != tuple(str(i) for i in range(10)) or not hasattr(task, "teacher_train_labels"):
        raise mistake("teacher", "'digits' teaches the built-in data 'digits' alone.")
    refuse_preprocess(options, "the built-in teacher, which has its own")
    module = digits_teacher(task, cache, options.may_train)
    asked = ask_module(module, options, task, hash_weights(module))
    note = "teacher: built in, trained with all labels of train; students keep those of data.keep_labels"
    return replace(asked, notes=(note,))


TEACHERS: dict[str, Callable[[TeacherOptions, Task, Path, Path], Asked]] = {
    "factory": open_factory,
    ".pt2": open_program,
    ".onnx": open_onnx,
    ".npz": open_stored,
    ".parquet": open_stored,
    "digits": open_digits,
}
