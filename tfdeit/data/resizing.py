"""Pillow's resizing of batches whose images have sizes of their own, on the device.

Matrix products are what accelerators do best. Each weight is split into its lower 11 bits and the rest, so that all
sums are whole numbers below 2**24: exact in float32, in any order, and in the TF32 of tensor cores.
"""

import numpy as np
import tensorflow as tf

from tfdeit.data.decoding import decode_crop, is_plain_jpeg
from tfdeit.images import read_block, read_header
from tfdeit.processing import BaseImageProcessor
from tfdeit.processor_config import FILTERS
from tfdeit.resample import BITS, ResizePlan, bucket, plan_resize, resample

_LOW_BITS = 11
_MAX_TAPS = 2**24 // (255 * (2**_LOW_BITS - 1))  # images for which this is not enough are resized on the host


def taps_signature(height: int, width: int) -> list[tf.TensorSpec]:
    """What `window_and_taps` returns for results of one size."""
    axes = [tf.TensorSpec(shape, tf.int32) for n in (height, width) for shape in ((n,), (n, None))]
    return [tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.bool), *axes]


def read_window(processor: BaseImageProcessor, data: bytes) -> tuple[np.ndarray, ResizePlan]:
    """Decodes what a processor needs of an image.

    Args:
        processor: resizes and crops.
        data: content of an image file.

    Returns:
        The pixels that are read (H, W, 3) uint8, and the plan that makes the processor's pixels of them.
    """
    header = read_header(data)
    image = None
    if processor.exif_orientation or not is_plain_jpeg(header):
        image = read_block(data, None, processor.exif_orientation, processor.do_convert_rgb)[0]
    in_size = header[2:] if image is None else image.shape[:2]
    size, window = processor.geometry(*in_size)
    plan = plan_resize(in_size, size, FILTERS[processor.resample] if processor.do_resize else "nearest", window)
    if image is not None:
        return image[plan.source], plan
    return decode_crop(data, header, *(s.start for s in plan.source), *(s.stop - s.start for s in plan.source)), plan


def window_and_taps(processor: BaseImageProcessor, data: bytes) -> tuple[np.ndarray | np.bool_, ...]:
    """The host's part: what the device needs to make the processor's pixels. All of it may be padded with zeros.

    Args:
        processor: resizes and crops to one size (h, w).
        data: content of an image file.

    Returns:
        The pixels that are read (H, W, 3) uint8; whether they, and the result, are transposed; then start (h,) and
        weights (h, K) of the rows, and the same of the columns, int32, see `tfdeit.resample.Taps`.
    """
    image, plan = read_window(processor, data)
    height, width = (len(taps.start) for taps in (plan.rows, plan.columns))
    rows, columns, transposed = plan.rows, plan.columns, plan.vertical and height == width
    if transposed:  # the device resizes columns first
        image, rows, columns = image.transpose(1, 0, 2), columns, rows
    if (plan.vertical and not transposed) or max(taps.weights.shape[1] for taps in (rows, columns)) > _MAX_TAPS:
        image = resample(image, rows, columns, plan.vertical and not transposed).astype("uint8")
        _, rows, columns, _ = plan_resize((height, width), (height, width), "nearest")
    return image, np.bool_(transposed), *rows, *columns


def stack_windows(
    parts: list[tuple[np.ndarray | np.bool_, ...] | None], signature: list[tf.TensorSpec]
) -> tuple[np.ndarray, ...]:
    """Stacks what `window_and_taps` returned, padded with zeros to the `bucket` of the largest; None is all zeros."""
    there = [part for part in parts if part is not None]
    if not there:
        return tuple(
            np.zeros([len(parts), *(n or 0 for n in spec.shape)], spec.dtype.as_numpy_dtype) for spec in signature
        )
    stacked = []
    for column, spec in enumerate(signature):
        largest = np.max([part[column].shape for part in there], axis=0, initial=0).tolist()
        shape = [bucket(n) if fixed is None else n for n, fixed in zip(largest, spec.shape, strict=True)]
        stacked.append(np.zeros((len(parts), *shape), spec.dtype.as_numpy_dtype))
        for row, part in enumerate(parts):
            if part is not None:
                place: tuple[int | slice, ...] = (row, *map(slice, part[column].shape))
                stacked[-1][place] = part[column]
    return tuple(stacked)


@tf.function(autograph=False)
def resize(images, transposed, row_start, row_weights, column_start, column_weights):
    """The device's part.

    Args:
        images: (B, H, W, 3) uint8.
        transposed: (B,) bool.
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
        total = high * 2**_LOW_BITS + low + 2 ** (BITS - 1)
        images = tf.cast(tf.clip_by_value(tf.bitwise.right_shift(total, BITS), 0, 255), tf.float32)
    images = tf.cast(images, tf.uint8)
    if images.shape[1] != images.shape[2]:  # then none is transposed
        return images
    return tf.where(transposed[:, None, None, None], tf.transpose(images, (0, 2, 1, 3)), images)


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
