"""Pillow's resizing of batches whose images have sizes of their own, on the device.

Matrix products are what accelerators do best. Each weight is split into its lower 11 bits and the rest, so that all
sums are whole numbers below 2**24: exact in float32, in any order, and in the TF32 of tensor cores.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfdeit.base_processor import BaseImageProcessor
from tfdeit.data.decoding import decode_crop, is_plain_jpeg
from tfdeit.data.loading import tensor_memory
from tfdeit.images import read_block, read_header
from tfdeit.processor_config import FILTERS
from tfdeit.resample import BITS, ResizePlan, Taps, bucket, plan_resize, resample

_LOW_BITS = 11
_MAX_TAPS = 2**24 // (255 * (2**_LOW_BITS - 1))  # images for which this is not enough are resized on the host


class Window(NamedTuple):
    """The host's part of an image: what the device needs to make the processor's pixels.

    Attributes:
        decode: gives the pixels that are read, (H, W, 3) uint8.
        size: their (H, W).
        transposed: whether the device gets them, and gives the result, transposed.
        rows: taps of the device's rows.
        columns: of its columns, which it resizes first.
    """

    decode: Callable[[], np.ndarray]
    size: tuple[int, int]
    transposed: bool
    rows: Taps
    columns: Taps


def plan_image(processor: BaseImageProcessor, data: bytes) -> tuple[Callable[[], np.ndarray], ResizePlan]:
    """Finds out what a processor needs of an image, from its header if it is a plain JPEG.

    Args:
        processor: resizes and crops.
        data: content of an image file.

    Returns:
        What decodes the pixels that are read, to (H, W, 3) uint8; and the plan that makes the processor's pixels of
        them.
    """
    header = read_header(data)
    image = None
    if processor.exif_orientation or not is_plain_jpeg(header):
        image = read_block(data, None, processor.exif_orientation, processor.do_convert_rgb)[0]
    in_size = header[2:] if image is None else image.shape[:2]
    size, window = processor.geometry(*in_size)
    plan = plan_resize(in_size, size, FILTERS[processor.resample] if processor.do_resize else "nearest", window)

    def decode():
        if image is not None:
            return image[plan.source]
        return decode_crop(data, header, *(s.start for s in plan.source), *_lengths(plan.source))

    return decode, plan


def _lengths(slices: tuple[slice, slice]) -> tuple[int, int]:
    rows, columns = (s.stop - s.start for s in slices)
    return rows, columns


def plan_window(processor: BaseImageProcessor, data: bytes) -> Window:
    """Plans the host's part of an image; arguments as for `plan_image`."""
    decode, plan = plan_image(processor, data)
    shape = height, width = len(plan.rows.start), len(plan.columns.start)
    transposed = bool(plan.vertical) and height == width  # for the device resizes columns first
    too_many = max(taps.weights.shape[1] for taps in (plan.rows, plan.columns)) > _MAX_TAPS
    if too_many or (plan.vertical and not transposed):
        same = plan_resize(shape, shape, "nearest")
        resized = functools.partial(_resized, decode, plan)
        return Window(resized, shape, False, same.rows, same.columns)
    size = _lengths(plan.source)
    if transposed:
        return Window(lambda: decode().transpose(1, 0, 2), size[::-1], True, plan.columns, plan.rows)
    return Window(decode, size, False, plan.rows, plan.columns)


def _resized(decode, plan):
    return resample(decode(), plan.rows, plan.columns, plan.vertical)


class Windows:
    """The host's part of a batch, padded to the `bucket` of the largest image; no weight reads the padding.

    Args:
        windows: of each image; None for those that cannot be read.
        height: of the results.
        width: of the results.

    Attributes:
        arrays: what `resize` takes, (B, ...) each. Taps are there from the beginning, pixels after `read`.
    """

    def __init__(self, windows: Sequence[Window | None], height: int, width: int):
        there = [window for window in windows if window]
        count, sides = len(windows), np.max([window.size for window in there] or [(0, 0)], axis=0)
        images = tensor_memory((count, *map(bucket, sides.tolist()), 3), "uint8")
        transposed = np.array([bool(window and window.transposed) for window in windows])
        self.arrays = [images, transposed]
        for axis, length in (("rows", height), ("columns", width)):
            reach = bucket(max((getattr(window, axis).weights.shape[1] for window in there), default=0))
            start, weights = np.zeros((count, length), "int32"), np.zeros((count, length, reach), "int32")
            for number, window in enumerate(windows):
                if window:
                    taps = getattr(window, axis)
                    start[number], weights[number, :, : taps.weights.shape[1]] = taps
            self.arrays += [start, weights]

    def read(self, number: int, window: Window):
        """Decodes the image of a window to its place. Several threads may."""
        self.arrays[0][number, : window.size[0], : window.size[1]] = window.decode()

    @staticmethod
    def signature(height: int, width: int) -> list[tf.TensorSpec]:
        """What one image is in `arrays`, for results of one size."""
        axes = [tf.TensorSpec(shape, tf.int32) for n in (height, width) for shape in ((n,), (n, None))]
        return [tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.bool), *axes]


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
