"""Pillow's resizing of batches whose images have sizes of their own, on the device.

Matrix products are what accelerators do best. Each weight is split into its lower 11 bits and the rest, so that all
sums are whole numbers below 2**24: exact in float32, in any order, and in the TF32 of tensor cores.
"""

import numpy as np
import tensorflow as tf

from tfdeit.images import read_block
from tfdeit.processing import BaseImageProcessor
from tfdeit.processor_config import FILTERS
from tfdeit.resample import plan_resize, resample

_BITS = 22  # of Pillow's weights, as in `resample`
_LOW_BITS = 11
_MAX_TAPS = 2**24 // (255 * (2**_LOW_BITS - 1))  # images for which this is not enough are resized on the host


def taps_signature(height: int, width: int) -> list[tf.TensorSpec]:
    """What `window_and_taps` returns for results of one size."""
    axes = [tf.TensorSpec(shape, tf.int32) for n in (height, width) for shape in ((n,), (n, None))]
    return [tf.TensorSpec((None, None, 3), tf.uint8), *axes]


def window_and_taps(processor: BaseImageProcessor, image) -> tuple[np.ndarray, ...]:
    """The host's part: what the device needs to make the processor's pixels. All of it may be padded with zeros.

    Args:
        processor: resizes and crops to one size (h, w).
        image: what `BaseImageProcessor.pixels` takes.

    Returns:
        The pixels that are read (H, W, 3) uint8; then start (h,) and weights (h, K) of the rows, and the same of the
        columns, int32, see `tfdeit.resample.Taps`.
    """
    image = read_block(image, None, processor.exif_orientation, processor.do_convert_rgb)[0]
    size, window = processor.geometry(*image.shape[:2])
    name = FILTERS[processor.resample] if processor.do_resize else "nearest"
    plan = plan_resize(image.shape[:2], size, name, window)
    image = image[plan.source]
    if plan.vertical or max(taps.weights.shape[1] for taps in (plan.rows, plan.columns)) > _MAX_TAPS:
        image = resample(image, plan.rows, plan.columns, plan.vertical).astype("uint8")
        plan = plan_resize(image.shape[:2], image.shape[:2], "nearest")
    return image, *plan.rows, *plan.columns


@tf.function(autograph=False)
def resize(images, row_start, row_weights, column_start, column_weights):
    """The device's part.

    Args:
        images: (B, H, W, 3) uint8.
        row_start: (B, h) int32.
        row_weights: (B, h, K) int32, with a K of its own.
        column_start: (B, w) int32.
        column_weights: (B, w, K) int32.

    Returns:
        (B, h, w, 3) uint8, equal to Pillow's pixels.
    """
    height, width = (tf.shape(images)[axis] for axis in (1, 2))
    images = tf.cast(images, tf.float32)
    for equation, start, weights, size in (
        ("bow,bhwc->bhoc", column_start, column_weights, width),
        ("boh,bhwc->bowc", row_start, row_weights, height),
    ):
        low = tf.bitwise.bitwise_and(weights, 2**_LOW_BITS - 1)
        parts = (_dense(start, part, size) for part in (tf.bitwise.right_shift(weights, _LOW_BITS), low))
        high, low = (tf.cast(tf.einsum(equation, part, images), tf.int32) for part in parts)
        total = high * 2**_LOW_BITS + low + 2 ** (_BITS - 1)
        images = tf.cast(tf.clip_by_value(tf.bitwise.right_shift(total, _BITS), 0, 255), tf.float32)
    return tf.cast(images, tf.uint8)


def _dense(start, weights, size):
    """Taps as float32 matrices (B, count, size)."""
    batch, count, width = tf.unstack(tf.shape(weights))
    # The band of an edge pixel may run past the end of the image, where its weights are zero.
    columns = tf.minimum(start[:, :, None] + tf.range(width), size - 1)
    rows = tf.broadcast_to(tf.reshape(tf.range(batch * count), (batch, count, 1)), tf.shape(columns))
    flat = tf.scatter_nd(
        tf.reshape(rows * size + columns, (-1, 1)),
        tf.reshape(tf.cast(weights, tf.float32), [-1]),
        [batch * count * size],
    )
    return tf.reshape(flat, (batch, count, size))
