"""Google's npz files that hold more than the blocks of one ViT: image towers, blocks in stacks, other kinds of pooling.

Big Vision's `models/vit.py` (its `scan` stacks the variables of all blocks) and `models/proj/image_text/two_towers.py`
(an image tower below `img`, a text tower below `txt`) tell the names.
"""

import os
from collections.abc import Mapping, Set
from typing import NamedTuple

import numpy as np

from tfdeit.checkpoint import Array, CheckpointError, listing

TOWERS = ("params/img/", "img/")
_NORM = "Transformer/encoder_norm/scale"  # which every such ViT has
_STACK, _BLOCK = "Transformer/encoderblock/", "Transformer/encoderblock_{}/"
_MOST = 20_000  # variables that stacks may hold: published models have up to 900, and empty arrays any number


class _Slice(NamedTuple):
    """An entry of an array along its first axis: a view of one that is mapped; of a compressed one all is read."""

    array: Array
    number: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype=None, copy=None):
        return np.asarray(np.asarray(self.array)[self.number], dtype)


def read_tower(arrays: Mapping[str, Array], path: str | os.PathLike) -> tuple[dict[str, Array], list[str]]:
    """Returns a file's ViT, with its blocks apart, and the names of what is beside it.

    Args:
        arrays: the file; those of others than Google are returned as they are.
        path: of the file, for messages.

    Raises:
        CheckpointError: if the ViT has no class token, or its stacks are none.
    """
    tower = next((tower for tower in TOWERS if f"{tower}{_NORM}" in arrays), "")
    kept = {name: array for name, array in arrays.items() if name.startswith(tower)}
    norm = next((name for name in kept if name.endswith(_NORM)), None)
    if norm is not None:
        _check_pooling(kept.keys(), norm.removesuffix(_NORM), path)
    return _unstack(kept, path), sorted(arrays.keys() - kept.keys())


def _check_pooling(names: Set[str], prefix: str, path: str | os.PathLike):
    if f"{prefix}cls" in names:
        return
    attention = [name for name in names if "MAPHead_0/" in name or name == f"{prefix}probe"]
    pooling = f"by attention: {listing(attention, 3)}" if attention else "by averaging the patches"
    raise CheckpointError(
        f"Expected a ViT with a class token, {prefix}cls, in {path}. Received: one of Big Vision that has none and "
        f"pools {pooling}. This library has no such architecture; SigLIP's towers are of it."
    )


def _unstack(arrays: Mapping[str, Array], path: str | os.PathLike) -> dict[str, Array]:
    stacked = {name: array for name, array in arrays.items() if _STACK in name}
    if not stacked:
        return dict(arrays)
    depths = {array.shape[0] if array.shape else 0 for array in stacked.values()}
    mixed = any(_BLOCK.format(0) in name for name in arrays)
    if mixed or len(depths) > 1 or not 0 < min(depths) * len(stacked) <= _MOST:
        shapes = listing(f"{name} {array.shape}" for name, array in stacked.items())
        raise CheckpointError(
            f"Expected the blocks in {path} as stacks of one depth and {_MOST} variables at most, or each apart. "
            f"Received: {'both, ' if mixed else ''}{shapes}."
        )
    slices = {
        name.replace(_STACK, _BLOCK.format(i)): _Slice(array, i, array.shape[1:], array.dtype)
        for name, array in stacked.items()
        for i in range(min(depths))
    }
    return {name: array for name, array in arrays.items() if name not in stacked} | slices
