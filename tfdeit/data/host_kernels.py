"""Kernels for the host, compiled by Numba (the extra `fast`). Other threads run meanwhile."""

import numba
import numpy as np

from tfdeit.resample import BITS


def _compiled(*arguments):
    def compiled(function):
        signature = numba.void(*arguments)
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # there is no directory to cache the machine code in
            return numba.njit(signature, nogil=True)(function)

    return compiled


def _read(dtype, dimensions):
    return numba.types.Array(dtype, dimensions, "C", readonly=True)


@_compiled(_read(numba.uint8, 2), _read(numba.int32, 1), _read(numba.int32, 2), numba.uint8[:, ::1])
def weigh(image, start, weights, result):
    """Writes weighted sums of rows, computed as in `resample`: (H, N) uint8, (h,), (h, K) to (h, N) uint8."""
    total = np.empty(image.shape[1], np.int32)
    for row in range(len(start)):
        total[:] = 1 << (BITS - 1)
        # The taps of an edge pixel may reach past the end of the image, where their weights are zero.
        for tap in range(min(weights.shape[1], len(image) - start[row])):
            pixels, weight = image[start[row] + tap], weights[row, tap]
            for i in range(len(total)):
                total[i] += weight * pixels[i]
        for i in range(len(total)):
            result[row, i] = min(max(total[i] >> BITS, 0), 255)


@numba.njit(inline="always")
def _swap(low, high, bits, mask):
    """Swaps the upper parts of the first word, each `bits` long, with the lower parts of the second."""
    bits, mask = np.uint64(bits), np.uint64(mask)
    return (low & mask) | ((high & mask) << bits), ((low >> bits) & mask) | (high & ~mask)


@_compiled(_read(numba.uint64, 2), numba.uint64[:, ::1])
def transpose(image, result):
    """Transposes bytes in blocks of 8x8: (8 H, W) uint64 to (8 W, H) uint64, little-endian.

    Reference: Warren, Hacker's Delight, section 7-3, which transposes bits.
    """
    for x in range(image.shape[1]):
        for y in range(len(image) // 8):
            a, b, c, d = image[8 * y, x], image[8 * y + 1, x], image[8 * y + 2, x], image[8 * y + 3, x]
            e, f, g, h = image[8 * y + 4, x], image[8 * y + 5, x], image[8 * y + 6, x], image[8 * y + 7, x]
            half, quarter, eighth = 0x00000000FFFFFFFF, 0x0000FFFF0000FFFF, 0x00FF00FF00FF00FF
            (a, e), (b, f) = _swap(a, e, 32, half), _swap(b, f, 32, half)
            (c, g), (d, h) = _swap(c, g, 32, half), _swap(d, h, 32, half)
            (a, c), (b, d) = _swap(a, c, 16, quarter), _swap(b, d, 16, quarter)
            (e, g), (f, h) = _swap(e, g, 16, quarter), _swap(f, h, 16, quarter)
            (a, b), (c, d) = _swap(a, b, 8, eighth), _swap(c, d, 8, eighth)
            (e, f), (g, h) = _swap(e, f, 8, eighth), _swap(g, h, 8, eighth)
            for number, word in enumerate((a, b, c, d, e, f, g, h)):
                result[8 * x + number, y] = word
