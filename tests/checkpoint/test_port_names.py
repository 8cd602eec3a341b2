"""Porting published checkpoints by name: what the zoo says about them, and what contradicts it."""

import dataclasses
import json

import numpy as np
import pytest
import references as ref
from checkpoints import CONFIG, SUFFIXES, our_model, timm_file
from references import random_tensors

import tfdeit
from tfdeit import zoo
from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.port import TARGETS, open_source, port
from tfdeit.preprocessing.processors import protocol_processor


@pytest.fixture
def row(monkeypatch):
    """A row of the zoo, as small as the files of these tests; fields that no shape tells differ from all defaults."""
    row = zoo.find("deit_tiny_patch16_224")
    row = dataclasses.replace(row, architecture={**CONFIG, "hidden_act": "relu", "layer_norm_eps": 1e-3})
    monkeypatch.setitem(zoo.BY_NAME, row.name, row)
    return row


@pytest.mark.parametrize("to", TARGETS)
def test_a_name_says_what_shapes_do_not(tmp_path, row, to):
    timm_file(tmp_path / "a.safetensors")
    source = port(tmp_path / "a.safetensors", tmp_path / f"b{SUFFIXES[to]}", to=to, name=row.name)
    assert source.config == source.stored == row.config()
    if to == "hf":
        assert tfdeit.ViTConfig.from_pretrained(tmp_path / "b").replace(extra={}) == row.config()
        note = json.loads((tmp_path / "b/config.json").read_text())["tfdeit_provenance"]["checkpoint"]
        assert note == json.loads(json.dumps(row.to_dict()))
        assert (note["top1"], note["accuracy_protocol"], note["licence"]) == (72.2, "fb", "Apache-2.0")
        processor = tfdeit.AutoImageProcessor.from_pretrained(tmp_path / "b")
        assert processor.to_dict() == protocol_processor(row.protocol, 16).to_dict()


def test_a_name_and_other_wishes(tmp_path, row):
    timm_file(tmp_path / "a.safetensors")
    source = port(tmp_path / "a.safetensors", tmp_path / "b", name=row.name, image_size=24, id2label=["x", "y"])
    assert source.config == row.config(image_size=24, id2label=["x", "y"])
    assert tfdeit.AutoImageProcessor.from_pretrained(tmp_path / "b").crop_size == {"height": 24, "width": 24}
    port(tmp_path / "a.safetensors", tmp_path / "c", name=row.name, image_size=(16, 24))
    assert not (tmp_path / "c/preprocessor_config.json").exists()  # protocols are for square images


def test_epsilon_is_of_the_file_where_the_row_does_not_say_it(tmp_path, row, monkeypatch):
    """The hub's copies of DeiT say 1e-12, Facebook's own files mean 1e-6."""
    monkeypatch.setitem(zoo.BY_NAME, row.name, dataclasses.replace(row, architecture=CONFIG))
    timm_file(tmp_path / "a.safetensors")
    assert open_source(tmp_path / "a.safetensors", row.name).config.layer_norm_eps == 1e-6
    assert all("layer_norm_eps" not in zoo.find(name).architecture for name in zoo.list_models("facebook/*"))


def test_a_directory_keeps_its_own_config_and_processor(tmp_path, row):
    our_model("ViTForImageClassification", layer_norm_eps=1e-5).save_pretrained(tmp_path / "a")
    tfdeit.ViTImageProcessor(size=17).save_pretrained(tmp_path / "a")
    source = port(tmp_path / "a", tmp_path / "b", name=row.name)
    assert source.config.layer_norm_eps == 1e-5
    assert tfdeit.AutoImageProcessor.from_pretrained(tmp_path / "b").size == {"height": 17, "width": 17}
    our_model("ViTForImageClassification", num_attention_heads=2).save_pretrained(tmp_path / "c")
    fails_as(tmp_path / "c", row.name, "  num_attention_heads: 2 instead of 4")


def fails_as(path, name, *lines):
    with pytest.raises(CheckpointError) as caught:
        open_source(path, name)
    assert str(caught.value).splitlines() == [f"{path}: Expected the checkpoint {name}. Received one with", *lines]


def test_features_without_classes_are_known_by_their_shapes(tmp_path, row, monkeypatch):
    """A config.json on the hub that does not state its classes means two."""
    name = "vit_base_patch16_224_in21k"
    monkeypatch.setitem(zoo.BY_NAME, name, dataclasses.replace(row, name=name, architecture=CONFIG | {"num_labels": 0}))
    our_model("ViTModel", num_labels=2).save_pretrained(tmp_path / "a")
    assert open_source(tmp_path / "a", name).architecture == "ViTModel"
    our_model("ViTForImageClassification", num_labels=2).save_pretrained(tmp_path / "b")
    fails_as(tmp_path / "b", name, "  num_labels: 2 instead of 0")


def test_contradictions_are_listed(tmp_path):
    timm_file(tmp_path / "a.safetensors", distilled=True)
    fails_as(
        tmp_path / "a.safetensors",
        "deit3_medium_patch16_224",  # which has 8 heads
        "  model_type: deit instead of vit",
        "  hidden_size: 32 instead of 512",
        "  num_hidden_layers: 2 instead of 12",
        "  intermediate_size: 48 instead of 2048",
        "  image_size: 16 instead of 224",
        "  patch_size: 4 instead of 16",
        "  no_embed_class: False instead of True",
        "  num_labels: 5 instead of 1000",
        "  LayerScale: False instead of True",
    )
    with pytest.raises(ValueError, match="Did you mean 'deit_tiny_patch16_224'"):
        port("no/where.pth", tmp_path / "b", name="deit_tiny_patch16_223")


def test_heads_of_google_against_a_row(tmp_path, row, monkeypatch):
    np.savez(tmp_path / "a.npz", **random_tensors(ref.google_shapes()))
    assert open_source(tmp_path / "a.npz", row.name).config == row.config()
    other = dataclasses.replace(row, architecture={**row.architecture, "num_attention_heads": 2})
    monkeypatch.setitem(zoo.BY_NAME, row.name, other)
    with pytest.raises(CheckpointError, match=r"misshapen: .*query/kernel \(32x4x8 instead of 32x2x16\)"):
        open_source(tmp_path / "a.npz", row.name)
