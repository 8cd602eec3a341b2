"""Rules: every row of every table, in both directions."""

import numpy as np
import pytest

from tfdeit.checkpoint import rules
from tfdeit.config import DeiTConfig, ViTConfig

CONFIG = DeiTConfig(
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    image_size=(8, 16),
    patch_size=4,
    encoder_stride=4,
    num_channels=3,
    num_labels=5,
)
SHAPES = {  # of our variables, by the last parts of their names
    "patch_embedding/projection/kernel": (4, 4, 3, 8),
    "cls_token": (1, 1, 8),
    "distillation_token": (1, 1, 8),
    "mask_token": (1, 1, 8),
    "position_embeddings": (1, 10, 8),
    "qkv/kernel": (8, 24),
    "qkv/bias": (24,),
    "attention/projection/kernel": (8, 8),
    "fc1/kernel": (8, 12),
    "fc1/bias": (12,),
    "fc2/kernel": (12, 8),
    "pooler/kernel": (8, 6),
    "pooler/bias": (6,),
    "classifier/kernel": (8, 5),
    "classifier/bias": (5,),
    "decoder/kernel": (8, 48),
    "decoder/bias": (48,),
}
VECTOR = (8,)  # the others
RULES = rules.hugging_face(CONFIG)
RNG = np.random.default_rng(0)


def random_variable(name):
    shape = next((shape for end, shape in SHAPES.items() if name.endswith(end)), VECTOR)
    return RNG.normal(size=shape).astype("float32")


@pytest.mark.parametrize("name", RULES)
def test_directions_are_inverse(name):
    expected = random_variable(name)
    theirs = dict(rules.from_keras(RULES, {name: expected}))
    assert tuple(theirs) == RULES[name].names
    received = dict(rules.to_keras(RULES, theirs))
    assert received.keys() == {name}
    np.testing.assert_array_equal(received[name], expected, strict=True)
    for their_name, value in rules.from_keras(RULES, received):
        np.testing.assert_array_equal(value, theirs[their_name], strict=True)


def test_names_are_unique_and_complete():
    theirs = [name for rule in RULES.values() for name in rule.names]
    assert len(theirs) == len(set(theirs)) == 2 + 4 + 2 * 18 + 2 + 2 + 2 * 3 + 2
    assert len(RULES) == 2 + 4 + 2 * 14 + 2 + 2 + 2 * 3 + 2


def test_prefixes_precede_the_backbone_only():
    prefixed = rules.hugging_face(CONFIG, "deit/", "deit.")
    assert prefixed["deit/norm/gamma"].names == ("deit.layernorm.weight",)
    assert prefixed["deit/block_1/mlp/fc1/bias"].names == ("deit.encoder.layer.1.intermediate.dense.bias",)
    assert prefixed["cls_classifier/bias"].names == ("cls_classifier.bias",)
    assert prefixed["decoder/bias"].names == ("decoder.0.bias",)


def test_variable_is_left_out_unless_all_its_tensors_are_there():
    theirs = dict(rules.from_keras(RULES, {"block_0/attention/qkv/bias": np.arange(24.0)}))
    theirs.popitem()
    assert dict(rules.to_keras(RULES, theirs)) == {}


def test_qkv_order_and_orientation():
    """Torch's Linear is x @ weight.T; ours has query, key, value side by side."""
    x, weights = RNG.normal(size=(3, 8)), [RNG.normal(size=(8, 8)) for _ in range(3)]
    names = RULES["block_1/attention/qkv/kernel"].names
    assert [name.split(".")[-2] for name in names] == ["query", "key", "value"]
    kernel = dict(rules.to_keras(RULES, dict(zip(names, weights, strict=True))))["block_1/attention/qkv/kernel"]
    np.testing.assert_allclose(x @ kernel, np.concatenate([x @ w.T for w in weights], -1), rtol=1e-12)


def test_convolution_orientation():
    """A patch projection in torch's layout: sum over channel, row, column of weight[d, c, y, x] * image[c, y, x]."""
    image, weight = RNG.normal(size=(4, 4, 3)), RNG.normal(size=(8, 3, 4, 4))
    kernel = rules.CONV_KERNEL.decode(weight)
    expected = np.einsum("dcyx,yxc->d", weight, image)
    np.testing.assert_allclose(np.einsum("yxcd,yxc->d", kernel, image), expected, rtol=1e-12)


def pixel_shuffle(x, r):
    """The formula of torch.nn.PixelShuffle, (C*r*r, H, W) -> (C, H*r, W*r), index by index."""
    channels, height, width = x.shape[0] // (r * r), *x.shape[1:]
    out = np.empty((channels, height * r, width * r))
    for c, y, x_ in np.ndindex(out.shape):
        out[c, y, x_] = x[c * r * r + (y % r) * r + x_ % r, y // r, x_ // r]
    return out


@pytest.mark.parametrize(("channels", "stride"), [(3, 4), (1, 2), (2, 3)])
def test_decoder_is_pixel_shuffle_in_another_order(channels, stride):
    table = rules.hugging_face(ViTConfig(num_channels=channels, encoder_stride=stride, num_hidden_layers=0))
    weight, bias = RNG.normal(size=(channels * stride**2, 5, 1, 1)), RNG.normal(size=channels * stride**2)
    tokens = RNG.normal(size=(2, 3, 5))  # rows, columns, width
    expected = pixel_shuffle(np.einsum("odhw,yxd->oyx", weight, tokens) + bias[:, None, None], stride)

    ours = dict(rules.to_keras(table, {"decoder.0.weight": weight, "decoder.0.bias": bias}))
    pixels = tokens @ ours["decoder/kernel"] + ours["decoder/bias"]
    pixels = pixels.reshape(2, 3, stride, stride, channels).transpose(0, 2, 1, 3, 4)
    received = pixels.reshape(2 * stride, 3 * stride, channels)
    np.testing.assert_allclose(received.transpose(2, 0, 1), expected, rtol=1e-12)
