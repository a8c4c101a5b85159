"""A student folder: whole, self-contained, and caught when someone changed it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

import export
from export import (
    ImageFront,
    TableFront,
    body_signature,
    describe,
    front_data,
    make_up_inputs,
    merge_front,
    quantise,
    to_onnx,
    write_student,
)
from export.__main__ import main
from export.hashes import hash_file
from export.plain import read_picture
from export.verify import check_schema, verify

FRONT = TableFront((1.0, 2.0), (1.0, 3.0), (0,), (3,))
MANIFEST = {
    "name": "flowers",
    "kind": "classification",
    "classes": ["rose", "tulip", "café"],
    "preprocessing": FRONT,
    "teacher": {"licence": "MIT", "origin": None},
    "categories": {"colour": ["red", "blue", "white"]},
}
GOLDEN = {
    "numbers": np.array([[0.5, 1.0], [np.nan, 4.0]], np.float32),
    "categories": np.array([[0], [7]], np.int64),
}
SCHEMA = json.loads((Path(verify.__code__.co_filename).parent / "manifest.schema.json").read_text())


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    to_onnx(module, body_signature(FRONT, 3, "logits"), folder / "body.onnx")
    quantise(folder / "body.onnx", folder / "int8.onnx", "int8", make_up_inputs(folder / "body.onnx"))
    return {
        "fp32": merge_front(folder / "body.onnx", FRONT, folder / "fp32-shipped.onnx"),
        "int8": merge_front(folder / "int8.onnx", FRONT, folder / "int8-shipped.onnx"),
    }


@pytest.fixture(scope="module")
def original(artifacts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("students") / "watch"
    return write_student(folder, artifacts["fp32"], MANIFEST, GOLDEN, "# A card\n")


@pytest.fixture
def folder(original, tmp_path):
    """A copy to tamper with."""
    return Path(shutil.copytree(original, tmp_path / "watch"))


def edit(path, change):
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def rehash(folder, name):
    """What an attacker, or a careless hand, does next."""
    entry = {"sha256": hash_file(folder / name), "size_bytes": (folder / name).stat().st_size}
    edit(folder / "manifest.json", lambda data: data["files"].update({name: entry}))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_is_written_is_good(artifacts, precision, tmp_path):
    folder = write_student(tmp_path / "s", artifacts[precision], MANIFEST, GOLDEN, "# A card\n")
    assert verify(folder) == []
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    jsonschema.validate(manifest, SCHEMA)
    shipped = describe(folder / "model.onnx", precision)
    assert manifest["precision"] == precision
    assert manifest["operators"] == list(shipped.operators)
    assert manifest["files"]["model.onnx"]["sha256"] == shipped.sha256 == artifacts[precision].sha256
    assert manifest["size_bytes"] == shipped.size_bytes
    sent = subprocess.run(["gzip", "-9n", "-c", folder / "model.onnx"], capture_output=True, check=True).stdout
    assert manifest["download_bytes"] == pytest.approx(len(sent), rel=0.01)
    assert manifest["preprocessing"]["kind"] == "table"
    assert manifest["inputs"][0] == {"name": "numbers", "dtype": "float32", "shape": ["batch", 2]}
    assert manifest["classes"][2] == "café"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_written_twice_is_the_same(artifacts, original, tmp_path):
    folder = write_student(tmp_path / "s", artifacts["int8"], MANIFEST, GOLDEN, "older")
    (folder / "left-over").write_text("")
    write_student(tmp_path / "s", artifacts["fp32"], MANIFEST, GOLDEN, "# A card\n")
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == {p.relative_to(original): p.read_bytes() for p in original.rglob("*") if p.is_file()}


def test_a_half_written_folder_is_never_met(artifacts, original, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(original, tmp_path / "s"))
    with pytest.raises(TypeError):
        write_student(folder, artifacts["int8"], MANIFEST | {"notes": object()}, GOLDEN, "")
    assert verify(folder) == []
    write_student(folder, artifacts["int8"], MANIFEST, GOLDEN, "")
    assert verify(folder) == []
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_snippet_runs_as_it_lies(folder):
    script = folder / "snippets" / "python" / "predict.py"
    imports = {line.split()[1] for line in script.read_text().splitlines() if line.startswith(("import", "from"))}
    assert imports == {"json", "sys", "pathlib", "numpy", "onnxruntime"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "golden.npz") as golden:
        best = MANIFEST["classes"][golden["output/logits"][0].argmax()]
    assert done.stdout.splitlines()[0].startswith("golden check: ok")
    assert done.stdout.splitlines()[1] == f"predicted: class {best}"
    edit(folder / "golden.json", lambda data: data.update(tolerance=-1.0))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FAILED" in done.stdout


def run_own_verify(folder):
    script = folder / "snippets" / "python" / "verify.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd="/", check=False)
    return done.returncode, done.stdout.strip().splitlines() or done.stderr.splitlines()


def test_the_folder_verifies_itself(folder):
    assert run_own_verify(folder) == (0, ["ok"])
    (folder / "MODEL_CARD.md").write_text("another")
    assert run_own_verify(folder) == (1, ["MODEL_CARD.md is not the file that was shipped: its sha256 differs"])


def test_the_folder_itself_finds_paths_out_of_it_and_other_outputs(folder):
    entry = {"sha256": "0" * 64, "size_bytes": 1}
    edit(folder / "manifest.json", lambda data: data["files"].update({"../outside": entry}))
    assert run_own_verify(folder) == (1, ["manifest.json: '../outside' leads out of the folder"])
    edit(folder / "manifest.json", lambda data: data["files"].pop("../outside"))
    edit(folder / "golden.json", lambda data: data.update(tolerance=0.0))
    with np.load(folder / "golden.npz") as arrays:
        shifted = {name: array + 1 if name.startswith("output") else array for name, array in arrays.items()}
    np.savez_compressed(folder / "golden.npz", **shifted)
    rehash(folder, "golden.json")
    rehash(folder, "golden.npz")
    assert run_own_verify(folder) == (1, ["golden output logits is off by 1. Allowed: 0"])


HOSTILE = {
    "a schema broken": (lambda data: data.pop("classes"), "lacks 'classes'"),
    "a type": (lambda data: data.update(opset=True), "opset must be integer"),
    "a bound": (lambda data: data.update(format=2), "format"),
    "a choice": (lambda data: data.update(kind="magic"), "kind must be one of"),
    "an empty list": (lambda data: data.update(inputs=[]), "inputs must not be empty"),
    "a picture": (lambda data: data.update(picture={"layout": "hwc"}), "picture lacks 'height'"),
    "a picture's bound": (lambda data: data.update(picture=dict.fromkeys(["height", "width", "channels"], 1) | {"layout": "hw", "white": -0.5}), "picture: white"),
    "a step up": (lambda data: data["files"].update({"../secret": SECRET}), "leads out of the folder"),
    "an absolute path": (lambda data: data["files"].update({"/etc/hostname": SECRET}), "leads out of the folder"),
    "a drive": (lambda data: data["files"].update({"C:\\secret": SECRET}), "leads out of the folder"),
    "a link": (lambda data: data["files"].update(link=SECRET), "leads out of the folder"),
    "a link on the way": (lambda data: data["files"].update({"way/secret": SECRET}), "leads out of the folder"),
    "a link to itself": (lambda data: data["files"].update(loop=SECRET), "leads out of the folder"),
    "a link beside": (lambda data: None, "link is not in manifest.json"),
    "a wrong hash": (lambda data: data["files"]["model.onnx"].update(sha256="0" * 64), "model.onnx is not the file that was shipped"),
    "a plain file's wrong hash": (lambda data: data["files"]["plain/student.txt"].update(sha256="0" * 64), "plain/student.txt is not"),
    "a file unlisted": (lambda data: data["files"].pop("snippets/c/predict.c"), "snippets/c/predict.c is not in manifest.json"),
    "a golden pair unlisted": (lambda data: data["files"].pop("golden.npz"), "golden.npz"),
    "depth": (lambda data: data.update(notes=nest(900)), "is not in manifest.json"),
}  # fmt: skip
SECRET = {"sha256": "0" * 64, "size_bytes": 6}


def nest(depth):
    return {"deeper": nest(depth - 1)} if depth else {}


@pytest.mark.parametrize("case", HOSTILE)
def test_both_verifications_refuse_a_hostile_manifest(folder, case):
    (folder.parent / "secret").write_text("secret")
    (folder / "link").symlink_to("../secret")
    (folder / "way").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    change, problem = HOSTILE[case]
    edit(folder / "manifest.json", change)
    code, said = run_own_verify(folder)
    assert code == 1
    assert any(problem in line for line in said), said
    assert any(problem in line for line in verify(folder))


def test_a_folder_behind_a_link_is_good(folder, tmp_path):
    (tmp_path / "latest").symlink_to(folder)
    assert verify(tmp_path / "latest") == []
    assert run_own_verify(tmp_path / "latest") == (0, ["ok"])


def test_every_file_but_the_manifest_is_hashed(original):
    files = {path.relative_to(original).as_posix() for path in original.rglob("*") if path.is_file()}
    manifest = json.loads((original / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["files"]) == files - {"manifest.json"}
    homes = {Path(name).parent.as_posix() for name in files}
    assert {f"snippets/{language}" for language in ("python", "javascript", "c", "cpp", "kotlin", "swift")} < homes
    assert {"README.md", "manifest.schema.json", "plain/student.txt"} < files
    assert (original / "README.md").read_text().startswith("# flowers: how to use it\n")


@pytest.mark.parametrize("language", ["kotlin", "swift"])
def test_what_did_not_run_here_says_so(original, language):
    for file in (original / "snippets" / language).iterdir():
        assert "untested here" in " ".join(file.read_text().lower().splitlines()[:3]), file.name


def test_plain_files_hold_the_first_example(original):
    lines = (original / "plain" / "student.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["name flowers", "kind classification"]
    assert lines[-1] == "class café"
    first = json.loads((original / "golden.json").read_text())["first"]
    assert first["inputs"]["categories"] == {"file": "plain/input-1.bin", "dtype": "int64", "shape": [1, 1]}
    numbers = np.frombuffer((original / "plain" / "input-0.bin").read_bytes(), "<f4")
    logits = np.frombuffer((original / "plain" / "output-0.bin").read_bytes(), "<f4")
    with np.load(original / "golden.npz") as golden:
        assert np.array_equal(numbers, golden["input/numbers"][0])
        assert np.allclose(logits, golden["output/logits"][0], atol=first["tolerance"])


@pytest.mark.parametrize(
    ("pixels", "white"), [(np.uint8([[0, 255]]), 255), (np.float32([[0, 0.7]]), 1), (np.float32([[0, 15]]), 16), (np.float32([[0, 900]]), 900.0)]
)  # fmt: skip
def test_white_is_what_the_examples_count_up_to(pixels, white):
    front = front_data(ImageFront(str(pixels.dtype), "hw", (1, 2), 1, (1, 2), (0.0,), (1.0,)))
    sides = {"layout": "hw", "height": 1, "width": 2, "channels": 1}
    assert read_picture(front, {"image": pixels[None]}) == sides | {"white": white}
    assert read_picture(front, {"image": pixels[None].astype(np.float32) - 1}) is None
    assert read_picture(None, {}) is None


def test_names_with_line_breaks_stay_on_their_line(artifacts, tmp_path):
    names = ["rose\nclass tulip", "tulip", "café"]
    folder = write_student(tmp_path / "s", artifacts["fp32"], MANIFEST | {"classes": names}, GOLDEN, "")
    lines = (folder / "plain" / "student.txt").read_text(encoding="utf-8").splitlines()
    assert lines[-3:] == ["class rose class tulip", "class tulip", "class café"]


def test_verify_loads_no_torch_and_no_onnx(folder):
    code = (
        "import sys; from export.verify import verify; from pathlib import Path; "
        f"assert verify(Path({str(folder)!r})) == []; "
        "print(sorted({'torch', 'onnx', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "MODEL_CARD.md", "snippets/python/predict.py"])
def test_a_changed_file_is_caught(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert verify(folder) == [f"{name} is not the file that was shipped: its sha256 differs"]


def test_missing_and_added_files_are_caught(folder):
    (folder / "MODEL_CARD.md").unlink()
    (folder / "snippets" / "python" / "numpy.py").write_text("")
    assert verify(folder) == [
        "MODEL_CARD.md is missing",
        "snippets/python/numpy.py is not in manifest.json",
    ]


def test_another_model_with_fresh_hashes_fails_the_golden_pair(folder):
    torch.manual_seed(5)
    other = nn.Linear(6, 3)
    to_onnx(other, body_signature(FRONT, 3, "logits"), folder.parent / "body.onnx")
    artifact = merge_front(folder.parent / "body.onnx", FRONT, folder / "model.onnx")
    rehash(folder, "model.onnx")
    edit(folder / "manifest.json", lambda data: data.update(size_bytes=artifact.size_bytes))
    (problem,) = verify(folder)
    assert problem.startswith("golden output logits is off by")


def test_a_file_that_is_no_model_is_caught(folder):
    (folder / "model.onnx").write_bytes(b"not a model")
    rehash(folder, "model.onnx")
    edit(folder / "manifest.json", lambda data: data.update(size_bytes=11))
    (problem,) = verify(folder)
    assert problem.startswith("model.onnx does not run on its golden inputs")


def test_golden_of_pickles_is_not_opened(folder):
    np.savez(folder / "golden.npz", **{"input/numbers": np.array([{}], dtype=object)})
    rehash(folder, "golden.npz")
    (problem,) = verify(folder)
    assert problem.startswith("golden.json and golden.npz do not fit together: ValueError")


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "a/../../secret", "C:\\secret", "..\\secret", "link", "a\0b", ""]
)
def test_paths_out_of_the_folder_are_refused(folder, name):
    (folder.parent / "secret").write_text("secret")
    (folder / "link").symlink_to("../secret")
    entry = {"sha256": hash_file(folder.parent / "secret"), "size_bytes": 6}
    edit(folder / "manifest.json", lambda data: data["files"].update({name: entry}))
    assert f"manifest.json: files: {name!r} leads out of the folder" in verify(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data.pop("classes"), "manifest.json lacks 'classes'"),
        (lambda data: data.update(format=2), "manifest.json: format must be within 1..1. Got 2"),
        (lambda data: data.update(opset="18"), "manifest.json: opset must be integer. Got '18'"),
        (lambda data: data.update(opset=True), "manifest.json: opset must be integer. Got True"),
        (lambda data: data.update(classes=[1]), "manifest.json: classes[0] must be string. Got 1"),
        (lambda data: data.update(inputs=[]), "manifest.json: inputs must not be empty"),
        (lambda data: data["inputs"][0].pop("dtype"), "manifest.json: inputs[0] lacks 'dtype'"),
        (lambda data: data["files"].pop("golden.npz"), "manifest.json: files lacks 'golden.npz'"),
        (lambda data: data["files"].update(x={}), "manifest.json: files: x lacks 'sha256'"),
        (lambda data: data.update(kind="magic"), "manifest.json: kind must be one of classification"),
    ],
)
def test_manifest_mistakes_are_named(folder, change, problem):
    edit(folder / "manifest.json", change)
    problems = verify(folder)
    assert problems[0].startswith(problem)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(manifest), "the published schema must agree"
    assert problems == check_schema(manifest, SCHEMA, SCHEMA["$defs"], "manifest.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_none(folder, content):
    (folder / "manifest.json").write_bytes(content)
    (problem,) = verify(folder)
    assert problem.startswith("manifest.json ")
    assert "\n" not in problem


def test_given_and_computed_keys_are_kept_apart(artifacts, tmp_path):
    with pytest.raises(ValueError, match="manifest's opset, precision are read from the file"):
        write_student(tmp_path / "s", artifacts["fp32"], MANIFEST | {"opset": 1, "precision": ""}, GOLDEN, "")
    given = {key: value for key, value in MANIFEST.items() if key != "teacher"}
    with pytest.raises(ValueError, match="manifest needs teacher"):
        write_student(tmp_path / "s", artifacts["fp32"], given, GOLDEN, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tolerance", [float("inf"), float("nan"), -1.0, "wide", None])
def test_a_tolerance_that_allows_anything_is_refused(folder, tolerance):
    edit(folder / "golden.json", lambda data: data.update(tolerance=tolerance))
    rehash(folder, "golden.json")
    (problem,) = verify(folder)
    assert problem.startswith("golden.json and golden.npz do not fit together")


def test_manifest_and_model_name_the_same_ends(folder):
    edit(folder / "manifest.json", lambda data: data["inputs"].reverse())
    assert verify(folder) == [
        "manifest.json: inputs must be numbers, categories, as in model.onnx. Got categories, numbers"
    ]


def test_public_names_are_there_and_torch_is_not_loaded_for_verify():
    for name in export.__all__:
        assert getattr(export, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'to_onxn'"):
        _ = export.to_onxn
    code = "import sys, export.verify; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_command_verify(folder, capsys):
    assert main(["verify", str(folder)]) == 0
    assert "is good" in capsys.readouterr().out
    command = [sys.executable, "-P", "-m", "export", "verify", str(folder)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (folder / "MODEL_CARD.md").unlink()
    assert main(["verify", str(folder)]) == 2
    assert capsys.readouterr().err == "MODEL_CARD.md is missing\n"
    assert main(["verify", str(folder / "nowhere")]) == 2
    assert capsys.readouterr().err == "manifest.json cannot be read: No such file or directory\n"


def test_command_quantise(artifacts, tmp_path, capsys):
    model, out, data = artifacts["fp32"].path, tmp_path / "q.onnx", tmp_path / "data.npz"
    np.savez(data, **{name: np.repeat(array, 40, axis=0) for name, array in GOLDEN.items()})
    command = ["quantise", str(model), str(out), "--precision", "int8", "--calibration"]
    assert main([*command, str(data)]) == 0
    assert "QuantizeLinear" in describe(out, "int8").operators
    np.savez(tmp_path / "uneven.npz", numbers=np.ones((3, 2), np.float32), categories=np.ones((2, 1), np.int64))
    np.savez(tmp_path / "other.npz", numbers=np.ones((3, 9), np.float32), categories=np.ones((3, 1), np.int64))
    (tmp_path / "no.npz").write_text("no")
    capsys.readouterr()
    wrong = {
        (*command, str(tmp_path / "uneven.npz")): "must hold as many rows for each input",
        (*command, str(tmp_path / "other.npz")): "invalid dimensions",
        (*command, str(tmp_path / "no.npz")): "is not an .npz of arrays",
        (*command, str(tmp_path / "absent.npz")): "No such file",
        tuple(command[:-1]): "at least one batch",
        ("quantise", str(model), str(out), "--precision", "int3"): "must be one of fp32",
        ("quantise", str(tmp_path / "no.npz"), str(out), "--precision", "fp32"): "is not an ONNX file",
        ("quantise", str(tmp_path / "absent"), str(out), "--precision", "fp32"): "No such file",
    }
    for arguments, message in wrong.items():
        assert main(list(arguments)) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
