"""Models in training: stock `fit`, initial weights, dropout, gradient checkpointing, and the last block's gradients."""

import keras
import numpy as np
import pytest
from keras import ops
from small_models import MICRO, build, every_classifier

import tfdeit
from tfdeit.config import DeiTConfig, ViTConfig


@pytest.fixture
def labels():
    return np.array([0, 1, 2, 3])


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
