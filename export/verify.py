"""Is a student folder whole, and does it give what it gave where it was made? Without torch or onnx."""

from __future__ import annotations

import json
import zipfile
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from export.hashes import hash_file
from export.session import RUNTIME_ERRORS, Runner, largest_difference
from export.steps import check_prompts
from export.text_ids import INSTALL, check_tokenizer, is_untried

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
UNFIT = (
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    OSError,
    zipfile.BadZipFile,
)  # what does not fit together raises
_OWN = {"__pycache__", "node_modules", "build"}


def verify(folder: Path) -> list[str]:
    """What is wrong with the folder, one line each; an empty list means it is good.

    A file whose hash differs is not run. Paths in the manifest that lead out of the folder are never opened.
    """
    manifest = _read_json(folder / "manifest.json")
    if isinstance(manifest, str):
        return [manifest]
    schema = json.loads((resources.files("export") / "manifest.schema.json").read_text(encoding="utf-8"))
    problems = check_schema(manifest, schema, schema["$defs"], "manifest.json")
    if problems:
        return problems
    problems = _check_files(folder, manifest["files"])
    if (folder / "model.onnx").is_file() and (folder / "model.onnx").stat().st_size != manifest["size_bytes"]:
        problems.append("model.onnx is not of the size_bytes in manifest.json")
    return problems or _check_golden(folder, manifest)


def list_untried(folder: Path) -> list[str]:
    """Of a folder that `verify` finds good: what could not be tried here, with the command that helps."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    untried = is_untried(manifest["preprocessing"])
    return [f"its tokenizer was not tried, for the package tokenizers is not here: {INSTALL}"] if untried else []


def check_schema(value: Any, schema: dict[str, Any], defs: dict[str, Any], where: str) -> list[str]:
    """The part of JSON schema that the manifest's own uses; keys it does not name are allowed."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].removeprefix("#/$defs/")]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    allowed = {"boolean"} & set(kinds) if isinstance(value, bool) else kinds
    if kinds and not any(isinstance(value, _TYPES[kind]) for kind in allowed):
        return [f"{where} must be {' or '.join(kinds)}. Got {_short(value)}"]
    problems = []
    if isinstance(value, dict):
        problems += [f"{where} lacks {key!r}" for key in schema.get("required", []) if key not in value]
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key, inner in value.items():
            rule = known.get(key, others)
            problems += check_schema(inner, rule, defs, f"{where}: {key}") if rule else []
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            problems.append(f"{where} must not be empty")
        for i, inner in enumerate(value):
            problems += check_schema(inner, schema.get("items", {}), defs, f"{where}[{i}]")
    elif isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        problems.append(f"{where} must be {_range(schema)}. Got {value}")
    if "enum" in schema and value not in schema["enum"]:
        problems.append(f"{where} must be one of {', '.join(schema['enum'])}. Got {_short(value)}")
    return problems


