"""Whether this processor sums int8 products exactly: x86 without VNNI adds pairs of them in 16 bits, which saturate, so
that outputs of such files are further from float32's there (docs/targets.md; `old-x86` shows it on any machine)."""

import platform

import pytest

from benchmark import host
from family.kernels import VNNI

SUMS_EXACTLY = platform.machine().lower() not in ("x86_64", "amd64") or bool(VNNI & set(host()["cpu_flags"]))
needs_exact_sums = pytest.mark.skipif(
    not SUMS_EXACTLY, reason="int8 sums saturate on this processor (x86 without VNNI)"
)
