"""Processors, host and device, against transformers and against Pillow code written as torchvision and timm do."""

import os
import subprocess
import sys
from unittest import mock

import keras
import numpy as np
import pytest
from PIL import Image
from pillow_pixels import IMAGENET, protocol_reference, reference

from tfdeit.preprocessing import base_processor, processors
from tfdeit.preprocessing.images import ImageError
from tfdeit.preprocessing.processors import (
    DeiTImageProcessor,
    DeiTImageProcessorFast,
    ViTImageProcessor,
    ViTImageProcessorFast,
    protocol_processor,
)

# ------------------------------------------------------------------------------------- all photos, bit for bit


@pytest.fixture(scope="session")
def photos(shared_images):
    """All photos as RGB PIL images."""
    images = []
    for path in shared_images:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    return images


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param("DeiT", IMAGENET, id="hf-224"),
        pytest.param(
            "DeiT",
            {**IMAGENET, "size": {"height": 438, "width": 438}, "crop_size": {"height": 384, "width": 384}},
            id="hf-384",
            marks=pytest.mark.slow,
        ),
        pytest.param("ViT", {}, id="vit-224", marks=pytest.mark.slow),
        pytest.param("ViT", {"size": {"height": 384, "width": 384}}, id="vit-384", marks=pytest.mark.slow),
    ],
)
def test_all_photos_equal_transformers(transformers, photos, shared_images, kind, options):
    expected = reference(transformers, kind, photos, options)
    host = getattr(processors, f"{kind}ImageProcessor")(**options)
    result = host(shared_images, return_tensors="np").pixel_values
    assert result.dtype == np.float32
    assert np.array_equal(result, expected)

    compiled = processors._compiled.cache_info().currsize
    device = getattr(processors, f"{kind}ImageProcessorFast")(**options)
    result = device(shared_images)
    assert keras.ops.is_tensor(result.pixel_values)
    assert np.array_equal(keras.ops.convert_to_numpy(result.pixel_values), expected)
    assert processors._compiled.cache_info().currsize - compiled <= 15  # the photos have 31 sizes


def test_matrix_products_on_the_device(photos):
    """Bicubic: one value in ten thousand; bilinear has more ties: one in a hundred."""
    for kind, share in [("DeiT", 1e-4), ("ViT", 1e-2)]:
        device = getattr(processors, f"{kind}ImageProcessorFast")(exact=False)
        values = device(photos[::6], return_tensors="np").pixel_values
        expected = getattr(processors, f"{kind}ImageProcessor")()(photos[::6]).pixel_values
        assert np.abs(values - expected).max() <= 1.01 * 2 / 255  # one level
        assert (values != expected).mean() < share


@pytest.mark.parametrize(
    ("protocol", "size", "step"),
    [
        ("timm", 224, 1),
        ("timm", 384, 3),
        ("fb", 224, 3),
        ("fb", 384, 9),
        ("mmpretrain", 224, 9),
        ("mmpretrain", 384, 9),
        ("deit3", 224, 9),
    ],
)
def test_protocols(photos, protocol, size, step):
    images = photos[::step]
    expected = np.stack([protocol_reference(image, protocol, size) for image in images])
    host = protocol_processor(protocol, size)
    assert np.array_equal(host(images).pixel_values, expected)
    device = DeiTImageProcessorFast(**IMAGENET).with_protocol(protocol, size)
    assert np.array_equal(device(images, return_tensors="np").pixel_values, expected)


# ------------------------------------------------------------------------------------------- every parameter


