"""Geometric operations on one image, with Pillow's pixels; see `ops`.

Positions and interpolations are computed in float64, as in Pillow.

Reference: Pillow's src/libImaging/Geometry.c, and `rotate` in Image.py.
"""

import math

import tensorflow as tf

from tfdeit.augmentation.ops import clip_levels, compiled, flat, shifted


@compiled
def paste(image, content, box):
    """Paste `content` into a box of the image; any dtype.

    Args:
        image: (H, W, C).
        content: Pixels of the same shape and dtype, of which the box is shown.
        box: (4,) int32: top, left, bottom, right.
    """
    top, left, bottom, right = tf.unstack(box)
    height, width, channels = image.shape
    rows, values = tf.range(height)[:, None], tf.range(width * channels)
    inside = (rows >= top) & (rows < bottom) & (values >= left * channels) & (values < right * channels)
    return tf.reshape(tf.where(inside, flat(content), flat(image)), image.shape)


@compiled
def mirror(image):
    """Flip horizontally; any dtype."""
    return tf.reverse(image, [1])


def _interpolate(values, fraction):
    """Interpolate linearly between two values, or cubically (A = -1) between the middle two of four."""
    if len(values) == 2:
        return values[0] + (values[1] - values[0]) * fraction
    a, b, c, d = values
    return b + fraction * ((c - a) + fraction * ((2 * (a - b) + c - d) + fraction * (b - a - c + d)))


def _with_taps(sample, bicubic):
    """Call `sample` with the number of taps along an axis: 4 if `bicubic` (a bool, or a bool tensor), else 2."""
    if tf.is_tensor(bicubic):
        return tf.cond(bicubic, lambda: sample(4), lambda: sample(2))
    return sample(4 if bicubic else 2)


# ------------------------------------------------------------------------------------------------- rotation


@compiled
def _positions(matrix, height, width):
    """Positions in the image that the pixels of the result show, x and y (H, W); pixel centres are at halves."""
    a, b, c, d, e, f = tf.unstack(matrix)
    x = tf.range(width, dtype=tf.float64) + 0.5
    y = tf.range(height, dtype=tf.float64)[:, None] + 0.5
    return a * x + b * y + c, d * x + e * y + f


