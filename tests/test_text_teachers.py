"""Teachers that read strings: folders that transformers saved, ONNX files with their tokenizers, torch factories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from family.errors import Mistakes
from family.tasks import DataOptions, open_task
from family.tasks.text_task import TextTask
from family.teachers import TeacherOptions, open_teacher
from family.text.first_values import begin_from_table, list_words, make_table
from family.text.readers import StaticStudent
from family.text.string_teachers import answer_all, pool_tokens, string_feed
from family.text.tokenizer import train_tokenizer
from family.text.vectors import learn_vectors

transformers = pytest.importorskip("transformers")
TEXTS = [f"{'an oak' if i % 2 else 'a small ant'} number {i}" for i in range(40)]
ROWS = np.arange(6)


def write_data(folder: Path, labels: bool = True) -> None:
    rows = [{"text": text} | ({"label": ["animal", "plant"][i % 2]} if labels else {}) for i, text in enumerate(TEXTS)]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))


def open_texts(folder: Path, **options) -> TextTask:
    given = {"task": "text", "vocabularies": (300,)} | options
    task = open_task(DataOptions("d.jsonl", folder, **given), folder / "cache")
    assert isinstance(task, TextTask)
    return task


def save_folder(place: Path, classes: bool, **more) -> torch.nn.Module:
    """A tiny BERT with a WordPiece tokenizer of whole words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for t in TEXTS for w in t.split()})]
    place.mkdir(parents=True)
    (place / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(place / "vocab.txt"))
    tokenizer.save_pretrained(place)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **more
    )
    torch.manual_seed(0)
    kind = transformers.BertForSequenceClassification if classes else transformers.BertModel
    model = kind(config).eval()
    model.save_pretrained(place)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    write_data(folder)
    save_folder(folder / "classifier", True, num_labels=2, id2label={0: "plant", 1: "animal"})
    save_folder(folder / "encoder", False)
    return folder


def open_one(folder: Path, task: TextTask, path: str, **options):
    return open_teacher([TeacherOptions(path, **options)], task, folder, folder / "cache")


def test_a_classifiers_folder_speaks_in_the_datas_order(folder):
    task = open_texts(folder)
    teacher = open_one(folder, task, "classifier")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "classifier")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "classifier")
    with torch.no_grad():
        wanted = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in task.sentences("val", ROWS)]
    assert task.classes == ("animal", "plant")
    np.testing.assert_allclose(teacher.outputs("val", ROWS, 0), torch.stack(wanted).numpy()[:, ::-1], atol=1e-5)
    assert teacher.cost["parameters"] > 1000


@pytest.mark.parametrize("pool", ["mean", "cls", "max"])
def test_a_sentence_encoder_pools_as_its_folder_says(folder, tmp_path, pool):
    write_data(tmp_path, labels=False)
    shutil.copytree(folder / "encoder", tmp_path / "e")
    kinds = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in steps]
    (tmp_path / "e" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "e" / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{kinds[k]}": k == pool for k in kinds}
    (tmp_path / "e" / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    task = open_texts(tmp_path, score="cosine")
    task, teacher = learn_vectors([TeacherOptions("e")], task, tmp_path, tmp_path / "cache")
    model = transformers.AutoModel.from_pretrained(tmp_path / "e")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "e")
    with torch.no_grad():
        (text,) = task.sentences("val", ROWS[:1])
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    wanted = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.amax(0)}[pool]
    wanted = (wanted / wanted.norm()).numpy()
    np.testing.assert_allclose(teacher.outputs("val", ROWS[:1], 0)[0], wanted, atol=1e-5)
    np.testing.assert_allclose(task.labels("val")[0], wanted, atol=1e-5)
    assert any(pool in note for note in teacher.notes)


def test_padding_is_left_out_of_every_pool():
    hidden = torch.arange(24.0).reshape(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert pool_tokens(hidden, mask, "mean")[0].tolist() == [2, 3, 4, 5]
    assert pool_tokens(hidden, mask, "max")[1].tolist() == hidden[1, 0].tolist()
    assert pool_tokens(hidden, mask, "cls").tolist() == hidden[:, 0].tolist()


def test_vectors_are_asked_once(folder, tmp_path, monkeypatch):
    write_data(tmp_path, labels=False)
    shutil.copytree(folder / "encoder", tmp_path / "e")
    one = learn_vectors([TeacherOptions("e")], open_texts(tmp_path, score="cosine"), tmp_path, tmp_path / "cache")
    monkeypatch.setattr(transformers.BertModel, "forward", None)
    two = learn_vectors([TeacherOptions("e")], open_texts(tmp_path, score="cosine"), tmp_path, tmp_path / "cache")
    assert np.array_equal(one[0].truth, two[0].truth)
    assert one[0].fingerprint == two[0].fingerprint


FACTORY = """
import torch
class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
    def embed(self, texts):
        return torch.tensor([[float(len(t)), float(t.count("a")), 1.0] for t in texts])
    def forward(self, texts):
        return torch.tensor([[float("ant" in t), float("oak" in t)] for t in texts]) * self.scale
def teacher():
    return Words()
def broken():
    class Broken(Words):
        def forward(self, texts):
            return torch.zeros(len(texts) + 1, 2)
    return Broken()
def failing():
    class Failing(Words):
        def forward(self, texts):
            return texts + 1
    return Failing()
"""


def test_a_factory_takes_strings(folder):
    (folder / "t.py").write_text(FACTORY)
    task = open_texts(folder)
    teacher = open_one(folder, task, "t.py:teacher")
    wanted = [[2.0 * ("ant" in t), 2.0 * ("oak" in t)] for t in task.sentences("train", ROWS)]
    assert teacher.outputs("train", ROWS, 0).tolist() == wanted
    assert teacher.embed(["aa", "b"]).tolist() == [[2, 2, 1], [1, 0, 1]]
    for name, said in (("broken", "must give"), ("failing", "fails on texts: TypeError")):
        with pytest.raises(Mistakes, match=said):
            open_one(folder, task, f"t.py:{name}")


def export_onnx(folder: Path, tokenizer: bool) -> Path:
    place = folder / f"onnx-{tokenizer}"
    place.mkdir()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "classifier").eval()

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model.bert.embeddings.word_embeddings(input_ids).mul(attention_mask[:, :, None]).sum(1)[:, :2]

    given = torch.ones(2, 5, dtype=torch.int64)
    torch.onnx.export(
        Plain(), (given, given), str(place / "m.onnx"), dynamo=False, input_names=["input_ids", "attention_mask"],
        output_names=["logits"], dynamic_axes={n: {0: "batch", 1: "length"} for n in ("input_ids", "attention_mask")},
    )  # fmt: skip
    if tokenizer:
        shutil.copy(folder / "classifier" / "tokenizer.json", place)
    return place


