"""Processors, host and device, against transformers and against Pillow code written as torchvision and timm do."""

import io
import json
import math
import os
import subprocess
import sys
import threading
from unittest import mock

import keras
import numpy as np
import pytest
from PIL import Image

from tfdeit import processing
from tfdeit.images import ImageError
from tfdeit.processing import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    BatchFeature,
    DeiTFeatureExtractor,
    DeiTImageProcessor,
    DeiTImageProcessorFast,
    ViTFeatureExtractor,
    ViTImageProcessor,
    ViTImageProcessorFast,
    protocol_processor,
)
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD

IMAGENET = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}


@pytest.fixture(scope="session")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is the reference")


@pytest.fixture(scope="session")
def photos(shared_images):
    """All photos as RGB PIL images."""
    images = []
    for path in shared_images:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    return images


def reference(transformers, kind, images, options, **call):
    """pixel_values of transformers' Pillow processor, channels last."""
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**options)
    values = processor(images, **call)["pixel_values"]
    return np.stack([np.asarray(value).transpose(1, 2, 0) for value in values])


# ------------------------------------------------------------------------------------- all photos, bit for bit


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
    host = getattr(processing, f"{kind}ImageProcessor")(**options)
    result = host(shared_images, return_tensors="np").pixel_values
    assert result.dtype == np.float32
    assert np.array_equal(result, expected)

    compiled = processing._compiled.cache_info().currsize
    device = getattr(processing, f"{kind}ImageProcessorFast")(**options)
    result = device(shared_images)
    assert keras.ops.is_tensor(result.pixel_values)
    assert np.array_equal(keras.ops.convert_to_numpy(result.pixel_values), expected)
    assert processing._compiled.cache_info().currsize - compiled <= 15  # the photos have 31 sizes


def test_matrix_products_on_the_device(photos):
    """Bicubic: one value in ten thousand; bilinear has more ties: one in a hundred."""
    for kind, share in [("DeiT", 1e-4), ("ViT", 1e-2)]:
        device = getattr(processing, f"{kind}ImageProcessorFast")(exact=False)
        values = device(photos[::6], return_tensors="np").pixel_values
        expected = getattr(processing, f"{kind}ImageProcessor")()(photos[::6]).pixel_values
        assert np.abs(values - expected).max() <= 1.01 * 2 / 255  # one level
        assert (values != expected).mean() < share


def protocol_reference(image, protocol, size):
    """The protocols from the definitions of torchvision's Resize and CenterCrop, timm and mmpretrain."""
    width, height = image.size
    if protocol == "mmpretrain" and size == 384:
        image = image.resize((384, 384), Image.Resampling.BICUBIC)
    else:
        shorts = {("fb", 224): 256, ("fb", 384): 438, ("mmpretrain", 224): 256, ("deit3", 224): 224}
        short = shorts.get((protocol, size))
        short = short or math.floor(size / (0.9 if size == 224 else 1.0))
        if width < height:
            image = image.resize((short, int(short * height / width)), Image.Resampling.BICUBIC)
        else:
            image = image.resize((int(short * width / height), short), Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2.0) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    pixels = (np.asarray(image).astype("float64") * (1 / 255)).astype("float32")
    return (pixels - np.array(IMAGENET_MEAN, "float32")) / np.array(IMAGENET_STD, "float32")


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


@pytest.fixture
def small(rng):
    """Five smooth images of odd sizes, as PIL."""
    sizes = [(61, 47), (30, 90), (41, 41), (7, 5), (100, 64)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype="uint8")) for size in sizes]


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
    real = processing.resample
    monkeypatch.setattr(processing, "resample", lambda *a: calls.append(1) or real(*a))
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


# ------------------------------------------------------------------------------------ inputs, outputs, errors


def test_inputs_and_batching(small, tmp_path):
    processor = DeiTImageProcessor(size=32, crop_size=24)
    path = tmp_path / "image.png"
    small[0].save(path)
    forms = [small[0], np.asarray(small[0]), path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())]
    forms += [keras.ops.convert_to_tensor(np.asarray(small[0])), [[small[0]]]]
    one = processor(small[0]).pixel_values
    assert one.shape == (1, 24, 24, 3)
    for form in forms:
        assert np.array_equal(processor(form).pixel_values, one)
    assert np.array_equal(processor.preprocess(forms).pixel_values, np.repeat(one, len(forms), axis=0))
    batch = np.stack([np.asarray(small[2])] * 3)
    for cls in (DeiTImageProcessor, DeiTImageProcessorFast):
        assert cls(size=32, crop_size=24)(batch, return_tensors="np").pixel_values.shape == (3, 24, 24, 3)


