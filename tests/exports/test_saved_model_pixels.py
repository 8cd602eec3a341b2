"""Pixels inside the graph of a SavedModel against Pillow's, and what is refused."""

import math
import random
import struct

import numpy as np
import pytest
import tensorflow as tf
from crafted_images import bombs, encode, make_png
from PIL import Image

from tfdeit.exports.saved_model.decoding import MAX_BYTES, decode
from tfdeit.exports.saved_model.preprocessing import GraphProcessor
from tfdeit.preprocessing.images import ImageError, decode_image
from tfdeit.preprocessing.processors import DeiTImageProcessor, ViTImageProcessor, protocol_processor

FILTERS = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


def in_graph(processor, size):
    graph = GraphProcessor(processor, size)
    return tf.function(lambda data: graph.read(data)[:2], [tf.TensorSpec((None,), tf.string)], autograph=False)


def decoder(on_white):
    specs = [tf.TensorSpec((), tf.string)]
    return tf.function(lambda data: decode(data, Image.MAX_IMAGE_PIXELS, on_white), specs, autograph=False)


decode_plain, decode_on_white = decoder(False), decoder(True)


@pytest.fixture
def photo(rng):
    """A smooth 41x31 RGB image."""
    coarse = rng.integers(0, 256, (4, 5, 3), dtype="uint8")
    return Image.fromarray(coarse).resize((41, 31), Image.Resampling.BICUBIC)


# ------------------------------------------------------------------------------------------------ whole protocols


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "size"),
    [("fb", 224), ("timm", 384), ("hf", 224), ("mmpretrain", 384), ("vit", 224), ("deit3", 224)],
)
def test_photos_equal_the_host(protocol, size, shared_images):
    processor = protocol_processor(protocol, size)
    paths = shared_images if protocol == "fb" else shared_images[::6]
    values, status = in_graph(processor, (size, size))([path.read_bytes() for path in paths])
    assert set(status.numpy()) == {b"ok"}
    assert np.array_equal(values, processor(paths).pixel_values)


CASES = [
    {"size": (33, 50), "crop_size": (20, 31)},
    {"size": {"shortest_edge": 37}, "crop_size": 30},
    {"size": {"shortest_edge": 37, "longest_edge": 50}, "crop_size": 41, "crop_rounding": "round"},
    {"size": {"max_height": 40, "max_width": 50}, "crop_size": 28},
    {"size": 20, "crop_size": 33},
    {"size": 20, "crop_size": 33, "crop_rounding": "round"},
    {"do_resize": False, "crop_size": 40},
    {"size": 47, "do_center_crop": False, "do_rescale": False},
    {"size": 32, "crop_size": 24, "do_normalize": False, "rescale_factor": 1 / 127.5},
    {"size": 32, "crop_size": 24, "do_normalize": False, "do_rescale": False},
    *({"size": {"shortest_edge": 41}, "crop_size": 35, "resample": resample} for resample in range(6)),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", CASES, ids=str)
def test_parameters_equal_the_host(options, rng):
    """Images of many sizes: enlarged, reduced, upright, flat, one pixel wide."""
    processor = DeiTImageProcessor(**options)
    size = processor.crop_size if processor.do_center_crop else processor.size
    sides = [(1, 1), (1, 90), (90, 1), (61, 47), (47, 61), (30, 300), (41, 41), (640, 33)]
    sides += [tuple(rng.integers(1, 400, 2)) for _ in range(8)]
    images = [rng.integers(0, 256, (*side, 3), dtype="uint8") for side in sides]
    read = in_graph(processor, (size["height"], size["width"]))
    values, status = read([encode(Image.fromarray(image), "PNG") for image in images])
    assert set(status.numpy()) == {b"ok"}
    assert np.array_equal(values, processor(images).pixel_values)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["horizontal", "pillow13"])
def test_order_of_the_passes(order, rng):
    from tfdeit.preprocessing.processors import DeiTImageProcessorFast

    processor = DeiTImageProcessorFast(size=32, crop_size=24, pass_order=order)
    image = rng.integers(0, 256, (300, 40, 3), dtype="uint8")
    values, _ = in_graph(processor, (24, 24))([encode(Image.fromarray(image), "PNG")])
    assert np.array_equal(values, processor(image, return_tensors="np").pixel_values)


