"""Image processors: from files, bytes, PIL images and arrays to `pixel_values`, bit for bit as in transformers.

`DeiTImageProcessor` and `ViTImageProcessor` work on the host with Pillow. Their `Fast` twins do everything after
decoding in one compiled function on the device, with the same result. Sizes, mean and std belong to a checkpoint:
prefer `from_pretrained` over the defaults of a class.
"""

import functools
import re

import keras
import numpy as np
from keras import ops

from tfdeit import zoo
from tfdeit.config import read_config
from tfdeit.preprocessing.base_processor import BaseImageProcessor
from tfdeit.preprocessing.images import ImageError
from tfdeit.preprocessing.processor_config import FILTERS, ProcessorConfig, choice, find_config, flag
from tfdeit.protocols import preprocessor_config
from tfdeit.resample import Taps, bucket, plan_resize, resample, resample_float, taps_matrix


class DeiTImageProcessor(BaseImageProcessor):
    """DeiT's defaults: squash to 256x256 bicubic, centre crop 224."""

    size = 256
    resample = 3
    do_center_crop = True
    crop_size = 224


class ViTImageProcessor(BaseImageProcessor):
    """ViT's defaults: squash to 224x224, bilinear."""

    size = 224
    resample = 2


# ----------------------------------------------------------------------------------------- on the device


# Taps are unrolled. With more than this, for sides some 25 times the result's, compiling would take seconds: such
# images are resized on the host.
_MAX_TAPS = 96


class OnDevice(BaseImageProcessor):
    """An image processor that does everything after decoding on the device, with the host's result.

    Args:
        exact: True: Pillow's integer arithmetic. False: float32 matrix products, which accelerators prefer; about one
            pixel value in ten thousand (bicubic) or in a thousand (bilinear) is then off by 1 of 255.
        pass_order: Pillow's order of the two passes: "horizontal" (up to Pillow 12), "pillow13", or None for the
            installed Pillow's.
        **parameters: See `ProcessorConfig`.
    """

    _parameters = {
        **ProcessorConfig._parameters,
        "exact": flag,
        "pass_order": choice("horizontal", "pillow13"),
    }
    _own_parameters = (*ProcessorConfig._own_parameters, "exact", "pass_order")
    exact = True
    pass_order = None

    _concatenate = staticmethod(ops.concatenate)

    def _process(self, block):
        if block.dtype != "uint8":
            name = type(self).__name__
            raise ImageError(
                f"Expected uint8 pixels for {name}; use {name.removesuffix('Fast')} for others. "
                f"Received: dtype {block.dtype}."
            )
        size, window = self.geometry(*block.shape[1:3])
        name = FILTERS[self.resample] if self.do_resize else "nearest"
        plan = plan_resize(block.shape[1:3], size, name, window, self.pass_order)
        block = block[(slice(None), *plan.source)]
        if max(plan.rows.weights.shape[1], plan.columns.weights.shape[1]) > _MAX_TAPS:
            block = resample(block, plan.rows, plan.columns, plan.vertical).astype("uint8")
            plan = plan_resize(block.shape[1:3], block.shape[1:3], "nearest")
        # Every shape is padded to one of a few, so that few functions are compiled: the image with pixels that no
        # tap reads, the taps with zeros, and, where its size depends on the image, the result.
        height, width = (bucket(length) for length in block.shape[1:3])
        block = np.pad(block, ((0, 0), (0, height - block.shape[1]), (0, width - block.shape[2]), (0, 0)))
        varies = not self.do_center_crop and not (self.do_resize and "height" in self.size)
        rows, columns = (_pad_taps(taps, varies) for taps in (plan.rows, plan.columns))
        if not self.exact:
            rows, columns = taps_matrix(rows, height), taps_matrix(columns, width)
        table = self.levels().ravel()
        arguments = keras.tree.map_structure(ops.convert_to_tensor, (block, rows, columns, table))
        shapes = tuple((array.shape, array.dtype.name) for array in keras.tree.flatten((block, rows, columns, table)))
        values = _compiled(plan.vertical, self.exact, shapes)(*arguments)
        return values[:, : window[2], : window[3]] if varies else values


