"""What TensorFlow's optimiser makes of the graphs that users run, and that it computes the same."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.util import _pywrap_util_port

import tfdeit
from tfdeit.exports.saved_model.export import export_saved_model
from tfdeit.network.kernels import LayerNorm

DEPTH = 3
MICRO = {"hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "intermediate_size": 64}
with_onednn = pytest.mark.skipif(not _pywrap_util_port.IsMklEnabled(), reason="TensorFlow without oneDNN fuses less")


def build(dtype="float32"):
    config = tfdeit.DeiTConfig(**MICRO, image_size=32, patch_size=8, num_labels=5, initializer_range=0.2)
    return tfdeit.TFDeiTForImageClassificationWithTeacher(config, dtype=dtype)


@pytest.fixture
def pixel_values(rng):
    return rng.normal(size=(4, 32, 32, 3)).astype("float32")


def executed(run):
    """Counts the operations of the graphs that `run` executes first, with what is fused into them."""
    context.context().enable_run_metadata()
    run()
    metadata = context.context().export_run_metadata()
    context.context().disable_run_metadata()
    counts = collections.Counter()
    for graph in (graph for function in metadata.function_graphs for graph in function.partition_graphs):
        for node in graph.node:
            fused = [name.decode() for name in node.attr["fused_ops"].list.s] if "fused_ops" in node.attr else []
            counts[" ".join([node.op.removeprefix("_MklNative").lstrip("_"), *fused])] += 1
    return counts


def check_fusions(counts):
    assert counts["MklLayerNorm"] == 2 * DEPTH + 1
    assert counts["FusedMatMul BiasAdd GeluExact"] == DEPTH
    residuals = counts["FusedMatMul BiasAdd Add"]
    assert residuals >= 2 * DEPTH - 1  # rows are dropped before one in the last block: of any batch, it may be left
    assert counts["FusedMatMul BiasAdd"] == DEPTH + 2 + 2 * DEPTH - residuals  # qkv, two heads, and that one
    assert counts["FusedConv2D BiasAdd"] == 1
    assert counts["MatMul"] == counts["BiasAdd"] == counts["Erfc"] == counts["FusedBatchNormV3"] == 0


@with_onednn
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fusions_of_predict(dtype, pixel_values):
    model = build(dtype)
    check_fusions(executed(lambda: model.predict(pixel_values, batch_size=2, verbose=0)))


@with_onednn
def test_fusions_of_a_saved_model(pixel_values, tmp_path):
    directory = export_saved_model(build(), tfdeit.DeiTImageProcessor(size=36, crop_size=32), tmp_path / "model")
    loaded = tf.saved_model.load(directory)
    predict = loaded.signatures["predict_pixels"]
    check_fusions(executed(lambda: predict(pixel_values=tf.constant(pixel_values))))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2**-7), ("float16", 2**-9)])
def test_layer_norm_in_graphs(jit, dtype, tolerance, rng):
    """Statistics are taken in float32, of differences from the mean: far from zero they are as good."""
    values = (rng.normal(size=(3, 5, 64)) + 100).astype("float32")
    rows = tf.cast(values, dtype)
    layer = LayerNorm(epsilon=1e-12, dtype=dtype)
    layer.build(rows.shape)
    layer.gamma.assign(rng.normal(size=64))
    layer.beta.assign(rng.normal(size=64))
    exact = tf.cast(rows, tf.float64).numpy()
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    exact = exact * np.float64(layer.gamma.numpy()) + np.float64(layer.beta.numpy())
    run = tf.function(lambda rows: layer(rows), jit_compile=jit, autograph=False)
    found = tf.cast(run(rows), tf.float64).numpy()
    scale = np.abs(exact).max() * (100 if dtype == "float32" else 1)  # a mean of 100 is known to that many roundings
    np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance * scale)


def test_gradients_through_the_graph_of_inference(pixel_values):
    model, images = build(), tf.constant(pixel_values)

    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = model(images, training=False).logits
        return tape.gradient(logits, images)

    expected = gradient(images)
    np.testing.assert_allclose(tf.function(gradient, autograph=False)(images), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_graph_and_call_agree(dtype, pixel_values):
    model = build(dtype)
    weights = {keras.backend.standardize_dtype(variable.dtype) for variable in model.weights}
    assert weights == {dtype}
    tolerance = {"float32": 1e-6, "bfloat16": 2**-8, "float16": 2**-11}[dtype]
    called = np.asarray(tf.cast(model(pixel_values).logits, "float32"))
    predicted = model.predict(pixel_values, verbose=0).logits.astype("float32")
    # As many roundings as there are additions to the residual stream, of values of this size.
    np.testing.assert_allclose(predicted, called, atol=tolerance * 2 * DEPTH * np.abs(called).max())


def test_an_empty_batch_in_a_graph():
    model = build()
    run = tf.function(lambda pixels: model(pixels, training=False).logits, [tf.TensorSpec((None, 32, 32, 3))])
    assert run(tf.zeros((0, 32, 32, 3))).shape == (0, 5)
