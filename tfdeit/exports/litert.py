"""LiteRT (formerly TensorFlow Lite): one .tflite file for phones and small devices."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfdeit.exports.readme import Usage
from tfdeit.network.backbone import PretrainedModel
from tfdeit.network.kernels import plain_operations

FILE = "model.tflite"
MAX_BYTES = 2**31 - 2**24  # of a TensorFlow graph with its constants, and of a .tflite file
_CLASSIFY = f"""\
def classify(pixel_values):
    runner = Interpreter("{FILE}", num_threads=4).get_signature_runner()
    return runner(pixel_values=pixel_values)["logits"]"""


def write(model: PretrainedModel, processor: Any, directory: Path, dtype: str, calibration: np.ndarray | None) -> Usage:
    """Writes model.tflite, with weights as `dtype`; with int8, the runtime quantises activations on the fly.

    Raises:
        ValueError: if the weights are larger than TensorFlow's converter can take.
    """
    size = 4 * model.count_params()
    if size > MAX_BYTES:
        raise ValueError(
            f"Expected weights of less than {MAX_BYTES / 1e9:.1f} GB in float32 for litert. "
            f"Received: {size / 1e9:.1f} GB. Use another format, such as onnx."
        )
    module = tf.Module()
    # Weights are constants: LiteRT neither quantises nor packs what it reads from variables.
    values = [[v.numpy() for v in group] for group in (model.trainable_variables, model.non_trainable_variables)]
    shape = (None, *model.config.image_hw, model.config.num_channels)

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="pixel_values")], autograph=False)
    def classify(pixel_values):
        constants = [[tf.constant(value) for value in group] for group in values]
        with plain_operations():
            outputs, _ = model.stateless_call(*constants, pixel_values, training=False)
        return {"logits": outputs.logits}

    module.classify = classify
    converter = tf.lite.TFLiteConverter.from_concrete_functions([classify.get_concrete_function()], module)
    if dtype != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if dtype == "float16":
        converter.target_spec.supported_types = [tf.float16]
    (directory / FILE).write_bytes(converter.convert())
    return Usage(FILE, dtype, "ai-edge-litert", "from ai_edge_litert.interpreter import Interpreter", _CLASSIFY)


def load(directory: Path, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the model in LiteRT, with one thread for each processor that this process may use."""
    from ai_edge_litert.interpreter import Interpreter

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    interpreter = Interpreter(str(directory / FILE), num_threads=processors)
    classify = interpreter.get_signature_runner()
    return lambda pixel_values: classify(pixel_values=pixel_values)["logits"]
