"""The models against transformers with random weights: the same photo, processor, checkpoint; within 1e-4."""

import hashlib
import json
import sys

import numpy as np
import pytest
import references
import safetensors.numpy
from oracles import (
    BASE,
    LARGE,
    SMALL,
    TINY,
    answer,
    import_timm,
    largest_difference,
    random_model,
    random_timm_model,
    saved,
    torch,
    transformers,
)
from PIL import Image
from references import random_tensors, torch_shapes
from safetensors.numpy import save_file
from sizes import MICRO

import tfdeit
from tfdeit.checkpoint.port import port
from tfdeit.cli.main import main
from tfdeit.parity import NoOracle, table, verify, write_report

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
    """Compares both sides from photos to outputs, on the ported original; then loads our saved model on their side."""
    theirs = random_model(class_name, **config)
    model_type = theirs.config.model_type
    processor, their_processor = processors(model_type, config.get("image_size", 224))
    inputs = processor(photos, return_tensors="np")
    their_pixels = np.stack(their_processor(photos, return_tensors="np")["pixel_values"])
    np.testing.assert_array_equal(inputs.pixel_values, their_pixels.transpose(0, 2, 3, 1))

    port(saved(theirs, directory / "theirs"), directory / "ported")
    ours = getattr(tfdeit, f"TF{class_name}").from_pretrained(directory / "ported")
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
@pytest.mark.parametrize("size", [TINY, pytest.param(SMALL, marks=pytest.mark.slow)], ids=["tiny", "small"])
def test_deit_tiny_and_small(class_name, size, shared_images, tmp_path):
    check(class_name, size | IMAGENET, images(shared_images, 2), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("class_name", ["DeiTForImageClassificationWithTeacher", "ViTForImageClassification"])
@pytest.mark.parametrize("image_size", [pytest.param(224, marks=pytest.mark.heavy), 384])
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
    # transformers up to 4.57 kept [DIST] and dropped the last patch in DeiT; 5 and this library keep all patches.
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


# The report of `tfdeit port --verify`.

CLASSES = [
    *("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling", "DeiTModel"),
    *("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher", "DeiTForMaskedImageModeling"),
]


@pytest.mark.parametrize("class_name", CLASSES)
def test_ported_checkpoints_equal_transformers(class_name, tmp_path, capsys):
    saved(random_model(class_name, **MICRO), tmp_path / "theirs")
    assert (
        main(["port", str(tmp_path / "theirs"), "-o", str(tmp_path / "out.weights.h5"), "--to", "keras", "--verify"])
        == 0
    )
    report = json.loads((tmp_path / "out.weights.h5.parity.json").read_text())
    last = "reconstruction" if "Masked" in class_name else "logits" if "Classification" in class_name else "tokens"
    assert [*report["max_abs_difference"]] == ["block 0", "block 1", "block 2", last]
    assert report["passed"]
    assert max(report["max_abs_difference"].values()) <= 1e-5
    checksum = hashlib.sha256((tmp_path / "theirs/model.safetensors").read_bytes()).hexdigest()
    assert report["source"]["sha256"] == {"model.safetensors": checksum}
    assert report["oracle"] == "transformers"
    printed = capsys.readouterr().out
    assert (tmp_path / "out.weights.h5.parity.md").read_text() in printed
    assert f"| {last} |" in printed


def test_state_dict_in_memory_equals_transformers(tmp_path):
    theirs = random_model("DeiTForImageClassificationWithTeacher", **MICRO)
    torch.save(theirs.state_dict(), tmp_path / "a.bin")
    source = port(tmp_path / "a.bin", tmp_path / "out", num_attention_heads=2)
    report = verify(source, tmp_path / "out")
    assert report["passed"]
    assert write_report(report, tmp_path / "out") == tmp_path / "out" / "parity.md"


def test_report_finds_a_wrong_weight(tmp_path):
    source = port(saved(random_model("ViTForImageClassification", **MICRO), tmp_path / "a"), tmp_path / "b")
    tensors = safetensors.numpy.load_file(tmp_path / "b/model.safetensors")
    tensors["vit.encoder.layer.1.output.dense.bias"][3] += 0.01
    safetensors.numpy.save_file(tensors, tmp_path / "b/model.safetensors", metadata={"format": "pt"})
    report = verify(source, tmp_path / "b")
    assert not report["passed"]
    assert report["max_abs_difference"]["block 0"] <= 1e-5
    assert report["max_abs_difference"]["block 1"] == pytest.approx(0.01, abs=1e-4)
    assert "NOT equal" in table(report)


def test_checkpoint_without_an_oracle(tmp_path, capsys):
    model = tfdeit.TFViTModel(tfdeit.ViTConfig(**MICRO | {"num_hidden_layers": 1}))
    model.save(tmp_path / "a.keras")
    arguments = ["port", str(tmp_path / "a.keras"), "-o", str(tmp_path / "out"), "--verify"]
    assert main(arguments) == 1
    assert "not verified: Expected a source in one of the formats Hugging Face, " in capsys.readouterr().err
    source = port(
        saved(random_model("ViTForImageClassification", **MICRO), tmp_path / "b"), tmp_path / "c", num_labels=3
    )
    with pytest.raises(NoOracle, match="one that was changed"):
        verify(source, tmp_path / "c")


def test_timm_that_cannot_be_imported(tmp_path, monkeypatch):
    save_file(random_tensors(torch_shapes(references.TIMM, False)), tmp_path / "a.safetensors")
    source = port(tmp_path / "a.safetensors", tmp_path / "out", **references.OVERRIDES)
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(NoOracle, match=r"Expected timm.models to be installed"):
        verify(source, tmp_path / "out")


@pytest.mark.parametrize("distilled", [False, True])
def test_ported_checkpoints_equal_timm(tmp_path, distilled):
    import_timm()
    save_file(random_tensors(torch_shapes(references.TIMM, distilled)), tmp_path / "a.safetensors")
    source = port(tmp_path / "a.safetensors", tmp_path / "out", **references.OVERRIDES)
    assert verify(source, tmp_path / "out")["passed"]


def test_ported_deit3_equals_timm(tmp_path):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 5}
    theirs = random_timm_model("deit3_small_patch16_224", **sizes)
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    source = port(tmp_path / "a.pth", tmp_path / "out")
    assert source.config.no_embed_class
    assert verify(source, tmp_path / "out")["passed"]
