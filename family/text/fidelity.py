"""What a chosen language model shares with its teacher, on test: distributions, likeliest tokens, calibration, and text
that student, control and teacher go on with, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import Runner, StepFront
from export.hashes import hash_file
from family.controls import faithful_pairs
from family.entry_points import step_inputs
from family.job import Job
from family.recipe import Recipe
from family.run_folder import remember
from family.students import trained_folder
from family.tasks.lm_task import BITS, NOTHING_TO_LEARN, LmTask
from family.text.lm_teacher import LmTeacher
from family.types import Training

ROWS = 64  # of test, whose distributions are compared
SAMPLES, PROMPT, CONTINUED = 3, 16, 32  # texts, tokens they begin with, tokens they are continued by
VERSION = 1

Continue = Callable[[np.ndarray], int]  # ids (1, length) → the likeliest next one


def tell_fidelity(job: Job, params: Mapping[str, Any], precision: str, recipe: Recipe) -> dict[str, Any]:
    """`{kl_bits, agreement, confidence, hits, rows, samples}` of the file on the first rows of test. kl_bits: of the
    teacher's distribution from the student's, a token; confidence and hits: of the likeliest tokens, which are level
    where it is calibrated. The control in samples is of the first paired seed. Nothing where the teacher gives no
    distributions."""
    if not isinstance(job.teacher, LmTeacher) or not isinstance(job.task, LmTask):
        return {}
    teacher = job.teacher
    path = file_of(job, params, recipe.student, precision)
    pairs = faithful_pairs(job, params, recipe)
    beside = {"control": file_of(job, params, pairs[0][1], precision)} if pairs else {}
    digests = [hash_file(one) for one in (path, *beside.values())]

    def work() -> dict[str, Any]:
        task = job.task.seen_by(params)
        assert isinstance(task, LmTask)
        files = {who: Runner(one) for who, one in {"student": path, **beside}.items()}
        return compare(task, teacher, files["student"]) | {"samples": draw_samples(task, teacher, files)}

    inputs = [*digests, teacher.fingerprint, job.task.fingerprint, VERSION]
    return dict(remember(path.with_name("fidelity.json"), inputs, work))


def file_of(job: Job, params: Mapping[str, Any], training: Training, precision: str) -> Path:
    return trained_folder(job, params, training) / precision / "model.onnx"


def compare(task: LmTask, teacher: LmTeacher, student: Runner) -> dict[str, Any]:
    """Sums over the tokens that are learnt of the first rows of test."""
    sums = np.zeros(5)
    rows = np.arange(min(ROWS, task.rows("test")))
    for some in np.array_split(rows, max(1, len(rows) // 8)):
        ours = torch.from_numpy(student(task.raw("test", some))).log_softmax(2)
        theirs = torch.from_numpy(teacher.logits("test", some)).log_softmax(2)
        wanted = task.lessons("test")[some]
        known = wanted != NOTHING_TO_LEARN
        kl = (theirs.exp() * (theirs - ours)).sum(2) * BITS
        guess = ours.argmax(2)
        each = [known.float(), kl, guess == theirs.argmax(2), ours.exp().amax(2), guess == wanted]
        sums += [float((one * known).sum()) for one in each]
    tokens, kl_bits, agreement, confidence, hits = sums.tolist()
    told = {"kl_bits": kl_bits, "agreement": agreement, "confidence": confidence, "hits": hits}
    return {"rows": len(rows), "tokens": int(tokens), **{name: value / tokens for name, value in told.items()}}


def draw_samples(task: LmTask, teacher: LmTeacher, files: Mapping[str, Runner]) -> list[dict[str, str]]:
    """The likeliest continuation of the first tokens of some rows of test: `{prompt, teacher, student, control}`."""
    voices = {"teacher": lambda ids: int(teacher.model.logits(torch.from_numpy(ids))[0, -1].argmax())}
    voices |= {who: ask_file(task.front, runner) for who, runner in files.items()}
    known = (task.lessons("test") != NOTHING_TO_LEARN).sum(1).numpy()
    rows = np.flatnonzero(known > PROMPT)[:: max(1, len(known) // SAMPLES)][:SAMPLES]
    samples = []
    for row in rows:
        ids = task.inputs("test", np.array([row]), 0)[0].numpy()[:, : PROMPT + 1]
        told = {"prompt": decode(task, ids[0, 1:])}
        samples.append(told | {who: decode(task, go_on(task, ids, voice)) for who, voice in voices.items()})
    return samples


def go_on(task: LmTask, ids: np.ndarray, voice: Continue) -> Sequence[int]:
    """Token by token, to the end of the text or the context."""
    found: list[int] = []
    while len(found) < min(CONTINUED, task.context - ids.shape[1]):
        token = voice(np.concatenate([ids, np.array([found], np.int64).reshape(1, -1)], 1))
        if token == task.start:
            break
        found.append(token)
    return found


def ask_file(front: StepFront, runner: Runner) -> Continue:
    return lambda ids: int(runner(step_inputs(front, ids, 0))[0, -1].argmax())


def decode(task: LmTask, ids: Sequence[int] | np.ndarray) -> str:
    return str(task.tokenizer.opened.decode([int(i) for i in ids]))
