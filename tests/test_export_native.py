"""The snippets in C and C++: the same pixels as Python's, the same golden check, and no crash on what they cannot read."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime_release import lay_out, no_headers
from student_folders import DIGITS, PHOTOS, crop_photos, expect, make_digit_student, make_photo_student, save
from text_students import CLASSES, make_text_student, make_tokenizer

from export.plain import write_plain

SNIPPETS = Path(write_plain.__code__.co_filename).parent / "snippets"
LANGUAGES = {"c": ("cc", "predict.c"), "cpp": ("c++", "predict.cpp")}
MAIN = {
    "c": '#include "student.h"\nint main(int n, char **w) { (void)n; Student *s = read_student(w[1]);'
    " Array a = from_pixels(s, read_pnm(w[2])); fwrite(a.data, bytes_of(a.type), a.count, stdout); }\n",
    "cpp": '#include "student.hpp"\n#include <iostream>\nint main(int, char** w) try {'
    " const auto a = student::from_pixels(student::read_facts(w[1]), student::read_pnm(w[2]));"
    " std::cout.write(a.data.data(), a.data.size()); }"
    " catch (const std::exception& error) { std::cerr << error.what() << std::endl; return 1; }\n",
}
IDS = {  # a program around what the README of students of texts gives
    "c": '#define main own\n#include "predict.c"\n#undef main\nint main(int n, char **w) { (void)n; (void)own;'
    " Student *student = read_student(w[1]); Runner runner = open_student(w[1]);\n%s\nsay(student, found, outputs); }\n",
    "cpp": '#define main own\n#include "predict.cpp"\n#undef main\nint main(int, char** w) {'
    " Runner runner(w[1]);\n%s\nstd::cout << say(runner.facts, row) << std::endl; }\n",
}
pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("c++") and shutil.which("make")), reason="no cc, c++ and make here"
)
NO_HEADERS = no_headers()
KINDS = {  # layout, sides, channels, type, white
    "bytes": ("hwc", (None, None), 3, "uint8", 255),
    "planes": ("chw", (None, None), 3, "float32", 1),
    "digits": ("hw", (8, 8), 1, "float32", 16),
    "grey bytes": ("hwc", (8, 8), 1, "uint8", 16),
}


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, check=False, timeout=60, **options)


@pytest.fixture(scope="module", params=LANGUAGES)
def reader(request, tmp_path_factory):
    """A program that prints a picture as the student's input, by the snippet's own reader, watched by sanitizers."""
    folder = tmp_path_factory.mktemp(request.param)
    compiler, source = LANGUAGES[request.param]
    (folder / source).write_text(MAIN[request.param])
    flags = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover", "-I", SNIPPETS / request.param]
    built = run(compiler, *flags, "-o", folder / "reader", folder / source, "-lm")
    assert built.returncode == 0, built.stderr
    return folder / "reader"


def read(reader, student, picture):
    return run(reader, student, picture, env={"ASAN_OPTIONS": "detect_leaks=0"})


def write_kind(folder, kind):
    layout, (height, width), channels, dtype, white = KINDS[kind]
    picture = {"layout": layout, "height": height, "width": width, "channels": channels, "white": white}
    manifest = {"name": "a b", "kind": "classification", "picture": picture, "classes": ["x y", "z"]}
    inputs = {"image": np.zeros((1, 2, 2), dtype)}
    write_plain(folder, manifest, inputs, {"logits": np.zeros((1, 2), np.float32)}, 0.5)
    return manifest | {"inputs": [{"name": "image", "dtype": dtype}]}


def python_snippet():
    spec = importlib.util.spec_from_file_location("python_snippet", SNIPPETS / "python" / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["ppm", "pgm"])
def test_pixels_become_what_they_become_in_python(reader, kind, ending, tmp_path):
    manifest = write_kind(tmp_path, kind)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3) if ending == "ppm" else (8, 8), np.uint8)
    path = save(image, tmp_path / f"a.{ending}")
    done = read(reader, tmp_path, path)
    assert done.returncode == 0, done.stderr
    wanted = python_snippet().read_picture(path, manifest)["image"]
    found = np.frombuffer(done.stdout, wanted.dtype).reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_comments_in_a_picture_are_passed_over(reader, tmp_path):
    write_kind(tmp_path, "bytes")
    (tmp_path / "a.ppm").write_bytes(b"P6 # made by\n# 7 hands\n2 1\n255\n\n\x0b\x0c\x01\x02#")
    assert read(reader, tmp_path, tmp_path / "a.ppm").stdout == b"\n\x0b\x0c\x01\x02#"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no binary PPM"),
        (b"\x89PNG\r\n\x1a\n", "is no binary PPM"),
        (b"P6 2 1 255\n\x00\x00", "breaks off"),
        (b"P6 2 1 65535\n" + b"\0" * 12, "up to 255"),
        (b"P6 0 1 255\n", "65535"),
        (b"P6 -1 1 255\n", "65535"),
        (b"P6 99999999999999999999 99999 255\n", "65535"),
        (b"P6 # no end", "65535"),
    ],
)
def test_pictures_that_are_none_are_refused_in_words(reader, content, said, tmp_path):
    write_kind(tmp_path, "bytes")
    (tmp_path / "a.ppm").write_bytes(content)
    done = read(reader, tmp_path, tmp_path / "a.ppm")
    assert done.returncode == 1, done.stderr
    assert said in done.stderr.decode()


def test_another_size_and_a_student_without_pictures_are_refused(reader, tmp_path):
    write_kind(tmp_path, "digits")
    path = save(np.zeros((5, 4, 3), np.uint8), tmp_path / "a.ppm")
    assert b"the picture is 4 x 5; this student takes 8 x 8" in read(reader, tmp_path, path).stderr
    text = (tmp_path / "plain" / "student.txt").read_text()
    (tmp_path / "plain" / "student.txt").write_text(text.replace("picture float32 hw 8 8 1 16\n", ""))
    assert b"this student takes no pictures" in read(reader, tmp_path, path).stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("input float32 1,2,2", "input float32 1,2,3"),
        ("input float32", "input float16"),
        ("plain/input-0.bin", "../secret"),
        ("plain/input-0.bin image", ""),
        ("input", "inptu"),
        ("output float32 1,2 plain/output-0.bin logits\n", ""),
    ],
)
def test_broken_facts_are_refused(reader, old, new, tmp_path):
    write_kind(tmp_path, "digits")
    text = (tmp_path / "plain" / "student.txt").read_text()
    assert old in text
    (tmp_path / "plain" / "student.txt").write_text(text.replace(old, new, 1))
    done = read(reader, tmp_path, save(np.zeros((8, 8), np.uint8), tmp_path / "a.pgm"))
    assert done.returncode == 1, done.stderr
    assert done.stderr
    assert b"Sanitizer" not in done.stderr


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    return {
        "photos": make_photo_student(tmp_path_factory.mktemp("photos")),
        "digits": make_digit_student(tmp_path_factory.mktemp("digits")),
    }


@pytest.fixture(scope="module", params=LANGUAGES)
def program(request, students, tmp_path_factory):
    """Built by the command that the README gives, in a copy of a student's folder."""
    if NO_HEADERS:
        pytest.skip(NO_HEADERS)
    folder = tmp_path_factory.mktemp("alone") / "student"
    shutil.copytree(students["photos"][0], folder)
    release = lay_out(tmp_path_factory.mktemp("onnxruntime") / "release", Path(onnxruntime.__file__).parents[1])
    built = run("make", f"ORT={release}", cwd=folder / "snippets" / request.param)
    assert built.returncode == 0, built.stderr
    assert built.stderr == b"", "warnings"
    return folder / "snippets" / request.param / "build" / "predict"


