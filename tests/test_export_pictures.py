"""Raw picture in, class name out: the same outputs in Python, Node and the page as in training."""

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from student_folders import (
    DIGITS,
    PHOTOS,
    crop_photos,
    expect,
    link_packages,
    make_digit_student,
    make_photo_student,
    save,
)

from benchmark import browser, resolve_target, unavailable

TOLERANCE = 1e-4  # of logits; PNG is the same pixels everywhere, so that this is arithmetic alone
JPEG_TOLERANCE = 0.05  # decoders may differ by a level or two; docs/students.md says what was found
NO_NODE, NO_BROWSER = (unavailable(resolve_target(name)) for name in ("node", "browser"))
PYTHON = """
import json, sys
sys.path.insert(0, sys.argv[1])
from predict import load, predict, read_picture
session, manifest = load()
print(json.dumps([predict(session, read_picture(path, manifest))[0].tolist() for path in sys.argv[2:]]))
"""
NODE = """
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-node";
import { decode } from "./decode.mjs";
import { firstRow, fromPixels, predict } from "./student.mjs";
const folder = new URL("../../", import.meta.url);
const manifest = JSON.parse(await readFile(new URL("manifest.json", folder)));
const session = await ort.InferenceSession.create(new Uint8Array(await readFile(new URL("model.onnx", folder))));
const rows = [];
for (const path of process.argv.slice(2)) {
  rows.push(firstRow(await predict(ort, session, manifest, fromPixels(await decode(path), manifest))));
}
console.log(JSON.stringify(rows));
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A student of photographs, unseen pictures as PNG and JPEG (turned by EXIF too), what training gives for each."""
    folder, module = make_photo_student(tmp_path_factory.mktemp("photos"))
    link_packages(folder)
    pictures = tmp_path_factory.mktemp("pictures")
    paths = []
    for i, crop in enumerate(crop_photos(16, seed=1)[0]):
        paths += [save(crop, pictures / f"{i}.png"), save(crop, pictures / f"{i}.jpg")]
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright
    Image.fromarray(crop).save(pictures / "turned.jpg", exif=turned)
    paths.append(pictures / "turned.jpg")
    wanted = [expect(module, PHOTOS, np.asarray(Image.open(path).convert("RGB"))) for path in paths]
    return folder, paths, np.array(wanted)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The same for values of 0 to 16 in one channel, which grey files of 8 bits hold as shares of 255."""
    folder, module = make_digit_student(tmp_path_factory.mktemp("digits"))
    link_packages(folder)
    with np.load(folder / "golden.npz") as golden:
        images = np.round(golden["input/image"] * 255 / 16).astype(np.uint8)
    paths = [save(image, folder.parent / f"{i}.png") for i, image in enumerate(images)]
    return folder, paths, np.array([expect(module, DIGITS, image.astype(np.float32) * 16 / 255) for image in images])


def compare(found, wanted, paths):
    """PNG gives the same outputs, JPEG the same class and nearly the same outputs."""
    off = np.abs(np.array(found) - wanted).max(axis=1)
    jpeg = np.array([path.suffix == ".jpg" for path in paths])
    print(f"largest difference of logits: PNG {off[~jpeg].max():.2g}, JPEG {off[jpeg].max(initial=0):.2g}")
    assert off[~jpeg].max() <= TOLERANCE
    assert off[jpeg].max(initial=0) <= JPEG_TOLERANCE
    assert (np.array(found).argmax(axis=1) == wanted.argmax(axis=1)).all()


@pytest.mark.parametrize("name", ["photos", "digits"])
def test_python_gives_what_training_gave(name, request):
    folder, paths, wanted = request.getfixturevalue(name)
    command = [sys.executable, "-P", "-c", PYTHON, folder / "snippets" / "python", *paths]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    compare(json.loads(done.stdout), wanted, paths)


def run_node(folder, paths):
    """The outputs for each file, by the folder's own decoder and student.mjs."""
    script = folder / "snippets" / "javascript" / "outputs.mjs"
    script.write_text(NODE)
    done = subprocess.run(["node", script, *paths], capture_output=True, text=True, check=False, cwd="/")
    script.unlink()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def open_page(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser.find_browser(), args=browser.flags())
        page = opened.new_page(viewport={"width": 1000, "height": 900})
        page.goto(address)
        page.wait_for_selector("#golden.ok, #golden.bad")
        yield page
        opened.close()


