"""Writers: safetensors files and Hugging Face directories, one tensor at a time, and no file left incomplete."""

import contextlib
import json
import math
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfdeit.checkpoint import Array
from tfdeit.checkpoint.readers import SAFETENSORS_DTYPES

_DTYPE_NAMES = {np.dtype(dtype): name for name, dtype in SAFETENSORS_DTYPES.items()}
_ALIGNMENT = 8


@contextlib.contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path to write to, in a temporary directory beside `path`; moves the file to `path` if all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as temporary:
        yield Path(temporary, path.name)
        os.replace(Path(temporary, path.name), path)


def write_safetensors(
    path: str | os.PathLike,
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str],
    advance: Callable[[int], object] = int,
):
    """Writes a safetensors file, one tensor at a time.

    Args:
        path: the file.
        tensors: by name.
        metadata: strings by name.
        advance: called with 1 after each tensor.
    """
    header: dict[str, dict] = {"__metadata__": dict(metadata)}
    end = 0
    # As the safetensors library orders them: a wide type first, so that each is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-np.dtype(item[1].dtype).itemsize, item[0]))
    for name, tensor in ordered:
        dtype = np.dtype(tensor.dtype)
        start, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in ordered:
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
            advance(1)


def write_directory(
    directory: str | os.PathLike,
    config: Mapping[str, Any],
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str] = {},
    advance: Callable[[int], object] = int,
):
    """Writes config.json and model.safetensors; neither appears before both are complete.

    Args:
        directory: created if it does not exist.
        config: what config.json should hold; `dtype` is added.
        tensors: by their names on the hub.
        metadata: strings by name, for the safetensors file.
        advance: called with 1 after each tensor.
    """
    config = {name: value for name, value in config.items() if name != "torch_dtype"}  # of transformers before 5
    config["dtype"] = np.dtype(max(tensors.values(), key=lambda tensor: math.prod(tensor.shape)).dtype).name
    directory = Path(directory)
    with complete_file(directory / "config.json") as config_file:
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        with complete_file(directory / "model.safetensors") as weights_file:
            write_safetensors(weights_file, tensors, {"format": "pt", **metadata}, advance)
