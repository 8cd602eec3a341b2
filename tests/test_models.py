import keras
import numpy as np
import pytest
from keras import ops

import tfdeit
from tfdeit.config import DeiTConfig, ViTConfig

MICRO = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "encoder_stride": 8,
    "num_labels": 5,
}
CLASSES = [
    tfdeit.TFViTModel,
    tfdeit.TFDeiTModel,
    tfdeit.TFViTForImageClassification,
    tfdeit.TFDeiTForImageClassification,
    tfdeit.TFDeiTForImageClassificationWithTeacher,
    tfdeit.TFViTForMaskedImageModeling,
    tfdeit.TFDeiTForMaskedImageModeling,
]
CLASSIFIERS = CLASSES[2:5]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
every_classifier = pytest.mark.parametrize("cls", CLASSIFIERS, ids=lambda cls: cls.__name__)


def build(cls, dtype=None, **changes):
    return cls(cls.config_class(**MICRO | changes), dtype=dtype)


@pytest.fixture
def pixel_values(rng):
    return rng.normal(size=(4, 32, 32, 3)).astype("float32")


@pytest.fixture
def labels():
    return np.array([0, 1, 2, 3])


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


@every_classifier
def test_fit_learns_with_stock_losses_and_metrics(cls, pixel_values, labels):
    model = build(cls)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"], jit_compile=False)
    history = model.fit(pixel_values, labels, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert history["accuracy"][-1] == 1
    logits = model.predict(pixel_values, verbose=0).logits
    assert model.evaluate(pixel_values, labels, verbose=0)[0] == pytest.approx(float(loss(labels, logits)), abs=1e-5)


def test_fit_with_labels_among_the_inputs_needs_no_loss(pixel_values, labels):
    model = build(tfdeit.TFViTForImageClassification)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    inputs = {"pixel_values": pixel_values, "labels": labels}
    history = model.fit(inputs, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.2 * history["loss"][0]


def test_masked_image_modelling_trains_on_its_own_loss(pixel_values, rng):
    model = build(tfdeit.TFDeiTForMaskedImageModeling)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    inputs = {"pixel_values": pixel_values, "bool_masked_pos": rng.random((4, 16)) < 0.5}
    history = model.fit(inputs, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert model.predict(inputs, batch_size=2, verbose=0).loss.shape == (2,)  # one a batch


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


def test_stochastic_depth_drops_whole_branches_per_image_and_keeps_the_mean(rng):
    block = tfdeit.TransformerBlock(ViTConfig(**MICRO), drop_path=0.5)
    tokens = np.repeat(rng.normal(size=(1, 5, 32)).astype("float32"), 2000, axis=0)
    branches = np.asarray(block.drop(tokens, 5, training=True)) / tokens
    kept = branches[:, 0, 0]
    assert set(np.unique(kept.round(5))) == {0, 2}  # dropped, or divided by the keep probability
    assert (branches == kept[:, None, None]).mean() > 0.99  # all of an image, up to rounding of the division
    assert abs(kept.mean() - 1) < 0.1
    np.testing.assert_array_equal(block.drop(tokens, 5, training=False), tokens)
    rates = [block.drop_path_rate for block in build(tfdeit.TFViTModel, drop_path_rate=0.2).blocks]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2])


@pytest.mark.parametrize("field", ["hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"])
def test_dropout_acts_in_training_only(field, pixel_values):
    model = build(tfdeit.TFViTModel, **{field: 0.5})
    runs = [np.asarray(model(pixel_values, training=training)[0]) for training in (True, True, False, False)]
    assert np.abs(runs[0] - runs[1]).max() > 1e-3
    np.testing.assert_array_equal(runs[2], runs[3])


def test_gradient_checkpointing_changes_no_gradient(pixel_values, labels):
    # With dropout on: the recomputation must draw the masks of the first pass.
    dropout = {"drop_path_rate": 0.5, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    trained = []
    for enable in (False, True):
        keras.utils.set_random_seed(0)
        model = build(tfdeit.TFDeiTForImageClassification, **dropout)
        model.gradient_checkpointing_enable(enable)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1.0), loss)
        model.fit(pixel_values, labels, epochs=2, verbose=0, shuffle=False)
        trained.append([weight.numpy() for weight in model.weights])
    assert max(np.abs(a - b).max() for a, b in zip(*trained, strict=True)) < 1e-6
    model.gradient_checkpointing_disable()
    assert model.deit.gradient_checkpointing is False


def test_initial_weights_follow_the_papers():
    model = tfdeit.TFDeiTModel(DeiTConfig(num_hidden_layers=1))
    spread = {w.path.split("/", 1)[1]: w.numpy().std() for w in model.weights}
    assert spread["block_0/mlp/fc1/kernel"] == pytest.approx(0.02, rel=0.01)  # untruncated: 0.0176 if cut at 2 sigma
    assert spread["patch_embedding/projection/kernel"] == pytest.approx(0.02, rel=0.01)
    assert spread["token_concatenation/position_embeddings"] == pytest.approx(0.02, rel=0.02)
    assert spread["token_concatenation/distillation_token"] == pytest.approx(0.02, rel=0.1)
    assert spread["token_concatenation/cls_token"] == pytest.approx(1e-6, rel=0.1)
    assert spread["block_0/mlp/fc1/bias"] == 0


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_keras_image_data_format_does_not_matter(data_format, pixel_values):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    try:
        assert build(tfdeit.TFViTModel)(pixel_values).last_hidden_state.shape == (4, 17, 32)
    finally:
        keras.config.set_image_data_format(before)


