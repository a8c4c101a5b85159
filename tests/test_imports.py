"""The cutting holds: leaves import no sibling, and measuring or reporting loads no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"family", "export", "benchmark", "reports"}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("leaf", ["export", "benchmark", "reports"])
def test_a_leaf_imports_no_sibling(leaf: str) -> None:
    files = list((ROOT / leaf).rglob("*.py"))
    assert files
    for file in files:
        assert not imported(file) & (PACKAGES - {leaf}), file


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("benchmark", {"torch", "onnx"}),
        ("benchmark.worker", {"scipy", "pandas", "matplotlib"}),  # it is started anew for every few figures
        ("reports", {"torch", "onnx"}),
        ("export.verify", {"torch"}),
        ("family.cli", {"torch"}),
    ],
)
def test_importing_stays_light(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())


def test_onnxruntimes_tools_leave_the_import_path_alone():
    code = "import sys; before = list(sys.path); import export.ort_tools; assert sys.path == before; import benchmark.bench"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)
