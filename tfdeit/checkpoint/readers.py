"""Readers: a checkpoint's bytes -> {name: array}, lazily, without its framework and without running anything in it.

A reader returns a dict from the file's own names to `Array`s: anything with `shape` and `dtype` that
`numpy.asarray` reads, from disk and on demand. Every fault of a file is a `CheckpointError`.
"""

import functools
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np
import safetensors

from tfdeit.checkpoint import DAMAGED, CheckpointError, listing
from tfdeit.checkpoint.torch_pickle import unpickle

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
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin


class Array(Protocol):
    """A tensor of a checkpoint; `numpy.asarray` reads its values."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype=None, copy=None) -> np.ndarray: ...


# ------------------------------------------------------------------------------------------------ safetensors


class _SafetensorsArray(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    path: str | os.PathLike
    name: str

    def __array__(self, dtype=None, copy=None):
        # An open file stays mapped, and what was read of it resident: opening it again holds one tensor at a time.
        return np.asarray(_open_safetensors(self.path).get_tensor(self.name), dtype)


def read_safetensors(path: str | os.PathLike) -> dict[str, Array]:
    """Reads the header of a safetensors file; an array is read from disk each time that it is converted.

    Raises:
        CheckpointError: if the file is damaged or holds a dtype that is not in `SAFETENSORS_DTYPES`.
    """
    file, arrays = _open_safetensors(path), {}
    for name in file.keys():  # noqa: SIM118, the file is no mapping
        header = file.get_slice(name)
        if header.get_dtype() not in SAFETENSORS_DTYPES:
            raise CheckpointError(
                f"Expected one of the dtypes {', '.join(SAFETENSORS_DTYPES)} in {path}. "
                f"Received: {name[:200]} of dtype {header.get_dtype()}. Convert it to a float dtype and save again."
            )
        dtype = np.dtype(SAFETENSORS_DTYPES[header.get_dtype()])
        arrays[name] = _SafetensorsArray(tuple(header.get_shape()), dtype, path, name)
    return arrays


def _open_safetensors(path: str | os.PathLike) -> safetensors.safe_open:
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"Expected a safetensors file in {path}. Received: {error}. {DAMAGED}") from error


# ------------------------------------------------------------------------------------------------------ torch


def read_torch(path: str | os.PathLike) -> Any:
    """Reads what torch.save wrote (the zip format), without torch and without executing the pickle in it.

    Returns:
        The saved object: plain dicts, lists, tuples and scalars; its tensors as read-only, memory-mapped arrays.

    Raises:
        CheckpointError: if the file is damaged, or its pickle asks for anything but tensors and plain containers.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(_LEGACY_TORCH)) == _LEGACY_TORCH:
                raise CheckpointError(
                    "Expected torch's zip format. Received: the format of torch before 1.6. "
                    "Save it again with a newer torch: torch.save(torch.load(path, weights_only=True), path)."
                )
            with zipfile.ZipFile(file) as archive:
                return _read_archive(archive, np.memmap(path, np.uint8, "r").view(np.ndarray))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (  # all that zipfile, pickletools and the stack machine below raise on bytes that make no sense
        *(zipfile.BadZipFile, struct.error, OSError, EOFError, RuntimeError, MemoryError),
        *(ValueError, TypeError, LookupError, ArithmeticError),
    ) as error:
        kind = type(error).__name__
        raise CheckpointError(f"Expected a torch checkpoint in {path}. Received: {kind}: {error}. {DAMAGED}") from error


def read_torch_state_dict(path: str | os.PathLike) -> dict[str, Array]:
    """Reads a state dict, names to tensors with nothing around them, that torch.save wrote.

    Raises:
        CheckpointError: if `read_torch` refuses the file, or it holds something else.
    """
    values = read_torch(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"Expected a state dict in {path}. Received: a {type(values).__name__}.")
    others = [str(k) for k, value in values.items() if not (isinstance(k, str) and isinstance(value, np.ndarray))]
    if others:
        raise CheckpointError(
            f"Expected a state dict, names to tensors, in {path}. Received: the top-level keys "
            f"{listing(map(str, values))}; no names of tensors are: {listing(others)}. Save the state dict alone."
        )
    return values


def _read_archive(archive: zipfile.ZipFile, mapped: np.ndarray) -> Any:
    """Reads the object in `archive`, whose file is `mapped` as (bytes,) uint8."""
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"Expected one data.pkl, as torch.save writes. Received: {len(pickles)}. {DAMAGED}")
    root = pickles[0].removesuffix("data.pkl")

    @functools.cache  # tensors share storages, and a checksum is slow
    def read_entry(name: str) -> np.ndarray:
        entry = archive.getinfo(root + name)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"Expected {name} to be stored uncompressed, as torch.save does. Save it again.")
        with archive.open(entry):  # checks the entry's own header, whose length is not in the directory
            lengths = bytes(mapped[entry.header_offset + 26 :][:4])
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", lengths))
        data = mapped[start:][: entry.file_size]
        # Torch itself does not verify the checksum, and can be told to leave it out, which writes 0.
        if data.size != entry.file_size or entry.CRC not in (0, zlib.crc32(data)):
            raise CheckpointError(f"Expected {name} to match its size and checksum. {DAMAGED}")
        return data

    if f"{root}byteorder" in archive.namelist() and bytes(read_entry("byteorder")) != b"little":
        raise CheckpointError("Expected little-endian tensors. Received: another byte order. Save it elsewhere.")
    return unpickle(bytes(read_entry("data.pkl")), lambda key: read_entry(f"data/{key}"))


# ------------------------------------------------------------------------------------------------ directories


WEIGHT_FILES = {  # in transformers' order of preference
    "model.safetensors": read_safetensors,
    "pytorch_model.bin": read_torch_state_dict,
}


def read_weights(directory: str | os.PathLike) -> dict[str, Array]:
    """Finds and reads the weights of a Hugging Face directory, in one file or sharded.

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
    if present & {"tf_model.h5", "flax_model.msgpack"}:
        hint = " TensorFlow and Flax weights are not read: save the checkpoint with its PyTorch class."
    wanted = " or ".join(f"{name}[.index.json]" for name in WEIGHT_FILES)
    raise CheckpointError(f"Expected {wanted} in {directory}. Received: {listing(present) or 'nothing'}.{hint}")


def _read_shards(index: Path, read: Callable[[Path], dict[str, Array]]) -> dict[str, Array]:
    """Reads the shards that `index` names, and checks that each holds exactly what the index says."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {str(shard): set() for shard in weight_map.values()}
        for name, shard in weight_map.items():
            shards[str(shard)].add(name)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointError(f'Expected {{"weight_map": {{name: shard}}}} in {index}. {DAMAGED}') from error
    arrays = {}
    for shard, names in sorted(shards.items()):
        if {"/", "\\", ":"} & set(shard) or shard in ("", ".", ".."):
            raise CheckpointError(f"Expected names of files beside {index}. Received: {shard[:200]!r}.")
        if not (index.parent / shard).is_file():
            raise CheckpointError(f"Expected the shard {shard} of {index}. There is no such file: download it.")
        part = read(index.parent / shard)
        if part.keys() != names:
            raise CheckpointError(
                f"Expected {index.parent / shard} to hold what {index.name} says. "
                f"Missing: {listing(names - part.keys()) or 'none'}. "
                f"Unexpected: {listing(part.keys() - names) or 'none'}."
            )
        arrays |= part
    return arrays
