"""The zoo: every row against what its publishers state."""

import fnmatch
import json
import re

import pytest
from conftest import ROOT

from tfdeit import zoo
from tfdeit.config import DeiTConfig, ViTConfig
from tfdeit.protocols import PROTOCOLS

every_row = pytest.mark.parametrize("row", zoo.CHECKPOINTS, ids=lambda row: row.name)


def test_names_are_unique():
    names = [name for row in zoo.CHECKPOINTS for name in row.names]
    assert len(names) == len(set(names))
    assert len(zoo.CHECKPOINTS) == 8 + 9 + 11 + 16


@every_row
def test_every_row_is_complete(row):
    assert row.hub_id or row.url
    assert row.licence == "Apache-2.0"
    config = row.config()
    assert type(config) is (DeiTConfig if "distilled" in row.name else ViTConfig)
    assert config.image_size == (384 if "384" in row.name else 224)
    assert row.protocol in PROTOCOLS
    assert row.accuracy is None or row.accuracy.protocol in PROTOCOLS
    assert config.num_labels == (0 if row.name.endswith("in21k") else 1000)
    if row.url:
        assert re.fullmatch(r"https://[\w./-]+\.pth", row.url)
        published = re.search(r"-([0-9a-f]{8})\.pth$", row.url)
        assert row.sha256 == (published[1] if published else None)
    assert json.loads(json.dumps(row.to_dict()))["name"] == row.name
    for name in row.names:
        assert zoo.find(name) is row


# The model cards' column, in millions.
@pytest.mark.parametrize(
    ("name", "params", "top1", "top5"),
    [
        ("facebook/deit-tiny-patch16-224", 5, 72.2, 91.1),
        ("facebook/deit-small-patch16-224", 22, 79.9, 95.0),
        ("facebook/deit-base-patch16-224", 86, 81.8, 95.6),
        ("facebook/deit-base-patch16-384", 87, 82.9, 96.2),
        ("facebook/deit-tiny-distilled-patch16-224", 6, 74.5, 91.9),
        ("facebook/deit-small-distilled-patch16-224", 22, 81.2, 95.4),
        ("facebook/deit-base-distilled-patch16-224", 87, 83.4, 96.5),
        ("facebook/deit-base-distilled-patch16-384", 88, 85.2, 97.2),
    ],
)
def test_deit_agrees_with_the_model_cards(name, params, top1, top5):
    row = zoo.find(name)
    assert abs(row.config().num_params / 1e6 - params) < 1  # the cards round some up and some down
    assert row.accuracy == (top1, top5, "fb")
    assert row.protocol == "hf"


# MMPretrain's table: params in millions, MACs in billions, top-1, top-5.
@pytest.mark.parametrize(
    ("name", "params", "macs", "top1", "top5"),
    [
        ("deit-tiny_4xb256_in1k", "5.72", "1.26", 74.50, 92.24),
        ("deit-tiny-distilled_3rdparty_in1k", "5.91", "1.27", 74.51, 91.90),
        ("deit-small_4xb256_in1k", "22.05", "4.61", 80.69, 95.06),
        ("deit-small-distilled_3rdparty_in1k", "22.44", "4.63", 81.17, 95.40),
        ("deit-base_16xb64_in1k", "86.57", "17.58", 81.76, 95.81),
        ("deit-base_3rdparty_in1k", "86.57", "17.58", 81.79, 95.59),
        ("deit-base-distilled_3rdparty_in1k", "87.34", "17.67", 83.33, 96.49),
        ("deit-base_224px-pre_3rdparty_in1k-384px", "86.86", "55.54", 83.04, 96.31),
        ("deit-base-distilled_224px-pre_3rdparty_in1k-384px", "87.63", "55.65", 85.55, 97.35),
    ],
)
def test_mmpretrain_agrees_with_its_table(name, params, macs, top1, top5):
    row, config = zoo.find(name), zoo.find(name).config()
    assert (f"{config.num_params / 1e6:.2f}", f"{config.macs / 1e9:.2f}") == (params, macs)
    assert row.accuracy == (top1, top5, "mmpretrain")
    assert config.layer_norm_eps == 1e-6


# keras-hub's presets: the parameters of the backbones, exactly.
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("vit_base_patch16_224_imagenet", 85798656),
        ("vit_base_patch16_384_imagenet", 86090496),
        ("vit_large_patch16_224_imagenet", 303301632),
        ("vit_large_patch16_384_imagenet", 303690752),
        ("vit_base_patch32_384_imagenet", 87528192),
        ("vit_large_patch32_384_imagenet", 305607680),
        ("vit_base_patch16_224_imagenet21k", 85798656),
        ("vit_base_patch32_224_imagenet21k", 87455232),
        ("vit_huge_patch14_224_imagenet21k", 630764800),
        ("vit_large_patch16_224_imagenet21k", 303301632),
        ("vit_large_patch32_224_imagenet21k", 305510400),
    ],
)
def test_vit_agrees_with_keras_hub(name, params):
    row = zoo.find(name)
    assert row.config(num_labels=0).num_params == params
    assert row.hub_id.startswith("google/vit-")
    assert row.protocol == "vit"


