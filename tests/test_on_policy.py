"""Text that the student writes and the teacher scores: what it is made of, and that a resumed training writes the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from token_parts import PARAMS, make_teacher, make_tokenizer, open_text

from family.text.decoder import DecoderStudent, shape_of
from family.text.on_policy import choose_own, continue_text, write_own
from family.text.token_targets import LiveTargets
from family.train import plan_batches, train
from family.types import Training

TRAINING = Training("reverse_kl", 3e-3, 8, seed=0, temperature=1.0, label_weight=0.0, batch=8, on_policy=0.5)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return open_text(tmp_path_factory.mktemp("lm"), make_tokenizer())


@pytest.fixture(scope="module")
def live(task):
    return LiveTargets(make_teacher(task.tokenizer), task)


def build(task, seed=0):
    torch.manual_seed(seed)
    return DecoderStudent(shape_of(PARAMS | {"vocabulary": task.vocabulary}))


def batch_of(task, rows):
    return task.inputs("train", rows, 0)[0], task.lessons("train")[rows]


def test_its_share_of_the_steps_comes_from_the_seed():
    assert choose_own(2000, 0.3, 1).mean() == pytest.approx(0.3, abs=0.03)
    assert np.array_equal(choose_own(9, 0.5, 1), choose_own(9, 0.5, 1))
    assert not choose_own(50, 0, 1).any()
    assert choose_own(50, 1, 1).all()


def test_text_begins_as_the_rows_do_and_is_learnt_from_where_the_student_goes_on(task, live):
    ids, labels = batch_of(task, np.arange(6))
    own, wanted, logits = write_own(build(task), live, ids, labels, seed=0, step=3)
    assert own.shape == wanted.shape == ids.shape
    first = int((wanted >= 0).float().argmax(1).max())  # the first that is learnt follows what was given
    assert torch.equal(own[:, : first + 1], ids[:, : first + 1])
    assert not torch.equal(own, ids)
    known = wanted[:, :-1] >= 0
    assert torch.equal(wanted[:, :-1][known], own[:, 1:][known])
    assert (wanted[:, :first] == -1).all()
    assert torch.equal(logits, live.teacher.logits(own))


def test_rows_whose_text_has_ended_are_not_learnt(task, live):
    ids, labels = batch_of(task, np.arange(4))
    labels = labels.clone()
    labels[1] = -1
    assert (write_own(build(task), live, ids, labels, 0, 3)[1][1] == -1).all()


def test_the_cache_changes_nothing_of_what_is_drawn(task):
    student = build(task).eval()
    points = torch.from_numpy(np.random.default_rng(0).random((9, 4), np.float32))
    ids, _ = batch_of(task, np.arange(4))
    anew = ids[:, :5]
    for point in points:  # all is read again for every token
        anew = continue_text(student, anew, point[None])
    assert torch.equal(continue_text(student, ids[:, :5], points), anew)


def test_tokens_come_as_often_as_the_student_says(task):
    student = build(task).eval()
    ids = torch.zeros(4000, 1, dtype=torch.int64)
    drawn = continue_text(student, ids, torch.from_numpy(np.random.default_rng(0).random((1, 4000), np.float32)))[:, 1]
    shares = torch.bincount(drawn, minlength=task.vocabulary) / 4000
    p = student(ids[:1])[0, 0].softmax(0).detach()
    assert (shares - p).abs().max() < 5 * (p.max() / 4000) ** 0.5


def test_a_resumed_training_writes_the_same_text(tmp_path, task, live, monkeypatch):
    monkeypatch.setattr("family.train.CHECKPOINT_SECONDS", 0.0)
    whole = train(build(task), task, live, TRAINING).module

    def stop(step):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build(task), task, live, TRAINING, on_step=stop, checkpoint=tmp_path / "c")
    steps = []
    resumed = train(build(task), task, live, TRAINING, on_step=steps.append, checkpoint=tmp_path / "c").module
    assert steps == [6, 7, 8]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_the_teacher_is_asked_once_a_step_about_the_text_it_is_about(task):
    asked = []
    teacher = make_teacher(task.tokenizer)
    watched = replace(teacher, ask=lambda ids: (asked.append(ids), teacher.ask(ids))[1])
    train(build(task), task, LiveTargets(watched, task), TRAINING)
    own = plan_batches(task, TRAINING).own
    assert own.any()
    assert not own.all()
    assert len(asked) == TRAINING.steps
    corpus = {tuple(row.tolist()) for row in task.inputs("train", np.arange(task.rows("train")), 0)[0]}
    for ids, is_own in zip(asked, own, strict=True):
        assert all((tuple(row.tolist()) in corpus) != is_own for row in ids)


def test_labels_alone_have_no_text_of_their_own(task):
    assert not plan_batches(task, replace(TRAINING, loss="labels", on_policy=1.0)).own.any()


def test_trainings_of_before_keep_their_identity():
    assert "on_policy" not in replace(TRAINING, on_policy=0.0).identity
    assert TRAINING.identity["on_policy"] == 0.5
