"""Masked image modelling: the loss against transformers, masks, pictures, and the example."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from oracles import TINY, answer, random_model, saved, torch
from PIL import Image
from sizes import MICRO

import tfdeit
from tfdeit.augmentation.assembly import to_levels
from tfdeit.augmentation.masks import block_masks
from tfdeit.augmentation.recipe import RECIPES
from tfdeit.data.order import Order
from tfdeit.data.pipeline import eval_pipeline, train_pipeline
from tfdeit.data.sources import FolderSource
from tfdeit.training.masked_images import MaskedImages, masked_pipeline, reconstruction_grid

CONFIG = tfdeit.ViTConfig(**MICRO | {"num_labels": 2})  # 32 pixels, patches of 8


@pytest.fixture
def source(tmp_path, rng):
    for i in range(12):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), "uint8")).save(path)
    return FolderSource(tmp_path / "data")


DEIT, VIT = "DeiTForMaskedImageModeling", "ViTForMaskedImageModeling"
LARGER = TINY | {"num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("class_name", "sizes"),
    [
        (DEIT, MICRO),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((VIT, MICRO), (DEIT, LARGER), (VIT, LARGER))),
    ],
)
def test_the_loss_equals_that_of_transformers(class_name, sizes, tmp_path, rng):
    """With and without training's compiled step, for masks of any share, all and nothing too."""
    theirs = random_model(class_name, **sizes)
    ours = getattr(tfdeit, f"TF{class_name}").from_pretrained(saved(theirs, tmp_path))
    ours.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    size, patches = ours.config.image_hw[0], ours.config.num_patches
    pixel_values = rng.normal(size=(3, size, size, 3)).astype("float32")
    masks = [rng.random((3, patches)) < share for share in (0.0, 0.1, 0.6, 1.1)]
    masks.append(block_masks(np.arange(6).reshape(3, 2), size, ours.config.patch_size, size // 2).numpy())
    for mask in masks:
        expected = answer(theirs, pixel_values, bool_masked_pos=mask)["loss"]
        inputs = {"pixel_values": pixel_values, "bool_masked_pos": mask}
        for found in (ours(inputs).loss, ours.train_on_batch(inputs)):
            np.testing.assert_allclose(np.squeeze(found), expected, rtol=1e-6)


@pytest.mark.slow
def test_gradients_equal_those_of_torch(tmp_path, rng):
    theirs = random_model("DeiTForMaskedImageModeling", **MICRO)
    ours = tfdeit.TFDeiTForMaskedImageModeling.from_pretrained(saved(theirs, tmp_path))
    pixel_values, mask = rng.normal(size=(3, 32, 32, 3)).astype("float32"), rng.random((3, 16)) < 0.6
    pixels = torch.from_numpy(pixel_values.transpose(0, 3, 1, 2).copy())
    theirs(pixels, bool_masked_pos=torch.from_numpy(mask)).loss.backward()
    expected = theirs.decoder[0].weight.grad.numpy()  # (C * 8 * 8, D, 1, 1), channels first in a patch
    ours.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    before = np.array(ours.decoder.kernel)
    ours.train_on_batch({"pixel_values": pixel_values, "bool_masked_pos": mask})
    found = before - np.array(ours.decoder.kernel)  # (D, 8 * 8 * C)
    # transformers' PixelShuffle takes channel c, row i and column j of a patch from output (c * 8 + i) * 8 + j.
    expected = expected.reshape(3, 8, 8, 32).transpose(3, 1, 2, 0).reshape(32, -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("training", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_batches_hold_images_and_masks(source, training):
    plain = eval_pipeline(source, 4, "vit", 32)
    if training:
        plain = train_pipeline(source, 4, 32, RECIPES["simmim"], mix=False, order=Order(3))
    pipeline = masked_pipeline(plain, CONFIG, block_size=16, ratio=0.5)
    batches = list(pipeline.dataset(0, 3))
    for (pixel_values, masks), (expected, _) in zip(batches, plain.dataset(0, 3), strict=True):
        assert np.array_equal(pixel_values, expected)
        assert masks.dtype == bool
        blocks = masks.numpy().reshape(4, 2, 2, 2, 2)
        assert (blocks.sum(axis=(1, 2, 3, 4)) == 8).all()
        assert (blocks.min(axis=(2, 4)) == blocks.max(axis=(2, 4))).all()
    assert all(map(np.array_equal, next(iter(pipeline.dataset(2, 1))), batches[2]))
    assert len({masks.numpy().tobytes() for _, masks in batches}) == 3
    if training:  # another epoch has other masks of the same images
        masks = [np.concatenate([masks for _, masks in pipeline.dataset(3 * epoch, 3)]) for epoch in (0, 1)]
        assert not np.array_equal(*(np.sort(mask @ (1 << np.arange(16))) for mask in masks))


def test_the_task(source):
    """What a Learner does with it: the loss of a batch, and the mean of a data set in batches of two sizes."""
    model, task = tfdeit.TFViTForMaskedImageModeling(CONFIG), MaskedImages()
    whole, parts = (masked_pipeline(eval_pipeline(source, n, "vit", 32), CONFIG, 16) for n in (12, 5))
    pixel_values, masks = next(iter(whole.dataset()))
    loss, figures = task.loss(model, pixel_values, task.targets(pixel_values, masks), training=False)
    assert float(loss) == pytest.approx(float(model(pixel_values, bool_masked_pos=masks).loss[0]))
    assert not figures
    done = []
    assert task.evaluate(model, parts, done.append)["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert done == [1, 2, 3]


def test_what_does_not_fit_is_said_at_once(source):
    pipeline = eval_pipeline(source, 4, "vit", 32)
    with pytest.raises(ValueError, match="Expected block_size to divide image_size"):
        masked_pipeline(pipeline, CONFIG, block_size=12)
    with pytest.raises(ValueError, match="Expected square images and patches"):
        masked_pipeline(pipeline, CONFIG.replace(image_size=(32, 64)))


def test_the_picture_shows_what_is_seen_and_what_is_made(source):
    """A model whose answer is a constant: gaps have its colour, the rest is the image."""
    model = tfdeit.TFViTForMaskedImageModeling(CONFIG)
    for variable in model.decoder.weights:
        variable.assign(np.zeros(variable.shape))
    pipeline = masked_pipeline(eval_pipeline(source, 4, "vit", 32), CONFIG, block_size=16, ratio=0.5)
    pixel_values, masks = (np.asarray(value) for value in next(iter(pipeline.dataset())))
    page = np.asarray(reconstruction_grid(model, pixel_values, masks, mean=(0.5,) * 3, std=(0.5,) * 3))
    found = np.lib.stride_tricks.sliding_window_view(page, (128, 128, 3))[:, :, 0]
    assert page.shape[1] == 6 * 138 + 10  # two examples in a row
    images = to_levels(pixel_values, (0.5,) * 3, (0.5,) * 3).repeat(4, axis=1).repeat(4, axis=2)
    mask = masks.reshape(4, 4, 4).repeat(32, axis=1).repeat(32, axis=2)
    for i in range(4):
        left = 10 + i % 2 * 3 * 138
        (top,) = (y for y, tile in enumerate(found[:, left]) if np.array_equal(tile, images[i]))
        masked, made = (found[top, left + 138 * column] for column in (1, 2))
        for tile in (masked, made):  # zero is grey after normalisation
            assert np.array_equal(tile[~mask[i]], images[i][~mask[i]])
            assert (tile[mask[i]] == 128).all()


@pytest.mark.heavy
def test_the_example(tmp_path):
    """Stripes, which their surroundings tell."""
    for i in range(64):
        path = tmp_path / "data" / "stripes" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (np.arange(32)[:, None, None] + i) // 4 % 2 * np.array([255, 40 * (i % 5), 0])
        Image.fromarray(np.broadcast_to(rows, (32, 32, 3)).astype("uint8")).save(path)
    command = [sys.executable, ROOT / "examples" / "masked_images.py", tmp_path / "data", "--out", tmp_path / "out"]
    done = subprocess.run([*command, "--steps", "60", "--batch-size", "16"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"[\d.]+", done.stdout.splitlines()[-1])]
    assert len(losses) == 10
    assert losses[-1] < 0.7 * losses[0]
    with Image.open(tmp_path / "out" / "reconstructions.png") as page:
        assert page.width == 838
    with pytest.warns(UserWarning, match="newly initialised"):
        model = tfdeit.TFViTForImageClassification.from_pretrained(tmp_path / "out", num_labels=3)
    trained = tfdeit.TFViTForMaskedImageModeling.from_pretrained(tmp_path / "out")
    for ours, theirs in zip(model.backbone.blocks[3].weights, trained.backbone.blocks[3].weights, strict=True):
        assert np.array_equal(ours, theirs)
