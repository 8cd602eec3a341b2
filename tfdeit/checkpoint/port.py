"""Porting: a checkpoint of any format -> a checkpoint of another, without building a model."""

import functools
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfdeit import __version__
from tfdeit.checkpoint import Array, CheckpointError, LazyArray, listing
from tfdeit.checkpoint.formats import FORMAT_OF, format_rules
from tfdeit.checkpoint.hdf5 import write_hdf5
from tfdeit.checkpoint.npz import write_npz
from tfdeit.checkpoint.rules import Rule, from_keras
from tfdeit.checkpoint.source import Source, checksums, open_source
from tfdeit.checkpoint.torch_files import write_torch
from tfdeit.checkpoint.writers import complete_file, write_directory, write_safetensors
from tfdeit.presentation.hints import did_you_mean
from tfdeit.protocols import preprocessor_config

_TORCH = (".pth", ".pt", ".bin")
PROVENANCE = "tfdeit_provenance"


class Target(NamedTuple):
    """A kind of checkpoint that can be written.

    Attributes:
        format: its name in `formats.FORMATS`.
        suffixes: how the name of the file may end; none for a directory.
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


def port(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    to: str = "hf",
    progress: Callable[[int], AbstractContextManager[Callable[[int], None]]] = lambda total: nullcontext(
        lambda count: None
    ),
    name: str | None = None,
    **overrides: Any,
) -> Source:
    """Converts a checkpoint, one tensor at a time; all of it fits, or nothing is written.

    Args:
        source: a file or a Hugging Face directory (see `readers.read_any`), or a name (see `hub.locate`).
        output: a directory for "hf", else a file with one of the target's suffixes.
        to: one of `TARGETS`.
        progress: takes the number of tensors, and returns a context manager that gives a function to count them.
        name: see `open_source`.
        **overrides: see `open_source`.

    Returns:
        The checkpoint that was read.

    Raises:
        CheckpointError: if the source is damaged, incomplete, or of no known format, or the target has no place for
            a part of it.
        ValueError: if `name`, an override, `to` or the name of the output is invalid.
    """
    target, output = _check_target(to, output), Path(output)
    opened = open_source(source, name, **overrides)
    note = json.dumps(provenance(opened))
    tensors = convert(opened, target)
    with progress(len(tensors)) as advance:
        if to == "hf":
            config = opened.config.to_dict() | {"architectures": [opened.architecture], PROVENANCE: json.loads(note)}
            write_directory(output, config, tensors, {PROVENANCE: note}, advance)
            _write_processor(opened, output / "preprocessor_config.json")
            return opened
        with complete_file(output) as file:
            if to == "npz":
                write_npz(file, tensors, note, advance)
            elif to == "keras":
                write_hdf5(file, tensors, note, advance)
            elif output.suffix == ".safetensors":
                write_safetensors(file, tensors, {"format": "pt", PROVENANCE: note}, advance)
            else:  # a wrapper has room for a note beside the state dict
                wrapped = {target.wrapper: tensors, "meta": {PROVENANCE: note}} if target.wrapper else tensors
                write_torch(file, wrapped, advance)
    return opened


def _write_processor(source: Source, path: Path) -> None:
    """Copies the source's preprocessor_config.json if its size still fits, or writes the row's; never replaces one."""
    config = source.config
    if path.exists():
        return
    if config.image_hw == source.stored.image_hw and (source.path / path.name).is_file():
        shutil.copyfile(source.path / path.name, path)
    elif source.row and config.image_hw[0] == config.image_hw[1]:
        values = preprocessor_config(source.row.protocol, config.image_hw[0])
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_target(to: str, output: str | os.PathLike[str]) -> Target:
    if to not in TARGETS:
        raise ValueError(f"Expected one of {', '.join(TARGETS)}. Received: target {to!r}.{did_you_mean(to, TARGETS)}")
    suffixes = TARGETS[to].suffixes
    if suffixes and not str(output).endswith(suffixes):
        raise ValueError(f"Expected a {' or '.join(suffixes)} file for {to}. Received: {str(output)!r}.")
    if Path(output).is_dir() if suffixes else Path(output).is_file():
        kind = "file" if suffixes else "directory"
        raise ValueError(f"Expected a {kind} to write to. Received: {str(output)!r}, which exists but is not one.")
    return TARGETS[to]


def convert(source: Source, target: Target) -> dict[str, Array]:
    """Returns the tensors of a checkpoint, named and laid out as in `target`; each is computed when it is read.

    Raises:
        CheckpointError: if the target has no place for some of them.
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
            f"Expected a model that the format {format.name} can hold. Received: a {source.architecture}, whose "
            f"{listing(homeless)} have no place there."
        )
    tensors: dict[str, Array] = {}
    for ours, variable in source.variables.items():
        shapes = from_keras(rules, {ours: np.broadcast_to(np.float32(0), variable.shape)})
        for index, (name, zeros) in enumerate(shapes):
            compute = functools.partial(_encode, rules[ours], variable, index)
            tensors[name] = LazyArray(zeros.shape, variable.dtype, compute)
    return tensors


def _encode(rule: Rule, variable: Array, index: int) -> np.ndarray:
    return list(rule.transform.encode(np.asarray(variable)))[index]


def provenance(source: Source) -> dict[str, Any]:
    """Returns what a written file says about its origin.

    Names and checksums of the source's files, their format, our version; for a published checkpoint also its row of
    the zoo: title, data, accuracy, licence, ...
    """
    files = checksums(source.path)
    note = {"files": files, "format": source.format, "tfdeit": __version__}
    return note | {"checkpoint": source.row.to_dict()} if source.row else note
