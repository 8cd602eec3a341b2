"""Rules: what a checkpoint format calls our variables and how it lays them out, in both directions.

A table has one row per layer: (kind, our name, their names). The kind says which variables the layer has and how each
is converted. `{i}` is the index of a block. The prefix of a backbone below a head is added by `expand`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfdeit.checkpoint import Array, CheckpointError
from tfdeit.config import ViTConfig
from tfdeit.resample import resize_positions


class Transform(NamedTuple):
    """A conversion between the layouts of one of our variables and of the tensors that hold it in a checkpoint."""

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
# Three tensors, of query, key and value, side by side on the last axis of ours.
SPLIT_KERNEL = Transform(
    lambda *weights: np.concatenate([weight.T for weight in weights], axis=-1),
    lambda kernel: [part.T for part in np.split(kernel, 3, axis=-1)],
)
SPLIT_BIAS = Transform(lambda *biases: np.concatenate(biases), lambda bias: np.split(bias, 3))


def pixel_shuffle_bias(channels: int) -> Transform:
    """Returns the order of a decoder's outputs: theirs is (channel, pixel), for PixelShuffle; ours (pixel, channel)."""
    return Transform(
        lambda bias: bias.reshape(channels, -1).T.reshape(-1), lambda bias: (bias.reshape(-1, channels).T.reshape(-1),)
    )


def pixel_shuffle_kernel(channels: int) -> Transform:
    """Returns the same for a kernel: (C*s*s, D, 1, 1) <-> (D, s*s*C)."""

    def decode(weight):
        width = weight.shape[1]
        return weight.reshape(channels, -1, width).transpose(2, 1, 0).reshape(width, -1)

    def encode(kernel):
        width = kernel.shape[0]
        return (kernel.reshape(width, -1, channels).transpose(2, 1, 0).reshape(-1, width, 1, 1),)

    return Transform(decode, encode)


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
    # LayerScale is not in transformers' ViT: these are the names of its DINOv2.
    (TOKEN, "block_{i}/layer_scale1", "encoder.layer.{i}.layer_scale1.lambda1"),
    (TOKEN, "block_{i}/layer_scale2", "encoder.layer.{i}.layer_scale2.lambda1"),
    (NORM, "norm", "layernorm"),
    (DENSE, "pooler", "pooler.dense"),
)
_HUGGING_FACE_HEADS = (
    (DENSE, "classifier", "classifier"),
    (DENSE, "cls_classifier", "cls_classifier"),
    (DENSE, "distillation_classifier", "distillation_classifier"),
)


def hugging_face(config: ViTConfig, ours: str = "", theirs: str = "") -> dict[str, Rule]:
    """Returns the rules of the names that the Hugging Face hub holds and transformers saves.

    Args:
        config: the model's.
        ours: what precedes the backbone in our names: "vit/" or "deit/" in models with a head.
        theirs: what precedes it in the checkpoint: "vit." or "deit." if that was saved from a model with a head.

    Returns:
        Our name -> its rule, for every variable that any of the models has.
    """
    depth, channels = config.num_hidden_layers, config.num_channels
    decoder = {"kernel": ("weight", pixel_shuffle_kernel(channels)), "bias": ("bias", pixel_shuffle_bias(channels))}
    heads = (*_HUGGING_FACE_HEADS, (decoder, "decoder", "decoder.0"))
    return expand(_HUGGING_FACE_BACKBONE, depth, ours, theirs) | expand(heads)


def expand(
    table: Iterable[tuple], depth: int = 0, ours: str = "", theirs: str = "", separator: str = "."
) -> dict[str, Rule]:
    """Returns the rules of `table` for `depth` blocks, with the prefixes `ours` and `theirs` before all names.

    Their names are a layer and a leaf with `separator` between; ours have a slash.
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
    """Yields each of our variables that `arrays` holds whole, by name, and its value; reads one at a time."""
    for ours, (names, transform) in rules.items():
        if all(name in arrays for name in names):
            yield ours, transform.decode(*(np.asarray(arrays[name]) for name in names))


def from_keras(rules: Mapping[str, Rule], variables: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each tensor that a checkpoint of `variables` (our names to values) holds, by its name there."""
    for ours, value in variables.items():
        names, transform = rules[ours]
        yield from zip(names, transform.encode(value), strict=True)


def interpolate_positions(table: np.ndarray, stored: ViTConfig, config: ViTConfig) -> np.ndarray:
    """Returns a position table (1, T, D) of `stored` with its patches' part fitted to the grid of `config`."""
    prefix, patches = np.split(table[0], [stored.num_prefix_positions])
    patches = resize_positions(patches.reshape(*stored.grid, -1), config.grid, kernel="torch")
    return np.concatenate([prefix, patches.reshape(config.num_patches, -1)])[None]


def cast_finite(value: np.ndarray, dtype: str | np.dtype, name: str) -> np.ndarray:
    """Returns `value` as `dtype`, all of it finite; a copy of what is read-only, as a view of a mapped file is.

    Raises:
        CheckpointError: if it is not, calling it `name`.
    """
    with np.errstate(over="ignore"):
        value = value.astype(dtype, copy=not value.flags.writeable)
    if not np.isfinite(value).all():
        raise CheckpointError(f"Expected finite values of {name} in {dtype}. Received: NaN or infinity.")
    return value
