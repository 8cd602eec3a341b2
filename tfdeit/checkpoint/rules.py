"""Rules: what a checkpoint format calls our variables and how it lays them out, in both directions.

A table has one row per layer: (kind, our name, their names). The kind says which variables the layer has and how each
is converted; `{i}` is the index of a block. `expand` adds the prefix that a backbone has inside a model with a head.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfdeit.checkpoint import Array, CheckpointError
from tfdeit.config import ViTConfig
from tfdeit.resample import resize_positions


class Transform(NamedTuple):
    """A conversion between one of our variables and the tensors that hold it in a checkpoint."""

    decode: Callable[..., np.ndarray]  # their tensors -> ours
    encode: Callable[[np.ndarray], Sequence[np.ndarray]]  # ours -> their tensors


class Rule(NamedTuple):
    """Where one of our variables is in a checkpoint."""

    names: tuple[str, ...]
    transform: Transform


SAME = Transform(lambda x: x, lambda x: (x,))
TRANSPOSE = Transform(np.transpose, lambda kernel: (kernel.T,))
CONV_KERNEL = Transform(  # (D, C, p, p) <-> (p, p, C, D)
    lambda weight: np.transpose(weight, (2, 3, 1, 0)), lambda kernel: (np.transpose(kernel, (3, 2, 0, 1)),)
)
# Their query, key and value are three tensors; ours has them side by side on its last axis.
SPLIT_KERNEL = Transform(
    lambda *weights: np.concatenate([weight.T for weight in weights], axis=-1),
    lambda kernel: [part.T for part in np.split(kernel, 3, axis=-1)],
)
SPLIT_BIAS = Transform(lambda *biases: np.concatenate(biases), lambda bias: np.split(bias, 3))


def pixel_shuffle(channels: int) -> tuple[Transform, Transform]:
    """Returns the transforms of a decoder's kernel, (C*s*s, D, 1, 1) <-> (D, s*s*C), and of its bias.

    Their outputs are in the order (channel, pixel), which PixelShuffle wants; ours in (pixel, channel).
    """

    def decode(weight):
        width = weight.shape[1]
        return weight.reshape(channels, -1, width).transpose(2, 1, 0).reshape(width, -1)

    def encode(kernel):
        width = kernel.shape[0]
        return (kernel.reshape(width, -1, channels).transpose(2, 1, 0).reshape(-1, width, 1, 1),)

    bias = Transform(
        lambda bias: bias.reshape(channels, -1).T.reshape(-1), lambda bias: (bias.reshape(-1, channels).T.reshape(-1),)
    )
    return Transform(decode, encode), bias


# A kind: our variable -> (their tensor, transform). These are PyTorch's layers.
NORM = {"gamma": ("weight", SAME), "beta": ("bias", SAME)}
DENSE = {"kernel": ("weight", TRANSPOSE), "bias": ("bias", SAME)}
CONV = {"kernel": ("weight", CONV_KERNEL), "bias": ("bias", SAME)}
QKV = {"kernel": ("weight", SPLIT_KERNEL), "bias": ("bias", SPLIT_BIAS)}
TOKEN = {"": ("", SAME)}


_ATTENTION = "encoder.layer.{i}.attention.attention"
_HUGGING_FACE_BACKBONE = (
    (CONV, "patch_embedding/projection", "embeddings.patch_embeddings.projection"),
    (TOKEN, "token_concatenation/cls_token", "embeddings.cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "embeddings.distillation_token"),
    (TOKEN, "token_concatenation/mask_token", "embeddings.mask_token"),
    (TOKEN, "token_concatenation/position_embeddings", "embeddings.position_embeddings"),
    (NORM, "block_{i}/norm1", "encoder.layer.{i}.layernorm_before"),
    (QKV, "block_{i}/attention/qkv", f"{_ATTENTION}.query", f"{_ATTENTION}.key", f"{_ATTENTION}.value"),
    (DENSE, "block_{i}/attention/projection", "encoder.layer.{i}.attention.output.dense"),
    (NORM, "block_{i}/norm2", "encoder.layer.{i}.layernorm_after"),
    (DENSE, "block_{i}/mlp/fc1", "encoder.layer.{i}.intermediate.dense"),
    (DENSE, "block_{i}/mlp/fc2", "encoder.layer.{i}.output.dense"),
    # transformers' ViT has no LayerScale: these are the names in its DINOv2.
    (TOKEN, "block_{i}/layer_scale1", "encoder.layer.{i}.layer_scale1.lambda1"),
    (TOKEN, "block_{i}/layer_scale2", "encoder.layer.{i}.layer_scale2.lambda1"),
    (NORM, "norm", "layernorm"),
    (DENSE, "pooler", "pooler.dense"),
)
HEADS = ("classifier", "cls_classifier", "distillation_classifier", "decoder")


def hugging_face(config: ViTConfig, ours: str = "", theirs: str = "") -> dict[str, Rule]:
    """Returns the rules of the names on the Hugging Face hub, which are those that transformers saves.

    Args:
        config: the model's.
        ours: the prefix of the backbone in our names: "vit/" or "deit/" in models with a head.
        theirs: its prefix in the checkpoint: "vit." or "deit." if a model with a head was saved.

    Returns:
        Our name -> its rule, for every variable that any of the models has.
    """
    kernel, bias = pixel_shuffle(config.num_channels)
    decoder = {"kernel": ("weight", kernel), "bias": ("bias", bias)}
    heads = *((DENSE, head, head) for head in HEADS[:3]), (decoder, "decoder", "decoder.0")
    return expand(_HUGGING_FACE_BACKBONE, config.num_hidden_layers, ours, theirs) | expand(heads)


def expand(
    table: Iterable[tuple], depth: int = 0, ours: str = "", theirs: str = "", separator: str = "."
) -> dict[str, Rule]:
    """Returns the rules of `table` for `depth` blocks, with the prefixes `ours` and `theirs` before all names.

    In their names `separator` joins layer and leaf, in ours a slash.
    """
    rules = {}
    for kind, our_layer, *their_layers in table:
        for i in range(depth) if "{i}" in our_layer else (0,):
            for our_leaf, (their_leaf, transform) in kind.items():
                layers = [f"{theirs}{layer.format(i=i)}" for layer in their_layers]
                names = tuple(f"{layer}{separator}{their_leaf}" if their_leaf else layer for layer in layers)
                rules[f"{ours}{our_layer.format(i=i)}/{our_leaf}".rstrip("/")] = Rule(names, transform)
    return rules


def to_keras(rules: Mapping[str, Rule], arrays: Mapping[str, Array]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and value of each of our variables that `arrays` holds in full; reads one at a time."""
    for ours, (names, transform) in rules.items():
        if all(name in arrays for name in names):
            yield ours, transform.decode(*(np.asarray(arrays[name]) for name in names))


