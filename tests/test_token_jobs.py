"""What the file says of distillation token by token reaches its job, or is refused before any work."""

import numpy as np
import pytest
from token_parts import make_tokenizer, write_text

from family import spaces
from family.candidates import measuring_place, untrained_graphs
from family.errors import Mistakes
from family.job import open_job
from family.recipe import find_recipe
from family.spec import read_spec
from family.students import trained_folder
from family.studies import input_id
from family.text.token_targets import LiveTargets, TokenTargets
from family.text.tokenizer import train_tokenizer

TEACHER = """
from pathlib import Path
from token_parts import Bigrams

def bigrams():
    module = Bigrams(290)
    module.tokenizer = Path(__file__).parent / "tokenizer.json"
    return module
"""
SPEC = """
task: lm
data: text
teacher: t.py:bigrams
students: {space: decoder, dims: {width: 32, depth: 1, heads: 2, feed: 2, context: 16}}
budgets: {best: {target: cpu}}
"""
FIXED = "distill: {steps: 3, learning_rate: 0.01, control_seeds: 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("job")
    write_text(made / "text")
    (made / "tokenizer.json").write_bytes(make_tokenizer().data)
    (made / "other.json").write_bytes(train_tokenizer(["another text of other words altogether"] * 3, 290).data)
    (made / "t.py").write_text(TEACHER)
    return made


def open_with(folder, text):
    (folder / "b.yaml").write_text(text)
    said = []
    job = open_job(read_spec(folder / "b.yaml"), folder / "run", folder / "cache", said.append)
    return job, said


def test_tokens_drawn_are_kept_unless_more_is_asked(folder):
    job, said = open_with(folder, SPEC)
    assert isinstance(job.soft_targets(), TokenTargets)
    assert job.soft_targets().draws == 32
    assert not any("at every step" in line for line in said)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("loss: reverse_kl", "distill.loss reverse_kl needs all logits"),
        ("loss: skewed_kl", "distill.loss skewed_kl needs all logits"),
        ("temperature: 2.0", "distill.temperature 2 needs all logits; tokens are drawn at 1"),
        ("on_policy: 0.5", "distill.on_policy 0.5 has it score text that is yet to be written"),
        ("soft_targets: live", "distill.soft_targets live asks for all logits"),
    ],
)
def test_what_needs_every_logit_has_a_live_teacher_and_it_is_said_in_a_line(folder, given, why):
    job, said = open_with(folder, f"{SPEC}distill: {{{given}}}\n")
    assert isinstance(job.soft_targets(), LiveTargets)
    assert [line for line in said if "at every step" in line] == [
        f"note: {why}: the teacher is asked at every step, nothing is kept of what it says"
    ]


def test_settings_reach_the_training_and_the_control_has_none_of_them(folder):
    job, _ = open_with(
        folder, f"{SPEC}{FIXED}, loss: skewed_kl, label_weight: 0.25, on_policy: 0.5, temperature: 2.0}}\n"
    )
    recipe = find_recipe(job)
    told = recipe.student
    assert (told.loss, told.label_weight, told.on_policy, told.temperature) == ("skewed_kl", 0.25, 0.5, 2.0)
    assert (recipe.control.loss, recipe.control.on_policy, recipe.control.steps) == ("labels", 0.0, 3)
    plain, _ = open_with(folder, f"{SPEC}{FIXED}, loss: forward_kl}}\n")
    told = find_recipe(plain).student
    assert (told.label_weight, told.on_policy, told.temperature) == (0.0, 0.0, 1.0)


def test_what_is_kept_of_the_teacher_names_the_training(folder):
    names = {open_with(folder, f"{SPEC}distill: {{{given}}}\n")[0].taught_by for given in ("draws: 16", "draws: 64",
             "soft_targets: top", "soft_targets: live")}  # fmt: skip
    assert len(names) == 4
    other = open_with(folder, f"seed: 5\n{SPEC}distill: {{draws: 16}}\n")[0].taught_by
    assert other not in names  # other draws


