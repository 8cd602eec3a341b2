"""Pillow's resizing on the host at four times Pillow's speed, with Numba (the extra `fast`)."""

import functools
from collections.abc import Callable

import numpy as np

from tfdeit.resample import BITS, ResizePlan, Taps


@functools.cache
def compiled_resize() -> Callable[[np.ndarray, ResizePlan], np.ndarray] | None:
    """Compiles what `resample` computes, for images on the host.

    Returns:
        Function of an image (H, W, 3) uint8, the part that a plan reads, and the plan: the result (h, w, 3) uint8,
        equal to Pillow's pixels. It lets other threads run. None where Numba is not installed.
    """
    try:
        import numba
    except ImportError:
        return None
    arrays = [
        numba.types.Array(dtype, dimensions, "C", readonly=True)
        for dtype, dimensions in ((numba.uint8, 2), (numba.int32, 1), (numba.int32, 2))
    ]
    signature = numba.void(*arrays, numba.uint8[:, ::1])
    try:
        weigh = numba.njit(signature, nogil=True, cache=True)(_weigh)
    except RuntimeError:  # there is no directory that the machine code could be kept in
        weigh = numba.njit(signature, nogil=True)(_weigh)

    def rows(image, taps: Taps):
        """(H, ...) to (h, ...)."""
        result = np.empty((len(taps.start), *image.shape[1:]), "uint8")
        weigh(np.ascontiguousarray(image).reshape(len(image), -1), *taps, result.reshape(len(result), -1))
        return result

    def columns(image, taps: Taps):
        """(H, W, 3) to (H, w, 3): transposing twice is cheaper than summing along the innermost axes."""
        height = len(image)
        upright = np.ascontiguousarray(image.reshape(height, -1).T)  # (W * 3, H)
        narrow = rows(upright.reshape(-1, 3 * height), taps).reshape(-1, height)
        return np.ascontiguousarray(narrow.T).reshape(height, -1, 3)

    def resize(image, plan):
        if plan.vertical:
            return columns(rows(image, plan.rows), plan.columns)
        return rows(columns(image, plan.columns), plan.rows)

    return resize


def _weigh(image, start, weights, result):
    """Weighted sums of rows, as `resample` has them: (H, N), (h,), (h, K) to (h, N). Numba compiles it."""
    total = np.empty(image.shape[1], np.int32)
    for row in range(len(start)):
        total[:] = 1 << (BITS - 1)
        # The band of an edge pixel may run past the end of the image, where its weights are zero.
        for tap in range(min(weights.shape[1], len(image) - start[row])):
            pixels, weight = image[start[row] + tap], weights[row, tap]
            for i in range(len(total)):
                total[i] += weight * pixels[i]
        for i in range(len(total)):
            result[row, i] = min(max(total[i] >> BITS, 0), 255)
