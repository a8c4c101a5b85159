"""Students of texts: string in, class out, with equal token ids in Python, Node, a browser and inside the graph."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from student_folders import link_packages
from test_export_pictures import NO_BROWSER, NO_NODE, open_page, serve
from text_students import CLASSES, GOLDEN, LENGTH, expect, make_text_student, make_tokenizer

from benchmark import node
from export import add_guard, measure_unlikeness, read_features, text_graph, write_text_student
from export.__main__ import main
from export.hard_texts import TEXTS
from export.verify import verify
from family.guards import find_threshold, fit_guard

NO_EXTENSIONS = importlib.util.find_spec("onnxruntime_extensions") is None
NO_TOKENIZER = None if node.find_package("@huggingface/tokenizers") else f"no tokenizers in JavaScript: {node.INSTALL}"
NO_NODE, NO_BROWSER = NO_NODE or NO_TOKENIZER, NO_BROWSER or NO_TOKENIZER
PYTHON = """
import json, sys
sys.path.insert(0, sys.argv[1])
from predict import encode, load, load_tokenizer, predict
session, manifest = load()
tokenizer, texts = load_tokenizer(manifest), json.load(open(sys.argv[2], encoding="utf-8"))
inputs = [encode(tokenizer, [text], manifest) for text in texts]
print(json.dumps([[one["input_ids"][0].tolist() for one in inputs], [predict(session, one)[0].tolist() for one in inputs]]))
"""
NODE = """
import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-node";
import { firstRow, predict } from "./student.mjs";
import { encode } from "./text.mjs";
const json = (path) => JSON.parse(readFileSync(path));
const folder = new URL("../../", import.meta.url);
const manifest = json(new URL("manifest.json", folder));
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(new URL("model.onnx", folder))));
const tokenizer = new Tokenizer(json(new URL("tokenizer.json", folder)), {});
const [ids, outputs] = [[], []];
for (const text of json(process.argv[2])) {
  const inputs = encode(tokenizer, [text], manifest);
  ids.push(Array.from(inputs.input_ids.data, Number));
  outputs.push(firstRow(await predict(ort, session, manifest, inputs)));
}
console.log(JSON.stringify([ids, outputs]));
"""
PAGE = """
async (texts) => {
  const { Tokenizer } = await import("./node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs");
  const { encode } = await import("./text.mjs");
  const json = async (name) => (await fetch(new URL(`../../${name}`, location.href))).json();
  const [manifest, own] = [await json("manifest.json"), await json("tokenizer.json")];
  const tokenizer = new Tokenizer(own, {});
  return texts.map((text) => Array.from(encode(tokenizer, [text], manifest).input_ids.data, Number));
}
"""


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def student(tmp_path_factory, tokenizer):
    """The folder, alone in an empty place, and the module as trained."""
    made, module = make_text_student(tmp_path_factory.mktemp("made"), tokenizer)
    alone = tmp_path_factory.mktemp("elsewhere") / "student"
    shutil.move(made, alone)
    link_packages(alone)
    return alone, module


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The hard texts as JSON."""
    path = tmp_path_factory.mktemp("asked") / "texts.json"
    path.write_text(json.dumps(TEXTS), encoding="utf-8")
    return path


def run(*command, code=0):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def check_all(found, student, tokenizer):
    ids, outputs = found
    assert ids == tokenizer.tokens(TEXTS, LENGTH)
    np.testing.assert_allclose(outputs, expect(student[1], tokenizer, TEXTS), atol=1e-5)


def name_class(student, tokenizer, text):
    return f"class {CLASSES[int(expect(student[1], tokenizer, [text])[0].argmax())]}"


def test_the_hard_texts_are_many_and_every_byte_of_them_comes_back(tokenizer):
    assert len(TEXTS) == len(set(TEXTS)) >= 80
    assert [tokenizer.decode(ids) for ids in tokenizer.tokens(TEXTS, 1000)] == TEXTS


def test_python_gives_the_ids_and_outputs_of_training(student, tokenizer, asked):
    snippet = student[0] / "snippets" / "python"
    check_all(json.loads(run(sys.executable, "-P", "-c", PYTHON, snippet, asked)), student, tokenizer)


@pytest.mark.skipif(NO_NODE is not None, reason=str(NO_NODE))
def test_node_gives_the_ids_and_outputs_of_training(student, tokenizer, asked):
    script = student[0] / "snippets" / "javascript" / "outputs.mjs"
    script.write_text(NODE)
    found = run("node", script, asked)
    script.unlink()
    check_all(json.loads(found), student, tokenizer)


