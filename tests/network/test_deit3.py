"""DeiT III's options: LayerScale, and a position table for the patches only.

The reference is the network without them, which transformers vouches for: a factor per channel folds into the dense
layer before it, and a position table without class token is one whose first rows are zeros.
"""

import json

import keras
import numpy as np
import pytest

import tfdeit
from tfdeit.checkpoint.files import named_variables

MICRO = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
OPTIONS = {"layerscale_value": 1e-6, "no_embed_class": True}
CLASSES = [tfdeit.TFViTForImageClassification, tfdeit.TFDeiTForImageClassificationWithTeacher]


def randomise(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.3)
    return model


def fold(model):
    """The same function as a model without the options."""
    values = {name: variable.numpy() for name, variable in named_variables(model).items()}
    backbone = model.config.model_type
    for i in range(model.config.num_hidden_layers):
        for number, layer in ((1, "attention/projection"), (2, "mlp/fc2")):
            scale = values.pop(f"{backbone}/block_{i}/layer_scale{number}")
            for leaf in ("kernel", "bias"):
                values[f"{backbone}/block_{i}/{layer}/{leaf}"] *= scale
    positions = f"{backbone}/token_concatenation/position_embeddings"
    values[positions] = np.pad(values[positions], ((0, 0), (model.config.num_prefix_tokens, 0), (0, 0)))
    plain = type(model)(model.config.replace(layerscale_value=None, no_embed_class=False))
    variables = named_variables(plain)
    assert variables.keys() == values.keys()
    for name, variable in variables.items():
        variable.assign(values[name])
    return plain


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def model(request):
    return randomise(request.param(request.param.config_class(**MICRO, **OPTIONS)))


@pytest.mark.parametrize("size", [32, 40])
def test_equals_the_folded_model(model, rng, size):
    pixel_values = rng.normal(size=(2, size, size, 3)).astype("float32")
    options = {"interpolate_pos_encoding": True, "output_hidden_states": True}
    ours, reference = (m(pixel_values, **options) for m in (model, fold(model)))
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(reference), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_parameters_and_initial_values(model):
    assert sum(int(np.prod(variable.shape)) for variable in model.weights) == model.config.num_params
    fresh = named_variables(type(model)(model.config))
    scales = [variable.numpy() for name, variable in fresh.items() if "layer_scale" in name]
    assert len(scales) == 4
    np.testing.assert_array_equal(scales, np.full((4, 32), 1e-6, "float32"))


def test_files_round_trip(model, tmp_path, rng):
    pixel_values = rng.normal(size=(1, 32, 32, 3)).astype("float32")
    expected = model(pixel_values).logits
    model.save_pretrained(tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config | OPTIONS == config
    loaded = type(model).from_pretrained(tmp_path / "hub")
    np.testing.assert_array_equal(loaded(pixel_values).logits, expected)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(pixel_values).logits, expected)


def test_loading_at_another_size_interpolates_all_positions(model, tmp_path, rng):
    pixel_values = rng.normal(size=(1, 40, 40, 3)).astype("float32")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, image_size=40)
    expected = model(pixel_values, interpolate_pos_encoding=True).logits
    np.testing.assert_allclose(loaded(pixel_values).logits, expected, atol=1e-5)


def test_stochastic_depth_is_uniform(model, tmp_path, rng):
    """All blocks drop at one rate: with 0.9 the first drops too, which never happens where rates rise from 0."""
    rising = model.config.replace(drop_path_rate=0.9, num_hidden_layers=3)
    assert rising.drop_path_rates == pytest.approx([0, 0.45, 0.9])
    uniform = rising.replace(uniform_drop_path=True)
    assert uniform.drop_path_rates == [0.9] * 3
    trained = randomise(type(model)(uniform))
    trained.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).config.uniform_drop_path
    assert "uniform_drop_path" not in rising.to_dict()
    for config, dropped in ((rising, False), (uniform, True)):
        backbone = randomise(type(model)(config)).backbone
        pixel_values = rng.normal(size=(16, 32, 32, 3)).astype("float32")
        states = backbone(pixel_values, output_hidden_states=True, training=True).hidden_states
        unchanged = [np.array_equal(before, after) for before, after in zip(states[0], states[1], strict=True)]
        assert any(unchanged) == dropped
    with pytest.raises(ValueError, match="Expected uniform_drop_path to be True or False"):
        rising.replace(uniform_drop_path=1)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
def test_trains_with_recomputation_and_stochastic_depth(dtype, rng):
    config = tfdeit.ViTConfig(**MICRO, **OPTIONS, drop_path_rate=0.1)
    model = tfdeit.TFViTForImageClassification(config, dtype=dtype)
    model.gradient_checkpointing_enable()
    before = {name: v.numpy() for name, v in named_variables(model).items() if "layer_scale" in name}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(10.0), loss)
    model.fit(rng.normal(size=(4, 32, 32, 3)).astype("float32"), np.arange(4), epochs=1, verbose=0)
    for name, value in before.items():
        assert not np.array_equal(named_variables(model)[name].numpy(), value), name
