"""The foreign door: `path/file.py:function`, loaded by its location.

A user's file finds its neighbours, whatever they are called: its folder is appended to the import path, and
a neighbour that shares its name with a package of ours, or with a neighbour of another user's file, is put
in that one's place while the file is loaded. What is imported later, inside a function, finds such a name
as it was before.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from family.errors import Mistakes, mistake
from family.suggest import did_you_mean

OURS = ("family", "export", "benchmark", "reports")
_folders: set[Path] = set()  # of users' files that were loaded


def load(reference: str, folder: Path, where: str) -> Any:
    """The function that `file.py:function` names; a relative file starts at `folder`. A file is run once.

    Raises Mistakes at `where`: no such file, no such function (with the nearest), or the file failed.
    """
    file, _, name = reference.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise mistake(where, f"must be path/file.py:function. Got {reference!r}.")
    path = (folder / file).resolve()
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = did_you_mean(path.name, beside)
        raise mistake(where, f"names the file {file}, which is not there (looked for {path}).{near}")
    module = load_module(path, where)
    if not hasattr(module, name):
        functions = list_functions(module)
        there = f"It has {', '.join(functions[:10])}" if functions else "It has no function"
        raise mistake(where, f"names '{name}', which {file} does not have. {there}.{did_you_mean(name, functions)}")
    if not callable(getattr(module, name)):
        kind = type(getattr(module, name)).__name__
        raise mistake(where, f"must name a function. {file}:{name} is of type {kind}.")
    return getattr(module, name)


def is_reference(text: Any) -> bool:
    return isinstance(text, str) and ".py:" in text


def load_taking(reference: str, folder: Path, where: str, takes: Sequence[str]) -> Callable[..., Any]:
    """As `load`; raises Mistakes too where the function cannot be called with `takes`, by position."""
    fn: Callable[..., Any] = load(reference, folder, where)
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return fn  # built in: it has no signature to look at
    try:
        signature.bind(*takes)
    except TypeError as problem:
        wanted = f"must take ({', '.join(takes)})" if takes else "must take no arguments"
        raise mistake(where, f"names {reference}, which {wanted}. It takes {signature}.") from problem
    return fn


def call(where: str, reference: str, fn: Callable[..., Any], *given: Any) -> Any:
    """What a user's function gives; whatever it raises becomes Mistakes at `where`, with the user's file and line."""
    try:
        return fn(*given)
    except Mistakes:
        raise
    except (Exception, SystemExit) as problem:  # whatever a user's function raises is the user's to mend
        raise mistake(where, f"{reference} failed: {describe_failure(problem, file_of(fn))}.") from problem


def file_of(fn: Callable[..., Any]) -> Path:
    """Where a user's function is written."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return Path(code.co_filename if code else __file__)


def hash_code(reference: str, folder: Path) -> str:
    """Stands for the bytes of the function's file and of the neighbours that it imports."""
    total = hashlib.sha256()
    for path in sorted(list_imported((folder / reference.rpartition(":")[0]).resolve())):
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def list_imported(path: Path) -> set[Path]:
    """The file, and the files in its folder that it imports by name, they too."""
    found, left, folder = {path}, [path], path.parent
    while left:
        for name in import_names(left.pop()):
            beside = [folder / f"{name}.py", *(folder / name).rglob("*.py")]
            new = {file for file in beside if file.is_file()} - found
            found |= new
            left += new
    return found


def import_names(path: Path) -> set[str]:
    """First words of what a Python file imports absolutely; none where it is no Python."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError):
        return set()
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in plain | froms}


def list_functions(module: ModuleType) -> list[str]:
    """What the file itself defines and does not hide."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == module.__name__
    ]


def load_module(path: Path, where: str) -> ModuleType:
    """Run the file at `path`, or give what the first run made."""
    key = f"student_family_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if key in sys.modules:
        return sys.modules[key]
    for ours in OURS:  # before the user's folder can be searched
        importlib.import_module(ours)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    _folders.add(path.parent)
    spec = importlib.util.spec_from_file_location(key, path)
    if spec is None or spec.loader is None:
        raise mistake(where, f"names {path.name}, which cannot be loaded as Python.")
    module = sys.modules[key] = importlib.util.module_from_spec(spec)
    try:
        with neighbours_first(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as problem:  # whatever a user's file raises is the user's to mend
        del sys.modules[key]
        raise explain_failure(problem, path, where) from problem
    return module


def explain_failure(problem: BaseException, path: Path, where: str) -> Mistakes:
    """One line: file and line of the user's that failed, and why."""
    return mistake(where, f"cannot be loaded: {describe_failure(problem, path)}.")


def describe_failure(problem: BaseException, path: Path, quote: bool = True) -> str:
    """What failed, and where in the folder of the user's file `path`; without its words where it may not be quoted."""
    if isinstance(problem, SyntaxError) and problem.filename:
        file, line = Path(problem.filename), problem.lineno
        said = problem.msg
    else:
        frames = [f for f in traceback.extract_tb(problem.__traceback__) if is_inside(f.filename, path.parent)]
        file, line = (Path(frames[-1].filename), frames[-1].lineno) if frames else (path, None)
        said = (str(problem).splitlines() or [""])[0]
    at = f"{file.name}, line {line}" if line else file.name
    kind = type(problem).__name__
    return f"{kind}: {said} ({at})" if said and quote else f"{kind} ({at})"


def is_inside(file: str, folder: Path) -> bool:
    return Path(file).is_relative_to(folder)


class _Neighbours:
    """Finds `names` in `folder`, before anything else is asked."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self.folder, self.names = folder, names

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is not None or name not in self.names:
            return None
        return PathFinder.find_spec(name, [str(self.folder)])


@contextlib.contextmanager
def neighbours_first(folder: Path) -> Iterator[None]:
    """While it lasts, `folder`'s modules stand in for ours, and for other users', of the same name."""
    names = [name for name in list_neighbours(folder) if is_taken(name, folder)]
    hidden = take_out(names)
    finder = _Neighbours(folder, names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        take_out(names)
        sys.modules.update(hidden)


def list_neighbours(folder: Path) -> list[str]:
    files = [p.stem for p in folder.glob("*.py")]
    return files + [p.name for p in folder.iterdir() if p.is_dir() and any(p.glob("*.py"))]


def is_taken(name: str, folder: Path) -> bool:
    """Whether a loaded module of this name is ours, or lies in the folder of another user's file."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
    if module is None or file is None or is_inside(file, folder):
        return False
    return name in OURS or any(is_inside(file, other) for other in _folders)


def take_out(names: Sequence[str]) -> dict[str, ModuleType]:
    """Remove modules of these names, and those inside them, from the loaded ones."""
    found = {key: module for key, module in sys.modules.items() if key.split(".")[0] in names}
    for key in found:
        del sys.modules[key]
    return found