@compiled
def _sample(image, xs, ys, fill, taps):
    """Sample the image at positions (H, W); `fill` outside."""
    height, width, _ = image.shape

    def around(position, size):
        """Clipped indices of the pixels around a position, and its distance from the one before it."""
        start = tf.floor(position - 0.5)
        first = tf.cast(start, tf.int32) - (taps // 2 - 1)
        return [tf.clip_by_value(first + k, 0, size - 1) for k in range(taps)], (position - 0.5 - start)[..., None]

    (columns, dx), (rows, dy) = around(xs, width), around(ys, height)
    pixels = tf.reshape(image, [-1, 3])
    lines = [
        _interpolate([tf.cast(tf.gather(pixels, row * width + column), tf.float64) for column in columns], dx)
        for row in rows
    ]
    inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
    return tf.where(inside[..., None], clip_levels(_interpolate(lines, dy)), fill)


def rotate(image, degrees, fill, bicubic):
    """Rotate counter-clockwise about the centre.

    Args:
        image: (H, W, 3) uint8.
        degrees: The angle, a float.
        fill: (3,) uint8, the colour outside the image.
        bicubic: Whether to interpolate cubically, with A = -1, or linearly; a bool, or a bool tensor.
    """
    height, width, _ = image.shape
    angle = -tf.math.floormod(tf.cast(degrees, tf.float64), 360) * (math.pi / 180)
    cos, sin = (tf.round(function(angle) * 1e15) / 1e15 for function in (tf.cos, tf.sin))
    x, y = width / 2, height / 2
    matrix = (cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y)
    xs, ys = _positions(matrix, height, width)
    return _with_taps(lambda taps: _sample(image, xs, ys, fill, taps), bicubic)


# -------------------------------------------------------------------------------------- along one axis only
# Two kernels: in a single one, each pixel would be fetched again for every value computed from it.


@compiled
def _fetch(image, offsets, axis, taps):
    """Fetch rows (axis 1) or columns (axis 0), each from its own start; edge pixels are repeated.

    Args:
        image: (H, W, 3) uint8.
        offsets: (H,) float64 for rows, (W * 3,) for the values of columns: position i + 1/2 shows i + 1/2 + offset.
        axis: The axis along which pixels move.
        taps: 2 or 4.

    Returns:
        The values, (H, W * 3 + ...) or (H + ..., W * 3) uint8, taps - 1 pixels longer than the image along `axis`. For
        each offset, its fraction between two pixels, float64, and where along `axis` the image begins and ends, int32.
    """
    values = flat(image)
    height, width = values.shape
    start = tf.floor(offsets)
    first = tf.cast(start, tf.int32) - (taps // 2 - 1)
    if axis == 0:
        rows = tf.clip_by_value(first + tf.range(height + taps - 1)[:, None], 0, height - 1)
        index = rows * width + tf.range(width)
    else:
        along = tf.range(width + 3 * (taps - 1))
        columns = tf.clip_by_value(3 * first[:, None] + along, along % 3, width - 3 + along % 3)
        index = tf.range(height)[:, None] * width + columns
    begin, end = (tf.cast(tf.math.ceil(edge - 0.5 - offsets), tf.int32) for edge in (0, image.shape[axis]))
    if axis == 1:  # count values instead of pixels
        begin, end = 3 * begin, 3 * end
    return tf.gather(tf.reshape(values, [-1]), index), offsets - start, begin, end


@compiled
def _blend_taps(values, fraction, begin, end, fill, axis, taps):
    """Interpolate between the values that `_fetch` returns; `fill` is (W * 3,)."""
    around = [tf.cast(tap, tf.float64) for tap in shifted(values, axis, taps)]
    index = tf.range(around[0].shape[axis])
    if axis == 0:
        index = index[:, None]
    else:
        fraction, begin, end = (column[:, None] for column in (fraction, begin, end))
    result = tf.where((index >= begin) & (index < end), clip_levels(_interpolate(around, fraction)), fill)
    return tf.reshape(result, [result.shape[0], -1, 3])


def _slide(image, offsets, fill, bicubic, axis):
    """Shift each row (axis 1) or column (axis 0) along itself, by an offset of its own, float64; see `rotate`."""
    if axis == 0:
        offsets = tf.repeat(offsets, 3)
    fill = tf.tile(fill, [image.shape[1]])
    return _with_taps(lambda taps: _blend_taps(*_fetch(image, offsets, axis, taps), fill, axis, taps), bicubic)


def _shear(image, factor, fill, bicubic, axis):
    places = tf.range(image.shape[1 - axis], dtype=tf.float64) + 0.5
    return _slide(image, factor * places, fill, bicubic, axis)


def _translate(image, fraction, fill, bicubic, axis):
    offset = tf.cast(fraction * image.shape[axis], tf.float64)
    return _slide(image, tf.fill([image.shape[1 - axis]], offset), fill, bicubic, axis)


def shear_x(image, factor, fill, bicubic):
    """Shift each row by `factor` times its y; see `rotate`."""
    return _shear(image, factor, fill, bicubic, axis=1)


def shear_y(image, factor, fill, bicubic):
    """Shift each column by `factor` times its x; see `rotate`."""
    return _shear(image, factor, fill, bicubic, axis=0)


def translate_x(image, fraction, fill, bicubic):
    """Shift to the left by a fraction of the width; see `rotate`."""
    return _translate(image, fraction, fill, bicubic, axis=1)


def translate_y(image, fraction, fill, bicubic):
    """Shift up by a fraction of the height; see `rotate`."""
    return _translate(image, fraction, fill, bicubic, axis=0)
