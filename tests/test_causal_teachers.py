"""Causal teachers: opened from a function, a transformers folder and a GGUF file; whose tokens they must share."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from token_parts import WORDS, make_teacher, make_tokenizer

from family.errors import Mistakes
from family.text.causal_teachers import fit_teacher, identity, open_causal_teacher
from family.text.tokenizer import cut, open_tokenizer, to_bytes, train_tokenizer

FACTORY = """
from pathlib import Path
import torch
from torch import nn
HERE = Path(__file__).parent

class Model(nn.Module):
    tokenizer = HERE / "tokenizer.json"
    def __init__(self, wide):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(wide, wide)
    def forward(self, ids):
        return self.table(ids)

class Flat(Model):
    def forward(self, ids):
        return self.table(ids)[:, 0]

class Odd(Model):
    def forward(self, ids):
        return self.table(ids) / 0

def exact(): return Model(290)
def padded(): return Model(320)
def narrow(): return Model(280)
def flat(): return Flat(290)
def odd(): return Odd(290)
def text(): return "no module"
def without():
    made = nn.Embedding(290, 290)
    return made
def broken(): raise OSError("no weights here")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(make_tokenizer(290).data)
    (tmp_path / "t.py").write_text(FACTORY)
    return tmp_path


def test_a_function_gives_a_module_and_its_tokenizer(folder):
    teacher = open_causal_teacher("t.py:exact", folder)
    assert teacher.vocabulary == teacher.tokenizer.size == 290
    assert teacher.logits(torch.zeros(3, 5, dtype=torch.int64)).shape == (3, 5, 290)
    assert teacher.cost == {"parameters": 290 * 290, "size_kb": pytest.approx(290 * 290 * 4 / 1000)}
    again = open_causal_teacher("t.py:exact", folder, tokenizer="tokenizer.json")
    assert again.fingerprint == teacher.fingerprint


def test_a_padded_vocabulary_is_cut_with_a_word(folder):
    teacher = open_causal_teacher("t.py:padded", folder)
    assert teacher.logits(torch.zeros(1, 2, dtype=torch.int64)).shape[2] == 290
    assert teacher.notes == ("teacher: 320 logits for 290 tokens; the 30 that pad the vocabulary are cut",)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("t.py:narrow", "has 290 tokens; t.py:narrow gives logits of 280 alone"),
        ("t.py:text", "must return a torch.nn.Module. Got str."),
        ("t.py:without", "has no attribute `tokenizer` that says one"),
        ("t.py:broken", "failed: OSError: no weights here"),
        ("nowhere", "must be path/file.py:function, the folder of a transformers model, or a .gguf file"),
        ("none.gguf", "names none.gguf, which is not there"),
        (".", "holds no config.json"),
    ],
)
def test_what_cannot_be_opened_is_said(folder, path, said):
    with pytest.raises(Mistakes) as told:
        open_causal_teacher(path, folder)
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("path", "said"), [("t.py:flat", "must give logits (1, 2, 290 or more)"), ("t.py:odd", "gives NaN or infinite")]
)
def test_what_is_no_logits_is_said(folder, path, said):
    with pytest.raises(Mistakes) as told:
        open_causal_teacher(path, folder).logits(torch.zeros(1, 2, dtype=torch.int64))
    assert said in str(told.value)


def test_a_text_longer_than_the_teacher_reads_is_refused():
    teacher = replace(make_teacher(make_tokenizer()), context=8)
    with pytest.raises(Mistakes, match=r"reads 8 tokens at most\. The students' context is 9"):
        teacher.logits(torch.zeros(1, 9, dtype=torch.int64))


def test_the_same_tokenizer_fits_however_it_decodes_or_pads():
    tokenizer = make_tokenizer()
    teacher = make_teacher(tokenizer)
    parts = json.loads(tokenizer.data)
    same = open_tokenizer(to_bytes(parts | {"decoder": None, "post_processor": None}))
    assert same.fingerprint != tokenizer.fingerprint
    assert fit_teacher(teacher, same) is teacher