@pytest.mark.slow
@pytest.mark.parametrize("side", [(2, 4000), (4000, 2), (20000, 1), (1, 1)])
def test_extreme_shapes(side, rng):
    image = rng.integers(0, 256, (*side, 3), dtype="uint8")
    for protocol in ("fb", "vit"):
        processor = protocol_processor(protocol, 224)
        values, status = in_graph(processor, (224, 224))([encode(Image.fromarray(image), "PNG")])
        assert status.numpy().tolist() == [b"ok"]
        assert np.array_equal(values, processor(image).pixel_values)


@pytest.mark.slow
def test_too_long_and_thin_to_be_resized(rng):
    processor = DeiTImageProcessor(size={"shortest_edge": 3000}, crop_size=2900)
    image = Image.fromarray(rng.integers(0, 256, (1, 60000, 3), dtype="uint8"))
    with pytest.raises(ImageError, match="too long and thin"):
        processor(image)
    _, status = in_graph(processor, (2900, 2900))([encode(image, "PNG")])
    assert status.numpy().tolist() == [b"too long and thin to be resized"]
    bomb = Image.new("1", (900_000, 1))  # a small file, whose filter would take gigabytes
    _, status = in_graph(protocol_processor("vit", 32), (32, 32))([encode(bomb, "PNG")])
    assert status.numpy().tolist() == [b"too long and thin to be resized"]


def test_processors_that_do_not_fit():
    for processor in (
        DeiTImageProcessor(),
        DeiTImageProcessor(do_center_crop=False, size={"shortest_edge": 384}),
        ViTImageProcessor(do_resize=False),
    ):
        with pytest.raises(ValueError, match="Expected an image processor that makes images of 384x384"):
            GraphProcessor(processor, (384, 384))
    with pytest.raises(ValueError, match="Expected exif_orientation=False"):
        GraphProcessor(DeiTImageProcessor(exif_orientation=True), (224, 224))


# ------------------------------------------------------------------------------------------------------- files


def random_png(rng, depth, colour, channels):
    row = rng.integers(0, 256, (31, 1 + math.ceil(40 * depth * channels / 8)), dtype="uint8")
    row[:, 0] = 0  # no prediction filter
    return make_png(row.tobytes(), 40, 31, depth, colour)


def files(photo, rng):
    """Yields name and content of a file of each supported kind."""
    rgba = photo.convert("RGBA")
    rgba.putalpha(photo.convert("L"))
    palette = photo.quantize(16)
    for mode in ("1", "L", "LA", "P", "RGB"):
        yield f"png {mode}", encode(photo.convert("L").convert(mode) if mode == "LA" else photo.convert(mode), "PNG")
    yield "png RGBA", encode(rgba, "PNG")
    for bits in (1, 2, 4):
        yield f"png P {bits}", encode(photo.quantize(2**bits), "PNG", bits=bits)
    yield "png P alpha", encode(palette, "PNG", transparency=bytes([0, 100] + [255] * 14))
    yield "png P transparent", encode(palette, "PNG", transparency=3)
    yield "png L transparent", encode(photo.convert("L"), "PNG", transparency=100)
    yield "png RGB transparent", encode(photo, "PNG", transparency=photo.getpixel((3, 3)))
    for depth, colour, channels in [(1, 0, 1), (2, 0, 1), (4, 0, 1), (16, 0, 1), (16, 2, 3), (16, 4, 2), (16, 6, 4)]:
        yield f"png depth {depth} colour {colour}", random_png(rng, depth, colour, channels)
    for subsampling in range(3):
        yield f"jpeg {subsampling}", encode(photo, "JPEG", subsampling=subsampling)
    yield "jpeg L", encode(photo.convert("L"), "JPEG")
    yield "jpeg progressive", encode(photo, "JPEG", progressive=True)
    yield "jpeg rgb", encode(photo, "JPEG", keep_rgb=True)
    yield "jpeg and more", encode(photo, "JPEG") + b"more"
    for factors in (0x12, 0x41):  # 4:4:0 and 4:1:1, which Pillow does not write
        data = bytearray(encode(photo.resize((64, 64)), "JPEG", subsampling=1 if factors == 0x12 else 2))
        data[data.index(b"\xff\xc0") + 11] = factors
        yield f"jpeg {factors:x}", bytes(data)
    yield "bmp", encode(photo, "BMP")
    data = bytearray(encode(photo, "BMP"))
    data[22:26] = struct.pack("<i", -31)
    yield "bmp from the top", bytes(data)
    for options in ({}, {"lossless": True}, {"quality": 30}, {"lossless": True, "exact": True}):
        yield f"webp {options}", encode(photo, "WEBP", **options)
        yield f"webp alpha {options}", encode(rgba, "WEBP", **options)


