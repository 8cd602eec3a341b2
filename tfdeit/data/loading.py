"""Samples in order, read and decoded in threads, as batches that can be resumed anywhere."""

import atexit
import dataclasses
import functools
import json
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfdeit.data.order import Order
from tfdeit.data.sources import Source
from tfdeit.images import ImageError


@dataclasses.dataclass(frozen=True)
class Loading:
    """How the host loads images.

    Args:
        on_error: what to do about an image that cannot be read: "raise" an error that names it, or "skip" it, see
            `Pipeline.failures`.
        threads: that decode; None leaves it to tf.data. The pixels do not depend on it.
        resize_on: "host" or "device", in evaluation; None: the device if it is a GPU. The pixels do not depend on it.
    """

    on_error: str = "raise"
    threads: int | None = None
    resize_on: str | None = None

    def __post_init__(self):
        if self.on_error not in ("raise", "skip") or self.resize_on not in (None, "host", "device"):
            raise ValueError(
                f"Expected on_error to be 'raise' or 'skip', and resize_on 'host', 'device' or None. Received: {self}"
            )
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"Expected at least one thread, or None. Received: threads={self.threads}")


class _Calls:
    """Counts the calls of Python functions by TensorFlow's threads, which would wait for ever when Python has ended.

    At exit, those that come later fail at once, and the interpreter waits for those that run.
    """

    def __init__(self):
        self.lock, self.running, self.closed = threading.Lock(), 0, False
        atexit.register(self.close)

    def __enter__(self):
        with self.lock:
            if self.closed:
                raise RuntimeError("Python ends")
            self.running += 1

    def __exit__(self, *error):
        with self.lock:
            self.running -= 1

    def close(self):
        self.closed = True
        while self.running:
            time.sleep(0.01)
        time.sleep(0.05)  # for calls that were about to begin


_CALLS = _Calls()


class Failure(NamedTuple):
    """An image that could not be read."""

    index: int
    name: str
    reason: str


class Mode(NamedTuple):
    """What tells training from evaluation."""

    load: Callable  # (pipeline, dataset of (place, ok)) -> dataset of (place, ok, *values), one a sample
    finish: Callable  # (dictionary of a batch, see `Pipeline.host`) -> (pixel_values, labels)
    endless: bool  # epoch after epoch, in full batches