@pytest.mark.skipif(NO_BROWSER is not None, reason=str(NO_BROWSER))
def test_the_page_gives_the_ids_of_training_and_names_what_is_typed(student, tokenizer):
    with serve(student[0]) as address, open_page(address) as page:
        assert page.inner_text("#golden").startswith("golden check: ok")
        assert page.evaluate(PAGE, TEXTS) == tokenizer.tokens(TEXTS, LENGTH)
        page.click("#examples button >> nth=2")
        page.wait_for_function("document.getElementById('source').textContent === 'example 3'")
        assert page.input_value("#fields textarea") == GOLDEN[2]
        assert page.inner_text("#answer") == name_class(student, tokenizer, GOLDEN[2])
        for text in ("Съешь ещё 🥖", "two", ""):
            page.evaluate("document.getElementById('source').textContent = ''")
            page.fill("#fields textarea", text)
            page.wait_for_function("document.getElementById('source').textContent === 'your text'")
            found = [float(value) for value in page.get_attribute("#answer", "data-outputs").split()]
            np.testing.assert_allclose(found, expect(student[1], tokenizer, [text])[0], atol=1e-5)


@pytest.mark.skipif(NO_BROWSER is not None, reason=str(NO_BROWSER))
def test_the_page_says_what_to_install(student, tmp_path):
    bare = Path(shutil.copytree(student[0], tmp_path / "bare", ignore=shutil.ignore_patterns("node_modules")))
    packages = bare / "snippets" / "javascript" / "node_modules"
    packages.mkdir()
    (packages / "onnxruntime-web").symlink_to(node.modules_folder() / "node_modules" / "onnxruntime-web")
    with serve(bare) as address, open_page(address) as page:
        assert page.inner_text("#golden").startswith("@huggingface/tokenizers is not here: run `npm install")


@pytest.mark.skipif(NO_EXTENSIONS, reason="onnxruntime-extensions is not installed")
def test_inside_the_graph_the_tokenizer_gives_the_outputs_of_training(student, tokenizer):
    folder, module = student
    told = json.loads((folder / "manifest.json").read_text())["with_tokenizer"]
    texts = [text for text in TEXTS if "\0" not in text]
    assert told == {"file": "model-with-tokenizer.onnx", "texts": len(texts) + len(GOLDEN)}
    session = text_graph._open(text_graph.onnx.load(folder / told["file"]))
    for batch in (texts, *([text] for text in texts)):
        (found,) = session.run(None, {"text": np.array(batch, object)})
        np.testing.assert_allclose(found, expect(module, tokenizer, batch), atol=1e-5)
    check, first = run(sys.executable, folder / "snippets" / "python" / "in_graph.py").splitlines()
    assert check.startswith("golden check: ok (off by ")
    assert first == f"predicted: {name_class(student, tokenizer, GOLDEN[0])}"


def test_the_programs_print_the_golden_check_and_name_texts(student, tokenizer):
    for command in programs(student[0]):
        check, first = run(*command).splitlines()
        assert check.startswith("golden check: ok (off by ")
        assert first == f"predicted: {name_class(student, tokenizer, GOLDEN[0])}"
        texts = ("a text", "日本語 👍🏽", "👍🏽 words " * 1_000)  # onnxruntime-node falls over 50 kB of arguments
        said = run(*command, *texts).splitlines()
        assert said == [f"{text}: {name_class(student, tokenizer, text)}" for text in texts]


def programs(folder):
    """Of Python and Node, with the packages that `npm install` would put there."""
    packages = folder / "snippets" / "javascript" / "node_modules"
    if not NO_NODE and not packages.exists():
        packages.symlink_to(node.modules_folder() / "node_modules")
    found = [[sys.executable, folder / "snippets" / "python" / "predict.py"]]
    return found if NO_NODE else [*found, ["node", folder / "snippets" / "javascript" / "predict.mjs"]]


def test_columns_are_one_text(tmp_path, tokenizer):
    front = {"kind": "text", "length": LENGTH, "vocabulary": tokenizer.size, "pad": 0, "nothing": 1}
    front |= {"characters": 1000, "tokenizer": "tokenizer.json", "separator": " \x1e ", "columns": ["asked", "said"]}
    folder, module = make_text_student(tmp_path, tokenizer, given={"preprocessing": front})
    wanted = name_class((folder, module), tokenizer, "a \x1e b")
    for command in programs(folder):
        assert run(*command, "a", "b") == f"a | b: {wanted}\n"


