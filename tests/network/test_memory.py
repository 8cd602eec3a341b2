import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfdeit.config import DeiTConfig, ViTConfig
from tfdeit.network import memory

IMAGES = np.arange(10)


def limited(most, error):
    """A function that fails above `most` images."""

    def run(images):
        if len(images) > most:
            raise error
        return images * 2

    return run


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        MemoryError(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_is_halved_until_it_fits(error):
    results, part = memory.run_split(limited(3, error), IMAGES, 8)
    assert part == 2
    np.testing.assert_array_equal(np.concatenate(results), IMAGES * 2)
    with pytest.raises(type(error)):
        memory.run_split(limited(0, error), IMAGES, 8)


def test_other_errors_are_raised():
    with pytest.raises(ValueError, match="a mistake"):
        memory.run_split(limited(3, ValueError("a mistake")), IMAGES, 8)


def test_parts_of_a_batch():
    results, part = memory.run_split(limited(4, MemoryError()), IMAGES, 4)
    assert (part, [len(result) for result in results]) == (4, [4, 4, 2])


def test_the_batch_that_fits(monkeypatch):
    config = DeiTConfig()
    monkeypatch.setattr(memory, "free_bytes", lambda: 10 * memory.image_bytes(config))
    assert memory.fitting_batch(config, 100) == 8
    assert memory.fitting_batch(config, 5) == 5
    assert memory.fitting_batch(config, 100, "bfloat16") > 8
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    assert memory.fitting_batch(config, 100) == 1
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    assert memory.fitting_batch(config, 100) == 100


def test_pages_of_files_are_free(monkeypatch):
    """A control group counts them as used, and drops them when memory is wanted."""
    files = {"meminfo": "MemAvailable: 900 kB", "memory.max": "600000", "memory.current": "590000"}
    files |= {"memory.stat": "anon 90000\ninactive_file 500000\nactive_file 5"}
    monkeypatch.setattr(memory, "open", lambda path, encoding: io.StringIO(files[Path(path).name]), raising=False)
    assert memory.free_bytes() == 510_000


def test_bytes_of_an_image():
    small, large = ViTConfig(), ViTConfig(image_size=384)
    tokens = 24 * 24 + 1
    assert memory.image_bytes(large) == 4 * (3 * 384**2 + 8 * tokens * 768 + 2 * 12 * tokens**2)
    assert memory.image_bytes(small) < memory.image_bytes(large) / 3  # scores grow with the square of tokens
