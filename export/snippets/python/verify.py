"""Is the student folder two above whole, and does it give what it gave where it was made? `python verify.py`.

Needs numpy and onnxruntime alone. Prints what is wrong, a line each, or ok; exit code 1 or 0. A file whose hash
differs is not run, and a path that leads out of the folder is not opened. A tokenizer is tried where the package
tokenizers is installed; where it is not, that is said.
"""

import hashlib
import json
import math
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnxruntime

FOLDER = Path(__file__).resolve().parents[2]
TYPES: dict = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
ALWAYS = {"model.onnx", "golden.json", "golden.npz"}


def check_schema(value: object, schema: dict, defs: dict, where: str) -> list[str]:
    """Types, required keys, choices and bounds, as far as manifest.schema.json uses JSON schema."""
    schema = defs[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    allowed = {"boolean"} & set(kinds) if isinstance(value, bool) else kinds
    if kinds and not any(isinstance(value, TYPES[kind]) for kind in allowed):
        return [f"{where} must be {' or '.join(kinds)}"]
    problems = []
    if isinstance(value, dict):
        problems += [f"{where} lacks {key!r}" for key in schema.get("required", []) if key not in value]
        for key, inner in value.items():
            rule = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            problems += check_schema(inner, rule, defs, f"{where}: {key}") if rule else []
    elif isinstance(value, list):
        problems += [f"{where} must not be empty"] if len(value) < schema.get("minItems", 0) else []
        for i, inner in enumerate(value):
            problems += check_schema(inner, schema.get("items", {}), defs, f"{where}[{i}]")
    elif "enum" in schema and value not in schema["enum"]:
        problems.append(f"{where} must be one of {', '.join(schema['enum'])}")
    elif isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        problems.append(f"{where} is out of bounds")
    return problems


def check_manifest(folder: Path) -> list[str]:
    try:
        manifest, schema = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("manifest.json", "manifest.schema.json")
        )
    except (OSError, ValueError, RecursionError) as error:
        return [f"manifest.json and manifest.schema.json cannot be read: {error}"]
    return check_schema(manifest, schema, schema["$defs"], "manifest.json") or check_files(folder, manifest["files"])


def check_files(folder: Path, files: dict) -> list[str]:
    problems = []
    for name, entry in files.items():
        path = folder / name
        if not is_inside(folder, name):
            problems.append(f"manifest.json: {name!r} leads out of the folder")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            problems.append(f"{name} is not the file that was shipped: its sha256 differs")
    listed = {*files, "manifest.json"}
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    unlisted = (path.as_posix() for path in found if path.as_posix() not in listed and not comes_about(path))
    return problems + [f"{name} is not in manifest.json" for name in sorted({*unlisted, *ALWAYS - set(files)})]


def check_tokenizer(folder: Path) -> list[str]:
    """Of a student of texts, or one that writes: whether its tokenizer gives the golden ids."""
    manifest, golden = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("manifest.json", "golden.json")
    )
    front = manifest["preprocessing"] or {}
    if front.get("kind") not in ("text", "step"):
        return []
    if front.get("tokenizer") not in manifest["files"]:
        return [f"manifest.json: preprocessing: tokenizer must be one of its files. Got {front.get('tokenizer')!r}"]
    if find_spec("tokenizers") is None:
        print("the tokenizer was not tried: pip install tokenizers")
        return []
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / front["tokenizer"]))
        wanted = list_golden_ids(folder, front, golden)
        read = [text[: front.get("characters")] for text, _ in wanted]
        found = [tokenizer.encode(text, add_special_tokens=False).ids for text in read]
    except Exception as error:  # noqa: BLE001  tokenizers raises no narrower one
        return [f"the tokenizer cannot be tried on the golden texts: {type(error).__name__} {error}"]
    if front["kind"] == "text":
        found = [ids[: front["length"]] or [front["nothing"]] for ids in found]
    else:
        found = [[front["start"], *ids] for ids in found]
    kind = "text" if front["kind"] == "text" else "prompt"
    return [
        f"the tokenizer gives other ids than are golden for {kind} {i + 1}"
        for i, (ids, (_, own)) in enumerate(zip(found, wanted, strict=True))
        if ids != own
    ]


def list_golden_ids(folder: Path, front: dict, golden: dict) -> list[tuple[str, list[int]]]:
    """Golden texts, or prompts, with their ids, padding left out."""
    if front["kind"] == "step":
        return [(entry["prompt"], entry["ids"]) for entry in golden["prompts"]]
    rows = read_golden(folder)[0]["input_ids"]
    used = [np.flatnonzero(row != front["pad"]) for row in rows]
    own = [[int(i) for i in row[: places[-1] + 1]] for row, places in zip(rows, used, strict=True)]
    return list(zip(golden["texts"], own, strict=True))


def is_inside(folder: Path, name: str) -> bool:
    """No absolute path, no step up, and no link on the way: what is shipped holds none."""
    pure = (PurePosixPath(name), PureWindowsPath(name))
    if not name or "\0" in name or any(p.is_absolute() or p.drive or ".." in p.parts for p in pure):
        return False
    return not any((folder / part).is_symlink() for part in (PurePosixPath(name), *PurePosixPath(name).parents[:-1]))


def comes_about(path: Path) -> bool:
    """What Python, npm, compilers and the system put beside the files."""
    own = {"__pycache__", "node_modules", "build"}
    return any(part.startswith(".") or part in own for part in path.parts)


def check_golden(folder: Path) -> list[str]:
    try:
        inputs, expected, tolerances = read_golden(folder)
    except (AttributeError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        return [f"golden.json and golden.npz do not fit together: {type(error).__name__} {error}"]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    if names != list(expected):
        return [f"golden.json must expect {', '.join(names)}. Got {', '.join(expected) or 'nothing'}"]
    problems = []
    for name, found in zip(names, session.run(None, inputs), strict=True):
        if found.shape != expected[name].shape:
            problems.append(f"golden output {name} has shape {expected[name].shape}, the file gives {found.shape}")
            continue
        largest = float(np.abs(found - expected[name]).max())
        if not largest <= tolerances[name]:
            problems.append(f"golden output {name} is off by {largest:.3g}. Allowed: {tolerances[name]:.3g}")
    return problems


def read_golden(folder: Path) -> tuple[dict, dict, dict]:
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        inputs = {name: arrays[entry["key"]] for name, entry in golden["inputs"].items()}
        expected = {name: arrays[entry["key"]] for name, entry in golden["outputs"].items()}
    tolerances = {n: float(entry.get("tolerance", golden["tolerance"])) for n, entry in golden["outputs"].items()}
    for tolerance in tolerances.values():
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance must be finite and not negative. Got {tolerance}")
    return inputs, expected, tolerances


def main() -> int:
    problems = check_manifest(FOLDER) or check_golden(FOLDER) or check_tokenizer(FOLDER)
    print("\n".join(problems) or "ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
