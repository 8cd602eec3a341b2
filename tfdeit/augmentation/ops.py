"""Operations on the colours of one image, with Pillow's pixels: the same arithmetic, rounded at the same points.

An image is (H, W, 3) uint8. Kernels that touch every pixel are compiled by XLA, which fuses a multiplication and an
addition into one rounding. What has to be rounded twice is therefore computed outside the kernels (tables of 256
levels), or its product is computed in float64, where it is exact, and rounded by a cast.

Reference: Pillow's src/libImaging (Blend.c, BoxBlur.c, Convert.c, Filter.c, Point.c), ImageOps.py and ImageEnhance.py.
"""

import numpy as np
import tensorflow as tf

LEVELS = np.arange(256, dtype="int32")
compiled = tf.function(jit_compile=True, autograph=False)


def flat(image):
    """Reshape (H, W, 3) to (H, W * 3): XLA vectorises along the innermost axis, and three channels are too few."""
    height, width, channels = image.shape
    return tf.reshape(image, [height, width * channels])


def shifted(values, axis, count):
    """Return `count` views of values (H, W * 3), each starting one pixel further along an axis."""
    step = (1, 3)[axis]
    size = values.shape[axis] - step * (count - 1)
    spans = [slice(step * k, step * k + size) for k in range(count)]
    return [values[span] if axis == 0 else values[:, span] for span in spans]


# -------------------------------------------------------------------------------------------------- levels


@compiled
def lookup(image, table):
    """Replace each level by its entry in a table.

    Args:
        image: (..., 3) uint8.
        table: (256, 3), one column per channel, of any dtype.

    Returns:
        (..., 3) of the table's dtype.
    """
    return tf.gather(tf.reshape(table, [-1]), tf.cast(image, tf.int32) * 3 + tf.range(3))


def clip_levels(values):
    """Clip numbers of any dtype to levels, uint8, rounding towards zero."""
    return tf.cast(tf.clip_by_value(values, 0, 255), tf.uint8)


@compiled
def invert(image):
    """Replace each level by 255 minus it."""
    return 255 - image


@compiled
def posterize(image, bits):
    """Keep the highest bits.

    Args:
        image: (H, W, 3) uint8.
        bits: int32, how many; 8 or more keep all, 0 or less none.
    """
    step = tf.bitwise.left_shift(1, 8 - tf.clip_by_value(bits, 0, 8))
    return tf.bitwise.bitwise_and(image, tf.cast(256 - step, tf.uint8))


@compiled
def solarize(image, threshold):
    """Invert the levels from `threshold` (int32) upwards."""
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


@compiled
def solarize_add(image, addend, threshold=128):
    """Add `addend` (int32) to the levels below `threshold`."""
    levels = tf.cast(image, tf.int32)
    return clip_levels(tf.where(levels < threshold, levels + addend, levels))


@compiled
def _extremes(image):
    """The lowest and the highest level of each channel, (1, 3) int32 each."""
    columns = (reduce(flat(image), axis=0) for reduce in (tf.reduce_min, tf.reduce_max))
    low, high = (tf.reshape(tf.cast(column, tf.int32), [-1, 3]) for column in columns)
    return tf.reduce_min(low, axis=0, keepdims=True), tf.reduce_max(high, axis=0, keepdims=True)


def autocontrast(image):
    """Stretch each channel to 0..255."""
    low, high = _extremes(image)
    scale = 255 / tf.cast(tf.maximum(high - low, 1), tf.float64)
    stretched = LEVELS[:, None].astype("float64") * scale - tf.cast(low, tf.float64) * scale
    return lookup(image, clip_levels(tf.where(high > low, tf.cast(stretched, tf.int32), LEVELS[:, None])))


@compiled
def _places(image):
    """The position of each level in a flattened table (256, 3): (H * W * 3,) int32."""
    return tf.reshape(tf.cast(tf.reshape(image, [-1, 3]), tf.int32) * 3 + tf.range(3), [-1])


