"""Decoding a part of an image: with TensorFlow where that gives Pillow's pixels, otherwise with Pillow."""

import numpy as np
import tensorflow as tf

from tfdeit.preprocessing.images import Header, decode_image

_MARGIN = 8  # pixels around a crop: the colour of a pixel in a JPEG depends on at most 4 neighbours on each side


def is_plain_jpeg(header: Header) -> bool:
    """Whether TensorFlow decodes such a file to Pillow's pixels."""
    return header.format == "JPEG" and header.mode in ("RGB", "L")


def decode_crop(data: bytes, header: Header, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Decodes a box of an image, to the pixels of `decode_image`; of a JPEG, only the box and a margin are decoded.

    Args:
        data: content of an image file.
        header: header of the file.
        top: first row of the box, which lies inside the image.
        left: first column of the box.
        height: height of the box.
        width: width of the box.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ImageError: see `decode_image`.
    """
    if is_plain_jpeg(header):
        y, x = max(top - _MARGIN, 0), max(left - _MARGIN, 0)
        bottom, right = min(top + height + _MARGIN, header.height), min(left + width + _MARGIN, header.width)
        # Tensors, and the fraction as a float, which its default is not: otherwise TensorFlow takes a slow path in
        # Python, 60 microseconds longer, during which no other thread runs.
        box = tf.constant([y, x, bottom - y, right - x])
        options = {"acceptable_fraction": 1.0, "dct_method": "INTEGER_ACCURATE"}
        try:
            around = tf.image.decode_and_crop_jpeg(tf.constant(data), box, 3, **options)
            return np.asarray(memoryview(around))[top - y : top - y + height, left - x : left - x + width]
        except tf.errors.InvalidArgumentError:
            pass  # Pillow will say what is wrong
    return decode_image(data)[top : top + height, left : left + width]
