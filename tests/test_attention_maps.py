"""Attention rollout against the matrices of the paper, in plain numpy."""

import numpy as np
import pytest

import tfdeit
from tfdeit.attention_maps import attention_rollout


def rollout(attentions):
    """Abnar & Zuidema 2020, section 3: raw attention, the identity added and normalised, multiplied up the layers."""
    result = np.eye(attentions[0].shape[-1])
    for attention in attentions:
        layer = attention.mean(axis=0) + np.eye(attention.shape[-1])
        result = (layer / layer.sum(axis=-1, keepdims=True)) @ result
    return result


@pytest.mark.parametrize("prefix", [1, 2])
def test_rollout(prefix, rng):
    scores = rng.normal(size=(4, 3, 2, 11, 11)) * 3  # blocks, images, heads
    attentions = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    shares = np.asarray(attention_rollout(list(attentions.astype("float32")), prefix))
    for image in range(3):
        expected = rollout(attentions[:, image])[0]
        assert np.abs(shares[image] - expected[prefix:]).max() < 1e-6
        assert abs(shares[image].sum() + expected[:prefix].sum() - 1) < 1e-5


def test_rollout_of_a_model(rng):
    config = tfdeit.DeiTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    model = tfdeit.TFDeiTModel(config)
    attentions = model(rng.normal(size=(2, 32, 32, 3)).astype("float32"), output_attentions=True).attentions
    shares = np.asarray(attention_rollout(attentions, config.num_prefix_tokens))
    assert shares.shape == (2, 16)
    assert np.abs(shares[0] - rollout([np.asarray(a[0]) for a in attentions])[0, 2:]).max() < 1e-6