@pytest.mark.parametrize("cls", [DeiTImageProcessor, DeiTImageProcessorFast])
def test_exif_orientation_of_files(small, cls):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    stream = io.BytesIO()
    small[0].save(stream, "PNG", exif=exif)
    processor, plain = cls(exif_orientation=True), cls()
    turned = small[0].transpose(Image.Transpose.ROTATE_180)
    for image, seen in [(processor(stream.getvalue()), turned), (plain(stream.getvalue()), small[0])]:
        assert np.array_equal(image.pixel_values, plain(seen).pixel_values)


def test_batch_feature_and_tensors(small):
    inputs = DeiTImageProcessor(size=32, crop_size=24)(images=small, return_tensors="np")
    assert isinstance(inputs, BatchFeature)
    assert list(inputs) == ["pixel_values"]
    assert inputs.pixel_values is inputs["pixel_values"]
    with pytest.raises(AttributeError, match="labels"):
        _ = inputs.labels
    for cls in (DeiTImageProcessor, DeiTImageProcessorFast):
        values = cls(size=32, crop_size=24)(small, return_tensors="tf").pixel_values
        assert type(values).__module__.startswith("tensorflow")
        assert np.array_equal(values.numpy(), inputs.pixel_values)


@pytest.mark.parametrize("cls", [ViTImageProcessor, ViTImageProcessorFast])
def test_results_of_different_sizes(small, cls):
    processor = cls(size={"shortest_edge": 30})
    values = processor(small).pixel_values
    host = ViTImageProcessor(size={"shortest_edge": 30})(small).pixel_values
    assert [tuple(value.shape) for value in values] == [(38, 30, 3), (30, 90, 3), (30, 30, 3), (42, 30, 3), (46, 30, 3)]
    assert all(np.array_equal(keras.ops.convert_to_numpy(a), b) for a, b in zip(values, host, strict=True))
    with pytest.raises(ValueError, match=r"all to come out with one size.*\(30, 90\)"):
        processor(small, return_tensors="np")


def test_number_of_compilations_does_not_grow_with_the_number_of_sizes(rng):
    processor = ViTImageProcessorFast(size={"shortest_edge": 20})
    before = processing._compiled.cache_info().currsize
    for width in range(40, 72):
        processor(rng.integers(0, 256, (41, width, 3), dtype="uint8"))
    assert processing._compiled.cache_info().currsize - before <= 6


@pytest.mark.parametrize("cls", [DeiTImageProcessor, DeiTImageProcessorFast])
def test_several_threads_at_once(small, cls):
    processor = cls(size=32, crop_size=24)
    expected = processor(small, return_tensors="np").pixel_values
    results = [None] * 6

    def work(i):
        results[i] = [processor(small, return_tensors="np").pixel_values for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(values, expected) for result in results for values in result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": {"height": 224}},
            r"Expected size to be .*keys \{height, width\} or .*Received: size=\{'height': 224\}",
        ),
        ({"size": {"longest_edge": 224}}, "Expected size to be"),
        ({"size": 0}, "Expected size to be a positive integer"),
        ({"size": {"height": -1, "width": 5}}, "Expected size to be a positive integer"),
        ({"size": (224, 224, 3)}, "Expected size to be"),
        ({"size": "224"}, "Expected size to be"),
        ({"crop_size": {"shortest_edge": 224}}, r"Expected crop_size to be .*keys \{height, width\}\. Received"),
        ({"resample": 9}, r"Expected resample to be Pillow's number of a filter, .*3: 'bicubic'.*resample=9"),
        ({"resample": "bicubic"}, "Expected resample to be"),
        (
            {"image_std": [0.2, 0.0, 0.2]},
            r"Expected image_std to be three positive numbers. Received: image_std=\[0\.2",
        ),
        ({"image_mean": [0.5, 0.5]}, "Expected image_mean to be three finite numbers"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "Expected image_mean to be three finite numbers"),
        ({"image_mean": "abc"}, "Expected image_mean to be three finite numbers"),
        ({"rescale_factor": 0}, "Expected rescale_factor to be a positive number"),
        ({"do_resize": "yes"}, "Expected do_resize to be True or False. Received: do_resize='yes'"),
        ({"crop_rounding": "ceil"}, "Expected crop_rounding to be 'floor' or 'round'"),
        ({"exact": 1}, "Expected exact to be True or False"),
        ({"pass_order": "vertical"}, "Expected pass_order to be 'horizontal' or 'pillow13'"),
    ],
    ids=str,
)
def test_wrong_values(options, message):
    with pytest.raises(ValueError, match=message):
        DeiTImageProcessorFast(**options)
    with pytest.raises(ValueError, match=message):
        DeiTImageProcessorFast()(np.zeros((9, 9, 3), "uint8"), **options)
    processor = DeiTImageProcessorFast()
    for name, value in options.items():
        with pytest.raises(ValueError, match=message):
            setattr(processor, name, value)


