import json

import pytest

from tfdeit.config import CONFIG_CLASSES, DeiTConfig, ViTConfig

TINY, SMALL, BASE = (
    {"hidden_size": 64 * h, "num_attention_heads": h, "intermediate_size": 256 * h} for h in (3, 6, 12)
)
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


# MMPretrain's DeiT table (params in millions, MACs in billions).
@pytest.mark.parametrize(
    ("cls", "size", "image_size", "params", "macs"),
    [
        (ViTConfig, TINY, 224, "5.72", "1.26"),
        (DeiTConfig, TINY, 224, "5.91", "1.27"),
        (ViTConfig, SMALL, 224, "22.05", "4.61"),
        (DeiTConfig, SMALL, 224, "22.44", "4.63"),
        (ViTConfig, BASE, 224, "86.57", "17.58"),
        (DeiTConfig, BASE, 224, "87.34", "17.67"),
        (ViTConfig, BASE, 384, "86.86", "55.54"),
        (DeiTConfig, BASE, 384, "87.63", "55.65"),
    ],
)
def test_params_and_macs_reproduce_mmpretrains_table(cls, size, image_size, params, macs):
    config = cls(**size, image_size=image_size, num_labels=1000)
    assert f"{config.num_params / 1e6:.2f}" == params
    assert f"{config.macs / 1e9:.2f}" == macs


# The parameter column of the model cards, in millions.
@pytest.mark.parametrize(
    ("cls", "size", "image_size", "patch_size", "params"),
    [
        (ViTConfig, TINY, 224, 16, 5),
        (ViTConfig, SMALL, 224, 16, 22),
        (ViTConfig, BASE, 224, 16, 86),
        (ViTConfig, BASE, 384, 16, 87),
        (DeiTConfig, TINY, 224, 16, 6),
        (DeiTConfig, SMALL, 224, 16, 22),
        (DeiTConfig, BASE, 224, 16, 87),
        (DeiTConfig, BASE, 384, 16, 88),
        (ViTConfig, LARGE, 384, 32, 306),
    ],
)
def test_params_agree_with_the_model_cards(cls, size, image_size, patch_size, params):
    config = cls(**size, image_size=image_size, patch_size=patch_size, num_labels=1000)
    assert abs(config.num_params / 1e6 - params) < 1  # the cards round some up and some down


def test_every_field_and_unknown_keys_survive_the_round_trip(tmp_path):
    values = {
        "model_type": "deit",
        "architectures": ["DeiTForImageClassification"],
        "hidden_size": 48,
        "num_attention_heads": 3,
        "layer_norm_eps": 1e-6,
        "image_size": [32, 64],
        "patch_size": 8,
        "id2label": {"0": "cat", "1": "dog"},
        "label2id": {"cat": 0, "dog": 1},
        "transformers_version": "4.57.0",
        "some_future_key": {"nested": [1, 2]},
    }
    config = DeiTConfig.from_dict(values)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == {**config.to_dict()}
    assert written | values == written
    assert DeiTConfig.from_pretrained(tmp_path) == config
    assert config.image_hw == (32, 64)
    assert config.grid == (4, 8)
    assert config.num_tokens == 34