@compiled
def _equalizing_table(counts):
    """The table (256, 3) that equalises each channel, from the counts of its levels (256, 3)."""
    present = tf.where(counts > 0, LEVELS[:, None], 0)
    others = tf.where(present < tf.reduce_max(present, axis=0), counts, 0)  # all pixels below the highest level
    step = tf.reduce_sum(others, axis=0, keepdims=True) // 255
    table = (tf.cumsum(counts, exclusive=True) + step // 2) // tf.maximum(step, 1)
    return clip_levels(tf.where(step > 0, table, LEVELS[:, None]))


def equalize(image):
    """Equalise the histogram of each channel."""
    # Outside a compiled kernel, in which counting takes ten times as long.
    counts = tf.raw_ops.DenseBincount(input=_places(image), size=768, weights=tf.zeros(0, tf.int32))
    return lookup(image, _equalizing_table(tf.reshape(counts, [256, 3])))


# ------------------------------------------------------------------------------------------------- blending


def _blend(degenerate, levels, factor):
    """Blend int32 levels with those of factor 0, in float32 with two roundings, and clip: uint8."""
    product = tf.cast(tf.cast(factor, tf.float64) * tf.cast(levels - degenerate, tf.float64), tf.float32)
    return clip_levels(tf.cast(degenerate, tf.float32) + product)


def _grey(image):
    """ITU-R 601 luma, (H, W, 1) int32."""
    return tf.bitwise.right_shift(
        tf.reduce_sum(tf.cast(image, tf.int32) * (19595, 38470, 7471), axis=-1, keepdims=True) + 0x8000, 16
    )


@compiled
def greyscale(image):
    """Replace all three channels by the luma."""
    return tf.cast(tf.broadcast_to(_grey(image), image.shape), tf.uint8)


@compiled
def _blend_grey(image, factor):
    return _blend(_grey(image), tf.cast(image, tf.int32), factor)


def color(image, factor):
    """Change the saturation: factor 0 is grey, 1 the image, above 1 more colourful; a float."""
    return _blend_grey(image, tf.cast(factor, tf.float32))


@compiled
def _mean_grey(image):
    """The mean luma, rounded, () int32."""
    pixels = image.shape[0] * image.shape[1]
    total = tf.reduce_sum(tf.cast(_grey(image), tf.int64))
    return tf.cast((2 * total + pixels) // (2 * pixels), tf.int32)


@compiled
def _blend_level(image, level, factor):
    return _blend(level, tf.cast(image, tf.int32), factor)


def contrast(image, factor):
    """Change the contrast: factor 0 is the mean grey, 1 the image; a float."""
    return _blend_level(image, _mean_grey(image), tf.cast(factor, tf.float32))


def brightness(image, factor):
    """Change the brightness: factor 0 is black, 1 the image; a float."""
    return _blend_level(image, 0, tf.cast(factor, tf.float32))


@compiled
def _blend_smooth(image, factor):
    if min(image.shape[:2]) < 3:  # only edge pixels, which the filter leaves alone
        return image
    levels = tf.cast(flat(image), tf.int32)
    rows = levels[:-2] + levels[1:-1] + levels[2:]
    total = rows[:, :-6] + rows[:, 3:-3] + rows[:, 6:] + 4 * levels[1:-1, 3:-3]
    inner = tf.truncatediv(2 * total + 13, 26)  # total / 13, rounded: never a tie
    smooth = tf.concat([levels[1:-1, :3], inner, levels[1:-1, -3:]], axis=1)
    smooth = tf.concat([levels[:1], smooth, levels[-1:]], axis=0)
    return tf.reshape(_blend(smooth, levels, factor), image.shape)


def sharpness(image, factor):
    """Change the sharpness: factor 0 is smoothed, 1 the image, above 1 sharper; a float."""
    return _blend_smooth(image, tf.cast(factor, tf.float32))


# ----------------------------------------------------------------------------------------------------- blur


@compiled
def _box_blur(image, weights, axis):
    values = flat(image)
    first, last = (values[:1], values[-1:]) if axis == 0 else (values[:, :3], values[:, -3:])
    padded = tf.concat([first, first, values, last, last], axis)
    total = tf.constant(1 << 23, tf.uint32)
    for line, weight in zip(shifted(padded, axis, 5), tf.unstack(weights), strict=True):
        total += tf.cast(line, tf.uint32) * weight
    return tf.reshape(tf.cast(tf.bitwise.right_shift(total, tf.constant(24, tf.uint32)), tf.uint8), image.shape)


def gaussian_blur(image, sigma):
    """Approximate a Gaussian blur by three box blurs along each axis.

    Args:
        image: (H, W, 3) uint8.
        sigma: Standard deviation in pixels, from 0 to 2.4, so that the box spans at most five pixels.
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
    """Hue, saturation and value, three planes (H, W) int32 in 0..255."""
    red, green, blue = (tf.cast(image[..., k], tf.float32) for k in range(3))
    high = tf.maximum(red, tf.maximum(green, blue))
    spread = high - tf.minimum(red, tf.minimum(green, blue))
    r, g, b = ((high - plane) / tf.maximum(spread, 1) for plane in (red, green, blue))
    wide = [tf.cast(plane, tf.float64) for plane in (r, g, b)]
    sector = tf.where(green == high, 2 + wide[0] - wide[2], 4 + wide[1] - wide[0])
    sector = tf.cast(tf.where(red == high, tf.cast(b - g, tf.float64), sector), tf.float32)
    hue = tf.cast(tf.math.floormod(tf.cast(sector, tf.float64) / 6 + 1, 1), tf.float32)
    saturation = spread / tf.maximum(high, 1)
    planes = [tf.cast(tf.cast(plane, tf.float64) * 255, tf.int32) for plane in (hue, saturation)]
    return [*planes, tf.cast(high, tf.int32)]


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
    """Turn the hue by a fraction of the circle, a float in [-0.5, 0.5], as torchvision does in Pillow's HSV."""
    return _turn_hue(image, tf.cast(tf.cast(amount, tf.float64) * 255, tf.int32))
