"""Calls of processors: inputs, outputs, errors, and the table of protocols."""

import io
import threading

import keras
import numpy as np
import pytest
from PIL import Image

from tfdeit.preprocessing import processors
from tfdeit.preprocessing.base_processor import BatchFeature
from tfdeit.preprocessing.images import ImageError
from tfdeit.preprocessing.processors import (
    DeiTImageProcessor,
    DeiTImageProcessorFast,
    ViTImageProcessor,
    ViTImageProcessorFast,
    protocol_processor,
)
from tfdeit.protocols import IMAGENET_MEAN

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
    with pytest.raises(ValueError, match=r"the same size for all after processing.*\(30, 90\)"):
        processor(small, return_tensors="np")


def test_number_of_compilations_does_not_grow_with_the_number_of_sizes(rng):
    processor = ViTImageProcessorFast(size={"shortest_edge": 20})
    before = processors._compiled.cache_info().currsize
    for width in range(40, 72):
        processor(rng.integers(0, 256, (41, width, 3), dtype="uint8"))
    assert processors._compiled.cache_info().currsize - before <= 6


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
    with pytest.raises(ValueError, match="one of deit3, fb, hf, mmpretrain, timm, vit. Received: 'keras'"):
        protocol_processor("keras", 224)


def test_overrides_and_attributes_stay_local(small):
    processor = DeiTImageProcessor(size=32)
    processor(small, size=48, crop_size=8)
    assert processor.size == {"height": 32, "width": 32}
    processor.size["height"] = 5
    assert DeiTImageProcessor().size == {"height": 256, "width": 256}
    assert DeiTImageProcessor(size=None, image_mean=None).size == {"height": 256, "width": 256}
    assert repr(processor).startswith("DeiTImageProcessor(do_resize=True, size={'height': 5, 'width': 32}, resample=3,")


def test_the_error_of_one_image_keeps_its_cause():
    with pytest.raises(ImageError, match="missing.png") as found:
        DeiTImageProcessor()("missing.png")
    assert isinstance(found.value.__cause__, FileNotFoundError)


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
