"""NumPy's .npz files, in which Google publishes its ViTs: read without unpickling anything, and written."""

import functools
import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from tfdeit.checkpoint import DAMAGED, Array, CheckpointError, LazyArray
from tfdeit.checkpoint.archives import faults_of, map_entry, map_file

_HEADER = 12 + 10_000  # bytes that hold any header that numpy reads
_BFLOAT16 = np.dtype("V2")  # how numpy stores the dtype, which it lacks


def read_npz(path: str | os.PathLike) -> dict[str, Array]:
    """Reads the headers of an npz file; stored arrays are mapped, compressed ones read each time they are converted.

    Raises:
        CheckpointError: if the file is damaged, or holds Python objects.
    """
    arrays: dict[str, Array] = {}
    with faults_of(path, "an npz file"), zipfile.ZipFile(path) as archive:
        mapped = map_file(path)
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if entry.compress_type == zipfile.ZIP_STORED:
                arrays[name] = _view(map_entry(archive, entry.filename, mapped), name)
            else:
                with archive.open(entry) as file:
                    shape, dtype, _, _ = _read_header(file.read(_HEADER), entry.file_size, name)
                arrays[name] = LazyArray(shape, dtype, functools.partial(_read_compressed, path, entry.filename))
    return arrays


def _read_compressed(path: str | os.PathLike, name: str) -> np.ndarray:
    with faults_of(path, "an npz file"), zipfile.ZipFile(path) as archive:
        return _view(np.frombuffer(archive.read(name), np.uint8), name)


def _read_header(start: bytes, size: int, name: str) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """Returns (shape, dtype, whether in Fortran order, bytes of header) of an .npy of `size` bytes."""
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise CheckpointError(f"Expected version 1 or 2 of numpy's format in {name[:200]}. Received: {version}.")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject or dtype.fields or dtype.subdtype:
        raise CheckpointError(f"Expected numbers in {name[:200]}. Received: {dtype}; nothing was unpickled.")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise CheckpointError(f"Expected {name[:200]} to hold an array of shape {shape} and {dtype}. {DAMAGED}")
    return shape, np.dtype(ml_dtypes.bfloat16) if dtype == _BFLOAT16 else dtype, fortran, file.tell()


def _view(data: np.ndarray, name: str) -> np.ndarray:
    """Returns the array in `data`, the (bytes,) uint8 of an .npy file."""
    shape, dtype, fortran, start = _read_header(bytes(data[:_HEADER]), data.size, name)
    return np.ndarray(shape, dtype, data, start, order="F" if fortran else "C")


def write_npz(path: str | os.PathLike, arrays: Mapping[str, Array], note: str, advance: Callable[[int], object] = int):
    """Writes an uncompressed npz file, one array at a time.

    Args:
        path: the file.
        arrays: by name.
        note: stored as the comment of the zip archive, which numpy ignores; at most 65535 bytes.
        advance: called with 1 after each array.
    """
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = note.encode()
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
            advance(1)
