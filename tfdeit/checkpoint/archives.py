"""Zip archives as torch, numpy and Keras write them: their entries as views of the mapped file."""

import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from tfdeit.checkpoint import DAMAGED, CheckpointError

# Everything that zipfile, pickletools, numpy, h5py and our own readers raise on malformed bytes.
FAULTS = (
    *(zipfile.BadZipFile, struct.error, zlib.error, OSError, EOFError, RuntimeError, MemoryError, SyntaxError),
    SystemError,  # h5py, for names that are not text
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
)


@contextlib.contextmanager
def faults_of(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turns whatever a reader of `path` raises into a `CheckpointError`; `kind` is what was expected, "a ... file"."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except FAULTS as error:
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise CheckpointError(f"Expected {kind} in {path}. Received: {reason}. {DAMAGED}") from error


def map_file(path: str | os.PathLike[str]) -> np.ndarray:
    """Maps a file: (bytes,) uint8, read-only, read from disk on demand."""
    return np.memmap(path, np.uint8, "r").view(np.ndarray)


def map_entry(archive: zipfile.ZipFile, name: str, mapped: np.ndarray) -> np.ndarray:
    """Returns the entry `name`, (bytes,) uint8, as a view of `mapped`, the file that `archive` reads.

    Raises:
        CheckpointError: if the entry is compressed, or does not match its size and checksum.
        KeyError: if there is no such entry.
    """
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(
            f"Expected the entry {name[:200]} to be stored uncompressed. Received: a compressed one. Save it again."
        )
    with archive.open(entry):  # checks the entry's own header, whose length the directory does not have
        lengths = bytes(mapped[entry.header_offset + 26 :][:4])
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", lengths))
    data = mapped[start:][: entry.file_size]
    # torch does not verify the checksum itself, and writes 0 when told to leave it out.
    if data.size != entry.file_size or entry.CRC not in (0, zlib.crc32(data.data)):
        raise CheckpointError(f"Expected the entry {name[:200]} to match its size and checksum. {DAMAGED}")
    return data
