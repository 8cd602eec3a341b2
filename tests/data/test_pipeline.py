"""Pipelines: pixels against Pillow and transformers."""

import dataclasses
import io

import numpy as np
import pytest
from oracles import transformers
from PIL import Image
from training_data import PLAIN, Files, batches

from tfdeit.data import pipeline as pipelines
from tfdeit.data.decoding import decode_crop
from tfdeit.data.loading import Loading
from tfdeit.data.order import Order
from tfdeit.data.pipeline import eval_pipeline, train_pipeline
from tfdeit.preprocessing.images import decode_image, read_header
from tfdeit.preprocessing.processors import DeiTImageProcessor
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD


def test_no_thread_tunes_what_is_fixed(files):
    """It would hold up the end of a short data set, by up to its period."""
    assert not eval_pipeline(files, 8, "hf", 32).dataset().options().autotune.enabled


def normalised(image, mean, std):
    """ToTensor and Normalize of torchvision, channels last, in float32."""
    values = np.asarray(image, "float32") / np.float32(255)
    return (values - np.array(mean, "float32")) / np.array(std, "float32")


def resize_short(image, size, filter=Image.Resampling.BICUBIC):
    """Resize(size) of torchvision."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    new_long = int(size * long / short)
    return image.resize((size, new_long) if width <= height else (new_long, size), filter)


def center_crop(image, size):
    """CenterCrop(size) of torchvision, for images that are large enough."""
    width, height = image.size
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


# As the evaluations publish them: (protocol, pixels) -> from a PIL image to one of the final size.
GEOMETRY = {
    ("fb", 224): lambda image: center_crop(resize_short(image, 256), 224),
    ("fb", 384): lambda image: center_crop(resize_short(image, 438), 384),
    ("timm", 224): lambda image: center_crop(resize_short(image, 248), 224),
    ("timm", 384): lambda image: center_crop(resize_short(image, 384), 384),
    ("mmpretrain", 224): lambda image: center_crop(resize_short(image, 256), 224),
    ("mmpretrain", 384): lambda image: image.resize((384, 384), Image.Resampling.BICUBIC),
}


@pytest.fixture(params=["numba", "pillow", "device"])
def resize_on(request, monkeypatch):
    """Each way of resizing, as `Loading.resize_on`."""
    if request.param == "numba":
        pytest.importorskip("numba", reason="the extra fast")
        assert pipelines.compiled_resize()
    if request.param == "pillow":
        monkeypatch.setattr(pipelines, "compiled_resize", lambda: None)
    return "device" if request.param == "device" else "host"


def evaluated(paths, protocol, size, resize_on, batch_size=16):
    pipeline = eval_pipeline(Files(paths), batch_size, protocol, size, loading=Loading(resize_on=resize_on))
    batches = [(values.numpy(), labels.numpy()) for values, labels in pipeline.dataset()]
    assert len(batches) == pipeline.steps_per_epoch
    assert np.concatenate([labels for _, labels in batches]).tolist() == list(range(len(paths)))
    return np.concatenate([values for values, _ in batches])


def levels(values, mean, std):
    return np.rint((values * np.array(std, "float32") + np.array(mean, "float32")) * 255).astype("uint8")


def check_protocol(paths, protocol, size, resize_on):
    found = evaluated(paths, protocol, size, resize_on)
    images = (Image.open(path).convert("RGB") for path in paths)
    if (protocol, size) in GEOMETRY:
        for image, values in zip(images, found, strict=True):
            expected = GEOMETRY[protocol, size](image)
            assert np.array_equal(levels(values, **IMAGENET), np.asarray(expected))
            np.testing.assert_allclose(values, normalised(expected, **IMAGENET), rtol=0, atol=5e-7)
        return
    bicubic = {"resample": 3, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    squash = {"height": size * 256 // 224, "width": size * 256 // 224}
    theirs = {
        "hf": lambda: transformers.DeiTImageProcessorPil(size=squash, crop_size=size, **bicubic),
        "vit": lambda: transformers.ViTImageProcessorPil(size={"height": size, "width": size}),
    }[protocol]()
    for image, values in zip(images, found, strict=True):
        expected = theirs(image, return_tensors="np").pixel_values[0].transpose(1, 2, 0)
        assert np.array_equal(values, expected)


@pytest.mark.parametrize("protocol", ["fb", "vit"])
def test_evaluation_of_some_photos(shared_images, protocol, resize_on):
    check_protocol(shared_images[::18], protocol, 224, resize_on)


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 384])
@pytest.mark.parametrize("protocol", ["fb", "timm", "hf", "mmpretrain", "vit"])
def test_evaluation_of_all_photos(shared_images, protocol, size, resize_on):
    check_protocol(shared_images, protocol, size, resize_on)


def test_sizes_and_formats_that_no_photo_has(tmp_path, rng, resize_on):
    """Much larger, thin and tiny images; grey, palette, CMYK and transparency; against the processor."""
    paths = []
    for name, size in {
        "large.png": (1500, 1400),
        "thin.jpg": (3, 700),
        "wide.png": (900, 5),
        "dot.png": (1, 1),
    }.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), "uint8")).save(paths.append(tmp_path / name) or paths[-1])
    photo = Image.fromarray(rng.integers(0, 256, (50, 60, 3), "uint8"))
    for mode, suffix in {"L": "jpg", "P": "png", "CMYK": "jpg", "RGBA": "webp", "I;16": "png", "1": "bmp"}.items():
        grey = photo.convert("L")
        image = Image.fromarray(np.asarray(grey, "uint16") * 200) if mode == "I;16" else photo.convert(mode)
        image.save(paths.append(tmp_path / f"{mode[0]}{len(paths)}.{suffix}") or paths[-1])
    processor = DeiTImageProcessor(size=40, crop_size=32, **{f"image_{k}": v for k, v in IMAGENET.items()})
    expected = processor(paths).pixel_values
    data = eval_pipeline(Files(paths), 20, processor, loading=Loading(resize_on=resize_on)).dataset()
    assert np.array_equal(next(iter(data))[0], expected)


def test_images_of_many_sizes_have_few_shapes(tmp_path, rng):
    """Canvases of 64x64, and 8 or 12 taps for rows and for columns: four graphs at most."""
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (*rng.integers(52, 65, 2), 3), "uint8")).save(path)
    processor = DeiTImageProcessor(size=32, do_center_crop=False)
    on_device = eval_pipeline(Files(paths), 1, processor, loading=Loading(resize_on="device"))
    found = np.concatenate([on_device.finish(batch)[0] for batch in on_device.host()])
    assert np.array_equal(found, processor(paths).pixel_values)
    assert on_device.finish.experimental_get_tracing_count() <= 4


def test_a_processor_must_make_one_size(files):
    with pytest.raises(ValueError, match="images of one size"):
        eval_pipeline(files, 4, DeiTImageProcessor(size={"shortest_edge": 32}, do_center_crop=False))


SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_decoding_a_crop_equals_cropping(rng, subsampling, progressive):
    for size in ((97, 130), (300, 210)):
        buffer = io.BytesIO()
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), "uint8"))
        image.save(buffer, "JPEG", subsampling=SUBSAMPLINGS[subsampling], progressive=progressive)
        whole = decode_image(buffer.getvalue())
        for _ in range(20):
            top, left = (int(rng.integers(0, side)) for side in size)
            height, width = int(rng.integers(1, size[0] - top + 1)), int(rng.integers(1, size[1] - left + 1))
            crop = decode_crop(buffer.getvalue(), read_header(buffer.getvalue()), top, left, height, width)
            assert np.array_equal(crop, whole[top : top + height, left : left + width])


def test_decoding_crops_of_photos(shared_images, rng):
    for path in shared_images:
        whole = decode_image(path)
        for _ in range(3):
            (top, bottom), (left, right) = (sorted(rng.integers(0, side + 1, 2)) for side in whole.shape[:2])
            if bottom > top and right > left:
                box = int(top), int(left), int(bottom - top), int(right - left)
                crop = decode_crop(path.read_bytes(), read_header(path), *box)
                assert np.array_equal(crop, whole[top:bottom, left:right])


@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
def test_training_crops_are_resized_crops_of_the_images(files, resize_on, interpolation):
    """Each pixel of a batch is what Pillow makes of the box that was drawn."""
    from tfdeit.augmentation.crops_and_erasing import random_resized_crop_boxes

    recipe = dataclasses.replace(PLAIN, interpolation=interpolation)
    pipeline = train_pipeline(files, 8, 24, recipe, mix=False, order=Order(4))
    for step, (values, labels) in enumerate(batches(pipeline, 0, 7)):
        epoch = step // pipeline.steps_per_epoch
        for pixels, index in zip(values, labels, strict=True):
            image = Image.open(files.name(index)).convert("RGB")
            seed = Order(4).sample_seed(epoch, int(index), 0)
            top, left, height, width = random_resized_crop_boxes([image.height], [image.width], seed[None]).numpy()[0]
            box = image.crop((left, top, left + width, top + height))
            filters = [Image.Resampling.BILINEAR] * (interpolation == "random") + [Image.Resampling.BICUBIC]
            box = box.resize((24, 24), filters[seed[0] % len(filters)])
            assert np.array_equal(np.rint(pixels), np.asarray(box))
