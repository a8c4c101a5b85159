"""Measurements as plain data for JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from benchmark.types import Measurement


def measurement_to_dict(measurement: Measurement) -> dict[str, Any]:
    return {**asdict(measurement), "samples": list(measurement.samples)}


def measurement_from_dict(data: Mapping[str, Any]) -> Measurement:
    """Raises ValueError naming the keys that are missing or unknown."""
    names = {field.name for field in fields(Measurement)}
    missing, unknown = names - {"noisy"} - set(data), set(data) - names
    if missing or unknown:
        raise ValueError(f"not a measurement: missing {sorted(missing)}, unknown {sorted(unknown)}.")
    return Measurement(**{**data, "samples": tuple(data["samples"])})
