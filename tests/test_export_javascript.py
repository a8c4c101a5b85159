"""The snippets in JavaScript, from a student folder copied alone to an empty place, with packages of their own."""

import functools
import http.server
import json
import shutil
import subprocess
import threading

import numpy as np
import pytest
import torch
from torch import nn

from benchmark import browser, node, resolve_target, unavailable
from export import ImageFront, body_signature, merge_front, to_onnx, write_student
from export.verify import verify

NO_NODE, NO_BROWSER = (unavailable(resolve_target(name)) for name in ("node", "browser"))
FRONT = ImageFront("uint8", "hwc", (16, 12, 3), 3, (8, 8), (120.0, 110.0, 100.0), (60.0, 60.0, 60.0))


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A student of pictures, with the packages that `npm install` would put there."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    to_onnx(module, body_signature(FRONT, 4, "logits"), folder / "body.onnx")
    artifact = merge_front(folder / "body.onnx", FRONT, folder / "model.onnx")
    golden = {"image": np.random.default_rng(0).integers(0, 256, (3, 16, 12, 3), np.uint8)}
    given = {"name": "birds/tiny", "kind": "classification", "classes": ["owl", "robin", "heron", "Ä"]}
    given |= {"preprocessing": FRONT, "teacher": None}
    made = write_student(folder / "student", artifact, given, golden, "# A card\n")
    alone = tmp_path_factory.mktemp("elsewhere") / "student"
    shutil.copytree(made, alone)
    shutil.rmtree(folder)
    packages = node.modules_folder() / "node_modules"
    if packages.exists():
        (alone / "snippets" / "javascript" / "node_modules").symlink_to(packages)
    return alone


def expected_class(student):
    classes = json.loads((student / "manifest.json").read_text())["classes"]
    with np.load(student / "golden.npz") as golden:
        return classes[int(golden["output/logits"][0].argmax())]


@pytest.mark.skipif(NO_NODE is not None, reason=str(NO_NODE))
def test_node_prints_the_golden_check(student):
    done = run_node(student)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("golden check: ok")
    assert second == f"predicted: class {expected_class(student)}"


@pytest.mark.skipif(NO_NODE is not None, reason=str(NO_NODE))
def test_node_tells_another_model(student, tmp_path):
    changed = tmp_path / "student"
    shutil.copytree(student, changed, symlinks=True)
    golden = json.loads((changed / "golden.json").read_text())
    (changed / "golden.json").write_text(json.dumps(golden | {"tolerance": -1.0}))
    done = run_node(changed)
    assert done.returncode == 1
    assert done.stdout.startswith("golden check: FAILED")


def run_node(student):
    script = student / "snippets" / "javascript" / "predict.mjs"
    return subprocess.run(["node", str(script)], capture_output=True, text=True, cwd="/", check=False)


@pytest.mark.skipif(NO_BROWSER is not None, reason=str(NO_BROWSER))
def test_the_page_checks_and_names_a_picture_as_python_does(student, tmp_path):
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with np.load(student / "golden.npz") as golden:
        images, logits = golden["input/image"], golden["output/logits"]
    classes = json.loads((student / "manifest.json").read_text())["classes"]
    handler = functools.partial(Quiet, directory=str(student))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened = driver.chromium.launch(executable_path=browser.find_browser(), args=browser.flags())
        page = opened.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/snippets/javascript/index.html")
        page.wait_for_selector("#golden.ok, #golden.bad")
        assert page.inner_text("#golden").startswith("golden check: ok")
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"{i}.png")
            page.evaluate("document.getElementById('answer').textContent = ''")
            page.set_input_files("#file", tmp_path / f"{i}.png")
            page.wait_for_function("document.getElementById('answer').textContent !== ''")
            assert page.inner_text("#answer") == f"class {classes[int(logits[i].argmax())]}"
        opened.close()
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_installed_packages_are_no_part_of_the_folder(student):
    assert verify(student) == []
