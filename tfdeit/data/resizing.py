"""Pillow's resizing on the device, for batches of images of different sizes.

It is done by matrix products, which accelerators do best. Each weight is split into its lower 11 bits and the rest, so
that all sums are integers below 2**24: exact in float32, in any order, and in the TF32 of tensor cores.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfdeit.data.decoding import decode_crop, is_plain_jpeg
from tfdeit.data.loading import tensor_memory
from tfdeit.preprocessing.base_processor import BaseImageProcessor
from tfdeit.preprocessing.images import read_block, read_header
from tfdeit.preprocessing.processor_config import FILTERS
from tfdeit.resample import BITS, ResizePlan, Taps, bucket, plan_resize, resample

_LOW_BITS = 11
_MAX_TAPS = 2**24 // (255 * (2**_LOW_BITS - 1))  # images that need more are resized on the host


class Window(NamedTuple):
    """The host's share of the work on an image: what the device needs to make the processor's pixels.

    Attributes:
        decode: returns the pixels that the device needs, (H, W, 3) uint8.
        size: (H, W) of these pixels.
        transposed: whether they, and so the result, are transposed.
        rows: taps for the rows of the result.
        columns: taps for its columns, which the device resizes first.
    """

    decode: Callable[[], np.ndarray]
    size: tuple[int, int]
    transposed: bool
    rows: Taps
    columns: Taps


def plan_image(processor: BaseImageProcessor, data: bytes) -> tuple[Callable[[], np.ndarray], ResizePlan]:
    """Finds out which pixels of an image a processor needs; for a plain JPEG, from the header alone.

    Args:
        processor: the processor, which resizes and crops.
        data: content of an image file.

    Returns:
        A function that decodes these pixels, to (H, W, 3) uint8; and the plan that makes the processor's pixels from
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
    """Plans the host's share of the work on an image; see `plan_image` for the arguments."""
    decode, plan = plan_image(processor, data)
    shape = height, width = len(plan.rows.start), len(plan.columns.start)
    transposed = bool(plan.vertical) and height == width  # because the device resizes columns first
    too_many = max(taps.weights.shape[1] for taps in (plan.rows, plan.columns)) > _MAX_TAPS
    if too_many or (plan.vertical and not transposed):
        same = plan_resize(shape, shape, "nearest")
        steps = plan.rows, plan.columns, plan.vertical
        return Window(lambda: resample(decode(), *steps), shape, False, same.rows, same.columns)
    size = _lengths(plan.source)
    if transposed:
        return Window(lambda: decode().transpose(1, 0, 2), size[::-1], True, plan.columns, plan.rows)
    return Window(decode, size, False, plan.rows, plan.columns)


class Windows:
    """The windows of a batch, padded to the `bucket` of the largest image; no weight reads the padding.

    Args:
        windows: one per image; None for an image that cannot be read.
        height: height of the results.
        width: width of the results.

    Attributes:
        arrays: the arguments of `resize`, (B, ...) each. The taps are there from the start, the pixels after `read`.
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
        """Decodes the image of a window into `arrays`; several threads may do so at once."""
        self.arrays[0][number, : window.size[0], : window.size[1]] = window.decode()

    @staticmethod
    def signature(height: int, width: int) -> list[tf.TensorSpec]:
        """Returns the specification of one image in `arrays`, for results of this size."""
        axes = [tf.TensorSpec(shape, tf.int32) for n in (height, width) for shape in ((n,), (n, None))]
        return [tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.bool), *axes]


@tf.function(autograph=False)
def resize(images, transposed, row_start, row_weights, column_start, column_weights):
    """Resizes a batch on the device.

    Args:
        images: (B, H, W, 3) uint8.
        transposed: (B,) bool, which images are transposed.
        row_start: (B, h) int32.
        row_weights: (B, h, K) int32.
        column_start: (B, w) int32.
        column_weights: (B, w, L) int32.

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
    """Returns taps as float32 matrices (B, count, size)."""
    batch, count, width = tf.unstack(tf.shape(weights))
    # The taps of an edge pixel may reach past the end of the image, where their weights are zero.
    columns = tf.minimum(start[:, :, None] + tf.range(width), size - 1)
    rows = tf.broadcast_to(tf.reshape(tf.range(batch * count), (batch, count, 1)), tf.shape(columns))
    flat = tf.scatter_nd(
        tf.reshape(rows * size + columns, (-1, 1)),
        tf.reshape(tf.cast(weights, tf.float32), [-1]),
        [batch * count * size],
    )
    return tf.reshape(flat, (batch, count, size))