class DeiTImageProcessorFast(OnDevice, DeiTImageProcessor):
    """`DeiTImageProcessor` on the device; `exact` and `pass_order` are described in `OnDevice`."""


class ViTImageProcessorFast(OnDevice, ViTImageProcessor):
    """`ViTImageProcessor` on the device; `exact` and `pass_order` are described in `OnDevice`."""


def _pad_taps(taps, pad_rows):
    count, width = taps.weights.shape
    more_rows = bucket(count) - count if pad_rows else 0
    return Taps(np.pad(taps.start, (0, more_rows)), np.pad(taps.weights, ((0, more_rows), (0, bucket(width) - width))))


def _on_device(images, rows, columns, table, run, vertical):
    levels = ops.cast(run(images, rows, columns, vertical, ops), "int32")
    return ops.take(table, levels * 3 + ops.arange(3, dtype="int32"))


@functools.cache
def _compiled(vertical, exact, shapes):
    """Compile `_on_device` for arguments of these shapes: one function per key, so that none is ever retraced."""
    function = functools.partial(_on_device, run=resample if exact else resample_float, vertical=vertical)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


# ------------------------------------------------------------------------------------ by name, and aliases

DeiTFeatureExtractor, ViTFeatureExtractor = DeiTImageProcessor, ViTImageProcessor
_FAMILIES = {
    "DeiT": (DeiTImageProcessor, DeiTImageProcessorFast),
    "ViT": (ViTImageProcessor, ViTImageProcessorFast),
}


class AutoImageProcessor:
    """The processor that a preprocessor_config.json names."""

    @staticmethod
    def from_pretrained(path, use_fast: bool = False, **overrides) -> BaseImageProcessor:
        """Read a preprocessor_config.json written by this library or by any version of transformers.

        Args:
            path: The file, the directory that holds it, or the name of an embedded checkpoint or of a row of the zoo;
                rows without such a file get the processor of their protocol.
            use_fast: Whether to return the processor that works on the device.
            **overrides: Parameters to change.
        """
        file = find_config(path)
        if not file.is_file() and str(path) in zoo.BY_NAME:
            row = zoo.find(str(path))
            return protocol_processor(row.protocol, row.config().image_hw[0]).replace(**overrides)
        config = read_config(file)
        name = config.get("image_processor_type") or config.get("feature_extractor_type") or _model_type(file)
        family = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", name)
        if family not in _FAMILIES:
            raise ValueError(
                f"Expected {path} to name an image processor of {' or '.join(_FAMILIES)}. Received: {name!r}. "
                "If its parameters mean the same, read it with ViTImageProcessor.from_pretrained."
            )
        return _FAMILIES[family][use_fast].from_dict(config, **overrides)


AutoFeatureExtractor = AutoImageProcessor


def _model_type(file):
    """Return the family of an old checkpoint, which names no processor, from the config.json beside the file."""
    beside = file.with_name("config.json")
    model_type = read_config(beside).get("model_type") if beside.is_file() else None
    return {"deit": "DeiT", "vit": "ViT"}.get(model_type, str(model_type))


def protocol_processor(protocol: str, image_size: int) -> BaseImageProcessor:
    """Return the processor of a protocol for the published DeiT and ViT weights.

    The same DeiT weights are evaluated under four protocols, and an accuracy holds only under its own.

    Args:
        protocol: "fb" (DeiT's paper), "timm", "hf", "mmpretrain", "vit" or "deit3": see
            `ProcessorConfig.with_protocol`. All but "vit" (mean and std 0.5) normalise with ImageNet's mean and std.
        image_size: Side of the square that the model takes, in pixels.
    """
    config = preprocessor_config(protocol, image_size)
    return _FAMILIES[config["image_processor_type"].removesuffix("ImageProcessor")][0].from_dict(config)
