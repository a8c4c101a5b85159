"""`build-family init`: look at the data and write a commented budgets.yaml for it."""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from family.errors import Mistakes, mistake
from family.spec_checks import TASKS
from family.split_names import USUAL
from family.suggest import did_you_mean

TABLES = (".npz", ".csv", ".parquet", ".jsonl")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
SPLITS = ("train", "val", "test")
LABELS = ("label", "labels", "target", "targets", "class", "category", "y", "outcome", "species", "score")
FORMATS = "a folder of class folders, .npz, .csv, .parquet, .jsonl, a saved Hugging Face dataset, or digits"
PEEKED = 200  # image files whose size is read
PROSE = 4  # words from which text is read, not a category
LARGEST_INPUT = 96  # pixels a side; larger images are shrunk for the students


@dataclass(frozen=True)
class Column:
    """One array or column: `shape` without its rows; kind: number, whole, text, prose, class or image."""

    name: str
    kind: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Findings:
    """What the data looks like. task and label are None where they need no mention or cannot be guessed."""

    said: str
    task: str | None = None
    label: str | None = None
    ready_splits: tuple[str, ...] = ()
    student_input: int | None = None
    sides: tuple[int, ...] = ()
    text: str | None = None  # the column that is read


def init(arguments: Sequence[str]) -> int:
    """Write the file. Returns 0, or 2 after one line on stderr about each mistake."""
    options = build_parser().parse_args(arguments)
    try:
        return write(options)
    except Mistakes as problem:
        for one in problem.mistakes:
            print(f"{one.where} {one.message}".strip(), file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build-family init", description="Look at your data and write a commented budgets.yaml for it."
    )
    parser.add_argument("path", nargs="?", metavar="PATH", help=f"{FORMATS}; default: what lies here")
    parser.add_argument("--task", choices=TASKS, help="default: guessed from the data")
    parser.add_argument(
        "--teacher", metavar="T", help=".onnx, .pt2, file.py:function or stored outputs (.npz, .parquet)"
    )
    parser.add_argument("--label", metavar="L", help="array or column with the labels; default: guessed")
    parser.add_argument("--out", type=Path, default=Path("budgets.yaml"), metavar="FILE")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    return parser


def write(options: argparse.Namespace) -> int:
    out: Path = options.out
    data = options.path or find_data(Path())
    found = look_at(data, options.task, options.label)
    check_out(out, options.force)
    teacher = choose_teacher(options.teacher, data)
    text = compose(found, place(data, out), place(teacher, out) if teacher else None)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise mistake("--out", f"{out} cannot be written: {problem.strerror}.") from problem
    print(f"{data}: {found.said}.")
    print(f"Wrote {out}. Next: {say_next(out, teacher)}")
    return 0


def say_next(out: Path, teacher: str | None) -> str:
    command = f"build-family --budgets {out} --dry-run"
    if teacher:
        return command
    models = list_models()
    here = f" (here lie {', '.join(models[:6])})" if models else ""
    return f"name your teacher in it{here}, then {command}"


def list_models() -> list[str]:
    return [p.name for ending in ("*.onnx", "*.pt2") for p in sorted(Path().glob(ending))]


def check_out(out: Path, force: bool) -> None:
    if out.is_dir():
        raise mistake("--out", f"{out} is a folder; name a file, such as {out / 'budgets.yaml'}.")
    if out.exists() and not force:
        raise mistake("--out", f"{out} is there already; choose another with --out, or say --force.")
    if not out.parent.is_dir():
        raise mistake("--out", f"{out}: there is no folder {out.parent}.")


def find_data(folder: Path) -> str:
    """The one thing in `folder` that can be data; digits where there is none."""
    found = [p.name for p in sorted(folder.iterdir()) if not p.name.startswith((".", "runs")) and can_be_data(p)]
    if len(found) > 1:
        raise mistake("PATH", f"must be given, as several things here can be data: {', '.join(found[:6])}.")
    if not found:
        print("No data here; taking the built-in digits. Name yours with: build-family init PATH")
    return found[0] if found else "digits"


