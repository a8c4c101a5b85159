"""onnxruntime laid out as its release archive is: include/ and lib/. A wheel has the library and no headers.

The headers come once from an npm package that carries those of a release as they are (150 MB, kept in the cache folder
as 1 MB); only a slow test fetches them.
"""

import subprocess
import tarfile
from pathlib import Path

from benchmark import node

PACKAGE = "com.github.asus4.onnxruntime@0.4.9"  # Unity's plug-in, MIT: headers of onnxruntime 1.29
INSIDE = "package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64_x86_64-simulator/onnxruntime.framework/Headers/"


def headers_folder() -> Path:
    return node.modules_folder().with_name("onnxruntime-headers")


def no_headers() -> str | None:
    """Why nothing can be compiled against onnxruntime here; None where it can."""
    if (headers_folder() / "onnxruntime_cxx_api.h").exists():
        return None
    return "onnxruntime's headers are not here: `pytest -m slow tests/test_export_alone.py` fetches them"


def fetch_headers(scratch: Path) -> None:
    """Raises CalledProcessError where npm cannot reach its registry."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(scratch), PACKAGE]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    draft = headers_folder().with_name("onnxruntime-headers.writing")
    draft.mkdir(parents=True, exist_ok=True)
    with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(INSIDE):
                stream = archive.extractfile(member)
                assert stream is not None
                (draft / Path(member.name).name).write_bytes(stream.read())
    draft.rename(headers_folder())


def lay_out(folder: Path, packages: Path) -> Path:
    """`folder` with include/ and lib/, the library being that of the wheel in these site-packages."""
    (folder / "lib").mkdir(parents=True)
    (folder / "include").symlink_to(headers_folder())
    library = next((packages / "onnxruntime" / "capi").glob("libonnxruntime.so.*"))
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(library)
    return folder
