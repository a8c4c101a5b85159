from benchmark.types import Measurement, Target

__all__ = ["Measurement", "Target"]
