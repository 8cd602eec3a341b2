"""MMPretrain's names, of the state dicts of its `VisionTransformer` and `DistilledVisionTransformer`."""

from tfdeit.checkpoint.rules import CONV, DENSE, NORM, TOKEN, Rule, expand, named_heads
from tfdeit.config import ViTConfig

_ROWS = (
    (CONV, "patch_embedding/projection", "backbone.patch_embed.projection"),
    (TOKEN, "token_concatenation/cls_token", "backbone.cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "backbone.dist_token"),
    (TOKEN, "token_concatenation/position_embeddings", "backbone.pos_embed"),
    (NORM, "block_{i}/norm1", "backbone.layers.{i}.ln1"),
    (DENSE, "block_{i}/attention/qkv", "backbone.layers.{i}.attn.qkv"),
    (DENSE, "block_{i}/attention/projection", "backbone.layers.{i}.attn.proj"),
    (NORM, "block_{i}/norm2", "backbone.layers.{i}.ln2"),
    (DENSE, "block_{i}/mlp/fc1", "backbone.layers.{i}.ffn.layers.0.0"),
    (DENSE, "block_{i}/mlp/fc2", "backbone.layers.{i}.ffn.layers.1"),
    (NORM, "norm", "backbone.ln1"),
)


def rules(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    """Returns the rules of MMPretrain's names."""
    heads = named_heads(config, "head.layers.head", "head.layers.head_dist")
    return expand((*_ROWS, *heads), config.num_hidden_layers)
