"""The augmentations that DeiT and DeiT III were trained with, image by image; mixup and CutMix are in `mix`.

References: DeiT, arXiv 2012.12877; DeiT III, arXiv 2204.07118; random erasing, arXiv 1708.04896; timm's
`data/transforms.py` and `data/random_erasing.py`; torchvision's `ColorJitter`.
"""

import dataclasses
import functools
import math

import tensorflow as tf

from tfdeit.augmentation import geometry, ops
from tfdeit.augmentation.base import Augmentation, run
from tfdeit.augmentation.draws import between, derived_seeds, integers, uniforms

TRIES = 10  # attempts to find a box that fits


def _probability(name, value):
    if not 0 <= value <= 1:
        raise ValueError(f"Expected {name} to be a probability. Received: {value!r}")


def _increasing(name, pair):
    if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
        raise ValueError(f"Expected {name} to be (low, high) with 0 < low <= high. Received: {pair!r}")


# --------------------------------------------------------------------------------------------------- boxes


def _sides(draws, area, scale, log_ratio):
    """Heights and widths, whole numbers (B, n) float64, from draws (B, 2n) and areas (B, 1)."""
    first, second = tf.split(draws, 2, axis=-1)
    target, ratio = between(first, *scale) * area, tf.exp(between(second, *log_ratio))
    return tf.round(tf.sqrt(target / ratio)), tf.round(tf.sqrt(target * ratio))


def _first(fits, *values):
    """The values where each row of `fits` (B, n) is first true, and whether it is true anywhere."""
    index = tf.argmax(fits, axis=-1, output_type=tf.int32)
    return *(tf.gather(value, index, batch_dims=1) for value in values), tf.reduce_any(fits, axis=-1)