CASES = [
    {"size": 33, "crop_size": 21},
    {"size": (33, 50), "crop_size": (20, 31)},
    {"size": {"height": 30, "width": 31}, "crop_size": {"height": 64, "width": 20}},
    {"size": 20, "crop_size": 33},
    {"size": {"shortest_edge": 37}, "crop_size": 30},
    {"size": {"shortest_edge": 37, "longest_edge": 50}, "crop_size": 41},
    {"size": {"shortest_edge": 41, "longest_edge": 60}, "crop_size": 41},
    {"size": {"max_height": 40, "max_width": 50}, "crop_size": 28},
    {"do_resize": False, "crop_size": 40},
    {"size": 32, "do_center_crop": False},
    {"size": 32, "crop_size": 24, "do_rescale": False},
    {"size": 32, "crop_size": 24, "do_normalize": False},
    {"size": 32, "crop_size": 24, "do_normalize": False, "do_rescale": False},
    {"size": 32, "crop_size": 24, "rescale_factor": 1 / 127.5},
    {"size": 32, "crop_size": 24, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    {"size": 32, "crop_size": 24, "image_mean": 0.3, "image_std": 0.7},
    {"size": 32, "crop_size": 24, "do_convert_rgb": True},
    *({"size": 32, "crop_size": 24, "resample": resample} for resample in range(6)),
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_parameters_equal_transformers(transformers, small, options):
    expected = reference(transformers, "DeiT", small, options)
    for processor, call, count in [
        (DeiTImageProcessor(**options), {}, 5),
        (DeiTImageProcessor(), options, 5),
        (DeiTImageProcessorFast(**options), {"return_tensors": "np"}, 2),
    ]:
        result = processor(small[:count], **call).pixel_values
        assert result.dtype == expected.dtype
        assert np.array_equal(result, expected[:count])
    assert np.array_equal(reference(transformers, "DeiT", small, {}, **options), expected)


@pytest.mark.parametrize("scale", ["fractions", "whole", "float64", "int32", "float16", "zeros and ones"])
@pytest.mark.parametrize("options", [{"size": 32, "crop_size": 24}, {"do_resize": False, "crop_size": 24}], ids=str)
@pytest.mark.parametrize("do_rescale", [True, False])
def test_array_dtypes_equal_transformers(transformers, rng, scale, options, do_rescale):
    pixels = rng.integers(0, 256, (3, 41, 38, 3))
    images = {
        "fractions": (pixels / 255).astype("float32"),
        "whole": pixels.astype("float32"),
        "float64": pixels / 255,
        "int32": pixels.astype("int32"),
        "float16": (pixels / 255).astype("float16"),
        "zeros and ones": (pixels > 128).astype("float32"),
    }[scale]
    options = {**options, "do_rescale": do_rescale}
    expected = reference(transformers, "DeiT", list(images), options).astype("float32")
    result = DeiTImageProcessor(**options)(images).pixel_values
    assert result.dtype == np.float32
    assert np.array_equal(result, expected)


def test_rgba_blends_as_transformers(transformers, rng):
    image = Image.fromarray(rng.integers(0, 256, (40, 40, 4), dtype="uint8"))
    expected = reference(transformers, "DeiT", [image], {"do_convert_rgb": True})
    assert np.array_equal(DeiTImageProcessor(do_convert_rgb=True)(image).pixel_values, expected)
    assert np.array_equal(
        DeiTImageProcessor()(image).pixel_values, DeiTImageProcessor()(image.convert("RGB")).pixel_values
    )


def test_crop_rounding():
    """Margins of 1, 3 and 5 pixels: transformers rounds down, torchvision to the even neighbour."""
    rows = np.arange(20, dtype="uint8")[:, None, None] * np.ones((1, 20, 3), "uint8")
    plain = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    for margin, floor, even in [(1, 0, 0), (3, 1, 2), (5, 2, 2), (7, 3, 4)]:
        for rounding, first in [("floor", floor), ("round", even)]:
            for cls in (DeiTImageProcessor, DeiTImageProcessorFast):
                result = cls(**plain, crop_size=20 - margin, crop_rounding=rounding)(rows, return_tensors="np")
                assert result.pixel_values[0, 0, 0, 0] == first
    padded = DeiTImageProcessor(**plain, crop_size=23, crop_rounding="round")(rows + 1).pixel_values[0]
    assert (padded[:, 10, 0] > 0).tolist() == [False] * 1 + [True] * 20 + [
        False
    ] * 2  # torchvision pads 1 before, 2 after


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("shape", [(400, 10), (9, 300), (1, 200), (1, 1)])
def test_thin_images_take_the_bounded_path(transformers, rng, shape, resample, monkeypatch):
    """The path of extreme shapes gives what Pillow gives by building everything."""
    image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype="uint8"))
    options = {"size": {"shortest_edge": 64}, "crop_size": 56, "resample": resample}
    expected = reference(transformers, "DeiT", [image], options)
    assert np.array_equal(DeiTImageProcessorFast(**options)(image, return_tensors="np").pixel_values, expected)
    calls = []
    real = base_processor.resample
    monkeypatch.setattr(base_processor, "resample", lambda *a: calls.append(1) or real(*a))
    assert np.array_equal(DeiTImageProcessor(**options)(image).pixel_values, expected)
    assert len(calls) == (max(shape) > 16 * min(shape))


