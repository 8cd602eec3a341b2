"""Compares what a model needs with what a checkpoint has; derives a config from shapes, and shapes from a config."""

import math
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import numpy as np

from tfdeit.checkpoint import Array, CheckpointError, listing
from tfdeit.checkpoint.archives import FAULTS
from tfdeit.checkpoint.formats import Match, format_rules
from tfdeit.checkpoint.rules import HEADS, Rule, from_keras
from tfdeit.config import ViTConfig

CLASSIFIERS = {*HEADS} - {"decoder"}
# Parts that a model may have and a file lack, or the reverse: where transformers' models of one backbone differ.
OPTIONAL = {*HEADS, "pooler", "mask_token"}
POSITIONS = "token_concatenation/position_embeddings"


class Fit(NamedTuple):
    """How the names, shapes and dtypes of a model and a checkpoint compare."""

    loaded: list[str]  # names of our variables
    initialised: list[str]  # names of tensors, as in the next two
    unused: list[str]
    problems: dict[str, list[str]]


def compare(
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Mapping[str, Array],
    rules: Mapping[str, Rule],
    own_rules: Mapping[str, Rule],
    resizable: Set[str],
    optional_parts: Set[str],
) -> Fit:
    """Compares names, shapes and dtypes of a model and a checkpoint, without reading any values.

    Args:
        shapes: of the model's variables, as the checkpoint should have them.
        arrays: the checkpoint.
        rules: where the variables are in the checkpoint.
        own_rules: where they are when the model is saved; what the checkpoint lacks is reported under these names.
        resizable: variables that may have another shape in the checkpoint, and are then not loaded.
        optional_parts: parts, as in `OPTIONAL`, that the model or the checkpoint may lack.
    """
    fit = Fit([], [], [], {"missing": [], "unexpected": [], "misshapen": [], "not floating-point": []})
    expected: set[str] = set()
    for ours, shape in shapes.items():
        theirs = dict(from_keras(rules, {ours: np.broadcast_to(np.float32(0), shape)}))
        expected |= theirs.keys()
        own_names = zip(theirs, own_rules[ours].names, strict=True)
        missing = [own_name for name, own_name in own_names if name not in arrays]
        misshapen = [
            f"{name} ({format_shape(arrays[name].shape)} instead of {format_shape(array.shape)})"
            for name, array in theirs.items()
            if name in arrays and arrays[name].shape != array.shape
        ]
        if not missing and not misshapen:
            fit.loaded.append(ours)
            floats = [name for name in theirs if "float" in arrays[name].dtype.name]
            fit.problems["not floating-point"] += sorted(theirs.keys() - floats)
        elif parts(ours) & optional_parts if missing else ours in resizable:
            fit.initialised.extend(missing or misshapen)
        else:
            fit.problems["missing"] += missing
            fit.problems["misshapen"] += misshapen
    optional = {name for ours, rule in rules.items() if parts(ours) & optional_parts for name in rule.names}
    fit.unused.extend((arrays.keys() - expected) & optional)
    fit.problems["unexpected"] += arrays.keys() - expected - optional
    return fit


def format_shape(shape: tuple[int, ...]) -> str:
    """Returns "3x4" for (3, 4)."""
    return "x".join(map(str, shape)) or "scalar"


def parts(name: str) -> set[str]:
    """Returns {"norm", "gamma"} for "norm/gamma"."""
    return set(name.split("/"))


def describe_problems(problems: Mapping[str, list[str]]) -> str:
    """Returns one line per kind of problem, without the kinds that did not occur."""
    return "\n".join(f"  {kind}: {listing(names)}" for kind, names in problems.items() if names)


# --------------------------------------------------------------------------------------- configs from shapes


class _Shapes(NamedTuple):
    """The shapes that our variables have in a checkpoint."""

    rules: Mapping[str, Rule]
    arrays: Mapping[str, Array]

    def has(self, name: str) -> bool:
        return name in self.rules and any(theirs in self.arrays for theirs in self.rules[name].names)

    def of(self, name: str, axes: int) -> tuple[int, ...]:
        """Returns the shape of a variable, checked to have that many axes and no empty one."""
        names, transform = self.rules[name]
        if missing := listing(theirs for theirs in names if theirs not in self.arrays):
            raise CheckpointError(f"Expected {missing}, which tells the model's sizes. Received: no such tensor.")
        try:
            zeros = (np.broadcast_to(np.float32(0), self.arrays[theirs].shape) for theirs in names)
            sides = transform.decode(*zeros).shape
        except FAULTS:
            sides = ()
        if len(sides) != axes or 0 in sides:
            received = ", ".join(f"{theirs} ({format_shape(self.arrays[theirs].shape)})" for theirs in names)
            raise CheckpointError(f"Expected a tensor of {axes} axes, none of them empty. Received: {received}.")
        return sides


