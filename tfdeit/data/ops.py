"""Operations on the colours of one image, with Pillow's pixels: the same arithmetic, rounded at the same places.

An image is (H, W, 3) uint8. Kernels that touch every pixel are compiled by XLA; what has to be rounded step by step
(tables of 256 levels, products) is computed outside of them, because XLA fuses a multiplication and an addition into
one rounding.

Reference: Pillow's src/libImaging (Blend.c, BoxBlur.c, Convert.c, Filter.c, Point.c), ImageOps.py and ImageEnhance.py.
"""

import numpy as np
import tensorflow as tf

LEVELS = np.arange(256, dtype="int32")
compiled = tf.function(jit_compile=True, autograph=False)


# -------------------------------------------------------------------------------------------------- tables


@compiled
def lookup(image, table):
    """Replace levels by those of a table.

    Args:
        image: (..., 3) uint8.
        table: (256, 3), or (256,) for all channels, of any dtype.

    Returns:
        (..., 3) of the table's dtype.
    """
    index = tf.cast(image, tf.int32)
    if table.shape.rank == 1:
        return tf.gather(table, index)
    return tf.gather(tf.reshape(table, [-1]), index * 3 + tf.range(3))


def _levels(table):
    return tf.cast(tf.clip_by_value(table, 0, 255), tf.uint8)


def invert(image):
    """255 minus the level."""
    return lookup(image, _levels(255 - LEVELS))


