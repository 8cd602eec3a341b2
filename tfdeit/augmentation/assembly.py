"""A recipe assembled into one function, from a batch of pixels to the input of the model being trained."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfdeit.augmentation import ops
from tfdeit.augmentation.base import Augmentation, Chain
from tfdeit.augmentation.crops_and_erasing import ColorJitter, RandomErasing, RandomFlip, ThreeAugment
from tfdeit.augmentation.randaugment import RandAugment
from tfdeit.augmentation.recipe import RECIPES, Recipe
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD


@dataclasses.dataclass(frozen=True)
class Normalize(Augmentation):
    """Turn levels into (level / 255 - mean) / std, float32."""

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
    """Undo `Normalize`: (..., 3) float to the nearest levels, uint8."""
    return np.clip(np.rint((pixel_values * np.array(std) + np.array(mean)) * 255), 0, 255).astype("uint8")


def train_augmentation(recipe: Recipe = RECIPES["deit"]) -> Chain:
    """Assemble what a recipe does to single images after they are cropped and resized.

    Returns:
        A function `(images (B, H, W, 3) uint8, seeds (B, 2)) -> (B, H, W, 3) float32`, normalised.

    Raises:
        ValueError: A field of the recipe is out of range.
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