def can_be_data(path: Path) -> bool:
    if path.is_dir():
        return is_hugging_face(path) or next(find_images(path), None) is not None
    return path.suffix in TABLES


def is_hugging_face(folder: Path) -> bool:
    return (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file()


def find_images(folder: Path) -> Any:
    """Image files in class folders, or in class folders of train, val and test."""
    for ending in ("*/*", "*/*/*"):
        yield from (p for p in folder.glob(ending) if p.suffix.lower() in IMAGES)


def choose_teacher(given: str | None, data: str) -> str | None:
    """What was given, when it is there; else digits for digits, or the one model that lies here."""
    if given is None:
        models = list_models()
        return "digits" if data == "digits" else models[0] if len(models) == 1 else None
    file = given.rpartition(":")[0] if ".py:" in given else given
    if given != "digits" and not Path(file).exists():
        beside = [p.name for p in Path(file).parent.iterdir()] if Path(file).parent.is_dir() else []
        near = did_you_mean(Path(file).name, beside)
        raise mistake("--teacher", f"{given} is not there (looked for {Path(file).resolve()}).{near}")
    return given


def place(given: str, out: Path) -> str:
    """`given`, from here, as the file in `out` must name it."""
    if given == "digits" and not Path(given).exists():
        return given
    return Path(os.path.relpath(Path(given), out.parent)).as_posix()


def look_at(data: str, task: str | None, label: str | None) -> Findings:
    """Raises Mistakes where `data` is not there, cannot be read, or has no such label."""
    path = Path(data)
    if data == "digits" and not path.exists():
        return Findings("images of 8 × 8 that ship with scikit-learn", task or "images")
    if ".py:" in data and Path(data.rpartition(":")[0]).is_file():
        return Findings("what your function returns", task, label)
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise mistake("PATH", f"{data} is not there (looked for {path.resolve()}).{did_you_mean(path.name, beside)}")
    if path.is_dir() and not is_hugging_face(path):
        if label is not None:
            raise mistake("--label", f"is not for class folders: the folders' names are the labels. Got {label!r}.")
        return look_at_folder(path, task)
    if path.is_file() and path.suffix not in TABLES:
        raise mistake("PATH", f"must be {FORMATS}. Got {data}.")
    columns, splits = read_columns(path)
    return look_at_columns(columns, splits, task, label)


def look_at_folder(folder: Path, task: str | None) -> Findings:
    """Class folders; the students' input is set where sizes vary or are large."""
    from PIL import Image, UnidentifiedImageError

    ready = find_splits(child.name for child in folder.iterdir() if child.is_dir())
    inside = sorted(folder.glob("*/*/*" if ready else "*/*"))
    files = [*islice((p for p in inside if is_image(p)), 10**6)]
    texts = [p for p in inside if p.suffix.lower() == ".txt"]
    if texts and not files:
        classes = {file.parent.name for file in texts}
        return Findings(f"texts, {len(texts)} files in {len(classes)} class folders", task or "text", None, ready)
    if not files:
        raise mistake("PATH", f"{folder} has no images in class folders ({', '.join(IMAGES)}).")
    sides: Counter[tuple[int, int]] = Counter()
    for file in files[:: max(1, len(files) // PEEKED)]:
        try:
            with Image.open(file) as picture:
                sides[picture.size] += 1
        except (OSError, UnidentifiedImageError, SyntaxError):
            continue  # the run itself names broken files
    classes = {file.parent.name for file in files}
    said = f"images, {len(files)} files in {len(classes)} class folders"
    smallest = min((min(side) for side in sides), default=LARGEST_INPUT)
    vary = len(sides) > 1 or smallest > LARGEST_INPUT
    side = max(8, min(LARGEST_INPUT, smallest // 8 * 8))
    edges = tuple(sorted({edge for pair in sides for edge in pair}))
    return Findings(said, task or "images", None, ready, side if vary else None, edges if vary else ())


def find_splits(names: Iterable[str]) -> tuple[str, ...]:
    """Train, val (if any) and test by their usual names; nothing where there is no train or no test."""
    lowered = {name.lower(): name for name in names}
    found = {split: [lowered[n] for n in USUAL[split] if n in lowered] for split in SPLITS}
    return tuple(found[split][0] for split in SPLITS if found[split]) if found["train"] and found["test"] else ()


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGES


def read_columns(path: Path) -> tuple[list[Column], tuple[str, ...]]:
    """Columns, and the names of ready-made splits. Raises Mistakes where the file cannot be read."""
    try:
        if path.is_dir():
            return read_hugging_face(path)
        readers = {".npz": read_npz, ".csv": read_csv, ".parquet": read_parquet, ".jsonl": read_jsonl}
        return readers[path.suffix](path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, struct.error, zipfile.BadZipFile) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise mistake("PATH", f"{path} cannot be read: {reason}") from problem


def read_npz(path: Path) -> tuple[list[Column], tuple[str, ...]]:
    import numpy as np

    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    split = arrays.get("split")
    kinds = {"i": "whole", "u": "whole", "b": "class", "U": "text", "S": "text"}
    columns = [Column(n, kinds.get(a.dtype.kind, "number"), a.shape[1:]) for n, a in arrays.items()]
    return columns, () if split is None else tuple(np.unique(split.astype(str)).tolist())


def read_csv(path: Path) -> tuple[list[Column], tuple[str, ...]]:
    import pandas as pd

    return read_frame(pd.read_csv(path, nrows=5000))


def read_jsonl(path: Path) -> tuple[list[Column], tuple[str, ...]]:
    import pandas as pd

    with path.open(encoding="utf-8-sig") as file:
        rows = [json.loads(line) for line in islice(file, 5000) if line.strip()]
    return read_frame(pd.DataFrame(rows))


def read_parquet(path: Path) -> tuple[list[Column], tuple[str, ...]]:
    import pyarrow.parquet as parquet

    batches = parquet.ParquetFile(path).iter_batches(batch_size=1000)
    first = next(batches, None)
    if first is None:
        raise ValueError("it has no rows")
    return read_frame(first.to_pandas())


def read_frame(frame: Any) -> tuple[list[Column], tuple[str, ...]]:
    columns = [Column(str(name), guess_kind(frame[name])) for name in frame.columns]
    splits = frame["split"].dropna().astype(str).unique().tolist() if "split" in frame else []
    return columns, tuple(sorted(splits))


def guess_kind(column: Any) -> str:
    first = next(iter(column.dropna()), None)
    if isinstance(first, bytes) or (isinstance(first, dict) and "bytes" in first):
        return "image"
    if isinstance(first, str) and column.dropna().astype(str).str.split().str.len().mean() >= PROSE:
        return "prose"
    return {"i": "whole", "u": "whole", "b": "class", "f": "number"}.get(column.dtype.kind, "text")


def read_hugging_face(path: Path) -> tuple[list[Column], tuple[str, ...]]:
    """From dataset_info.json alone; needs no datasets package."""
    parts = path / "dataset_dict.json"
    splits = json.loads(parts.read_text(encoding="utf-8"))["splits"] if parts.is_file() else []
    folder = path / splits[0] if splits else path
    features = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))["features"]
    kinds = {"Image": "image", "ClassLabel": "class"}
    columns = [Column(n, kinds.get(f.get("_type"), guess_feature(f))) for n, f in features.items()]
    return columns, tuple("val" if s in ("validation", "valid") else s for s in splits)


def guess_feature(feature: Any) -> str:
    dtype = str(feature.get("dtype", ""))
    return "whole" if "int" in dtype else "number" if "float" in dtype else "text"


def look_at_columns(columns: list[Column], splits: tuple[str, ...], task: str | None, label: str | None) -> Findings:
    chosen = choose_label(columns, label)
    inputs = [c for c in columns if c.name not in (chosen, "split")]
    if not inputs:
        raise mistake("PATH", f"holds no input beside the labels '{chosen}'.")
    kind, what = guess_task(inputs)
    said = f"{what}; labels in '{chosen}'" + (f"; splits {', '.join(splits)}" if splits else "")
    sides = next((c.shape for c in inputs if kind == "images" and c.shape), ())
    large = kind == "images" and (not sides or max(sides) > LARGEST_INPUT)
    texts = tuple(c.name for c in inputs if c.kind in ("prose", "text"))
    texts = tuple(c.name for c in inputs if c.kind == "prose")[:1] or texts
    text = texts[0] if texts and (task or kind) == "text" else None
    return Findings(said, task or kind, chosen, splits, LARGEST_INPUT if large else None, text=text)


def choose_label(columns: list[Column], given: str | None) -> str:
    """What was given; a column named like a label; the one class or one-dimensional array; a table's last."""
    names = [c.name for c in columns]
    if given is not None:
        if given not in names:
            near = did_you_mean(given, names)
            raise mistake("--label", f"'{given}' is not there. Found: {', '.join(names)}.{near}")
        return given
    able = [c for c in columns if c.name != "split" and c.kind not in ("image", "prose") and not c.shape]
    lowered = {c.name.lower(): c.name for c in reversed(able)}
    for name in LABELS:
        if name in lowered:
            return lowered[name]
    classes = [c for c in able if c.kind == "class"]
    if len(classes) == 1 or not able:
        return only_label(classes, names)
    return able[-1].name


def only_label(classes: list[Column], names: list[str]) -> str:
    if not classes:
        raise mistake("--label", f"must be given, as nothing looks like labels. Found: {', '.join(names)}.")
    return classes[0].name


def guess_task(inputs: list[Column]) -> tuple[str | None, str]:
    """The task as `data` will be read, and a few words; no task where there are several plain inputs."""
    if any(c.kind == "image" for c in inputs):
        return "images", "encoded images"
    prose = [c.name for c in inputs if c.kind == "prose"]
    if prose:
        return "text", f"texts in '{prose[0]}'"
    arrays = [c for c in inputs if c.name != "length" and c.shape]
    if len(arrays) == 1 and len(arrays[0].shape) == 2 and len(arrays) < len(inputs):
        return "series", f"series of {arrays[0].shape[0]} channels, {arrays[0].shape[1]} steps"
    if len(arrays) == 1 and len(arrays[0].shape) >= 2:
        return "images", f"images of shape {arrays[0].shape}"
    if len(arrays) == 1:
        return "table", f"a table of {arrays[0].shape[0]} numbers"
    if arrays:
        return None, f"several inputs: {', '.join(c.name for c in arrays)}"
    return "table", f"a table of {len(inputs)} columns"


SPACES = {
    "images": ("conv", "{width: [4, 48], depth: [1, 3]}"),
    "series": ("encoder", "{width: [8, 48], depth: [1, 3]}"),
    "table": ("mlp", "{width: [8, 96], depth: [1, 3]}"),
    "text": ("static", "{width: [16, 128], depth: [0, 1]}"),
}
COSTS = {"images": (25, 80, 0.4), "series": (40, 90, 0.1), "table": (16, 50, 0.05), "text": (30, 100, 0.05)}
DIGITS = (6, 9, 0.03)


def compose(found: Findings, data: str, teacher: str | None) -> str:
    """The file's text."""
    task = found.task or "table"
    space, dims = SPACES[task]
    tiny, small, fast = DIGITS if data == "digits" else COSTS[task]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(data).stem).strip("-.") or "family"
    return "\n".join(
        [
            "# " + "".join(c if c.isprintable() else " " for c in found.said),
            "# Check it, and see how long it takes: build-family --budgets THIS-FILE --dry-run",
            "# Every key and its default: build-family schema",
            f"name: {quote(name)}",
            "seed: 0",
            *([f"task: {found.task:20} # images | table | series | text | file.py:function"] if found.task else []),
            "",
            *write_data(found, data),
            "",
            *write_teacher(teacher, task),
            "",
            "students:",
            f"  space: {space:18} # mlp | conv | encoder | static | file.py:function",
            *write_input(found),
            f"  dims: {dims}   # what the search may choose from",
            "",
            "budgets:                    # one student for each; the limits are a first guess: put in yours",
            f"  tiny:  {{target: cpu, size_kb: {tiny}}}",
            f"  small: {{target: cpu, size_kb: {small}}}",
            f"  fast:  {{target: cpu, latency_ms: {fast}}}",
            "  best:  {target: cpu}      # no limit: the cheapest that is not shown to be worse than the best",
            "",
            "# distill: {views: 8, control_seeds: 3}",
            "search: {trials: 30, minutes: 20}",
            "# export: {precisions: [fp32, int8], guard: auto}",
            "",
        ]
    )


def write_data(found: Findings, data: str) -> list[str]:
    lines = ["data:", f"  path: {quote(data)}"]
    if found.label:
        lines.append(f"  label: {quote(found.label)}          # the array or column with the labels")
    if found.text:
        lines.append(f"  text: {quote(found.text)}           # the column that is read; or a list of several")
    if ready := find_splits(found.ready_splits):
        cut = "" if len(ready) == 3 else "; val is cut off train"
        return [*lines, f"  # its own splits {', '.join(ready[:-1])} and {ready[-1]} are used{cut}"]
    if data != "digits":
        lines += [
            "  split: {val: 0.15, test: 0.15}",
            "  # group: patient         # rows with the same value never straddle splits",
            "  # transfer: more/        # unlabelled examples; the teacher labels them",
        ]
        return lines
    return [*lines, "  keep_labels: 200         # of train; the rest is labelled by the teacher alone"]


PREPROCESS = [
    "  # what it was trained on: pixels scaled to 0..1, then (p - mean) / std. Without this it gets what the",
    "  # students get, which is wrong for a model that was trained on normalised pixels. Leave out what it needs not.",
    "  # preprocess: {size: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225],",
    "  #              layout: nchw, channels: rgb}",
]


def write_teacher(teacher: str | None, task: str) -> list[str]:
    if teacher == "digits":
        return ["teacher: digits           # trained by the first run, then kept"]
    more = [
        "  gives: auto              # logits | probabilities | auto",
        "  # classes: classes.txt   # a text file, one class a line: its outputs' order, where it is not the data's",
        *(PREPROCESS if task == "images" else []),
    ]
    if teacher is None:
        return [
            "teacher:",
            "  path: teacher.onnx       # PUT IN YOURS: .onnx, .pt2, file.py:function, .npz or .parquet",
            *more,
        ]
    return ["teacher:", f"  path: {quote(teacher)}", *more]


def write_input(found: Findings) -> list[str]:
    if found.student_input is None:
        return []
    why = f"the data's sides: {found.sides[0]} to {found.sides[-1]}" if found.sides else "pixels a side"
    return [f"  input: {found.student_input:<18} # {why}; smaller is faster"]


def quote(text: str) -> str:
    """As YAML, plain where that is read back as this text."""
    plain = re.fullmatch(r"[A-Za-z_./][\w./:+-]*[\w/]|[A-Za-z_]", text, re.ASCII)
    word = text.lower() in ("y", "n", "yes", "no", "on", "off", "true", "false", "null", ".inf", ".nan")
    number = re.fullmatch(r"[+-]?[\d._]+(e[+-]?\d+)?", text)
    return text if plain and not word and not number else f'"{"".join(map(escape, text))}"'


def escape(character: str) -> str:
    """As it stands between double quotes in YAML."""
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08X}"
