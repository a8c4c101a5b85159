"""The programs in a student's folder: the common ones, or what a kind of student needs instead."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

LANGUAGES = ("python", "javascript", "c", "cpp", "kotlin", "swift")
# By kind of preprocessing: which of the common files its folder has too, beside all of snippets/<kind>.
TAKEN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "text": {
        "python": ("verify.py",),
        "javascript": ("serve.mjs", "student.mjs"),
        "c": ("Makefile", "predict.c", "student.h"),
        "cpp": ("Makefile", "predict.cpp", "student.hpp"),
        "kotlin": ("Student.kt",),
        "swift": ("Student.swift",),
    },
}


def write_snippets(draft: Path, name: str, kind: str | None) -> None:
    """Where to begin, the manifest's schema, and every language's program, each running as it lies."""
    home = Path(str(resources.files("export")))
    taken = TAKEN.get(kind or "", {})
    own = home / "snippets" / str(kind) if taken else home / "snippets"
    begin = (own / "README.md").read_text(encoding="utf-8")
    (draft / "README.md").write_text(begin.replace("STUDENT", name), encoding="utf-8")
    (draft / "manifest.schema.json").write_bytes((home / "manifest.schema.json").read_bytes())
    for language in LANGUAGES:
        (draft / "snippets" / language).mkdir(parents=True)
        common = [home / "snippets" / language / file for file in taken.get(language, ())]
        for source in (*common, *(own / language).iterdir()):
            if source.is_file():
                (draft / "snippets" / language / source.name).write_bytes(source.read_bytes())