def test_what_is_unlike_is_told_by_ids_and_by_strings(tmp_path, tokenizer, student):
    model, taught = student[0] / "model.onnx", ["one owl", "two owls", "an owl", "owls", "the owl two"] * 8
    feeds = [{"input_ids": tokenizer.encode(taught, LENGTH)}]
    features = read_features(model, feeds)
    guard = fit_guard(features, None)
    guard = guard.rescale(find_threshold(measure_unlikeness(guard, features)))
    artifact = add_guard(model, guard, tmp_path / "guarded.onnx", "fp32")
    share = {"value": 0.05, "low": 0.0, "high": 0.1, "rows": 40}
    told = {"output": "unlike", "above": 1.0, "meaning": "", "width": 16}
    told["false_alarms"] = {"aim": 0.05, "val": share, "test": share}
    manifest = json.loads((student[0] / "manifest.json").read_text())
    given = {key: manifest[key] for key in ("kind", "classes", "preprocessing", "teacher")} | {"guard": told}
    folder = write_text_student(tmp_path / "student", artifact, given, taught[:1], tokenizer.data, "# A card\n")
    assert verify(folder) == []
    texts = ["two owls", "日本語の文章です。カタカナ"]
    for command in programs(folder):
        near, far = run(*command, *texts).splitlines()
        assert not near.endswith(" (unlike anything it was taught)")
        assert far.endswith(" (unlike anything it was taught)")
    if not NO_EXTENSIONS:
        session = text_graph._open(text_graph.onnx.load(folder / "model-with-tokenizer.onnx"))
        near, far = session.run(["unlike"], {"text": np.array(texts, object)})[0]
        assert near < 1 < far


def test_values_have_no_class_and_a_long_vector_is_cut(tmp_path, tokenizer):
    given = {"kind": "regression", "classes": None}
    folder, module = make_text_student(tmp_path, tokenizer, given=given)
    wanted = expect(module, tokenizer, ["a"])[0]
    for command in programs(folder):
        found = run(*command, "a").removeprefix("a: value ").split(", ")
        np.testing.assert_allclose([float(value) for value in found], wanted, atol=1e-5)


def change(student, tmp_path, **files):
    """A copy with other contents, and hashes that fit them."""
    changed = Path(shutil.copytree(student, tmp_path / "changed", symlinks=True))
    manifest = json.loads((changed / "manifest.json").read_text())
    for name, content in files.items():
        path = changed / f"{name}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        manifest["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest["files"][path.name]["size_bytes"] = path.stat().st_size
    (changed / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return changed


def check_refused(folder, said, capsys):
    """By the package and by the folder's own program."""
    assert main(["verify", str(folder)]) == 2
    assert said in capsys.readouterr().err
    assert said in run(sys.executable, folder / "snippets" / "python" / "verify.py", code=1)


def test_a_folder_as_made_is_good_and_holds_the_schema(student, capsys):
    jsonschema = pytest.importorskip("jsonschema")
    folder = student[0]
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder} is good: hashes, manifest and golden pair hold\n"
    assert run(sys.executable, folder / "snippets" / "python" / "verify.py") == "ok\n"
    manifest, schema = (json.loads((folder / name).read_text()) for name in ("manifest.json", "manifest.schema.json"))
    jsonschema.validate(manifest, schema)
    assert {"tokenizer.json", "snippets/javascript/text.mjs", "snippets/python/verify.py"} <= set(manifest["files"])
    assert not {"snippets/javascript/decode.mjs"} & set(manifest["files"])


def test_another_tokenizer_is_told(student, tokenizer, tmp_path, capsys):
    parts = json.loads(tokenizer.data)
    vocab = parts["model"]["vocab"]
    vocab["A"], vocab["B"] = vocab["B"], vocab["A"]
    changed = change(student[0], tmp_path, tokenizer=parts)
    check_refused(changed, "the tokenizer gives other ids than are golden for text 1", capsys)
    for command in programs(changed):
        assert run(*command, code=1).startswith("golden check: FAILED")
    (changed / "tokenizer.json").write_bytes(tokenizer.data + b" ")
    check_refused(changed, "tokenizer.json is not the file that was shipped", capsys)


