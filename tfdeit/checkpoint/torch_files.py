"""Files of torch.save, read and written without torch: the zip format and, only read, that of torch before 1.6."""

import functools
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfdeit.checkpoint import DAMAGED, Array, CheckpointError, listing
from tfdeit.checkpoint.archives import faults_of, map_entry, map_file
from tfdeit.checkpoint.torch_pickle import TORCH_STORAGES, unpickle

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the start of files of torch before 1.6
# In Facebook's and MMPretrain's files. Other keys are ignored, "model_ema" too: Facebook's training saves it, but its
# evaluation does not load it.
_WRAPPERS = ("model", "state_dict")


def read_torch(path: str | os.PathLike) -> Any:
    """Reads what torch.save wrote, without torch and without executing the pickle in it.

    Returns:
        The saved object: plain dicts, lists, tuples and scalars; its tensors as read-only, memory-mapped arrays.

    Raises:
        CheckpointError: if the file is damaged, or its pickle asks for anything but tensors and plain containers.
    """
    with faults_of(path, "a torch checkpoint"), open(path, "rb") as file:
        if file.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC:
            return _read_legacy(map_file(path))
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive, map_file(path))


def read_torch_state_dict(path: str | os.PathLike, wrappers: tuple[str, ...] = ()) -> dict[str, Array]:
    """Reads a state dict, names to tensors, that torch.save wrote.

    Args:
        path: the file.
        wrappers: keys, of which one may hold the state dict; what is beside it is ignored.

    Raises:
        CheckpointError: if `read_torch` refuses the file, or it holds something else.
    """
    values = read_torch(path)
    found = [name for name in wrappers if isinstance(values, dict) and isinstance(values.get(name), dict)]
    if len(found) > 1:
        raise CheckpointError(f"Expected one state dict in {path}. Received: several, under {listing(found)}.")
    values = values[found[0]] if found else values
    if not isinstance(values, dict):
        raise CheckpointError(f"Expected a state dict in {path}. Received: a {type(values).__name__}.")
    others = [str(k) for k, value in values.items() if not (isinstance(k, str) and isinstance(value, np.ndarray))]
    if others:
        raise CheckpointError(
            f"Expected a state dict, names to tensors, in {path}. Received: the top-level keys "
            f"{listing(map(str, values))}; not names of tensors: {listing(others)}. Save the state dict alone."
        )
    return values


read_wrapped_state_dict = functools.partial(read_torch_state_dict, wrappers=_WRAPPERS)


def _read_archive(archive: zipfile.ZipFile, mapped: np.ndarray) -> Any:
    """Reads the object in `archive`, whose file is `mapped` as (bytes,) uint8."""
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"Expected one data.pkl, as torch.save writes. Received: {len(pickles)}. {DAMAGED}")
    root = pickles[0].removesuffix("data.pkl")

    @functools.cache  # tensors share storages, and a checksum is slow
    def read_entry(name: str) -> np.ndarray:
        return map_entry(archive, root + name, mapped)

    if f"{root}byteorder" in archive.namelist() and bytes(read_entry("byteorder")) != b"little":
        raise CheckpointError("Expected little-endian tensors. Received: another byte order. Save it elsewhere.")
    return unpickle(bytes(read_entry("data.pkl")), lambda key, size: read_entry(f"data/{key}"))


