"""A decoder's folder, copied alone to an empty place, used as its README says: fresh environments, nothing of this project."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from decoder_students import make_tokenizer, trained_decoder
from test_decoder_folder import CARD, PROMPTS, say_manifest
from test_export_alone import INSTALL, NO_NPM, npm_start, run
from test_export_pictures import NO_BROWSER, open_page

from export import quantise, write_decoder, write_decoder_student
from export.verify import verify
from family.text.decoder import as_blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ASKED = ("--tokens", "24", "--temperature", "0.7", "--seed", "3")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write_decoder(as_blocks(trained_decoder()), folder / "fp32.onnx")
    artifact = quantise(folder / "fp32.onnx", folder / "int8.onnx", "int8-dynamic", [])
    tokenizer = make_tokenizer().data
    return write_decoder_student(folder / "student", artifact, say_manifest(), PROMPTS, tokenizer, CARD)


@pytest.fixture
def alone(made, tmp_path):
    assert not any((parent / "pyproject.toml").exists() for parent in tmp_path.parents), "this is no empty place"
    return Path(shutil.copytree(made, tmp_path / "student"))


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory, made):
    """A new environment with the snippet's requirements.txt and nothing else."""
    folder = tmp_path_factory.mktemp("python")
    run(Path(sys.base_prefix) / "bin" / "python3", "-m", "venv", "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-r", made / "snippets" / "python" / "requirements.txt", cwd=folder)
    return python


def golden_text(folder):
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))["prompts"][0]
    return golden["prompt"] + golden["text"]


def test_python(alone, fresh_python):
    snippet = alone / "snippets" / "python"
    check, *said = run(fresh_python, "generate.py", "--tokens", "32", cwd=snippet)
    assert check.startswith("golden check: ok")
    assert "\n".join(said) == golden_text(alone)
    assert run(fresh_python, "verify.py", cwd=snippet) == ["ok"]


@pytest.mark.skipif(NO_NPM is not None, reason=str(NO_NPM))
def test_node_writes_what_python_does(alone, fresh_python):
    snippet = alone / "snippets" / "javascript"
    run(*INSTALL, cwd=snippet)
    check, *said = run("node", "generate.mjs", "--tokens", "32", cwd=snippet)
    assert check.startswith("golden check: ok")
    assert "\n".join(said) == golden_text(alone)
    drawn = run("node", "generate.mjs", "The old", *ASKED, cwd=snippet)
    assert drawn == run(fresh_python, "generate.py", "The old", *ASKED, cwd=alone / "snippets" / "python")
    assert verify(alone) == [], "what npm put there is no part of the folder"


@pytest.mark.skipif(NO_NPM is not None or NO_BROWSER is not None, reason=str(NO_NPM or NO_BROWSER))
def test_the_page(alone):
    snippet = alone / "snippets" / "javascript"
    run(*INSTALL, "--omit=optional", cwd=snippet)
    with npm_start(snippet) as address, open_page(address) as page:
        assert page.inner_text("#golden").startswith("golden check: ok")
        page.fill("#tokens", "32")
        page.click("#go")
        page.wait_for_function("document.getElementById('note').textContent.startsWith('done')")
        assert page.evaluate("document.getElementById('text').textContent") == golden_text(alone)


def test_genai(alone, fresh_python):
    run(fresh_python, "-m", "pip", "install", "-q", "onnxruntime-genai", cwd=alone)
    block = re.search(r"```python\n(.*?)```", (alone / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    length = 1 + len(make_tokenizer().opened.encode(PROMPTS[0]).ids) + 32
    asked = block.replace("max_length=100", f"max_length={length}").replace("Once upon a time", PROMPTS[0])
    assert "\n".join(run(fresh_python, "-c", asked, cwd=alone)) == golden_text(alone)
