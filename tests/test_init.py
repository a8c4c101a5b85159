"""init: what it sees in data, and a file that the main job accepts."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML

from family.init import init, quote
from family.spec import read_spec


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.onnx").touch()
    return tmp_path


def written(home, *arguments):
    """The spec that the file holds, after init exited 0."""
    assert init([*arguments, "--teacher", "t.onnx", "--force"]) == 0
    return read_spec(home / "budgets.yaml")


def refuse(capsys, *arguments):
    """The one line on stderr of an init that exits 2 and writes nothing."""
    assert init(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def write_images(folder, sizes):
    for i, size in enumerate(sizes):
        place = folder / ("cat", "dog")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(place / f"{i}.png")


def test_texts_are_seen_by_their_words(home, capsys):
    rows = [
        {"mail": "when is the next train to town", "kind": "ask", "where": "inbox"},
        {"mail": "it is late today", "kind": "tell"},
    ]
    (home / "mails.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = written(home, "mails.jsonl", "--label", "kind")
    assert (spec.task, spec.data.text, spec.data.label, spec.students.space) == ("text", "mail", "kind", "static")
    for kind in ("ask", "tell"):
        (home / "letters" / kind).mkdir(parents=True)
        (home / "letters" / kind / "1.txt").write_text("some words")
    assert written(home, "letters").task == "text"


def test_digits(home, capsys):
    assert init(["digits"]) == 0
    spec = read_spec(home / "budgets.yaml")
    assert (spec.name, spec.data.path, spec.teacher[0].path) == ("digits", "digits", "digits")
    assert spec.students.space == "conv"
    assert list(spec.budgets) == ["tiny", "small", "fast", "best"]
    assert spec.budgets["tiny"].size_kb < spec.budgets["small"].size_kb
    assert "Next: build-family --budgets budgets.yaml --dry-run" in capsys.readouterr().out


def test_without_data_the_digits_are_taken_and_that_is_said(home, capsys):
    assert init([]) == 0
    assert read_spec(home / "budgets.yaml").data.path == "digits"
    assert "No data here" in capsys.readouterr().out


def test_the_one_table_and_the_one_model_that_lie_here_are_taken(home):
    pd.DataFrame({"a": [1.0, 2.0], "label": [0, 1]}).to_csv(home / "iris.csv", index=False)
    assert init([]) == 0
    spec = read_spec(home / "budgets.yaml")
    assert (spec.data.path, spec.data.label, spec.teacher[0].path) == ("iris.csv", "label", "t.onnx")


def test_several_things_here_are_a_choice_of_the_user(home, capsys):
    (home / "a.csv").write_text("x,y\n1,2\n")
    (home / "b.npz").touch()
    assert refuse(capsys) == "PATH must be given, as several things here can be data: a.csv, b.npz."
    assert not (home / "budgets.yaml").exists()


def test_images_of_varying_size_get_an_input(home):
    write_images(home / "photos", [(40, 50), (64, 64), (70, 90)])
    spec = written(home, "photos")
    assert (spec.task, spec.students.space, spec.students.input) == ("images", "conv", 40)
    assert spec.data.label is None


def test_large_images_are_shrunk_and_small_ones_of_one_size_are_kept(home):
    write_images(home / "large", [(300, 300)] * 2)
    assert written(home, "large").students.input == 96
    write_images(home / "small", [(32, 32)] * 2)
    assert written(home, "small").students.input is None


def test_ready_split_folders(home):
    for part in ("train", "val", "test"):
        write_images(home / "photos" / part, [(16, 16)] * 2)
    spec = written(home, "photos")
    assert spec.data.split is None
    assert "2 class folders" in (home / "budgets.yaml").read_text()


def test_a_broken_image_does_not_stop_it(home):
    write_images(home / "photos", [(16, 16)] * 2)
    (home / "photos" / "cat" / "x.png").write_bytes(b"no image")
    assert written(home, "photos").task == "images"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables(home, ending):
    frame = pd.DataFrame({"age": [1, 2], "colour": ["r", "b"], "Species": ["x", "y"], "weight": [0.1, 0.2]})
    name = f"t.{ending}"
    frame.to_csv(name, index=False) if ending == "csv" else frame.to_parquet(name)
    spec = written(home, name)
    assert (spec.task, spec.students.space, spec.data.label) == ("table", "mlp", "Species")
    assert written(home, name, "--label", "colour").data.label == "colour"


def test_the_last_column_where_none_is_named_like_labels(home):
    pd.DataFrame({"a": [1], "b": [2], "split": ["train"]}).to_csv("t.csv", index=False)
    assert written(home, "t.csv").data.label == "b"


def test_a_table_of_image_bytes(home):
    pd.DataFrame({"image": [{"bytes": b"x", "path": "a"}], "label": [1]}).to_parquet("t.parquet")
    spec = written(home, "t.parquet")
    assert (spec.task, spec.students.input) == ("images", 96)


ROWS = np.zeros(6, np.int64)
ARRAYS = {
    "images": ({"x": np.zeros((6, 8, 8, 3), np.uint8), "label": ROWS}, "images", "conv", "label"),
    "series": (
        {"x": np.zeros((6, 3, 20), np.float32), "length": ROWS, "speaker": ROWS.astype(str)},
        "series",
        "encoder",
        "speaker",
    ),
    "table": ({"x": np.zeros((6, 5), np.float32), "y": ROWS}, "table", "mlp", "y"),
    "several": ({"a": np.zeros((6, 5)), "b": np.zeros((6, 2)), "target": ROWS}, None, "mlp", "target"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(home, name):
    arrays, task, space, label = ARRAYS[name]
    np.savez(home / "d.npz", **arrays)
    spec = written(home, "d.npz")
    assert (spec.task, spec.students.space, spec.data.label) == (task, space, label)
    assert spec.data.split.val == 0.15


def test_split_folders_by_their_usual_names_without_val(home, capsys):
    for split in ("Train", "testing"):
        write_images(home / "photos" / split, [(32, 32)] * 4)
    assert written(home, "photos").data.split is None
    assert "# its own splits Train and testing are used; val is cut off train" in (home / "budgets.yaml").read_text()
    assert "8 files in 2 class folders" in capsys.readouterr().out


def test_ready_made_splits_are_kept(home):
    split = np.array(["train", "val", "test"] * 2)
    np.savez(home / "d.npz", x=np.zeros((6, 5)), label=ROWS, split=split)
    assert written(home, "d.npz").data.split is None


def test_a_task_that_is_given_wins(home):
    np.savez(home / "d.npz", x=np.zeros((6, 3, 20), np.float32), label=ROWS)
    assert written(home, "d.npz").task == "images"
    spec = written(home, "d.npz", "--task", "series")
    assert (spec.task, spec.students.space) == ("series", "encoder")


def test_saved_hugging_face_datasets_are_read_from_their_description(home):
    features = {"picture": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["a"]}}
    for part in ("train", "validation", "test"):
        (home / "hf" / part).mkdir(parents=True)
        (home / "hf" / part / "dataset_info.json").write_text(json.dumps({"features": features}))
    (home / "hf" / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    spec = written(home, "hf")
    assert (spec.task, spec.data.label, spec.data.split) == ("images", "kind", None)


def test_paths_are_written_as_the_file_must_name_them(home):
    (home / "jobs").mkdir()
    (home / "my data").mkdir()
    pd.DataFrame({"a": [1], "label": [0]}).to_csv("my data/1: t.csv", index=False)
    assert init(["my data/1: t.csv", "--teacher", "t.onnx", "--out", "jobs/b.yaml"]) == 0
    spec = read_spec(home / "jobs" / "b.yaml")
    assert spec.data.path == "../my data/1: t.csv"
    assert spec.teacher[0].path == "../t.onnx"


def test_without_a_teacher_the_next_step_says_so(home, capsys):
    (home / "t.onnx").unlink()
    pd.DataFrame({"a": [1], "label": [0]}).to_csv("t.csv", index=False)
    assert init(["t.csv"]) == 0
    assert "Next: name your teacher in it, then build-family" in capsys.readouterr().out


def test_what_is_refused(home, capsys):
    pd.DataFrame({"a": [1], "label": [0]}).to_csv("t.csv", index=False)
    (home / "bad.npz").write_bytes(b"PK no archive")
    (home / "notes.txt").touch()
    (home / "empty").mkdir()
    (home / "empty.csv").touch()
    assert refuse(capsys, "t.cvs").endswith("Did you mean 't.csv'?")
    assert refuse(capsys, "t.csv", "--label", "lable") == (
        "--label 'lable' is not there. Found: a, label. Did you mean 'label'?"
    )
    assert refuse(capsys, "t.csv", "--teacher", "t.onx").endswith("Did you mean 't.onnx'?")
    assert refuse(capsys, "bad.npz").startswith("PATH bad.npz cannot be read: ")
    assert refuse(capsys, "empty.csv").startswith("PATH empty.csv cannot be read: ")
    assert refuse(capsys, "notes.txt").startswith("PATH must be a folder of class folders, ")
    assert refuse(capsys, "empty").startswith("PATH empty has no images in class folders")
    assert refuse(capsys, "digits", "--out", "empty").startswith("--out empty is a folder")
    assert "there is no folder" in refuse(capsys, "digits", "--out", "none/b.yaml")
    assert not (home / "budgets.yaml").exists()


def test_a_file_that_is_there_is_kept_without_force(home, capsys):
    (home / "budgets.yaml").write_text("mine")
    assert refuse(capsys, "digits") == (
        "--out budgets.yaml is there already; choose another with --out, or say --force."
    )
    assert (home / "budgets.yaml").read_text() == "mine"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(["y", "No", "1", "1e3"]))
def test_any_name_is_read_back_as_it_was(text):
    assert YAML(typ="safe", pure=True).load(f"label: {quote(text)}   # said\n") == {"label": text}


def test_a_label_beside_class_folders_is_a_mistake(home, capsys):
    write_images(home / "photos", [(16, 16)] * 2)
    assert refuse(capsys, "photos", "--label", "cat").startswith("--label is not for class folders")


def test_wrong_data_is_said_before_a_file_that_is_there(home, capsys):
    (home / "budgets.yaml").touch()
    assert refuse(capsys, "nowhere").startswith("PATH nowhere is not there")


def test_several_models_here_are_named(home, capsys):
    write_images(home / "photos", [(16, 16)] * 2)
    (home / "u.onnx").touch()
    assert init(["photos"]) == 0
    assert "name your teacher in it (here lie t.onnx, u.onnx)" in capsys.readouterr().out
