"""Samples in order, read and decoded in threads, as batches that can be resumed anywhere."""

import atexit
import collections
import contextlib
import dataclasses
import functools
import json
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfdeit.data.order import Order
from tfdeit.data.sources import Source
from tfdeit.images import ImageError, reason


@dataclasses.dataclass(frozen=True)
class Loading:
    """How the host loads images.

    Args:
        on_error: what to do about an image that cannot be read: "raise" an error that names it, or "skip" it, see
            `Pipeline.failures`.
        threads: that decode; None means one for each core. The pixels do not depend on it.
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


@dataclasses.dataclass(frozen=True, order=True)
class Failure:
    """An image that could not be read."""

    index: int
    name: str
    reason: str


_unused: collections.deque[np.ndarray] = collections.deque(maxlen=8)


def tensor_memory(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Returns an array, not initialised, at a multiple of 64 bytes: TensorFlow takes it over without copying.

    Its memory is used again when the array is gone (views of it must not outlive it): fresh pages cost the kernel as
    much as copying does.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = _take_unused(size + 63)
    start = -memory.ctypes.data % 64
    array = memory[start : start + size].view(dtype).reshape(shape)
    weakref.finalize(array, _unused.append, memory).atexit = False
    return array


def _take_unused(size: int) -> np.ndarray:
    for _ in range(len(_unused)):
        with contextlib.suppress(IndexError):  # another thread took the last
            memory = _unused.popleft()
            if size <= memory.size <= 2 * size:
                return memory
            _unused.append(memory)
    return np.empty(size, "uint8")


class Batch:
    """The samples of one batch while it is loaded.

    Attributes:
        samples: (epoch, index, repetition) of each.
        seeds: of their augmentations, (B, 2) int32.
        ok: whether each could be read so far, (B,) bool.
    """

    def __init__(self, pipeline: "Pipeline", samples: list[tuple[int, int, int]]):
        self._pipeline, self.samples = pipeline, samples
        self.seeds = np.array([pipeline.order.sample_seed(*sample) for sample in samples], "int32").reshape(-1, 2)
        self.ok = np.ones(len(samples), bool)

    def map(self, function: Callable, *columns: Iterable) -> list:
        """Calls a function for each sample that could be read so far, in threads.

        Args:
            function: (number in the batch, index in the source, *values) -> result. An ImageError or OSError is dealt
                with as `Loading.on_error` says: the sample is not `ok` then.
            *columns: values of each sample.

        Returns:
            The results, None for samples that are not ok.
        """

        def guarded(number, *values):
            if self.ok[number]:
                index = self.samples[number][1]
                try:
                    return function(number, index, *values)
                except (OSError, ImageError) as error:
                    self.ok[number] = False
                    self._pipeline.fail(index, error)
            return None

        return list(self._pipeline.pool.map(guarded, range(len(self.samples)), *columns))


class Mode(NamedTuple):
    """What tells training from evaluation."""

    load: Callable  # (Batch) -> tuple of arrays (B, ...)
    signature: list[tf.TensorSpec]  # of these
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
        self._failures: dict[int, Failure] = {}
        self._lock = threading.Lock()
        self.pool = ThreadPoolExecutor(loading.threads or os.cpu_count(), "tfdeit")
        self._epoch = functools.lru_cache(maxsize=3)(functools.partial(order.epoch, len(source)))

    @property
    def failures(self) -> list[Failure]:
        """The images that could not be read so far, each once, in the order of the source."""
        with self._lock:
            return sorted(self._failures.values())

    def names(self, step: int) -> list[str]:
        """Returns what the samples of batch number `step` are called, in order."""
        return [self.source.name(index) for _, index, _ in self._samples(step)]

    def write_failures(self, path: str | os.PathLike) -> int:
        """Writes `failures` as JSON lines of index, name and reason; returns how many there are."""
        failures = self.failures
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(dataclasses.asdict(failure)) + "\n" for failure in failures)
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
        # Two at a time: the threads go on with the next batch while the last images of one are decoded.
        data = tf.data.Dataset.range(step, last).map(self._describe, num_parallel_calls=2, deterministic=True)
        if not self._mode.endless:
            data = data.filter(lambda batch: tf.size(batch["labels"]) > 0)
        options = tf.data.Options()
        options.autotune.enabled = False  # nothing is left to it, and it can hold up the end by its period, seconds
        return data.prefetch(2).with_options(options)

    def _describe(self, number):
        specs = [*self._mode.signature, *(tf.TensorSpec(shape, tf.int32) for shape in ((), (2,)))]
        size = self.batch_size if self._mode.endless else None
        arrays = tf.numpy_function(self._load, [number], [*(spec.dtype for spec in specs), tf.int32], stateful=False)
        *values, labels, seeds = (
            tf.ensure_shape(array, [size, *spec.shape]) for array, spec in zip(arrays, specs, strict=False)
        )
        seed = tf.ensure_shape(arrays[-1], [2])
        return {"values": tuple(values), "labels": labels, "seeds": seeds, "seed": seed, "step": number}

    def _load(self, number):
        """Batch `number`: values, labels, seeds, and the seed of the batch."""
        with _CALLS:
            batch = Batch(self, self._samples(int(number)))
            values = self._mode.load(batch)
            labels = self.source.labels[[index for _, index, _ in batch.samples]]
            arrays = *values, labels, batch.seeds
            if not batch.ok.all():
                kept = np.flatnonzero(batch.ok)
                if self._mode.endless:  # other samples stand for them: every batch is full, and resuming stays exact
                    if not len(kept):
                        raise ImageError("no image of a batch could be read")
                    numbers = np.arange(self.batch_size)
                    kept = np.where(batch.ok, numbers, kept[numbers % len(kept)])
                arrays = tuple(array[kept] for array in arrays)
            return *arrays, self.order.sample_seed(0, -1 - int(number), 0)  # never the number of a sample

    def _samples(self, number: int) -> list[tuple[int, int, int]]:
        """Epoch, index and repetition of the samples of batch `number`, counted over all epochs."""
        epoch, number = divmod(number, self.steps_per_epoch)
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return [(epoch, *row) for row in zip(*(column[part].tolist() for column in self._epoch(epoch)), strict=True)]

    def fail(self, index: int, error: Exception):
        """Deals with an image that cannot be read, as `Loading.on_error` says."""
        name = self.source.name(index)
        if self.loading.on_error == "raise":
            raise ImageError(f"{name}: {reason(error)} (on_error='skip' leaves such images out)") from error
        with self._lock:
            self._failures[index] = Failure(index, name, reason(error))
