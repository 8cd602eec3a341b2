"""Models of every class: outputs, options, parts, half precision, and Keras' ways of saving them."""

import keras
import numpy as np
import pytest
from keras import ops
from small_models import CLASSIFIERS, MICRO, build, every_class, every_classifier

import tfdeit
from tfdeit.config import ViTConfig


@every_class
def test_predict_equals_the_call_and_keras_files_round_trip(cls, pixel_values, tmp_path):
    model = build(cls)
    expected = model(pixel_values)
    predicted = model.predict(pixel_values, batch_size=3, verbose=0)
    assert type(predicted) is type(expected)
    np.testing.assert_allclose(predicted[0], expected[0], atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is cls
    assert loaded.config == model.config
    np.testing.assert_array_equal(loaded.predict(pixel_values, batch_size=3, verbose=0)[0], predicted[0])


def test_export_answers_in_a_saved_model(pixel_values, tmp_path):
    import tensorflow as tf

    model = build(tfdeit.TFDeiTForImageClassificationWithTeacher)
    model.export(tmp_path, verbose=False)
    exported = tf.saved_model.load(tmp_path)
    answer = exported.serve(pixel_values)
    expected = model(pixel_values)
    assert set(answer) == {"logits", "cls_logits", "distillation_logits"}
    for name, values in answer.items():
        np.testing.assert_allclose(values, getattr(expected, name), atol=1e-6)


def test_weights_files_and_datasets(pixel_values, tmp_path):
    import tensorflow as tf

    model, other = build(tfdeit.TFDeiTForImageClassification), build(tfdeit.TFDeiTForImageClassification)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    dataset = tf.data.Dataset.from_tensor_slices({"pixel_values": pixel_values}).batch(3)
    np.testing.assert_allclose(other.predict(dataset, verbose=0).logits, model(pixel_values).logits, atol=1e-6)


@every_class
def test_optional_outputs(cls, pixel_values):
    model = build(cls)
    outputs = model(pixel_values)
    assert outputs.hidden_states == outputs.attentions == ()
    outputs = model(pixel_values, output_hidden_states=True, output_attentions=True)
    tokens = model.config.num_tokens
    assert [tuple(x.shape) for x in outputs.hidden_states] == [(4, tokens, 32)] * 4
    assert [tuple(x.shape) for x in outputs.attentions] == [(4, 2, tokens, tokens)] * 3
    np.testing.assert_allclose(ops.sum(outputs.attentions[0], axis=-1), np.ones((4, 2, tokens)), atol=1e-5)
    asked_in_config = build(cls, output_hidden_states=True, output_attentions=True)
    assert len(asked_in_config(pixel_values).hidden_states) == 4


def test_regression_with_one_label(pixel_values):
    outputs = build(tfdeit.TFViTForImageClassification, num_labels=1)(pixel_values, labels=np.arange(4.0))
    np.testing.assert_allclose(outputs.loss, (np.arange(4) - np.asarray(outputs.logits)[:, 0]) ** 2, rtol=1e-5)


@every_classifier
def test_without_labels_the_logits_are_the_features(cls, pixel_values):
    model = build(cls, num_labels=0)
    assert model(pixel_values).logits.shape == (4, 32)


@every_classifier
def test_derived_num_params_is_the_models(cls):
    model = build(cls, qkv_bias=cls is not CLASSIFIERS[0])
    second_head = 33 * 5 if cls is tfdeit.TFDeiTForImageClassification else 0  # it lacks DeiT's second head
    assert model.count_params() == model.config.num_params - second_head


def test_the_logits_with_teacher_are_the_mean_of_both_heads(pixel_values):
    outputs = build(tfdeit.TFDeiTForImageClassificationWithTeacher)(pixel_values)
    mean = (np.asarray(outputs.cls_logits) + np.asarray(outputs.distillation_logits)) / 2
    np.testing.assert_allclose(outputs.logits, mean, atol=1e-7)
    assert np.abs(np.asarray(outputs.cls_logits) - np.asarray(outputs.distillation_logits)).max() > 1e-3


def test_the_backbone_is_reachable_as_in_transformers(pixel_values):
    model = build(tfdeit.TFDeiTForImageClassification)
    assert isinstance(model.deit, tfdeit.TFDeiTModel)
    model.deit.trainable = False
    assert [w.path.split("/")[-2] for w in model.trainable_weights] == ["classifier", "classifier"]
    assert isinstance(build(tfdeit.TFViTForImageClassification).vit, tfdeit.TFViTModel)


def test_summary_lists_the_parts(capsys):
    build(tfdeit.TFDeiTForImageClassification).summary()
    printed = capsys.readouterr().out
    assert "deit (TFDeiTModel)" in printed
    assert "classifier (Dense)" in printed


def test_sdpa_and_eager_agree(pixel_values):
    outputs = []
    for implementation in ("eager", "sdpa"):
        keras.utils.set_random_seed(0)
        outputs.append(build(tfdeit.TFViTModel, attn_implementation=implementation)(pixel_values).last_hidden_state)
    np.testing.assert_allclose(*outputs, atol=1e-5)


def test_a_masked_head_contributes_nothing(pixel_values, rng):
    model = build(tfdeit.TFViTModel)
    block = model.blocks[1].attention
    kernel = block.projection.kernel.numpy()
    mask = np.ones((3, 2), "float32")
    mask[1, 0] = 0
    masked = np.asarray(model(pixel_values, head_mask=mask).last_hidden_state)
    assert np.abs(masked - np.asarray(model(pixel_values).last_hidden_state)).max() > 1e-4
    kernel[:16] = 0  # the rows of head 0
    block.projection.kernel.assign(kernel)
    np.testing.assert_allclose(model(pixel_values).last_hidden_state, masked, atol=1e-6)
    one_row = model(pixel_values, head_mask=np.array([1.0, 0.0]), output_attentions=True)
    assert all(float(ops.max(ops.abs(attention[:, 1]))) == 0 for attention in one_row.attentions)


def test_the_mask_token_hides_the_patch(pixel_values, rng):
    model = tfdeit.TFViTModel(ViTConfig(**MICRO), use_mask_token=True)
    mask = np.zeros((4, 16), bool)
    mask[:, 5] = True
    changed = pixel_values.copy()
    changed[:, 8:16, 8:16] = rng.normal(size=(4, 8, 8, 3))  # patch 5
    hidden = [model(x, bool_masked_pos=mask).last_hidden_state for x in (pixel_values, changed)]
    np.testing.assert_allclose(*hidden, atol=1e-6)
    assert np.abs(np.asarray(model(changed)[0]) - np.asarray(model(pixel_values)[0])).max() > 1e-3


def test_reconstructed_patches_lie_where_they_belong():
    model = build(tfdeit.TFViTForMaskedImageModeling)
    for variable in model.decoder.weights:
        variable.assign(np.zeros(variable.shape))
    model.decoder.bias.assign(np.arange(8 * 8 * 3))
    image = np.asarray(model(np.zeros((1, 32, 32, 3), "float32")).reconstruction)[0]
    for row in range(0, 32, 8):
        for column in range(0, 32, 8):
            patch = image[row : row + 8, column : column + 8]
            np.testing.assert_array_equal(patch, np.arange(192).reshape(8, 8, 3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16", "mixed_float16"])
@every_class
def test_half_precision(cls, dtype, pixel_values):
    keras.utils.set_random_seed(1)
    full = build(cls)
    keras.utils.set_random_seed(1)
    half = build(cls, dtype=dtype)
    stored = "float32" if dtype.startswith("mixed") else dtype
    assert {variable.dtype for variable in half.weights} == {stored}
    for ours, theirs in zip(half.weights, full.weights, strict=True):
        ours.assign(ops.cast(theirs, stored))
    outputs = half.predict(pixel_values, verbose=0)
    assert outputs[0].dtype == dtype.removeprefix("mixed_")
    tolerance = 0.06 if "bfloat16" in dtype else 0.01  # about 2 ** -8 and 2 ** -11 of values up to 3, a few layers deep
    np.testing.assert_allclose(outputs[0].astype("float32"), full.predict(pixel_values, verbose=0)[0], atol=tolerance)


def test_softmax_and_layer_norm_stay_in_float32_under_float16():
    # In float16, scores of 12 * 12 * 16 = 2304 survive, but variances of tokens of 1e3 (1e6) overflow.
    model = build(tfdeit.TFViTModel, dtype="float16")
    model.token_concatenation.position_embeddings.assign(
        1e3 * np.random.default_rng(0).normal(size=model.token_concatenation.position_embeddings.shape)
    )
    outputs = model(np.zeros((1, 32, 32, 3), "float16"), output_attentions=True)
    assert bool(ops.all(ops.isfinite(outputs.last_hidden_state)))
    assert float(ops.max(ops.abs(ops.mean(ops.cast(outputs.last_hidden_state, "float32"), axis=-1)))) < 1e-2


def test_layers_serialise(rng):
    tokens = rng.normal(size=(2, 17, 32)).astype("float32")
    inputs = keras.Input((17, 32))
    layer = tfdeit.TransformerBlock(ViTConfig(**MICRO), drop_path=0.1)
    model = keras.Model(inputs, layer(inputs)[0])
    clone = keras.Model.from_config(model.get_config())
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(tokens), model(tokens))


def test_every_public_name_is_there():
    for name in tfdeit.__all__:
        assert getattr(tfdeit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'TFDeiT'"):
        _ = tfdeit.TFDeiT
    assert dir(tfdeit) == sorted(tfdeit.__all__)


def test_options_of_transformers_from_pretrained(tmp_path, pixel_values):
    build(tfdeit.TFViTModel).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="unused: pooler.dense.bias, pooler.dense.weight"):
        model = tfdeit.TFViTModel.from_pretrained(tmp_path, from_pt=True, add_pooling_layer=False)
    assert model(pixel_values).pooler_output == ()


@every_classifier
def test_the_auto_class_chooses_the_saved_class(cls, tmp_path):
    build(cls).save_pretrained(tmp_path)
    assert type(tfdeit.TFAutoModelForImageClassification.from_pretrained(tmp_path)) is cls


def test_the_auto_class_refuses_other_models(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="Expected model_type to be one of vit, deit. Received: 'bert'"):
        tfdeit.TFAutoModelForImageClassification.from_pretrained(tmp_path)
