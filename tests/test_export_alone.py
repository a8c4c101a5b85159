"""A student's folder, copied alone to an empty place, used as its README says, with nothing of this project near."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnxruntime_release import fetch_headers, lay_out, no_headers
from PIL import Image
from student_folders import PHOTOS, crop_photos, expect, make_photo_student, save
from test_export_pictures import NO_BROWSER, choose_files, compare, open_page, run_node
from text_students import CLASSES, make_text_student, make_tokenizer
from text_students import expect as expect_text

from export.hard_texts import TEXTS
from export.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
NO_NPM = None if shutil.which("npm") else "npm is not installed: apt install nodejs npm"
NO_COMPILER = (
    None if shutil.which("cc") and shutil.which("c++") and shutil.which("make") else "no cc, c++ and make here"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder where it was made, and unseen pictures with the outputs of training, in PNG and JPEG."""
    folder, module = make_photo_student(tmp_path_factory.mktemp("made"))
    pictures = tmp_path_factory.mktemp("pictures")
    paths = []
    for i, crop in enumerate(crop_photos(40, seed=1)[0]):
        paths += [save(crop, pictures / f"{i}.png"), save(crop, pictures / f"{i}.jpg")]
    wanted = [expect(module, PHOTOS, np.asarray(Image.open(path).convert("RGB"))) for path in paths]
    return folder, paths, np.array(wanted)


@pytest.fixture
def alone(made, tmp_path):
    assert not any((parent / "pyproject.toml").exists() for parent in tmp_path.parents), "this is no empty place"
    return Path(shutil.copytree(made[0], tmp_path / "student"))


def bare_environment():
    """No PYTHONPATH, and no environment of this project in the way."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    }
    own = str(Path(sys.prefix))
    return kept | {"PATH": os.pathsep.join(p for p in kept["PATH"].split(os.pathsep) if not p.startswith(own))}


def run(*command, cwd):
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=bare_environment(), capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory, made):
    """A new environment with the snippet's requirements.txt and nothing else."""
    folder = tmp_path_factory.mktemp("python")
    base = Path(sys.base_prefix) / "bin" / "python3"
    run(base, "-m", "venv", "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-r", made[0] / "snippets" / "python" / "requirements.txt", cwd=folder)
    return python


def name(wanted):
    return f"class {['china', 'flower'][wanted.argmax()]}"


def check_answers(lines, paths, wanted):
    assert lines == [f"{path}: {name(row)}" for path, row in zip(paths, wanted, strict=True)]


def test_python(alone, made, fresh_python):
    _, paths, wanted = made
    snippet = alone / "snippets" / "python"
    check, predicted = run(fresh_python, "predict.py", cwd=snippet)
    assert check.startswith("golden check: ok")
    assert predicted.startswith("predicted: class ")
    check_answers(run(fresh_python, "predict.py", *paths, cwd=snippet), paths, wanted)
    assert run(fresh_python, "verify.py", cwd=snippet) == ["ok"]
    modules = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'export') if u.find_spec(n)])"
    assert run(fresh_python, "-c", modules, cwd=snippet) == ["[]"]


INSTALL = ("npm", "install", "--ignore-scripts", "--no-package-lock")


@pytest.mark.skipif(NO_NPM is not None, reason=str(NO_NPM))
def test_node(alone, made):
    _, paths, wanted = made
    snippet = alone / "snippets" / "javascript"
    run(*INSTALL, cwd=snippet)
    check, predicted = run("node", "predict.mjs", cwd=snippet)
    assert check.startswith("golden check: ok")
    assert predicted.startswith("predicted: class ")
    check_answers(run("node", "predict.mjs", *paths, cwd=snippet), paths, wanted)
    compare(run_node(alone, paths), wanted, paths)
    assert verify(alone) == [], "what npm put there is no part of the folder"


@pytest.mark.skipif(NO_NPM is not None or NO_BROWSER is not None, reason=str(NO_NPM or NO_BROWSER))
def test_the_page(alone, made):
    _, paths, wanted = made
    snippet = alone / "snippets" / "javascript"
    run(*INSTALL, "--omit=optional", cwd=snippet)
    with npm_start(snippet) as address, open_page(address) as page:
        assert page.inner_text("#golden").startswith("golden check: ok")
        compare(choose_files(page, paths), wanted, paths)


