"""RandAugment as in timm, configured by timm's string.

`rand-m9-mstd0.5-inc1` (DeiT): two operations per image from the "increasing" set, each applied with probability 0.5, at
a magnitude drawn from N(9, 0.5) and clipped to [0, 10].

Reference: Cubuk et al., RandAugment, arXiv 1909.13719; timm's `timm/data/auto_augment.py`.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfdeit.augmentation import geometry, ops
from tfdeit.augmentation.base import Augmentation, run
from tfdeit.augmentation.draws import integers, uniforms

MEAN_COLOR = (124, 116, 104)  # ImageNet's mean, in levels
INTERPOLATIONS = ("bilinear", "bicubic", "random")

# ----------------------------------------------------------------------------- from a magnitude to an argument
# Each takes the magnitude divided by 10 and a sign, both float64, and returns the operation's argument.


def _none(level, sign):
    return level


def _signed(scale):
    return lambda level, sign: sign * (level * scale)


def _integer(scale, limit=math.inf, down_from=None):
    def argument(level, sign):
        rising = tf.minimum(tf.floor(level * scale), limit)
        return rising if down_from is None else down_from - rising

    return argument


def _range(low, high):
    return lambda level, sign: tf.clip_by_value(low + (high - low) * level, low, high)


def _enhance(level, sign):
    return level * 1.8 + 0.1


def _enhance_increasing(level, sign):
    return tf.maximum(1 + sign * (level * 0.9), 0.1)


def _plain(operation):
    """Adapt an operation without an argument."""
    return lambda image, argument, fill, bicubic: operation(image)


def _level(operation):
    """Adapt an operation whose argument is an integer."""
    return lambda image, argument, fill, bicubic: operation(image, tf.cast(argument, tf.int32))


def _factor(operation):
    """Adapt an operation whose argument is a float."""
    return lambda image, argument, fill, bicubic: operation(image, argument)


def _desaturate(image, amount):
    return ops.color(image, tf.clip_by_value(1 - amount, 0.0, 1.0))


class Operation(NamedTuple):
    """One operation of RandAugment."""

    argument: Callable  # (magnitude / 10, sign) -> the argument, float64
    apply: Callable  # (image, argument, fill, bicubic) -> image

    @property
    def constant(self) -> bool:
        """Whether the operation ignores the magnitude."""
        return self.argument is _none


OPERATIONS = {
    "AutoContrast": Operation(_none, _plain(ops.autocontrast)),
    "Equalize": Operation(_none, _plain(ops.equalize)),
    "Invert": Operation(_none, _plain(ops.invert)),
    "Rotate": Operation(_signed(30.0), geometry.rotate),
    "Posterize": Operation(_integer(4), _level(ops.posterize)),
    "PosterizeIncreasing": Operation(_integer(4, down_from=4), _level(ops.posterize)),
    "Solarize": Operation(_integer(256, 256), _level(ops.solarize)),
    "SolarizeIncreasing": Operation(_integer(256, 256, down_from=256), _level(ops.solarize)),
    "SolarizeAdd": Operation(_integer(110, 128), _level(ops.solarize_add)),
    "Color": Operation(_enhance, _factor(ops.color)),
    "ColorIncreasing": Operation(_enhance_increasing, _factor(ops.color)),
    "Contrast": Operation(_enhance, _factor(ops.contrast)),
    "ContrastIncreasing": Operation(_enhance_increasing, _factor(ops.contrast)),
    "Brightness": Operation(_enhance, _factor(ops.brightness)),
    "BrightnessIncreasing": Operation(_enhance_increasing, _factor(ops.brightness)),
    "Sharpness": Operation(_enhance, _factor(ops.sharpness)),
    "SharpnessIncreasing": Operation(_enhance_increasing, _factor(ops.sharpness)),
    "ShearX": Operation(_signed(0.3), geometry.shear_x),
    "ShearY": Operation(_signed(0.3), geometry.shear_y),
    "TranslateXRel": Operation(_signed(0.45), geometry.translate_x),
    "TranslateYRel": Operation(_signed(0.45), geometry.translate_y),
    "Desaturate": Operation(_range(0.5, 1.0), _factor(_desaturate)),
    "GaussianBlur": Operation(_range(0.1, 2.0), _factor(ops.gaussian_blur)),
}

# timm's sets of operations, with their weights.
PLAIN = [
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
]
INCREASING = [name + "Increasing" * (name + "Increasing" in OPERATIONS) for name in PLAIN]
_GEOMETRY = {"Rotate": 3, "ShearX": 2, "ShearY": 2}
_THREE = {"SolarizeIncreasing": 6, "Desaturate": 6, "GaussianBlur": 6}
_RARE = ("ContrastIncreasing", "BrightnessIncreasing", "Equalize", "PosterizeIncreasing", "Invert")
_COLORFUL = ("ColorIncreasing", "SharpnessIncreasing", "AutoContrast")
_SETS: dict[str, dict[str, float | None]] = {
    "weights": {
        **_GEOMETRY,
        **dict.fromkeys(("TranslateXRel", "TranslateYRel"), 1),
        **dict.fromkeys(_COLORFUL, 0.25),
        **dict.fromkeys(("SolarizeIncreasing", "SolarizeAdd", *_RARE), 0.05),
    },
    "3a": dict.fromkeys(_THREE),
    "3aw": {**_THREE, **_GEOMETRY, **dict.fromkeys((*_COLORFUL, *_RARE), 1)},
}
_NUMBER = r"\d+(?:\.\d*)?"
_OPTIONS: dict[str, tuple[str, str, Callable[[str], Any]]] = {  # key -> (field, pattern of the value, conversion)
    "m": ("magnitude", r"\d+", int),
    "n": ("layers", r"\d+", int),
    "mstd": ("magnitude_std", _NUMBER, lambda text: math.inf if float(text) > 100 else float(text)),
    "mmax": ("magnitude_max", r"\d+", int),
    "inc": ("increasing", r"\d", lambda text: bool(int(text))),
    "p": ("probability", _NUMBER, float),
    "t": ("transforms", "|".join(_SETS), str),
}


class Program(NamedTuple):
    """What RandAugment does, step by step: tensors (B, layers), or (layers,) for one image."""

    index: tf.Tensor  # int32, which operation; past the last one, none
    argument: tf.Tensor  # float64
    bicubic: tf.Tensor  # bool


@dataclasses.dataclass(frozen=True)
class RandAugment(Augmentation):
    """RandAugment with timm's operations and options.

    Args:
        config: timm's string: `rand`, then options in any order, separated by dashes (default values in parentheses).
            `m9`: the magnitude (10). `n2`: operations per image (2). `mstd0.5`: standard deviation of the magnitude (0;
            above 100, the magnitude is uniform from 0 to `m`). `mmax10`: upper limit of the magnitude (10). `inc1`: the
            set whose effect increases with the magnitude (0). `p0.5`: probability of each operation (0.5). `t3a`,
            `t3aw`, `tweights`: other sets of operations.
        fill: Colour outside the image, RGB levels.
        interpolation: "bilinear", "bicubic", or "random" for one of the two per operation. timm uses its training
            interpolation, which is bicubic for DeiT and random by default.

    Raises:
        ValueError: The string has an unknown or malformed option, or the interpolation is unknown.
    """

    config: str = "rand-m9-mstd0.5-inc1"
    fill: tuple[int, ...] = MEAN_COLOR
    interpolation: str = "bicubic"

    def __post_init__(self):
        self.options  # noqa: B018 - raises ValueError for a malformed string
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"Expected interpolation to be one of {INTERPOLATIONS}. Received: {self.interpolation!r}")
        object.__setattr__(self, "fill", tuple(self.fill))

    @property
    def options(self) -> dict:
        """The options in the string, and the defaults of the others."""
        options: dict[str, Any] = {"magnitude": 10, "layers": 2, "magnitude_std": 0.0, "magnitude_max": 10}
        options |= {"increasing": False, "probability": 0.5, "transforms": None}
        head, *parts = self.config.split("-") if isinstance(self.config, str) else [self.config]
        for part in parts:
            key = next((key for key in sorted(_OPTIONS, key=len, reverse=True) if str(part).startswith(key)), None)
            if key is None or not re.fullmatch(_OPTIONS[key][1], part[len(key) :]):
                raise ValueError(
                    f"Expected the options of RandAugment to be {' '.join(_OPTIONS)}, each followed by its value, as "
                    f"in 'rand-m9-mstd0.5-inc1' (t by one of {', '.join(_SETS)}). Received: {part!r} in {self.config!r}"
                )
            field, _, convert = _OPTIONS[key]
            options[field] = convert(part[len(key) :])
        if head != "rand":
            raise ValueError(
                f"Expected timm's string for RandAugment, such as 'rand-m9-mstd0.5-inc1'. Received: {self.config!r}"
            )
        return options

    @property
    def operations(self) -> dict[str, float | None]:
        """The names of the operations and their weights, or None where all are equally likely."""
        options = self.options
        return _SETS.get(options["transforms"]) or dict.fromkeys(INCREASING if options["increasing"] else PLAIN)

    def draw(self, seeds, height=None, width=None) -> Program:
        """See `Augmentation`."""
        options, count = self.options, len(self.operations)
        layers = options["layers"]
        weights = list(self.operations.values())
        if None in weights:
            index = integers(uniforms(seeds, layers, "randaugment operations"), count)
        elif layers > count:
            raise ValueError(f"Expected n to be at most {count}, the number of operations. Received: {self.config!r}")
        else:  # without replacement: the first exponential clocks to ring
            times = -tf.math.log(uniforms(seeds, count, "randaugment operations")) / weights
            index = tf.argsort(times)[:, :layers]
        applied, level, sign, filters = tf.unstack(
            tf.reshape(uniforms(seeds, 4 * layers, "randaugment magnitudes"), [-1, 4, layers]), axis=1
        )
        magnitude, spread = options["magnitude"], options["magnitude_std"]
        level = level * magnitude if spread == math.inf else magnitude + spread * tf.math.ndtri(level)
        level = tf.clip_by_value(level, 0, options["magnitude_max"]) / 10
        sign = tf.where(sign > 0.5, tf.constant(-1, tf.float64), 1)
        arguments = tf.stack([OPERATIONS[name].argument(level, sign) for name in self.operations], axis=-1)
        return Program(
            tf.where(applied > options["probability"], count, index),
            tf.gather(arguments, index, batch_dims=2),
            filters > 0.5,
        )

    def apply(self, image, drawn: Program):
        """See `Augmentation`."""
        fill = tf.constant(self.fill, tf.uint8)

        def call(apply):
            if self.interpolation == "random":
                return lambda image, argument, bicubic: apply(image, argument, fill, bicubic)
            return lambda image, argument, _: apply(image, argument, fill, self.interpolation == "bicubic")

        return run(image, drawn.index, drawn[1:], [call(OPERATIONS[name].apply) for name in self.operations])
