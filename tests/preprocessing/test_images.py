"""Every kind of file to RGB, and every kind of broken one to an ImageError that names it."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from tfdeit.preprocessing.images import ImageError, decode_image, flatten, read_block

FILE_MODES = {
    "JPEG": ["L", "RGB", "CMYK"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "BMP": ["P", "RGB"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["P"],
    "TIFF": ["CMYK"],
}


def encode(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture
def photo(rng):
    """A smooth 40x30 RGB image."""
    coarse = rng.integers(0, 256, (4, 5, 3), dtype="uint8")
    return Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes_convert_as_pillow_does(photo, mode):
    image = photo.convert("L").convert(mode) if mode in ("PA", "LA") else photo.convert("RGB")
    image = Image.new("LAB", photo.size, (90, 130, 120)) if mode == "LAB" else image.convert(mode)
    assert np.array_equal(decode_image(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("format", "mode"),
    [(format, mode) for format, modes in FILE_MODES.items() for mode in modes],
)
def test_files_from_bytes_path_and_stream(photo, format, mode, tmp_path):
    data = encode(photo.convert(mode), format)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    path = tmp_path / "image"
    path.write_bytes(data)
    opened = Image.open(io.BytesIO(data))
    for source in (data, bytearray(data), memoryview(data), path, str(path), io.BytesIO(data), opened):
        result = decode_image(source)
        assert result.dtype == np.uint8
        assert np.array_equal(result, expected)


def test_ycck_jpeg():
    """Adobe's YCCK: a CMYK JPEG whose marker says that the colours are transformed."""
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = bytearray(encode(cmyk, "JPEG"))
    transform = data.index(b"Adobe") + 11
    assert data[transform] in (0, 2)
    data[transform] = 2
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode_image(bytes(data)), expected)
    data[transform] = 0
    assert not np.array_equal(decode_image(bytes(data)), expected)


def test_palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    data = encode(image, "PNG", transparency=bytes([0, 255]))  # Pillow warns on converting this to RGB directly
    assert decode_image(data).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert decode_image(data, on_white=True).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_alpha_is_dropped_or_blended():
    image = Image.fromarray(np.array([[[100, 0, 50, 0], [100, 0, 50, 51], [100, 0, 50, 255]]], "uint8"))
    assert decode_image(image).tolist() == [[[100, 0, 50]] * 3]
    assert decode_image(image, on_white=True).tolist() == [[[255, 255, 255], [224, 204, 214], [100, 0, 50]]]


