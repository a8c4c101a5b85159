"""A model file → a measurement on a target. Never loads torch or onnx."""

from benchmark.bench import QUICK_SECONDS, Bench
from benchmark.channel import WorkerDied
from benchmark.direct import DirectMeter
from benchmark.emulated import describe_core, run_on_core
from benchmark.footprint import measure_memory, measure_size
from benchmark.host import host, host_fingerprint
from benchmark.inputs import feeds_beside
from benchmark.intervals import join_ratios
from benchmark.meters import Meter, needs_ladder, open_meter
from benchmark.predict import Predictor, fit, predict, predictor_from_dict, predictor_to_dict
from benchmark.profile import FEWEST_STUDENTS, Profile, calibrate, count_features, read_profile, write_profile
from benchmark.refusals import why_refused
from benchmark.serial import measurement_from_dict, measurement_to_dict
from benchmark.targets import (
    PRESETS,
    TRANSPORTS,
    can_answer,
    design_points,
    provenance_of,
    resolve_target,
    unavailable,
)
from benchmark.types import PATHS, Measurement, Target

__all__ = [
    "FEWEST_STUDENTS",
    "PATHS",
    "PRESETS",
    "QUICK_SECONDS",
    "TRANSPORTS",
    "Bench",
    "DirectMeter",
    "Measurement",
    "Meter",
    "Predictor",
    "Profile",
    "Target",
    "WorkerDied",
    "calibrate",
    "can_answer",
    "count_features",
    "describe_core",
    "design_points",
    "feeds_beside",
    "fit",
    "host",
    "host_fingerprint",
    "join_ratios",
    "measure_memory",
    "measure_size",
    "measurement_from_dict",
    "measurement_to_dict",
    "needs_ladder",
    "open_meter",
    "predict",
    "predictor_from_dict",
    "predictor_to_dict",
    "provenance_of",
    "read_profile",
    "resolve_target",
    "run_on_core",
    "unavailable",
    "why_refused",
    "write_profile",
]
