"""Google's names, of vit_jax and Big Vision, whose kernels are laid out as (inputs, outputs)."""

import numpy as np

from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.rules import SAME, TOKEN, Rule, Transform, expand
from tfdeit.config import ViTConfig

_NORM = {"gamma": ("scale", SAME), "beta": ("bias", SAME)}
_DENSE = {"kernel": ("kernel", SAME), "bias": ("bias", SAME)}


def _flax_attention(config: ViTConfig) -> tuple[dict, dict]:
    """Returns the kinds of query, key and value, (D, heads, d) each, and of the projection, (heads, d, D)."""
    heads = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
    kernel = Transform(
        lambda *parts: np.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=-1),
        lambda kernel: [part.reshape(-1, *heads) for part in np.split(kernel, 3, axis=-1)],
    )
    bias = Transform(
        lambda *parts: np.concatenate([part.reshape(-1) for part in parts]),
        lambda bias: [part.reshape(heads) for part in np.split(bias, 3)],
    )
    output = Transform(
        lambda kernel: kernel.reshape(-1, kernel.shape[-1]), lambda kernel: (kernel.reshape(*heads, kernel.shape[-1]),)
    )
    return (
        {"kernel": ("kernel", kernel), "bias": ("bias", bias)},
        {"kernel": ("kernel", output), "bias": ("bias", SAME)},
    )


def _google(config: ViTConfig, prefix: str, position: Rule, attention: str, norm2: str, mlp: str) -> dict[str, Rule]:
    """Returns the rules of Google's names; flax numbers a block's layers all together, or those of each type."""
    qkv, output = _flax_attention(config)
    block = "Transformer/encoderblock_{i}"
    rows = (
        (_DENSE, "patch_embedding/projection", "embedding"),
        (TOKEN, "token_concatenation/cls_token", "cls"),
        (_NORM, "block_{i}/norm1", f"{block}/LayerNorm_0"),
        (qkv, "block_{i}/attention/qkv", *(f"{block}/{attention}/{part}" for part in ("query", "key", "value"))),
        (output, "block_{i}/attention/projection", f"{block}/{attention}/out"),
        (_NORM, "block_{i}/norm2", f"{block}/{norm2}"),
        (_DENSE, "block_{i}/mlp/fc1", f"{block}/{mlp}/Dense_0"),
        (_DENSE, "block_{i}/mlp/fc2", f"{block}/{mlp}/Dense_1"),
        (_NORM, "norm", "Transformer/encoder_norm"),
        (_DENSE, "classifier", "head"),
    )
    rules = expand(rows, config.num_hidden_layers, theirs=prefix, separator="/")
    names = tuple(f"{prefix}{name}" for name in position.names)
    return rules | {"token_concatenation/position_embeddings": Rule(names, position.transform)}


def vit_jax(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    """Returns the rules of the names in vit_jax's npz files."""
    position = Rule(("Transformer/posembed_input/pos_embedding",), SAME)
    return _google(config, prefix, position, "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")


def _without_class_position(table: np.ndarray) -> tuple[np.ndarray]:
    if np.any(table[:, 0]):
        raise CheckpointError("Expected a class token without a position, as in Big Vision. Write plain npz instead.")
    return (table[:, 1:],)


# Big Vision prepends the class token after it added positions: the token's position is part of its value.
_PATCH_POSITIONS = Transform(lambda table: np.pad(table, ((0, 0), (1, 0), (0, 0))), _without_class_position)


def big_vision(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    """Returns the rules of the names in Big Vision's npz files."""
    position = Rule(("pos_embedding",), _PATCH_POSITIONS)
    return _google(config, prefix, position, "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
