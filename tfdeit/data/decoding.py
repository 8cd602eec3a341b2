"""Decoding a part of an image: with TensorFlow where its pixels are Pillow's, and with Pillow otherwise."""

import numpy as np
import tensorflow as tf

from tfdeit.images import Header, decode_image

_MARGIN = 8  # pixels around a crop: the colour of a JPEG's pixel depends on its neighbours, 4 to a side at most


def is_plain_jpeg(header: Header) -> bool:
    """Whether TensorFlow decodes a file to Pillow's pixels."""
    return header.format == "JPEG" and header.mode in ("RGB", "L")


def decode_crop(data: bytes, header: Header, top: int, left: int, height: int, width: int) -> np.ndarray:
    """A box of an image, as if all of it were decoded by `decode_image`; of a JPEG, no more is than need be.

    Args:
        data: content of an image file.
        header: its header.
        top: first row of the box, which lies inside the image.
        left: first column.
        height: of the box.
        width: of the box.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ImageError: see `decode_image`.
    """
    if is_plain_jpeg(header):
        y, x = max(top - _MARGIN, 0), max(left - _MARGIN, 0)
        bottom, right = min(top + height + _MARGIN, header.height), min(left + width + _MARGIN, header.width)
        # Tensors, and a fraction that is a float, which its default is not: else TensorFlow goes a way in Python that
        # takes 60 microseconds more, in which no other thread runs.
        box = tf.constant([y, x, bottom - y, right - x])
        options = {"acceptable_fraction": 1.0, "dct_method": "INTEGER_ACCURATE"}
        try:
            around = tf.image.decode_and_crop_jpeg(tf.constant(data), box, 3, **options)
            return np.asarray(memoryview(around))[top - y : top - y + height, left - x : left - x + width]
        except tf.errors.InvalidArgumentError:
            pass  # Pillow says what is wrong
    return decode_image(data)[top : top + height, left : left + width]
