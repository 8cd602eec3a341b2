"""Pillow's resizing on the host at four times Pillow's speed, with Numba (the extra `fast`)."""

import functools
from collections.abc import Callable

import numpy as np

from tfdeit.resample import ResizePlan, Taps


@functools.cache
def compiled_resize() -> Callable[[np.ndarray, ResizePlan], np.ndarray] | None:
    """Compiles the computation of `resample`, for images on the host.

    Returns:
        A function of the part of an image that a plan reads, (H, W, 3) uint8, and of the plan; it returns Pillow's
        pixels, (h, w, 3) uint8, and lets other threads run meanwhile. None if Numba is not installed.
    """
    try:
        from tfdeit.data.host_kernels import transpose, weigh
    except ImportError:
        return None

    def transposed(image):
        """Transposes (H, N) to (N, H), both multiples of 8."""
        result = np.empty(image.shape[::-1], "uint8")
        transpose(image.view("u8"), result.view("u8"))
        return result

    def rows(image, taps: Taps):
        """Resizes (H, W, 3) to (h, W, 3)."""
        result = np.empty((len(taps.start), *image.shape[1:]), "uint8")
        weigh(np.ascontiguousarray(image).reshape(len(image), -1), *taps, result.reshape(len(result), -1))
        return result

    def columns(image, taps: Taps):
        """Resizes (H, W, 3) to (H, w, 3); transposing twice is cheaper than summing along the innermost axes.

        The padding to multiples of 8 is never initialised, and dropped at the end.
        """
        height, before, after = len(image), 3 * image.shape[1], 3 * len(taps.start)
        padded = np.empty((_padded(height), _padded(before)), "uint8")
        padded[:height, :before] = image.reshape(height, -1)
        upright = transposed(padded)
        narrow = np.empty((_padded(after), len(padded)), "uint8")
        pixels = len(taps.start), -1  # each of them three values of every row
        weigh(upright[:before].reshape(image.shape[1], -1), *taps, narrow[:after].reshape(pixels))
        return transposed(narrow)[:height, :after].reshape(height, -1, 3)

    def resize(image, plan):
        if plan.vertical:
            return columns(rows(image, plan.rows), plan.columns)
        return rows(columns(image, plan.columns), plan.rows)

    return resize


def _padded(length):
    return -(-length // 8) * 8
