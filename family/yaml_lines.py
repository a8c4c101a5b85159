"""YAML as plain data, and the line on which each of its keys stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from family.errors import Mistake, Mistakes, mistake
from family.suggest import did_you_mean


@dataclass(frozen=True)
class Document:
    """What a YAML file says, and the `root` node that knows the lines; both None for an empty file."""

    data: Any
    root: Node | None


def read_document(path: Path) -> Document:
    """Read the file; of a key that is there twice, the last counts (`find_duplicates` tells).

    Raises Mistakes: no file, a folder, no text, not YAML (with line and column).
    """
    text = read_text(path)
    try:
        root = open_yaml().compose(text)
        return Document(open_yaml().load(text) if root is not None else None, root)
    except MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        at = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        said = (problem.problem or problem.context or "it cannot be read").splitlines()[0]
        raise mistake("", f"{path.name} is not YAML: {said}{at}.") from problem
    except (YAMLError, ValueError, RecursionError) as problem:
        raise mistake("", f"{path.name} is not YAML: {str(problem).splitlines()[0]}.") from problem


def open_yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = True
    return yaml


def read_text(path: Path) -> str:
    if path.is_dir():
        raise mistake("", f"{path} is a folder; --budgets takes a YAML file.{list_yaml(path)}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as problem:
        said = f"There is no file {path} (looked for {path.resolve()})."
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else [])
        raise mistake("", said + (near or f"{list_yaml(path.parent)} `build-family init` writes one.")) from problem
    except UnicodeDecodeError as problem:
        raise mistake("", f"{path.name} is not YAML: it is not UTF-8 text (byte {problem.start}).") from problem
    except OSError as problem:
        raise mistake("", f"{path} cannot be read: {problem.strerror}.") from problem


def list_yaml(folder: Path) -> str:
    found = sorted(p.name for p in folder.glob("*.y*ml"))[:5] if folder.is_dir() else []
    return f" There is {', '.join(found)} in {folder.resolve()}." if found else ""


def find_duplicates(document: Document) -> Iterator[Mistake]:
    """Keys that one mapping has twice."""
    seen: set[int] = set()

    def walk(node: Node | None, where: str) -> Iterator[Mistake]:
        if node is None or id(node) in seen:
            return
        seen.add(id(node))
        first: dict[str, int] = {}
        for name, line, value in children(node):
            place = join(where, name)
            if isinstance(node, MappingNode) and name in first and name != "<<":
                lines = f"lines {first[name]} and {line}"
                yield Mistake(place, f"is there twice ({lines}); keep one.")
            first.setdefault(str(name), line)
            yield from walk(value, place)

    yield from walk(document.root, "")


def children(node: Node) -> Iterator[tuple[str | int, int, Node]]:
    """Key or position, line (from 1), and value of each child."""
    if isinstance(node, MappingNode):
        yield from ((str(key.value), key.start_mark.line + 1, value) for key, value in node.value)
    elif isinstance(node, SequenceNode):
        yield from ((i, value.start_mark.line + 1, value) for i, value in enumerate(node.value))


def join(where: str, name: str | int) -> str:
    """`teacher` and 1 → `teacher[1]`; `teacher` and `path` → `teacher.path`."""
    if isinstance(name, int):
        return f"{where}[{name}]"
    return f"{where}.{name}" if where else name


def find_line(document: Document, where: str) -> int | None:
    """The line of the deepest key of the YAML path `where` that is in the file."""
    node, line, rest = document.root, None, where
    while node is not None and rest:
        for name, at, value in reversed([*children(node)]):
            key = f"[{name}]" if isinstance(name, int) else name
            match = re.match(re.escape(key) + r"(?=$|[.\[])\.?", rest)
            if match:
                node, line, rest = value, at, rest[match.end() :]
                break
        else:
            return line
    return line


def explain_mistakes(mistakes: Mistakes, path: Path) -> list[dict[str, Any]]:
    """Each mistake as data: where, message, file, line (None where it has none)."""
    try:
        document = read_document(path)
    except Mistakes:
        document = Document(None, None)
    return [
        {"where": m.where, "message": m.message, "file": str(path), "line": find_line(document, m.where)}
        for m in mistakes.mistakes
    ]


def format_mistakes(mistakes: Mistakes, path: Path) -> str:
    """A line per mistake: YAML path, what is wrong, what was found, file and line."""
    return "\n".join(format_one(one, path) for one in explain_mistakes(mistakes, path))


def format_one(one: dict[str, Any], path: Path) -> str:
    if not one["where"]:
        return str(one["message"])
    at = f"({path.name}, line {one['line']})" if one["line"] else f"({path.name})"
    said = f"{one['where']} {one['message']}"
    return f"{said} {at}" if said.endswith(("?", "!")) else f"{said.rstrip('.')} {at}."
