"""How many images fit into memory at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfdeit.config import ViTConfig

_SHARE = 0.8  # of what is free, that a batch may take


def image_bytes(config: ViTConfig, dtype: str = "float32") -> int:
    """Returns how many bytes the forward pass needs for each image, at its peak: inside a block.

    Counted are the tensors that are there at the same time, in attention (tokens, normalised tokens, qkv before and
    after its transposition, scores and probabilities) and in the MLP (tokens, normalised tokens, hidden layer),
    whichever needs more; and the pixel values.

    Args:
        config: of the model.
        dtype: of the activations: "float32", "bfloat16" or "float16".
    """
    pixels = 4 * config.num_channels * config.image_hw[0] * config.image_hw[1]
    length, width = config.num_tokens, config.hidden_size
    attention = 8 * length * width + 2 * config.num_attention_heads * length**2
    mlp = length * (3 * width + config.intermediate_size)
    return pixels + (4 if dtype == "float32" else 2) * max(attention, mlp)


def free_bytes() -> int | None:
    """Returns the memory that this process may still take, of the machine and its control group; None if unknown."""
    free = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free += [1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:")]
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit:
            most = limit.read().strip()
        if most != "max":
            with open("/sys/fs/cgroup/memory.current", encoding="ascii") as used:
                taken = int(used.read())
            with open("/sys/fs/cgroup/memory.stat", encoding="ascii") as stat:  # pages of files make room when asked
                taken -= sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
            free.append(int(most) - taken)
    except OSError:  # another system, or no such group
        pass
    return min(free, default=None)


def fitting_batch(config: ViTConfig, batch: int, dtype: str = "float32") -> int:
    """Returns the largest batch, of `batch` images at most and one at least, that should fit into free memory."""
    free = free_bytes()
    return batch if free is None else max(1, min(batch, int(free * _SHARE / image_bytes(config, dtype))))


def run_split(run: Callable[[np.ndarray], Any], images: np.ndarray, most: int) -> tuple[list[Any], int]:
    """Runs a function on a batch, in parts of `most` images, and of half as many whenever memory ends.

    Args:
        run: from (B, ...) to any result.
        images: (B, ...).
        most: images at a time, at first.

    Returns:
        The results of the parts in order, and how many images a part had in the end.

    Raises:
        Exception: what `run` raises, if it is of another kind, or one image is too much.
    """
    results, start = [], 0
    while start < len(images):
        part = images[start : start + most]
        try:
            results.append(run(part))
        except Exception as error:
            if len(part) == 1 or not is_exhaustion(error):
                raise
            most = len(part) // 2
            continue
        start += len(part)
    return results, most


def is_exhaustion(error: Exception) -> bool:
    """Whether an exception of TensorFlow, JAX, PyTorch or Python says that memory ended."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    return bool(
        names & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}
        or "RESOURCE_EXHAUSTED" in text
        or "out of memory" in text.lower()
        or "not enough memory" in text  # PyTorch's on a processor
    )