def derive_config(
    match: Match,
    arrays: Mapping[str, Array],
    image_size: int | tuple[int, int] | None = None,
    num_attention_heads: int | None = None,
) -> ViTConfig:
    """Derives a config from the shapes in a checkpoint.

    Args:
        match: its format.
        arrays: the checkpoint.
        image_size: pixels, for a grid of patches that is not square; ignored unless it has as many patches.
        num_attention_heads: None means what Google's files say; for others the width divided by 64, as in all
            published models.

    Raises:
        CheckpointError: if a variable that a size is derived from is missing or misshapen.
    """
    rules = format_rules(match.format, match.config_class(num_hidden_layers=match.depth), match.prefix)
    shapes = _Shapes(rules, arrays)
    *patch, channels, width = shapes.of("patch_embedding/projection/kernel", 4)
    positions = shapes.of(POSITIONS, 3)[1]
    # DeiT III has LayerScale, and positions of patches only. Without LayerScale, 16 rows are a class token and 3x5.
    no_embed_class = shapes.has("block_0/layer_scale1") and math.isqrt(positions) ** 2 == positions
    patches = positions - (0 if no_embed_class else match.config_class.num_prefix_tokens)
    fields: dict[str, Any] = {"hidden_size": width, "num_channels": channels, "num_hidden_layers": match.depth}
    fields["patch_size"] = patch[0] if patch[0] == patch[1] else tuple(patch)
    fields["image_size"] = _image_size(patches, patch, image_size)
    fields["layer_norm_eps"] = match.format.layer_norm_eps
    fields["no_embed_class"] = no_embed_class
    if match.depth:
        fields["intermediate_size"] = shapes.of("block_0/mlp/fc1/kernel", 2)[1]
        fields["qkv_bias"] = shapes.has("block_0/attention/qkv/bias")
        fields["layerscale_value"] = 1e-6 if shapes.has("block_0/layer_scale1") else None  # what training starts from
    fields["num_attention_heads"] = num_attention_heads or _num_heads(match, rules, arrays, width)
    head = next((name for name in ("classifier", "cls_classifier") if shapes.has(f"{name}/kernel")), None)
    fields["num_labels"] = shapes.of(f"{head}/kernel", 2)[1] if head else 0
    if shapes.has("pooler/kernel"):
        fields["pooler_output_size"] = shapes.of("pooler/kernel", 2)[1]
    if shapes.has("decoder/bias"):
        fields["encoder_stride"] = math.isqrt(shapes.of("decoder/bias", 1)[0] // channels)
    try:
        return match.config_class(**fields)
    except ValueError as error:
        raise CheckpointError(f"Expected tensors whose sizes make a valid model. Received others: {error}") from error


def _num_heads(match: Match, rules: Mapping[str, Rule], arrays: Mapping[str, Array], width: int) -> int:
    name = rules["block_0/attention/qkv/kernel"].names[0] if match.depth else None
    shape = arrays[name].shape if name and name in arrays else ()
    if len(shape) == 3:  # Google's: width, heads, width of a head
        return shape[1]
    if width % 64:
        raise CheckpointError(
            f"Expected a width that is a multiple of 64, the usual width of a head. Received: {width}. Say how many "
            "heads there are: num_attention_heads."
        )
    return width // 64


def _image_size(patches: int, patch: list[int], wanted: int | tuple[int, int] | None) -> int | tuple[int, int]:
    """Returns the size in pixels of an image of `patches`: `wanted` if it has as many, else that of a square grid."""
    if wanted is not None:
        sides = wanted if isinstance(wanted, tuple) else (wanted, wanted)
        if math.prod(side // p for side, p in zip(sides, patch, strict=True)) == patches:
            return wanted
    side = math.isqrt(max(patches, 0))
    if side * side != patches or not side:
        raise CheckpointError(
            f"Expected a square number of patches in the position table. Received: {patches}. Pass image_size."
        )
    return side * patch[0] if patch[0] == patch[1] else (side * patch[0], side * patch[1])


def variable_shapes(config: ViTConfig, optional: Set[str]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a model's variables, by name without the backbone's prefix, in the order of the model.

    Args:
        config: the model's.
        optional: those of the parts in `OPTIONAL` that it has.
    """
    width, hidden, channels = config.hidden_size, config.intermediate_size, config.num_channels
    outputs = dict.fromkeys(CLASSIFIERS, config.num_labels)
    outputs |= {"pooler": config.pooler_output_size, "decoder": config.encoder_stride**2 * channels}

    def dense(name: str, inputs: int, units: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
        return {f"{name}/kernel": (inputs, units)} | ({f"{name}/bias": (units,)} if bias else {})

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}/gamma": (width,), f"{name}/beta": (width,)}

    tokens = ["cls_token", *["distillation_token"] * (config.num_prefix_tokens - 1), *optional & {"mask_token"}]
    shapes = {
        "patch_embedding/projection/kernel": (*config.patch_hw, channels, width),
        "patch_embedding/projection/bias": (width,),
        **{f"token_concatenation/{token}": (1, 1, width) for token in tokens},
        POSITIONS: (1, config.num_prefix_positions + config.num_patches, width),
    }
    for i in range(config.num_hidden_layers):
        shapes |= norm(f"block_{i}/norm1")
        shapes |= dense(f"block_{i}/attention/qkv", width, 3 * width, config.qkv_bias)
        shapes |= dense(f"block_{i}/attention/projection", width, width)
        shapes |= norm(f"block_{i}/norm2")
        shapes |= dense(f"block_{i}/mlp/fc1", width, hidden) | dense(f"block_{i}/mlp/fc2", hidden, width)
        if config.layerscale_value is not None:
            shapes |= {f"block_{i}/layer_scale{branch}": (width,) for branch in (1, 2)}
    shapes |= norm("norm")
    for part in sorted(optional - {"mask_token"}):
        shapes |= dense(part, width, outputs[part])
    return shapes