@contextmanager
def serve(folder):
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/snippets/javascript/index.html"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def choose_files(page, paths):
    rows = []
    for path in paths:
        page.evaluate("document.getElementById('answer').dataset.outputs = ''")
        page.set_input_files("#file", path)
        page.wait_for_function("document.getElementById('answer').dataset.outputs !== ''")
        rows.append([float(value) for value in page.get_attribute("#answer", "data-outputs").split()])
    return rows


@pytest.mark.skipif(NO_BROWSER is not None, reason=str(NO_BROWSER))
@pytest.mark.parametrize("name", ["photos", "digits"])
def test_the_page_gives_what_training_gave(name, request):
    folder, paths, wanted = request.getfixturevalue(name)
    with serve(folder) as address, open_page(address) as page:
        compare(choose_files(page, paths), wanted, paths)


@pytest.mark.skipif(NO_BROWSER is not None, reason=str(NO_BROWSER))
def test_the_page_has_examples_a_pad_where_it_fits_and_words_for_what_is_no_picture(photos, digits, tmp_path):
    (tmp_path / "no.png").write_text("no picture")
    with serve(digits[0]) as address, open_page(address) as page:
        assert page.is_visible("#pad")
        page.click("#examples button >> nth=2")
        page.wait_for_function("document.getElementById('source').textContent === 'example 3'")
        assert page.inner_text("#answer") == f"class {digits[2][2].argmax()}"
        side = page.locator("#pad").bounding_box()
        page.mouse.move(side["x"] + side["width"] / 2, side["y"] + side["height"] * 0.15)
        page.mouse.down()
        page.mouse.move(side["x"] + side["width"] / 2, side["y"] + side["height"] * 0.85, steps=8)
        page.mouse.up()
        page.wait_for_function("document.getElementById('source').textContent === 'your drawing'")
        assert page.inner_text("#answer") == "class 1"
        page.set_input_files("#file", photos[1][0])
        page.wait_for_function("document.getElementById('note').textContent.startsWith('scaled by the browser')")
        page.set_input_files("#file", tmp_path / "no.png")
        page.wait_for_function("document.getElementById('answer').textContent.includes('is no picture')")
    with serve(photos[0]) as address, open_page(address) as page:
        assert page.is_hidden("#pad")


@pytest.mark.skipif(NO_BROWSER is not None, reason=str(NO_BROWSER))
def test_the_page_says_what_to_install(photos, tmp_path):
    bare = tmp_path / "student"
    shutil.copytree(photos[0], bare, ignore=shutil.ignore_patterns("node_modules"))
    with serve(bare) as address, open_page(address) as page:
        assert "npm install" in page.inner_text("#golden")


@pytest.mark.skipif(NO_NODE is not None, reason=str(NO_NODE))
@pytest.mark.parametrize("row", [[np.nan, 0.0], [0.0, np.nan]])
def test_a_golden_output_that_is_no_number_fails(photos, row, tmp_path):
    changed = Path(shutil.copytree(photos[0], tmp_path / "student", symlinks=True))
    with np.load(changed / "golden.npz") as golden:
        arrays = dict(golden)
    expected = arrays["output/logits"]
    arrays["output/logits"] = np.where(np.isnan([row]), np.nan, expected).astype(np.float32)
    np.savez_compressed(changed / "golden.npz", **arrays)
    for command in (["node", "snippets/javascript/predict.mjs"], [sys.executable, "snippets/python/predict.py"]):
        done = subprocess.run(command, cwd=changed, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stdout
        assert done.stdout.startswith("golden check: FAILED (off by")


def test_python_says_why_a_picture_cannot_be_taken(digits, photos, tmp_path):
    (tmp_path / "no.png").write_text("no picture")
    wide = save(np.zeros((8, 9), np.uint8), tmp_path / "wide.png")
    for folder, path, said in (
        (digits[0], wide, "is 9 pixels wide; this student takes 8"),
        (photos[0], tmp_path / "no.png", "cannot identify image file"),
        (photos[0], tmp_path / "nowhere.png", "No such file"),
    ):
        command = [sys.executable, str(folder / "snippets" / "python" / "predict.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
