"""How many images fit into memory at once."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfdeit.config import ViTConfig

_SHARE = 0.8  # of the free memory, for a batch


def image_bytes(config: ViTConfig, dtype: str = "float32") -> int:
    """Returns how many bytes per image the forward pass needs at its peak, which is inside a block.

    Counts the pixel values, and the tensors that exist at the same time, either in attention (tokens, normalised
    tokens, qkv before and after its transposition, scores and probabilities) or in the MLP (tokens, normalised tokens,
    hidden layer), whichever needs more.

    Args:
        config: the model's.
        dtype: of the activations: "float32", "bfloat16" or "float16".
    """
    pixels = 4 * config.num_channels * config.image_hw[0] * config.image_hw[1]
    length, width = config.num_tokens, config.hidden_size
    attention = 8 * length * width + 2 * config.num_attention_heads * length**2
    mlp = length * (3 * width + config.intermediate_size)
    return pixels + (4 if dtype == "float32" else 2) * max(attention, mlp)


def free_bytes() -> int | None:
    """Returns the bytes that the machine and the control group still have for this process; None if unknown."""
    free = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free += [1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:")]
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit:
            most = limit.read().strip()
        if most != "max":
            with open("/sys/fs/cgroup/memory.current", encoding="ascii") as used:
                taken = int(used.read())
            with open("/sys/fs/cgroup/memory.stat", encoding="ascii") as stat:  # cached files make room when needed
                taken -= sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
            free.append(int(most) - taken)
    except OSError:  # not Linux, or no control group
        pass
    return min(free, default=None)


def fitting_batch(config: ViTConfig, batch: int, dtype: str = "float32") -> int:
    """Returns the largest batch size, from 1 to `batch`, that should fit into free memory."""
    free = free_bytes()
    return batch if free is None else max(1, min(batch, int(free * _SHARE / image_bytes(config, dtype))))


def run_split(run: Callable[[np.ndarray], Any], images: np.ndarray, most: int) -> tuple[list[Any], int]:
    """Runs a function on a batch in parts of `most` images, halved whenever memory runs out.

    Args:
        run: maps images (B, ...) to any result.
        images: (B, ...).
        most: images per part, to begin with.

    Returns:
        The results of the parts in order, and the number of images per part in the end.

    Raises:
        Exception: what `run` raises, if it is of another kind, or even one image is too many.
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
    """Whether an exception of TensorFlow, JAX, PyTorch or Python says that memory ran out."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    return bool(
        names & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}
        or "RESOURCE_EXHAUSTED" in text
        or "out of memory" in text.lower()
        or "not enough memory" in text  # PyTorch's on a CPU
    )
