"""Pillow's resizing on the host at four times Pillow's speed, with Numba (the extra `fast`)."""

import functools
from collections.abc import Callable

import numpy as np

from tfdeit.resample import ResizePlan, Taps


@functools.cache
def compiled_resize() -> Callable[[np.ndarray, ResizePlan], np.ndarray] | None:
    """Compiles what `resample` computes, for images on the host.

    Returns:
        Function of an image (H, W, 3) uint8, the part that a plan reads, and the plan: the result (h, w, 3) uint8,
        equal to Pillow's pixels. It lets other threads run. None where Numba is not installed.
    """
    try:
        from tfdeit.data.host_kernels import transpose, weigh
    except ImportError:
        return None

    def transposed(image):
        """(H, N) to (N, H), both multiples of 8."""
        result = np.empty(image.shape[::-1], "uint8")
        transpose(image.view("u8"), result.view("u8"))
        return result

    def rows(image, taps: Taps):
        """(H, W, 3) to (h, W, 3)."""
        result = np.empty((len(taps.start), *image.shape[1:]), "uint8")
        weigh(np.ascontiguousarray(image).reshape(len(image), -1), *taps, result.reshape(len(result), -1))
        return result

    def columns(image, taps: Taps):
        """(H, W, 3) to (H, w, 3): transposing twice is cheaper than summing along the innermost axes.

        What is added to make multiples of 8 is never initialised, and cut off in the end.
        """
        height, before, after = len(image), 3 * image.shape[1], 3 * len(taps.start)
        padded = np.empty((_padded(height), _padded(before)), "uint8")
        padded[:height, :before] = image.reshape(height, -1)
        upright = transposed(padded)
        narrow = np.empty((_padded(after), len(padded)), "uint8")
        pixels = len(taps.start), -1  # three values of all rows each
        weigh(upright[:before].reshape(image.shape[1], -1), *taps, narrow[:after].reshape(pixels))
        return transposed(narrow)[:height, :after].reshape(height, -1, 3)

    def resize(image, plan):
        if plan.vertical:
            return columns(rows(image, plan.rows), plan.columns)
        return rows(columns(image, plan.columns), plan.rows)

    return resize


def _padded(length):
    return -(-length // 8) * 8
