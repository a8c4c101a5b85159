"""A front read by torch and the same front as a graph give the same numbers."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export import (
    ImageFront,
    PlainFront,
    SeriesFront,
    TableFront,
    apply_front,
    body_signature,
    front_data,
    front_graph,
    raw_signature,
)

RANDOM = np.random.default_rng(0)


def run_graph(front, raw):
    session = onnxruntime.InferenceSession(front_graph(front).SerializeToString())
    return session.run(None, raw)


def assert_equal(front, raw):
    wanted, found = apply_front(front, raw), run_graph(front, raw)
    assert len(wanted) == len(found)
    for x, y in zip(wanted, found, strict=True):
        assert x.dtype == torch.float32
        assert y.dtype == np.float32
        np.testing.assert_allclose(x.numpy(), y, atol=1e-4, rtol=0)
    return found


def image(dtype, layout, raw, channels=3, size=(16, 24)):
    if dtype == "uint8":
        return ImageFront(dtype, layout, raw, channels, size, (120.0, 110.0, 100.0)[:channels], (60.0,) * channels)
    return ImageFront(dtype, layout, raw, channels, size, (0.5, 0.4, 0.3)[:channels], (0.2,) * channels)


def pixels(dtype, *shape):
    if dtype == "uint8":
        return RANDOM.integers(0, 256, shape, dtype=np.uint8)
    return RANDOM.random(shape, dtype=np.float32)


@pytest.mark.parametrize("sides", [(16, 24), (97, 61), (9, 11), (9, 61), (16, 50), (640, 480)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_image_resizes_alike_up_and_down(dtype, sides):
    front = image(dtype, "hwc", (None, None, 3))
    (x,) = assert_equal(front, {"image": pixels(dtype, 2, *sides, 3)})
    assert x.shape == (2, 3, 16, 24)


@pytest.mark.parametrize(
    ("layout", "raw", "channels"),
    [("chw", (3, 30, 40), 3), ("hw", (30, 40), 1), ("hw", (30, 40), 3), ("hwc", (30, 40, 1), 3)],
)
def test_image_layouts(layout, raw, channels):
    (x,) = assert_equal(image("uint8", layout, raw, channels), {"image": pixels("uint8", 3, *raw)})
    assert x.shape == (3, channels, 16, 24)


def test_resize_is_antialiased():
    """A fine chequerboard shrunk fourfold is grey; without antialias it would stay black or white."""
    front = ImageFront("uint8", "hw", (64, 64), 1, (16, 16), (0.0,), (1.0,))
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[None]
    (x,) = assert_equal(front, {"image": board})
    assert np.abs(x - 127.5).max() < 20


def test_image_of_the_right_size_is_not_resized():
    front = image("uint8", "hwc", (16, 24, 3))
    assert "Resize" not in {node.op_type for node in front_graph(front).graph.node}
    raw = pixels("uint8", 2, 16, 24, 3)
    (x,) = assert_equal(front, {"image": raw})
    np.testing.assert_allclose(x[1, 0, 3, 5], (raw[1, 3, 5, 0] - 120.0) / 60.0, atol=1e-5)


def test_varying_sides_are_symbolic():
    (spec,) = raw_signature(image("uint8", "hwc", (None, None, 3)))
    assert spec.shape == ("batch", "height", "width", 3)
    (value,) = front_graph(image("uint8", "hwc", (None, None, 3))).graph.input
    assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == list(spec.shape)


def test_resize_needs_opset_18():
    with pytest.raises(ValueError, match=r"needs opset 18 or above\. Got 17"):
        front_graph(image("uint8", "hwc", (None, None, 3)), opset=17)


def test_table_by_hand():
    front = TableFront(mean=(1.0, 10.0), std=(2.0, 5.0), flagged=(1,), sizes=(3, 2))
    raw = {
        "numbers": np.array([[3.0, np.nan], [np.nan, 0.0]], np.float32),
        "categories": np.array([[2, 0], [1, 1]], np.int64),
    }
    (x,) = assert_equal(front, raw)
    np.testing.assert_array_equal(x, [[1, 0, 1, 0, 0, 1, 1, 0], [0, -2, 0, 0, 1, 0, 0, 1]])


def test_unknown_codes_are_all_zeros():
    """-1 above all, which ONNX's own OneHot would wrap to the last code."""
    front = TableFront((), (), (), (3, 2))
    codes = np.array([[-1, -2], [3, 2], [99, -(2**40)]], np.int64)
    (x,) = assert_equal(front, {"categories": codes})
    assert not x.any()
    assert [spec.name for spec in raw_signature(front)] == ["categories"]


