"""What is used of onnxruntime's tools.

Importing them appends folders to the import path, one with a module named `benchmark`: they are taken off again.
"""

import sys

_path = list(sys.path)

from onnxruntime.quantization import (  # noqa: E402
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer  # noqa: E402
from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: E402
from onnxruntime.tools.mobile_helpers import usability_checker  # noqa: E402
from onnxruntime.tools.onnx_model_utils import (  # noqa: E402
    fix_output_shapes,
    make_dim_param_fixed,
    optimize_model,
)
from onnxruntime.tools.ort_format_model import create_config_from_models  # noqa: E402

sys.path[:] = _path

__all__ = [
    "CalibrationDataReader",
    "CalibrationMethod",
    "MatMulNBitsQuantizer",
    "QuantFormat",
    "QuantType",
    "create_config_from_models",
    "fix_output_shapes",
    "make_dim_param_fixed",
    "optimize_model",
    "quant_pre_process",
    "quantize_dynamic",
    "quantize_static",
    "usability_checker",
]