def test_files_equal_the_host(photo, rng):
    for name, data in files(photo, rng):
        for decode_file, on_white in ((decode_plain, False), (decode_on_white, True)):
            pixels, reason = decode_file(data)
            if on_white and name in ("png L transparent", "png RGB transparent"):
                assert reason.numpy().startswith(b"PNG with a transparent colour is not supported"), name
                continue
            assert reason == b"", name
            assert np.array_equal(pixels, decode_image(data, on_white=on_white)), (name, on_white)


def refused(photo, rng):
    """Yields name, content and reason for a file of each kind that is refused."""
    yield "empty", b"", "the file is empty"
    yield "text", b"not a picture at all, but text", "not a JPEG, PNG, BMP or WebP image"
    yield "short", b"\xff", "not a JPEG, PNG, BMP or WebP image"
    yield "large", b"\xff\xd8\xff" + bytes(MAX_BYTES), f"more than {MAX_BYTES} bytes"
    yield "tiff", encode(photo, "TIFF"), "not a JPEG, PNG, BMP or WebP image"
    yield "cmyk", encode(photo.convert("CMYK"), "JPEG"), "CMYK JPEG is not supported; convert it to RGB"
    yield "gif", encode(photo.convert("P"), "GIF"), "GIF is not supported; send the frame as JPEG, PNG, BMP or WebP"
    for mode in ("1", "L", "P", "RGBA"):
        yield f"bmp {mode}", encode(photo.convert(mode), "BMP"), "only uncompressed BMP of 24 bits is supported"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    animation = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    yield "webp animation", animation, "animated WebP is not supported; send one frame"
    for name, data in bombs():
        yield name, data, f"more than {Image.MAX_IMAGE_PIXELS} pixels, refused as a decompression bomb"
    png = bytearray(encode(photo, "PNG"))
    png[12:16] = b"CgBI"
    yield "png without header", bytes(png), "damaged: no PNG header"
    yield "no pixels", make_png(b"", 0, 5, 8, 2), "it has no pixels"


def test_what_is_refused(photo, rng):
    for name, data, expected in refused(photo, rng):
        pixels, reason = decode_plain(data)
        assert reason.numpy().decode() == expected, name
        assert pixels.shape[0] == 0


@pytest.mark.slow
def test_damaged_files_get_a_status(photo, rng):
    images = [data for _, data in files(photo, rng)]
    damaged = [data[: len(data) // 2] for data in images if not data.startswith(b"BM")]
    processor = DeiTImageProcessor(size=32, crop_size=24)
    values, status = in_graph(processor, (24, 24))(images + damaged)
    assert status.numpy().tolist() == [b"ok"] * len(images) + [b"damaged or truncated"] * len(damaged)
    assert np.array_equal(values[: len(images)], processor(images).pixel_values)


@pytest.mark.slow
def test_mutated_files_are_never_silently_different(photo, rng):
    """However a file is damaged, what the graph accepts has the pixels that Pillow reads."""
    draw = random.Random(0)
    originals = [data for _, data in files(photo, rng)]
    accepted = 0
    for turn in range(400):
        data = bytearray(originals[turn % len(originals)])
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        data = bytes(data[: draw.randint(1, len(data))] if draw.random() < 0.2 else data)
        try:
            pixels, reason = decode_plain(data)
        except tf.errors.InvalidArgumentError:
            continue
        if reason == b"":
            try:
                expected = decode_image(data)
            except ImageError:
                # TensorFlow uses libwebp's simple decoder; Pillow's, for animations, is stricter about some lengths.
                assert data.startswith(b"RIFF"), turn
                continue
            accepted += 1
            assert np.array_equal(pixels, expected), turn
    assert accepted > 50


@pytest.mark.slow
def test_a_batch_of_none(rng):
    values, status = in_graph(DeiTImageProcessor(), (224, 224))(tf.constant([], tf.string))
    assert values.shape == (0, 224, 224, 3)
    assert status.shape == (0,)
