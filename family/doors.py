"""The foreign door: `path/file.py:function`, loaded by its location."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from family.errors import mistake


def load(reference: str, folder: Path, where: str) -> Any:
    """The object named by `file.py:function`, the file's folder appended to the import path.

    Raises Mistakes: no such file, no such name (with the nearest), or the file failed on import.
    """
    file, _, name = reference.rpartition(":")
    path = (folder / file).resolve()
    if not path.is_file():
        raise mistake(where, f"names the file {file}, which is not there (looked for {path}).")
    module = load_module(path, where)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        near = get_close_matches(name, public, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise mistake(where, f"{file} has no '{name}'. It has {', '.join(public)}.{hint}")
    return getattr(module, name)


def load_module(path: Path, where: str) -> ModuleType:
    key = f"student_family_user_{abs(hash(str(path)))}"
    if key in sys.modules:
        return sys.modules[key]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(key, path)
    if spec is None or spec.loader is None:
        raise mistake(where, f"{path.name} cannot be loaded as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except Exception as problem:  # whatever a user's file raises is the user's to mend
        del sys.modules[key]
        line = next((f.lineno for f in reversed(traceback.extract_tb(problem.__traceback__)) if f.filename == str(path)), None)
        at = f" (line {line})" if line else ""
        raise mistake(where, f"{path.name} failed on import{at}: {type(problem).__name__}: {problem}") from problem
    return module
