"""Porting: a checkpoint of any format -> a checkpoint of another, without building a model."""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfdeit import __version__
from tfdeit.checkpoint import Array, CheckpointError, listing
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
from tfdeit.checkpoint.formats import FORMAT_OF, format_rules, identify
from tfdeit.checkpoint.hdf5 import write_hdf5
from tfdeit.checkpoint.hub import locate
from tfdeit.checkpoint.npz import write_npz
from tfdeit.checkpoint.readers import read_any
from tfdeit.checkpoint.rules import Rule, cast_finite, from_keras, interpolate_positions
from tfdeit.checkpoint.torch_files import write_torch
from tfdeit.checkpoint.writers import complete_file, write_directory, write_safetensors
from tfdeit.config import ViTConfig

_TORCH = (".pth", ".pt", ".bin")
PROVENANCE = "tfdeit_provenance"
# How many times larger than its file a checkpoint may say to be: compressed weights are hardly smaller.
_EXPANSION = 64


class Target(NamedTuple):
    """What can be written.

    Attributes:
        format: its name in `formats.FORMATS`.
        suffixes: what the name of the file may end in; none for a directory.
        wrapper: the key of the state dict in a torch file, None for no wrapper.
    """

    format: str
    suffixes: tuple[str, ...]
    wrapper: str | None = None


TARGETS = {
    "hf": Target("Hugging Face", ()),
    "timm": Target("timm", (".safetensors", *_TORCH)),
    "fb": Target("timm", _TORCH, "model"),
    "mmpretrain": Target("MMPretrain", _TORCH, "state_dict"),
    "npz": Target("Google npz", (".npz",)),
    "keras": Target("Keras", (".weights.h5",)),
}


class Source(NamedTuple):
    """A checkpoint that was read: its values come from the file when asked for.

    Attributes:
        path: a file or directory.
        format: its name in `formats.FORMATS`.
        stored: the config of the checkpoint.
        config: the same with the fields that were asked for.
        architecture: transformers' name of the model's class.
        variables: our names, below the backbone's, to values.
        initialised: names of variables that are new, as their size was asked for.
        unused: names of tensors in the file that the model has no use for.
    """

    path: Path
    format: str
    stored: ViTConfig
    config: ViTConfig
    architecture: str
    variables: Mapping[str, Array]
    initialised: list[str]
    unused: list[str]


class LazyArray(NamedTuple):
    """An `Array` that is computed each time it is converted."""

    shape: tuple[int, ...]
    dtype: np.dtype
    compute: Callable[[], np.ndarray]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.compute(), dtype or self.dtype)


def port(
    source: str | os.PathLike,
    output: str | os.PathLike,
    to: str = "hf",
    progress: Callable[[int], AbstractContextManager[Callable[[int], None]]] = lambda total: nullcontext(int),
    **overrides,
) -> Source:
    """Converts a checkpoint, one tensor at a time; all of it fits, or nothing is written.

    Args:
        source: a file or a Hugging Face directory (see `readers.read_any`), or a name (see `hub.locate`).
        output: a directory for "hf", else a file with one of the target's suffixes.
        to: one of `TARGETS`.
        progress: given the number of tensors, returns a context that gives a function to count them.
        **overrides: see `open_source`.

    Returns:
        What was read.

    Raises:
        CheckpointError: if the source is damaged, incomplete, or of no known format, or the target has no place for
            a part of it.
        ValueError: if an override, `to` or the name of the output is invalid.
    """
    target, output = _check_target(to, output), Path(output)
    opened = open_source(source, **overrides)
    note = json.dumps(provenance(opened))
    tensors = convert(opened, target)
    with progress(len(tensors)) as advance:
        if to == "hf":
            config = opened.config.to_dict() | {"architectures": [opened.architecture], PROVENANCE: json.loads(note)}
            write_directory(output, config, tensors, {PROVENANCE: note}, advance)
            processor = opened.path / "preprocessor_config.json"
            if processor.is_file() and not (output / processor.name).exists():
                shutil.copyfile(processor, output / processor.name)
            return opened
        with complete_file(output) as file:
            if to == "npz":
                write_npz(file, tensors, note, advance)
            elif to == "keras":
                write_hdf5(file, tensors, note, advance)
            elif output.suffix == ".safetensors":
                write_safetensors(file, tensors, {"format": "pt", PROVENANCE: note}, advance)
            else:  # beside a state dict in a wrapper is room for a note
                wrapped = {target.wrapper: tensors, "meta": {PROVENANCE: note}} if target.wrapper else tensors
                write_torch(file, wrapped, advance)
    return opened


