"""onnxruntime-node and onnxruntime-web, as an app in JavaScript runs a student.

`python -P -m benchmark.prepare javascript` installs both, and the tokenizers of students of texts, from the npm
registry into the cache folder.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.c_runner import open_here, tools_folder
from benchmark.channel import ProcessChannel, check_feeds, count_cores
from benchmark.host import host_fingerprint
from benchmark.inputs import load_feeds, make_inputs
from benchmark.types import Target

PACKAGES = ("onnxruntime-node", "onnxruntime-web", "@huggingface/tokenizers")
INSTALL = "python -P -m benchmark.prepare javascript"


def modules_folder() -> Path:
    return tools_folder().with_name("javascript")


def find_package(name: str) -> str | None:
    """The version that is installed."""
    path = modules_folder() / "node_modules" / name / "package.json"
    return str(json.loads(path.read_text())["version"]) if path.exists() else None


def js_folder() -> Path:
    return Path(str(resources.files("benchmark") / "js"))


class Inputs:
    """Inputs of models as JSON, made once a model: the same as every other target gets."""

    def __init__(self, batch: int, feeds: Path | None):
        self._batch, self._known = batch, dict[str, Any]()
        self._feeds = load_feeds(feeds)

    def of(self, model: str, strict: bool) -> dict[str, Any]:
        if model not in self._known:
            path = Path(model)
            made = make_inputs(path, open_here(path).get_inputs(), self._batch, self._feeds, strict=strict)
            self._known[model] = {name: encode(value) for name, value in made.items()}
        return dict(self._known[model])

    def add(self, model: Path | None, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request with the inputs of all models in it. Raises ValueError for feeds that do not fit."""
        wanted = {str(model): bool(request.get("strict", True))} if model else {}
        wanted |= {path: False for path in request.get("references", []) if path not in wanted}
        return {**request, "inputs": {path: self.of(path, strict) for path, strict in wanted.items()}}


def encode(value: Any) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"type": value.dtype.name, "dims": list(value.shape), "data": data}


class NodeChannel(ProcessChannel):
    """A Node process; what it is asked carries the inputs."""

    def __init__(self, threads: int, batch: int, feeds: Path | None):
        settings = json.dumps({"modules": str(modules_folder()), "threads": threads})
        super().__init__(["node", str(js_folder() / "node.mjs"), settings])
        self._inputs = Inputs(batch, feeds)

    def ask(self, do: str, model: Path | None = None, **request: Any) -> dict[str, Any]:
        return super().ask(do, model, **self._inputs.add(model, request))

    def host(self) -> dict[str, Any]:
        said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        facts = {"machine": host_fingerprint(), "node": said, "onnxruntime-node": find_package("onnxruntime-node")}
        return {"fingerprint": fingerprint(facts), **facts}


def fingerprint(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def open_node(target: Target, feeds: Path | None) -> NodeChannel:
    """The channel of `node`; options `threads`, `batch`. ValueError for feeds it cannot read."""
    if feeds is not None:
        check_feeds(feeds)
    return NodeChannel(int(target.options.get("threads", 1)), int(target.options.get("batch", 1)), feeds)


def find_missing(target: Target) -> str | None:
    """Why Node cannot measure here, with the command that helps."""
    if shutil.which("node") is None:
        return "it needs node: sudo apt-get install nodejs npm"
    if find_package("onnxruntime-node") is None:
        return f"it needs onnxruntime-node: {INSTALL}"
    return count_cores(target)


def prepare() -> list[str]:
    """Install the packages; what they are then. Raises ValueError where npm cannot. Its scripts would fetch what the
    packages hold already."""
    if shutil.which("npm") is None:
        raise ValueError("it needs npm: sudo apt-get install npm")
    folder = modules_folder()
    folder.mkdir(parents=True, exist_ok=True)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder)]
    done = subprocess.run(["npm", "install", *quiet, *PACKAGES], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"npm install {' '.join(PACKAGES)} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return [f"{name} {find_package(name)}" for name in PACKAGES]