def _range(schema: dict[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    return f"at least {least}" if most is None else f"within {least}..{most}"


def _read_json(path: Path) -> dict[str, Any] | str:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        return f"{path.name} is not JSON: {error}"
    return data if isinstance(data, dict) else f"{path.name} must hold an object. Got {_short(data)}"


def _check_files(folder: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    problems = []
    for name, entry in files.items():
        path = folder / name
        if not _is_inside(folder, name):
            problems.append(f"manifest.json: files: {name!r} leads out of the folder")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif hash_file(path) != entry["sha256"]:
            problems.append(f"{name} is not the file that was shipped: its sha256 differs")
        elif path.stat().st_size != entry["size_bytes"]:
            problems.append(f"{name} is not of the size_bytes in manifest.json")
    return problems + [f"{name} is not in manifest.json" for name in _unlisted(folder, files)]


def _is_inside(folder: Path, name: str) -> bool:
    """No absolute path, no step up, and no link on the way: what is shipped holds none."""
    pure = (PurePosixPath(name), PureWindowsPath(name))
    if not name or "\0" in name or any(p.is_absolute() or p.drive or ".." in p.parts for p in pure):
        return False
    return not any((folder / part).is_symlink() for part in (PurePosixPath(name), *PurePosixPath(name).parents[:-1]))


def _unlisted(folder: Path, files: dict[str, Any]) -> list[str]:
    """Files and links beside those listed; hidden files, caches, packages and builds come about by themselves."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return [
        path.as_posix()
        for path in found
        if path.as_posix() not in {*files, "manifest.json"}
        and not any(part.startswith(".") or part in _OWN for part in path.parts)
    ]


def _check_golden(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Run the golden inputs through the shipped file."""
    golden = _read_json(folder / "golden.json")
    if isinstance(golden, str):
        return [golden]
    try:
        inputs, expected = _load_golden(folder / "golden.npz", golden)
        tolerances = _read_tolerances(golden)
    except UNFIT as error:
        return [f"golden.json and golden.npz do not fit together: {type(error).__name__} {error}"]
    try:
        problems = check_tokenizer(folder, manifest, golden, inputs.get("input_ids"))
    except UNFIT as error:
        return [f"the tokenizer cannot be tried on the golden texts: {type(error).__name__} {error}"]
    if problems:
        return problems
    try:
        runner = Runner(folder / "model.onnx")
        problems = _check_ends(runner, manifest)
        if problems:
            return problems
        outputs = dict(zip([spec["name"] for spec in manifest["outputs"]], runner.all_outputs(inputs), strict=True))
    except (*RUNTIME_ERRORS, ValueError) as error:
        return [f"model.onnx does not run on its golden inputs: {str(error).splitlines()[0]}"]
    return _compare(outputs, expected, tolerances) or _check_text(folder, runner, manifest, golden)


def _check_text(folder: Path, runner: Runner, manifest: dict[str, Any], golden: dict[str, Any]) -> list[str]:
    """Of a student that writes, its golden prompts."""
    if "prompts" not in golden:
        return []
    try:
        return check_prompts(folder, runner, manifest["preprocessing"], golden)
    except (*UNFIT, *RUNTIME_ERRORS) as error:
        return [f"golden prompts do not fit model.onnx: {type(error).__name__} {str(error).splitlines()[0]}"]


def _check_ends(runner: Runner, manifest: dict[str, Any]) -> list[str]:
    ends = {"inputs": runner.session.get_inputs(), "outputs": runner.session.get_outputs()}
    found = {side: [end.name for end in values] for side, values in ends.items()}
    stated = {side: [spec["name"] for spec in manifest[side]] for side in ends}
    return [
        f"manifest.json: {side} must be {', '.join(found[side])}, as in model.onnx. Got {', '.join(stated[side])}"
        for side in ends
        if found[side] != stated[side]
    ]


def _load_golden(path: Path, golden: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as arrays:
        inputs, outputs = (
            {name: arrays[entry["key"]] for name, entry in golden[side].items()} for side in ("inputs", "outputs")
        )
    return inputs, outputs


def _read_tolerances(golden: dict[str, Any]) -> dict[str, float]:
    """By output: its own, as a guard has, else the one of all."""
    tolerances = {name: float(entry.get("tolerance", golden["tolerance"])) for name, entry in golden["outputs"].items()}
    for tolerance in tolerances.values():
        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"tolerance must be finite and not negative. Got {tolerance}")
    return tolerances


def _compare(
    outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerances: dict[str, float]
) -> list[str]:
    if outputs.keys() != expected.keys():
        return [f"golden.json must expect {', '.join(outputs)}. Got {', '.join(expected) or 'nothing'}"]
    problems = []
    for name, wanted in expected.items():
        if outputs[name].shape != wanted.shape:
            problems.append(f"golden output {name} has shape {wanted.shape}, the file gives {outputs[name].shape}")
            continue
        largest = largest_difference(outputs[name], wanted)
        if not largest <= tolerances[name]:
            problems.append(f"golden output {name} is off by {largest:.3g}. Allowed: {tolerances[name]:.3g}")
    return problems


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
