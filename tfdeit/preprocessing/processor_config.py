"""The contents of a preprocessor_config.json: the parameters, their checks, and the file."""

import copy
import functools
import json
import math
import numbers
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfdeit import protocols
from tfdeit.checkpoint.files import find_directory
from tfdeit.config import read_config
from tfdeit.preprocessing.images import ImageError
from tfdeit.presentation.hints import did_you_mean

CONFIG_NAME = "preprocessor_config.json"
FILTERS = [filter.name.lower() for filter in sorted(Image.Resampling)]  # Pillow's number -> name
_SIZE_KEYS = (
    {"height", "width"},
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"max_height", "max_width"},
)


def flag(value):
    """Check a boolean."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError("True or False")
    return bool(value)


def _positive(value):
    if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise ValueError("a positive number")
    return float(value)


def _channels(value):
    value = [value] * 3 if isinstance(value, numbers.Real) else list(value)
    if len(value) != 3 or not all(isinstance(v, numbers.Real) and math.isfinite(v) for v in value):
        raise ValueError("three finite numbers, one per channel (or one number for all)")
    return [float(v) for v in value]


def _positive_channels(value):
    value = _channels(value)
    if min(value) <= 0:
        raise ValueError("three positive numbers")
    return value


def _size(value, keys=_SIZE_KEYS):
    if isinstance(value, numbers.Integral):
        value = [value, value]
    if isinstance(value, (list, tuple)) and len(value) == 2:
        value = dict(zip(("height", "width"), value, strict=True))
    valid = isinstance(value, dict) and set(value) in keys
    if not valid or not all(isinstance(v, numbers.Integral) and v > 0 for v in value.values()):
        wanted = " or ".join(f"{{{', '.join(sorted(group))}}}" for group in keys)
        raise ValueError(
            f"a positive integer, (height, width), or a dictionary of positive integers with keys {wanted}"
        )
    return {key: int(v) for key, v in value.items()}


def _resample(value):
    if value not in range(len(FILTERS)):
        raise ValueError(f"Pillow's number of a filter, one of {dict(enumerate(FILTERS))}")
    return int(value)


def choice(*choices):
    """Return a check that a value is one of `choices`."""

    def check(value):
        if value not in choices:
            raise ValueError(" or ".join(repr(choice) for choice in choices))
        return value

    return check


class ProcessorConfig:
    """Parameters of an image processor: resize, centre crop, rescale, normalise.

    Parameters are passed by keyword, read and set as attributes, or overridden in a call; they are always checked.

    Args:
        do_resize: Whether to resize to `size` with the filter `resample`.
        size: {"height", "width"}; {"shortest_edge"} with or without "longest_edge"; {"max_height", "max_width"};
            (height, width); or an integer for a square.
        resample: Pillow's number of the filter: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming.
        do_center_crop: Whether to cut `crop_size` out of the centre; smaller images are padded with zeros.
        crop_size: {"height", "width"}, (height, width) or an integer.
        do_rescale: Whether to multiply by `rescale_factor`.
        rescale_factor: Positive, usually 1/255.
        do_normalize: Whether to subtract `image_mean` and divide by `image_std`.
        image_mean: Three numbers or one.
        image_std: Three positive numbers or one.
        do_convert_rgb: True blends transparent pixels onto white; otherwise alpha is dropped. Every image becomes
            RGB in either case.
        crop_rounding: How to halve an odd margin: "floor" (transformers) or "round" (torchvision, timm, mmcv).
        exif_orientation: Whether to turn files upright as their EXIF tag says.
    """

    _parameters = {
        "do_convert_rgb": flag,
        "do_resize": flag,
        "size": _size,
        "resample": _resample,
        "do_center_crop": flag,
        "crop_size": functools.partial(_size, keys=_SIZE_KEYS[:1]),
        "do_rescale": flag,
        "rescale_factor": _positive,
        "do_normalize": flag,
        "image_mean": _channels,
        "image_std": _positive_channels,
        "crop_rounding": choice("floor", "round"),
        "exif_orientation": flag,
    }
    _own_parameters: tuple[str, ...] = ("crop_rounding", "exif_orientation")  # unknown to transformers

    do_convert_rgb: bool | None = None
    do_resize = True
    size: Any  # set as `_size` accepts, read as a dictionary
    resample: int
    do_center_crop: bool | None = None
    crop_size: Any = None  # likewise
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    crop_rounding = "floor"
    exif_orientation = False

    def __init__(self, **parameters):
        self.extra = {}  # other entries of a preprocessor_config.json, kept for the round trip
        for name in self._parameters:
            setattr(self, name, getattr(type(self), name))
        self._update(parameters)

    def __setattr__(self, name, value):
        if name != "extra":
            if name not in self._parameters:
                hint = did_you_mean(name, self._parameters) or f" Known: {', '.join(self._parameters)}."
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}.{hint}")
            if value is not None:
                try:
                    value = self._parameters[name](value)
                except (ValueError, TypeError) as error:
                    raise ValueError(f"Expected {name} to be {error}. Received: {name}={value!r}.") from None
        super().__setattr__(name, value)

    def _update(self, parameters):
        for name, value in parameters.items():
            if value is not None or name not in self._parameters:  # None means "the default", as in transformers
                setattr(self, name, value)
        return self

    def replace(self, **parameters):
        """Return a copy of this processor with other parameters."""
        return copy.deepcopy(self)._update(parameters)

    def with_protocol(self, protocol: str, image_size: int):
        """Return a copy that resizes and crops as a published evaluation does, with the same mean and std.

        Args:
            protocol: "fb": short side to 256/224 of the image size, crop. "timm": short side to 1/0.9 of it (from 384
                pixels: to it), crop. "hf": squash to 256/224 of it, crop. "mmpretrain": as "fb" (from 384 pixels:
                squash to it). "vit": squash to it, bilinear. "deit3" (DeiT III): short side to it, crop. All but
                "vit" are bicubic.
            image_size: Side of the square that the model takes, in pixels.
        """
        return self.replace(**protocols.geometry(protocol, image_size))

    def for_size(self, image_size: int):
        """Return itself if its output is a square of `image_size` pixels; else a copy with Facebook's protocol."""
        own = self.crop_size if self.do_center_crop else self.size
        return self if own == {"height": image_size, "width": image_size} else self.with_protocol("fb", image_size)

    def geometry(self, height: int, width: int):
        """Compute where the pixels of an image go.

        Args:
            height: Of the image, in pixels.
            width: Of the image, in pixels.

        Returns:
            The (height, width) to resize to, and the window (top, left, height, width) of the result to keep; it
            reaches outside (negative top or left) where the image is smaller than the crop.

        Raises:
            ImageError: The result, or the image between the two resize passes, would have more pixels than Pillow's
                `Image.MAX_IMAGE_PIXELS`.
        """
        *place, largest = map(int, self.place(height, width))
        if largest > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise ImageError(f"an image of {height}x{width} is too long and thin to become {place[0]}x{place[1]}")
        return tuple(place[:2]), tuple(place[2:])

    def place(self, height, width, xp=np):
        """Compute `geometry` with plain arithmetic, on the host or in a graph.

        Args:
            height: Of the image, in pixels; with keras.ops a float64 tensor.
            width: Of the image, in pixels.
            xp: The array library: numpy or keras.ops.

        Returns:
            Height and width after resizing; top, left, height and width of the window; and the largest number of
            pixels of the result and of the image between the two passes: all whole numbers.
        """
        size = _resized_size(height, width, self.size, xp) if self.do_resize else (height, width)
        window = (0, 0, *size)
        if self.do_center_crop:
            crop = self.crop_size["height"], self.crop_size["width"]
            window = (*(_crop_start(*pair, self.crop_rounding, xp) for pair in zip(size, crop, strict=True)), *crop)
        largest = xp.maximum(xp.maximum(height * window[3], window[2] * width), xp.maximum(*size))
        return *size, *window, xp.maximum(largest, window[2] * window[3])

    @classmethod
    def from_dict(cls, config: dict, **overrides):
        """Build a processor from the contents of a preprocessor_config.json, keeping unknown entries."""
        known = {name: value for name, value in config.items() if name in cls._parameters}
        processor = cls(**known)
        ignored = {*known, "image_processor_type", "feature_extractor_type"}
        processor.extra = {name: value for name, value in config.items() if name not in ignored}
        return processor._update(overrides)

    @classmethod
    def from_pretrained(cls, path, **overrides):
        """Read a preprocessor_config.json.

        Args:
            path: The file, the directory that holds it, or the name of an embedded checkpoint.
            **overrides: Parameters to change.
        """
        return cls.from_dict(read_config(find_config(path)), **overrides)

    def to_dict(self) -> dict:
        """Return the parameters as transformers stores them; those it lacks, only if they differ from the default."""
        stored = {**self.extra, "image_processor_type": type(self).__name__.removesuffix("Fast")}
        for name in self._parameters:
            value = getattr(self, name)
            if value is not None and (name not in self._own_parameters or value != getattr(type(self), name)):
                stored[name] = copy.deepcopy(value)
        return stored

    def save_pretrained(self, directory):
        """Write preprocessor_config.json, which transformers reads too."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True)
        Path(directory, CONFIG_NAME).write_text(text + "\n", encoding="utf-8")

    def __repr__(self):
        set_here = ((name, getattr(self, name)) for name in self._parameters)
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in set_here if v is not None)})"


def _resized_size(height, width, size, xp):
    """Compute the size to which an image is resized; it is truncated as in torchvision and transformers."""
    if "height" in size:
        return size["height"], size["width"]
    if "max_height" in size:
        scale = xp.minimum(size["max_height"] / height, size["max_width"] / width)
        return tuple(xp.maximum(xp.floor(side * scale), 1) for side in (height, width))
    short, long = xp.minimum(height, width), xp.maximum(height, width)
    new_short = exact_short = size["shortest_edge"]
    unchanged = False
    if "longest_edge" in size:
        too_long = long / short * new_short > size["longest_edge"]
        exact_short = xp.where(too_long, size["longest_edge"] * short / long, new_short)
        new_short = xp.maximum(xp.round(exact_short), 1)
        unchanged = too_long & (new_short == short)
    new_long = xp.where(unchanged, long, xp.maximum(xp.floor(exact_short * long / short), 1))
    upright = height <= width
    return xp.where(upright, new_short, new_long), xp.where(upright, new_long, new_short)


def _crop_start(size, crop, rounding, xp):
    """Compute the first pixel of a centre crop along one axis; negative if the image is smaller, and padded."""
    half = (size - crop) / 2
    return xp.floor(half) if rounding == "floor" else xp.where(half < 0, xp.ceil(half), xp.round(half))


def find_config(source) -> Path:
    """Return the path of the preprocessor_config.json of `source`: the file, its directory, or a checkpoint's name."""
    return Path(source) if Path(source).is_file() else find_directory(source) / CONFIG_NAME
