"""`plain/`: a student's facts and its first golden example, for programs that read neither JSON nor `.npz`.

`student.txt` has a fact a line; a word says which, and names come last, for they may hold spaces:

    name NAME                              kind KIND                tolerance NUMBER
    picture TYPE LAYOUT HEIGHT WIDTH CHANNELS WHITE                 pictures alone; side 0: the picture's own
    input TYPE D0,D1,… FILE NAME           output TYPE D0,D1,… FILE NAME
    class NAME                             in the order of the outputs

FILE holds raw little-endian values. A line break in a name is written as a space.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "plain"
WHITES = (1, 16, 255)  # what pixels count up to: shares, the built-in digits, bytes


def read_picture(preprocessing: Mapping[str, Any] | None, golden: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """What a program makes of decoded pixels: layout, sides (None: the picture's own), channels, value of white.

    None where the student takes no pictures, or some whose values are no brightness from 0 up.
    """
    if not preprocessing or preprocessing.get("kind") != "image":
        return None
    pixels = golden["image"]
    if pixels.min(initial=0) < 0:
        return None
    most = float(pixels.max(initial=0))
    sides = dict(zip(preprocessing["layout"], preprocessing["raw"], strict=True))
    return {
        "layout": preprocessing["layout"],
        "height": sides["h"],
        "width": sides["w"],
        "channels": sides.get("c", 1) or preprocessing["channels"],
        "white": next((white for white in WHITES if most <= white), most),
    }


def write_plain(
    folder: Path,
    manifest: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    tolerance: float,
) -> dict[str, Any]:
    """Write `plain/` of one example, a row per array; give what golden.json says of it."""
    (folder / FOLDER).mkdir()
    sides = {"input": inputs, "output": outputs}
    told = {side: _write_arrays(folder, side, arrays) for side, arrays in sides.items()}
    lines = [f"name {_line(manifest.get('name', 'student'))}", f"kind {_line(manifest.get('kind', ''))}"]
    lines += [f"tolerance {tolerance!r}", *_say_picture(manifest["picture"], inputs)]
    for side, arrays in told.items():
        for name, entry in arrays.items():
            shape = ",".join(map(str, entry["shape"]))
            lines.append(f"{side} {entry['dtype']} {shape} {entry['file']} {_line(name)}")
    lines += [f"class {_line(name)}" for name in manifest["classes"] or ()]
    (folder / FOLDER / "student.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return {"tolerance": tolerance, "inputs": told["input"], "outputs": told["output"]}


def _write_arrays(folder: Path, side: str, arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    told = {}
    for i, (name, array) in enumerate(arrays.items()):
        file = f"{FOLDER}/{side}-{i}.bin"
        (folder / file).write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
        told[name] = {"file": file, "dtype": str(array.dtype), "shape": list(array.shape)}
    return told


def _say_picture(picture: Mapping[str, Any] | None, inputs: Mapping[str, np.ndarray]) -> list[str]:
    if picture is None:
        return []
    sides = f"{picture['height'] or 0} {picture['width'] or 0} {picture['channels']}"
    return [f"picture {inputs['image'].dtype} {picture['layout']} {sides} {picture['white']:g}"]


def _line(name: Any) -> str:
    return " ".join(str(name).splitlines())