@pytest.mark.parametrize("path", ["../tokenizer.json", "/etc/hostname", "golden.npz/../../x", "nowhere.json"])
def test_a_tokenizer_outside_the_folder_is_never_opened(student, tmp_path, path, capsys):
    changed = change(student[0], tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["preprocessing"]["tokenizer"] = path
    (changed / "manifest.json").write_text(json.dumps(manifest))
    check_refused(changed, f"preprocessing: tokenizer must be one of its files. Got {path!r}", capsys)


def test_what_is_no_tokenizer_and_texts_that_do_not_fit_are_told(student, tmp_path, capsys):
    changed = change(student[0], tmp_path, tokenizer={"model": {"type": "BPE"}})
    check_refused(changed, "the tokenizer cannot be tried on the golden texts: ", capsys)
    golden = json.loads((student[0] / "golden.json").read_text())
    for texts, said in (
        (GOLDEN[:1], "cannot be tried on the golden texts: ValueError there must be a row of ids for each of 1 texts"),
        ([1, 2, 3, 4], "cannot be tried on the golden texts: TypeError texts must be a list of strings"),
        (["\ud800"] * 4, "cannot be tried on the golden texts: TypeError"),
        (["A"] * 4, "the tokenizer gives other ids than are golden for text 1"),
    ):
        shutil.rmtree(changed)
        changed = change(student[0], tmp_path, golden=golden | {"texts": texts})
        assert said in verify(changed)[0]


def test_without_the_package_it_is_said_that_the_tokenizer_was_not_tried(student, monkeypatch, capsys):
    monkeypatch.setattr("export.text_ids.find_spec", lambda name: None)
    assert main(["verify", str(student[0])]) == 0
    assert "its tokenizer was not tried, for the package tokenizers is not here" in capsys.readouterr().out


def test_without_extensions_the_graph_is_left_out_with_the_reason(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(text_graph, "find_spec", lambda name: None)
    folder, _ = make_text_student(tmp_path, tokenizer)
    told = json.loads((folder / "manifest.json").read_text())["with_tokenizer"]
    assert told["reason"].startswith("onnxruntime-extensions was not there where the student was written: pip install")
    assert not (folder / "model-with-tokenizer.onnx").exists()
    assert not (folder / "snippets" / "python" / "in_graph.py").exists()
    assert verify(folder) == []


@pytest.mark.skipif(NO_EXTENSIONS, reason="onnxruntime-extensions is not installed")
def test_a_tokenizer_that_the_operator_reads_otherwise_stays_outside(tmp_path, tokenizer):
    parts = json.loads(tokenizer.data)
    parts["normalizer"] = {"type": "Lowercase"}
    other = replace(tokenizer, data=json.dumps(parts).encode())
    folder, _ = make_text_student(tmp_path, other)
    told = json.loads((folder / "manifest.json").read_text())["with_tokenizer"]
    assert told == {"reason": f"onnxruntime-extensions gives other ids than tokenizer.json for {GOLDEN[0]!r}"}
    assert verify(folder) == []


def test_what_does_not_fit_is_refused_at_the_writing(tmp_path, tokenizer):
    front = {"kind": "text", "length": LENGTH, "pad": 0, "nothing": 1, "tokenizer": "tokenizer.json"}
    front["characters"] = 1000
    sized = {"preprocessing": front | {"vocabulary": tokenizer.size}}
    for told, data, texts, said in (
        ({"preprocessing": front}, tokenizer.data, ["a"], "It lacks vocabulary"),
        (
            {"preprocessing": front | {"vocabulary": 300}},
            tokenizer.data,
            ["example"],
            "ids must be below the vocabulary of 300",
        ),
        (sized, tokenizer.data, [], "at least one golden text"),
        (sized, b"{}", ["a"], "its tokenizer is no tokenizer.json"),
        (sized | {"with_tokenizer": {}}, tokenizer.data, ["a"], "with_tokenizer are read from the file"),
    ):
        with pytest.raises(ValueError, match=said):
            make_text_student(tmp_path, replace(tokenizer, data=data), texts, told)
    assert not (tmp_path / "student").exists()


def test_the_plain_first_example_runs_as_ids(student):
    """What the programs in C, C++, Kotlin and Swift do."""
    folder = student[0]
    first = json.loads((folder / "golden.json").read_text())["first"]
    (entry,) = first["inputs"].values()
    ids = np.fromfile(folder / entry["file"], entry["dtype"]).reshape(entry["shape"])
    (found,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"input_ids": ids})
    (wanted,) = first["outputs"].values()
    np.testing.assert_allclose(found.ravel(), np.fromfile(folder / wanted["file"], "float32"), atol=first["tolerance"])
