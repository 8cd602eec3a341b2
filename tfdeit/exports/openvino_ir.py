"""OpenVINO: an .xml file with its .bin, for Intel's processors and others."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from tfdeit.backbone import PretrainedModel
from tfdeit.exports import onnx_graph

FILE = "model.xml"


def write(model: PretrainedModel, processor: Any, directory: Path, dtype: str, calibration: np.ndarray | None):
    """Writes model.xml and model.bin.

    "float16" and "bfloat16" store weights in float16. "int8" with `calibration`, pixel values (N, H, W, C), rounds
    weights and activations (post-training quantisation); without, weights only.
    """
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, onnx_graph.FILE)
        onnx_graph.save(onnx_graph.build(model, "float32"), source)
        graph = openvino.Core().read_model(source)
        if dtype == "int8":
            graph = _quantised(graph, calibration)
        openvino.save_model(graph, directory / FILE, compress_to_fp16=dtype in ("float16", "bfloat16"))


def load(directory: Path, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the model in OpenVINO, on the CPU: computing in bfloat16 for that dtype where there is hardware for it.

    Elsewhere OpenVINO would emulate it, at a fiftieth of the speed.
    """
    core = openvino.Core()
    has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision = "bf16" if dtype == "bfloat16" and has_bfloat16 else "f32"
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(directory / FILE, "CPU", options)
    return lambda pixel_values: compiled(pixel_values)[0]


def _quantised(graph, calibration):
    os.environ.setdefault("NNCF_CI", "1")  # nncf reports its use over the network otherwise
    import nncf

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        if calibration is None:
            return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)
        images = nncf.Dataset([image[None] for image in calibration])
        return nncf.quantize(graph, images, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration))