def test_misspelt_names():
    with pytest.raises(TypeError, match="DeiTImageProcessor has no parameter 'do_resise'. Did you mean 'do_resize'?"):
        DeiTImageProcessor(do_resise=False)
    with pytest.raises(TypeError, match="has no parameter 'image_meen'. Did you mean 'image_mean'?"):
        DeiTImageProcessor()(np.zeros((9, 9, 3)), image_meen=0.5)
    with pytest.raises(TypeError, match="has no parameter 'xyz'. Known: do_convert_rgb, "):
        DeiTImageProcessor().xyz = 3


def test_wrong_calls(small):
    processor = DeiTImageProcessor()
    with pytest.raises(ValueError, match=r"Expected data_format='channels_last'.*transpose.*'channels_first'"):
        processor(small, data_format="channels_first")
    with pytest.raises(
        ValueError, match=r"Expected return_tensors to be None, 'np', or.*Received: return_tensors='pt'"
    ):
        processor(small, return_tensors="pt")
    with pytest.raises(ValueError, match=r"Expected crop_size to be given with do_center_crop=True"):
        ViTImageProcessor(do_center_crop=True)(small)
    for wrong in (
        np.full((9, 9, 3), -1.0),
        np.full((9, 9, 3), 256),
        np.full((9, 9, 3), 1.5),
        np.full((9, 9, 3), np.nan),
    ):
        with pytest.raises(ImageError, match=r"whole numbers in \[0, 255\] or fractions in \[0, 1\]"):
            processor(wrong)
    with pytest.raises(ImageError, match=r"uint8 pixels for DeiTImageProcessorFast; use DeiTImageProcessor .*float32"):
        DeiTImageProcessorFast()(np.zeros((9, 9, 3), "float32"))
    with pytest.raises(ImageError, match=r"images\[1\]: bytes: the file is empty"):
        processor([small[0], b""])
    with pytest.raises(ValueError, match=r"Expected at least one image.*Received: 0 images"):
        processor([])
    with pytest.raises(ValueError, match=r"out of \['deit3', 'fb', 'hf', 'mmpretrain', 'timm', 'vit'\]"):
        protocol_processor("keras", 224)


def test_overrides_and_attributes_stay_local(small):
    processor = DeiTImageProcessor(size=32)
    processor(small, size=48, crop_size=8)
    assert processor.size == {"height": 32, "width": 32}
    processor.size["height"] = 5
    assert DeiTImageProcessor().size == {"height": 256, "width": 256}
    assert DeiTImageProcessor(size=None, image_mean=None).size == {"height": 256, "width": 256}
    assert repr(processor).startswith("DeiTImageProcessor(do_resize=True, size={'height': 5, 'width': 32}, resample=3,")


# ---------------------------------------------------------------------------------------------------- protocols


@pytest.mark.parametrize(
    ("protocol", "image_size", "size", "crop"),
    [
        ("fb", 224, {"shortest_edge": 256}, 224),
        ("fb", 384, {"shortest_edge": 438}, 384),
        ("timm", 224, {"shortest_edge": 248}, 224),
        ("timm", 384, {"shortest_edge": 384}, 384),
        ("hf", 224, {"height": 256, "width": 256}, 224),
        ("hf", 384, {"height": 438, "width": 438}, 384),
        ("mmpretrain", 224, {"shortest_edge": 256}, 224),
        ("mmpretrain", 384, {"height": 384, "width": 384}, None),
        ("vit", 224, {"height": 224, "width": 224}, None),
        ("vit", 384, {"height": 384, "width": 384}, None),
        ("deit3", 224, {"shortest_edge": 224}, 224),
        ("deit3", 384, {"shortest_edge": 384}, 384),
        ("timm", 32, {"shortest_edge": 35}, 32),
        ("fb", 32, {"shortest_edge": 36}, 32),
    ],
)
def test_protocol_table(protocol, image_size, size, crop):
    processor = protocol_processor(protocol, image_size)
    assert processor.size == size
    assert processor.do_center_crop == (crop is not None)
    assert crop is None or processor.crop_size == {"height": crop, "width": crop}
    assert processor.resample == (2 if protocol == "vit" else 3)
    assert processor.image_mean == ([0.5] * 3 if protocol == "vit" else list(IMAGENET_MEAN))
    assert processor.crop_rounding == ("floor" if protocol in ("hf", "vit") or crop is None else "round")
    own = DeiTImageProcessorFast(image_mean=[0.1, 0.2, 0.3], crop_rounding="round").with_protocol(protocol, image_size)
    assert type(own) is DeiTImageProcessorFast
    assert own.image_mean == [0.1, 0.2, 0.3]
    assert own.geometry(300, 400) == processor.geometry(300, 400)


