"""Which patches an answer looked at, from the attention probabilities of all blocks."""

from keras import ops


def attention_rollout(attentions, num_prefix_tokens: int):
    """Follows attention from the class token to the patches through all blocks.

    Attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928): heads are averaged, and the residual connection counts
    as much as they do, `R = prod((mean(A) + I) / 2)`, the last block first. Only the class token's row is computed.

    Args:
        attentions: one array (B, heads, T, T) a block, first block first: `attentions` of a model's outputs.
        num_prefix_tokens: tokens before the patches, `config.num_prefix_tokens`.

    Returns:
        (B, T - num_prefix_tokens) float32, the share of each patch, row by row of the grid. With the shares of the
        prefix tokens, they sum to 1.
    """
    batch, _, length, _ = ops.shape(attentions[0])
    row = ops.broadcast_to(ops.one_hot([0], length), (batch, length))
    for attention in reversed(attentions):
        mean = ops.mean(ops.cast(attention, "float32"), axis=1)  # (B, T, T)
        row = (row + ops.matmul(row[:, None], mean)[:, 0]) / 2
    return row[:, num_prefix_tokens:]
