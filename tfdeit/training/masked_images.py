"""Masked image modelling as in SimMIM (Xie et al. 2022, arXiv:2111.09886): batches with masks, a picture of results.

The models compute the loss, see `TFViTForMaskedImageModeling`: the mean of |pixel - reconstruction| where masked.
"""

import copy
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tfdeit.augmentation.assembly import to_levels
from tfdeit.augmentation.masks import block_masks
from tfdeit.config import ViTConfig
from tfdeit.data.loading import Pipeline
from tfdeit.presentation.grids import image_grid
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD

_TILE = 128  # pixels that the side of a small image is enlarged to
_GREY = 128


class MaskedImages:
    """Task of a `Learner`, see `tfdeit.training.tasks`: reconstruct what is masked. The labels are the masks."""

    figures = ("loss",)
    best = ("loss", False)

    def targets(self, pixel_values, labels):
        """Returns the masks (B, N)."""
        return labels

    def loss(self, student, pixel_values, targets, training=True):
        """Returns the loss, and no other figures."""
        outputs = student(pixel_values, bool_masked_pos=targets, training=training)
        return tf.reduce_mean(outputs.loss) / tf.distribute.get_strategy().num_replicas_in_sync, {}

    def evaluate(self, model: keras.Model, pipeline: Pipeline, on_batch: Callable[[int], None]) -> dict[str, float]:
        """Returns the mean loss of the images."""
        total, count = 0.0, 0
        for done, (pixel_values, masks) in enumerate(pipeline.dataset(), 1):
            loss = model.predict_on_batch(as_inputs(pixel_values, masks)).loss[0]
            total, count = total + float(loss) * len(masks), count + len(masks)
            on_batch(done)
        if not count:
            raise ValueError(f"Expected at least one image that can be read. Received: none of {len(pipeline.source)}.")
        return {"loss": total / count}


def masked_pipeline(pipeline: Pipeline, config: ViTConfig, block_size: int = 32, ratio: float = 0.6) -> Pipeline:
    """Returns a pipeline of the same images, with masks as labels.

    The mask of an image depends on its seed, as its augmentations do: in training it changes every epoch, and resuming
    is exact.

    Args:
        pipeline: a pipeline of square images, without mixing.
        config: the model's config, for the sizes of the image and of a patch.
        block_size: side of the blocks that are masked, in pixels; SimMIM has 32 for images of 192 pixels.
        ratio: fraction of the blocks that are masked.

    Returns:
        Pipeline of (pixel_values (B, S, S, C) float32, bool_masked_pos (B, N) bool).

    Raises:
        ValueError: if the sizes of image, blocks and patches do not fit, see `block_masks`.
    """
    (size, width), (patch, patch_width) = config.image_hw, config.patch_hw
    if size != width or patch != patch_width:
        raise ValueError(
            f"Expected square images and patches. Received: {size}x{width} and {patch}x{patch_width} pixels"
        )
    block_masks(tf.zeros([1, 2], tf.int32), size, patch, block_size, ratio)  # raises early
    finish, masked = pipeline.finish, copy.copy(pipeline)

    @tf.function(autograph=False)
    def finish_masked(batch):
        return finish(batch)[0], block_masks(batch["seeds"], size, patch, block_size, ratio)

    masked.finish = finish_masked
    return masked


def as_inputs(pixel_values, bool_masked_pos) -> dict:
    """Returns a batch in the form that models and `fit` take: `pipeline.dataset().map(as_inputs)`."""
    return {"pixel_values": pixel_values, "bool_masked_pos": bool_masked_pos}


def reconstruction_grid(
    model: keras.Model,
    pixel_values: np.ndarray,
    bool_masked_pos: np.ndarray,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Image.Image:
    """Draws what a model makes of masked images: each image, what the model sees of it, and how it fills the gaps.

    Args:
        model: a model for masked image modelling.
        pixel_values: (B, S, S, 3), normalised.
        bool_masked_pos: (B, N), True where masked.
        mean: mean of each channel that they were normalised with.
        std: standard deviation of each channel that they were normalised with.

    Returns:
        An RGB image, with two examples per row.
    """
    inputs = as_inputs(np.asarray(pixel_values), np.asarray(bool_masked_pos))
    outputs = model.predict_on_batch(inputs)
    patch, size = model.config.patch_hw[0], inputs["pixel_values"].shape[1]
    grid = inputs["bool_masked_pos"].reshape(-1, size // patch, size // patch)
    hidden = grid.repeat(patch, axis=1).repeat(patch, axis=2)[..., None]  # (B, S, S, 1)
    images = to_levels(inputs["pixel_values"], mean, std)
    made = to_levels(np.asarray(outputs.reconstruction, "float32"), mean, std)
    columns = [images, np.where(hidden, np.uint8(_GREY), images), np.where(hidden, made, images)]
    scale = max(1, _TILE // size)
    columns = [pixels.repeat(scale, axis=1).repeat(scale, axis=2) for pixels in columns]
    tiles = [
        (label, column[i])
        for i in range(len(images))
        for label, column in zip(("image", "masked", "reconstruction"), columns, strict=True)
    ]
    share = inputs["bool_masked_pos"].mean()
    return image_grid([(f"Masked image modelling, {share:.0%} of the patches masked", tiles)], size * scale, 6)
