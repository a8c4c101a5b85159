"""`python -P -m benchmark.prepare emulated javascript`: fetch and build what targets need, into the cache folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from benchmark import emulated, node

ROOMS: Mapping[str, Callable[[], Sequence[str]]] = {"emulated": emulated.prepare, "javascript": node.prepare}


def main(names: Sequence[str]) -> int:
    """1 where something lacks, 2 for a name that is none."""
    if not names or not set(names) <= set(ROOMS):
        print(f"say which to prepare: {', '.join(ROOMS)}. Got {' '.join(names) or 'nothing'}.", file=sys.stderr)
        return 2
    for name in names:
        try:
            print(*ROOMS[name](), sep="\n")
        except (ValueError, OSError, subprocess.CalledProcessError) as problem:
            print(f"{name}: {problem}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