@pytest.mark.parametrize(
    ("students", "distill", "said"),
    [
        ("tokenizer: other.json, ", "", "students.tokenizer: must be the teacher's for distillation token by token"),
        ("tokenizer: none.json, ", "", "students.tokenizer: must be a tokenizer.json"),
        ("", "soft_targets: top_k_renormalised", "'top_k_renormalised' is biased"),
        ("", "soft_targets: bottom", "must be drawn, top or live. Got 'bottom'."),
        ("prompt_tokens: 17, ", "", "students.prompt_tokens: must be at most the smallest context, 16. Got 17."),
        ("", "draws: 100", "must be from 16 to 64 a position. Got 100."),
        ("", "on_policy: 1.5", "distill.on_policy"),
        ("", "on_policy: 0.5, loss: labels", "needs a loss that asks the teacher. Got loss 'labels'."),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(folder, students, distill, said):
    text = SPEC.replace("{space: decoder", f"{{{students}space: decoder") + f"distill: {{{distill}}}\n"
    with pytest.raises(Mistakes) as told:
        open_with(folder, text)
    assert said in str(told.value)


@pytest.mark.parametrize("vocabulary", ["280", "[280, 290]", "400"])
def test_students_have_all_of_the_teachers_tokens_and_no_others(folder, vocabulary):
    with pytest.raises(Mistakes, match="must be 290, the teacher's, for distillation token by token"):
        open_with(folder, SPEC.replace("context: 16", f"context: 16, vocabulary: {vocabulary}"))


@pytest.mark.parametrize("space", ["mlp", "encoder", "static", "s.py:mine"])
def test_a_language_model_s_students_are_decoders(folder, space):
    (folder / "s.py").write_text("def mine():\n    return {'dims': {'width': [8, 16]}, 'build': None}\n")
    text = SPEC[: SPEC.index("students")] + f"students: {{space: {space}}}\nbudgets: {{best: {{target: cpu}}}}\n"
    with pytest.raises(Mistakes, match=f"students.space: must be decoder for task: lm. Got {space}."):
        open_with(folder, text)


def test_a_vocabulary_that_breaks_a_budget_alone_is_said_before_training(folder):
    with pytest.raises(Mistakes) as told:
        open_with(folder, SPEC.replace("{best: {target: cpu}}", "{small: {target: cpu, size_kb: 4}}"))
    assert "budgets.small.size_kb: cannot be kept: 290 tokens of width 32 alone take 5 kB at 4 bits" in str(told.value)


def test_prompts_of_another_length_are_other_files_and_figures(folder):
    keys = []
    for prompt in (4, 8):
        text = SPEC.replace("{space: decoder", f"{{prompt_tokens: {prompt}, space: decoder")
        job, _ = open_with(folder, f"{text}{FIXED}}}\n")
        params, recipe = spaces.smallest(job.space), find_recipe(job).student
        keys.append((trained_folder(job, params, recipe), measuring_place(job, params, "cpu", ""), input_id(job)))
        untrained = untrained_graphs(job, params)["fp32"]
        with np.load(untrained.with_name("prefill.feeds.npz")) as feeds:
            assert feeds["input_ids"].shape == (1, prompt)
    (trained, place, study), (other, place_after, study_after) = keys
    assert trained == other  # what students learn is the same
    assert place[0] == place_after[0]
    assert place[1] != place_after[1]
    assert study != study_after


@pytest.mark.parametrize("given", ["distill: {draws: 32}", "distill: {on_policy: 0.5}", "distill: {soft_targets: top}"])
def test_settings_of_tokens_are_refused_elsewhere(tmp_path, given):
    text = "data: digits\nteacher: digits\nstudents: mlp\nbudgets: {best: {target: cpu}}\n"
    (tmp_path / "b.yaml").write_text(f"{text}{given}\n")
    with pytest.raises(Mistakes, match="is for task: lm"):
        read_spec(tmp_path / "b.yaml")


@pytest.mark.parametrize("task", ["lm", "text"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("data: text", "data: {path: text, augment: {flip: true}}", "data.augment: is not for task: "),
        ("space: decoder", "space: decoder, input: 32", "students.input: is not for task: "),
    ],
)
def test_a_key_that_nothing_would_follow_is_refused(folder, task, old, new, said):
    (folder / "u.yaml").write_text(SPEC.replace("task: lm", f"task: {task}").replace(old, new))
    with pytest.raises(Mistakes) as told:
        read_spec(folder / "u.yaml")
    assert f"{said}{task}. Leave it out" in str(told.value)


@pytest.mark.parametrize("key", ["output: a", "gives: logits", "preprocess: {scale: 2}", "classes: [a, b]"])
def test_what_is_about_a_teachers_outputs_is_not_for_a_language_model(folder, key):
    (folder / "u.yaml").write_text(SPEC.replace("teacher: t.py:bigrams", f"teacher: {{path: t.py:bigrams, {key}}}"))
    with pytest.raises(Mistakes) as told:
        read_spec(folder / "u.yaml")
    assert f"teacher.{key.split(':')[0]}: is not for task: lm. Leave it out." in str(told.value)


def test_further_text_is_no_transfer_pool_of_a_language_model(folder):
    (folder / "u.yaml").write_text(SPEC.replace("data: text", "data: {path: text, transfer: text}"))
    with pytest.raises(Mistakes) as told:
        read_spec(folder / "u.yaml")
    assert "data.transfer: is not for task: lm, where every text teaches. Leave it out" in str(told.value)
