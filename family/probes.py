"""Inputs that no transfer data covers, made from rows of test: what a coverage guard should flag."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from PIL import Image

from export import ImageFront, SeriesFront, TableFront, TextFront
from family.job import Job
from family.students import raw_batches
from family.types import Task

Rows = dict[str, np.ndarray]  # raw inputs by name, a batch each
Change = Callable[[Rows, np.random.Generator], Rows]

PROBE_ROWS = 512
SEEN_ROWS = 256  # of val, for ranges
FAR = 10.0  # deviations
LEAST_TOKEN = 2  # after padding and a text of nothing
SIDES = (0.1, 0.5)  # of a photograph, as shares of its shorter side


@dataclass(frozen=True)
class Ranges:
    """`low`, `high`, `std` of each column of one raw input: scalars for images, else (columns, …)."""

    low: np.ndarray
    high: np.ndarray
    std: np.ndarray


def draw_probes(job: Job, task: Task) -> Iterator[tuple[str, Iterator[Rows]]]:
    """(what they are, batches) of every probe set that there is for this kind of data; the same each time."""
    rows = np.arange(min(PROBE_ROWS, task.rows("test")))
    for name, change in list_changes(job, task).items():
        generator = np.random.default_rng(job.spec.seed)
        yield name, (change(batch, generator) for batch in raw_batches(task, "test", rows))


def list_changes(job: Job, task: Task) -> dict[str, Change]:
    front = task.front
    if isinstance(front, ImageFront):
        return image_changes(job, task, front)
    if isinstance(front, TableFront):
        return table_changes(task)
    if isinstance(front, SeriesFront):
        return series_changes(task)
    if isinstance(front, TextFront):
        return text_changes(task, front)
    return {"noise": partial(draw_noise, see_ranges(task)), "inputs of other rows each": mix_columns}


def see_ranges(task: Task, whole: bool = False) -> dict[str, Ranges]:
    """Of every raw input, over rows of val; `whole`: one range for all of its values."""
    batches = list(raw_batches(task, "val", np.arange(min(SEEN_ROWS, task.rows("val")))))
    ranges = {}
    for name in batches[0]:
        parts = [batch[name].astype(np.float64) for batch in batches]
        seen = np.concatenate([part.ravel() for part in parts]) if whole else np.concatenate(parts)
        ranges[name] = Ranges(np.nanmin(seen, 0), np.nanmax(seen, 0), np.nanstd(seen, 0))
    return ranges


def draw_noise(ranges: Mapping[str, Ranges], rows: Rows, generator: np.random.Generator) -> Rows:
    """Every value evenly from its own range."""
    return {
        name: cast(generator.uniform(ranges[name].low, ranges[name].high, value.shape), value)
        for name, value in rows.items()
    }


def cast(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    whole = np.issubdtype(like.dtype, np.integer)
    return (np.rint(values) if whole else values).astype(like.dtype)


def mix_columns(rows: Rows, generator: np.random.Generator) -> Rows:
    """Every column from another row: each value is usual, no row is."""
    mixed = {}
    for name, value in rows.items():
        flat = value.reshape(len(value), -1)
        columns = [column[generator.permutation(len(column))] for column in flat.T]
        mixed[name] = np.stack(columns, 1).reshape(value.shape)
    return mixed


def table_changes(task: Task) -> dict[str, Change]:
    ranges = see_ranges(task)
    changes: dict[str, Change] = {"noise": partial(draw_noise, ranges), "columns of other rows each": mix_columns}
    return changes | ({"one number far off": partial(move_one, ranges["numbers"])} if "numbers" in ranges else {})


def move_one(ranges: Ranges, rows: Rows, generator: np.random.Generator) -> Rows:
    """A number of each row moved by FAR deviations, as a wrong unit would."""
    numbers = rows["numbers"].copy()
    column = generator.integers(0, numbers.shape[1], len(numbers))
    numbers[np.arange(len(numbers)), column] += FAR * ranges.std[column]
    return rows | {"numbers": numbers}


def series_changes(task: Task) -> dict[str, Change]:
    seen = see_ranges(task)["series"]
    axis = tuple(range(1, seen.low.ndim))
    ends = (seen.low.min(axis, keepdims=True), seen.high.max(axis, keepdims=True))  # of each channel

    def change(make: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
        def apply(rows: Rows, generator: np.random.Generator) -> Rows:
            series = rows["series"].copy()
            lengths = rows.get("length", np.full(len(series), series.shape[2]))
            for row, length in zip(series, lengths, strict=True):  # padding stays as it is
                row[:, :length] = make(row[:, :length], generator)
            return rows | {"series": series}

        return apply

    return {
        "noise": change(lambda row, generator: generator.uniform(*ends, row.shape)),
        "one value throughout": change(lambda row, generator: np.broadcast_to(generator.uniform(*ends), row.shape)),
        "upside down": change(lambda row, _: ends[0] + ends[1] - row),
        "backwards": change(lambda row, _: row[:, ::-1].copy()),
        "time shuffled": change(lambda row, generator: row[:, generator.permutation(row.shape[1])]),
    }


def text_changes(task: Task, front: TextFront) -> dict[str, Change]:
    """Texts keep their lengths, and with them their padding."""
    batches = raw_batches(task, "val", np.arange(min(SEEN_ROWS, task.rows("val"))))
    seen = np.concatenate([batch["input_ids"][batch["input_ids"] != front.pad] for batch in batches])

    def change(make: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]) -> Change:
        def apply(rows: Rows, generator: np.random.Generator) -> Rows:
            ids = rows["input_ids"].copy()
            told = ids != front.pad
            ids[told] = make(ids[told], np.nonzero(told)[0], generator)
            return {"input_ids": ids}

        return apply

    def draw(ids: np.ndarray, generator: np.random.Generator, count: int) -> np.ndarray:
        return generator.integers(LEAST_TOKEN, front.vocabulary, count).astype(ids.dtype)

    return {
        "tokens at random": change(lambda ids, _, generator: draw(ids, generator, len(ids))),
        "one token throughout": change(lambda ids, row, generator: draw(ids, generator, int(row.max()) + 1)[row]),
        "tokens of other texts each": change(lambda ids, _, generator: generator.choice(seen, len(ids))),
    }


def image_changes(job: Job, task: Task, front: ImageFront) -> dict[str, Change]:
    seen = see_ranges(task, whole=True)["image"]
    low, high = float(seen.low), float(seen.high)

    def change(make: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
        def apply(rows: Rows, generator: np.random.Generator) -> Rows:
            images = [make(image, generator) for image in to_hwc(rows["image"], front.layout)]
            return {"image": cast(from_hwc(np.stack(images), front.layout), rows["image"])}

        return apply

    changes: dict[str, Change] = {
        "noise": change(lambda image, generator: generator.uniform(low, high, image.shape)),
        "one brightness throughout": change(
            lambda image, generator: np.full(image.shape, generator.uniform(low, high))
        ),
        "pixels shuffled": change(shuffle_pixels),
        "negative": change(lambda image, _: low + high - image.astype(np.float64)),
        "upside down": change(lambda image, _: image[::-1, ::-1]),
    }
    if (1 if front.layout == "hw" else front.raw[front.layout.index("c")] or front.channels) not in (1, 3):
        return changes
    changes["photographs (scikit-learn's two)"] = change(partial(crop_photograph, low, high))
    if job.spec.data.path != "digits":
        changes["handwritten digits (scikit-learn's)"] = change(partial(draw_digit, low, high))
    return changes


def to_hwc(images: np.ndarray, layout: str) -> np.ndarray:
    if layout == "hw":
        return images[..., None]
    return images.transpose(0, 2, 3, 1) if layout == "chw" else images


def from_hwc(images: np.ndarray, layout: str) -> np.ndarray:
    if layout == "hw":
        return images[..., 0]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if layout == "chw" else images


def shuffle_pixels(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    flat = image.reshape(-1, image.shape[2])
    return flat[generator.permutation(len(flat))].reshape(image.shape)


def crop_photograph(low: float, high: float, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A square of one of two photographs, scaled to the image's size and to values from `low` to `high`."""
    photos = load_photographs()
    photo = photos[generator.integers(len(photos))]
    side = int(min(photo.size) * generator.uniform(*SIDES))
    left, top = (int(generator.integers(0, whole - side)) for whole in photo.size)
    return fit_picture(photo.crop((left, top, left + side, top + side)), low, high, image)


@cache
def load_photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(one) for one in load_sample_images().images]


def draw_digit(low: float, high: float, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    digits = load_handwriting()
    return fit_picture(digits[generator.integers(len(digits))], low, high, image)


@cache
def load_handwriting() -> list[Image.Image]:
    from sklearn.datasets import load_digits

    return [Image.fromarray((one * (255 / 16)).astype(np.uint8)) for one in load_digits().images]


def fit_picture(picture: Image.Image, low: float, high: float, like: np.ndarray) -> np.ndarray:
    height, width, channels = like.shape
    picture = picture.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(picture, np.float64).reshape(height, width, -1)[..., :channels]
    return low + values * ((high - low) / 255)
