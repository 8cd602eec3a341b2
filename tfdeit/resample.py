"""Separable resampling: position tables as in torch and timm, images bit for bit as in Pillow.

Every kernel here is linear and separable, so one axis is described either by a small dense matrix (position tables,
inside the network) or by banded taps (images, where the matrix is nearly empty).
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL

# ---------------------------------------------------------------------------------------- position tables


def _cubic(x, a, xp=np):
    """Evaluate Keys' cubic convolution kernel with slope `a` at 1."""
    x = xp.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return xp.where(x < 1, inner, xp.where(x < 2, outer, 0.0))


def _clamped_matrix(in_size, out_size, kernel, taps):
    """Sample a kernel at `taps` points; pixel centres are at half-integers, edge pixels are repeated."""
    source = (np.arange(out_size) + 0.5) * in_size / out_size - 0.5
    columns = np.floor(source).astype(int)[:, None] + np.arange(taps) - (taps // 2 - 1)
    matrix = np.zeros((out_size, in_size))
    rows = np.arange(out_size)[:, None]
    np.add.at(matrix, (rows, columns.clip(0, in_size - 1)), kernel(source[:, None] - columns))
    return matrix


def _antialiased_matrix(in_size, out_size):
    return _band_matrix(*_bands(in_size, out_size, "bicubic", np.arange(out_size)), in_size)


def _band_matrix(start, weights, in_size):
    count, width = weights.shape
    matrix = np.zeros((count, in_size + width))  # the band of an edge pixel runs past the edge, with zeros
    np.put_along_axis(matrix, start[:, None] + np.arange(width), weights, axis=1)
    return matrix[:, :in_size]


_MATRICES: dict[str, Callable[[int, int], np.ndarray]] = {
    "torch": functools.partial(_clamped_matrix, kernel=functools.partial(_cubic, a=-0.75), taps=4),
    "timm": _antialiased_matrix,
    "bilinear": functools.partial(_clamped_matrix, kernel=lambda x: 1 - np.abs(x), taps=2),
}


def interpolation_matrix(in_size: int, out_size: int, kernel: str = "torch") -> np.ndarray:
    """Build the matrix that resamples one axis of a position table.

    Args:
        in_size: Length of the axis, at least 1.
        out_size: Length to resample to, at least 1.
        kernel: "torch": bicubic (A = -0.75), no antialiasing, edges repeated, as
            `torch.nn.functional.interpolate(mode="bicubic")` (Hugging Face, DeiT's own code, MMPretrain).
            "timm": the same call with `antialias=True` (A = -0.5, edges renormalised).
            "bilinear": `mode="bilinear"` (timm's loader of Google's .npz files).

    Returns:
        (out_size, in_size) float32. Rows sum to 1.

    Raises:
        ValueError: The kernel is unknown, or a size is below 1.
    """
    if kernel not in _MATRICES:
        raise ValueError(f"Expected kernel to be one of {', '.join(sorted(_MATRICES))}. Received: {kernel!r}.")
    if in_size < 1 or out_size < 1:
        raise ValueError(f"Expected sizes of at least 1. Received: in_size={in_size}, out_size={out_size}.")
    return _MATRICES[kernel](in_size, out_size).astype("float32")


def resize_positions(table: np.ndarray, size: tuple[int, int], kernel: str = "torch") -> np.ndarray:
    """Resample a grid of position embeddings, R_h @ P @ R_w^T.

    Args:
        table: (h, w, D), the patch part of a position table (no class or distillation row).
        size: (height, width) to resample to, in patches.
        kernel: See `interpolation_matrix`.

    Returns:
        (height, width, D) float32.
    """
    rows = interpolation_matrix(table.shape[0], size[0], kernel)
    columns = interpolation_matrix(table.shape[1], size[1], kernel)
    table = np.asarray(table, "float64")
    return np.einsum("ih,jw,hwd->ijd", rows, columns, table, optimize=True).astype("float32")


# --------------------------------------------------------------------------------------- Pillow's filters


def _libm(function, xp):
    """Return an elementwise function that agrees with Pillow's (NumPy's vectorised ones may differ by an ulp)."""
    return np.vectorize(getattr(math, function), otypes=[float]) if xp is np else getattr(xp, function)


def _sinc(x, xp):
    angle = xp.where(x == 0, 1.0, x * math.pi)
    return xp.where(x == 0, 1.0, _libm("sin", xp)(angle) / angle)


def _lanczos(x, xp):
    return xp.where((x >= -3) & (x < 3), _sinc(x, xp) * _sinc(x / 3, xp), 0.0)


def _hamming(x, xp):
    a, b = float(np.float32(0.54)), float(np.float32(0.46))  # Pillow writes them as float literals
    return xp.where(xp.abs(x) < 1, _sinc(x, xp) * (a + b * _libm("cos", xp)(x * math.pi)), 0.0)


# name -> (support in input pixels at scale 1, kernel)
_FILTERS: dict[str, tuple[float, Callable]] = {
    "box": (0.5, lambda x, xp: xp.where((x > -0.5) & (x <= 0.5), xp.ones_like(x), 0.0)),
    "bilinear": (1.0, lambda x, xp: xp.maximum(1 - xp.abs(x), 0.0)),
    "hamming": (1.0, _hamming),
    "bicubic": (2.0, functools.partial(_cubic, a=-0.5)),
    "lanczos": (3.0, _lanczos),
}


def filter_span(in_size, out_size, name: str, rows, xp=np):
    """Find the input pixels that make up each output row.

    Args:
        in_size: Length of the axis.
        out_size: Length to resample to.
        name: See `plan_resize`.
        rows: (R,) float64 whole numbers, rows of the output.
        xp: The array library: numpy; or keras.ops, inside a graph where sizes are float64 tensors.

    Returns:
        The first pixel, and the one after the last, each (R,) float64 whole numbers that never decrease.
    """
    step = in_size / out_size
    if name == "nearest":
        # Pillow adds up the step, rounding errors and all.
        steps = xp.where(xp.arange(xp.max(rows) + 1) == 0, step * 0.5, step)
        position = xp.take(xp.cumsum(steps, axis=0), xp.array(rows, "int32"))
        first = xp.minimum(xp.floor(position), in_size - 1)
        return first, first + 1
    centre, support = (rows + 0.5) * step, _FILTERS[name][0] * xp.maximum(step, 1.0)
    return xp.maximum(xp.floor(centre - support + 0.5), 0.0), xp.minimum(xp.floor(centre + support + 0.5), in_size)


def filter_weights(in_size, out_size, name: str, rows, columns, xp=np):
    """Compute the weights of input pixels in output rows.

    Args:
        in_size: As for `filter_span`.
        out_size: As for `filter_span`.
        name: As for `filter_span`.
        rows: As for `filter_span`.
        columns: (R, K) or (1, K) float64 whole numbers, pixels of the input in ascending order.
        xp: As for `filter_span`.

    Returns:
        (R, K) float64, zero for pixels outside the span of a row; rows sum to 1.
    """
    start, stop = (end[:, None] for end in filter_span(in_size, out_size, name, rows, xp))
    inside = (columns >= start) & (columns < stop)
    if name == "nearest":
        return xp.where(inside, xp.ones_like(columns), 0.0)
    # A filter is widened to downsample, never narrowed to upsample.
    centre, stretch = (rows[:, None] + 0.5) * (in_size / out_size), xp.maximum(in_size / out_size, 1.0)
    weights = xp.where(inside, _FILTERS[name][1]((columns - centre + 0.5) * (1.0 / stretch), xp=xp), 0.0)
    return weights / xp.cumsum(weights, axis=1)[:, -1:]  # cumsum adds left to right, as Pillow does


def _bands(in_size, out_size, name, rows):
    """Compute start (R,) and weights (R, K) of rows of the output, without the zeros around them."""
    start, stop = filter_span(in_size, out_size, name, rows)
    columns = start[:, None] + np.arange((stop - start).max())
    return start.astype(int), filter_weights(in_size, out_size, name, rows, columns)


# ------------------------------------------------------------------------------------------ Pillow's images

BITS = 22  # Pillow's PRECISION_BITS for 8-bit images: 32 - 8 - 2


class Taps(NamedTuple):
    """Banded integer weights of one axis: output i is `sum_k weights[i, k] * input[start[i] + k] / 2**22`."""

    start: np.ndarray  # (count,) int32
    weights: np.ndarray  # (count, K) int32, zero where start + k passes the end of the input


class ResizePlan(NamedTuple):
    """How to resize and crop images of one size, see `plan_resize`."""

    source: tuple[slice, slice]  # rows and columns of the input that are read
    rows: Taps  # counted from the first row that is read
    columns: Taps
    vertical: bool  # the vertical pass comes first


def fixed_point(weights, xp=np):
    """Convert weights to the whole numbers by which Pillow multiplies 8-bit pixels."""
    return xp.sign(weights) * xp.floor(xp.abs(weights) * 2**BITS + 0.5)


def vertical_first(in_size, out_size, order: str | None = None):
    """Whether Pillow does the vertical pass before the horizontal one.

    Args:
        in_size: (height, width) of the image, whole numbers or tensors of them.
        out_size: (height, width) to resize to.
        order: See `plan_resize`.
    """
    order = order or ("pillow13" if int(PIL.__version__.split(".")[0]) >= 13 else "horizontal")
    shrink = in_size[0] - out_size[0]
    return (order == "pillow13") & (shrink > 0) & (shrink > 2 * (in_size[1] - out_size[1]))


@functools.lru_cache(maxsize=2048)
def _image_taps(in_size, out_size, name, first, count):
    window = np.arange(first, first + count)
    rows = window.clip(0, out_size - 1)
    start, weights = _bands(in_size, out_size, name, rows)
    weights = fixed_point(weights)
    weights[rows != window] = 0
    source = slice(int(start.min()), int(min(start.max() + weights.shape[1], in_size)))
    taps = Taps((start - source.start).astype("int32"), weights.astype("int32"))
    for array in taps:
        array.flags.writeable = False  # shared by the cache
    return source, taps


def plan_resize(
    in_size: tuple[int, int],
    out_size: tuple[int, int],
    name: str,
    window: tuple[int, int, int, int] | None = None,
    order: str | None = None,
) -> ResizePlan:
    """Plan Pillow's 8-bit resize as the integers by which it multiplies, for only the wanted part of the result.

    Plans are made on the host, and their taps are passed to compiled code: XLA rounds the weights inconsistently.

    Args:
        in_size: (height, width) of the image in pixels.
        out_size: (height, width) to resize to.
        name: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos".
        window: (top, left, height, width) to cut out of the resized image, all of it by default. Pixels outside the
            resized image are 0.
        order: Which pass comes first, which changes the last bit of some pixels. "horizontal": Pillow up to 12.
            "pillow13": vertical if the height shrinks by more than twice as much as the width. None: as in the
            installed Pillow.

    Reference: Pillow's src/libImaging/Resample.c and Geometry.c.
    """
    top, left, height, width = window or (0, 0, *out_size)
    read_rows, rows = _image_taps(in_size[0], out_size[0], name, top, height)
    read_columns, columns = _image_taps(in_size[1], out_size[1], name, left, width)
    return ResizePlan((read_rows, read_columns), rows, columns, vertical_first(in_size, out_size, order))


def resample(image, rows: Taps, columns: Taps, vertical: bool, xp=np):
    """Resize 8-bit images with Pillow's integer arithmetic.

    Args:
        image: (..., H, W, C) uint8, the `source` part of a plan.
        rows: Taps of the vertical axis.
        columns: Taps of the horizontal axis.
        vertical: Whether the vertical pass comes first.
        xp: The array library: numpy, or keras.ops (inside a compiled function, on any backend).

    Returns:
        (..., rows, columns, C) int32 in 0..255, equal to Pillow's pixels.
    """
    passes = [(rows, -3), (columns, -2)]
    for taps, axis in passes if vertical else reversed(passes):
        image = _resample_axis(image, taps, axis, xp)
    return image


def _resample_axis(image, taps, axis, xp):
    last = image.shape[axis] - 1
    total = 1 << (BITS - 1)
    for k in range(taps.weights.shape[1]):
        weight = xp.reshape(taps.weights[:, k], (-1,) + (1,) * (-1 - axis))
        # The band of an edge pixel may run past the end of the image, where its weights are zero.
        pixels = xp.take(image, xp.minimum(taps.start + k, last), axis=axis)
        total = xp.add(total, xp.multiply(pixels, weight))
    return xp.clip(xp.right_shift(total, BITS), 0, 255)


def taps_matrix(taps: Taps, in_size: int) -> np.ndarray:
    """Convert taps to a dense matrix, (count, in_size) float32."""
    return _band_matrix(taps.start, taps.weights / 2**BITS, in_size).astype("float32")


def resample_float(image, rows, columns, vertical: bool, xp=np):
    """Resize 8-bit images with matrix products, rounding to 8 bits between the two passes.

    Args:
        image: (B, H, W, C) uint8.
        rows: (rows, H) float32, see `taps_matrix`.
        columns: (columns, W) float32.
        vertical: Whether the vertical pass comes first.
        xp: The array library: numpy or keras.ops.

    Returns:
        (B, rows, columns, C) float32, whole numbers in 0..255. About one in ten thousand differs from Pillow's by 1.
    """
    passes = [("oh,bhwc->bowc", rows), ("ow,bhwc->bhoc", columns)]
    for equation, matrix in passes if vertical else reversed(passes):
        image = xp.einsum(equation, matrix, xp.multiply(image, 1.0))
        image = xp.clip(xp.floor(image + 0.5), 0, 255)
    return image


def bucket(length: int) -> int:
    """Return the smallest of 1, 2, 3, 4, 6, 8, 12, 16, ... that is at least `length`.

    Padded to these lengths, images of all sizes have only a few shapes, so only a few functions are compiled.
    """
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= length else power