def test_table_of_numbers_alone():
    front = TableFront((0.0,) * 5, (1.0,) * 5, (0, 4), ())
    numbers = RANDOM.standard_normal((9, 5)).astype(np.float32)
    numbers[RANDOM.random((9, 5)) < 0.3] = np.nan
    (x,) = assert_equal(front, {"numbers": numbers})
    assert x.shape == (9, 7)
    assert [spec.name for spec in raw_signature(front)] == ["numbers"]


def test_masked_series():
    front = SeriesFront(2, 7, (1.0, -1.0), (2.0, 3.0), masked=True)
    series = RANDOM.standard_normal((4, 2, 7)).astype(np.float32)
    series[1, :, 3:] = np.nan  # what lies beyond the length must not matter
    x, mask = assert_equal(front, {"series": series, "length": np.array([7, 3, 0, 12])})
    np.testing.assert_array_equal(mask[:, 0].sum(1), [7, 3, 0, 7])
    assert not x[1, :, 3:].any()
    np.testing.assert_allclose(x[0, 1], (series[0, 1] + 1) / 3, rtol=1e-5)


def test_plain_series_has_no_mask():
    front = SeriesFront(2, 7, (1.0, -1.0), (2.0, 3.0), masked=False)
    assert_equal(front, {"series": RANDOM.standard_normal((4, 2, 7)).astype(np.float32)})
    assert [spec.name for spec in body_signature(front, 3, "logits").inputs] == ["x"]


def test_plain_inputs_pass_unchanged():
    front = PlainFront(("a", "b"), ((3,), (2, 2)))
    raw = {"a": np.ones((5, 3), np.float32), "b": np.zeros((5, 2, 2), np.float32)}
    found = assert_equal(front, raw)
    np.testing.assert_array_equal(found[0], raw["a"])


@pytest.mark.parametrize(
    "front",
    [
        image("uint8", "hwc", (None, 40, 3)),
        TableFront((1.0, 2.0), (1.0, 1.0), (0,), (4,)),
        SeriesFront(3, 5, (0.0,) * 3, (1.0,) * 3, masked=True),
        PlainFront(("a",), ((3,),)),
    ],
    ids=lambda front: type(front).__name__,
)
def test_body_signature_is_what_the_front_gives(front):
    graph = front_graph(front).graph
    onnx.checker.check_model(front_graph(front), full_check=True)
    body = body_signature(front, 4, "logits")
    assert [value.name for value in graph.output] == [f"front/{spec.name}" for spec in body.inputs]
    raw = {
        s.name: np.ones([{"batch": 2, "height": 30}.get(d, d) for d in s.shape], s.dtype) for s in raw_signature(front)
    }
    for spec, array in zip(body.inputs, run_graph(front, raw), strict=True):
        assert array.shape == (2, *spec.shape[1:])
    assert body.outputs[0].shape == ("batch", 4)
    assert front_data(front)["kind"] in ("image", "table", "series", "plain")


@pytest.mark.parametrize(
    ("front", "message"),
    [
        (
            ImageFront("int8", "hwc", (8, 8, 3), 3, (8, 8), (0.0,) * 3, (1.0,) * 3),
            "uint8 or float32. Got 'int8'",
        ),
        (ImageFront("uint8", "whc", (8, 8, 3), 3, (8, 8), (0.0,) * 3, (1.0,) * 3), "one of hwc, chw, hw"),
        (ImageFront("uint8", "hwc", (8, 8, 4), 3, (8, 8), (0.0,) * 3, (1.0,) * 3), "must be 1 or 3.*Got 4"),
        (ImageFront("uint8", "hwc", (8, 8, 3), 3, (8, 8), (0.0,), (1.0,) * 3), "each of 3 channels"),
        (TableFront((0.0,), (0.0,), (), ()), "std must be above 0"),
        (TableFront((0.0,), (1.0,), (1,), ()), "within 0..0"),
        (TableFront((), (), (), ()), "at least one column"),
        (TableFront((), (), (), (2, 0)), "sizes must be at least 1"),
        (SeriesFront(2, 5, (0.0,), (1.0,), False), "each of 2 channels"),
        (PlainFront(("a", "a"), ((1,), (1,))), "names must differ"),
        (PlainFront(("a",), ()), "one shape per name"),
    ],
)
def test_a_front_that_contradicts_itself_is_refused(front, message):
    with pytest.raises(ValueError, match=message):
        raw_signature(front)
