"""Every operation at a fixed magnitude against timm and Pillow, on photos."""

import random

import numpy as np
import pytest
import tensorflow as tf
from oracles import import_timm
from PIL import Image, ImageFilter, ImageOps

from tfdeit.augmentation import ops
from tfdeit.augmentation.randaugment import MEAN_COLOR, OPERATIONS

auto_augment = import_timm().data.auto_augment
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
MAGNITUDES = (0, 3, 9)


SIZES = [(112, 80), *(pytest.param(size, marks=pytest.mark.slow) for size in ((224, 224), (33, 7), (2, 2)))]


@pytest.fixture(scope="module", params=SIZES, ids=str)
def photos(request, shared_images):
    """Photos as they come to the augmentations, and one of a single colour."""
    photos = [Image.open(path).convert("RGB").resize(request.param, 3) for path in shared_images[:3]]
    return [*photos, Image.new("RGB", request.param, (10, 200, 90))]


def timm_operation(name, magnitude, interpolation, sign, monkeypatch):
    hparams = {"img_mean": MEAN_COLOR, "interpolation": interpolation}
    monkeypatch.setattr(random, "random", lambda: 0.9 if sign < 0 else 0.1)
    return auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)


def our_operation(name, bicubic=True):
    operation, fill = OPERATIONS[name], tf.constant(MEAN_COLOR, tf.uint8)

    def apply(photo, magnitude, sign):
        argument = operation.argument(tf.constant(magnitude, tf.float64) / 10, tf.constant(sign, tf.float64))
        return operation.apply(tf.constant(np.asarray(photo)), argument, fill, bicubic).numpy().astype(int)

    return apply


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in GEOMETRIC])
def test_photometric_operations_are_pillows(name, photos, monkeypatch):
    for magnitude in MAGNITUDES:
        for sign in (-1.0, 1.0) if "Increasing" in name else (1.0,):
            if name == "Posterize" and magnitude < 3:
                continue  # to 0 bits, at which Pillow 13 gives up; see below
            theirs = timm_operation(name, magnitude, Image.BICUBIC, sign, monkeypatch)
            for photo in photos:
                pixels = our_operation(name)(photo, magnitude, sign)
                np.testing.assert_array_equal(pixels, np.asarray(theirs(photo)), f"{name} {magnitude} {sign}")


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_operations_are_pillows(name, bicubic, photos, monkeypatch):
    for magnitude, sign in ((0, 1.0), (4.321, -1.0), (9, 1.0)):
        theirs = timm_operation(name, magnitude, Image.BICUBIC if bicubic else Image.BILINEAR, sign, monkeypatch)
        for photo in photos:
            difference = np.abs(our_operation(name, bicubic)(photo, magnitude, sign) - np.asarray(theirs(photo)))
            assert difference.max() <= 1
            assert (difference == 0).mean() >= 0.999


def test_no_bits_are_black():
    """As Pillow up to 12; Pillow 13 raises, and timm with it, at the magnitude 10 of the increasing set."""
    image = np.arange(256 * 3, dtype="uint8").reshape(16, 16, 3)
    assert our_operation("PosterizeIncreasing")(image, 10, 1.0).max() == 0


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.4142, 1.75, 2.0, 2.4])
def test_gaussian_blur_is_pillows(sigma, photos):
    for photo in photos:
        expected = np.asarray(photo.filter(ImageFilter.GaussianBlur(sigma)))
        np.testing.assert_array_equal(ops.gaussian_blur(tf.constant(np.asarray(photo)), sigma), expected)


def test_greyscale_and_solarize_are_pillows(photos):
    for photo in photos:
        image = tf.constant(np.asarray(photo))
        np.testing.assert_array_equal(ops.greyscale(image), np.asarray(ImageOps.grayscale(photo).convert("RGB")))
        np.testing.assert_array_equal(ops.solarize(image, 128), np.asarray(ImageOps.solarize(photo)))


def torchvisions_hue(photo, amount):
    """What torchvision does to PIL images: it turns the 8-bit H of Pillow's HSV."""
    hue, saturation, value = photo.convert("HSV").split()
    turned = np.asarray(hue) + np.int32(amount * 255).astype("uint8")
    return Image.merge("HSV", (Image.fromarray(turned.astype("uint8")), saturation, value)).convert("RGB")


def test_hue_of_all_colours():
    """Every hundred-and-somethingth colour of the cube."""
    colors = np.arange(0, 2**24, 131)[: 357 * 357]
    cube = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], -1).astype("uint8")
    cube = cube[: len(cube) // 100 * 100].reshape(100, -1, 3)
    for amount in (0.0, 0.11):
        ours = ops.hue(tf.constant(cube), tf.constant(amount, tf.float64)).numpy()
        np.testing.assert_array_equal(ours, np.asarray(torchvisions_hue(Image.fromarray(cube), amount)))
