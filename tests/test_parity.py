"""The models against transformers with random weights: the same photo, processor, checkpoint; within 1e-4."""

import numpy as np
import pytest
from oracles import BASE, LARGE, MICRO, SMALL, TINY, answer, largest_difference, random_model, saved, transformers
from PIL import Image

import tfdeit

TOLERANCE = 1e-4
IMAGENET = {"num_labels": 1000}


def images(paths, count):
    return [Image.open(path).convert("RGB") for path in paths[:count]]


def processors(model_type, image_size):
    """Our processor and transformers' for a checkpoint of the hub."""
    if model_type == "vit":
        size = {"height": image_size, "width": image_size}
        return tfdeit.ViTImageProcessor(size=size), transformers.ViTImageProcessorPil(size=size)
    side = {224: 256, 384: 438}[image_size]
    options = {"size": {"height": side, "width": side}, "crop_size": {"height": image_size, "width": image_size}}
    return tfdeit.DeiTImageProcessor(**options), transformers.DeiTImageProcessorPil(**options)


def check(class_name, config, photos, directory):
    """From photos to outputs on both sides, then back: our saved model in transformers."""
    theirs = random_model(class_name, **config)
    model_type = theirs.config.model_type
    processor, their_processor = processors(model_type, config.get("image_size", 224))
    inputs = processor(photos, return_tensors="np")
    their_pixels = np.stack(their_processor(photos, return_tensors="np")["pixel_values"])
    np.testing.assert_array_equal(inputs.pixel_values, their_pixels.transpose(0, 2, 3, 1))

    ours = getattr(tfdeit, f"TF{class_name}").from_pretrained(saved(theirs, directory / "theirs"))
    expected = answer(theirs, inputs.pixel_values, output_hidden_states=True, output_attentions=True)
    outputs = ours(**inputs, output_hidden_states=True, output_attentions=True)
    for name, values in expected.items():
        assert largest_difference(getattr(outputs, name), values) <= TOLERANCE, name
    assert len(outputs.hidden_states) == len(outputs.attentions) + 1 == ours.config.num_hidden_layers + 1

    ours.save_pretrained(directory / "ours")
    back = type(theirs).from_pretrained(directory / "ours", attn_implementation="eager").eval()
    first = next(iter(expected))
    assert largest_difference(answer(back, inputs.pixel_values)[first], expected[first]) <= TOLERANCE
    state = back.state_dict()
    assert all((state[name] == tensor).all() for name, tensor in theirs.state_dict().items())


@pytest.mark.parametrize("class_name", ["DeiTForImageClassificationWithTeacher", "ViTForImageClassification"])
@pytest.mark.parametrize("size", [TINY, SMALL], ids=["tiny", "small"])
def test_deit_tiny_and_small(class_name, size, shared_images, tmp_path):
    check(class_name, size | IMAGENET, images(shared_images, 2), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("class_name", ["DeiTForImageClassificationWithTeacher", "ViTForImageClassification"])
@pytest.mark.parametrize("image_size", [224, 384])
def test_deit_base(class_name, image_size, shared_images, tmp_path):
    config = BASE | IMAGENET | {"image_size": image_size}
    check(class_name, config, images(shared_images, 1), tmp_path)


@pytest.mark.slow
def test_vit_large_patch32_384(shared_images, tmp_path):
    config = LARGE | IMAGENET | {"image_size": 384, "patch_size": 32}
    check("ViTForImageClassification", config, images(shared_images, 1), tmp_path)


@pytest.mark.parametrize("class_name", ["DeiTModel", "ViTModel", "DeiTForImageClassification"])
def test_the_other_classes(class_name, shared_images, tmp_path):
    check(class_name, TINY | {"num_hidden_layers": 2}, images(shared_images, 2), tmp_path)


@pytest.mark.parametrize("class_name", ["DeiTForMaskedImageModeling", "ViTForMaskedImageModeling"])
def test_masked_image_modelling_equals_transformers_5(class_name, shared_images, tmp_path, rng):
    # transformers up to 4.57 kept [DIST] and dropped the last patch in DeiT; 5 and we keep the patches.
    theirs = random_model(class_name, **TINY, num_hidden_layers=2)
    processor, _ = processors(theirs.config.model_type, 224)
    inputs = processor(images(shared_images, 2))
    mask = rng.random((2, 196)) < 0.6
    expected = answer(theirs, inputs.pixel_values, bool_masked_pos=mask)
    ours = getattr(tfdeit, f"TF{class_name}").from_pretrained(saved(theirs, tmp_path))
    outputs = ours(**inputs, bool_masked_pos=mask)
    reconstruction = expected["reconstruction"].transpose(0, 2, 3, 1)
    assert largest_difference(outputs.reconstruction, reconstruction) <= TOLERANCE
    assert largest_difference(outputs.loss, expected["loss"][None]) <= TOLERANCE


@pytest.mark.parametrize("class_name", ["DeiTForImageClassificationWithTeacher", "ViTForImageClassification"])
@pytest.mark.parametrize("height_width", [(48, 48), (32, 64), (8, 24)])
def test_interpolated_positions(class_name, height_width, tmp_path, rng):
    theirs = random_model(class_name, **MICRO)
    ours = getattr(tfdeit, f"TF{class_name}").from_pretrained(saved(theirs, tmp_path))
    pixel_values = rng.normal(size=(2, *height_width, 3)).astype("float32")
    expected = answer(theirs, pixel_values, interpolate_pos_encoding=True)["logits"]
    assert largest_difference(ours(pixel_values, interpolate_pos_encoding=True).logits, expected) <= 1e-5
    resized = type(ours).from_pretrained(tmp_path, image_size=height_width)
    assert largest_difference(resized(pixel_values).logits, expected) <= 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_bias": False},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "quick_gelu"},
        {"hidden_act": "silu"},
        {"hidden_act": "relu"},
        {"layer_norm_eps": 0.1},
        {"pooler_act": "relu", "pooler_output_size": 7},
        {"num_channels": 1},
        {"num_hidden_layers": 0},
        {"image_size": [16, 32], "patch_size": [8, 4]},
    ],
    ids=str,
)
def test_config_fields(changes, tmp_path, rng):
    config = MICRO | changes
    theirs = random_model("ViTModel", **config)
    ours = tfdeit.TFViTModel.from_pretrained(saved(theirs, tmp_path))
    pixel_values = rng.normal(size=(2, *ours.config.image_hw, ours.config.num_channels)).astype("float32")
    expected, outputs = answer(theirs, pixel_values), ours(pixel_values)
    assert largest_difference(outputs.last_hidden_state, expected["last_hidden_state"]) <= 1e-5
    assert largest_difference(outputs.pooler_output, expected["pooler_output"]) <= 1e-5


def test_labels_give_the_loss(tmp_path, rng):
    theirs = random_model("ViTForImageClassification", **MICRO)
    ours = tfdeit.TFViTForImageClassification.from_pretrained(saved(theirs, tmp_path))
    pixel_values, labels = rng.normal(size=(3, 32, 32, 3)).astype("float32"), np.array([4, 0, 2])
    expected = answer(theirs, pixel_values, labels=labels)["loss"]
    losses = ours(pixel_values, labels=labels).loss
    assert losses.shape == (3,)
    assert abs(float(np.mean(losses)) - expected) <= 1e-5
