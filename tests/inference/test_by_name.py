"""Models by name, in the manner of MMPretrain: what they answer, and their features."""

import importlib.resources

import keras
import numpy as np
import pytest
from checkpoints import MICRO, TINY
from web import publish

import tfdeit
from tfdeit.preprocessing.processors import protocol_processor

pytest.importorskip("huggingface_hub", reason="pip install tfdeit[hub]")


def test_models_by_name(hub, micro, photos_dir):
    model, files = micro
    publish(hub, TINY, files)
    answer = tfdeit.inference_model(TINY, photos_dir / "cat.png")
    processor = tfdeit.DeiTImageProcessor(size=36, crop_size=32)
    logits = model(processor(photos_dir / "cat.png").pixel_values).logits
    scores = np.asarray(keras.ops.softmax(logits))[0]
    np.testing.assert_allclose(answer["pred_scores"], scores, atol=1e-6)
    label = int(scores.argmax())
    assert (answer["pred_label"], answer["pred_class"]) == (label, f"LABEL_{label}")
    assert answer["pred_score"] == pytest.approx(scores.max(), abs=1e-6)
    loaded = tfdeit.get_model(TINY, id2label=["a", "b", "c", "d", "e"])
    again = tfdeit.inference_model(loaded, photos_dir / "cat.png")
    assert again["pred_class"] == "abcde"[again["pred_label"]]


def test_backbones_by_name(hub, tmp_path, photos_dir):
    tfdeit.TFViTModel(tfdeit.ViTConfig(**MICRO)).save_pretrained(tmp_path / "in21k")
    hub_id = "google/vit-base-patch16-224-in21k"
    publish(hub, hub_id, {path.name: path.read_bytes() for path in (tmp_path / "in21k").iterdir()})
    model = tfdeit.get_model("vit_base_patch16_224_in21k")
    assert type(model) is tfdeit.TFViTModel
    assert model.image_processor.to_dict() == protocol_processor("vit", 224).to_dict()
    model.image_processor = None
    with pytest.raises(ValueError, match="Expected an image processor"):
        tfdeit.inference_model(model, photos_dir / "cat.png")
    with pytest.raises(
        ValueError, match="Expected a classifier. Received: a TFViTModel. For features, use extract_feat"
    ):
        tfdeit.inference_model(model, photos_dir / "cat.png", tfdeit.ViTImageProcessor(size=32))


def test_another_size_brings_its_processor(photos_dir):
    model = tfdeit.get_model("deit_micro_cifar10", image_size=48)
    assert model.image_processor.crop_size == {"height": 48, "width": 48}
    assert tfdeit.inference_model(model, photos_dir / "cat.png")["pred_class"] in model.config.label2id


@pytest.mark.parametrize(
    ("name", "expected", "size"),
    [
        ("deit_small_patch16_224", tfdeit.TFViTForImageClassification, {"height": 256, "width": 256}),
        ("facebook/deit-tiny-distilled-patch16-224", tfdeit.TFDeiTForImageClassificationWithTeacher, None),
        ("vit_base_patch32_224_in21k", tfdeit.TFViTModel, {"height": 224, "width": 224}),
        ("deit_3_small_224_21k", tfdeit.TFViTForImageClassification, {"shortest_edge": 224}),
    ],
)
def test_random_models(name, expected, size):
    model = tfdeit.get_model(name, pretrained=False, num_hidden_layers=1, hidden_size=48, intermediate_size=8)
    assert type(model) is expected
    assert model.config.num_hidden_layers == 1
    assert size is None or model.image_processor.size == size


def test_random_models_are_of_the_zoo_only():
    with pytest.raises(ValueError, match="Expected the name of a checkpoint of the zoo"):
        tfdeit.get_model("deit_micro_cifar10", pretrained=False)


def test_embedded_checkpoints_by_name(micro, tmp_path, monkeypatch, photos_dir):
    folder = tmp_path / "own"
    folder.mkdir()
    for name, content in micro[1].items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    assert 0 <= tfdeit.inference_model("own", photos_dir / "cat.png")["pred_label"] < 5


@pytest.mark.parametrize(
    "cls",
    [tfdeit.TFViTModel, tfdeit.TFViTForImageClassification, tfdeit.TFDeiTForImageClassificationWithTeacher],
)
def test_features(cls, rng):
    model = cls(cls.config_class(**MICRO))
    pixel_values = rng.normal(size=(2, 32, 32, 3)).astype("float32")
    backbone = getattr(model, "backbone", model)
    features = model.extract_feat(pixel_values)
    assert isinstance(features, tuple)
    (tokens,) = features
    read = np.stack(tokens if cls.config_class is tfdeit.DeiTConfig else features, axis=1)
    count = read.shape[1]
    np.testing.assert_array_equal(read, backbone(pixel_values, read=count).last_hidden_state)
    # All tokens of the last block are other matrix products, rounded to float32 in another order.
    np.testing.assert_allclose(read, backbone(pixel_values).last_hidden_state[:, :count], rtol=0, atol=2e-6)
