"""Exported SavedModels give the same answers as the library."""

import io

import numpy as np
import pytest
import tensorflow as tf
from crafted_images import bombs, encode
from PIL import Image
from served import PROCESSOR, answers, check, make

import tfdeit
from tfdeit.exports.saved_model.export import export_saved_model


def test_answers_equal_predict(embedded, exported, shared_images):
    serve = tf.saved_model.load(str(exported)).signatures["serving_default"]
    outputs = serve(tf.constant([path.read_bytes() for path in shared_images]))
    indices, probabilities = answers(*embedded, shared_images)
    check(outputs, (indices, probabilities))
    names = embedded[0].config.id2label
    assert [[name.decode() for name in row] for row in outputs["classes"].numpy()] == [
        [names[index] for index in row] for row in indices.tolist()
    ]


@pytest.mark.slow
def test_bad_images_do_not_disturb_their_neighbours(embedded, exported, shared_images):
    good = [path.read_bytes() for path in shared_images[:27]]
    animation = encode(Image.new("RGB", (8, 8)), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    bad = {
        1: (good[0][: len(good[0]) // 2], b"damaged or truncated"),
        7: (b"", b"the file is empty"),
        8: (b"this is text", b"not a JPEG"),
        20: (dict(bombs())["jpeg bomb"], b"more than 89478485 pixels"),
        31: (animation, b"GIF is not supported"),
    }
    rest = iter(good)
    batch = [bad[i][0] if i in bad else next(rest) for i in range(32)]
    signatures = tf.saved_model.load(str(exported)).signatures
    outputs = {name: value.numpy() for name, value in signatures["serving_default"](tf.constant(batch)).items()}
    keep = [i for i in range(32) if i not in bad]
    check({name: value[keep] for name, value in outputs.items()}, answers(*embedded, good))
    for i, (_, reason) in bad.items():
        assert outputs["status"][i].startswith(reason)
        assert outputs["classes"][i].tolist() == [b""] * 5
        assert outputs["probabilities"][i].tolist() == [0] * 5
        assert outputs["indices"][i].tolist() == [-1] * 5
    for name, output in (("features", "tokens"), ("attention", "rollout")):
        some = signatures[name](tf.constant(batch[:9]))
        assert [np.abs(values).max() > 0 for values in some[output]] == [i not in bad for i in range(9)]
        assert some["status"].numpy().tolist() == outputs["status"][:9].tolist()


@pytest.mark.slow
def test_classify_and_pixels(embedded, exported, images, expected):
    model, processor = embedded
    signatures = tf.saved_model.load(str(exported)).signatures
    examples = []
    for data in (*images, None):
        example = tf.train.Example()
        if data is not None:
            example.features.feature["image_bytes"].bytes_list.value.append(data)
        examples.append(example.SerializeToString())
    outputs = signatures["classify"](tf.constant(examples))
    assert np.abs(outputs["scores"][:-1] - expected[1]).max() <= 1e-5
    names = [[model.config.id2label[i].encode() for i in row] for row in expected[0].tolist()]
    assert outputs["classes"].numpy().tolist() == [*names, [b""] * 5]

    logits = signatures["predict_pixels"](tf.constant(processor(images).pixel_values))["logits"]
    assert np.abs(logits - model.predict_on_batch(processor(images).pixel_values).logits).max() <= 1e-5
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 50, 3), "uint8")
    logits = signatures["predict_uint8"](tf.constant(pixels))["logits"]
    assert np.abs(logits - model.predict_on_batch(processor(pixels).pixel_values).logits).max() <= 1e-5


@pytest.mark.slow
def test_features_and_attention(embedded, exported, images):
    from tfdeit.network.attention_maps import attention_rollout

    model, processor = embedded
    signatures = tf.saved_model.load(str(exported)).signatures
    pixel_values = processor(images).pixel_values
    outputs = signatures["features"](tf.constant(images))
    tokens = model.backbone(pixel_values).last_hidden_state
    assert np.abs(outputs["tokens"] - tokens).max() <= 1e-4
    assert np.array_equal(outputs["pooled"], outputs["tokens"][:, 0])
    rollout = np.asarray(attention_rollout(model(pixel_values, output_attentions=True).attentions, 2))
    outputs = signatures["attention"](tf.constant(images))
    assert outputs["rollout"].shape == (len(images), 8, 8)
    scaled = rollout / rollout.max(axis=1, keepdims=True)
    assert np.abs(outputs["rollout"] - scaled.reshape(-1, 8, 8)).max() <= 1e-5
    for data, region in zip(images, outputs["region"].numpy(), strict=True):
        sides = np.array(Image.open(io.BytesIO(data)).size[::-1])
        seen = sides.min() / sides  # the square in the middle
        assert np.abs(region - [*(1 - seen) / 2, *(1 + seen) / 2]).max() <= 1 / 32  # up to a pixel of the result


@pytest.mark.slow
def test_batches_of_none(exported):
    for name, function in tf.saved_model.load(str(exported)).signatures.items():
        ((_, spec),) = function.structured_input_signature[1].items()
        outputs = function(tf.zeros([side or (0 if i == 0 else 9) for i, side in enumerate(spec.shape)], spec.dtype))
        assert {value.shape[0] for value in outputs.values()} == {0}, name


CLASSES = [
    tfdeit.TFViTForImageClassification,
    tfdeit.TFDeiTForImageClassification,
    tfdeit.TFDeiTForImageClassificationWithTeacher,
]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"layerscale_value": 0.5, "no_embed_class": True}], ids=["deit", "deit3"])
@pytest.mark.parametrize("cls", CLASSES)
def test_every_class(cls, options, images, tmp_path):
    model = make(cls, **options)
    version = export_saved_model(model, PROCESSOR, tmp_path / "m", top_k=3, labels=list("abcdefg"))
    outputs = tf.saved_model.load(str(version)).signatures["serving_default"](tf.constant(images))
    indices, probabilities = answers(model, PROCESSOR, images, 3)
    check(outputs, (indices, probabilities))
    assert outputs["classes"].numpy().tolist() == [[b"abcdefg"[i : i + 1] for i in row] for row in indices.tolist()]


