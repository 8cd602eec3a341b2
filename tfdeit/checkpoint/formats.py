"""Formats: the names and layouts of every published kind of checkpoint, and which of them a file is in.

Sources, read for the names: timm's and Facebook's models (their state dicts), MMPretrain's `VisionTransformer` and
`DistilledVisionTransformer`, Google's vit_jax and Big Vision, transformers 4 (TensorFlow) and 5.
"""

import os
import re
from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

import numpy as np

from tfdeit.checkpoint import CheckpointError, listing
from tfdeit.checkpoint.big_vision import TOWERS
from tfdeit.checkpoint.rules import (
    CONV,
    DENSE,
    NORM,
    QKV,
    SAME,
    TOKEN,
    Rule,
    Transform,
    expand,
    hugging_face,
    pixel_shuffle_bias,
    pixel_shuffle_kernel,
)
from tfdeit.config import CONFIG_CLASSES, ViTConfig

DISTILLED = {"distillation_token", "cls_classifier", "distillation_classifier"}  # parts that only a DeiT has


class Format(NamedTuple):
    """A kind of checkpoint.

    Attributes:
        name: as in messages and reports.
        rules: (config, prefix) -> our variables, without the name of a backbone before them, and where they are.
        block: what precedes the index of a block in its names.
        prefixes: what may precede the backbone's or all names; `{}` is the config's model type; written is the first.
        layer_norm_eps: epsilon of the models in this format, where no config.json says it.
        marker: what some name in such a file ends in, if it is not to be taken for another format.
    """

    name: str
    rules: Callable[[ViTConfig, str], dict[str, Rule]]
    block: str
    prefixes: tuple[str, ...] = ("",)
    layer_norm_eps: float = 1e-6
    marker: str = ""


class Match(NamedTuple):
    """The format of a file, and what its names say of the model."""

    format: Format
    config_class: type[ViTConfig]
    prefix: str
    depth: int


# ------------------------------------------------------------------------------------- PyTorch: (weight, bias)

