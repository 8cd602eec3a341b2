"""A checkpoint of any format, opened: its format, its config, and its variables under our names, read on demand."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfdeit import zoo
from tfdeit.checkpoint import Array, CheckpointError, LazyArray, listing
from tfdeit.checkpoint.big_vision import read_tower
from tfdeit.checkpoint.download import checksum
from tfdeit.checkpoint.fit import (
    CLASSIFIERS,
    OPTIONAL,
    POSITIONS,
    compare,
    derive_config,
    describe_problems,
    parts,
    variable_shapes,
)
from tfdeit.checkpoint.formats import Match, format_rules, identify
from tfdeit.checkpoint.hub import locate
from tfdeit.checkpoint.readers import read_any
from tfdeit.checkpoint.rules import Rule, cast_finite, interpolate_positions
from tfdeit.config import ViTConfig

# How many times the size of its file a checkpoint may claim: weights hardly compress.
_EXPANSION = 64
_IN_SHAPES = (
    *("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "num_channels", "qkv_bias"),
    *("image_size", "patch_size", "no_embed_class", "num_labels"),
)


class Source(NamedTuple):
    """A checkpoint that was read: its values come from the file when asked for.

    Attributes:
        path: a file or directory.
        format: its name in `formats.FORMATS`.
        stored: the config of the checkpoint.
        config: the same with the overrides.
        architecture: transformers' name of the model's class.
        variables: our names, without the backbone's prefix, to values.
        initialised: names of newly initialised variables, whose size was overridden.
        unused: names of tensors in the file that the model does not use.
        row: its row in the zoo, if that was named.
    """

    path: Path
    format: str
    stored: ViTConfig
    config: ViTConfig
    architecture: str
    variables: Mapping[str, Array]
    initialised: list[str]
    unused: list[str]
    row: zoo.Checkpoint | None


def open_source(source: str | os.PathLike, name: str | None = None, **overrides) -> Source:
    """Reads the names and shapes of a checkpoint of any format, and checks that it is complete.

    Args:
        source: a file, a Hugging Face directory, or a name.
        name: its row in the zoo; None means the row that `source` names, unless that is a path. Without a config.json,
            the row supplies the fields of the config that shapes do not tell.
        **overrides: fields of the config to change. Without a config.json or a row, those that shapes do not tell may
            be needed: `num_attention_heads`, `layer_norm_eps`, `hidden_act`. With `image_size`, the position table is
            interpolated as by torch's bicubic; with `num_labels` or `id2label`, heads of another size are new.

    Raises:
        CheckpointError: if the source is damaged, incomplete, of no known format, or not that row's.
        ValueError: if `name` or an override is invalid.
    """
    row = None if Path(source).exists() else zoo.BY_NAME.get(str(source))
    row = row if name is None else zoo.find(name)
    path = locate(source)
    whole, values = read_any(path)
    _check_size(path, whole)
    arrays, unused = read_tower(whole, path)
    match = identify(arrays.keys(), path)
    try:
        stored = _stored_config(match, arrays, values, row, overrides)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    config = stored.replace(**overrides)
    rules = format_rules(match.format, stored, match.prefix)
    optional = _optional_parts(rules, arrays)
    if "pooler" not in optional:
        pooler = {name for ours, rule in rules.items() if "pooler" in parts(ours) for name in rule.names}
        unused += pooler & arrays.keys()
    architecture = _architecture(config, optional)
    fit = compare(variable_shapes(stored, optional), arrays, rules, rules, frozenset(), frozenset())
    fit.problems["unexpected"] = sorted(set(fit.problems["unexpected"]) - set(unused))
    if any(fit.problems.values()):
        raise CheckpointError(
            f"Expected {path} to hold all weights of a {architecture}, named as in {match.format.name}. "
            f"Nothing was written. Received tensors that are\n{describe_problems(fit.problems)}"
        )
    shapes = variable_shapes(config, optional)
    new = {ours for ours in shapes if config.num_labels != stored.num_labels and parts(ours) & CLASSIFIERS}
    variables = {}
    for ours, shape in shapes.items():
        dtype = np.result_type(*(arrays[name].dtype for name in rules[ours].names))
        compute = functools.partial(_read_variable, ours, rules[ours], arrays, stored, config)
        if ours in new:
            compute = functools.partial(_new_variable, shape, config.initializer_range)
        variables[ours] = LazyArray(shape, dtype, compute)
    return Source(path, match.format.name, stored, config, architecture, variables, sorted(new), sorted(unused), row)


def _optional_parts(rules: Mapping[str, Rule], arrays: Mapping[str, Array]) -> set[str]:
    """Returns the optional parts that a model of these weights has."""
    found = {part for ours in rules for part in parts(ours) & OPTIONAL if set(rules[ours].names) & arrays.keys()}
    if found & {"cls_classifier", "distillation_classifier"}:  # always both, so that a missing one is reported
        found |= {"cls_classifier", "distillation_classifier"}
    if found & (CLASSIFIERS | {"decoder"}):  # files of classifiers on the hub may hold a pooler that nothing uses
        found.discard("pooler")
    return found


def _stored_config(
    match: Match,
    arrays: Mapping[str, Array],
    values: Mapping[str, Any] | None,
    row: zoo.Checkpoint | None,
    overrides: Mapping[str, Any],
) -> ViTConfig:
    """Returns the config in config.json (`values`), or else what shapes tell, with the row or `overrides`."""
    stored = None if values is None else match.config_class.from_dict(values)
    if stored and match.depth and not stored.num_hidden_layers:
        raise ValueError(f"Expected num_hidden_layers={match.depth} in config.json, as in the weights. Received: 0.")
    if row:
        shaped = derive_config(match, arrays, row.architecture["image_size"], num_attention_heads=1)
        _check_row(row, shaped, stored)
        return stored or shaped.replace(**row.architecture)
    return stored or derive_config(match, arrays, overrides.get("image_size"), overrides.get("num_attention_heads"))


def _check_row(row: zoo.Checkpoint, shaped: ViTConfig, stored: ViTConfig | None):
    """Compares a row with the config that shapes tell, and with that of config.json, if there is one."""
    expected = row.config()
    pairs = {field: (getattr(shaped, field), getattr(expected, field)) for field in _IN_SHAPES}
    pairs["LayerScale"] = (shaped.layerscale_value is not None, expected.layerscale_value is not None)
    if stored:
        pairs["num_attention_heads"] = (stored.num_attention_heads, expected.num_attention_heads)
    lines = [f"  {field}: {ours} instead of {theirs}" for field, (ours, theirs) in pairs.items() if ours != theirs]
    if lines:
        raise ValueError(f"Expected the checkpoint {row.name}. Received one with\n" + "\n".join(lines))


def _read_variable(ours: str, rule: Rule, arrays: Mapping[str, Array], stored: ViTConfig, config: ViTConfig):
    value = rule.transform.decode(*(np.asarray(arrays[name]) for name in rule.names))
    dtype = value.dtype
    if ours == POSITIONS and stored.grid != config.grid:
        value = interpolate_positions(value, stored, config)
    return cast_finite(value, dtype, listing(rule.names))


def _new_variable(shape: tuple[int, ...], deviation: float) -> np.ndarray:
    """Returns the initial value of a head: normal for a kernel, zero for a bias."""
    return np.random.default_rng(0).normal(scale=deviation, size=shape) if len(shape) == 2 else np.zeros(shape)


def _architecture(config: ViTConfig, optional: set[str]) -> str:
    kinds = {
        "decoder": "ForMaskedImageModeling",
        "cls_classifier": "ForImageClassificationWithTeacher",
        "classifier": "ForImageClassification",
    }
    family = {"vit": "ViT", "deit": "DeiT"}[config.model_type]
    return family + next((name for part, name in kinds.items() if part in optional), "Model")


def weight_files(path: Path) -> list[Path]:
    """Returns the files that hold the weights of `path`, a file or a directory."""
    if not path.is_dir():
        return [path]
    for pattern in ("model*.safetensors", "pytorch_model*.bin", "tf_model.h5"):
        if files := sorted(path.glob(pattern)):
            return files
    return []


def checksums(path: Path) -> dict[str, str]:
    """Returns the sha256 of each file that holds weights of `path`, in hexadecimal, by the file's name."""
    return {file.name: checksum(file) for file in weight_files(path)}


def _check_size(path: Path, arrays: Mapping[str, Array]):
    """Refuses a small file that would fill the memory: a compressed one, or tensors that repeat a few numbers."""
    size = sum(file.stat().st_size for file in weight_files(path))
    stated = sum(int(np.prod(array.shape, dtype=object)) * np.dtype(array.dtype).itemsize for array in arrays.values())
    if stated > _EXPANSION * size:
        raise CheckpointError(
            f"Expected tensors of at most {_EXPANSION} times the {size:,} bytes of {path}. Received: {stated:,} bytes."
        )
