"""The snippets in JavaScript, from a student folder copied alone to an empty place, with packages of their own."""

import http.client
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from student_folders import link_packages
from test_export_pictures import NO_BROWSER, NO_NODE, open_page, serve
from torch import nn

from export import (
    ImageFront,
    add_guard,
    body_signature,
    measure_unlikeness,
    merge_front,
    read_features,
    to_onnx,
    write_student,
)
from export.verify import verify
from family.guards import find_threshold, fit_guard

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
    link_packages(alone)
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


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A student that was taught dim pictures alone, as two folders: what its first golden example is."""
    folder = tmp_path_factory.mktemp("guarded")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8), nn.ReLU(), nn.Linear(8, 4))
    to_onnx(module, body_signature(FRONT, 4, "logits"), folder / "body.onnx")
    merge_front(folder / "body.onnx", FRONT, folder / "model.onnx")
    dice = np.random.default_rng(0)
    dim, bright = (
        {"image": dice.integers(a, b, (n, 16, 12, 3), np.uint8)} for a, b, n in ((0, 80, 200), (180, 256, 1))
    )
    features = read_features(folder / "model.onnx", [dim])
    guard = fit_guard(features, None)
    guard = guard.rescale(find_threshold(measure_unlikeness(guard, features)))
    artifact = add_guard(folder / "model.onnx", guard, folder / "guarded.onnx", "fp32")
    share = {"value": 0.05, "low": 0.0, "high": 0.1, "rows": 100}
    alarms = {"val": share, "test": share}
    told = {"output": "unlike", "above": 1.0, "meaning": "", "width": 8, "false_alarms": {"aim": 0.05, **alarms}}
    given = {"name": "dim", "kind": "classification", "classes": list("abcd"), "preprocessing": FRONT, "teacher": None}
    middle = int(np.argsort(measure_unlikeness(guard, features))[100])
    for name, golden in (("like", {"image": dim["image"][middle : middle + 1]}), ("unlike", bright)):
        made = write_student(folder / name, artifact, given | {"guard": told}, golden, "# A card\n")
        link_packages(made)
    return folder


@pytest.mark.skipif(NO_NODE is not None, reason=str(NO_NODE))
def test_node_says_what_is_unlike(guarded):
    for name, said in (("like", False), ("unlike", True)):
        done = run_node(guarded / name)
        assert done.stdout.startswith("golden check: ok")
        assert done.stdout.strip().endswith(" (unlike anything it was taught)") == said


@pytest.mark.skipif(NO_BROWSER is not None, reason=str(NO_BROWSER))
def test_the_page_says_what_is_unlike(guarded):
    for name, said in (("like", ""), ("unlike", "unlike anything it was taught")):
        with serve(guarded / name) as address, open_page(address) as page:
            assert page.inner_text("#golden").startswith("golden check: ok")
            assert page.inner_text("#unlike") == said


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

    with np.load(student / "golden.npz") as golden:
        images, logits = golden["input/image"], golden["output/logits"]
    classes = json.loads((student / "manifest.json").read_text())["classes"]
    with serve(student) as address, open_page(address) as page:
        assert page.inner_text("#golden").startswith("golden check: ok")
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"{i}.png")
            page.evaluate("document.getElementById('answer').textContent = ''")
            page.set_input_files("#file", tmp_path / f"{i}.png")
            page.wait_for_function("document.getElementById('answer').textContent !== ''")
            assert page.inner_text("#answer") == f"class {classes[int(logits[i].argmax())]}"


@pytest.mark.skipif(NO_NODE is not None, reason=str(NO_NODE))
def test_npm_start_serves_the_folder_and_nothing_beside_it(student):
    (student.parent / "secret").write_text("secret")
    command = ["node", str(student / "snippets" / "javascript" / "serve.mjs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())[1])
            assert ask(port, "/")[:2] == (302, "/snippets/javascript/index.html")
            assert json.loads(ask(port, "/manifest.json?v=1")[3])["name"] == "birds/tiny"
            assert ask(port, "/snippets/javascript/student.mjs")[2] == "text/javascript"
            for path in (
                "/../secret",
                "/%2e%2e/secret",
                "/..%2fsecret",
                "/%2e%2e%2fsecret",
                "/secret",
                "//",
                "/%",
                "/%00",
                "/snippets",
            ):
                assert ask(port, path)[0] == 404, path
        finally:
            server.kill()


def ask(port, path):
    """Status, location, content type, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.getheader("location"), response.getheader("content-type"), body


def test_installed_packages_are_no_part_of_the_folder(student):
    assert verify(student) == []
