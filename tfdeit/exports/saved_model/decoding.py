"""Bytes of an image file to RGB pixels inside a TensorFlow graph: Pillow's pixels, or the reason for refusing it.

The header is read first, which bounds the work before it begins. Formats that TensorFlow decodes differently from
Pillow are refused: GIF (transparent pixels differ, and all frames are decoded at any cost), CMYK JPEG, BMP with a
palette.
"""

import tensorflow as tf

MAX_BYTES = 32 * 2**20
_HEAD = 40  # bytes at the start of a file that are checked


def decode(data, max_pixels: int, on_white: bool):
    """Decodes one image.

    Args:
        data: () string, the content of a file.
        max_pixels: larger images are refused.
        on_white: whether transparent pixels are blended onto white; otherwise alpha is dropped.

    Returns:
        (H, W, 3) uint8, without pixels if the image is refused; and the reason, () string, empty if it is not.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the file is damaged.
    """
    start = tf.strings.substr(data, 0, _HEAD)
    head = tf.cast(tf.io.decode_raw(tf.strings.substr(start + b"\0" * _HEAD, 0, _HEAD), tf.uint8), tf.int32)
    checks = (
        (tf.strings.length(data) == 0, _refuse("the file is empty")),
        (tf.strings.length(data) > MAX_BYTES, _refuse(f"more than {MAX_BYTES} bytes")),
        (_begins(head, b"\xff\xd8\xff"), lambda: _inspect_jpeg(data)),
        (_begins(head, b"\x89PNG\r\n\x1a\n"), lambda: _inspect_png(head, data, on_white)),
        (_begins(head, b"BM"), lambda: _inspect_bmp(head)),
        (_begins(head, b"RIFF") & _begins(head[8:], b"WEBP"), lambda: _inspect_webp(head)),
        (_begins(head, b"GIF8"), _refuse("GIF is not supported; send the frame as JPEG, PNG, BMP or WebP")),
    )
    number, height, width, reason = tf.case(checks, _refuse("not a JPEG, PNG, BMP or WebP image"), name="inspect")
    reason = tf.where((reason == "") & (height * width == 0), "it has no pixels", reason)
    reason = tf.where(
        (reason == "") & (height * width > max_pixels),
        f"more than {max_pixels} pixels, refused as a decompression bomb",
        reason,
    )
    decoders = (
        lambda: tf.zeros((0, 0, 3), tf.uint8),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: _rgb(tf.io.decode_png(data, channels=0), on_white),
        lambda: _deep_gray(tf.io.decode_png(data, channels=1, dtype=tf.uint16)),
        lambda: tf.io.decode_bmp(data, channels=3),
        lambda: _rgb(tf.io.decode_image(data, channels=0, expand_animations=False), on_white),
    )
    return tf.switch_case(tf.where(reason == "", number, 0), decoders), reason


_JPEG, _PNG, _GRAY_PNG, _BMP, _WEBP = range(1, 6)  # positions in `decoders`


def _refuse(reason):
    return lambda: _found(0, 0, 0, reason)


def _found(number, height, width, reason=""):
    """Which decoder to use, the size as int64 whose product cannot overflow, and why the image is refused."""
    size = (tf.minimum(tf.cast(side, tf.int64), 2**31 - 1) for side in (height, width))
    return tf.constant(number), *size, tf.convert_to_tensor(reason)


def _begins(head, prefix):
    return tf.reduce_all(head[: len(prefix)] == list(prefix))


def _little_endian(head, start, count):
    return tf.reduce_sum(tf.cast(head[start : start + count], tf.int64) * [256**place for place in range(count)])


def _inspect_jpeg(data):
    height, width, channels = tf.unstack(tf.image.extract_jpeg_shape(data))
    return _found(_JPEG, height, width, tf.where(channels == 4, "CMYK JPEG is not supported; convert it to RGB", ""))


def _inspect_png(head, data, on_white):
    """Reads IHDR, the first chunk: size, bit depth, colour type. TensorFlow ignores tRNS if there is no palette."""
    size = [_little_endian(head[start : start + 4][::-1], 0, 4) for start in (20, 16)]
    deep_gray = (head[24] == 16) & (head[25] == 0)
    reason = tf.where(_begins(head[12:], b"IHDR"), "", "damaged: no PNG header")
    if on_white:
        before_pixels = tf.strings.split(data, "IDAT")[0]
        keyed = (head[25] != 3) & (tf.size(tf.strings.split(before_pixels, "tRNS")) > 1)
        reason = tf.where(keyed, "PNG with a transparent colour is not supported; give it an alpha channel", reason)
    number, *rest = _found(_PNG, *size, reason)
    return tf.where(deep_gray, _GRAY_PNG, number), *rest


def _inspect_bmp(head):
    width, height, bits, compression = (_little_endian(head, *field) for field in ((18, 4), (22, 4), (28, 2), (30, 4)))
    height = tf.where(height < 2**31, height, 2**32 - height)  # negative if rows start at the top
    plain = (_little_endian(head, 14, 4) >= 40) & (bits == 24) & (compression == 0)
    return _found(_BMP, height, width, tf.where(plain, "", "only uncompressed BMP of 24 bits is supported"))


def _inspect_webp(head):
    """Reads the first chunk: VP8X (extended), VP8L (lossless) or VP8 (lossy)."""
    extended, lossless = _begins(head[12:], b"VP8X"), _begins(head[12:], b"VP8L")
    packed = _little_endian(head, 21, 4)
    sizes = tf.stack(
        [
            [_little_endian(head, 27, 3) + 1, _little_endian(head, 24, 3) + 1],
            [packed // 2**14 % 2**14 + 1, packed % 2**14 + 1],
            [_little_endian(head, 28, 2) % 2**14, _little_endian(head, 26, 2) % 2**14],
        ]
    )
    height, width = tf.unstack(sizes[tf.where(extended, 0, tf.where(lossless, 1, 2))])
    animated = extended & (head[20] // 2 % 2 == 1)
    return _found(_WEBP, height, width, tf.where(animated, "animated WebP is not supported; send one frame", ""))


def _rgb(image, on_white):
    """(H, W, C) to (H, W, 3) uint8. C is 1 or 3, plus 1 if there is alpha."""
    channels = tf.shape(image)[2]
    rgb = tf.cond(channels < 3, lambda: tf.repeat(image[..., :1], 3, axis=-1), lambda: image[..., :3])
    if not on_white:
        return rgb
    return tf.cond(channels % 2 == 0, lambda: _blend(rgb, image[..., -1:]), lambda: rgb)


def _blend(rgb, alpha):
    """Blends onto white, with the arithmetic of Pillow's AlphaComposite.c."""
    rgb, alpha = tf.cast(rgb, tf.int32), tf.cast(alpha, tf.int32)
    blended = (rgb * alpha + 255 * (255 - alpha)) * 128 + 0x4000
    return tf.cast((blended // 2**8 + blended) // 2**15, tf.uint8)


def _deep_gray(gray):
    """(H, W, 1) uint16 to (H, W, 3) uint8, rounded."""
    scaled = tf.floor(tf.cast(gray, tf.float64) * 255 / 65535 + 0.5)
    return tf.repeat(tf.cast(scaled, tf.uint8), 3, axis=-1)
