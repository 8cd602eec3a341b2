"""Operations on the geometry of one image, with Pillow's pixels, see `ops`.

Positions are computed in float64, step by step, outside of the compiled kernel.

Reference: Pillow's src/libImaging/Geometry.c, and `rotate` in Image.py.
"""

import math

import tensorflow as tf

from tfdeit.data.ops import compiled


@compiled
def paste(image, content, box):
    """Show `content` in a box of the image; any dtype.

    Args:
        image: (H, W, C).
        content: Of the same shape and dtype.
        box: (4,) int32: top, left, bottom, right.
    """
    top, left, bottom, right = tf.unstack(box)
    rows, columns = tf.range(image.shape[0])[:, None, None], tf.range(image.shape[1])[None, :, None]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return tf.where(inside, content, image)


@compiled
def mirror(image):
    """Swap left and right; any dtype."""
    return tf.reverse(image, [1])


def _taps(position, size, bicubic):
    """Clipped indices of the 2 or 4 pixels around a float64 position, and its distance from the one before it."""
    start = tf.floor(position - 0.5)
    first = tf.cast(start, tf.int32)
    return [tf.clip_by_value(first + k, 0, size - 1) for k in (range(-1, 3) if bicubic else range(2))], (
        position - 0.5 - start
    )[..., None]


def _interpolate(values, fraction):
    """Linear between two values, cubic (A = -1) between the middle two of four."""
    if len(values) == 1:
        return values[0]
    if len(values) == 2:
        return values[0] + (values[1] - values[0]) * fraction
    a, b, c, d = values
    return b + fraction * ((c - a) + fraction * ((2 * (a - b) + c - d) + fraction * (b - a - c + d)))


@compiled
def _sample(image, xs, ys, fill, axes, bicubic):
    """Read the image at float64 positions (H, W), interpolating along `axes` ("x", "y" or "xy"), `fill` outside."""
    height, width, _ = image.shape
    columns, dx = _taps(xs, width, bicubic) if "x" in axes else ([tf.range(width)], None)
    rows, dy = _taps(ys, height, bicubic) if "y" in axes else ([tf.range(height)[:, None]], None)
    flat = tf.reshape(image, [-1, 3])
    lines = [
        _interpolate([tf.cast(tf.gather(flat, row * width + column), tf.float64) for column in columns], dx)
        for row in rows
    ]
    pixels = tf.cast(tf.clip_by_value(_interpolate(lines, dy), 0.0, 255.0), tf.uint8)  # cut off, not rounded
    inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
    return tf.where(inside[..., None], pixels, fill)


def affine(image, matrix, fill, bicubic, axes="xy"):
    """Affine transformation, as `Image.transform`.

    Args:
        image: (H, W, 3) uint8.
        matrix: Six float64 a..f: output pixel (x, y) shows (a x + b y + c, d x + e y + f), pixel centres at halves.
        fill: (3,) uint8, the colour outside the image.
        bicubic: Interpolation: cubic with slope -1, else linear; a bool, or a bool tensor.
        axes: The axes along which pixels move.
    """
    if tf.is_tensor(bicubic):
        return tf.cond(
            bicubic, lambda: affine(image, matrix, fill, True, axes), lambda: affine(image, matrix, fill, False, axes)
        )
    height, width, _ = image.shape
    a, b, c, d, e, f = (tf.cast(value, tf.float64) for value in matrix)
    x = tf.range(width, dtype=tf.float64) + 0.5
    y = tf.range(height, dtype=tf.float64)[:, None] + 0.5
    return _sample(image, a * x + b * y + c, d * x + e * y + f, fill, axes, bicubic)


def rotate(image, degrees, fill, bicubic):
    """Rotate counter-clockwise about the centre; see `affine`."""
    height, width, _ = image.shape
    angle = -tf.math.floormod(tf.cast(degrees, tf.float64), 360) * (math.pi / 180)
    cos, sin = (tf.round(function(angle) * 1e15) / 1e15 for function in (tf.cos, tf.sin))
    x, y = width / 2, height / 2
    matrix = (cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y)
    return affine(image, matrix, fill, bicubic)


def shear_x(image, factor, fill, bicubic):
    """Move each row by `factor` times its y; see `affine`."""
    return affine(image, (1, factor, 0, 0, 1, 0), fill, bicubic, "x")


def shear_y(image, factor, fill, bicubic):
    """Move each column by `factor` times its x; see `affine`."""
    return affine(image, (1, 0, 0, factor, 1, 0), fill, bicubic, "y")


def translate_x(image, fraction, fill, bicubic):
    """Move to the left by a fraction of the width; see `affine`."""
    return affine(image, (1, 0, fraction * image.shape[1], 0, 1, 0), fill, bicubic, "x")


def translate_y(image, fraction, fill, bicubic):
    """Move up by a fraction of the height; see `affine`."""
    return affine(image, (1, 0, 0, 0, 1, fraction * image.shape[0]), fill, bicubic, "y")
