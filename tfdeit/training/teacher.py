"""Teachers: any classifier, adapted to take a student's pixel values and return logits of the student's classes."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdeit.labels import imagenet_id2label, match_classes
from tfdeit.network.models import TFAutoModelForImageClassification
from tfdeit.preprocessing.processors import AutoImageProcessor
from tfdeit.presentation.terminal import counted
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD
from tfdeit.resample import filter_weights

# The range of the pixels that a network takes -> function from pixels in [0, 1] to it.
PIXELS = {
    "0..255": lambda pixels: pixels * 255,
    "0..1": lambda pixels: pixels,
    "-1..1": lambda pixels: pixels * 2 - 1,
    "imagenet": lambda pixels: (pixels - IMAGENET_MEAN) / IMAGENET_STD,
}


class Teacher:
    """A classifier in inference mode that takes the same inputs as a student.

    It undoes the student's normalisation, resizes (bicubic, antialiased), and preprocesses the pixels for the network.
    It tracks no variables, so that none are saved with the student. If the network returns probabilities, their
    logarithms are used as logits, from which they differ by a constant only.

    Args:
        network: function from float images (B, h, w, 3) to logits or probabilities (B, K), or to an object or
            dictionary with `logits`.
        image_size: (height, width) of the network's images; None for the student's.
        preprocess: function from pixels in [0, 1] to what the network takes.
        id2label: names of the network's classes, if known.
        jit: whether XLA compiles the teacher's graph.
    """

    def __init__(
        self,
        network: Callable,
        image_size: tuple[int, int] | None = None,
        preprocess: Callable = PIXELS["0..255"],
        id2label: Mapping[int, str] | None = None,
        jit: bool = True,
    ):
        self.network, self.image_size, self.preprocess = network, image_size, preprocess
        self.id2label, self.jit = id2label, jit
        self.columns: list[int] | None = None
        self.mean, self.std, self.probabilities = np.zeros(3), np.ones(3), False
        self._compiled: Callable | None = None

    def prepare(self, class_names: Sequence[str], image_size: tuple[int, int], mean, std):
        """Fits the teacher to a student, and tries it on random pixels.

        Args:
            class_names: names of the student's classes, in order; looked up among the teacher's if those have names.
            image_size: (height, width) of the student's images.
            mean: mean of each channel in the student's normalisation, for pixels in [0, 1].
            std: standard deviation of each channel, likewise.

        Raises:
            ValueError: if the teacher does not return logits, or has other classes.
        """
        self.mean, self.std = np.asarray(mean, "float32"), np.asarray(std, "float32")
        pixels = np.random.default_rng(0).normal(size=(4, *image_size, 3)).astype("float32")
        answer = self._answer(tf.constant(pixels))
        shape = getattr(answer, "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != len(pixels) or not np.isfinite(answer).all():
            what = type(answer).__name__ if shape is None else f"an output of shape {tuple(shape)}"
            raise ValueError(
                f"Expected a teacher that returns finite logits (images, classes). Received: {what}. Use a classifier "
                "with its head (keras.applications: include_top=True)."
            )
        count = shape[1]
        names = self.id2label or {}
        if len(names) == count and not all(label == f"LABEL_{i}" for i, label in names.items()):
            columns, _ = match_classes(class_names, names)
            self.columns = None if columns == list(range(count)) else columns
        elif count != len(class_names):
            raise ValueError(
                f"Expected a teacher of the {counted(len(class_names), 'class')} of the data. Received: one of "
                f"{counted(count, 'class')} without names. Train it on the same classes, sorted by name."
            )
        answer = np.asarray(answer, "float64")
        self.probabilities = bool((answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=1e-3))
        self._compiled = tf.function(self._logits, jit_compile=self.jit, autograph=False)

    def __call__(self, pixel_values):
        """Returns logits (B, C) float32 of the student's classes, for its pixel values (B, H, W, 3)."""
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:  # each replica has variables of its own
            return self._logits(pixel_values)
        return self._compiled(pixel_values)

    def _logits(self, pixel_values):
        answer = tf.cast(self._answer(tf.cast(pixel_values, tf.float32)), tf.float32)
        if self.probabilities:
            answer = tf.math.log(tf.maximum(answer, 1e-30))
        if self.columns is not None:
            answer = tf.gather(answer, self.columns, axis=1)
        return tf.stop_gradient(answer)

    def _answer(self, pixel_values):
        pixels = pixel_values * self.std + self.mean
        size = pixel_values.shape[1:3]
        if self.image_size and tuple(size) != tuple(self.image_size):
            rows, columns = (_resizing(*pair) for pair in zip(size, self.image_size, strict=True))
            pixels = tf.einsum("yh,bhwc,xw->byxc", rows, pixels, columns)
        outputs = self.network(self.preprocess(pixels))
        if isinstance(outputs, dict):
            outputs = outputs.get("logits", outputs) if len(outputs) > 1 else next(iter(outputs.values()))
        return getattr(outputs, "logits", outputs)