def _read_legacy(mapped: np.ndarray) -> Any:
    """Reads the format before torch 1.6: five pickles, then each storage as its length and its bytes.

    The fourth pickle holds the object, the fifth the order of its storages. Where these are depends on their sizes, so
    the object is read twice: for the sizes of its storages, and for itself.
    """
    file = _Stream(mapped)
    sizes: dict[str, int] = {}

    def note_size(key: str, size: int) -> np.ndarray:
        if sizes.setdefault(key, size) != size:
            raise CheckpointError(f"Expected storage {key[:200]} to have one size. {DAMAGED}")
        return mapped[:size]

    unpickle(file, _no_storage)  # the magic number
    version, system = unpickle(file, _no_storage), unpickle(file, _no_storage)
    if version != 1001 or not system["little_endian"]:
        received = f"{version}, {str(system)[:200]}"
        raise CheckpointError(f"Expected protocol version 1001, little-endian. Received: {received}. {DAMAGED}")
    start = file.tell()
    unpickle(file, note_size)
    keys, storages = unpickle(file, _no_storage), {}
    if not isinstance(keys, list) or set(keys) != sizes.keys() or len(keys) != len(sizes):
        raise CheckpointError(f"Expected a list of the storages that the tensors use. {DAMAGED}")
    position = file.tell()
    for key in keys:
        count = int.from_bytes(bytes(mapped[position : position + 8]), "little")
        storages[key] = mapped[position + 8 :][: sizes[key]]
        if storages[key].size != sizes[key] or (count and sizes[key] % count) or (not count and sizes[key]):
            raise CheckpointError(f"Expected {count} elements in {sizes[key]} bytes of storage {key[:200]}. {DAMAGED}")
        position += 8 + sizes[key]
    file.position = start
    return unpickle(file, lambda key, size: storages[key])


def _no_storage(key: str, size: int) -> np.ndarray:
    raise CheckpointError(f"Expected no storage in this part of the file. Received: {key[:200]}. {DAMAGED}")


class _Stream:
    """What pickletools needs of a file: reads no more than there is, and stops at the end of each pickle."""

    def __init__(self, mapped: np.ndarray):
        self.mapped, self.position = mapped, 0

    def tell(self) -> int:
        return self.position

    def read(self, count: int) -> bytes:
        part = bytes(self.mapped[self.position :][:count])
        self.position += len(part)
        return part

    def readline(self) -> bytes:
        return self.read(bytes(self.mapped[self.position :][:4096]).find(b"\n") + 1)


# ---------------------------------------------------------------------------------------------------- writing

_STORAGE_OF = {np.dtype(dtype): name.removeprefix("torch.") for name, dtype in TORCH_STORAGES.items()}


def write_torch(path: str | os.PathLike, values: Mapping[str, Any], advance: Callable[[int], object] = int):
    """Writes what torch.load(path, weights_only=True) reads: the zip format with a pickle of protocol 2.

    Args:
        path: the file.
        values: `Array`s, which are read one at a time; dicts of them; and plain values.
        advance: called with 1 after each array.
    """
    arrays: list[Array] = []
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + _pickle(values, arrays) + b".")
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(arrays):
            data = np.ascontiguousarray(array)
            with archive.open(f"archive/data/{key}", "w", force_zip64=data.nbytes >= 2**31) as entry:
                entry.write(data.reshape(-1).view(np.uint8).data)
            advance(1)
        archive.writestr("archive/version", "3\n")


def _pickle(value: Any, arrays: list[Array]) -> bytes:
    """Returns the opcodes that build `value` as torch writes them, and appends its arrays to `arrays`."""
    if isinstance(value, Mapping):
        return b"}(" + b"".join(_literal(name) + _pickle(item, arrays) for name, item in value.items()) + b"u"
    if not hasattr(value, "shape"):
        return _literal(value)
    strides = [1]
    for side in reversed(value.shape[1:]):
        strides.insert(0, strides[0] * side)
    kind, count = _STORAGE_OF[np.dtype(value.dtype)], int(np.prod(value.shape, dtype=object))
    storage = b"(" + _literal("storage") + f"ctorch\n{kind}\n".encode() + _literal(str(len(arrays)))
    storage += _literal("cpu") + _literal(count) + b"tQ"
    arrays.append(value)
    layout = _literal(0) + _literal(tuple(value.shape)) + _literal(tuple(strides[: len(value.shape)])) + _literal(False)
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + layout + hooks + b"tR"


def _literal(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]  # without header and STOP
