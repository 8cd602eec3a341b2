"""Separable resampling: position tables as torch and timm do it, images bit for bit as Pillow does it.

Every kernel here is linear and separable, so one axis is described either by a small dense matrix
(position tables, inside the network) or by banded taps (images, where the matrix is nearly empty).
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import PIL

# ---------------------------------------------------------------------------------------- position tables


def _cubic(x, a):
    """Keys' cubic convolution kernel with slope `a` at 1."""
    x = np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def _clamped_matrix(in_size, out_size, kernel, taps):
    """Point-sampled kernel of `taps` taps, pixel centres at half-integers, edge pixels repeated."""
    source = (np.arange(out_size) + 0.5) * in_size / out_size - 0.5
    columns = np.floor(source).astype(int)[:, None] + np.arange(taps) - (taps // 2 - 1)
    matrix = np.zeros((out_size, in_size))
    rows = np.arange(out_size)[:, None]
    np.add.at(matrix, (rows, columns.clip(0, in_size - 1)), kernel(source[:, None] - columns))
    return matrix


def _antialiased_matrix(in_size, out_size):
    return _band_matrix(*_filter_weights(in_size, out_size, "bicubic", np.arange(out_size)), in_size)


def _band_matrix(start, weights, in_size):
    count, width = weights.shape
    matrix = np.zeros((count, in_size + width))  # the band of an edge pixel runs past the edge, with zeros
    np.put_along_axis(matrix, start[:, None] + np.arange(width), weights, axis=1)
    return matrix[:, :in_size]


_MATRICES = {
    "torch": functools.partial(_clamped_matrix, kernel=functools.partial(_cubic, a=-0.75), taps=4),
    "timm": _antialiased_matrix,
    "bilinear": functools.partial(_clamped_matrix, kernel=lambda x: 1 - np.abs(x), taps=2),
}


def interpolation_matrix(in_size: int, out_size: int, kernel: str = "torch") -> np.ndarray:
    """Matrix that resamples one axis of a position table.

    Args:
        in_size: Length of the axis, at least 1.
        out_size: Wanted length, at least 1.
        kernel: "torch": bicubic (A = -0.75), no antialiasing, edges repeated, as
            `torch.nn.functional.interpolate(mode="bicubic")` (Hugging Face, DeiT's own code, MMPretrain).
            "timm": the same call with `antialias=True` (A = -0.5, edges renormalised).
            "bilinear": `mode="bilinear"` (timm's loader of Google's .npz files).

    Returns:
        (out_size, in_size) float32. Rows sum to 1.

    Raises:
        ValueError: Unknown kernel, or a size below 1.
    """
    if kernel not in _MATRICES:
        raise ValueError(f"Expected a kernel out of {sorted(_MATRICES)}. Received: kernel={kernel!r}")
    if in_size < 1 or out_size < 1:
        raise ValueError(f"Expected sizes of at least 1. Received: in_size={in_size}, out_size={out_size}")
    return _MATRICES[kernel](in_size, out_size).astype("float32")


def resize_positions(table: np.ndarray, size: tuple[int, int], kernel: str = "torch") -> np.ndarray:
    """Resample a grid of position embeddings, R_h @ P @ R_w^T.

    Args:
        table: (h, w, D), the patch part of a position table (no class or distillation row).
        size: Wanted (height, width) in patches.
        kernel: See `interpolation_matrix`.

    Returns:
        (height, width, D) float32.
    """
    rows = interpolation_matrix(table.shape[0], size[0], kernel)
    columns = interpolation_matrix(table.shape[1], size[1], kernel)
    table = np.asarray(table, "float64")
    return np.einsum("ih,jw,hwd->ijd", rows, columns, table, optimize=True).astype("float32")


# --------------------------------------------------------------------------------------- Pillow's filters


def _sinc(x):
    """sin(pi x) / (pi x) with libm's sin, which Pillow calls (NumPy's vectorised one may differ by an ulp)."""
    sin = np.vectorize(math.sin, otypes=[float])
    angle = np.where(x == 0, 1.0, x * math.pi)
    return np.where(x == 0, 1.0, sin(angle) / angle)


def _hamming(x):
    a, b = float(np.float32(0.54)), float(np.float32(0.46))  # Pillow writes them as float literals
    window = np.vectorize(lambda angle: a + b * math.cos(angle), otypes=[float])
    return np.where(np.abs(x) < 1, _sinc(x) * window(x * math.pi), 0.0)


# name -> (support in input pixels at scale 1, kernel)
_FILTERS = {
    "box": (0.5, lambda x: ((x > -0.5) & (x <= 0.5)).astype(float)),
    "bilinear": (1.0, lambda x: np.maximum(1 - np.abs(x), 0.0)),
    "hamming": (1.0, _hamming),
    "bicubic": (2.0, functools.partial(_cubic, a=-0.5)),
    "lanczos": (3.0, lambda x: np.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3), 0.0)),
}


