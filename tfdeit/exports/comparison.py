"""An export in its own runtime against the model in TensorFlow: difference, agreement and time."""

import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from tfdeit.backbone import PretrainedModel
from tfdeit.base_processor import BaseImageProcessor
from tfdeit.config import ViTConfig

Run = Callable[[np.ndarray], np.ndarray]

BATCHES = (1, 8)
# The largest relative error of rounding once: half a unit in the last place of a float; of an int8 half a step of
# 1/127 of the largest value of a channel, which for the value itself is more, and for the sum about as much.
ROUNDOFF = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8, "int8": 2**-8}
_ROUNDINGS_PER_BLOCK = 12  # two norms, qkv, scores, softmax, context, projection, fc1, activation, fc2, two sums
_SIGMAS = 4
_SECONDS = 2.0  # that each of the two contestants is timed for, at most, after three rounds


def tolerance(config: ViTConfig, dtype: str) -> float:
    """Returns the relative error of the logits that rounding to `dtype` explains.

    Independent roundings add up as a random walk: 4 sigma of `ROUNDOFF` times the root of the roundings on the longest
    way through the network. In float32 the sums inside a matrix product are rounded too: a walk as long as the longest
    (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis"). Runtimes sum in float32 whatever
    the dtype, where that is negligible.
    """
    walk = _ROUNDINGS_PER_BLOCK * config.num_hidden_layers
    if dtype == "float32":
        walk *= max(config.intermediate_size, config.hidden_size)
    return _SIGMAS * ROUNDOFF[dtype] * math.sqrt(walk)


def reference(model: PretrainedModel) -> Run:
    """Returns the model in TensorFlow, compiled to a graph for any batch."""
    shape = (None, *model.config.image_hw, model.config.num_channels)
    signature = [tf.TensorSpec(shape, tf.float32)]
    function = tf.function(lambda x: model(x, training=False).logits, signature, autograph=False)
    return lambda pixel_values: function(tf.constant(pixel_values)).numpy()


def compare(ours: Run, exported: Run, pixel_values: np.ndarray) -> dict[str, float]:
    """Compares logits.

    Args:
        ours: the model in TensorFlow.
        exported: the export in its runtime.
        pixel_values: (N, H, W, C) float32.

    Returns:
        max_difference: of any logit. relative_error: of the worst image, the root mean square of the differences
        divided by that of the logits about their mean (a shift of all logits changes no probability; about zero if
        there is one only); not a number if an answer is none. top1_agreement: part of the images whose most probable
        class is the same.
    """
    largest, worst, agreeing = 0.0, 0.0, 0
    for start in range(0, len(pixel_values), max(BATCHES)):
        batch = pixel_values[start : start + max(BATCHES)]
        expected, received = ours(batch).astype("float64"), exported(batch).astype("float64")
        if received.shape != expected.shape:
            raise ValueError(f"Expected logits of shape {expected.shape}. Received: {received.shape}.")
        difference = received - expected
        centred = expected - expected.mean(axis=-1, keepdims=True) if expected.shape[-1] > 1 else expected
        relative = np.linalg.norm(difference, axis=-1) / np.linalg.norm(centred, axis=-1)
        largest, worst = np.max([largest, np.abs(difference).max()]), np.max([worst, relative.max()])  # NaN stays
        agreeing += int(np.sum(received.argmax(-1) == expected.argmax(-1)))
    return {
        "max_difference": float(largest),
        "relative_error": float(worst),
        "top1_agreement": agreeing / len(pixel_values),
    }


def latency_ratio(ours: Run, exported: Run, pixel_values: np.ndarray) -> float:
    """Returns the median time of the export divided by that of the model in TensorFlow, measured in turns."""
    runs = exported, ours
    seconds: tuple[list[float], list[float]] = [], []
    for run in runs:
        run(pixel_values)  # the first one plans and allocates
    start = time.perf_counter()
    while len(seconds[0]) < 3 or (len(seconds[0]) < 25 and time.perf_counter() - start < len(runs) * _SECONDS):
        for run, measured in zip(runs, seconds, strict=True):
            before = time.perf_counter()
            run(pixel_values)
            measured.append(time.perf_counter() - before)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def generate_images(processor: BaseImageProcessor, count: int = 16) -> np.ndarray:
    """Returns pixel values (count, H, W, 3) of patterns from broad to fine, for want of photos."""
    rng = np.random.default_rng(0)
    images = []
    for index in range(count):
        side = 2 + 4 * index
        pattern = Image.fromarray(rng.integers(0, 256, (side, side, 3), "uint8"))
        images.append(pattern.resize((400, 300), Image.Resampling.BICUBIC))
    return processor(images, return_tensors="np").pixel_values
