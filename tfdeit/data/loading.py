"""Samples in order, read and decoded in threads, in batches; a run can resume at any of them."""

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
from tfdeit.data.source import Source
from tfdeit.preprocessing.images import ImageError, reason


@dataclasses.dataclass(frozen=True)
class Loading:
    """How the host loads images.

    Args:
        on_error: what to do about an image that cannot be read: "raise" an error that names it, or "skip" it (see
            `Pipeline.failures`).
        threads: number of decoding threads; None means one per core. The pixels do not depend on it.
        resize_on: where evaluation resizes, "host" or "device"; None means the device if it is a GPU. The pixels do
            not depend on it.
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
    """Counts calls into Python by TensorFlow's threads, which would wait forever once the interpreter has shut down.

    At exit, new calls fail at once, and the interpreter waits for those still running.
    """

    def __init__(self):
        self.lock, self.running, self.closed = threading.Lock(), 0, False
        atexit.register(self.close)

    def __enter__(self):
        with self.lock:
            if self.closed:
                raise RuntimeError("Python is shutting down")
            self.running += 1

    def __exit__(self, *error):
        with self.lock:
            self.running -= 1

    def close(self):
        self.closed = True
        while self.running:
            time.sleep(0.01)
        time.sleep(0.05)  # for calls that were about to start


_CALLS = _Calls()


@dataclasses.dataclass(frozen=True, order=True)
class Failure:
    """An image that could not be read."""

    index: int
    name: str
    reason: str


_unused: collections.deque[np.ndarray] = collections.deque(maxlen=8)


def tensor_memory(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Returns an uninitialised array, aligned to 64 bytes: TensorFlow takes it over without copying.

    Its memory is reused once the array is gone (views of it must not outlive it), because fresh pages cost the kernel
    as much as copying does.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = _take_unused(size + 63)
    start = -memory.ctypes.data % 64
    array = memory[start : start + size].view(dtype).reshape(shape)
    weakref.finalize(array, _unused.append, memory).atexit = False
    return array


def _take_unused(size: int) -> np.ndarray:
    for _ in range(len(_unused)):
        with contextlib.suppress(IndexError):  # another thread took the last one
            memory = _unused.popleft()
            if size <= memory.size <= 2 * size:
                return memory
            _unused.append(memory)
    return np.empty(size, "uint8")


class Batch:
    """The samples of a batch while it is being loaded.

    Attributes:
        samples: (epoch, index, repetition) of each.
        seeds: seeds for augmenting them, (B, 2) int32.
        ok: which of them could be read so far, (B,) bool.
    """

    def __init__(self, pipeline: "Pipeline", samples: list[tuple[int, int, int]]):
        self._pipeline, self.samples = pipeline, samples
        self.seeds = np.array([pipeline.order.sample_seed(*sample) for sample in samples], "int32").reshape(-1, 2)
        self.ok = np.ones(len(samples), bool)

    def map(self, function: Callable, *columns: Iterable) -> list:
        """Calls a function in threads, for each sample that could be read so far.

        Args:
            function: (number in the batch, index in the source, *values) -> result. If it raises an ImageError or
                OSError, the sample is no longer `ok`, and `Loading.on_error` says what to do.
            *columns: values for each sample.

        Returns:
            The results; None for samples that are not `ok`.
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
    """How training and evaluation differ."""

    load: Callable  # (Batch) -> tuple of arrays (B, ...)
    signature: list[tf.TensorSpec]  # one row of each of these arrays
    finish: Callable  # (a batch of `Pipeline.host`) -> (pixel_values, labels)
    endless: bool  # whether epoch follows epoch, in full batches


