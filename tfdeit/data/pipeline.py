"""From a source to the input of a model: one function for training, one for evaluation.

The host decodes, crops and resizes to uint8, in threads; augmentation and normalisation work on whole batches, on any
device. Evaluation can also resize on the device.
"""

import numpy as np
import tensorflow as tf
from PIL import Image

from tfdeit.augmentation.assembly import train_augmentation
from tfdeit.augmentation.crops_and_erasing import random_resized_crop_boxes
from tfdeit.augmentation.ops import lookup
from tfdeit.augmentation.recipe import RECIPES, Recipe
from tfdeit.data.decoding import decode_crop
from tfdeit.data.host_resizing import compiled_resize
from tfdeit.data.loading import Loading, Mode, Pipeline, tensor_memory
from tfdeit.data.order import Order
from tfdeit.data.resizing import Windows, plan_image, plan_window, resize
from tfdeit.data.source import Source
from tfdeit.preprocessing.base_processor import BaseImageProcessor
from tfdeit.preprocessing.images import read_header
from tfdeit.preprocessing.processors import protocol_processor
from tfdeit.resample import plan_resize

_FILTERS = {"bicubic": ["bicubic"], "bilinear": ["bilinear"], "random": ["bilinear", "bicubic"]}


def eval_pipeline(
    source: Source,
    batch_size: int,
    processor: BaseImageProcessor | str,
    image_size: int = 224,
    order: Order | None = None,
    loading: Loading | None = None,
) -> Pipeline:
    """Makes batches for `evaluate` and `predict`, with the pixels of an image processor; each image comes once.

    Args:
        source: the images.
        batch_size: images per batch; the last batch, and one with images that cannot be read, have fewer.
        processor: an image processor whose images all have one size, or the name of a published protocol (see
            `protocol_processor`).
        image_size: side of the images in pixels, if `processor` is a protocol.
        order: which worker this is, if there are several. The default keeps the order of the source.
        loading: how to load, and what to do about errors.

    Returns:
        Pipeline of (pixel_values (B, H, W, 3) float32, labels (B,) int32).

    Raises:
        ValueError: if the size that the processor makes depends on the image.
    """
    if isinstance(processor, str):
        processor = protocol_processor(processor, image_size)
    shape = _output_shape(processor)
    loading = loading or Loading()
    on_device = (loading.resize_on or ("device" if tf.config.list_logical_devices("GPU") else "host")) == "device"
    fast = None if on_device else compiled_resize()
    signature = Windows.signature(*shape) if on_device else [tf.TensorSpec((*shape, 3), tf.uint8)]

    def load(batch):
        if on_device:
            plans = batch.map(lambda _, index: plan_window(processor, source.read(index)))
            windows = Windows(plans, *shape)
            batch.map(lambda number, _, window: windows.read(number, window), plans)
            return windows.arrays
        pixels = tensor_memory((len(batch.samples), *shape, 3), "uint8")

        def read(number, index):
            data = source.read(index)
            if fast:
                decode, plan = plan_image(processor, data)
                pixels[number] = fast(decode(), plan)
            else:
                pixels[number] = processor.pixels(data)

        batch.map(read)
        return (pixels,)

    levels = processor.levels()

    @tf.function(autograph=False)
    def finish(batch):
        images, *taps = batch["values"]
        if on_device:
            images = resize(images, *taps)
        return lookup(images, levels), batch["labels"]

    mode = Mode(load, signature, finish, endless=False)
    return Pipeline(source, order or Order(seed=None), batch_size, mode, loading)


def _output_shape(processor: BaseImageProcessor) -> tuple[int, int]:
    """Returns the height and width of all images that a processor makes."""
    size = (processor.do_center_crop and processor.crop_size) or (processor.do_resize and processor.size) or {}
    if set(size) != {"height", "width"}:
        raise ValueError(
            "Expected a processor that makes images of one size: crop_size with do_center_crop=True, or size as "
            f"(height, width). Received: {processor}"
        )
    return size["height"], size["width"]


def train_pipeline(
    source: Source,
    batch_size: int,
    image_size: int = 224,
    recipe: Recipe = RECIPES["deit"],
    mix: bool = True,
    order: Order | None = None,
    loading: Loading | None = None,
) -> Pipeline:
    """Makes batches for training: RandomResizedCrop, then the recipe's augmentations; shuffled, epoch after epoch.

    All batches are full: an image that is skipped is replaced by another of its batch.

    Args:
        source: the images.
        batch_size: images per batch and worker.
        image_size: side of the images in pixels.
        recipe: the augmentations.
        mix: whether to also mix images and smooth labels, as the recipe says.
        order: seed, repeated augmentation, and which worker this is, if there are several.
        loading: how to load, and what to do about errors.

    Returns:
        Pipeline of (pixel_values (B, S, S, 3) float32, labels: (B, C) float32 with mix, else (B,) int32).
    """
    augment = train_augmentation(recipe)
    mixing = recipe.mixing(len(source.class_names)) if mix else None
    filters = _FILTERS[recipe.interpolation]
    fast = compiled_resize()
    side = image_size, image_size

    @tf.function(autograph=False)
    def draw_boxes(sizes, seeds):
        with tf.device("CPU"):
            return random_resized_crop_boxes(sizes[:, 0], sizes[:, 1], seeds, recipe.scale, recipe.ratio)

    def load(batch):
        sizes = np.ones((batch_size, 2), "int32")
        pixels = tensor_memory((batch_size, *side, 3), "uint8")

        def read(number, index):
            data = source.read(index)
            header = read_header(data)
            sizes[number] = header.height, header.width
            return data, header

        def crop(number, _, encoded, box):
            image, name = decode_crop(*encoded, *box), filters[batch.seeds[number, 0] % len(filters)]
            if fast:
                plan = plan_resize(image.shape[:2], side, name)
                pixels[number] = fast(image[plan.source], plan)
            else:
                pixels[number] = Image.fromarray(image).resize(side, Image.Resampling[name.upper()])

        encoded = batch.map(read)
        batch.map(crop, encoded, draw_boxes(sizes, batch.seeds).numpy().tolist())
        return (pixels,)

    @tf.function(autograph=False)
    def finish(batch):
        pixels = augment(batch["values"][0], batch["seeds"])
        return mixing(pixels, batch["labels"], batch["seed"]) if mix else (pixels, batch["labels"])

    mode = Mode(load, [tf.TensorSpec((*side, 3), tf.uint8)], finish, endless=True)
    return Pipeline(source, order or Order(), batch_size, mode, loading or Loading())