# -------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["DeiT", "ViT"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {**IMAGENET, "size": {"shortest_edge": 40}, "crop_size": 30, "do_center_crop": True, "resample": 1},
        {"do_resize": False, "do_rescale": False, "do_normalize": False, "rescale_factor": 0.5, "do_convert_rgb": True},
    ],
    ids=str,
)
def test_round_trip_with_transformers(transformers, tmp_path, small, kind, options):
    theirs_class = getattr(transformers, f"{kind}ImageProcessorPil")
    ours_class = getattr(processing, f"{kind}ImageProcessor")
    ours, theirs = ours_class(**options), theirs_class(**options)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    reloaded = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert type(reloaded) is theirs_class
    assert reloaded.to_dict() == theirs.to_dict()
    for path in (tmp_path / "ours", tmp_path / "theirs", tmp_path / "theirs" / "preprocessor_config.json"):
        loaded = AutoImageProcessor.from_pretrained(path)
        assert type(loaded) is ours_class
        known = {key: value for key, value in loaded.to_dict().items() if key not in loaded.extra}
        assert known == ours.to_dict()
        assert np.array_equal(loaded(small[:1]).pixel_values, reference(transformers, kind, small[:1], options))


def test_unknown_entries_and_own_fields_survive(tmp_path):
    processor = DeiTImageProcessorFast.from_dict({"size": 99, "some_future_key": [1], "processor_class": "X"})
    assert processor.extra == {"some_future_key": [1], "processor_class": "X"}
    processor.replace(crop_rounding="round", exact=False, exif_orientation=True).save_pretrained(
        tmp_path / "new" / "dir"
    )
    stored = json.loads((tmp_path / "new" / "dir" / "preprocessor_config.json").read_text())
    assert stored["image_processor_type"] == "DeiTImageProcessor"
    assert stored["some_future_key"] == [1]
    assert (stored["crop_rounding"], stored["exact"], stored["exif_orientation"]) == ("round", False, True)
    assert not {"crop_rounding", "exact", "exif_orientation", "pass_order"} & set(processor.to_dict())
    again = DeiTImageProcessorFast.from_pretrained(tmp_path / "new" / "dir", size=50)
    assert (again.size, again.crop_rounding, again.exact) == ({"height": 50, "width": 50}, "round", False)
    with pytest.raises(TypeError, match="Did you mean 'resample'"):
        DeiTImageProcessor.from_pretrained(tmp_path / "new" / "dir", resampel=3)


def test_legacy_file_of_the_hub(tmp_path, transformers, small):
    """The content of facebook/deit-base-distilled-patch16-224's file, from before sizes were dictionaries."""
    config = {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 3,
        "size": 256,
    }
    config = {**config, **IMAGENET, "feature_extractor_type": "DeiTFeatureExtractor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    processor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(processor) is DeiTFeatureExtractor is DeiTImageProcessor
    assert np.array_equal(processor(small).pixel_values, reference(transformers, "DeiT", small, IMAGENET))
    assert type(AutoImageProcessor.from_pretrained(tmp_path, use_fast=True)) is DeiTImageProcessorFast
    assert AutoImageProcessor.from_pretrained(tmp_path, do_resize=False).do_resize is False


@pytest.mark.parametrize("suffix", ["ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"])
def test_auto_understands_every_name(tmp_path, suffix):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": f"ViT{suffix}"}))
    assert type(AutoImageProcessor.from_pretrained(path)) is ViTFeatureExtractor is ViTImageProcessor


def test_auto_without_a_name(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"size": 99}')
    with pytest.raises(ValueError, match=r"of DeiT or ViT. Received: 'None'"):
        AutoImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is ViTImageProcessor
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')
    with pytest.raises(ValueError, match=r"Received: 'CLIPImageProcessor'.*ViTImageProcessor.from_pretrained"):
        AutoImageProcessor.from_pretrained(tmp_path)


def test_broken_files(tmp_path):
    with pytest.raises(ValueError, match="Expected the directory of a checkpoint.*Received: .*absent"):
        DeiTImageProcessor.from_pretrained(tmp_path / "absent")
    path = tmp_path / "preprocessor_config.json"
    for text, message in [
        ("{", "Expected a JSON object in .*preprocessor_config.json"),
        ("[]", "Received: a list"),
        ('{"size": -1}', "size=-1"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            DeiTImageProcessor.from_pretrained(tmp_path)


# --------------------------------------------------------------------------------------------- other backends


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_the_same_pixels(backend, shared_images, tmp_path):
    pytest.importorskip(backend, reason=f"{backend} is an optional backend of Keras")
    code = (
        "import sys, numpy as np; from tfdeit.processing import *; p, out = sys.argv[1:];"
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
    from tfdeit.processing import _crop, _resize_window

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


def test_the_error_of_one_image_keeps_its_cause():
    with pytest.raises(ImageError, match="missing.png") as found:
        DeiTImageProcessor()("missing.png")
    assert isinstance(found.value.__cause__, FileNotFoundError)
