"""An export in its own runtime against the model in TensorFlow: difference, agreement and time."""

import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from tfdeit.config import ViTConfig
from tfdeit.network.backbone import PretrainedModel
from tfdeit.preprocessing.base_processor import BaseImageProcessor

Run = Callable[[np.ndarray], np.ndarray]

BATCHES = (1, 8)
# The largest relative error of one rounding: half a unit in the last place of a float. In int8 it is half a step of
# 1/127 of the largest value of a channel: more for a smaller value by itself, but about as much for a sum of them.
ROUNDOFF = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8, "int8": 2**-8}
_ROUNDINGS_PER_BLOCK = 12  # two norms, qkv, scores, softmax, context, projection, fc1, activation, fc2, two sums
_SIGMAS = 4
_SECONDS = 2.0  # of timing for each of the two, at most; but there are at least three rounds


def tolerance(config: ViTConfig, dtype: str) -> float:
    """Returns the relative error of the logits that rounding to `dtype` explains.

    Independent roundings add up as a random walk: 4 sigma of `ROUNDOFF` times the root of the roundings on the longest
    path through the network. In float32 the sums inside matrix products add roundings too: as many as the longest sum
    has terms (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis"). With other dtypes
    these are negligible, as runtimes always sum in float32.
    """
    walk = _ROUNDINGS_PER_BLOCK * config.num_hidden_layers
    if dtype == "float32":
        walk *= max(config.intermediate_size, config.hidden_size)
    return _SIGMAS * ROUNDOFF[dtype] * math.sqrt(walk)


def reference(model: PretrainedModel) -> Run:
    """Returns the model in TensorFlow, compiled to a graph for any batch size."""
    shape = (None, *model.config.image_hw, model.config.num_channels)
    signature = [tf.TensorSpec(shape, tf.float32)]
    function = tf.function(lambda x: model(x, training=False).logits, signature, autograph=False)
    return lambda pixel_values: function(tf.constant(pixel_values)).numpy()


def compare(ours: Run, exported: Run, pixel_values: np.ndarray) -> dict[str, float]:
    """Compares the logits of an export with the model's.

    Args:
        ours: the model in TensorFlow.
        exported: the export in its runtime.
        pixel_values: (N, H, W, C) float32.

    Returns:
        max_difference: the largest absolute difference of a logit. relative_error: of the worst image, the root mean
        square of the differences divided by that of the logits about their mean, as a shift of all logits changes no
        probability (about zero if there is only one logit). top1_agreement: fraction of the images with the same most
        probable class. The first two are NaN if a logit is.

    Raises:
        ValueError: if the export returns logits of another shape.
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
    """Returns the median time of the export divided by the model's in TensorFlow; the two take turns."""
    runs = exported, ours
    seconds: tuple[list[float], list[float]] = [], []
    for run in runs:
        run(pixel_values)  # the first call plans and allocates
    start = time.perf_counter()
    while len(seconds[0]) < 3 or (len(seconds[0]) < 25 and time.perf_counter() - start < len(runs) * _SECONDS):
        for run, measured in zip(runs, seconds, strict=True):
            before = time.perf_counter()
            run(pixel_values)
            measured.append(time.perf_counter() - before)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def generate_images(processor: BaseImageProcessor, count: int = 16) -> np.ndarray:
    """Returns pixel values (count, H, W, 3) of patterns from coarse to fine, for want of photos."""
    rng = np.random.default_rng(0)
    sides = range(2, 2 + 4 * count, 4)
    patterns = [Image.fromarray(rng.integers(0, 256, (side, side, 3), "uint8")) for side in sides]
    images = [pattern.resize((400, 300), Image.Resampling.BICUBIC) for pattern in patterns]
    return processor(images, return_tensors="np").pixel_values