def _check_target(to: str, output: str | os.PathLike) -> Target:
    if to not in TARGETS:
        raise ValueError(f"Expected a target among {', '.join(TARGETS)}. Received: {to!r}.")
    suffixes = TARGETS[to].suffixes
    if suffixes and not str(output).endswith(suffixes):
        raise ValueError(f"Expected the name of a file in {', '.join(suffixes)} for {to}. Received: {str(output)!r}.")
    if Path(output).is_dir() if suffixes else Path(output).is_file():
        kind = "file" if suffixes else "directory"
        raise ValueError(f"Expected a {kind} to write to. Received: {str(output)!r}, which exists and is none.")
    return TARGETS[to]


def open_source(source: str | os.PathLike, **overrides) -> Source:
    """Reads a checkpoint of any format, as far as names and shapes, and checks that it is whole.

    Args:
        source: a file, a Hugging Face directory, or a name.
        **overrides: fields of the config. Where no config.json says them, those that shapes do not tell may be
            needed: `num_attention_heads`, `layer_norm_eps`, `hidden_act`. With `image_size` the position table is
            interpolated as torch's bicubic, with `num_labels` or `id2label` the heads are new if their size is.

    Raises:
        CheckpointError: if the source is damaged, incomplete, or of no known format.
        ValueError: if an override is invalid.
    """
    path = locate(source)
    arrays, values = read_any(path)
    _check_size(path, arrays)
    match = identify(arrays.keys(), path)
    try:
        if values is None:
            sizes = {name: overrides.get(name) for name in ("image_size", "num_attention_heads")}
            stored = derive_config(match, arrays, **sizes)
        else:
            stored = match.config_class.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    config = stored.replace(**overrides)
    rules = format_rules(match.format, stored, match.prefix)
    optional = {part for ours in rules for part in parts(ours) & OPTIONAL if set(rules[ours].names) & arrays.keys()}
    if optional & {"cls_classifier", "distillation_classifier"}:
        optional |= {"cls_classifier", "distillation_classifier"}
    unused = []
    if optional - {"pooler"} and "pooler" in optional:  # hub files of classifiers may hold one that nothing uses
        optional.remove("pooler")
        unused = [name for ours, rule in rules.items() if "pooler" in parts(ours) for name in rule.names]
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
    return Source(path, match.format.name, stored, config, architecture, variables, sorted(new), sorted(unused))


def convert(source: Source, target: Target) -> dict[str, Array]:
    """Returns the tensors of a checkpoint as `target` names them and lays them out; each is computed when it is read.

    Raises:
        CheckpointError: if the target has no place for one.
    """
    name = target.format
    if target == TARGETS["fb"] and source.config.layerscale_value is not None:
        name = "Facebook's DeiT III"
    format = FORMAT_OF[name]
    prefixes = [prefix.format(source.config.model_type) for prefix in format.prefixes]
    bare = source.architecture.endswith("Model") and "" in prefixes
    rules = format_rules(format, source.config, "" if bare else prefixes[0])
    homeless = source.variables.keys() - rules.keys()
    if homeless:
        raise CheckpointError(
            f"Expected a model that {format.name} has too. Received: a {source.architecture}, whose "
            f"{listing(homeless)} have no place there."
        )
    tensors = {}
    for ours, variable in source.variables.items():
        shapes = from_keras(rules, {ours: np.broadcast_to(np.float32(0), variable.shape)})
        for index, (name, zeros) in enumerate(shapes):
            compute = functools.partial(_encode, rules[ours], variable, index)
            tensors[name] = LazyArray(zeros.shape, variable.dtype, compute)
    return tensors


def _encode(rule: Rule, variable: Array, index: int) -> np.ndarray:
    return list(rule.transform.encode(np.asarray(variable)))[index]


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


# -------------------------------------------------------------------------------------------------- provenance


def provenance(source: Source) -> dict[str, Any]:
    """Returns what a written file says of where it comes from: names and checksums of the files, format, version."""
    files = {file.name: sha256(file) for file in weight_files(source.path)}
    return {"files": files, "format": source.format, "tfdeit": __version__}


def weight_files(path: Path) -> list[Path]:
    """Returns the files that hold the weights of `path`, a file or a directory."""
    if not path.is_dir():
        return [path]
    for pattern in ("model*.safetensors", "pytorch_model*.bin", "tf_model.h5"):
        if files := sorted(path.glob(pattern)):
            return files
    return []


def sha256(path: Path) -> str:
    """Returns the checksum of a file, in hexadecimal."""
    checksum = hashlib.sha256()
    with open(path, "rb") as file:  # not mapped: the file may be already, and its pages would count twice
        while part := file.read(2**20):
            checksum.update(part)
    return checksum.hexdigest()


def _check_size(path: Path, arrays: Mapping[str, Array]):
    """Refuses a small file that would fill the memory: compressed, or tensors that repeat a few numbers."""
    size = sum(file.stat().st_size for file in weight_files(path))
    stated = sum(int(np.prod(array.shape, dtype=object)) * np.dtype(array.dtype).itemsize for array in arrays.values())
    if stated > _EXPANSION * size:
        raise CheckpointError(f"Expected at most {_EXPANSION} times the {size} bytes of {path}. Received: {stated}.")
