"""SimMIM's block masks, for masked image modelling.

Reference: SimMIM, arXiv 2111.09886, `MaskGenerator` in its `data/data_simmim.py`.
"""

import math

import tensorflow as tf

from tfdeit.augmentation.draws import uniforms


def block_masks(seeds, image_size: int, patch_size: int, block_size: int = 32, ratio: float = 0.6):
    """Draw masks of whole blocks of patches.

    Args:
        seeds: (B, 2) int32 or int64.
        image_size: Side of the image, in pixels.
        patch_size: Side of the model's patches, in pixels.
        block_size: Side of a block, in pixels.
        ratio: Fraction of the blocks to mask, rounded up to a whole number of blocks.

    Returns:
        (B, N) bool, True where masked: the models' `bool_masked_pos`.

    Raises:
        ValueError: Blocks do not divide the image, patches do not divide a block, or `ratio` is out of range.
    """
    if image_size % block_size or block_size % patch_size or not 0 <= ratio <= 1:
        raise ValueError(
            "Expected block_size to divide image_size, patch_size to divide block_size, and a ratio between 0 and 1. "
            f"Received: image_size={image_size}, block_size={block_size}, patch_size={patch_size}, ratio={ratio}"
        )
    blocks, scale = image_size // block_size, block_size // patch_size
    ranks = tf.argsort(tf.argsort(uniforms(seeds, blocks**2, "block masks")))
    masks = tf.reshape(ranks < math.ceil(blocks**2 * ratio), [-1, blocks, 1, blocks, 1])
    masks = tf.tile(masks, [1, 1, scale, 1, scale])
    return tf.reshape(masks, [-1, (blocks * scale) ** 2])