def test_inputs_as_keyword_dict_and_in_a_functional_model(pixel_values):
    model = build(tfdeit.TFViTForImageClassification)
    expected = np.asarray(model(pixel_values).logits)
    np.testing.assert_array_equal(model(pixel_values=pixel_values).logits, expected)
    np.testing.assert_array_equal(model({"pixel_values": pixel_values}).logits, expected)
    inputs = keras.Input((32, 32, 3))
    functional = keras.Model(inputs, ops.softmax(model(inputs).logits))
    np.testing.assert_allclose(ops.sum(functional(pixel_values), axis=-1), np.ones(4), atol=1e-6)


def test_layers_serialise(rng):
    tokens = rng.normal(size=(2, 17, 32)).astype("float32")
    inputs = keras.Input((17, 32))
    layer = tfdeit.TransformerBlock(ViTConfig(**MICRO), drop_path=0.1)
    model = keras.Model(inputs, layer(inputs)[0])
    clone = keras.Model.from_config(model.get_config())
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(tokens), model(tokens))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, 3, 32, 32),
            r"Received: shape \(2, 3, 32, 32\). They are channels first: pass np.transpose",
        ),
        ((2, 32, 32, 4), r"Expected pixel_values of shape \(batch, 32, 32, 3\)"),
        ((32, 32, 3), r"Add the batch axis with pixel_values\[None\]"),
        ((2, 40, 32, 3), "pass interpolate_pos_encoding=True, or load the model with"),
        ((2, 0, 0, 3), "Received: shape"),
    ],
)
@every_class
def test_wrong_pixel_values(cls, shape, message):
    with pytest.raises(ValueError, match=message):
        build(cls)(np.zeros(shape, "float32"))


def test_sides_that_are_no_multiple_of_the_patch():
    with pytest.raises(ValueError, match="multiples of patch_size=8. Received: height 40, width 36"):
        build(tfdeit.TFViTModel)(np.zeros((1, 40, 36, 3), "float32"), interpolate_pos_encoding=True)


def test_unprocessed_pixels_are_refused():
    with pytest.raises(ValueError, match="Expected floating-point pixel_values.*Received: dtype.*uint8"):
        build(tfdeit.TFViTModel)(np.zeros((1, 32, 32, 3), "uint8"))


def test_other_wrong_inputs(pixel_values):
    model = build(tfdeit.TFViTModel)
    with pytest.raises(ValueError, match=r"Expected head_mask of shape \(2,\) or \(3, 2\). Received: \(3,\)"):
        model(pixel_values, head_mask=np.ones(3))
    with pytest.raises(ValueError, match="Expected a model with a mask token for bool_masked_pos"):
        model(pixel_values, bool_masked_pos=np.zeros((4, 16), bool))
    with pytest.raises(ValueError, match=r"Expected bool_masked_pos of shape \(batch, 16\). Received: \(4, 4\)"):
        build(tfdeit.TFViTForMaskedImageModeling)(pixel_values, bool_masked_pos=np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match="Expected a dict with the key 'pixel_values'. Received: keys"):
        model({"images": pixel_values})
    with pytest.raises(ValueError, match="Expected a DeiTConfig for TFDeiTModel. Received: ViTConfig"):
        tfdeit.TFDeiTModel(ViTConfig(**MICRO))
    with pytest.raises(ValueError, match="Expected encoder_stride to equal patch_size=8"):
        build(tfdeit.TFViTForMaskedImageModeling, encoder_stride=16)
    with pytest.raises(ValueError, match="Give the height and width statically"):
        model(keras.Input((None, None, 3)), interpolate_pos_encoding=True)


def test_an_empty_batch_gives_empty_outputs():
    model = build(tfdeit.TFDeiTForImageClassificationWithTeacher)
    assert model(np.zeros((0, 32, 32, 3), "float32")).logits.shape == (0, 5)


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


@every_classifier
@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
def test_the_last_block_computes_what_the_heads_read(cls, drop_path_rate, pixel_values, labels):
    """With hidden states asked for it computes all tokens: the answer and all gradients are the same."""
    import tensorflow as tf

    model = build(cls, drop_path_rate=drop_path_rate, initializer_range=0.2)
    read = 2 if cls is tfdeit.TFDeiTForImageClassificationWithTeacher else 1
    assert model.backbone(pixel_values, read=read).last_hidden_state.shape == (4, read, 32)
    results = []
    for everything in (False, True):
        for block in model.backbone.blocks[1:] if drop_path_rate else ():  # the first has a rate of 0
            block.drop_path.seed_generator.state.assign([1, 2])
        with tf.GradientTape() as tape:
            logits = model(pixel_values, output_hidden_states=everything, training=drop_path_rate > 0).logits
            loss = ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))
        results.append([logits, *tape.gradient(loss, [variable.value for variable in model.trainable_variables])])
    for part, whole in zip(*results, strict=True):
        np.testing.assert_allclose(part, whole, atol=1e-6)