def from_keras(rules: Mapping[str, Rule], variables: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and value of each tensor that a checkpoint of `variables` (our names to values) holds."""
    for ours, value in variables.items():
        names, transform = rules[ours]
        yield from zip(names, transform.encode(value), strict=True)


def interpolate_positions(table: np.ndarray, stored: ViTConfig, config: ViTConfig) -> np.ndarray:
    """Resizes the positions of patches in a table (1, T, D) from the grid of `stored` to that of `config`."""
    prefix, patches = np.split(table[0], [stored.num_prefix_positions])
    patches = resize_positions(patches.reshape(*stored.grid, -1), config.grid, kernel="torch")
    return np.concatenate([prefix, patches.reshape(config.num_patches, -1)])[None]


def cast_finite(value: np.ndarray, dtype: str | np.dtype, name: str) -> np.ndarray:
    """Casts `value` to `dtype` and checks that it is finite; copies what is read-only, such as a view of a mapped file.

    Raises:
        CheckpointError: if a value is not finite; the message calls the tensor `name`.
    """
    with np.errstate(over="ignore"):
        value = value.astype(dtype, copy=not value.flags.writeable)
    if not np.isfinite(value).all():
        raise CheckpointError(f"Expected finite values of {name} in {dtype}. Received: NaN or infinity.")
    return value


def named_heads(config: ViTConfig, head: str, distilled_head: str) -> tuple:
    """Returns the rows of a format that names the class token's head alike whether distilled or not."""
    if config.num_prefix_tokens == 1:
        return ((DENSE, "classifier", head),)
    return (DENSE, "cls_classifier", head), (DENSE, "distillation_classifier", distilled_head)
