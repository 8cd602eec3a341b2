"""The whole recipe of augmentations, independent of the batch and the threads; and Keras layers."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import slow
from oracles import torch
from training_data import seeds

from tfdeit.augmentation import assembly, base, crops_and_erasing, layers, randaugment, recipe

# ---------------------------------------------------------------------------------------- the whole recipe


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch(pixels, monkeypatch):
    function = assembly.train_augmentation(recipe.Recipe(color_jitter=(0.4, 0.4, 0.4, 0.1), reprob=0.7))
    whole = function(pixels, seeds(6)).numpy()
    order = np.array([3, 0, 5])
    np.testing.assert_array_equal(function(pixels[order], tf.gather(seeds(6), order)), whole[order])
    assert not np.array_equal(function(pixels, seeds(6, 1)), whole)
    base.Augmentation._compiled.cache_clear()
    monkeypatch.setattr(base, "PARALLEL", 1)
    np.testing.assert_array_equal(function(pixels, seeds(6)), whole)


PROGRAM = """
import sys, hashlib, numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
tf.config.threading.set_inter_op_parallelism_threads(int(sys.argv[2]))
from tfdeit.augmentation.assembly import train_augmentation
from tfdeit.augmentation.recipe import RECIPES, Recipe
images = np.random.default_rng(0).integers(0, 256, (24, 64, 48, 3), "uint8")
seeds = tf.stack([tf.range(24), tf.fill([24], 5)], 1)
for recipe in (Recipe(interpolation="random", reprob=0.6, recount=2), RECIPES["deit3"]):
    print(hashlib.sha256(train_augmentation(recipe)(images, seeds).numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_threads_do_not_matter():
    run = [sys.executable, "-c", PROGRAM]
    outputs = {
        subprocess.run([*run, *threads], capture_output=True, text=True, check=True, env=os.environ).stdout
        for threads in (("1", "1"), ("5", "2"))
    }
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == 2


def test_normalises_as_torch(pixels):
    function = assembly.train_augmentation(recipe.Recipe(hflip=0.0, auto_augment=None, reprob=0.0))
    mean, std = (torch.tensor(values) for values in (recipe.IMAGENET_MEAN, recipe.IMAGENET_STD))
    expected = torch.from_numpy(pixels).float().div(255).sub(mean).div(std)
    np.testing.assert_array_equal(function(pixels, seeds(6)), expected.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(recipe.RECIPES))
def test_any_batch_size(name, rng):
    for batch in (0, 1, 9):
        one_batch(name, rng.integers(0, 256, (batch, 32, 48, 3), "uint8"))


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 384])
def test_published_sizes(size, rng):
    one_batch("deit", rng.integers(0, 256, (3, size, size, 3), "uint8"))


@pytest.mark.slow
def test_a_thousand_images(rng):
    one_batch("deit", rng.integers(0, 256, (1024, 32, 32, 3), "uint8"))


def one_batch(name, images):
    batch = len(images)
    found = assembly.train_augmentation(recipe.RECIPES[name])(images, seeds(batch))
    assert found.shape == images.shape
    assert found.dtype == tf.float32
    assert np.isfinite(found).all()
    mixed, labels = recipe.RECIPES[name].mixing(5)(found, np.zeros(batch, int), [1, 2])
    assert mixed.shape == images.shape
    assert labels.shape == (batch, 5)


def test_bad_images(pixels):
    with pytest.raises(ValueError, match="Expected uint8 images, before normalisation"):
        randaugment.RandAugment()(pixels.astype("float32"), seeds(6))
    with pytest.raises(ValueError, match="Expected float images, after normalisation"):
        crops_and_erasing.RandomErasing()(pixels, seeds(6))
    with pytest.raises(ValueError, match="Expected images .B, H, W, 3."):
        crops_and_erasing.RandomFlip()(pixels[0], seeds(6))
    with pytest.raises(ValueError, match="Expected seeds .B, 2. of int32 or int64"):
        crops_and_erasing.RandomFlip()(pixels, tf.zeros([6], tf.int32))


@pytest.mark.parametrize(
    "options",
    [{"reprob": 2.0}, {"remode": "noise"}, {"hflip": -0.1}, {"color_jitter": -1.0}, {"auto_augment": "v0"}],
)
def test_bad_recipes(options):
    with pytest.raises(ValueError, match="Expected .* Received: "):
        assembly.train_augmentation(recipe.Recipe(**options))


# ------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.RandomFlip(seed=3),
        *slow(
            lambda: layers.RandAugment("rand-m5", seed=3),
            lambda: layers.ColorJitter(0.4, seed=3),
            lambda: layers.ThreeAugment(seed=3),
        ),
    ],
)
def test_layers_augment_in_training_only(layer, pixels):
    first, second = layer(), layer()
    np.testing.assert_array_equal(first(pixels), pixels)
    augmented = first(pixels, training=True).numpy()
    np.testing.assert_array_equal(second(pixels, training=True), augmented)
    assert not np.array_equal(first(pixels, training=True), augmented)
    copy = type(first).from_config(first.get_config())
    np.testing.assert_array_equal(copy(pixels, training=True), augmented)


@pytest.mark.slow
def test_layers_in_a_model(pixels, tmp_path):
    image = keras.Input((32, 48, 3), dtype="uint8")
    hidden = layers.RandAugment(seed=1)(layers.RandomFlip(seed=2)(image))
    hidden = layers.RandomErasing(1.0, seed=3)(keras.layers.Rescaling(1 / 255)(hidden))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(hidden)))
    model.compile("sgd", "mse")
    model.fit(pixels, np.zeros((6, 2)), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(pixels, verbose=0), model.predict(pixels, verbose=0))


def test_the_mixing_layer(rng):
    layer, images = layers.Mixup(5, seed=1), rng.standard_normal((4, 8, 8, 3)).astype("float32")
    same, labels = layer((images, np.arange(4)))
    np.testing.assert_array_equal(same, images)
    np.testing.assert_allclose(np.max(labels, axis=1), 0.92)
    mixed, labels = layer((images, np.arange(4)), training=True)
    assert not np.array_equal(mixed, images)
    np.testing.assert_allclose(np.sum(labels, axis=1), 1, atol=1e-6)
