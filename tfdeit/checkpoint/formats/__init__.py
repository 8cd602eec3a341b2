"""The names and layouts of every published kind of checkpoint: one module each, one table, and which a file is in."""

import os
import re
from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from tfdeit.checkpoint import CheckpointError, listing
from tfdeit.checkpoint.big_vision import TOWERS
from tfdeit.checkpoint.formats import google, keras_weights, mmpretrain, timm, transformers_5, transformers_tf
from tfdeit.checkpoint.rules import Rule, hugging_face
from tfdeit.config import CONFIG_CLASSES, ViTConfig

_DISTILLED = {"distillation_token", "cls_classifier", "distillation_classifier"}  # only a DeiT has these parts


class Format(NamedTuple):
    """A kind of checkpoint.

    Attributes:
        name: as shown in messages and reports.
        rules: (config, prefix) -> our variables, named without the backbone's prefix, and where they are.
        block: what precedes the index of a block in names.
        prefixes: possible prefixes of the backbone's or all names, `{}` being the model type; the first is written.
        layer_norm_eps: epsilon of models in this format, unless a config.json states it.
        marker: how at least one name in the file ends, where only that tells it from another format.
    """

    name: str
    rules: Callable[[ViTConfig, str], dict[str, Rule]]
    block: str
    prefixes: tuple[str, ...] = ("",)
    layer_norm_eps: float = 1e-6
    marker: str = ""


class Match(NamedTuple):
    """The format of a file, and what its names say about the model."""

    format: Format
    config_class: type[ViTConfig]
    prefix: str
    depth: int


def _hugging_face(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    return hugging_face(config, "", prefix)


FORMATS = (
    Format("Hugging Face", _hugging_face, "encoder.layer.", ("{}.", ""), 1e-12),
    Format("Hugging Face in memory", transformers_5.rules, "layers.", ("{}.", ""), 1e-12),
    Format("timm", timm.rules, "blocks."),
    Format("Facebook's DeiT III", timm.deit_3, "blocks.", marker=".gamma_1"),
    Format("MMPretrain", mmpretrain.rules, "backbone.layers."),
    Format("Google npz", google.vit_jax, "encoderblock_", ("", "opt/target/", "params/", *TOWERS)),
    Format("Big Vision npz", google.big_vision, "encoderblock_", ("params/", "", *TOWERS)),
    Format("transformers' TensorFlow", transformers_tf.rules, "layer_._", ("{}/",), 1e-12),
    Format("Keras", keras_weights.rules, "transformer_block_", ("backbone/", ""), 1e-12),
)
FORMAT_OF = {format.name: format for format in FORMATS}


def format_rules(format: Format, config: ViTConfig, prefix: str) -> dict[str, Rule]:
    """Returns the rules of the variables that a model of `config` may have: see `Format.rules`."""
    absent = set() if config.num_prefix_tokens == 2 else _DISTILLED
    rules = format.rules(config, prefix)
    return {name: rule for name, rule in rules.items() if not absent & set(name.split("/"))}


def identify(keys: Set[str], path: str | os.PathLike) -> Match:
    """Finds the one format that accounts for all names in a file.

    Args:
        keys: the names.
        path: of the file, for messages.

    Raises:
        CheckpointError: if none does, or several do; the message says how many names each knows.
    """
    fits = [(len(keys - names), match, names) for match, names in _candidates(keys)]
    found = {match.format.name: match for unknown, match, _ in reversed(fits) if keys and not unknown}
    if found and not any(match.depth for match in found.values()):
        raise CheckpointError(
            f"Expected a model with transformer blocks in {path}. Received: depth 0. Only the names of blocks "
            f"tell formats apart: {listing(keys, 5)} may be of {' or '.join(sorted(found))}."
        )
    if len(found) == 1:
        return next(iter(found.values()))
    lines: dict[str, str] = {}
    for unknown, match, names in sorted(fits, key=lambda fit: fit[0]):
        if unknown < len(keys):
            line = f"  {match.format.name} knows {len(keys) - unknown} of {len(keys)}"
            lines.setdefault(match.format.name, line + (f", not: {listing(keys - names, 5)}" if unknown else ""))
    hint = ""
    if any("pre_logits" in key for key in keys):
        hint = (
            " ImageNet-21k files have a layer pre_logits between the class token and the head, which these models do "
            "not have. Port a fine-tuned file, or remove the layers pre_logits and head."
        )
    raise CheckpointError(
        f"Expected the names in {path} to fit one format. Received: they fit {'several' if found else 'none'}:\n"
        + ("\n".join(lines.values()) or f"  no format knows any of: {listing(keys, 5) or 'no names'}")
        + f"\nPass the weights of one ViT or DeiT, without those of an optimizer or another model.{hint}"
    )


def _candidates(keys: Set[str]) -> Iterable[tuple[Match, set[str]]]:
    """Yields each way to read `keys`, and the names that it knows; the most common way first."""
    for format in FORMATS:
        if not any(key.endswith(format.marker) for key in keys):
            continue
        indices = (re.search(rf"(?:^|[./]){re.escape(format.block)}(\d{{1,6}})\b", key) for key in keys)
        depth = max((int(index[1]) + 1 for index in indices if index), default=0)
        depth = depth if depth <= len(keys) else 0  # a block has several variables: such an index is damage
        for config_class in CONFIG_CLASSES.values():
            for prefix in dict.fromkeys(prefix.format(config_class.model_type) for prefix in format.prefixes):
                rules = format_rules(format, config_class(num_hidden_layers=depth), prefix)
                names = {name for rule in rules.values() for name in rule.names}
                yield Match(format, config_class, prefix, depth), names
