"""Published recipes of augmentations, and the function from a batch of pixels to the input of a model in training."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfdeit.data import ops
from tfdeit.data.augment import ColorJitter, RandomErasing, RandomFlip, ThreeAugment
from tfdeit.data.augmentation import Augmentation, Chain
from tfdeit.data.mix import Mixup
from tfdeit.data.randaugment import RandAugment
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How training images are changed. The fields bear timm's names; the defaults are DeiT's.

    Args:
        scale: RandomResizedCrop's least and greatest area, as fractions of the image's.
        ratio: Its least and greatest width / height.
        interpolation: "bicubic", "bilinear" or "random", of the crop's resizing and of RandAugment.
        hflip: Probability of mirroring.
        auto_augment: timm's string for RandAugment, see `RandAugment`; None for none.
        three_augment: DeiT III's 3-Augment.
        color_jitter: Strength for brightness, contrast and saturation, or these three, or with hue four. Unlike in
            timm, it is not switched off by `auto_augment`.
        reprob: Probability of random erasing.
        remode: "pixel", "rand" or "const".
        recount: Most boxes per image.
        mean: Per channel, for pixels in [0, 1]; also the colour that RandAugment fills with.
        std: Likewise.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of CutMix.
        mixup_prob: Probability of either.
        mixup_switch_prob: Probability of CutMix where both are on.
        mixup_mode: "batch", "pair" or "elem".
        smoothing: Of the labels.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    hflip: float = 0.5
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    three_augment: bool = False
    color_jitter: float | tuple[float, ...] | None = None
    reprob: float = 0.25
    remode: str = "pixel"
    recount: int = 1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    mixup: float = 0.8
    cutmix: float = 1.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: str = "batch"
    smoothing: float = 0.1

    def mixing(self, num_classes: int) -> Mixup:
        """Mixup and CutMix of this recipe; with both alphas 0, it smooths the labels only."""
        return Mixup(
            num_classes,
            mixup_alpha=self.mixup,
            cutmix_alpha=self.cutmix,
            probability=self.mixup_prob,
            switch_probability=self.mixup_switch_prob,
            mode=self.mixup_mode,
            smoothing=self.smoothing,
        )


RECIPES = {
    "deit": Recipe(),
    "deit3": Recipe(auto_augment=None, three_augment=True, color_jitter=0.3, reprob=0.0, smoothing=0.0),
    # Masked image modelling, arXiv 2111.09886: `SimMIMTransform` in its data/data_simmim.py. It has no labels to mix.
    "simmim": Recipe(
        scale=(0.67, 1.0), interpolation="bilinear", auto_augment=None, reprob=0.0, mixup=0.0, cutmix=0.0, smoothing=0.0
    ),
}


@dataclasses.dataclass(frozen=True)
class Normalize(Augmentation):
    """From levels to (level / 255 - mean) / std, float32."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def check(self, dtype):
        """See `Augmentation`."""
        super().check(dtype)
        return tf.float32

    def draw(self, seeds, height=None, width=None):
        """See `Augmentation`: nothing."""
        return ()

    def apply(self, image, drawn):
        """See `Augmentation`."""
        levels = np.arange(256, dtype="float32")[:, None] / np.float32(255)
        return ops.lookup(image, tf.constant((levels - np.float32(self.mean)) / np.float32(self.std)))


def to_levels(pixel_values: np.ndarray, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> np.ndarray:
    """Undoes `Normalize`: (..., 3) float to the nearest levels, uint8."""
    return np.clip(np.rint((pixel_values * np.array(std) + np.array(mean)) * 255), 0, 255).astype("uint8")


def train_augmentation(recipe: Recipe = RECIPES["deit"]) -> Chain:
    """All of a recipe that changes single images of the final size.

    Returns:
        The function `(images (B, H, W, 3) uint8, seeds (B, 2)) -> (B, H, W, 3) float32`, normalised.

    Raises:
        ValueError: A recipe with values that cannot be.
    """
    steps: list[Augmentation] = [RandomFlip(recipe.hflip)] if recipe.hflip else []
    if recipe.auto_augment:
        fill = tuple(min(255, round(255 * level)) for level in recipe.mean)
        steps.append(RandAugment(recipe.auto_augment, fill, recipe.interpolation))
    if recipe.three_augment:
        steps.append(ThreeAugment())
    if recipe.color_jitter:
        jitter = recipe.color_jitter
        steps.append(ColorJitter(*(jitter if isinstance(jitter, (tuple, list)) else (jitter,) * 3)))
    steps.append(Normalize(tuple(recipe.mean), tuple(recipe.std)))
    if recipe.reprob:
        steps.append(RandomErasing(recipe.reprob, recipe.remode, recipe.recount))
    return Chain(tuple(steps))
