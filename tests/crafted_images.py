"""Image files made byte by byte: small ones that claim to be huge, and PNGs of any kind."""

import io
import struct
import zlib

from PIL import Image


def encode(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def make_png(pixels, width, height, depth, colour, extra=b""):
    """A PNG of modes that Pillow does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")]
    )


def bombs():
    """Small files whose headers speak of 30000x30000 pixels."""
    jpeg = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 30000, 30000)
    yield "jpeg bomb", bytes(jpeg)
    yield "png bomb", make_png(b"", 30000, 30000, 8, 2)
    yield "huge png", make_png(b"", 2**32 - 1, 2**32 - 1, 8, 2)
    for height in (30000, -30000):
        bmp = bytearray(encode(Image.new("RGB", (8, 8)), "BMP"))
        bmp[18:26] = struct.pack("<ii", 30000, height)
        yield f"bmp bomb {height}", bytes(bmp)
    for options, kind in (({}, b"VP8 "), ({"lossless": True}, b"VP8L"), ({"exif": b"x"}, b"VP8X")):
        webp = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP", **options))
        assert webp[12:16] == kind
        if kind == b"VP8 ":
            webp[26:30] = struct.pack("<HH", 16383, 16383)
        elif kind == b"VP8L":
            webp[21:25] = struct.pack("<I", 16383 | 16383 << 14)
        else:
            webp[24:30] = (2**24 - 1).to_bytes(3, "little") * 2
        yield f"webp bomb {kind}", bytes(webp)