def test_first_frame_of_an_animation(photo):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for format in ("GIF", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encode(red, format, save_all=True, append_images=[blue], **options)
        assert decode_image(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("value", [0, 1, 128, 129, 257, 30000, 65406, 65407, 65535])
def test_16_bit_gray_is_scaled(value):
    expected = int(value * 255 / 65535 + 0.5)
    png = encode(Image.fromarray(np.full((3, 4), value, "uint16")), "PNG")
    pgm = b"P5 4 3 65535\n" + value.to_bytes(2, "big") * 12  # Pillow's mode "I"
    for source in (png, pgm, Image.fromarray(np.full((3, 4), value, "int32"))):
        result = decode_image(source)
        assert result.shape == (3, 4, 3)
        assert (result == expected).all()


def test_float_gray():
    tiff = encode(Image.fromarray(np.array([[0, 0.5, 1]], "float32")), "TIFF")
    assert decode_image(tiff)[0, :, 0].tolist() == [0, 128, 255]
    for wrong in ([[0, 1.5]], [[-0.1, 0]], [[np.nan, 0]]):
        with pytest.raises(ImageError, match=r"bytes: expected float32 values within \[0, 1\]"):
            decode_image(encode(Image.fromarray(np.array(wrong, "float32")), "TIFF"))
    with pytest.raises(ImageError, match=r"within \[0, 65535\], received 0 to 70000"):
        decode_image(Image.fromarray(np.array([[0, 70000]], "int32")))


def test_exif_orientation_is_an_option(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    data = encode(photo, "PNG", exif=exif)
    upright = np.rot90(np.asarray(photo), -1)
    assert np.array_equal(decode_image(data), np.asarray(photo))
    assert np.array_equal(decode_image(data, exif_orientation=True), upright)
    assert np.array_equal(read_block(Image.open(io.BytesIO(data)), exif_orientation=True)[0], upright)


def noise_jpeg(rng):
    return encode(Image.fromarray(rng.integers(0, 256, (99, 99, 3), dtype="uint8")), "JPEG")


def test_truncated_jpeg_is_an_error(rng, tmp_path):
    data = noise_jpeg(rng)
    for keep in (len(data) // 2, len(data) - 50):
        path = tmp_path / f"cut{keep}.jpg"
        path.write_bytes(data[:keep])
        with pytest.raises(ImageError, match=rf"cut{keep}\.jpg: .*truncated"):
            decode_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a picture at all, but text", "not an image in a format that Pillow reads"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "Truncated File Read"),
    ],
)
def test_not_an_image(content, reason, tmp_path):
    path = tmp_path / "renamed.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"renamed\.jpg: {reason}"):
        decode_image(str(path))
    with pytest.raises(ImageError, match=rf"^bytes: {reason}"):
        decode_image(content)


def test_missing_file_directory_and_url(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.jpg: No such file"):
        decode_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="Is a directory"):
        decode_image(tmp_path)
    with pytest.raises(ImageError, match=r"https://example\.org/cat\.jpg: this is a URL; download it"):
        decode_image("https://example.org/cat.jpg")


@pytest.mark.parametrize("side", [10000, 20000])  # Pillow warns at the first and raises at the second
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_decompression_bomb_is_refused_from_its_header(side, action):
    data = bytearray(encode(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = side.to_bytes(4, "little") * 2
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(ImageError, match=r"bytes: more than 89478485 pixels, refused as a decompression bomb"):
            decode_image(bytes(data))


def test_no_pixels():
    with pytest.raises(ImageError, match=r"Image: it has no pixels \(0x5\)"):
        decode_image(Image.new("RGB", (0, 5)))
    with pytest.raises(ImageError, match=r"Expected at least one pixel.*\(0, 5, 3\)"):
        read_block(np.zeros((0, 5, 3)))


def test_arrays_of_every_layout(rng):
    image = rng.integers(0, 256, (6, 7, 3), dtype="uint8")
    alpha = np.concatenate([image, image[..., :1]], axis=-1)
    gray = np.stack([image[..., 0]] * 3, axis=-1)
    for given, expected in [
        (image, image[None]),
        (image.transpose(2, 0, 1), image[None]),
        (np.stack([image, image]), np.stack([image, image])),
        (np.stack([image, image]).transpose(0, 3, 1, 2), np.stack([image, image])),
        (image[..., 0], gray[None]),
        (image[..., :1], gray[None]),
        (alpha, image[None]),
        (image[:3], image[None, :3]),  # ambiguous: channels last
        (image[:1, :1], image[None, :1, :1]),
    ]:
        assert np.array_equal(read_block(given), expected)
    block = read_block(image[:3, :, :], input_data_format="channels_last")
    assert np.array_equal(block, image[None, :3])
    block = read_block(rng.integers(0, 256, (3, 7, 4)), input_data_format="channels_first")
    assert block.shape == (1, 7, 4, 3)


def test_arrays_blend_alpha_as_transformers(rng):
    transforms = pytest.importorskip("transformers.image_transforms", reason="transformers is the reference")
    for image in (rng.integers(0, 256, (6, 7, 4), dtype="uint8"), rng.random((6, 7, 4)), rng.random((4, 6, 7))):
        expected = transforms.convert_to_rgb(image, return_numpy=True)
        block = read_block(image, on_white=True)
        expected = expected if expected.shape[-1] == 3 else expected.transpose(1, 2, 0)
        assert np.array_equal(block[0], expected)
        assert block.dtype == image.dtype
    with pytest.raises(ImageError, match=r"float RGBA within \[0, 1\]"):
        read_block(np.full((6, 7, 4), 2.0), on_white=True)


@pytest.mark.parametrize("wrong", [np.zeros((6, 7, 2)), np.zeros(7), np.zeros((1, 2, 3, 4, 5)), None, 3, np.array("x")])
def test_not_an_array_of_pixels(wrong):
    with pytest.raises(ImageError, match="Expected .* Received: "):
        read_block(wrong)


def test_input_data_format(rng):
    with pytest.raises(ImageError, match="Expected input_data_format .* Received: input_data_format='HWC'"):
        read_block(np.zeros((6, 7, 3)), input_data_format="HWC")


def test_flatten():
    assert list(flatten(["a", ["b", ("c",)], []])) == ["a", "b", "c"]
    assert list(flatten("abc")) == ["abc"]
