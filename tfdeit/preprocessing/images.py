"""Image sources to RGB pixels: what can be read, how each mode becomes 8-bit RGB, and what is refused."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_BYTES = (bytes, bytearray, memoryview)
ENCODED = (str, os.PathLike, Image.Image, *_BYTES)


class ImageError(ValueError):
    """An image that cannot be used. The message names the file (or "bytes") and the reason."""


def decode_image(source: Any, exif_orientation: bool = False, on_white: bool | None = False) -> np.ndarray:
    """Decode one image to RGB. Safe to call from several threads.

    8-bit modes are converted as Pillow's `convert("RGB")` does. 16-bit gray is scaled, `round(v * 255 / 65535)`,
    where Pillow would clip; 32-bit integer gray is read as 16-bit (as Pillow stores PGM files); float gray must lie in
    [0, 1]. The first frame of an animation is taken.

    Args:
        source: A path, the bytes of a file, a binary file object, or a PIL image.
        exif_orientation: Turn the image upright as its EXIF tag says (transformers and torchvision do not).
        on_white: Blend transparent pixels onto white. By default alpha is dropped.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: The file is missing, empty, truncated or of an unknown format; or it has no pixels, or more than
            Pillow's `Image.MAX_IMAGE_PIXELS` (according to the header, before anything is decoded).
    """
    return np.array(decode_pillow(source, exif_orientation, on_white))


def decode_pillow(source: Any, exif_orientation: bool = False, on_white: bool | None = False) -> Image.Image:
    """Decode one image as `decode_image` does, into a PIL image of mode RGB."""
    try:
        with contextlib.ExitStack() as stack:
            image = source if isinstance(source, Image.Image) else _open_image(stack, source)
            if exif_orientation:
                image = ImageOps.exif_transpose(image)
            return _rgb(image, on_white)
    # Pillow's decoders raise nearly any exception on hostile files: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise ImageError(f"{_name(source)}: {_reason(error)}") from error


class Header(NamedTuple):
    """What the header of an image file says."""

    format: str  # Pillow's name: "JPEG", "PNG", ...
    mode: str  # Pillow's name: "RGB", "L", ...
    height: int
    width: int


def read_header(source: Any) -> Header:
    """Read only the header of an image file: a path, bytes or a file object. Errors are those of `decode_image`."""
    try:
        with contextlib.ExitStack() as stack:
            image = _open_image(stack, source)
            return Header(image.format or "", image.mode, image.height, image.width)
    except Exception as error:
        raise ImageError(f"{_name(source)}: {_reason(error)}") from error


def _open_image(stack: contextlib.ExitStack, source: Any) -> Image.Image:
    """Open a PIL image without reading its pixels; refuse one with too many."""
    stream = stack.enter_context(_open(source))
    if not stream.read(1):
        raise ImageError("the file is empty")
    image = stack.enter_context(Image.open(stream))
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    return image


def _open(source: Any) -> AbstractContextManager[BinaryIO]:
    """Return a context manager over `source` as a binary stream, which it closes if it was opened here."""
    if isinstance(source, _BYTES):
        return io.BytesIO(source)
    if hasattr(source, "read"):
        return contextlib.nullcontext(source)
    if isinstance(source, str) and re.match(r"\w+://", source):
        raise ImageError("this is a URL; download it and pass the file's path or its bytes")
    return open(source, "rb")


def _rgb(image: Image.Image, on_white: bool | None) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"it has no pixels ({image.width}x{image.height})")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_from_deep_gray(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")  # a palette's alpha table survives only in RGBA
        if on_white:
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _from_deep_gray(gray: np.ndarray) -> np.ndarray:
    """Convert 16-bit, 32-bit integer and float gray to 8-bit RGB."""
    limit = 1 if gray.dtype.kind == "f" else 65535
    if not (gray.min() >= 0 and gray.max() <= limit):  # written so that NaN fails too
        raise ImageError(f"expected {gray.dtype} values within [0, {limit}], received {gray.min()} to {gray.max()}")
    scaled = np.floor(gray.astype("float64") * 255 / limit + 0.5).astype("uint8")
    return np.stack([scaled] * 3, axis=-1)


def _name(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, _BYTES):
        return "bytes"
    return getattr(source, "filename", None) or getattr(source, "name", None) or type(source).__name__


def _reason(error: Exception) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels, refused as a decompression bomb"
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that Pillow reads"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def reason(error: Exception) -> str:
    """Return what is wrong with an image that was read from bytes, without naming it."""
    return getattr(error, "strerror", None) or str(error).removeprefix("bytes: ")


def flatten(images: Any) -> Iterator[Any]:
    """Yield the images of a list, however nested; a single image counts as a list of one."""
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from flatten(image)
    else:
        yield images


def read_block(
    image: Any, input_data_format: str | None = None, exif_orientation: bool = False, on_white: bool | None = False
) -> np.ndarray:
    """Read whatever a processor accepts as an image, or as a batch of images of one size.

    Args:
        image: A path, bytes, file object, PIL image, or an array or tensor (H, W), (H, W, C), (C, H, W), or a batch
            of the latter two with four dimensions.
        input_data_format: "channels_first", "channels_last", or None: channels first only when the first
            dimension could be channels (1, 3 or 4) and the last could not.
        exif_orientation: See `decode_image`.
        on_white: See `decode_image`.

    Returns:
        (B, H, W, 3): uint8 when decoded here, else the dtype of the array.

    Raises:
        ImageError: As `decode_image`, or an array does not hold pixels.
    """
    if isinstance(image, ENCODED) or hasattr(image, "read"):
        return decode_image(image, exif_orientation, on_white)[None]
    return _rgb_array(np.asarray(image), input_data_format, on_white)


def _rgb_array(array: np.ndarray, input_data_format: str | None, on_white: bool | None) -> np.ndarray:
    """Convert any array of pixels to (B, H, W, 3), without scaling its values."""
    if array.dtype.kind not in "buif" or not 2 <= array.ndim <= 4:
        raise ImageError(
            "Expected an image: a path, bytes, a PIL image or an array (H, W), (H, W, C) or (B, H, W, C). "
            f"Received: an array of dtype {array.dtype} and shape {array.shape}."
        )
    if input_data_format not in (None, "channels_first", "channels_last"):
        raise ImageError(
            'Expected input_data_format "channels_first" or "channels_last". '
            f"Received: input_data_format={input_data_format!r}."
        )
    if array.ndim == 2:
        array = array[..., None]
    elif input_data_format == "channels_first" or (
        input_data_format is None and array.shape[-3] in (1, 3, 4) and array.shape[-1] not in (1, 3, 4)
    ):
        array = np.moveaxis(array, -3, -1)
    if array.shape[-1] not in (1, 3, 4) or array.size == 0:
        raise ImageError(
            "Expected at least one pixel and 1, 3 or 4 channels in the last dimension "
            f'(or input_data_format="channels_first"). Received: shape {array.shape}.'
        )
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    elif array.shape[-1] == 4:
        array = _blend_on_white(array) if on_white else array[..., :3]
    return array if array.ndim == 4 else array[None]


def _blend_on_white(array: np.ndarray) -> np.ndarray:
    """Blend RGBA onto white with transformers' arithmetic: integers go up to 255, floats to 1."""
    integer = array.dtype.kind in "bui"
    white = 255 if integer else 1.0
    if not integer and not (array.min() >= 0 and array.max() <= 1):
        raise ImageError(f"Expected float RGBA within [0, 1]. Received: {array.min()} to {array.max()}.")
    alpha = array[..., 3:] / white
    blended = alpha * array[..., :3] + (1 - alpha) * white
    return (np.round(blended) if integer else blended).astype(array.dtype)