def _filter_weights(in_size, out_size, name, rows):
    """Start (R,) and normalised float64 weights (R, K) of the wanted output rows."""
    support, kernel = _FILTERS[name]
    scale = in_size / out_size
    stretch = max(scale, 1.0)  # a filter is widened to downsample, never narrowed to upsample
    support *= stretch
    centre = (rows + 0.5) * scale
    start = np.maximum((centre - support + 0.5).astype(int), 0)
    stop = np.minimum((centre + support + 0.5).astype(int), in_size)
    columns = start[:, None] + np.arange((stop - start).max(initial=1))
    weights = kernel((columns - centre[:, None] + 0.5) * (1.0 / stretch))
    weights[columns >= stop[:, None]] = 0
    return start, weights / np.cumsum(weights, axis=1)[:, -1:]  # cumsum adds left to right, as Pillow does


# ------------------------------------------------------------------------------------------ Pillow's images

_BITS = 22  # Pillow's PRECISION_BITS for 8-bit images: 32 - 8 - 2


class Taps(NamedTuple):
    """Banded integer weights of one axis: output i is `sum_k weights[i, k] * input[start[i] + k] / 2**22`."""

    start: np.ndarray  # (count,) int32
    weights: np.ndarray  # (count, K) int32, zero where start + k passes the end of the input


class ResizePlan(NamedTuple):
    """How to resize and crop images of one size, see `plan_resize`."""

    source: tuple[slice, slice]  # the rows and columns of the input that are read
    rows: Taps  # counted from the first row that is read
    columns: Taps
    vertical: bool  # the vertical pass comes first


def _nearest_taps(in_size, out_size, rows):
    step = in_size / out_size
    position = np.full(rows[-1] + 1, step)
    position[0] = step * 0.5
    source = np.cumsum(position)[rows].astype(int)  # Pillow adds up the step, rounding errors and all
    return source.clip(max=in_size - 1), np.ones((len(rows), 1))


@functools.lru_cache(maxsize=256)
def _image_taps(in_size, out_size, name, first, count):
    window = np.arange(first, first + count)
    rows = window.clip(0, out_size - 1)
    make = _nearest_taps if name == "nearest" else functools.partial(_filter_weights, name=name)
    start, weights = make(in_size, out_size, rows=rows)
    weights = np.trunc(weights * 2**_BITS + np.copysign(0.5, weights))
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
    """Pillow's 8-bit resize as the integers it multiplies with, for the wanted part of the result only.

    Plans are made on the host and their taps passed to compiled code: XLA rounds the weights inconsistently.

    Args:
        in_size: (height, width) of the image in pixels.
        out_size: (height, width) to resize to.
        name: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos".
        window: (top, left, height, width) to cut out of the resized image, all of it by default. What lies
            outside the resized image comes out 0.
        order: Which pass comes first; it changes the last bit of some pixels. "horizontal": Pillow up to 12.
            "pillow13": vertical when the height shrinks by more than twice what the width does.
            None: as the installed Pillow.

    Reference: Pillow's src/libImaging/Resample.c and Geometry.c.
    """
    top, left, height, width = window or (0, 0, *out_size)
    read_rows, rows = _image_taps(in_size[0], out_size[0], name, top, height)
    read_columns, columns = _image_taps(in_size[1], out_size[1], name, left, width)
    order = order or ("pillow13" if int(PIL.__version__.split(".")[0]) >= 13 else "horizontal")
    shrink = in_size[0] - out_size[0]
    vertical = order == "pillow13" and shrink > 0 and shrink > 2 * (in_size[1] - out_size[1])
    return ResizePlan((read_rows, read_columns), rows, columns, vertical)


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
    total = 1 << (_BITS - 1)
    for k in range(taps.weights.shape[1]):
        weight = xp.reshape(taps.weights[:, k], (-1,) + (1,) * (-1 - axis))
        # The band of an edge pixel may run past the end of the image, where its weights are zero.
        pixels = xp.take(image, xp.minimum(taps.start + k, last), axis=axis)
        total = xp.add(total, xp.multiply(pixels, weight))
    return xp.clip(xp.right_shift(total, _BITS), 0, 255)


def taps_matrix(taps: Taps, in_size: int) -> np.ndarray:
    """The same resampling as a dense (count, in_size) float32 matrix."""
    return _band_matrix(taps.start, taps.weights / 2**_BITS, in_size).astype("float32")


def resample_float(image, rows, columns, vertical: bool, xp=np):
    """Resize 8-bit images with matrix products, rounding to 8 bits between the two passes.

    Args:
        image: (B, H, W, C) uint8.
        rows: (rows, H) float32, see `taps_matrix`.
        columns: (columns, W) float32.
        vertical: Whether the vertical pass comes first.
        xp: The array library: numpy or keras.ops.

    Returns:
        (B, rows, columns, C) float32, whole numbers in 0..255. About one in ten thousand is 1 off Pillow's.
    """
    passes = [("oh,bhwc->bowc", rows), ("ow,bhwc->bhoc", columns)]
    for equation, matrix in passes if vertical else reversed(passes):
        image = xp.einsum(equation, matrix, xp.multiply(image, 1.0))
        image = xp.clip(xp.floor(image + 0.5), 0, 255)
    return image