@contextmanager
def npm_start(snippet):
    command = ["npm", "start"]
    with subprocess.Popen(
        command, cwd=snippet, env=bare_environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        finally:
            os.killpg(server.pid, signal.SIGTERM)


@pytest.mark.skipif(NO_NPM is not None or NO_COMPILER is not None, reason=str(NO_NPM or NO_COMPILER))
@pytest.mark.parametrize("language", ["c", "cpp"])
def test_c_and_cpp(alone, made, fresh_python, language, tmp_path):
    if no_headers():
        fetch_headers(tmp_path)
    _, paths, wanted = made
    packages = next((fresh_python.parent.parent / "lib").glob("python3*/site-packages"))
    release = lay_out(tmp_path / "onnxruntime", packages)
    snippet = alone / "snippets" / language
    run("make", f"ORT={release}", cwd=snippet)
    check, predicted = run("build/predict", "../..", cwd=snippet)
    assert check.startswith("golden check: ok")
    assert predicted.startswith("predicted: class ")
    for path, row in zip(paths, wanted, strict=True):
        decoded = tmp_path / "decoded.ppm"
        Image.open(path).convert("RGB").save(decoded)
        assert run("build/predict", "../..", decoded, cwd=snippet) == [f"{decoded}: {name(row)}"]
    assert verify(alone) == [], "what a compiler put there is no part of the folder"


def test_the_readme_names_what_is_there(alone):
    text = (alone / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`(snippets/\w+)`", text):
        assert (alone / path / "README.md").exists() or path == "snippets/python"
    named = set(re.findall(r"`([\w./]+\.(?:onnx|json|npz|md))`", text))
    assert named - {"model.fixed.onnx"} <= {p.name for p in alone.iterdir()}  # which lies there where it helps
    assert " ".join((*INSTALL, "--omit=optional")) in text


@pytest.fixture(scope="module")
def made_text(tmp_path_factory):
    """A student of texts where it was made, unseen texts, and their classes by training."""
    tokenizer = make_tokenizer()
    folder, module = make_text_student(tmp_path_factory.mktemp("text"), tokenizer)
    texts = [text for text in TEXTS if "\0" not in text and "\n" not in text and "\r" not in text]
    best = expect_text(module, tokenizer, texts).argmax(axis=1)
    return folder, texts, [f"{text}: class {CLASSES[i]}" for text, i in zip(texts, best, strict=True)]


@pytest.fixture
def alone_text(made_text, tmp_path):
    return Path(shutil.copytree(made_text[0], tmp_path / "student"))


def run_text(*command, cwd):
    """Lines end with "\n" alone: texts hold other separators."""
    done = subprocess.run(command, cwd=cwd, env=bare_environment(), capture_output=True, check=True, timeout=900)
    return done.stdout.decode().removesuffix("\n").split("\n")


def test_python_of_texts(alone_text, made_text, tmp_path):
    _, texts, wanted = made_text
    snippet = alone_text / "snippets" / "python"
    run(Path(sys.base_prefix) / "bin" / "python3", "-m", "venv", "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-r", "requirements.txt", cwd=snippet)
    assert run(python, "predict.py", cwd=snippet)[0].startswith("golden check: ok")
    assert run_text(python, "predict.py", *texts, cwd=snippet) == wanted
    assert run(python, "verify.py", cwd=snippet) == ["ok"]
    run(python, "-m", "pip", "install", "-q", "onnxruntime-extensions", cwd=snippet)
    run(python, "-m", "pip", "uninstall", "-q", "-y", "tokenizers", cwd=snippet)
    assert run(python, "in_graph.py", cwd=snippet)[0].startswith("golden check: ok")
    assert run_text(python, "in_graph.py", *texts, cwd=snippet) == wanted
    assert run(python, "verify.py", cwd=snippet) == ["the tokenizer was not tried: pip install tokenizers", "ok"]


@pytest.mark.skipif(NO_NPM is not None or NO_BROWSER is not None, reason=str(NO_NPM or NO_BROWSER))
def test_node_and_the_page_of_texts(alone_text, made_text):
    _, texts, wanted = made_text
    snippet = alone_text / "snippets" / "javascript"
    run(*INSTALL, cwd=snippet)
    assert run("node", "predict.mjs", cwd=snippet)[0].startswith("golden check: ok")
    assert run_text("node", "predict.mjs", *texts, cwd=snippet) == wanted
    assert verify(alone_text) == [], "what npm put there is no part of the folder"
    with npm_start(snippet) as address, open_page(address) as page:
        assert page.inner_text("#golden").startswith("golden check: ok")
        for text, said in zip(texts[:20], wanted, strict=False):
            page.evaluate("document.getElementById('source').textContent = ''")
            page.fill("#fields textarea", text)
            page.dispatch_event("#fields textarea", "input")  # also where nothing changed
            page.wait_for_function("document.getElementById('source').textContent === 'your text'")
            assert f"{text}: {page.inner_text('#answer')}" == said