@pytest.mark.slow
def test_fewer_classes_than_answers(images, tmp_path):
    version = export_saved_model(make(num_labels=2), PROCESSOR, tmp_path / "m")
    outputs = tf.saved_model.load(str(version)).signatures["serving_default"](tf.constant(images))
    assert outputs["classes"].shape == (len(images), 2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype, images, tmp_path):
    model = make()
    version = export_saved_model(model, PROCESSOR, tmp_path / "m", dtype=dtype, top_k=7)
    assert model.dtype_policy.name == "float32"
    loaded = tf.saved_model.load(str(version))
    assert {variable.dtype.name for variable in loaded.weights} == {dtype}
    outputs = loaded.signatures["serving_default"](tf.constant(images))
    assert outputs["probabilities"].dtype == tf.float32
    scores = np.zeros((len(images), 7))
    np.put_along_axis(scores, outputs["indices"].numpy(), outputs["probabilities"].numpy(), axis=1)
    indices, probabilities = answers(model, PROCESSOR, images, 7)
    whole = np.zeros_like(scores)
    np.put_along_axis(whole, indices, probabilities, axis=1)
    # Logits of the order of 1 after a few roundings of 2^-8 (bfloat16).
    assert np.abs(scores - whole).max() < 0.1
    exact = answers(_cast(model, dtype), PROCESSOR, images, 7)
    assert np.abs(np.sort(outputs["probabilities"])[:, ::-1] - exact[1]).max() <= 1e-5


def _cast(model, dtype):
    """Returns the model in `dtype`, traced for any batch size like the export: fused kernels round less often."""
    copy = type(model)(model.config, dtype=dtype)
    for ours, theirs in zip(copy.weights, model.weights, strict=True):
        ours.assign(theirs)
    pixels = tf.TensorSpec((None, *model.config.image_hw, 3), "float32")
    copy.predict_on_batch = tf.function(lambda x: copy(x, training=False), [pixels], autograph=False)
    return copy
