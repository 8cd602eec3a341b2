"""HDF5 files of Keras: our own .weights.h5 and .keras, and the tf_model.h5 of transformers 4.

The HDF5 library only reads the names and where each array is; the arrays are then mapped. What needs more than that
(links to other files, virtual, chunked or compressed arrays) is refused: Keras writes none of it.
"""

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from tfdeit.checkpoint import DAMAGED, Array, CheckpointError
from tfdeit.checkpoint.archives import faults_of, map_entry, map_file

_BFLOAT16 = np.dtype("V2")  # how Keras stores the dtype, which HDF5 lacks
_TOKENS = "layers/token_concatenation/"
# What a saved model holds besides its weights: the state of its optimizer and of its random generators.
_STATE = re.compile(r"^optimizer/|(^|/)seed_generator/")


def read_hdf5(path: str | os.PathLike) -> dict[str, Array]:
    """Reads the weights of a model of tfdeit, or of a TensorFlow model of transformers 4.

    Args:
        path: a .weights.h5 file or a tf_model.h5.

    Returns:
        Read-only, memory-mapped arrays, by path in the file; transformers' by the names of its variables.

    Raises:
        CheckpointError: if the file is damaged, or holds what Keras does not write.
    """
    with faults_of(path, "an HDF5 file"), h5py.File(path, "r") as file:
        arrays = dict(_datasets(file, map_file(path)))
        if "layer_names" in file.attrs:  # tf_model.h5: layer/model/layer/...:0
            return {name.split("/", 2)[-1].removesuffix(":0"): array for name, array in arrays.items()}
        return _name_tokens(arrays)


def read_keras(path: str | os.PathLike) -> tuple[dict[str, Array], dict[str, Any]]:
    """Reads a .keras file: its weights as `read_hdf5` does, and the contents of a config.json for its model.

    Raises:
        CheckpointError: if the file is damaged, or holds another library's model.
    """
    with faults_of(path, "a .keras file of tfdeit"), zipfile.ZipFile(path) as archive:
        mapped = map_file(path)
        model = json.loads(bytes(map_entry(archive, "config.json", mapped)))
        if not str(model["registered_name"]).startswith("tfdeit>"):
            raise CheckpointError(f"Expected a model of tfdeit. Received: {str(model['registered_name'])[:200]}.")
        data = map_entry(archive, "model.weights.h5", mapped)
        with archive.open("model.weights.h5") as stream, h5py.File(stream, "r") as file:
            return _name_tokens(dict(_datasets(file, data))), model["config"]["config"]


def _datasets(file: h5py.File, data: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the path and the array of each dataset in `file`: views of `data`, the file as (bytes,) uint8."""
    names, links = [], []
    file.visititems_links(lambda name, link: None if isinstance(link, h5py.HardLink) else links.append(name))
    if links:
        raise CheckpointError(f"Expected no links to other places. Received: {links[0][:200]}. {DAMAGED}")
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    for name in names:
        dataset = file[name]
        dtype = np.dtype(ml_dtypes.bfloat16) if dataset.dtype == _BFLOAT16 else dataset.dtype
        if dtype.kind not in "fiub" and dtype != ml_dtypes.bfloat16:
            raise CheckpointError(f"Expected numbers in {name[:200]}. Received: {str(dtype)[:200]}. {DAMAGED}")
        if dataset.size == 0:
            yield name, np.empty(dataset.shape, dtype)
            continue
        start, size = dataset.id.get_offset(), dataset.size * dtype.itemsize
        # Only contiguous arrays have an offset: chunked, compressed, virtual and external ones have none.
        if start is None or dataset.external or start + size > data.size or file.userblock_size:
            raise CheckpointError(
                f"Expected {name[:200]} to be stored in one uncompressed piece inside the file. Received: another "
                f"layout, or {size} bytes outside. {DAMAGED}"
            )
        yield name, np.ndarray(dataset.shape, dtype, data, start)


def _name_tokens(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Returns only the weights of a saved model, with tokens by name and the first block numbered like the others."""
    arrays = {name: array for name, array in arrays.items() if not _STATE.search(name)}
    found = sorted(name for name in arrays if f"{_TOKENS}vars/" in name)
    mask = any(name.startswith("decoder/") for name in arrays)
    tokens = zip(found, _token_names(len(found) - mask, mask), strict=False)
    names = {name: name[: name.index("vars/")] + token for name, token in tokens}
    return {names.get(n, n).replace("/transformer_block/", "/transformer_block_0/"): a for n, a in arrays.items()}


def _token_names(others: int, mask: bool) -> list[str]:
    """Returns the names of the variables of `TokenConcatenation` in its order: `others`, and perhaps a mask token."""
    return ["cls_token", *["distillation_token"] * (others == 3), *["mask_token"] * mask, "position_embeddings"]


def write_hdf5(path: str | os.PathLike, arrays: Mapping[str, Array], note: str, advance: Callable[[int], object] = int):
    """Writes what `model.load_weights` of a tfdeit model reads, one array at a time.

    Args:
        path: ends in .weights.h5.
        arrays: by the names that `read_hdf5` returns.
        note: stored as an attribute of the file, which Keras ignores.
        advance: called with 1 after each array.
    """
    tokens = [name for name in arrays if _TOKENS in name]
    mask = any(name.endswith("/mask_token") for name in tokens)
    order = _token_names(len(tokens) - mask, mask)
    with h5py.File(path, "w") as file:
        file.attrs["tfdeit_provenance"] = note
        for name, array in arrays.items():
            layer, _, token = name.rpartition("/")
            name = f"{layer}/vars/{order.index(token)}" if name in tokens else name
            data = np.ascontiguousarray(array)
            half = data.dtype == ml_dtypes.bfloat16
            name = name.replace("/transformer_block_0/", "/transformer_block/")
            dataset = file.create_dataset(name, data=data.view(_BFLOAT16) if half else data)
            if half:
                dataset.attrs["dtype"] = "bfloat16"
            advance(1)