def test_labels():
    assert ViTConfig().id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert ViTConfig(id2label=["cat", "dog", "cat"]).num_labels == 3
    config = ViTConfig(id2label={"1": "dog", "0": "cat"})
    assert config.label2id == {"cat": 0, "dog": 1}
    assert config.replace(hidden_size=96).id2label == {0: "cat", 1: "dog"}
    assert config.replace(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.replace(id2label=["a"]).label2id == {"a": 0}
    assert ViTConfig(num_labels=0).id2label == {}


def test_replace_renews_the_pooler_width_it_implied():
    assert ViTConfig().replace(hidden_size=96).pooler_output_size == 96
    assert ViTConfig(pooler_output_size=7).replace(hidden_size=96).pooler_output_size == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size": 100},
            "hidden_size to be a multiple of num_attention_heads=12. Received: hidden_size=100",
        ),
        ({"image_size": 225}, "Expected image_size to be a multiple of patch_size=16. Received: image_size=225"),
        ({"image_size": (224, 224, 3)}, "a positive int or a pair"),
        ({"patch_size": 0}, "Expected patch_size to be a positive int"),
        ({"num_hidden_layers": -1}, "Expected num_hidden_layers to be an int of at least 0"),
        ({"hidden_size": 768.0}, "Expected hidden_size to be a positive int"),
        ({"hidden_dropout_prob": 1.0}, r"Expected hidden_dropout_prob to be a rate in \[0, 1\)"),
        ({"layer_norm_eps": 0}, "Expected layer_norm_eps to be a positive number"),
        ({"hidden_act": "gellu"}, "Expected hidden_act to be one of gelu, "),
        ({"attn_implementation": "flash"}, "Expected attn_implementation to be one of eager, sdpa"),
        ({"id2label": {1: "a", 2: "b"}}, "the indices 0 to 1, each once"),
        ({"num_labels": 3, "id2label": ["a", "b"]}, "Give one of the two"),
        ({"num_labels": -1}, "Expected num_labels to be an int of at least 0"),
        ({"num_labels": "ten"}, "Expected num_labels to be an int of at least 0"),
    ],
)
def test_invalid_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**changes)
    with pytest.raises(ValueError, match=message):
        ViTConfig().replace(**changes)


def test_a_mistyped_override_gets_a_hint():
    with pytest.raises(ValueError, match="Received: 'hiden_size'. Did you mean 'hidden_size'"):
        ViTConfig().replace(hiden_size=96)


def test_configs_are_frozen():
    with pytest.raises(AttributeError):
        ViTConfig().hidden_size = 1


def test_a_config_of_another_model_type_is_refused():
    with pytest.raises(ValueError, match="Expected a config of model_type 'deit' for DeiTConfig. Received: 'vit'"):
        DeiTConfig.from_dict({"model_type": "vit"})


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\xff"])
def test_a_file_that_is_no_json_object_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="Expected a JSON object in .*config.json"):
        ViTConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("model_type", ["vit", "deit"])
def test_transformers_reads_the_file_and_the_defaults_are_its_own(tmp_path, model_type):
    transformers = pytest.importorskip("transformers", reason="the oracle: pip install tfdeit[parity]")
    config_class = {"vit": transformers.ViTConfig, "deit": transformers.DeiTConfig}[model_type]
    ours = CONFIG_CLASSES[model_type](hidden_size=48, num_attention_heads=3, id2label=["cat", "dog", "bird"])
    ours.save_pretrained(tmp_path)
    theirs = config_class.from_pretrained(tmp_path)
    default = config_class()
    for name, value in CONFIG_CLASSES[model_type]().to_dict().items():
        if hasattr(default, name) and name not in {"id2label", "label2id"}:
            assert getattr(default, name) == value, name
    assert theirs.id2label == {0: "cat", 1: "dog", 2: "bird"}
    assert theirs.hidden_size == 48
    theirs.save_pretrained(tmp_path)
    assert CONFIG_CLASSES[model_type].from_pretrained(tmp_path).replace(extra={}) == ours


def test_options_of_deit3():
    plain = ViTConfig(num_labels=1000, **SMALL)
    config = plain.replace(layerscale_value=1e-6, no_embed_class=True)
    assert config.num_params == plain.num_params + 12 * 2 * 384 - 384
    assert (config.num_tokens, config.macs) == (plain.num_tokens, plain.macs)
    assert config.num_prefix_positions == 0
    assert DeiTConfig().num_prefix_positions == 2
    assert {"layerscale_value", "no_embed_class"} & plain.to_dict().keys() == set()
    assert ViTConfig.from_dict(config.to_dict()) == config
    for wrong in ({"layerscale_value": "small"}, {"no_embed_class": None}):
        with pytest.raises(ValueError, match=f"Expected {next(iter(wrong))} to be "):
            ViTConfig(**wrong)
