"""A student folder: everything an edge app takes, self-contained and hashed."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx

from export.front import Front
from export.graphs import describe, read_specs
from export.hashes import hash_file
from export.plain import read_picture, write_plain
from export.session import Runner
from export.signatures import front_data
from export.types import Artifact

FORMAT = 1
COMPUTED = (
    "format",
    "inputs",
    "outputs",
    "picture",
    "with_tokenizer",
    "opset",
    "operators",
    "precision",
    "size_bytes",
    "download_bytes",
    "files",
)
LANGUAGES = ("python", "javascript", "c", "cpp", "kotlin", "swift")
# Another machine's kernels round elsewhere: float32 in the last digits, int8 by a step of some activation.
RELATIVE_TOLERANCE = dict.fromkeys(("fp32", "int8-weights", "fp16-weights"), 1e-4)
QUANTISED_TOLERANCE = 0.05
GUARD_TOLERANCE = dict.fromkeys(RELATIVE_TOLERANCE, 1e-3)  # squares of distances in directions of little variance
QUANTISED_GUARD = 0.1


def write_student(
    folder: Path,
    artifact: Artifact,
    manifest: Mapping[str, Any],
    golden: Mapping[str, np.ndarray],
    card: str,
    beside: Sequence[Path] = (),
) -> Path:
    """Write the folder of one student beside, then rename; an older folder is replaced.

    `manifest` gives what the file itself does not say: `classes` (or None), `preprocessing` (a front),
    `teacher` (`licence` and `origin` as given, or None), `guard` where the file has one, and whatever else an app
    should know. `golden` is raw inputs; the outputs to expect are what the shipped file gives. `beside`: further
    files, which ship under their own names. Raises ValueError where `manifest` names a computed key, lacks one of the
    first three, or names a guard that the file has not.
    """
    check_given(manifest)
    given = dict(manifest)
    if isinstance(given["preprocessing"], get_args(Front)):
        given["preprocessing"] = front_data(given["preprocessing"])
    given["picture"] = read_picture(given["preprocessing"], golden)

    def fill(draft: Path) -> None:
        write_golden(draft, artifact.precision, golden, given)
        write_snippets(draft, str(given.get("name", "student")), "", {language: [language] for language in LANGUAGES})

    return write_folder(folder, artifact, given, card, beside, fill)


def write_folder(
    folder: Path,
    artifact: Artifact,
    given: Mapping[str, Any],
    card: str,
    beside: Sequence[Path],
    fill: Callable[[Path], None],
) -> Path:
    """What every student's folder has; `fill` writes what is its own into the draft, where `model.onnx` lies."""
    draft = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    shutil.copyfile(artifact.path, draft / "model.onnx")
    for file in beside:
        shutil.copyfile(file, draft / file.name)
    fill(draft)
    (draft / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    write_json(draft / "manifest.json", _fill_manifest(draft, artifact, given))
    _replace(folder, draft)
    return folder


def check_given(manifest: Mapping[str, Any]) -> None:
    computed = sorted(set(COMPUTED) & set(manifest))
    if computed:
        raise ValueError(f"the manifest's {', '.join(computed)} are read from the file, not given")
    missing = [key for key in ("classes", "preprocessing", "teacher") if key not in manifest]
    if missing:
        raise ValueError(f"the manifest needs {', '.join(missing)} (None where there is none)")


def _fill_manifest(draft: Path, artifact: Artifact, given: Mapping[str, Any]) -> dict[str, Any]:
    shipped = describe(draft / "model.onnx", artifact.precision)
    graph = onnx.load(draft / "model.onnx").graph
    return {
        "format": FORMAT,
        "inputs": [asdict(spec) for spec in read_specs(graph.input)],
        "outputs": [asdict(spec) for spec in read_specs(graph.output)],
        **given,
        "opset": shipped.opset,
        "operators": shipped.operators,
        "precision": shipped.precision,
        "size_bytes": shipped.size_bytes,
        "download_bytes": len(gzip.compress((draft / "model.onnx").read_bytes(), compresslevel=9, mtime=0)),
        "files": _hash_files(draft),
    }


def _hash_files(draft: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    return {
        path.relative_to(draft).as_posix(): {"sha256": hash_file(path), "size_bytes": path.stat().st_size}
        for path in files
    }


def write_golden(draft: Path, precision: str, golden: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> None:
    """All rows as `.npz`; the first alone, run alone, also as plain files."""
    runner = Runner(draft / "model.onnx")
    outputs = run_named(runner, golden)
    arrays = {f"input/{name}": array for name, array in golden.items()}
    arrays |= {f"output/{name}": array for name, array in outputs.items()}
    np.savez_compressed(draft / "golden.npz", **arrays)  # type: ignore[arg-type]
    first = {name: array[:1] for name, array in golden.items()}
    alone = run_named(runner, first)
    guard = (given.get("guard") or {}).get("output")
    told = {name: describe_array(f"output/{name}", array) for name, array in outputs.items()}
    if guard is not None:
        if guard not in outputs:
            raise ValueError(f"the manifest's guard must be one of {', '.join(outputs)}. Got {guard!r}")
        largest = max(1.0, float(outputs[guard].max()))
        told[guard]["tolerance"] = GUARD_TOLERANCE.get(precision, QUANTISED_GUARD) * largest
    write_json(
        draft / "golden.json",
        {
            "tolerance": golden_tolerance(precision, outputs, guard),
            "inputs": {name: describe_array(f"input/{name}", array) for name, array in golden.items()},
            "outputs": told,
            "first": write_plain(draft, given, first, alone, golden_tolerance(precision, alone, guard)),
        },
    )


def run_named(runner: Runner, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in runner.session.get_outputs()]
    return dict(zip(names, runner.all_outputs(inputs), strict=True))


def golden_tolerance(precision: str, outputs: Mapping[str, np.ndarray], guard: str | None = None) -> float:
    """How far outputs may be from these on other machines; a guard's has its own tolerance."""
    largest = max(1.0, *(float(np.abs(output).max()) for name, output in outputs.items() if name != guard))
    return RELATIVE_TOLERANCE.get(precision, QUANTISED_TOLERANCE) * largest


def describe_array(key: str, array: np.ndarray) -> dict[str, Any]:
    return {"key": key, "dtype": str(array.dtype), "shape": list(array.shape)}


def write_snippets(draft: Path, name: str, kind: str, programs: Mapping[str, Sequence[str]]) -> None:
    """Where to begin, the manifest's schema, and every language's program, each running as it lies. `kind`: the folder
    of snippets that README.md is from; `programs`: of each language the folders or files that its program is from."""
    home = resources.files("export")
    begin = (home / "snippets" / kind / "README.md").read_text(encoding="utf-8")
    (draft / "README.md").write_text(begin.replace("STUDENT", name), encoding="utf-8")
    (draft / "manifest.schema.json").write_bytes((home / "manifest.schema.json").read_bytes())
    for language, sources in programs.items():
        (draft / "snippets" / language).mkdir(parents=True)
        for source in sources:
            given = home / "snippets" / source
            for file in given.iterdir() if given.is_dir() else [given]:
                if file.is_file():
                    (draft / "snippets" / language / file.name).write_bytes(file.read_bytes())


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _replace(folder: Path, draft: Path) -> None:
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old)
    else:
        draft.rename(folder)
