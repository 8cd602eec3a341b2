"""Zip archives as torch, numpy and Keras write them: their entries as views of the mapped file."""

import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from tfdeit.checkpoint import DAMAGED, CheckpointError

# All that zipfile, pickletools, numpy, h5py and our own readers raise on bytes that make no sense.
FAULTS = (
    *(zipfile.BadZipFile, struct.error, zlib.error, OSError, EOFError, RuntimeError, MemoryError, SyntaxError),
    SystemError,  # h5py's, for names that are no text
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
)


@contextlib.contextmanager
def faults_of(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turns whatever a reader raises on the file `path`, which should be a `kind`, into a `CheckpointError`."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except FAULTS as error:
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise CheckpointError(f"Expected {kind} in {path}. Received: {reason}. {DAMAGED}") from error


def map_file(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the file, (bytes,) uint8, read-only and read from disk on demand."""
    return np.memmap(path, np.uint8, "r").view(np.ndarray)


def map_entry(archive: zipfile.ZipFile, name: str, mapped: np.ndarray) -> np.ndarray:
    """Returns the entry `name`, (bytes,) uint8, as a view of `mapped`, the file that `archive` reads.

    Raises:
        CheckpointError: if the entry is compressed, or not what its size and checksum say.
        KeyError: if there is none of that name.
    """
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"Expected the entry {name[:200]} to be stored uncompressed. Save the file again.")
    with archive.open(entry):  # checks the entry's own header, whose length is not in the directory
        lengths = bytes(mapped[entry.header_offset + 26 :][:4])
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", lengths))
    data = mapped[start:][: entry.file_size]
    # Torch itself does not verify the checksum, and can be told to leave it out, which writes 0.
    if data.size != entry.file_size or entry.CRC not in (0, zlib.crc32(data.data)):
        raise CheckpointError(f"Expected the entry {name[:200]} to match its size and checksum. {DAMAGED}")
    return data
