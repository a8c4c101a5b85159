"""One task over any source: labels, splits, the front, body inputs kept ready, and views replayed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export import (
    Front,
    ImageFront,
    PlainFront,
    SeriesFront,
    Signature,
    TableFront,
    TensorSpec,
    apply_front,
    body_signature,
    raw_signature,
)
from family.doors import hash_code, is_reference
from family.errors import Mistake, Mistakes, mistake
from family.run_folder import content_id, write_beside, write_json
from family.suggest import did_you_mean
from family.tasks.arrow import decode
from family.tasks.augment import (
    Augment,
    check_augment,
    margins_of,
    pad_edges,
    read_augment,
    view_by_function,
    view_images,
    view_padded,
    view_series,
)
from family.tasks.checks import check_values, collect, image_sizes, row_keys, warn_of_duplicates
from family.tasks.labels import check_classes, pick_score, read_labels, warn_of_rare
from family.tasks.lm_task import open_lm
from family.tasks.options import DataOptions, Source
from family.tasks.sources import read_source
from family.tasks.splits import split_rows
from family.tasks.teaching import labels_as_lessons
from family.tasks.text_task import open_text
from family.tasks.transfer import join_transfer
from family.tasks.user_functions import (
    check_user_augment,
    check_user_score,
    say_direction,
)
from family.tasks.user_task import open_user_task
from family.types import Kind, Split, Task
from reports import Score

IN_MEMORY = 512_000_000
TASKS = ("images", "table", "series", "text", "lm")
CHUNK = 8_000_000  # bytes of raw rows that pass through the front at once
MEASURED = 2000  # images that give mean and deviation
DIGITS_LABELLED = 200


@dataclass(frozen=True, eq=False)
class DataTask:
    """See `family.types.Task`.

    `body_arrays`: what the front gives for every row, clean; memory-mapped where large.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...] | None
    score: Score
    signature: Signature
    body: Signature
    front: Front
    views: int
    target_scale: tuple[np.ndarray, np.ndarray] | None
    fingerprint: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    ragged: bool
    source: Source
    splits: Mapping[str, np.ndarray]
    truth: np.ndarray
    body_arrays: tuple[np.ndarray, ...]
    augment: Augment
    seed: int
    cache: Path

    def rows(self, split: Split) -> int:
        return len(self.splits[split])

    def row_ids(self, split: Split) -> np.ndarray:
        return self.splits[split]

    def labels(self, split: Split) -> np.ndarray:
        return np.asarray(self.truth[self.splits[split]])

    def lessons(self, split: Split) -> Tensor:
        return labels_as_lessons(self, split)

    def seen_by(self, params: Mapping[str, Any]) -> DataTask:
        return self

    def keep(self, split: Split, rows: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        return outputs

    def groups(self, split: Split) -> np.ndarray | None:
        return None if self.source.groups is None else self.source.groups[self.splits[split]]

    @property
    def preprocessing(self) -> dict[str, Any]:
        return dict(self.source.preprocessing)

    def inputs(self, split: Split, rows: np.ndarray, view: np.ndarray | int) -> tuple[Tensor, ...]:
        ids = self.splits[split][rows]
        views = np.broadcast_to(np.asarray(view), ids.shape)
        if self.padded is not None and views.any():
            assert isinstance(self.front, ImageFront)
            return (view_padded(self.padded, self.augment, self.seed, ids, views, self.front.size),)
        first, *others = (torch.from_numpy(np.asarray(a[ids], np.float32)) for a in self.body_arrays)
        if self.augment.changes and views.any():
            if self.augment.change:
                first = view_body(self, first, others, ids, views)
            elif isinstance(self.front, ImageFront):
                first = view_images(first, self.augment, self.seed, ids, views, self.front.size)
            else:
                first = view_series(first, self.augment, self.seed, ids, views)
        return (first, *others)

    @cached_property
    def padded(self) -> np.ndarray | None:
        """Images in memory with room for every shift around them; None for other data and for larger images."""
        body, shifted = self.body_arrays[0], self.augment.shift and not self.augment.change
        if not shifted or not isinstance(self.front, ImageFront) or isinstance(body, np.memmap):
            return None
        return pad_edges(body, margins_of(self.augment, self.front.size))

    def raw(self, split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
        return raw_rows(self.source, self.splits[split][rows])

    def teacher_inputs(
        self, split: Split, rows: np.ndarray, view: int, preprocess: Mapping[str, Any] | None
    ) -> tuple[np.ndarray, ...]:
        """Images: float32 in 0..1 (batch, channels, height, width) unless `preprocess` says otherwise.

        The view is applied as the same share of the side; a mean or deviation above 1 is in the pixels'
        own units.
        Tables and series: what the shipped student takes, series with the view applied.
        """
        ids = self.splits[split][rows]
        if isinstance(self.front, ImageFront):
            return (teacher_images(self, ids, view, preprocess or {}),)
        if preprocess:
            said = f"is for images; this data is {self.name}, which a teacher takes as it is"
            raise mistake("teacher.preprocess", f"{said}. Got {', '.join(preprocess)}; leave it out.")
        raw = raw_rows(self.source, ids)
        if self.augment.change and view:
            series, views = torch.from_numpy(raw["series"]), np.full(len(ids), view)
            changed = view_by_function(series, self.augment, self.seed, ids, views, raw.get("length"))
            raw["series"] = changed.numpy()
        elif isinstance(self.front, SeriesFront) and view:
            mean = np.array(self.front.mean, np.float32)[:, None]
            std = np.array(self.front.std, np.float32)[:, None]
            centred = torch.from_numpy((raw["series"] - mean) / std)
            scaled = view_series(centred, self.augment, self.seed, ids, np.full(len(ids), view)).numpy()
            raw["series"] = (scaled * std + mean).astype(np.float32)
        return tuple(raw.values())

    def teacher_train_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (positions in the data) of train and transfer, and the labels that the data holds for them.

        What the owner of a built-in teacher trained it with.
        """
        ids = np.concatenate([self.splits["train"], self.splits["transfer"]])
        return ids, self.truth[ids]

    @property
    def class_counts(self) -> tuple[int, ...] | None:
        """Train rows of each class, or with each label; None for a regression."""
        if self.classes is None:
            return None
        taught = self.labels("train")
        counts = taught.sum(0) if taught.ndim == 2 else np.bincount(taught, minlength=len(self.classes))
        return tuple(int(count) for count in counts)

    def describe(self) -> dict[str, Any]:
        """Rows per split and per class, for the report."""
        found: dict[str, Any] = {
            "task": self.name,
            "kind": self.kind,
            "rows": {s: len(r) for s, r in self.splits.items()},
        }
        if self.classes and self.class_counts:
            found["train_labels"] = dict(zip(self.classes, self.class_counts, strict=True))
        return found | {"augment": self.augment.describe(), "views": self.views}


def open_task(options: DataOptions, cache: Path) -> Task:
    """The task of these data, or the user's own. Raises Mistakes with what is wrong."""
    if is_reference(options.task):
        return open_user_task(options)
    openers: dict[str, Callable[[DataOptions, Path], Task]] = {"lm": open_lm, "text": open_text}
    return openers.get(str(options.task), open_data)(options, cache)


def open_data(options: DataOptions, cache: Path) -> DataTask:
    """Read, check, split and prepare the data. Raises Mistakes with what is wrong."""
    if options.path == "digits" and options.keep_labels is None:
        options = replace(options, keep_labels=DIGITS_LABELLED)
    if options.task and options.task not in TASKS:
        raise mistake(
            "task",
            f"must be {', '.join(TASKS)} or path/file.py:function. "
            f"Got '{options.task}'.{did_you_mean(options.task, TASKS)}",
        )
    source = read_source(options, cache)
    if options.task and options.task != source.kind:
        raise mistake("task", f"says {options.task}; {options.path} holds {source.kind}.")
    if options.layout not in (None, source.layout):
        held = f"images that are read as {source.layout}" if source.layout else f"{source.kind}, not images"
        raise mistake("data.layout", f"says {options.layout}; {options.path} holds {held}. It is for arrays of images.")
    collect(
        lambda: check_values(source),
        lambda: pick_score(options, read_labels(source, options)[0]),
        lambda: check_augment(options.augment, source.kind, options.folder),
    )
    kind, classes, truth, notes = read_labels(source, options)
    score = pick_score(options, kind)
    codes = truth if kind == "classification" else np.zeros(len(truth), np.int64)
    splits, said, doubts = split_rows(source, options, codes, kind == "classification")
    notes += said
    source, splits, truth = join_transfer(source, splits, truth, options, cache)
    check_values(source)
    check_classes(kind, classes, truth, splits)
    if is_reference(options.score):
        check_user_score(score, str(options.score), kind, truth[splits["val"]])
        notes.append(say_direction(score, str(options.score), options.folder))
    keys = row_keys(source)
    sides = remember_sizes(source, keys, cache) if source.files else set()
    front = make_front(source, splits["train"], options, sides)
    outputs = len(classes) if classes else (truth.shape[1] if truth.ndim > 1 else 1)
    output_name = "values" if kind == "regression" else "logits"
    side = min(front.size) if isinstance(front, ImageFront) else 1
    augment = read_augment(options.augment, source.kind, side, options.folder)
    if augment.change:
        check_user_augment(augment.function, augment.change, show_rows(source, front, splits["train"][:3]))
        notes.append(f"augment: {augment.function}, called row by row; every view can be replayed")
    data_key = content_id(
        hashlib.sha256("".join(keys).encode()).hexdigest(), hashlib.sha256(truth.tobytes()).hexdigest()
    )
    parts = {name: rows.tolist() for name, rows in splits.items()}
    scored = [hash_code(str(options.score), options.folder)] if is_reference(options.score) else []
    fingerprint = content_id(data_key, str(front), str(augment), options.seed, parts, *scored)
    body = prepare_body(source, front, cache / content_id(data_key, str(front)))
    scale = None
    if kind == "regression":
        taught = truth[splits["train"]]
        scale = (taught.mean(0), taught.std(0) + 1e-12)
    return DataTask(
        name=source.kind,
        kind=kind,
        classes=classes,
        score=score,
        signature=Signature(raw_signature(front), (TensorSpec(output_name, "float32", ("batch", outputs)),)),
        body=body_signature(front, outputs, output_name),
        front=front,
        views=options.views if augment.changes else 1,
        target_scale=scale,
        fingerprint=fingerprint,
        notes=(*source.notes, *notes),
        warnings=(
            *source.warnings,
            *doubts,
            *warn_of_rare(classes, kind, truth, splits),
            *warn_of_duplicates(keys, splits),
        ),
        ragged=bool(source.files) and len(sides) > 1,
        source=source,
        splits=splits,
        truth=truth,
        body_arrays=body,
        augment=augment,
        seed=options.seed,
        cache=cache,
    )


def remember_sizes(source: Source, keys: np.ndarray, cache: Path) -> set[tuple[int, int]]:
    """`image_sizes`, found once for these contents: decoding every image is slow."""
    path = cache / f"sizes-{content_id(keys.tolist())}.json"
    if not path.exists():
        write_json(path, sorted(image_sizes(source)))
    return {(int(height), int(width)) for height, width in json.loads(path.read_text())}


def make_front(source: Source, train: np.ndarray, options: DataOptions, sides: set[tuple[int, int]]) -> Front:
    """Normalisation measured on train, as data."""
    if source.kind == "images":
        return image_front(source, train, options, sides)
    if source.kind == "table":
        return table_front(source, train)
    if source.kind == "series":
        return series_front(source, train)
    return PlainFront(tuple(source.columns), tuple(v.shape[1:] for v in source.columns.values()))


def image_front(source: Source, train: np.ndarray, options: DataOptions, sides: set[tuple[int, int]]) -> ImageFront:
    if source.files:
        raw: tuple[int | None, ...] = (*(sides.copy().pop() if len(sides) == 1 else (None, None)), 3)
        dtype, channels = "uint8", 3
    else:
        raw, dtype = source.columns["image"].shape[1:], str(source.columns["image"].dtype)
        channels = {"hw": 1, "hwc": raw[-1], "chw": raw[0]}[source.layout] or 1
    height, width = {"hw": raw, "hwc": raw[:2], "chw": raw[1:]}[source.layout]
    if options.student_input is None and height is None:
        raise mistake("students.input", "must be given: the images are of different sizes.")
    size = options.student_input or (int(height or 0), int(width or 0))
    mean, std = measure_pixels(source, train, int(channels))
    return ImageFront(
        dtype, source.layout, tuple(raw), int(channels), size, rounded(mean), rounded(np.maximum(std, 1e-3))
    )


def measure_pixels(source: Source, train: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation per channel over at most `MEASURED` train images, spread evenly, one at a time."""
    shown = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), MEASURED)).astype(np.int64))]
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for row in shown:
        image = raw_rows(source, np.array([row]))["image"][0]
        image = np.moveaxis(image, 0, -1) if source.layout == "chw" else image
        pixels = image.reshape(-1, channels).astype(np.float64)
        count, total, squares = count + len(pixels), total + pixels.sum(0), squares + (pixels**2).sum(0)
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{v:.6g}") for v in np.atleast_1d(values))


def table_front(source: Source, train: np.ndarray) -> TableFront:
    numbers = source.columns.get("numbers", np.zeros((source.rows, 0), np.float32))
    codes = source.columns.get("categories", np.zeros((source.rows, 0), np.int64))
    mean, std = measure_columns(numbers, train)
    flagged = np.zeros(numbers.shape[1], bool)
    for rows in pieces(np.arange(len(numbers)), numbers):
        flagged |= np.isnan(numbers[rows]).any(0)
    sizes = tuple(int(codes[:, i].max(initial=0)) + 1 for i in range(codes.shape[1]))
    return TableFront(
        rounded(mean) if mean.size else (),
        rounded(np.where(std > 1e-9, std, 1)) if std.size else (),
        tuple(int(i) for i in np.flatnonzero(flagged)),
        sizes,
    )


def pieces(rows: np.ndarray, values: np.ndarray) -> Iterator[np.ndarray]:
    """`rows` in pieces whose values, in float64, take about `CHUNK` bytes each: `values` may be larger than memory."""
    size = max(1, CHUNK // max(1, 8 * int(np.prod(values.shape[1:]))))
    yield from (rows[start : start + size] for start in range(0, len(rows), size))


def measure_columns(numbers: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (columns,) over train, missing values left out."""
    wide = numbers.shape[1]
    count, total, squares = np.zeros(wide, np.int64), np.zeros(wide), np.zeros(wide)
    for rows in pieces(train, numbers):
        part = numbers[rows].astype(np.float64)
        count, total = count + (~np.isnan(part)).sum(0), total + np.nansum(part, 0)
    mean = total / np.maximum(count, 1)
    for rows in pieces(train, numbers):
        squares += np.nansum((numbers[rows] - mean) ** 2, 0)
    return mean, np.sqrt(squares / np.maximum(count, 1))


def series_front(source: Source, train: np.ndarray) -> SeriesFront:
    """Mean and deviation per channel over train, padding left out."""
    series, length = source.columns["series"], source.columns.get("length")
    channels, time = series.shape[1:]
    keep = np.full(source.rows, time) if length is None else length
    count, total, squares = int(keep[train].sum()), np.zeros(channels), np.zeros(channels)
    inside = lambda rows: np.arange(time) < keep[rows][:, None, None]  # noqa: E731
    for rows in pieces(train, series):
        total += (series[rows] * inside(rows)).sum((0, 2), dtype=np.float64)
    mean = total / count
    for rows in pieces(train, series):
        squares += ((series[rows] - mean[:, None]) ** 2 * inside(rows)).sum((0, 2), dtype=np.float64)
    std = np.sqrt(np.maximum(squares / count, 1e-12))
    return SeriesFront(channels, time, rounded(mean), rounded(std), length is not None)


def raw_rows(source: Source, ids: np.ndarray) -> dict[str, np.ndarray]:
    if source.files:
        return {"image": np.stack([decode(source.files[i]) for i in ids])}
    return {name: values[ids] for name, values in source.columns.items()}


def raw_chunks(source: Source, ragged: bool) -> Iterator[dict[str, np.ndarray]]:
    size = 1 if ragged or source.files else max(1, min(256, CHUNK // row_bytes(source)))
    for start in range(0, source.rows, size):
        yield raw_rows(source, np.arange(start, min(start + size, source.rows)))


def prepare_body(source: Source, front: Front, place: Path) -> tuple[np.ndarray, ...]:
    """What the front gives for every row: in memory where small, else written once and memory-mapped."""
    first = apply_front(front, raw_rows(source, np.arange(1)))
    if sum(t.numel() for t in first) * 4 * source.rows <= IN_MEMORY and not source.files:
        arrays = tuple(np.empty((source.rows, *t.shape[1:]), np.float32) for t in first)
        start = 0
        for given in body_chunks(source, front):
            for array, values in zip(arrays, given, strict=True):
                array[start : start + len(values)] = values
            start += len(given[0])
        return arrays
    paths = [place / f"body-{i}.npy" for i in range(len(first))]
    if not all(path.exists() for path in paths):
        write_body(source, front, paths, first)
    return tuple(np.load(path, mmap_mode="r") for path in paths)


def row_bytes(source: Source) -> int:
    return sum(values[:1].nbytes for values in source.columns.values()) or 1


def body_chunks(source: Source, front: Front) -> Iterator[list[np.ndarray]]:
    """What the front gives, chunk by chunk, one array per body input."""
    for chunk in raw_chunks(source, bool(source.files)):
        yield [tensor.numpy() for tensor in apply_front(front, chunk)]


def write_body(source: Source, front: Front, paths: list[Path], first: tuple[Tensor, ...]) -> None:
    """In float16, each file from its begin to its end rather than through a memory map, so that a full disk is an
    OSError and not a signal."""
    parts = [path.with_name(f".{path.name}.{os.getpid()}.filling") for path in paths]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(part.open("wb")) for part in parts]
            for file, tensor in zip(files, first, strict=True):
                about = {"descr": "<f2", "fortran_order": False, "shape": (source.rows, *tensor.shape[1:])}
                np.lib.format.write_array_header_1_0(file, about)
            for given in body_chunks(source, front):
                for file, array in zip(files, given, strict=True):
                    file.write(array.astype("<f2").tobytes())
        for part, path in zip(parts, paths, strict=True):
            write_beside(path, part.replace)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def view_body(task: DataTask, x: Tensor, others: Sequence[Tensor], ids: np.ndarray, views: np.ndarray) -> Tensor:
    """Body rows x changed by a user's function, which sees what a teacher sees: pixels 0 to 1, series in their
    own units without padding."""
    mean, std = normalisation(task)
    rows = np.flatnonzero(views)
    lengths = others[0].sum((1, 2)).long().numpy()[rows] if others else None
    plain = x[rows] * std + mean
    changed = view_by_function(plain, task.augment, task.seed, ids[rows], views[rows], lengths)
    x[rows] = (changed - mean) / std * (others[0][rows] if others else 1)
    return x


def normalisation(task: DataTask) -> tuple[Tensor, Tensor]:
    """Mean and deviation (channels, 1…) of body rows, in the units that a user's augmentation sees."""
    front = task.front
    assert isinstance(front, ImageFront | SeriesFront)
    peak, ones = (pixel_peak(task.source, front), 2) if isinstance(front, ImageFront) else (1.0, 1)
    mean, std = (torch.tensor(v, dtype=torch.float32).reshape(-1, *[1] * ones) / peak for v in (front.mean, front.std))
    return mean, std


def show_rows(source: Source, front: Front, ids: np.ndarray) -> list[Tensor]:
    """A few rows as a user's augmentation sees them."""
    if isinstance(front, ImageFront):
        return [image_pixels(source, front, ids[i : i + 1], front.size)[0] for i in range(len(ids))]
    raw = raw_rows(source, ids)
    ends = raw.get("length", np.full(len(ids), raw["series"].shape[2]))
    return [torch.from_numpy(series[:, :end]) for series, end in zip(raw["series"], ends, strict=True)]


def teacher_images(task: DataTask, ids: np.ndarray, view: int, preprocess: Mapping[str, Any]) -> np.ndarray:
    """Pixels at the teacher's size, the view applied, scaled and laid out as `preprocess` says."""
    pixels = teacher_pixels(task, ids, preprocess.get("size"))
    if view and task.augment.changes:
        assert isinstance(task.front, ImageFront)
        views = np.full(len(ids), view)
        if task.augment.change:
            pixels = view_by_function(pixels, task.augment, task.seed, ids, views)
        else:
            pixels = view_images(pixels, task.augment, task.seed, ids, views, task.front.size)
    if preprocess.get("channels") and pixels.shape[1] not in (1, 3):
        raise mistake("teacher.preprocess.channels", f"is for 1 or 3 channels; the images have {pixels.shape[1]}.")
    if preprocess.get("channels") and pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1)
    if preprocess.get("channels") == "bgr":
        pixels = pixels.flip(1)
    check_channels(preprocess, pixels.shape[1])
    if max((abs(v) for name in ("mean", "std") for v in preprocess.get(name) or ()), default=0) > 1:
        pixels = pixels * pixel_peak(task.source, task.front)  # such mean and deviation are in the pixels' own units
    for name, apply in (("mean", torch.sub), ("std", torch.div)):
        if preprocess.get(name) is not None:
            values = torch.tensor(preprocess[name], dtype=torch.float32).reshape(1, -1, 1, 1)
            pixels = apply(pixels, values)
    if preprocess.get("layout") == "nhwc":
        pixels = pixels.permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.numpy(), np.float32)


def check_channels(preprocess: Mapping[str, Any], channels: int) -> None:
    """Raises Mistakes for a mean or deviation of neither one number nor one for each channel."""
    wrong = [
        Mistake(
            f"teacher.preprocess.{name}",
            f"must have {'1 number' if channels == 1 else f'1 or {channels} numbers'}, as the images have {channels} "
            f"channel{'s' * (channels > 1)}. Got {len(values)}."
            + (" For a teacher of colour images set channels: rgb." if channels == 1 and len(values) == 3 else ""),
        )
        for name in ("mean", "std")
        if (values := preprocess.get(name)) is not None and len(values) not in (1, channels)
    ]
    if wrong:
        raise Mistakes(wrong)


def pixel_peak(source: Source, front: Front) -> float:
    """What a teacher's pixels are divided by: floats stay as they are."""
    return source.peak if isinstance(front, ImageFront) and front.dtype == "uint8" else 1.0


def teacher_pixels(task: DataTask, ids: np.ndarray, size: Any) -> Tensor:
    """float32 (n, channels, height, width): uint8 pixels over 255 (digits over 16), floats as they are."""
    front = task.front
    assert isinstance(front, ImageFront)
    wanted = (size, size) if isinstance(size, int) else tuple(size) if size else None
    if wanted is None and task.ragged:
        raise mistake("teacher.preprocess.size", "must be given: the images are of different sizes.")
    height, width = {"hw": front.raw, "hwc": front.raw[:2], "chw": front.raw[1:]}[front.layout]
    size = wanted or (int(height or 0), int(width or 0))
    chunks = [ids[i : i + 1] for i in range(len(ids))] if task.ragged else [ids]
    return torch.cat([image_pixels(task.source, front, chunk, size) for chunk in chunks])


def image_pixels(source: Source, front: ImageFront, ids: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Rows of one shape (n, channels, *size), scaled but not normalised."""
    scale = pixel_peak(source, front)
    plain = replace(front, size=size, mean=(0.0,) * front.channels, std=(scale,) * front.channels)
    return apply_front(plain, raw_rows(source, ids))[0]
