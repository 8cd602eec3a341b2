"""Which patches a prediction attends to, from the attention probabilities of all blocks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

Tensor = Any  # of the Keras backend


def attention_rollout(
    attentions: Sequence[Tensor], num_prefix_tokens: int, token: int = 0, discard: float = 0.0
) -> Tensor:
    """Traces attention from a prefix token to the patches, through all blocks.

    Attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928): heads are averaged, and the residual connection counts
    as much as their mean, `R = prod((mean(A) + I) / 2)`, the last block first. Only the token's row is computed.

    Args:
        attentions: one array (B, heads, T, T) per block, first block first: `attentions` of a model's outputs.
        num_prefix_tokens: tokens before the patches, `config.num_prefix_tokens`.
        token: the prefix token to start from: 0 is the class token, 1 the distillation token.
        discard: fraction of each block's T * T weights, the smallest ones, to set to zero; rows are then divided by
            their sums again.

    Returns:
        (B, T - num_prefix_tokens) float32, the share of each patch, row by row of the grid. With the shares of the
        prefix tokens, they sum to 1.

    Raises:
        ValueError: if the token does not exist, or the fraction is outside [0, 1).
    """
    if not 0 <= token < num_prefix_tokens:
        raise ValueError(f"Expected a prefix token below {num_prefix_tokens}. Received: token={token}.")
    if not 0 <= discard < 1:
        raise ValueError(f"Expected discard in [0, 1). Received: discard={discard}.")
    batch, _, length, _ = ops.shape(attentions[0])
    row = ops.broadcast_to(ops.one_hot([token], length), (batch, length))
    for attention in reversed(attentions):
        mean = ops.mean(ops.cast(attention, "float32"), axis=1)  # (B, T, T)
        if discard:
            ordered = ops.sort(ops.reshape(mean, (batch, -1)))
            least = ordered[:, int(discard * length * length)]
            mean = ops.where(mean < least[:, None, None], 0.0, mean)
            row = row / (1 + ops.sum(mean, axis=-1))
        else:
            row = row / 2
        row = row + ops.matmul(row[:, None], mean)[:, 0]
    return row[:, num_prefix_tokens:]


def attention_maps(
    attentions: Sequence[Tensor],
    num_prefix_tokens: int,
    grid: tuple[int, int],
    block: int = -1,
    discard: float = 0.0,
) -> dict[str, np.ndarray]:
    """Shows where a model looks: what its class token, and its distillation token, attend to.

    Args:
        attentions: as in `attention_rollout`.
        num_prefix_tokens: tokens before the patches, `config.num_prefix_tokens`.
        grid: rows and columns of patches, `config.grid` for images of the model's own size.
        block: index of the block whose heads are shown; negative ones count from the last.
        discard: see `attention_rollout`.

    Returns:
        Name -> (B, rows, columns) float32, on the grid of patches; each map is divided by its maximum. For each of
        the tokens: "rollout" through all blocks; "mean" over the heads of the block; and "head 1", ...

    Raises:
        ValueError: if the block does not exist; also as `attention_rollout`.
    """
    depth = len(attentions)
    if not -depth <= block < depth:
        raise ValueError(f"Expected a block from 0 to {depth - 1}, or from {-depth} to -1. Received: block={block}.")
    chosen = ops.convert_to_numpy(ops.cast(attentions[block], "float32"))
    maps = {}
    for token, name in enumerate(("class token", "distillation token")[:num_prefix_tokens]):
        rollout = ops.convert_to_numpy(attention_rollout(attentions, num_prefix_tokens, token, discard))
        heads = chosen[:, :, token, num_prefix_tokens:]  # (B, heads, N)
        maps[f"{name}: rollout"] = rollout
        maps[f"{name}: mean"] = heads.mean(axis=1)
        maps |= {f"{name}: head {head + 1}": heads[:, head] for head in range(heads.shape[1])}
    return {name: (shares / shares.max(axis=1, keepdims=True)).reshape(-1, *grid) for name, shares in maps.items()}