def posterize(image, bits):
    """Keep the highest bits.

    Args:
        image: (H, W, 3) uint8.
        bits: int32, how many; 8 and more keep all, 0 and less none.
    """
    step = tf.bitwise.left_shift(1, 8 - tf.clip_by_value(bits, 0, 8))
    return lookup(image, _levels(LEVELS // step * step))


def solarize(image, threshold):
    """Invert the levels from `threshold` (int32) on."""
    return lookup(image, _levels(tf.where(threshold > LEVELS, LEVELS, 255 - LEVELS)))


def solarize_add(image, addend, threshold=128):
    """Add `addend` (int32) to the levels below `threshold`."""
    return lookup(image, _levels(tf.where(threshold > LEVELS, LEVELS + addend, LEVELS)))


@compiled
def _extremes(image):
    """(1, 3) int32 each: the lowest and the highest level of each channel."""
    flat = tf.reshape(image, [-1, 3])
    low, high = tf.reduce_min(flat, axis=0, keepdims=True), tf.reduce_max(flat, axis=0, keepdims=True)
    return tf.cast(low, tf.int32), tf.cast(high, tf.int32)


def autocontrast(image):
    """Stretch each channel to 0..255."""
    low, high = _extremes(image)
    scale = 255 / tf.cast(tf.maximum(high - low, 1), tf.float64)
    stretched = LEVELS[:, None].astype("float64") * scale - tf.cast(low, tf.float64) * scale
    return lookup(image, _levels(tf.where(high > low, tf.cast(stretched, tf.int32), LEVELS[:, None])))


@compiled
def _places(image):
    """(H * W * 3,) int32: the place of each level in a table (256, 3)."""
    return tf.reshape(tf.cast(tf.reshape(image, [-1, 3]), tf.int32) * 3 + tf.range(3), [-1])


def equalize(image):
    """Spread the levels of each channel so that each is about as frequent."""
    # Not in a compiled kernel, where counting takes ten times as long.
    counts = tf.raw_ops.DenseBincount(input=_places(image), size=768, weights=tf.zeros(0, tf.int32))
    counts = tf.reshape(counts, [256, 3])
    present = tf.where(counts > 0, LEVELS[:, None], 0)
    others = tf.where(present < tf.reduce_max(present, axis=0), counts, 0)  # all pixels but those of the highest level
    step = tf.reduce_sum(others, axis=0, keepdims=True) // 255
    table = (tf.cumsum(counts, exclusive=True) + step // 2) // tf.maximum(step, 1)
    return lookup(image, _levels(tf.where(step > 0, table, LEVELS[:, None])))


# ------------------------------------------------------------------------------------------------- blending


def _blend_table(degenerate, factor):
    """Levels (256,) blended with one grey level, in float32 with two roundings, and cut off."""
    degenerate = tf.cast(degenerate, tf.float32)
    difference = LEVELS.astype("float32") - degenerate
    return _levels(degenerate + tf.cast(factor, tf.float32) * difference)


def _products(factor):
    """(511,) float32: the factor times each difference of two levels, from -255 on."""
    return tf.cast(factor, tf.float32) * tf.range(-255.0, 256.0)


def _blend(degenerate, image, products):
    """Blend int32 images with the products of `_products`."""
    scaled = tf.gather(products, image - degenerate + 255)
    return tf.cast(tf.clip_by_value(tf.cast(degenerate, tf.float32) + scaled, 0.0, 255.0), tf.uint8)


def _grey(image):
    """(H, W, 1) int32, ITU-R 601 luma."""
    return tf.bitwise.right_shift(
        tf.reduce_sum(tf.cast(image, tf.int32) * (19595, 38470, 7471), axis=-1, keepdims=True) + 0x8000, 16
    )


@compiled
def greyscale(image):
    """The luma in all three channels."""
    return tf.cast(tf.broadcast_to(_grey(image), image.shape), tf.uint8)


@compiled
def _blend_grey(image, products):
    return _blend(_grey(image), tf.cast(image, tf.int32), products)


def color(image, factor):
    """Saturation: 0 is grey, 1 the image, above 1 more colourful; `factor` is a float."""
    return _blend_grey(image, _products(factor))


@compiled
def _grey_sum(image):
    return tf.reduce_sum(_grey(image))


def contrast(image, factor):
    """Contrast: 0 is the mean grey, 1 the image; `factor` is a float."""
    pixels = image.shape[0] * image.shape[1]
    mean = (2 * tf.cast(_grey_sum(image), tf.int64) + pixels) // (2 * pixels)
    return lookup(image, _blend_table(mean, factor))


def brightness(image, factor):
    """Brightness: 0 is black, 1 the image; `factor` is a float."""
    return lookup(image, _blend_table(0, factor))


@compiled
def _blend_smooth(image, products):
    image = tf.cast(image, tf.int32)
    if min(image.shape[:2]) < 3:  # nothing but edges, which the filter leaves alone
        return tf.cast(image, tf.uint8)
    rows = image[:-2] + image[1:-1] + image[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * image[1:-1, 1:-1]
    inner = (2 * total + 13) // 26  # total / 13, rounded: never a tie
    smooth = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
    smooth = tf.concat([image[:1], smooth, image[-1:]], axis=0)
    return _blend(smooth, image, products)


def sharpness(image, factor):
    """Sharpness: 0 is smoothed, 1 the image, above 1 sharper; `factor` is a float."""
    return _blend_smooth(image, _products(factor))


# ----------------------------------------------------------------------------------------------------- blur


@compiled
def _box_blur(image, weights, axis):
    lines = tf.cast(image, tf.uint32)
    last = image.shape[axis] - 1
    total = tf.constant(1 << 23, tf.uint32)
    for k in range(5):
        index = tf.clip_by_value(tf.range(last + 1) + (k - 2), 0, last)
        total = total + tf.gather(lines, index, axis=axis) * weights[k]
    return tf.cast(tf.bitwise.right_shift(total, tf.constant(24, tf.uint32)), tf.uint8)


def gaussian_blur(image, sigma):
    """Three box blurs along each axis, which come near to a Gaussian.

    Args:
        image: (H, W, 3) uint8.
        sigma: Standard deviation in pixels, from 0 to 2.4: the box then reaches over at most five pixels.
    """
    variance = tf.cast(sigma, tf.float32) ** 2 / 3
    whole = tf.floor((tf.sqrt(12 * tf.cast(variance, tf.float64) + 1) - 1) / 2)
    whole = tf.cast(whole, tf.float32)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    radius = whole + part
    wide = tf.cast(radius, tf.int32)  # 0 or 1
    inner = tf.cast(float(1 << 24) / (radius * 2 + 1), tf.int32)
    outer = ((1 << 24) - (wide * 2 + 1) * inner) // 2
    weights = tf.where(wide > 0, [outer, inner, inner, inner, outer], [0, outer, inner, outer, 0])
    for axis in (1, 1, 1, 0, 0, 0):
        image = _box_blur(image, tf.cast(weights, tf.uint32), axis)
    return image


# ------------------------------------------------------------------------------------------------------ hue


def _to_hsv(image):
    """Three int32 (H, W) planes in 0..255."""
    red, green, blue = (tf.cast(image[..., k], tf.float32) for k in range(3))
    high = tf.maximum(red, tf.maximum(green, blue))
    spread = high - tf.minimum(red, tf.minimum(green, blue))
    r, g, b = ((high - plane) / tf.maximum(spread, 1) for plane in (red, green, blue))
    wide = [tf.cast(plane, tf.float64) for plane in (r, g, b)]
    sector = tf.where(green == high, 2 + wide[0] - wide[2], 4 + wide[1] - wide[0])
    sector = tf.cast(tf.where(red == high, tf.cast(b - g, tf.float64), sector), tf.float32)
    hue = tf.cast(tf.math.floormod(tf.cast(sector, tf.float64) / 6 + 1, 1), tf.float32)
    saturation = spread / tf.maximum(high, 1)
    return [tf.cast(tf.cast(plane, tf.float64) * 255, tf.int32) for plane in (hue, saturation)] + [
        tf.cast(high, tf.int32)
    ]


@compiled
def _turn_hue(image, turn):
    hue, saturation, value = _to_hsv(image)
    position = tf.cast(tf.bitwise.bitwise_and(hue + turn, 255), tf.float64) * 6 / 255
    sector = tf.floor(position)
    part = tf.cast(tf.cast(position - sector, tf.float32), tf.float64)
    amount = tf.cast(tf.cast(tf.cast(saturation, tf.float64) / 255, tf.float32), tf.float64)
    bright = tf.cast(value, tf.float64)
    product = tf.cast(tf.cast(amount, tf.float32) * tf.cast(part, tf.float32), tf.float64)
    p, q, t = (tf.floor(bright * (1 - cut) + 0.5) for cut in (amount, product, amount * (1 - part)))
    sector = tf.cast(sector, tf.int32) % 6
    order = [(bright, t, p), (q, bright, p), (p, bright, t), (p, q, bright), (t, p, bright), (bright, p, q)]
    planes = order[0]
    for number, candidate in enumerate(order[1:], 1):
        planes = [tf.where(sector == number, new, old) for new, old in zip(candidate, planes, strict=True)]
    return tf.cast(tf.where((saturation == 0)[..., None], bright[..., None], tf.stack(planes, -1)), tf.uint8)


def hue(image, amount):
    """Turn the hue by a fraction of the circle, a float in [-0.5, 0.5], as torchvision does with Pillow's HSV."""
    return _turn_hue(image, tf.cast(tf.cast(amount, tf.float64) * 255, tf.int32))
