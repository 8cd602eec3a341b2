"""Mixup, CutMix and label smoothing, for whole batches.

References: mixup, arXiv 1710.09412; CutMix, arXiv 1905.04899; timm's `timm/data/mixup.py`.
"""

import dataclasses
import functools
from typing import NamedTuple

import tensorflow as tf

from tfdeit.augmentation import geometry
from tfdeit.augmentation.base import PARALLEL
from tfdeit.augmentation.draws import check_seeds, integers, uniforms

MODES = ("batch", "elem", "pair")


def smooth_labels(labels, num_classes: int, smoothing: float = 0.1):
    """Turn class numbers into smoothed one-hot labels.

    Args:
        labels: (B,) integers.
        num_classes: C.
        smoothing: Fraction of each label that is spread over all classes, from 0 to 1.

    Returns:
        (B, C) float32.
    """
    off = smoothing / num_classes
    return tf.one_hot(labels, num_classes, on_value=1 - smoothing + off, off_value=off, dtype=tf.float32)


class Mixing(NamedTuple):
    """How to mix a batch; n is 1 where the whole batch shares it, else B."""

    kept: tf.Tensor  # (n,) float64, lambda: how much of itself an image keeps; outside the box, for CutMix
    cut: tf.Tensor  # (n,) bool, whether by CutMix instead of mixup
    box: tf.Tensor  # (n, 4) int32: top, left, bottom, right


def cutmix_boxes(kept, centre, height: int, width: int):
    """Place the boxes of CutMix.

    Args:
        kept: (n,) float64, the fraction of the image outside the box.
        centre: (n, 2) float64 in [0, 1), the centre of the box, which is clipped at the edges.
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.

    Returns:
        (n, 4) int32: top, left, bottom, right.
    """
    sides = tf.cast(tf.constant([height, width], tf.float64) * tf.sqrt(1 - kept)[:, None], tf.int32)
    middle = integers(centre, [height, width])
    low, high = middle - sides // 2, middle + (sides + 1) // 2
    return tf.concat([tf.maximum(low, 0), tf.minimum(high, [height, width])], axis=-1)


def _mix(image, partner, cut, box, kept, taken):
    """Mix one image (H, W, C) with its partner."""

    def blend():
        return image * tf.cast(kept, image.dtype) + partner * tf.cast(taken, image.dtype)

    return tf.cond(cut, lambda: geometry.paste(image, partner, box), blend)


