"""Attention maps against the matrices of the paper, in plain numpy; and `tfdeit attention` as a user calls it."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import tfdeit
from tfdeit.network.attention_maps import attention_maps, attention_rollout
from tfdeit.presentation.grids import heat_bar, overlay


def rollout(attentions, discard=0):
    """Abnar & Zuidema 2020, section 3: raw attention, the identity added and normalised, multiplied up the layers."""
    result = np.eye(attentions[0].shape[-1])
    for attention in attentions:
        layer = attention.mean(axis=0)
        layer.flat[np.argsort(layer, axis=None)[: int(discard * layer.size)]] = 0
        layer = layer + np.eye(attention.shape[-1])
        result = (layer / layer.sum(axis=-1, keepdims=True)) @ result
    return result


@pytest.mark.parametrize("prefix", [1, 2])
def test_rollout(prefix, rng):
    scores = rng.normal(size=(4, 3, 2, 11, 11)) * 3  # blocks, images, heads
    attentions = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    shares = np.asarray(attention_rollout(list(attentions.astype("float32")), prefix))
    for image in range(3):
        expected = rollout(attentions[:, image])[0]
        assert np.abs(shares[image] - expected[prefix:]).max() < 1e-6
        assert abs(shares[image].sum() + expected[:prefix].sum() - 1) < 1e-5


@pytest.mark.parametrize("discard", [0.3, 0.9])
def test_rollout_that_drops_small_weights(discard, rng):
    scores = rng.normal(size=(3, 2, 2, 11, 11)) * 3
    attentions = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    for token in (0, 1):
        shares = np.asarray(attention_rollout(list(attentions.astype("float32")), 2, token, discard))
        for image in range(2):
            expected = rollout(attentions[:, image], discard)[token]
            assert np.abs(shares[image] - expected[2:]).max() < 1e-6


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}


@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
@pytest.mark.parametrize("distilled", [False, True])
def test_maps_of_a_model(size, distilled, rng):
    config_class, model_class = (tfdeit.DeiTConfig, tfdeit.TFDeiTForImageClassification)
    if not distilled:
        config_class, model_class = (tfdeit.ViTConfig, tfdeit.TFViTForImageClassification)
    model = model_class(config_class(**SIZES, image_size=size))
    pixels = rng.normal(size=(3, *size, 3)).astype("float32")
    attentions = [np.asarray(a) for a in model(pixels, output_attentions=True).attentions]
    maps = attention_maps(attentions, model.config.num_prefix_tokens, model.config.grid, block=0)
    tokens = ["class token", "distillation token"][: 1 + distilled]
    assert list(maps) == [f"{token}: {kind}" for token in tokens for kind in ("rollout", "mean", "head 1", "head 2")]
    for index, token in enumerate(tokens):
        heads = attentions[0][:, :, index, len(tokens) :]
        for name, expected in (
            ("rollout", np.stack([rollout([a[i] for a in attentions])[index, len(tokens) :] for i in range(3)])),
            ("mean", heads.mean(axis=1)),
            ("head 2", heads[:, 1]),
        ):
            found = maps[f"{token}: {name}"]
            assert found.shape == (3, size[0] // 8, size[1] // 8)
            expected = expected / expected.max(axis=1, keepdims=True)
            np.testing.assert_allclose(found.reshape(3, -1), expected, atol=1e-5)


def test_what_is_refused(rng):
    attentions = [rng.uniform(size=(1, 2, 17, 17)).astype("float32")] * 2
    with pytest.raises(ValueError, match="Expected a block from 0 to 1, or from -2 to -1. Received: block=2"):
        attention_maps(attentions, 1, (4, 4), block=2)
    with pytest.raises(ValueError, match=r"discard in \[0, 1\)"):
        attention_maps(attentions, 1, (4, 4), discard=1.0)
    with pytest.raises(ValueError, match="token below 1"):
        attention_rollout([np.ones((1, 1, 5, 5))], 1, token=1)


def test_rollout_of_a_model(rng):
    config = tfdeit.DeiTConfig(**SIZES, image_size=32)
    model = tfdeit.TFDeiTModel(config)
    attentions = model(rng.normal(size=(2, 32, 32, 3)).astype("float32"), output_attentions=True).attentions
    shares = np.asarray(attention_rollout(attentions, config.num_prefix_tokens))
    assert shares.shape == (2, 16)
    assert np.abs(shares[0] - rollout([np.asarray(a[0]) for a in attentions])[0, 2:]).max() < 1e-6


# ------------------------------------------------------------------------------------------------ drawn


def test_a_map_over_a_photo():
    photo = np.full((64, 96, 3), 100, "uint8")
    heat = np.zeros((4, 6))
    heat[1, 2] = 1
    drawn = overlay(photo, heat)
    assert drawn.shape == photo.shape
    assert drawn[24, 40].min() > 130  # bright in the middle of the patch
    assert drawn[60, 90].max() < 50  # dark where nothing is
    np.testing.assert_array_equal(overlay(photo, heat, 0.0), photo)
    bar = heat_bar(100)
    assert bar.shape == (100, 100, 3)
    brightness = bar[8:92, 12].sum(axis=-1, dtype=int)
    assert (np.diff(brightness) <= 0).all()  # the maximum is at the top


def run(*args, status=0):
    command = [sys.executable, "-m", "tfdeit", "attention", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done


def test_command(photos_dir, tmp_path):
    out = tmp_path / "deep" / "map.png"
    assert run(photos_dir / "cat.png", "-o", out, "--size", "96").stdout == f"{out}\n"
    page = np.asarray(Image.open(out).convert("RGB"))
    assert page.shape[1] == 5 * (96 + 10) + 10  # mean and four heads in a row
    assert (page != 255).mean() > 0.3


@pytest.mark.slow
def test_command_with_several_images(photos_dir, tmp_path):
    maps, missing = tmp_path / "maps", tmp_path / "missing.jpg"
    done = run(photos_dir, photos_dir / "cat.png", missing, "-o", maps, "--discard", "0.9", "--batch-size", 2, status=1)
    assert sorted(path.name for path in maps.iterdir()) == ["cat-2.png", "cat.png", "coffee.png"]
    assert done.stderr == f"tfdeit attention: {missing}: No such file or directory\n"
    assert (
        "Expected a directory to write to, for there are 2 images"
        in run(photos_dir, "-o", tmp_path / "map.png", status=2).stderr
    )
    assert "from 0 to 5" in run(photos_dir, "-o", maps, "--block", "9", status=2).stderr