@pytest.mark.parametrize("shape", [(20000, 1), (1, 20000), (2, 4000), (1, 1)])
@pytest.mark.parametrize("cls", [DeiTImageProcessor, DeiTImageProcessorFast])
def test_extreme_shapes_are_processed(shape, cls, rng):
    image = rng.integers(0, 256, (*shape, 3), dtype="uint8")
    for protocol in ("fb", "timm", "hf", "mmpretrain", "vit", "deit3"):
        values = cls(**IMAGENET).with_protocol(protocol, 224)(image, return_tensors="np").pixel_values
        assert values.shape == (1, 224, 224, 3)
        assert np.isfinite(values).all()


def test_results_that_would_not_fit_are_refused():
    thin = np.zeros((1, 20000, 3), "uint8")
    for cls in (ViTImageProcessor, ViTImageProcessorFast):
        processor = cls(size={"shortest_edge": 256})
        with pytest.raises(ImageError, match=r"^an image of 1x20000 is too long and thin to become 256x5120000"):
            processor(thin)
        with pytest.raises(ImageError, match=r"^images\[1\]: an image of 1x20000"):
            processor([thin[:, :1], thin])


# --------------------------------------------------------------------------------------------- other backends


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_the_same_pixels(backend, shared_images, tmp_path):
    pytest.importorskip(backend, reason=f"{backend} is an optional backend of Keras")
    code = (
        "import sys, numpy as np; from tfdeit.preprocessing.processors import *; p, out = sys.argv[1:];"
        "fast, host = DeiTImageProcessorFast(), DeiTImageProcessor();"
        "a, b = fast(p, return_tensors='np').pixel_values, host(p).pixel_values;"
        "c = fast(p, exact=False, return_tensors='np').pixel_values;"
        "np.savez(out, a=a, b=b, c=c); assert 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", code, str(shared_images[0]), str(tmp_path / "out.npz")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    with np.load(tmp_path / "out.npz") as values:
        assert np.array_equal(values["a"], values["b"])
        assert np.abs(values["c"] - values["b"]).max() < 1.01 * 2 / 255
        assert np.array_equal(values["a"], DeiTImageProcessor()(shared_images[0]).pixel_values)


def test_resizing_what_is_kept_changes_no_bit(rng):
    """Where floats are exact only a part is resized, and Pillow's order of passes depends on the sizes."""
    from tfdeit.preprocessing.base_processor import _crop, _resize_window

    partly = 0
    for _ in range(300):
        height, width = map(int, rng.integers(10, 300, 2))
        size = [(64, 64), (48, max(48 * width // height, 1)), (40, 48)][rng.integers(3)]
        window = (size[0] - 24) // 2, (size[1] - 24) // 2, 24, 24
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), "uint8"))
        for filter in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.NEAREST):
            with mock.patch.object(image, "resize", wraps=image.resize) as resize:
                found = _resize_window(image, size, window, filter)
            partly += resize.call_args.kwargs.get("box", (0, 0, width, height)) != (0, 0, width, height)
            np.testing.assert_array_equal(found, _crop(np.asarray(image.resize(size[::-1], filter)), *window))
    assert partly > 100