# One tensor of query, key and value, in this order: no other than a dense layer.
_TIMM = (
    (CONV, "patch_embedding/projection", "patch_embed.proj"),
    (TOKEN, "token_concatenation/cls_token", "cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "dist_token"),
    (TOKEN, "token_concatenation/position_embeddings", "pos_embed"),
    (NORM, "block_{i}/norm1", "blocks.{i}.norm1"),
    (DENSE, "block_{i}/attention/qkv", "blocks.{i}.attn.qkv"),
    (DENSE, "block_{i}/attention/projection", "blocks.{i}.attn.proj"),
    (NORM, "block_{i}/norm2", "blocks.{i}.norm2"),
    (DENSE, "block_{i}/mlp/fc1", "blocks.{i}.mlp.fc1"),
    (DENSE, "block_{i}/mlp/fc2", "blocks.{i}.mlp.fc2"),
    (TOKEN, "block_{i}/layer_scale1", "blocks.{i}.ls1.gamma"),
    (TOKEN, "block_{i}/layer_scale2", "blocks.{i}.ls2.gamma"),
    (NORM, "norm", "norm"),
)
# Facebook's own DeiT III says gamma_1 where timm says ls1.gamma.
_FACEBOOK_3 = tuple(
    (*row[:-1], row[-1].replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2")) for row in _TIMM
)
_MMPRETRAIN = (
    (CONV, "patch_embedding/projection", "backbone.patch_embed.projection"),
    (TOKEN, "token_concatenation/cls_token", "backbone.cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "backbone.dist_token"),
    (TOKEN, "token_concatenation/position_embeddings", "backbone.pos_embed"),
    (NORM, "block_{i}/norm1", "backbone.layers.{i}.ln1"),
    (DENSE, "block_{i}/attention/qkv", "backbone.layers.{i}.attn.qkv"),
    (DENSE, "block_{i}/attention/projection", "backbone.layers.{i}.attn.proj"),
    (NORM, "block_{i}/norm2", "backbone.layers.{i}.ln2"),
    (DENSE, "block_{i}/mlp/fc1", "backbone.layers.{i}.ffn.layers.0.0"),
    (DENSE, "block_{i}/mlp/fc2", "backbone.layers.{i}.ffn.layers.1"),
    (NORM, "norm", "backbone.ln1"),
)
# As they are in memory in transformers 5; it saves the names of the hub.
_HUGGING_FACE_5 = (
    (CONV, "patch_embedding/projection", "embeddings.patch_embeddings.projection"),
    (TOKEN, "token_concatenation/cls_token", "embeddings.cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "embeddings.distillation_token"),
    (TOKEN, "token_concatenation/mask_token", "embeddings.mask_token"),
    (TOKEN, "token_concatenation/position_embeddings", "embeddings.position_embeddings"),
    (NORM, "block_{i}/norm1", "layers.{i}.layernorm_before"),
    (QKV, "block_{i}/attention/qkv", *(f"layers.{{i}}.attention.{part}_proj" for part in "qkv")),
    (DENSE, "block_{i}/attention/projection", "layers.{i}.attention.o_proj"),
    (NORM, "block_{i}/norm2", "layers.{i}.layernorm_after"),
    (DENSE, "block_{i}/mlp/fc1", "layers.{i}.mlp.fc1"),
    (DENSE, "block_{i}/mlp/fc2", "layers.{i}.mlp.fc2"),
    (NORM, "norm", "layernorm"),
    (DENSE, "pooler", "pooler.dense"),
)


def _heads(config: ViTConfig, head: str, distilled_head: str) -> tuple:
    """Returns the rows of a format in which the head of the class token has one name, distilled or not."""
    if config.num_prefix_tokens == 1:
        return ((DENSE, "classifier", head),)
    return (DENSE, "cls_classifier", head), (DENSE, "distillation_classifier", distilled_head)


def _timm(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    return expand((*_TIMM, *_heads(config, "head", "head_dist")), config.num_hidden_layers)


def _facebook_3(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    return expand((*_FACEBOOK_3, *_heads(config, "head", "head_dist")), config.num_hidden_layers)


def _mmpretrain(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    heads = _heads(config, "head.layers.head", "head.layers.head_dist")
    return expand((*_MMPRETRAIN, *heads), config.num_hidden_layers)


def _hugging_face(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    return hugging_face(config, "", prefix)


def _hugging_face_5(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    heads = {name: rule for name, rule in hugging_face(config).items() if name.split("/")[0] in HEADS}
    return expand(_HUGGING_FACE_5, config.num_hidden_layers, theirs=prefix) | heads


# ------------------------------------------------------------------------- Google: kernels of (inputs, outputs)

_FLAX_NORM = {"gamma": ("scale", SAME), "beta": ("bias", SAME)}
_FLAX_DENSE = {"kernel": ("kernel", SAME), "bias": ("bias", SAME)}


def _flax_attention(config: ViTConfig) -> tuple[dict, dict]:
    """Returns the kinds of query, key and value, (D, heads, d) each, and of the output, (heads, d, D)."""
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
    """Returns the rules of Google's names; flax numbers the layers of a block: together, or those of a type."""
    qkv, output = _flax_attention(config)
    block = "Transformer/encoderblock_{i}"
    rows = (
        (_FLAX_DENSE, "patch_embedding/projection", "embedding"),
        (TOKEN, "token_concatenation/cls_token", "cls"),
        (_FLAX_NORM, "block_{i}/norm1", f"{block}/LayerNorm_0"),
        (qkv, "block_{i}/attention/qkv", *(f"{block}/{attention}/{part}" for part in ("query", "key", "value"))),
        (output, "block_{i}/attention/projection", f"{block}/{attention}/out"),
        (_FLAX_NORM, "block_{i}/norm2", f"{block}/{norm2}"),
        (_FLAX_DENSE, "block_{i}/mlp/fc1", f"{block}/{mlp}/Dense_0"),
        (_FLAX_DENSE, "block_{i}/mlp/fc2", f"{block}/{mlp}/Dense_1"),
        (_FLAX_NORM, "norm", "Transformer/encoder_norm"),
        (_FLAX_DENSE, "classifier", "head"),
    )
    rules = expand(rows, config.num_hidden_layers, theirs=prefix, separator="/")
    names = tuple(f"{prefix}{name}" for name in position.names)
    return rules | {"token_concatenation/position_embeddings": Rule(names, position.transform)}


def _npz(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    position = Rule(("Transformer/posembed_input/pos_embedding",), SAME)
    return _google(config, prefix, position, "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")


def _without_class_position(table: np.ndarray) -> tuple[np.ndarray]:
    if np.any(table[:, 0]):
        raise CheckpointError("Expected no position of the class token: Big Vision has none. Write plain npz instead.")
    return (table[:, 1:],)


# Big Vision adds the positions before the class token comes: its own position is part of it.
_PATCH_POSITIONS = Transform(lambda table: np.pad(table, ((0, 0), (1, 0), (0, 0))), _without_class_position)


def _big_vision(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    position = Rule(("pos_embedding",), _PATCH_POSITIONS)
    return _google(config, prefix, position, "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


# ------------------------------------------------------------------------------------------------------- Keras

_KERAS_NORM = {"gamma": ("gamma", SAME), "beta": ("beta", SAME)}
_NUMBERED_NORM = {"gamma": ("vars/0", SAME), "beta": ("vars/1", SAME)}
_NUMBERED_DENSE = {"kernel": ("vars/0", SAME), "bias": ("vars/1", SAME)}
_KERAS_QKV = {
    leaf: (leaf, Transform(lambda *parts: np.concatenate(parts, -1), lambda whole: np.split(whole, 3, -1)))
    for leaf in ("kernel", "bias")
}
_TENSORFLOW = (
    (_FLAX_DENSE, "patch_embedding/projection", "embeddings/patch_embeddings/projection"),
    (TOKEN, "token_concatenation/cls_token", "embeddings/cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "embeddings/distillation_token"),
    (TOKEN, "token_concatenation/mask_token", "embeddings/mask_token"),
    (TOKEN, "token_concatenation/position_embeddings", "embeddings/position_embeddings"),
    (_KERAS_NORM, "block_{i}/norm1", "encoder/layer_._{i}/layernorm_before"),
    (
        _KERAS_QKV,
        "block_{i}/attention/qkv",
        *(f"encoder/layer_._{{i}}/attention/attention/{part}" for part in ("query", "key", "value")),
    ),
    (_FLAX_DENSE, "block_{i}/attention/projection", "encoder/layer_._{i}/attention/output/dense"),
    (_KERAS_NORM, "block_{i}/norm2", "encoder/layer_._{i}/layernorm_after"),
    (_FLAX_DENSE, "block_{i}/mlp/fc1", "encoder/layer_._{i}/intermediate/dense"),
    (_FLAX_DENSE, "block_{i}/mlp/fc2", "encoder/layer_._{i}/output/dense"),
    (_KERAS_NORM, "norm", "layernorm"),
    (_FLAX_DENSE, "pooler", "pooler/dense"),
)
_KERAS = (
    (_NUMBERED_DENSE, "patch_embedding/projection", "layers/patch_embedding/projection"),
    (TOKEN, "token_concatenation/cls_token", "layers/token_concatenation/cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "layers/token_concatenation/distillation_token"),
    (TOKEN, "token_concatenation/mask_token", "layers/token_concatenation/mask_token"),
    (TOKEN, "token_concatenation/position_embeddings", "layers/token_concatenation/position_embeddings"),
    (_NUMBERED_NORM, "block_{i}/norm1", "blocks/transformer_block_{i}/norm1"),
    (_NUMBERED_DENSE, "block_{i}/attention/qkv", "blocks/transformer_block_{i}/attention/qkv"),
    (_NUMBERED_DENSE, "block_{i}/attention/projection", "blocks/transformer_block_{i}/attention/projection"),
    (_NUMBERED_NORM, "block_{i}/norm2", "blocks/transformer_block_{i}/norm2"),
    (_NUMBERED_DENSE, "block_{i}/mlp/fc1", "blocks/transformer_block_{i}/mlp/fc1"),
    (_NUMBERED_DENSE, "block_{i}/mlp/fc2", "blocks/transformer_block_{i}/mlp/fc2"),
    (_NUMBERED_NORM, "norm", "final_norm"),
    (_NUMBERED_DENSE, "pooler", "layers/dense"),
)
HEADS = ("classifier", "cls_classifier", "distillation_classifier", "decoder")


def _tensorflow(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    channels = config.num_channels
    kernel, bias = pixel_shuffle_kernel(channels), pixel_shuffle_bias(channels)
    turned = Transform(
        lambda weight: kernel.decode(np.transpose(weight, (3, 2, 0, 1))),
        lambda ours: (np.transpose(kernel.encode(ours)[0], (2, 3, 1, 0)),),
    )
    decoder = {"kernel": ("kernel", turned), "bias": ("bias", bias)}
    heads = *((_FLAX_DENSE, head, head) for head in HEADS[:3]), (decoder, "decoder", "decoder/0")
    return expand(_TENSORFLOW, config.num_hidden_layers, theirs=prefix, separator="/") | expand(heads, separator="/")


def _keras(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    heads = ((_NUMBERED_DENSE, head, head) for head in HEADS)
    return expand(_KERAS, config.num_hidden_layers, theirs=prefix, separator="/") | expand(heads, separator="/")


# ------------------------------------------------------------------------------------------------------ choice

FORMATS = (
    Format("Hugging Face", _hugging_face, "encoder.layer.", ("{}.", ""), 1e-12),
    Format("Hugging Face in memory", _hugging_face_5, "layers.", ("{}.", ""), 1e-12),
    Format("timm", _timm, "blocks."),
    Format("Facebook's DeiT III", _facebook_3, "blocks.", marker=".gamma_1"),
    Format("MMPretrain", _mmpretrain, "backbone.layers."),
    Format("Google npz", _npz, "encoderblock_", ("", "opt/target/", "params/", *TOWERS)),
    Format("Big Vision npz", _big_vision, "encoderblock_", ("params/", "", *TOWERS)),
    Format("transformers' TensorFlow", _tensorflow, "layer_._", ("{}/",), 1e-12),
    Format("Keras", _keras, "transformer_block_", ("backbone/", ""), 1e-12),
)
FORMAT_OF = {format.name: format for format in FORMATS}


def format_rules(format: Format, config: ViTConfig, prefix: str) -> dict[str, Rule]:
    """Returns the rules of the variables that a model of `config` may have: see `Format.rules`."""
    absent = set() if config.num_prefix_tokens == 2 else DISTILLED
    rules = format.rules(config, prefix)
    return {name: rule for name, rule in rules.items() if not absent & set(name.split("/"))}


def identify(keys: Set[str], path: str | os.PathLike) -> Match:
    """Finds the one format that accounts for all names in a file.

    Args:
        keys: the names.
        path: of the file, for messages.

    Raises:
        CheckpointError: if none does, or more than one: the message says how many names each knows.
    """
    fits = [(len(keys - names), match, names) for match, names in _candidates(keys)]
    found = {match.format.name: match for unknown, match, _ in reversed(fits) if not unknown}
    if keys and found and not any(match.depth for match in found.values()):
        raise CheckpointError(
            f"Expected a model with transformer blocks in {path}. Received: depth 0. Without their names a format is "
            f"not known for sure: {listing(keys, 5)} may be of {' or '.join(sorted(found))}."
        )
    if len(found) == 1 and keys:
        return next(iter(found.values()))
    lines: dict[str, str] = {}
    for unknown, match, names in sorted(fits, key=lambda fit: fit[0]):
        report = f"  {match.format.name} knows {len(keys) - unknown} of {len(keys)}"
        report += f", not: {listing(keys - names, 5)}" if unknown else ""
        lines.setdefault(match.format.name, "" if unknown == len(keys) else report)
    known = [line for line in lines.values() if line] or [f"  no format knows any of: {listing(keys, 5)}"]
    hint = ""
    if any("pre_logits" in key for key in keys):
        hint = (
            " The layer pre_logits, between the class token and the head, is of ImageNet-21k files: these models have "
            "none. Port a file that was fine-tuned, or take the layers pre_logits and head out."
        )
    raise CheckpointError(
        f"Expected the names in {path} to be of one format. Received names of {'several' if found else 'none'}:\n"
        + "\n".join(known)
        + f"\nPass the weights of one ViT or DeiT, without those of an optimizer or another model.{hint}"
    )


def _candidates(keys: Set[str]) -> Iterable[tuple[Match, set[str]]]:
    """Yields each way to read `keys`, and the names it knows; the most common first."""
    for format in FORMATS:
        if not any(key.endswith(format.marker) for key in keys):
            continue
        indices = (re.search(rf"(?:^|[./]){re.escape(format.block)}(\d{{1,6}})\b", key) for key in keys)
        depth = max((int(index[1]) + 1 for index in indices if index), default=0)
        depth = depth if depth <= len(keys) else 0  # a block has several variables: no index is as large as this
        for config_class in CONFIG_CLASSES.values():
            for prefix in dict.fromkeys(prefix.format(config_class.model_type) for prefix in format.prefixes):
                rules = format_rules(format, config_class(num_hidden_layers=depth), prefix)
                names = {name for rule in rules.values() for name in rule.names}
                yield Match(format, config_class, prefix, depth), names