class Pipeline:
    """Batches of a source. `train_pipeline` and `eval_pipeline` make one.

    Its state is one number, the count of batches given out: `dataset(step)` goes on after `step` batches without
    reading what came before, with the pixels that an uninterrupted run would have.

    Attributes:
        source: the images.
        steps_per_epoch: batches in an epoch.
        finish: `(batch of host()) -> (pixel_values, labels)`, on the device that it is called on.
    """

    def __init__(self, source: Source, order: Order, batch_size: int, mode: Mode, loading: Loading):
        self.source, self.order, self.batch_size, self.loading = source, order, batch_size, loading
        self.finish, self._mode = mode.finish, mode
        length = order.length(len(source))
        self.steps_per_epoch = order.steps(len(source), batch_size) if mode.endless else -(-length // batch_size)
        if not self.steps_per_epoch:
            raise ValueError(
                f"Expected images for at least one batch on every worker. Received: {len(source)} images, "
                f"batch_size={batch_size}, {order}"
            )
        self._failures, self._lock = {}, threading.Lock()
        self._epoch = functools.lru_cache(maxsize=3)(functools.partial(order.epoch, len(source)))

    @property
    def failures(self) -> list[Failure]:
        """The images that could not be read so far, each once, in the order of the source."""
        with self._lock:
            return sorted(self._failures.values())

    def names(self, step: int) -> list[str]:
        """Returns what the samples of batch number `step` are called, in order."""
        start = step * self.batch_size
        end = start + self.batch_size
        if not self._mode.endless:
            end = min(end, self.order.length(len(self.source)))
        return [self.source.name(self._locate(place)[1]) for place in range(start, end)]

    def write_failures(self, path: str | os.PathLike) -> int:
        """Writes `failures` as JSON lines of index, name and reason; returns how many there are."""
        failures = self.failures
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(failure._asdict()) + "\n" for failure in failures)
        return len(failures)

    def dataset(self, step: int = 0, steps: int | None = None) -> tf.data.Dataset:
        """The batches from number `step` on.

        Args:
            step: how many batches come before.
            steps: how many to give; by default all later ones, of this and all later epochs in training.

        Returns:
            Dataset of (pixel_values (B, S, S, 3) float32, labels).
        """
        return self.host(step, steps).map(self.finish).prefetch(2)

    def host(self, step: int = 0, steps: int | None = None) -> tf.data.Dataset:
        """The same before `finish`, for loops that call it on an accelerator.

        Returns:
            Dataset of dictionaries: values (B, ...), a tuple, with the uint8 images first; labels (B,) int32; seeds
            (B, 2) int32, for each image; seed (2,) int32, for the batch; step () int64, its number.
        """
        last = np.iinfo("int64").max // self.batch_size if self._mode.endless else self.steps_per_epoch
        if not 0 <= step <= last or (steps or 0) < 0:
            raise ValueError(f"Expected a step from 0 to {last}, and steps. Received: step={step}, steps={steps}")
        last = last if steps is None else min(step + steps, last)
        end = last * self.batch_size
        if not self._mode.endless:
            end = min(end, self.order.length(len(self.source)))
        data = tf.data.Dataset.range(step * self.batch_size, end).map(lambda place: (place, True))
        data = self._mode.load(self, data)
        data = data.padded_batch(self.batch_size, drop_remainder=self._mode.endless)
        data = data.map(_replace_missing if self._mode.endless else _drop_missing)
        data = data.map(self._describe)
        if not self._mode.endless:
            data = data.filter(lambda batch: tf.size(batch["labels"]) > 0)
        options = tf.data.Options()
        options.deterministic = True
        if self.loading.threads:
            options.threading.private_threadpool_size = self.loading.threads
        return data.with_options(options).prefetch(2)

    def parallel(self, data: tf.data.Dataset, function: Callable, signature: list[tf.TensorSpec]) -> tf.data.Dataset:
        """Maps a Python function over samples (place, ok, *values), in threads, in order.

        Args:
            data: the samples.
            function: (epoch, index, repetition, *values) -> tuple of new values. An ImageError or OSError that it
                raises is dealt with as `Loading.on_error` says: the sample goes on as zeros that are not ok.
            signature: of the new values.
        """

        def guarded(place, ok, *values):
            where = self._locate(place)
            if ok:
                try:
                    with _CALLS:
                        return np.True_, *function(*where, *values)
                except (OSError, ImageError) as error:
                    self._fail(where[1], error)
            return np.False_, *map(_nothing, signature)

        def call(place, *values):
            kinds = [tf.bool, *(spec.dtype for spec in signature)]
            outputs = tf.numpy_function(guarded, [place, *values], kinds, stateful=False)
            shapes = [(), *(spec.shape for spec in signature)]
            return place, *(tf.ensure_shape(value, shape) for value, shape in zip(outputs, shapes, strict=True))

        return data.map(call, self.loading.threads or tf.data.AUTOTUNE, deterministic=True)

    def _locate(self, place):
        """Epoch, index and repetition of the sample at a place in the row of all batches of all epochs."""
        epoch, place = divmod(int(place), self.steps_per_epoch * self.batch_size)
        return epoch, *(int(column[place]) for column in self._epoch(epoch))

    def _fail(self, index, error):
        name = self.source.name(index)
        reason = getattr(error, "strerror", None) or str(error).removeprefix("bytes: ")
        if self.loading.on_error == "raise":
            raise ImageError(f"{name}: {reason} (on_error='skip' leaves such images out)") from error
        with self._lock:
            self._failures[index] = Failure(index, name, reason)

    def _describe(self, places, *values):
        def describe(places):
            with _CALLS:
                return numbers(places)

        def numbers(places):
            samples = [self._locate(place) for place in places]
            labels = self.source.labels[[index for _, index, _ in samples]]
            seeds = [self.order.sample_seed(*sample) for sample in samples]
            batch = -1 - int(places[0]) // self.batch_size if len(places) else -1  # never the number of a sample
            return labels, np.array(seeds, "int32").reshape(-1, 2), self.order.sample_seed(0, batch, 0)

        labels, seeds, seed = tf.numpy_function(describe, [places], [tf.int32] * 3, stateful=False)
        size = places.shape[0]
        labels, seeds, seed = (
            tf.ensure_shape(value, shape) for value, shape in ((labels, [size]), (seeds, [size, 2]), (seed, [2]))
        )
        step = tf.reduce_max(places) // self.batch_size
        return {"values": values, "labels": labels, "seeds": seeds, "seed": seed, "step": step}


def _nothing(spec):
    """What stands for an image that cannot be read."""
    return b"" if spec.dtype == tf.string else np.zeros([n or 1 for n in spec.shape], spec.dtype.as_numpy_dtype)


def _drop_missing(places, ok, *values):
    values = places, *values
    kept = tf.cond(tf.reduce_all(ok), lambda: values, lambda: tuple(tf.boolean_mask(value, ok) for value in values))
    return tuple(tf.ensure_shape(value, [None, *old.shape[1:]]) for value, old in zip(kept, values, strict=True))


def _replace_missing(places, ok, *values):
    """Puts other samples of the batch where some are missing: every batch is full, and resuming stays exact."""
    values = places, *values

    def replaced():
        there, numbers = tf.where(ok)[:, 0], tf.range(tf.size(ok, tf.int64))
        count = tf.size(there, tf.int64)
        with tf.control_dependencies([tf.debugging.Assert(count > 0, ["no image of a batch could be read"])]):
            taken = tf.where(ok, numbers, tf.gather(there, numbers % tf.maximum(count, 1)))
        return tuple(tf.ensure_shape(tf.gather(value, taken), value.shape) for value in values)

    return tf.cond(tf.reduce_all(ok), lambda: values, replaced)