def random_resized_crop_boxes(heights, widths, seeds, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """Draw the boxes of RandomResizedCrop: up to ten tries, then the largest centred box within the ratios.

    Args:
        heights: (B,) integers, the heights of the images.
        widths: (B,) integers, their widths.
        seeds: (B, 2) int32 or int64.
        scale: Smallest and largest area, as fractions of the image's area.
        ratio: Smallest and largest aspect ratio, width / height.

    Returns:
        (B, 4) int32: top, left, height, width, inside the image. Unlike timm's, a box is never empty.
    """
    _increasing("scale", scale)
    _increasing("ratio", ratio)
    height, width = (tf.cast(side, tf.float64)[:, None] for side in (heights, widths))
    log_ratio = [math.log(end) for end in ratio]
    h, w = _sides(uniforms(seeds, 2 * TRIES, "crop sizes"), height * width, scale, log_ratio)
    h, w, found = _first((h >= 1) & (w >= 1) & (h <= height) & (w <= width), h, w)
    height, width = height[:, 0], width[:, 0]
    place = uniforms(seeds, 2, "crop places")
    drawn = [tf.floor(place[:, 0] * (height - h + 1)), tf.floor(place[:, 1] * (width - w + 1)), h, w]
    h = tf.where(width < ratio[0] * height, tf.round(width / ratio[0]), height)
    w = tf.where(width > ratio[1] * height, tf.round(height * ratio[1]), width)
    h, w = tf.maximum(h, 1), tf.maximum(w, 1)
    centred = [(height - h) // 2, (width - w) // 2, h, w]
    return tf.cast(tf.where(found[:, None], tf.stack(drawn, -1), tf.stack(centred, -1)), tf.int32)


# ------------------------------------------------------------------------------------------ simple transforms


@dataclasses.dataclass(frozen=True)
class RandomFlip(Augmentation):
    """Flip images of any dtype horizontally, each with the same probability."""

    probability: float = 0.5

    def __post_init__(self):
        _probability("probability", self.probability)

    def check(self, dtype):
        """See `Augmentation`; any dtype."""
        return dtype

    def draw(self, seeds, height=None, width=None):
        """See `Augmentation`: (B,) bool, whether to flip."""
        return uniforms(seeds, 1, "flip")[:, 0] < self.probability

    def apply(self, image, drawn):
        """See `Augmentation`."""
        return tf.cond(drawn, lambda: geometry.mirror(image), lambda: image)


@dataclasses.dataclass(frozen=True)
class ColorJitter(Augmentation):
    """Change brightness, contrast, saturation and hue, in random order, as torchvision does with PIL images.

    Args:
        brightness: The factor is drawn from U(max(0, 1 - brightness), 1 + brightness).
        contrast: The same for contrast.
        saturation: The same for saturation.
        hue: The hue is turned by U(-hue, hue) of the circle; at most 0.5.
    """

    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.0

    def __post_init__(self):
        if min(dataclasses.astuple(self)) < 0 or self.hue > 0.5:
            raise ValueError(f"Expected strengths of at least 0, and hue at most 0.5. Received: {self}")

    def draw(self, seeds, height=None, width=None):
        """See `Augmentation`: which change comes when (B, n) int32, and the factors (B, n) float64."""
        strengths = dataclasses.astuple(self)
        used = [index for index, strength in enumerate(strengths) if strength]
        low = tf.constant([max(0.0, 1 - s) for s in strengths[:3]] + [-self.hue], tf.float64)
        high = tf.constant([1 + s for s in strengths[:3]] + [self.hue], tf.float64)
        order = tf.argsort(uniforms(seeds, len(used), "jitter order"))
        index = tf.gather(tf.constant(used, tf.int32), order)
        draws = uniforms(seeds, len(used), "jitter factors")
        return index, between(draws, tf.gather(low, index), tf.gather(high, index))

    def apply(self, image, drawn):
        """See `Augmentation`."""
        return run(image, drawn[0], drawn[1:], [ops.brightness, ops.contrast, ops.color, ops.hue])


@dataclasses.dataclass(frozen=True)
class ThreeAugment(Augmentation):
    """DeiT III's 3-Augment: greyscale, solarisation from level 128, or Gaussian blur with sigma from U(0.1, 2)."""

    def draw(self, seeds, height=None, width=None):
        """See `Augmentation`: which of the three (B, 1) int32, and the sigma of the blur (B, 1) float64."""
        draws = uniforms(seeds, 2, "three augment")
        return integers(draws[:, :1], 3), between(draws[:, 1:], 0.1, 2.0)

    def apply(self, image, drawn):
        """See `Augmentation`."""
        three = [lambda image, _: ops.greyscale(image), lambda image, _: ops.solarize(image, 128), ops.gaussian_blur]
        return run(image, drawn[0], drawn[1:], three)


# -------------------------------------------------------------------------------------------------- erasing


@dataclasses.dataclass(frozen=True)
class RandomErasing(Augmentation):
    """Overwrite random boxes of normalised float images.

    Args:
        probability: Probability that anything in an image is erased.
        mode: What fills a box: "pixel" normal noise, "rand" one colour with normal values, "const" zeros.
        max_count: Largest number of boxes per image, drawn from U{1..max_count}; the boxes share the area.
        area: Smallest and largest area, as fractions of the image's area.
        aspect: Smallest and largest height / width, log-uniform. Up to ten boxes are drawn until one fits.
    """

    probability: float = 0.25
    mode: str = "pixel"
    max_count: int = 1
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self):
        _probability("probability", self.probability)
        _increasing("area", self.area)
        _increasing("aspect", self.aspect)
        if self.mode not in ("pixel", "rand", "const") or self.max_count < 1:
            raise ValueError(
                "Expected mode to be 'pixel', 'rand' or 'const', and max_count at least 1. "
                f"Received: mode={self.mode!r}, max_count={self.max_count!r}"
            )
        for name in ("area", "aspect"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def check(self, dtype):
        """See `Augmentation`; a float dtype."""
        if not dtype.is_floating:
            raise ValueError(f"RandomErasing: Expected float images, after normalisation. Received: {dtype.name}")
        return dtype

    def draw(self, seeds, height, width):
        """See `Augmentation`.

        Returns:
            Boxes (B, max_count, 4) int32, top, left, height, width, empty where nothing is erased; and seeds for what
            fills them (B, max_count, 2) int32.
        """
        erased, count = tf.unstack(uniforms(seeds, 2, "erase"), axis=1)
        count = 1 + integers(count, self.max_count)
        log_aspect = [-math.log(end) for end in self.aspect]  # `_sides` takes width / height
        boxes = []
        for number in range(self.max_count):
            area = height * width / tf.cast(count, tf.float64)[:, None]
            sizes = uniforms(seeds, 2 * TRIES, f"erase sizes {number}")
            h, w = _sides(sizes, area, self.area, log_aspect)
            h, w, found = _first((h < height) & (w < width), h, w)
            found &= (erased < self.probability) & (number < count)
            place = uniforms(seeds, 2, f"erase places {number}")
            box = [tf.floor(place[:, 0] * (height - h + 1)), tf.floor(place[:, 1] * (width - w + 1)), h, w]
            boxes.append(tf.where(found[:, None], tf.stack(box, -1), 0))
        return tf.cast(tf.stack(boxes, 1), tf.int32), derived_seeds(seeds, self.max_count, "erase noise")

    def apply(self, image, drawn):
        """See `Augmentation`."""
        for box, seed in zip(*(tf.unstack(values) for values in drawn), strict=True):
            erase = functools.partial(self._erase, image, box, seed)
            image = tf.cond(box[2] * box[3] > 0, erase, functools.partial(tf.identity, image))
        return image

    def _erase(self, image, box, seed):
        top, left, h, w = tf.unstack(box)
        shape = [h, w, 3] if self.mode == "pixel" else [1, 1, 3]
        noise = tf.zeros(shape) if self.mode == "const" else tf.random.stateless_normal(shape, seed, alg="philox")
        content = tf.broadcast_to(tf.cast(noise, image.dtype), [h, w, 3])
        rows = image[top : top + h]
        rows = tf.concat([rows[:, :left], content, rows[:, left + w :]], axis=1)
        return tf.concat([image[:top], rows, image[top + h :]], axis=0)
