"""What all augmentations of single images share: how they are called, chained, and run step by step."""

import dataclasses
import functools

import tensorflow as tf

from tfdeit.augmentation.draws import check_seeds

PARALLEL = 8  # images at a time, as operations on one image are too short to be split among threads


class Augmentation:
    """Base class of the augmentations: frozen dataclasses, called with a batch and one seed per image.

    The result for an image depends only on its pixels and its seed, not on the batch, the device or the threads. An
    image goes through all steps before the next one starts, so it stays in the cache: passes over a large batch cost
    more than most operations.
    """

    def draw(self, seeds, height: int, width: int):
        """Draw, from seeds (B, 2), what to do to images of this size; returns tensors (B, ...)."""
        raise NotImplementedError

    def apply(self, image, drawn):
        """Apply to one image (H, W, 3) what was drawn for it."""
        raise NotImplementedError

    def check(self, dtype: tf.DType) -> tf.DType:
        """Return the dtype of the result for images of `dtype`; raises ValueError for an unsupported one."""
        if dtype != tf.uint8:
            raise ValueError(
                f"{type(self).__name__}: Expected uint8 images, before normalisation. Received: {dtype.name}. "
                "If they have levels from 0 to 255, pass tf.cast(images, tf.uint8)."
            )
        return dtype

    def __call__(self, images, seeds):
        """Augment a batch, with a function that is compiled once per image size.

        Args:
            images: (B, H, W, 3), uint8 unless the class says otherwise; H and W static. B may be 0.
            seeds: (B, 2) int32 or int64, of which only the lower 32 bits are used.

        Returns:
            (B, H, W, 3).

        Raises:
            ValueError: A wrong dtype or shape.
        """
        images, seeds = tf.convert_to_tensor(images), tf.convert_to_tensor(seeds)
        if images.shape.rank != 4 or None in images.shape[1:] or images.shape[3] != 3:
            raise ValueError(f"Expected images (B, H, W, 3) with static height and width. Received: {images.shape}")
        check_seeds(seeds)
        self.check(images.dtype)
        return self._compiled(tuple(images.shape[1:]), images.dtype, seeds.dtype)(images, seeds)

    @functools.lru_cache(maxsize=64)  # noqa: B019 - the keys are frozen dataclasses of a few numbers
    def _compiled(self, shape, dtype, seed_dtype):
        signature = [tf.TensorSpec([None, *shape], dtype), tf.TensorSpec([None, 2], seed_dtype)]
        # A partial, as TensorFlow counts the traces of a plain method over all instances, and warns about many.
        return tf.function(functools.partial(self._map), signature, autograph=False)

    def _map(self, images, seeds):
        shape = images.shape[1:]
        return tf.map_fn(
            lambda values: tf.ensure_shape(self.apply(*values), shape),
            (images, self.draw(seeds, *shape[:2])),
            fn_output_signature=tf.TensorSpec(shape, self.check(images.dtype)),
            parallel_iterations=PARALLEL,
        )


@dataclasses.dataclass(frozen=True)
class Chain(Augmentation):
    """Augmentations applied one after the other."""

    steps: tuple[Augmentation, ...]

    def check(self, dtype):
        """See `Augmentation`."""
        return functools.reduce(lambda dtype, step: step.check(dtype), self.steps, dtype)

    def draw(self, seeds, height, width):
        """See `Augmentation`."""
        return tuple(step.draw(seeds, height, width) for step in self.steps)

    def apply(self, image, drawn):
        """See `Augmentation`."""
        for step, own in zip(self.steps, drawn, strict=True):
            image = step.apply(image, own)
        return image


def run(image, indices, arguments, operations):
    """Apply a sequence of operations to one image.

    Args:
        image: (H, W, 3) uint8.
        indices: (L,) int32; step l calls `operations[indices[l]](image, *(values[l] for values in arguments))`.
            An index past the last operation leaves the image unchanged.
        arguments: Tensors (L,).
        operations: Functions from (H, W, 3) uint8 to the same.

    Returns:
        (H, W, 3) uint8.
    """
    shape = image.shape
    for step in range(indices.shape[0]):
        calls = [functools.partial(operation, image, *(a[step] for a in arguments)) for operation in operations]
        image = tf.switch_case(indices[step], [*calls, functools.partial(tf.identity, image)])
        image = tf.ensure_shape(image, shape)
    return image
