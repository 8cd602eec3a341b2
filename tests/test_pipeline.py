"""Pipelines: pixels against Pillow and transformers, order, resuming, errors."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from oracles import transformers
from PIL import Image

from tfdeit.data import pipeline as pipelines
from tfdeit.data.decoding import decode_crop
from tfdeit.data.loading import Loading, tensor_memory
from tfdeit.data.order import Order
from tfdeit.data.pipeline import eval_pipeline, train_pipeline
from tfdeit.data.recipe import Recipe
from tfdeit.data.sources import Source
from tfdeit.images import Header, ImageError, decode_image, read_header
from tfdeit.processing import DeiTImageProcessor
from tfdeit.protocols import IMAGENET_MEAN, IMAGENET_STD

PLAIN = Recipe(auto_augment=None, hflip=0, reprob=0, mean=(0, 0, 0), std=(1 / 255,) * 3)  # crops only


class Files(Source):
    """Paths in turn, each of a class of its own."""

    def __init__(self, paths):
        self.paths = list(paths)
        super().__init__(range(len(self.paths)), map(str, self.paths))

    def read(self, index):
        return Path(self.paths[index]).read_bytes()

    def name(self, index):
        return str(self.paths[index])


@pytest.fixture
def files(tmp_path, rng):
    """40 small images of several formats and sizes."""
    paths = []
    for i in range(40):
        paths.append(tmp_path / f"{i:02}.{('jpg', 'png', 'bmp', 'webp')[i % 4]}")
        height, width = rng.integers(20, 60, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), "uint8")).save(paths[-1])
    return Files(paths)


# -------------------------------------------------------------------------------------------------- pixels


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


# ------------------------------------------------------------------------------------------------ training


def batches(pipeline, start, count):
    return [(values.numpy(), labels.numpy()) for values, labels in pipeline.dataset(start, count)]


@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
def test_training_crops_are_resized_crops_of_the_images(files, resize_on, interpolation):
    """Each pixel of a batch is what Pillow makes of the box that was drawn."""
    from tfdeit.data.augment import random_resized_crop_boxes

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


def test_a_run_is_resumed_exactly(files):
    whole = batches(train_pipeline(files, 8, 24, PLAIN, loading=Loading(threads=1)), 0, 12)
    for values, labels in whole[:2]:
        assert values.shape == (8, 24, 24, 3)
        np.testing.assert_allclose(labels.sum(axis=1), np.ones(8), rtol=1e-6)
    again = batches(train_pipeline(files, 8, 24, PLAIN, loading=Loading(threads=4)), 7, 5)
    for expected, found in zip(whole[7:], again, strict=True):
        assert all(map(np.array_equal, expected, found))
    assert not np.array_equal(whole[0][0], whole[5][0])  # epochs have 5 steps


def test_batches_that_are_kept_stay_as_they_are(files):
    """Memory is used again, but not while somebody has it."""
    pipeline = train_pipeline(files, 4, 16, PLAIN, mix=False)
    kept = [batch["values"][0].numpy() for batch in pipeline.host(0, 30)]
    for step, pixels in enumerate(kept):
        (again,) = pipeline.host(step, 1)
        assert np.array_equal(pixels, again["values"][0])
    array = tensor_memory((3000, 1001), "float32")
    address = array.ctypes.data
    assert address % 64 == 0
    assert tensor_memory((3000, 1000), "float32").ctypes.data != address
    del array
    assert tensor_memory((3000, 1001), "float32").ctypes.data == address


@pytest.mark.slow
def test_the_whole_recipe_is_resumed_exactly(files):
    """With every augmentation, mixing and repetition, on any number of threads; epochs go on without a seam."""
    order = Order(1, repeats=3)
    whole = batches(train_pipeline(files, 8, 32, order=order, loading=Loading(threads=1)), 0, 8)
    assert whole[0][0].shape == (8, 32, 32, 3)
    assert whole[0][1].shape == (8, 40)
    pipeline = train_pipeline(files, 8, 32, order=order)
    for start in (3, 7):
        for expected, found in zip(whole[start:], batches(pipeline, start, 8 - start), strict=True):
            assert all(map(np.array_equal, expected, found))
    assert not np.array_equal(whole[0][0], whole[5][0])  # epochs have 5 steps


def test_resuming_does_not_read_what_came_before(files):
    read = []
    files.read, original = lambda index: read.append(index) or original(index), files.read
    pipeline = train_pipeline(files, 4, 16, PLAIN, mix=False)
    labels = batches(pipeline, 10**6 + 9, 1)[0][1]
    assert set(labels) <= set(read)
    assert len(read) < 40


def test_workers_share_an_epoch(files):
    seen = []
    for worker in range(3):
        pipeline = train_pipeline(files, 4, 16, PLAIN, mix=False, order=Order(2, worker=worker, workers=3))
        assert pipeline.steps_per_epoch == 3
        seen += np.concatenate([labels for _, labels in batches(pipeline, 0, 3)]).tolist()
    assert len(seen) == len(set(seen)) == 36
    seen = []
    for worker in range(3):
        pipeline = eval_pipeline(files, 4, "vit", 16, order=Order(None, worker=worker, workers=3))
        seen += np.concatenate([labels.numpy() for _, labels in pipeline.dataset()]).tolist()
    assert sorted(seen) == list(range(40))


# -------------------------------------------------------------------------------------------------- errors


@pytest.fixture
def broken(files):
    paths = [Path(files.paths[i]) for i in (3, 17, 28)]
    paths[0].write_bytes(b"")
    paths[1].write_text("no image")
    data = paths[2].read_bytes()
    paths[2].write_bytes(data[: len(data) // 2])
    return paths


@pytest.mark.parametrize("make", [lambda f, o: eval_pipeline(f, 8, "vit", 16, loading=o),
                                  lambda f, o: train_pipeline(f, 8, 16, PLAIN, mix=False, loading=o)])  # fmt: skip
def test_errors_name_the_file(files, broken, make, tmp_path):
    with pytest.raises(tf.errors.OpError, match=rf"({'|'.join(map(str, broken))}): .*on_error='skip'"):
        for _ in make(files, None).dataset(0, 5):
            pass
    pipeline = make(files, Loading(on_error="skip"))
    labels = np.concatenate([labels.numpy() for _, labels in pipeline.dataset(0, 5)]).tolist()
    good = set(range(40)) - {3, 17, 28}
    assert set(labels) == good
    assert pipeline.write_failures(tmp_path / "failures.jsonl") == 3
    lines = list(map(json.loads, (tmp_path / "failures.jsonl").read_text().splitlines()))
    assert [line["index"] for line in lines] == [3, 17, 28]
    assert [line["name"] for line in lines] == list(map(str, broken))
    assert lines[0]["reason"] == "the file is empty"


def test_a_skipped_image_of_training_is_replaced(files, broken):
    pipeline = train_pipeline(files, 8, 16, PLAIN, mix=False, loading=Loading(on_error="skip"))
    found = batches(pipeline, 0, 10)
    assert all(len(labels) == 8 for _, labels in found)
    again = batches(pipeline, 7, 3)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(found[7:], again, strict=True))


def test_nothing_to_read(tmp_path):
    source = Files([tmp_path / "missing.png"] * 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no image of a batch"):
        next(iter(train_pipeline(source, 2, 16, PLAIN, loading=Loading(on_error="skip")).dataset()))
    for resize_on in ("host", "device"):
        pipeline = eval_pipeline(source, 2, "vit", 16, loading=Loading(on_error="skip", resize_on=resize_on))
        assert list(pipeline.dataset()) == []
        assert {failure.reason for failure in pipeline.failures} == {"No such file or directory"}


def test_what_is_refused(files):
    with pytest.raises(ValueError, match="at least one batch on every worker.*40 images, batch_size=41"):
        train_pipeline(files, 41)
    with pytest.raises(ValueError, match="Expected a step from 0 to 10"):
        eval_pipeline(files, 4, "vit").dataset(11)
    for options in ({"on_error": "ignore"}, {"threads": 0}, {"resize_on": "gpu"}):
        with pytest.raises(ValueError, match="Expected"):
            Loading(**options)
    with pytest.raises(ImageError):
        decode_crop(b"\xff\xd8", Header("JPEG", "RGB", 1, 1), 0, 0, 1, 1)


@pytest.mark.slow
def test_python_ends_while_a_pipeline_runs(files):
    """The iterator is alive at exit, and its threads are busy."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_pipeline import *\n"
        "iterator = iter(train_pipeline(Files(sys.argv[2:]), 8, 224, PLAIN, mix=False).dataset()); next(iterator)"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), *map(str, files.paths)], check=True, timeout=120
    )