# timm's table: parameters in millions.
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("vit_base_patch16_224.orig_in21k_ft_in1k", "86.57"),
        ("vit_base_patch16_384.orig_in21k_ft_in1k", "86.86"),
        ("vit_large_patch32_384.orig_in21k_ft_in1k", "306.63"),
        ("deit3_small_patch16_224.fb_in1k", "22.06"),
        ("deit3_small_patch16_384.fb_in1k", "22.21"),
        ("deit3_medium_patch16_224.fb_in1k", "38.85"),
        ("deit3_base_patch16_224.fb_in1k", "86.59"),
        ("deit3_base_patch16_384.fb_in1k", "86.88"),
        ("deit3_large_patch16_224.fb_in1k", "304.37"),
        ("deit3_large_patch16_384.fb_in1k", "304.76"),
        ("deit3_huge_patch14_224.fb_in1k", "632.13"),
    ],
)
def test_parameters_agree_with_timm(name, params):
    assert f"{zoo.find(name).config().num_params / 1e6:.2f}" == params


# DeiT III's README: MACs in billions (rounded or cut), top-1.
@pytest.mark.parametrize(
    ("name", "macs", "top1"),
    [
        ("deit_3_small_224_1k", 4.6, 81.4),
        ("deit_3_small_384_1k", 15.5, 83.4),
        ("deit_3_medium_224_1k", 8.0, 83.0),
        ("deit_3_base_224_1k", 17.5, 83.8),
        ("deit_3_base_384_1k", 55.5, 85.0),
        ("deit_3_large_224_1k", 61.6, 84.9),
        ("deit_3_large_384_1k", 191.2, 85.8),
        ("deit_3_huge_224_1k", 167.4, 85.2),
        ("deit_3_small_224_21k", 4.6, 83.1),
        ("deit_3_small_384_21k", 15.5, 84.8),
        ("deit_3_medium_224_21k", 8.0, 84.5),
        ("deit_3_base_224_21k", 17.5, 85.7),
        ("deit_3_base_384_21k", 55.5, 86.7),
        ("deit_3_large_224_21k", 61.6, 87.0),
        ("deit_3_large_384_21k", 191.2, 87.7),
        ("deit_3_huge_224_21k", 167.4, 87.2),
    ],
)
def test_deit3_agrees_with_its_readme(name, macs, top1):
    row, config = zoo.find(name), zoo.find(name).config()
    assert abs(config.macs / 1e9 - macs) < 0.1
    assert abs(row.accuracy.top1 - top1) < 0.15  # timm measured it again
    assert config.no_embed_class
    assert config.layerscale_value == 1e-4
    assert config.uniform_drop_path


def test_wildcards_match_names_and_aliases():
    assert zoo.list_models() == [row.name for row in zoo.CHECKPOINTS]
    assert zoo.list_models("deit3_huge*") == ["deit3_huge_patch14_224", "deit3_huge_patch14_224_in21ft1k"]
    assert zoo.list_models("facebook/*tiny*") == ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"]
    assert all(fnmatch.fnmatch(name, "deit-*") for name in zoo.list_models("deit-*_in1k*"))
    assert len(zoo.list_models("deit-*_in1k*")) == 9
    assert zoo.list_models("no such model") == []


def test_unknown_names_get_a_hint():
    with pytest.raises(ValueError, match="Received: 'deit_smal_patch16_224'. Did you mean 'deit_small_patch16_224'"):
        zoo.find("deit_smal_patch16_224")
    with pytest.raises(ValueError, match="`tfdeit list` shows all"):
        zoo.find("?")


def test_config_changes():
    row = zoo.find("deit_tiny_patch16_224")
    assert row.config(id2label=["cat", "dog"], image_size=384).num_labels == 2
    with pytest.raises(ValueError, match="Did you mean 'image_size'"):
        row.config(image_sizes=3)


def test_the_page_is_up_to_date():
    text = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert zoo.renew_table(text) == text, "stale: run `make docs`"
    assert zoo.renew_table(text.replace("| 72.2 |", "| 92.2 |")) == text
    with pytest.raises(ValueError, match="Expected a line '<!-- zoo -->'"):
        zoo.renew_table("no table")
