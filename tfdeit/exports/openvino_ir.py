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

from tfdeit.exports import onnx_graph
from tfdeit.exports.readme import Usage
from tfdeit.network.backbone import PretrainedModel

FILE = "model.xml"
_CLASSIFY = """\
def classify(pixel_values):
    core = openvino.Core()
    precision = {precision}
    model = core.compile_model("model.xml", "CPU", {{"INFERENCE_PRECISION_HINT": precision}})
    return model(pixel_values)["logits"]"""
_BFLOAT16 = '"bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"'


def write(model: PretrainedModel, processor: Any, directory: Path, dtype: str, calibration: np.ndarray | None) -> Usage:
    """Writes model.xml and model.bin.

    "bfloat16" stores weights in float16, and only computes in bfloat16. "int8" quantises weights, and, with
    `calibration`, pixel values (N, H, W, C), activations too (post-training quantisation).
    """
    stored = "float16" if dtype == "bfloat16" else dtype
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, onnx_graph.FILE)
        onnx_graph.save(onnx_graph.build(model, "float32"), source)
        graph = openvino.Core().read_model(source)
        if dtype == "int8":
            graph = _quantised(graph, calibration)
        openvino.save_model(graph, directory / FILE, compress_to_fp16=stored == "float16")
    code = _CLASSIFY.format(precision=_BFLOAT16 if dtype == "bfloat16" else '"f32"')
    return Usage(FILE, stored, "openvino", "import openvino", code)


def load(directory: Path, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the model in OpenVINO on the CPU, which computes in bfloat16 for that dtype if it has the hardware.

    Without it OpenVINO would emulate bfloat16, at a fiftieth of the speed.
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