class Pipeline:
    """Batches of a source, made by `train_pipeline` or `eval_pipeline`.

    Its state is one number, the count of batches so far: `dataset(step)` continues after `step` batches without
    reading what came before, with the pixels of an uninterrupted run.

    Attributes:
        source: the images.
        steps_per_epoch: number of batches in an epoch.
        finish: `(batch of host()) -> (pixel_values, labels)`, computed on the current device.
    """

    def __init__(self, source: Source, order: Order, batch_size: int, mode: Mode, loading: Loading):
        self.source, self.order, self.batch_size, self.loading = source, order, batch_size, loading
        self.finish, self._mode = mode.finish, mode
        length = order.length(len(source))
        self.steps_per_epoch = order.steps(len(source), batch_size) if mode.endless else -(-length // batch_size)
        if not self.steps_per_epoch:
            raise ValueError(
                f"Expected images for at least one batch on every worker. Received: {len(source)} images, "
                f"batch_size={batch_size}, {order}. Reduce batch_size, or add images."
            )
        self._failures: dict[int, Failure] = {}
        self._lock = threading.Lock()
        self.pool = ThreadPoolExecutor(loading.threads or os.cpu_count(), "tfdeit")
        self._epoch = functools.lru_cache(maxsize=3)(functools.partial(order.epoch, len(source)))

    @property
    def failures(self) -> list[Failure]:
        """The images that could not be read so far, without repetition, in the order of the source."""
        with self._lock:
            return sorted(self._failures.values())

    def names(self, step: int) -> list[str]:
        """Returns the names of the images of batch number `step`, in order."""
        return [self.source.name(index) for _, index, _ in self._samples(step)]

    def write_failures(self, path: str | os.PathLike) -> int:
        """Writes `failures` as JSON lines of index, name and reason, and returns their number."""
        failures = self.failures
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(dataclasses.asdict(failure)) + "\n" for failure in failures)
        return len(failures)

    def dataset(self, step: int = 0, steps: int | None = None) -> tf.data.Dataset:
        """Returns the batches from number `step` on.

        Args:
            step: number of batches to leave out at the start, counted over all epochs.
            steps: number of batches to return; None means all that follow, which in training never end.

        Returns:
            Dataset of (pixel_values (B, S, S, 3) float32, labels).
        """
        return self.host(step, steps).map(self.finish).prefetch(2)

    def host(self, step: int = 0, steps: int | None = None) -> tf.data.Dataset:
        """Returns the same batches before `finish`, for loops that call it on an accelerator.

        Returns:
            Dataset of dictionaries: values, a tuple of (B, ...) with the uint8 images first; labels (B,) int32; seeds
            (B, 2) int32, one per image; seed (2,) int32, for the batch; step () int64, its number.
        """
        last = np.iinfo("int64").max // self.batch_size if self._mode.endless else self.steps_per_epoch
        if not 0 <= step <= last or (steps or 0) < 0:
            raise ValueError(f"Expected a step from 0 to {last}, and steps >= 0. Received: step={step}, steps={steps}")
        last = last if steps is None else min(step + steps, last)
        # Two at a time: threads start on the next batch while the last images of one are being decoded.
        data = tf.data.Dataset.range(step, last).map(self._describe, num_parallel_calls=2, deterministic=True)
        if not self._mode.endless:
            data = data.filter(lambda batch: tf.size(batch["labels"]) > 0)
        options = tf.data.Options()
        options.autotune.enabled = False  # has nothing to tune, and can delay the end by its period of seconds
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
        """Loads batch `number`: values, labels, seeds, and the seed of the batch."""
        with _CALLS:
            batch = Batch(self, self._samples(int(number)))
            values = self._mode.load(batch)
            labels = self.source.labels[[index for _, index, _ in batch.samples]]
            arrays = *values, labels, batch.seeds
            if not batch.ok.all():
                kept = np.flatnonzero(batch.ok)
                if self._mode.endless:  # others take their place, so every batch is full and resuming stays exact
                    if not len(kept):
                        first = self._failures[batch.samples[0][1]]
                        raise ImageError(f"no image of a batch could be read; {first.name}, the first: {first.reason}")
                    numbers = np.arange(self.batch_size)
                    kept = np.where(batch.ok, numbers, kept[numbers % len(kept)])
                arrays = tuple(array[kept] for array in arrays)
            return *arrays, self.order.sample_seed(0, -1 - int(number), 0)  # negative, so no sample has it

    def _samples(self, number: int) -> list[tuple[int, int, int]]:
        """Returns epoch, index and repetition of each sample of batch `number`, counted over all epochs."""
        epoch, number = divmod(number, self.steps_per_epoch)
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return [(epoch, *row) for row in zip(*(column[part].tolist() for column in self._epoch(epoch)), strict=True)]

    def fail(self, index: int, error: Exception):
        """Handles an image that cannot be read, as `Loading.on_error` says."""
        name = self.source.name(index)
        if self.loading.on_error == "raise":
            raise ImageError(f"{name}: {reason(error)} (on_error='skip' leaves such images out)") from error
        with self._lock:
            self._failures[index] = Failure(index, name, reason(error))
