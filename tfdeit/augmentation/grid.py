"""A labelled picture of what every augmentation does to an image."""

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from tfdeit.augmentation import geometry, masks, mix, ops
from tfdeit.augmentation.assembly import to_levels, train_augmentation
from tfdeit.augmentation.crops_and_erasing import ColorJitter, RandomErasing, random_resized_crop_boxes
from tfdeit.augmentation.draws import derived_seeds
from tfdeit.augmentation.randaugment import OPERATIONS, RandAugment
from tfdeit.augmentation.recipe import RECIPES, Recipe
from tfdeit.preprocessing.images import decode_image
from tfdeit.presentation.grids import image_grid

COLUMNS = 8  # tiles per row
FORMATS = {"Rotate": "{:+.0f}°", "ShearX": "{:+.2f}", "ShearY": "{:+.2f}", "TranslateXRel": "{:+.0%}"}
FORMATS |= {"TranslateYRel": "{:+.0%}", "PosterizeIncreasing": "to {:.0f}-bit", "Posterize": "to {:.0f}-bit"}
FORMATS |= dict.fromkeys(("Solarize", "SolarizeIncreasing", "SolarizeAdd"), "{:.0f}")


def augmentation_grid(paths, config: str, size: int = 224, seed: int = 0) -> Image.Image:
    """Draw each operation of RandAugment at the given magnitude, the other augmentations, and whole recipes.

    Args:
        paths: One image, or two to be mixed as well; anything that `decode_image` takes.
        config: timm's string for RandAugment, see `RandAugment`.
        size: Side of a tile, in pixels; images are cropped to squares.
        seed: Seed for everything random.

    Returns:
        An RGB image, `COLUMNS` tiles wide.

    Raises:
        ImageError: A file is not an image.
        ValueError: `config` is malformed, or there are not one or two images.
    """
    if not 1 <= len(paths) <= 2:
        raise ValueError(f"Expected one image, or two to mix. Received: {len(paths)} images")
    randaugment = RandAugment(config)
    originals = [Image.fromarray(decode_image(path)) for path in paths]
    squares = [np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)) for image in originals]
    seeds = derived_seeds([[seed, 0]], COLUMNS, "grid")[0]
    magnitude = randaugment.options["magnitude"]
    sections = [
        (f"RandAugment, {config}: each operation at magnitude {magnitude}", _operations(randaugment, squares[0])),
        ("Other augmentations", _others(originals[0], squares[0], seeds)),
    ]
    recipes = {"DeiT": Recipe(auto_augment=config), "DeiT III": RECIPES["deit3"]}
    for name, recipe in recipes.items():
        steps = "RandAugment, erasing" if recipe.auto_augment else "3-Augment, jitter"
        title = f"{name}'s recipe: crop, flip, {steps}"
        sections.append((title, _samples(originals[0], recipe, size, seeds)))
    if len(squares) == 2:
        sections.append(("Mixup and CutMix, each image with its partner", _mixtures(squares, seeds)))
    return image_grid(sections, size, COLUMNS)


def _operations(randaugment, square):
    image, fill = tf.constant(square), tf.constant(randaugment.fill, tf.uint8)
    level = tf.constant(min(randaugment.options["magnitude"], randaugment.options["magnitude_max"]) / 10, tf.float64)
    yield "original", square
    for name in randaugment.operations:
        operation = OPERATIONS[name]
        argument = operation.argument(level, tf.constant(1, tf.float64))
        label = name.removesuffix("Increasing").removesuffix("Rel")
        if not operation.constant:
            label += " " + FORMATS.get(name, "{:.2f}").format(float(argument))
        yield label, operation.apply(image, argument, fill, True)


def _others(original, square, seeds):
    image, one = tf.constant(square), seeds[:1]
    yield "flip", geometry.mirror(image)
    for box in random_resized_crop_boxes([original.height] * 2, [original.width] * 2, seeds[:2]).numpy():
        yield f"crop {box[3]}x{box[2]}", _crop(original, box, len(square))
    for name in ("brightness", "contrast", "saturation"):
        jitter = ColorJitter(**{"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, name: 0.4})
        factor = float(jitter.draw(one)[1][0, 0])
        yield f"jitter: {name} {factor:.2f}", jitter(image[None], one)[0]
    jitter = ColorJitter(hue=0.2)
    yield "jitter with hue", jitter(image[None], one)[0]
    yield "grey (3-Augment)", ops.greyscale(image)
    yield "solarize (3-Augment)", ops.solarize(image, 128)
    yield "blur 2.0 (3-Augment)", ops.gaussian_blur(image, 2.0)
    normal = (tf.cast(image, tf.float32) / 255 - RECIPES["deit"].mean) / RECIPES["deit"].std
    for mode in ("pixel", "rand", "const"):
        yield f"erasing, {mode}", to_levels(RandomErasing(1.0, mode)(normal[None], one)[0].numpy())
    if len(square) % 32 == 0:
        side = len(square) // 16
        mask = masks.block_masks(one, len(square), 16).numpy().reshape(side, side).repeat(16, 0).repeat(16, 1)
        yield "SimMIM blocks", np.where(mask[..., None], 128, square).astype("uint8")


def _samples(original, recipe, size, seeds):
    sizes = [original.height] * COLUMNS, [original.width] * COLUMNS
    boxes = random_resized_crop_boxes(*sizes, seeds, recipe.scale, recipe.ratio)
    crops = np.stack([_crop(original, box, size) for box in boxes.numpy()])
    samples = to_levels(train_augmentation(recipe)(crops, seeds).numpy())
    return [(f"sample {i}", image) for i, image in enumerate(samples, 1)]


def _mixtures(squares, seeds):
    images = tf.cast(tf.stack(squares), tf.float32)
    for number, seed in enumerate(seeds[: COLUMNS // 2]):
        cut = number % 2
        mixup = mix.Mixup(2, switch_probability=float(cut), smoothing=0.0)
        mixed, labels = mixup(images, [0, 1], seed)
        for image, label in zip(mixed, labels.numpy(), strict=True):
            yield f"{'CutMix' if cut else 'mixup'} {label[0]:.0%} + {label[1]:.0%}", tf.cast(image, tf.uint8)


def _crop(original, box, size):
    top, left, height, width = box.tolist()
    return np.asarray(original.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + width, top + height)))