def test_tokens_that_a_larger_one_of_the_family_has_more_are_cut_with_a_word():
    small = make_tokenizer()
    parts = json.loads(small.data)
    extra = [
        {"id": small.size + i, "content": f"<extra {i}>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for i in range(6)
    ]  # fmt: skip
    large = open_tokenizer(to_bytes(parts | {"added_tokens": extra}))
    fitted = fit_teacher(make_teacher(large), small)
    assert fitted.vocabulary == small.size
    assert fitted.logits(torch.zeros(1, 2, dtype=torch.int64)).shape[2] == small.size
    assert "its last 6 tokens, which the students' tokenizer has not, are cut" in fitted.notes[0]


@pytest.mark.parametrize(
    "other",
    [
        lambda: train_tokenizer([" ".join(reversed(WORDS))] * 3, 290),
        lambda: cut(make_tokenizer(), 270),
        lambda: with_lowercase(make_tokenizer()),
    ],
    ids=["other merges", "fewer merges", "other normaliser"],
)
def test_another_tokenizer_is_refused(other):
    tokenizer = other()
    assert identity(tokenizer) != identity(make_tokenizer())
    with pytest.raises(Mistakes) as told:
        fit_teacher(make_teacher(make_tokenizer()), tokenizer)
    assert "students.tokenizer: must be the teacher's for distillation token by token" in str(told.value)


def with_lowercase(tokenizer):
    return open_tokenizer(to_bytes(json.loads(tokenizer.data) | {"normalizer": {"type": "Lowercase"}}))


def save_llama(folder, tokenizer):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=24,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(str(folder))
    (folder / "tokenizer.json").write_bytes(tokenizer.data)
    return model


def test_a_transformers_folder_gives_what_the_model_gives(tmp_path):
    model = save_llama(tmp_path / "llama", make_tokenizer())
    teacher = open_causal_teacher("llama", tmp_path)
    ids = torch.randint(0, 290, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(teacher.logits(ids), model(ids).logits[:, :, :290], atol=1e-5)
    assert (teacher.context, teacher.vocabulary) == (24, 290)
    assert "the 30 that pad the vocabulary are cut" in teacher.notes[0]


def test_other_weights_are_another_teacher(tmp_path):
    tokenizer = make_tokenizer()
    before = (save_llama(tmp_path / "llama", tokenizer), open_causal_teacher("llama", tmp_path))[1]
    model = save_llama(tmp_path / "llama", tokenizer)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(str(tmp_path / "llama"))
    assert open_causal_teacher("llama", tmp_path).fingerprint != before.fingerprint


def test_a_gguf_file_gives_what_the_model_gives(tmp_path):
    """A llama of our own written as GGUF, its projections as llama.cpp lays them out."""
    pytest.importorskip("accelerate")
    gguf = pytest.importorskip("gguf")
    tokenizer = make_tokenizer()
    model = save_llama(tmp_path / "llama", tokenizer)
    write_gguf(gguf, model, tokenizer, tmp_path / "m.gguf")
    (tmp_path / "own.json").write_bytes(tokenizer.data)
    teacher = open_causal_teacher("m.gguf", tmp_path, tokenizer="own.json")
    ids = torch.arange(12)[None] * 7
    with torch.no_grad():
        assert np.allclose(teacher.logits(ids), model(ids).logits[:, :, :290], atol=1e-3)


def write_gguf(gguf, model, tokenizer, path):
    config, writer = model.config, gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(24)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(320)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    names = [tokenizer.opened.id_to_token(i) or f"<pad {i}>" for i in range(320)]
    writer.add_token_list(names)
    writer.add_token_types([1] * 320)
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.data)["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    names = {
        "model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output",
        "input_layernorm.weight": "blk.0.attn_norm", "post_attention_layernorm.weight": "blk.0.ffn_norm",
        "self_attn.q_proj.weight": "blk.0.attn_q", "self_attn.k_proj.weight": "blk.0.attn_k",
        "self_attn.v_proj.weight": "blk.0.attn_v", "self_attn.o_proj.weight": "blk.0.attn_output",
        "mlp.gate_proj.weight": "blk.0.ffn_gate", "mlp.up_proj.weight": "blk.0.ffn_up",
        "mlp.down_proj.weight": "blk.0.ffn_down",
    }  # fmt: skip
    for name, value in state.items():
        told = names[name.removeprefix("model.layers.0.")]
        if told.endswith(("attn_q", "attn_k")):  # llama.cpp turns pairs, transformers halves
            value = value.reshape(2, 2, 8, 32).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(f"{told}.weight", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