def test_an_onnx_file_with_its_tokenizer(folder):
    task = open_texts(folder)
    place = export_onnx(folder, True)
    teacher = open_one(folder, task, "onnx-True/m.onnx")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "classifier")
    session = onnxruntime.InferenceSession(str(place / "m.onnx"))
    for text, said in zip(task.sentences("val", ROWS), teacher.outputs("val", ROWS, 0), strict=True):
        ids = np.array([tokenizer(text)["input_ids"]])
        (wanted,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        np.testing.assert_allclose(said, wanted[0], atol=1e-6)
    feed = string_feed(TeacherOptions("onnx-True/m.onnx"), task, folder, ROWS[:1])
    assert feed["input_ids"][0].tolist() == tokenizer(task.sentences("val", ROWS[:1])[0])["input_ids"]
    export_onnx(folder, False)
    with pytest.raises(Mistakes, match=r"teacher.tokenizer.*none lies beside it"):
        open_one(folder, task, "onnx-False/m.onnx")
    named = open_one(folder, task, "onnx-False/m.onnx", tokenizer="classifier/tokenizer.json")
    assert np.array_equal(named.outputs("val", ROWS, 0), teacher.outputs("val", ROWS, 0))


def test_what_cannot_answer_texts_is_told(folder, tmp_path):
    task = open_texts(folder)
    (folder / "p.pt2").write_bytes(b"")
    (folder / "bare").mkdir()
    (folder / "m.gguf").write_bytes(b"GGUF")
    wrong = {
        "encoder": "gives 16 outputs a row; the data has 2 classes",
        "p.pt2": "cannot read strings",
        "bare": "holds no config.json",
        "m.gguf": "m.gguf cannot be opened",
        "t.bin": "must be a .onnx file",
    }
    for path, said in wrong.items():
        with pytest.raises(Mistakes, match=said):
            open_one(folder, task, path)
    with pytest.raises(Mistakes, match=r"is for images; this teacher takes texts|takes texts as they are"):
        open_one(folder, task, "classifier", preprocess={"size": 4})


def test_a_head_without_weights_is_no_teacher(folder, tmp_path):
    write_data(tmp_path)
    shutil.copytree(folder / "encoder", tmp_path / "e")
    config = json.loads((tmp_path / "e" / "config.json").read_text())
    (tmp_path / "e" / "config.json").write_text(
        json.dumps(config | {"architectures": ["BertForSequenceClassification"]})
    )
    with pytest.raises(Mistakes, match=r"has no weights for classifier.*it was not trained to give classes"):
        open_one(tmp_path, open_texts(tmp_path), "e")


def test_texts_are_asked_by_length_and_answered_in_order():
    texts = ["ccc", "a", "bb"] * 30
    asked = []

    def answer(some: list[str]) -> np.ndarray:
        asked.append([len(text) for text in some])
        return np.array([[len(text), ord(text[0])] for text in some], np.float32)

    assert answer_all(answer, texts)[:3].tolist() == [[3, ord("c")], [1, ord("a")], [2, ord("b")]]
    assert [n for some in asked for n in some] == sorted(len(text) for text in texts)


def test_token_embeddings_begin_from_the_teachers_vectors():
    tokenizer = train_tokenizer(TEXTS, 290)
    words = list_words(tokenizer)
    assert words[0] == words[1] == ""
    assert "oak" in words
    assert "" in words[2:258]  # bytes that are no whole character
    table = make_table(lambda some: np.array([[len(w), w.count("a"), 7.0] for w in some], np.float32), tokenizer)
    assert table.shape == (tokenizer.size, 3)
    spread = table.std(0)
    assert spread[0] >= spread[1] >= spread[2]
    student = StaticStudent(tokenizer.size, 2, 0, 2)
    before = student.embedding.weight.detach().clone()
    begin_from_table(student, table)
    assert np.allclose(student.embedding.weight.detach().numpy()[1:], table[1:, :2])
    assert torch.equal(student.embedding.weight[0], before[0])
