"""Big Vision's npz files that are not one plain ViT: image beside text towers, stacked blocks, pooling without a token.

The names come from its `models/vit.py` (`scan` stacks the variables of all blocks) and
`models/proj/image_text/two_towers.py` (the image tower is below `img`, the text tower below `txt`).
"""

import functools
import os
from collections.abc import Mapping, Set

import numpy as np

from tfdeit.checkpoint import Array, CheckpointError, LazyArray, listing

TOWERS = ("params/img/", "img/")
_NORM = "Transformer/encoder_norm/scale"  # present in every such ViT
_STACK, _BLOCK = "Transformer/encoderblock/", "Transformer/encoderblock_{}/"
_MAX_VARIABLES = 20_000  # in stacks: published models have up to 900, but empty arrays could claim any number


def read_tower(arrays: Mapping[str, Array], path: str | os.PathLike) -> tuple[dict[str, Array], list[str]]:
    """Returns the arrays of a file's ViT, with its blocks unstacked, and the names of all other arrays.

    Args:
        arrays: the file's; those of other publishers are returned unchanged.
        path: the file, for messages.

    Raises:
        CheckpointError: if the ViT has no class token, or its stacks do not agree in depth.
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
        f"Expected a ViT with a class token, {prefix}cls, in {path}. Received: a Big Vision model that has none "
        f"and pools {pooling}. Such models, SigLIP's towers among them, are not supported."
    )


def _unstack(arrays: Mapping[str, Array], path: str | os.PathLike) -> dict[str, Array]:
    stacked = {name: array for name, array in arrays.items() if _STACK in name}
    if not stacked:
        return dict(arrays)
    depths = {array.shape[0] if array.shape else 0 for array in stacked.values()}
    mixed = any(_BLOCK.format(0) in name for name in arrays)
    if mixed or len(depths) > 1 or not 0 < min(depths) * len(stacked) <= _MAX_VARIABLES:
        shapes = listing(f"{name} {array.shape}" for name, array in stacked.items())
        raise CheckpointError(
            f"Expected the blocks in {path} as stacks of one depth and at most {_MAX_VARIABLES} variables, or as "
            f"separate blocks. Received: {'both, ' if mixed else ''}{shapes}."
        )
    slices = {
        name.replace(_STACK, _BLOCK.format(i)): LazyArray(
            array.shape[1:], array.dtype, functools.partial(_read_block, array, i)
        )
        for name, array in stacked.items()
        for i in range(min(depths))
    }
    return {name: array for name, array in arrays.items() if name not in stacked} | slices


def _read_block(stack: Array, block: int) -> np.ndarray:
    return np.asarray(stack)[block]  # a view if the stack is mapped; a compressed one is read whole