@dataclasses.dataclass(frozen=True)
class Mixup:
    """Mixup and CutMix with smoothed labels, as in timm: image i is mixed with image B - 1 - i.

    Args:
        num_classes: C.
        mixup_alpha: Lambda is drawn from Beta(alpha, alpha); 0 for no mixup.
        cutmix_alpha: The same for CutMix.
        probability: Probability of mixing at all.
        switch_probability: Probability of CutMix rather than mixup where both are on.
        mode: What shares a lambda and a box: the "batch" (DeiT), each "pair" of partners, or nothing ("elem").
        correct_lambda: Whether CutMix computes lambda from the box as clipped at the edges.
        smoothing: See `smooth_labels`.
    """

    num_classes: int
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    switch_probability: float = 0.5
    mode: str = "batch"
    correct_lambda: bool = True
    smoothing: float = 0.1

    def __post_init__(self):
        negative = min(self.mixup_alpha, self.cutmix_alpha) < 0
        in_range = all(0 <= value <= 1 for value in (self.probability, self.switch_probability, self.smoothing))
        if self.mode not in MODES or self.num_classes < 1 or negative or not in_range:
            raise ValueError(
                f"Expected mode to be one of {MODES}, at least one class, alphas of at least 0, and probabilities and "
                f"smoothing between 0 and 1. Received: {self}"
            )

    def draw(self, seed, batch, height: int, width: int) -> Mixing:
        """Draw how to mix.

        Args:
            seed: (2,) int32 or int64.
            batch: B.
            height: Height of the images, in pixels.
            width: Width of the images, in pixels.
        """
        count = {"batch": 1, "elem": batch, "pair": batch // 2}[self.mode]
        draws = tf.reshape(uniforms(tf.convert_to_tensor(seed)[None], 4 * count, "mix"), [4, count])
        mixed, switch, *centre = tf.unstack(draws)
        cut = switch < self.switch_probability
        if not (self.mixup_alpha and self.cutmix_alpha):
            cut = tf.fill(tf.shape(switch), bool(self.cutmix_alpha))
        alpha = tf.where(cut, tf.constant(self.cutmix_alpha or 1.0, tf.float64), self.mixup_alpha or 1.0)
        gamma = tf.random.stateless_gamma([2, count], seed, alpha, dtype=tf.float64)
        kept = gamma[0] / (gamma[0] + gamma[1])
        if not (self.mixup_alpha or self.cutmix_alpha):
            mixed = tf.ones_like(mixed)
        kept = tf.where(mixed < self.probability, kept, 1)
        box = cutmix_boxes(kept, tf.stack(centre, -1), height, width)
        if self.correct_lambda:
            area = tf.cast((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]), tf.float64)
            kept = tf.where(cut, 1 - area / (height * width), kept)
        if self.mode == "pair":  # the middle image of an odd batch has no partner, and stays as it is
            odd = tf.range(batch % 2)
            middle = Mixing(tf.ones_like(odd, tf.float64), odd > 0, tf.zeros([batch % 2, 4], tf.int32))
            pairs = zip((kept, cut, box), middle, strict=True)
            kept, cut, box = (tf.concat([own, one, tf.reverse(own, [0])], 0) for own, one in pairs)
        return Mixing(kept, cut, box)

    def apply(self, images, labels, mixing: Mixing):
        """Mix images and labels as drawn; see `__call__`."""
        kept = mixing.kept if self.mode == "batch" else tf.cast(mixing.kept, tf.float32)  # rounded as in timm
        taken, kept = (tf.cast(fraction, tf.float32) for fraction in (1 - kept, kept))
        count, how = tf.shape(images)[0], (mixing.cut, mixing.box, kept, taken)
        images = tf.map_fn(  # one by one, in the cache: passes over a large batch take several times as long
            lambda i: _mix(images[i], images[count - 1 - i], *(v[i % tf.size(kept)] for v in how)),
            tf.range(count),
            fn_output_signature=tf.TensorSpec(images.shape[1:], images.dtype),
            parallel_iterations=PARALLEL,
        )
        labels = smooth_labels(labels, self.num_classes, self.smoothing)
        return images, labels * kept[:, None] + tf.reverse(labels, [0]) * taken[:, None]

    def __call__(self, images, labels, seed):
        """Mix a batch.

        Args:
            images: (B, H, W, C) float; normalised, as in DeiT.
            labels: (B,) integers.
            seed: (2,) int32 or int64.

        Returns:
            Images of the same shape and dtype, and labels (B, C) float32, whose rows sum to 1.
        """
        images, labels, seed = (tf.convert_to_tensor(x) for x in (images, labels, seed))
        check_seeds(seed[None])
        if not images.dtype.is_floating or images.shape.rank != 4 or labels.shape.rank != 1:
            raise ValueError(
                "Expected float images (B, H, W, C) and class numbers as labels (B,). Received: "
                f"{images.dtype.name} {images.shape} and {labels.dtype.name} {labels.shape}"
            )
        return self._compiled(*((tuple(x.shape[1:]), x.dtype) for x in (images, labels, seed)))(images, labels, seed)

    @functools.lru_cache(maxsize=64)  # noqa: B019 - the keys are frozen dataclasses of a few numbers
    def _compiled(self, images, labels, seed):
        """Return the compiled function for (shape without the first axis, dtype) of each argument."""
        counts = (None, None, 2)
        signature = [
            tf.TensorSpec([count, *shape], dtype)
            for count, (shape, dtype) in zip(counts, (images, labels, seed), strict=True)
        ]
        return tf.function(functools.partial(self._mix), signature, autograph=False)

    def _mix(self, images, labels, seed):
        return self.apply(images, labels, self.draw(seed, tf.shape(images)[0], *images.shape[1:3]))
