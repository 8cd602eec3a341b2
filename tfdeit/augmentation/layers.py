"""The augmentations as Keras layers, for any Keras model.

They are active in training only, and draw from a `keras.random.SeedGenerator`. They run compiled kernels inside a loop
that XLA does not compile, so a model that contains them is not compiled either (`supports_jit`); outside the model, in
`Dataset.map`, they cost less.
"""

import dataclasses

import keras
import tensorflow as tf

from tfdeit.augmentation import crops_and_erasing, mix, randaugment
from tfdeit.augmentation.draws import derived_seeds


class _Layer(keras.layers.Layer):
    """A layer around an augmentation; takes the augmentation's arguments, `seed`, and those of Keras layers."""

    def __init__(self, *args, seed=None, **options):
        fields = {field.name for field in dataclasses.fields(self.kind)}
        own = {name: options.pop(name) for name in fields & options.keys()}
        super().__init__(**options)
        self.augmentation = self.kind(*args, **own)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)
        self.supports_jit = False
        self._convert_input_args = False  # keeps pixels uint8
        self._allow_non_tensor_positional_args = True

    def _seed(self):
        return tf.cast(self.generator.next(), tf.int64)

    def get_config(self):
        return {**super().get_config(), **dataclasses.asdict(self.augmentation), "seed": self.seed}


class _ImageLayer(_Layer):
    def call(self, images, training=False):
        """Augment (B, H, W, 3) in training; return it unchanged otherwise."""
        if not training:
            return images
        seeds = derived_seeds(self._seed()[None], tf.shape(images)[0], "layer")[0]
        return self.augmentation(images, seeds)

    def compute_output_spec(self, images, training=False):
        return keras.KerasTensor(images.shape, self.augmentation.check(tf.as_dtype(images.dtype)).name)


def _register(kind):
    return keras.saving.register_keras_serializable("tfdeit", f"Augment{kind.__name__}")(kind)


@_register
class RandAugment(_ImageLayer):
    """See `randaugment.RandAugment`; uint8 images."""

    kind = randaugment.RandAugment


@_register
class ColorJitter(_ImageLayer):
    """See `crops_and_erasing.ColorJitter`; uint8 images."""

    kind = crops_and_erasing.ColorJitter


@_register
class ThreeAugment(_ImageLayer):
    """See `crops_and_erasing.ThreeAugment`; uint8 images."""

    kind = crops_and_erasing.ThreeAugment


@_register
class RandomFlip(_ImageLayer):
    """See `crops_and_erasing.RandomFlip`; images of any dtype."""

    kind = crops_and_erasing.RandomFlip


@_register
class RandomErasing(_ImageLayer):
    """See `crops_and_erasing.RandomErasing`; normalised float images."""

    kind = crops_and_erasing.RandomErasing


@_register
class Mixup(_Layer):
    """See `mix.Mixup`; called with (images, labels). Outside training, it only smooths the labels."""

    kind = mix.Mixup

    def call(self, inputs, training=False):
        """Mix (images (B, H, W, C), labels (B,)) in training; the labels returned are (B, num_classes) float32."""
        images, labels = inputs
        if training:
            return self.augmentation(images, labels, self._seed())
        return images, mix.smooth_labels(labels, self.augmentation.num_classes, self.augmentation.smoothing)

    def compute_output_spec(self, inputs, training=False):
        images, labels = inputs
        return images, keras.KerasTensor((*labels.shape, self.augmentation.num_classes), "float32")
