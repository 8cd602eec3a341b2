"""Images in files as a source, what a pipeline makes of them, and seeds of augmentations."""

from pathlib import Path

import tensorflow as tf

from tfdeit.augmentation.recipe import Recipe
from tfdeit.data.source import Source

PLAIN = Recipe(auto_augment=None, hflip=0, reprob=0, mean=(0, 0, 0), std=(1 / 255,) * 3)  # crops only


class Files(Source):
    """Paths in turn, each of a class of its own."""

    def __init__(self, paths):
        self.paths = list(paths)
        super().__init__(range(len(self.paths)), map(str, self.paths))

    def read(self, index):
        return Path(self.paths[index]).read_bytes()

    def name(self, index):
        return str(self.paths[index])


def batches(pipeline, start, count):
    return [(values.numpy(), labels.numpy()) for values, labels in pipeline.dataset(start, count)]


def seeds(count, run=0):
    return tf.stack([tf.range(count), tf.fill([count], run)], axis=1)
