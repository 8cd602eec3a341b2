"""Readers: a checkpoint's bytes -> {name: array}, lazily, without its framework and without running anything in it.

A reader returns a dict from the file's own names to `Array`s: anything with `shape` and `dtype` that
`numpy.asarray` reads, from disk and on demand. Every fault of a file is a `CheckpointError`.
"""

import functools
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from tfdeit.checkpoint import DAMAGED, Array, CheckpointError, LazyArray, listing
from tfdeit.checkpoint.archives import faults_of
from tfdeit.checkpoint.hdf5 import read_hdf5, read_keras
from tfdeit.checkpoint.npz import read_npz
from tfdeit.checkpoint.torch_files import LEGACY_MAGIC, read_torch_state_dict, read_wrapped_state_dict

SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

# ------------------------------------------------------------------------------------------------ safetensors


def read_safetensors(path: str | os.PathLike) -> dict[str, Array]:
    """Reads the header of a safetensors file; an array is read from disk each time that it is converted.

    Raises:
        CheckpointError: if the file is damaged or holds a dtype that is not in `SAFETENSORS_DTYPES`.
    """
    file = _open_safetensors(path)
    arrays: dict[str, Array] = {}
    for name in file.keys():  # noqa: SIM118, the file is no mapping
        header = file.get_slice(name)
        if header.get_dtype() not in SAFETENSORS_DTYPES:
            raise CheckpointError(
                f"Expected one of the dtypes {', '.join(SAFETENSORS_DTYPES)} in {path}. "
                f"Received: {name[:200]} of dtype {header.get_dtype()}. Convert it to a float dtype and save again."
            )
        dtype = np.dtype(SAFETENSORS_DTYPES[header.get_dtype()])
        arrays[name] = LazyArray(tuple(header.get_shape()), dtype, functools.partial(_read_tensor, path, name))
    return arrays


def _read_tensor(path: str | os.PathLike, name: str) -> np.ndarray:
    # An open file stays mapped, with all that was read resident: reopening it keeps one tensor in memory at a time.
    return _open_safetensors(path).get_tensor(name)


def _open_safetensors(path: str | os.PathLike) -> safetensors.safe_open:
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"Expected a safetensors file in {path}. Received: {error}. {DAMAGED}") from error


# ------------------------------------------------------------------------------------------------ any file

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def read_any(path: str | os.PathLike) -> tuple[dict[str, Array], dict[str, Any] | None]:
    """Reads the weights of a file, whose contents tell its format, or of a Hugging Face directory.

    Returns:
        The arrays under the names that the file gives them; and the contents of config.json in the directory or the
        .keras file, None if there is none.

    Raises:
        CheckpointError: if the file is damaged or of no known format.
    """
    path = Path(path)
    if path.is_dir():
        return _read_directory(path)
    with faults_of(path, "a file"), open(path, "rb") as file:
        start = file.read(len(LEGACY_MAGIC))
    if start.startswith(_HDF5_MAGIC):
        return read_hdf5(path), None
    if start == LEGACY_MAGIC:
        return read_wrapped_state_dict(path), None
    if start.startswith(b"PK"):
        with faults_of(path, "a torch, npz or .keras file"), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if "model.weights.h5" in names:
            return read_keras(path)
        return (read_npz if all(name.endswith(".npy") for name in names) else read_wrapped_state_dict)(path), None
    if start[8:9] == b"{":
        return read_safetensors(path), None
    raise CheckpointError(
        f"Expected a checkpoint in {path}: safetensors, torch, npz, Keras or tf_model.h5. Received: a file that begins "
        f"with {start!r}. {DAMAGED}"
    )


def _read_directory(path: Path) -> tuple[dict[str, Array], dict[str, Any] | None]:
    config, tensorflow = path / "config.json", path / "tf_model.h5"
    with faults_of(config, "a JSON object"):
        values = dict(json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else None
    alone = tensorflow.is_file() and not any(path.glob("model*.safetensors")) and not any(path.glob("pytorch_*"))
    return read_hdf5(tensorflow) if alone else read_weights(path), values


# ------------------------------------------------------------------------------------------------ directories


WEIGHT_FILES = {  # in transformers' order of preference
    "model.safetensors": read_safetensors,
    "pytorch_model.bin": read_torch_state_dict,
}


def read_weights(directory: str | os.PathLike) -> dict[str, Array]:
    """Reads the weights of a Hugging Face directory, in one file or in shards.

    Args:
        directory: holds one of `WEIGHT_FILES`, or its `.index.json` and shards; the first that exists is read.

    Returns:
        The arrays under the names that the file gives them.

    Raises:
        CheckpointError: if there is no such file, or it is damaged.
    """
    directory = Path(directory)
    for name, read in WEIGHT_FILES.items():
        index = directory / f"{name}.index.json"
        if (directory / name).is_file():
            return read(directory / name)
        if index.is_file():
            return _read_shards(index, read)
    present = {path.name for path in directory.iterdir()}
    hint = ""
    if "tf_model.h5" in present:
        hint = f" Convert the TensorFlow weights: tfdeit port {directory} -o OUT."
    if "flax_model.msgpack" in present:
        hint = " Flax weights are not read: save the checkpoint with its PyTorch class."
    wanted = " or ".join(f"{name}[.index.json]" for name in WEIGHT_FILES)
    raise CheckpointError(f"Expected {wanted} in {directory}. Received: {listing(present) or 'nothing'}.{hint}")


def _read_shards(index: Path, read: Callable[[Path], dict[str, Array]]) -> dict[str, Array]:
    """Reads the shards that `index` names, and checks that each holds exactly what the index says."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, set[str]] = {str(shard): set() for shard in weight_map.values()}
        for name, shard in weight_map.items():
            shards[str(shard)].add(name)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointError(f'Expected {{"weight_map": {{name: shard}}}} in {index}. {DAMAGED}') from error
    arrays: dict[str, Array] = {}
    for shard, names in sorted(shards.items()):
        if {"/", "\\", ":"} & set(shard) or shard in ("", ".", ".."):
            raise CheckpointError(f"Expected names of files beside {index}. Received: {shard[:200]!r}.")
        if not (index.parent / shard).is_file():
            raise CheckpointError(f"Expected the shard {shard} of {index}. Received: no such file. Download it.")
        part = read(index.parent / shard)
        if part.keys() != names:
            raise CheckpointError(
                f"Expected {index.parent / shard} to hold the tensors that {index.name} lists. "
                f"Missing: {listing(names - part.keys()) or 'none'}. "
                f"Unexpected: {listing(part.keys() - names) or 'none'}."
            )
        arrays |= part
    return arrays