@pytest.mark.parametrize("name", ["photos", "digits"])
def test_the_golden_check_holds_and_names_the_first_example(program, students, name):
    folder, module = students[name]
    with np.load(folder / "golden.npz") as golden:
        first = expect(module, {"photos": PHOTOS, "digits": DIGITS}[name], golden["input/image"][0])
    done = run(program, folder)
    assert done.returncode == 0, done.stderr
    check, predicted = done.stdout.decode().splitlines()
    assert check.startswith("golden check: ok")
    assert (
        predicted == f"predicted: class {[['china', 'flower'], list('0123456789')][name == 'digits'][first.argmax()]}"
    )


def test_a_changed_golden_output_fails_the_check(program, students, tmp_path):
    folder = Path(shutil.copytree(students["photos"][0], tmp_path / "student"))
    (folder / "plain" / "output-0.bin").write_bytes(np.array([np.nan, 0], "<f4").tobytes())
    done = run(program, folder)
    assert done.returncode == 1
    assert done.stdout.startswith(b"golden check: FAILED (off by nan")


def test_pictures_get_their_class_and_others_a_reason(program, students, tmp_path):
    for i, (crop, label) in enumerate(zip(*crop_photos(6, seed=1), strict=True)):
        path = save(crop, tmp_path / f"{i}.ppm")
        assert (
            run(program, students["photos"][0], path).stdout.decode() == f"{path}: class {['china', 'flower'][label]}\n"
        )
    done = run(program, students["digits"][0], path)
    assert done.returncode == 1
    assert b"this student takes 8 x 8" in done.stderr
    (tmp_path / "student" / "plain").mkdir(parents=True)
    done = run(program, tmp_path / "student")
    assert done.returncode == 1
    assert b"plain/student.txt cannot be read" in done.stderr


def test_a_model_that_is_none_is_told_by_onnxruntime(program, students, tmp_path):
    folder = Path(shutil.copytree(students["photos"][0], tmp_path / "student"))
    (folder / "model.onnx").write_bytes(b"not a model")
    done = run(program, folder)
    assert done.returncode == 1
    assert done.stderr.strip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_student_of_texts_takes_ids_as_its_readme_says(language, tmp_path):
    if NO_HEADERS:
        pytest.skip(NO_HEADERS)
    folder, module = make_text_student(tmp_path / "made", make_tokenizer())
    release = lay_out(tmp_path / "onnxruntime", Path(onnxruntime.__file__).parents[1])
    snippet = folder / "snippets" / language
    (fragment,) = re.findall(rf"```{language}\n(.*?)```", (snippet / "README.md").read_text(encoding="utf-8"), re.S)
    compiler, source = LANGUAGES[language]
    (snippet / f"ids{Path(source).suffix}").write_text(IDS[language] % fragment)
    libraries = [
        "-I",
        release / "include",
        "-L",
        release / "lib",
        f"-Wl,-rpath,{release / 'lib'}",
        "-lonnxruntime",
        "-lm",
    ]
    for name in (source, f"ids{Path(source).suffix}"):
        flags = ["-std=c++17"] if language == "cpp" else ["-std=c11"]
        built = run(compiler, *flags, "-o", tmp_path / "program", snippet / name, *libraries)
        assert built.returncode == 0, built.stderr
        done = run(tmp_path / "program", folder)
        assert done.returncode == 0, done.stderr
        if name == source:
            assert done.stdout.startswith(b"golden check: ok")
    with torch.no_grad():
        wanted = CLASSES[int(module(torch.tensor([[17, 42, 9]])).argmax())]
    assert done.stdout.decode() == f"class {wanted}\n"