def _resizing(in_size: int, out_size: int):
    """Returns Pillow's bicubic weights, (out, in) float32."""
    rows, columns = np.arange(out_size, dtype="float64"), np.arange(in_size, dtype="float64")[None]
    return tf.constant(filter_weights(in_size, out_size, "bicubic", rows, columns), tf.float32)


def keras_teacher(model: keras.Model, preprocess: Callable = PIXELS["0..255"], **options) -> Teacher:
    """Returns a Keras model as a teacher.

    Args:
        model: a classifier of images (B, h, w, 3).
        preprocess: function from pixels in [0, 1] to what the model takes.
        **options: see `Teacher`.
    """
    shape = getattr(model, "input_shape", None)
    size = tuple(shape[1:3]) if isinstance(shape, tuple) and len(shape) == 4 and None not in shape[1:3] else None
    return Teacher(functools.partial(model, training=False), size, preprocess, **options)


def load_teacher(source: str | os.PathLike, pixels: str | None = None, **options) -> Teacher:
    """Loads a teacher.

    Args:
        source: a `.keras` file; the directory of a SavedModel; the name of a model in keras.applications, such as
            "ResNet50", which gets its ImageNet weights; or what `from_pretrained` takes.
        pixels: range of the pixels that a `.keras` file or a SavedModel takes, a key of `PIXELS`; None for "0..255".
            The others have their own preprocessing.
        **options: `id2label` and `jit` of `Teacher`.

    Raises:
        ValueError: if there is no such teacher, or it does not take float images.
    """
    path, name = Path(source), str(source)
    is_file, is_saved_model = path.suffix == ".keras" and path.is_file(), (path / "saved_model.pb").is_file()
    if pixels is not None and pixels not in PIXELS:
        raise ValueError(f"Expected pixels of a teacher to be one of {', '.join(PIXELS)}. Received: {pixels!r}")
    if pixels is not None and not (is_file or is_saved_model):
        raise ValueError(f"Expected pixels for .keras files and SavedModels only. Received: {pixels!r} for {name}")
    preprocess = PIXELS[pixels or "0..255"]
    if is_file:
        return keras_teacher(keras.saving.load_model(path, compile=False), preprocess, **options)
    if is_saved_model:
        return _saved_model(path, preprocess, **options)
    if not path.exists() and callable(getattr(keras.applications, name, None)):
        return _application(name, **options)
    return _pretrained(source, **options)


def _saved_model(path: Path, preprocess: Callable, **options) -> Teacher:
    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures.get("serving_default")
    inputs = function.structured_input_signature[1] if function else {}
    if len(inputs) != 1:
        raise ValueError(
            f"Expected the SavedModel {path} to have a signature serving_default with one input. Received: signatures "
            f"{list(loaded.signatures)}, inputs {list(inputs)}"
        )
    ((name, spec),) = inputs.items()
    if not spec.dtype.is_floating or spec.shape.rank != 4:
        raise ValueError(
            f"Expected the SavedModel {path} to take float images (B, H, W, 3). Received: {spec.dtype.name} of shape "
            f"{spec.shape}"
        )

    def network(images: Any, keep=loaded):  # the variables live only as long as `loaded`
        return function(**{name: tf.cast(images, spec.dtype)})

    size = tuple(spec.shape[1:3]) if None not in spec.shape[1:3] else None
    return Teacher(network, size, preprocess, **{**options, "jit": False})  # XLA cannot compile every operation


def _application(name: str, weights: str | None = "imagenet", **options) -> Teacher:
    build = getattr(keras.applications, name)
    model = build(weights=weights, classifier_activation=None)
    modules = [vars(keras.applications)[key] for key in dir(keras.applications) if key.islower()]
    module = next(module for module in modules if getattr(module, name, None) is build)
    options.setdefault("id2label", imagenet_id2label() if model.output_shape[-1] == 1000 else None)
    return keras_teacher(model, lambda pixels: module.preprocess_input(pixels * 255), **options)


def _pretrained(source: str | os.PathLike, **options) -> Teacher:
    try:
        model: Any = TFAutoModelForImageClassification.from_pretrained(source)
        processor = AutoImageProcessor.from_pretrained(source)
    except FileNotFoundError as error:
        raise ValueError(f"Expected a preprocessor_config.json with the teacher {source}. Received: {error}") from error
    mean, std = (np.asarray(values, "float32") for values in (processor.image_mean, processor.image_std))
    return Teacher(
        functools.partial(model, training=False),
        model.config.image_hw,
        lambda pixels: (pixels - mean) / std,
        **{"id2label": model.config.id2label, **options},
    )
