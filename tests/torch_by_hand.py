"""Torch files written byte by byte, so that tests of them run without torch."""

import pickle
import zipfile

import numpy as np

SIX = np.arange(6, dtype="<f4")


def literal(value):
    return pickle.dumps(value, 2)[2:-1]


def named(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def storage(key="0", length=6, kind="FloatStorage"):
    return b"(" + literal("storage") + named("torch", kind) + literal(key) + literal("cpu") + literal(length) + b"tQ"


def tensor(offset=0, size=(2, 3), stride=(3, 1), data=None):
    arguments = (data or storage()) + literal(offset) + literal(size) + literal(stride) + literal(False)
    return (
        named("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + named("collections", "OrderedDict") + b")RtR"
    )


def pickled(*values):
    """A dict of `values`, which are opcodes."""
    return b"\x80\x02}(" + b"".join(literal(f"key{i}") + value for i, value in enumerate(values)) + b"u."


def write_zip(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def write_torch(path, pickle_bytes):
    entries = {"data.pkl": pickle_bytes, "byteorder": b"little", "data/0": SIX.tobytes()}
    return write_zip(path, {f"archive/{name}": data for name, data in entries.items()})
