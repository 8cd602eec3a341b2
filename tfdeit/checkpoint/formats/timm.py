"""timm's and Facebook's names, of the state dicts of their `VisionTransformer`s."""

from tfdeit.checkpoint.rules import CONV, DENSE, NORM, TOKEN, Rule, expand, named_heads
from tfdeit.config import ViTConfig

# Query, key and value are one tensor, in this order, laid out like any dense layer's.
_ROWS = (
    (CONV, "patch_embedding/projection", "patch_embed.proj"),
    (TOKEN, "token_concatenation/cls_token", "cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "dist_token"),
    (TOKEN, "token_concatenation/position_embeddings", "pos_embed"),
    (NORM, "block_{i}/norm1", "blocks.{i}.norm1"),
    (DENSE, "block_{i}/attention/qkv", "blocks.{i}.attn.qkv"),
    (DENSE, "block_{i}/attention/projection", "blocks.{i}.attn.proj"),
    (NORM, "block_{i}/norm2", "blocks.{i}.norm2"),
    (DENSE, "block_{i}/mlp/fc1", "blocks.{i}.mlp.fc1"),
    (DENSE, "block_{i}/mlp/fc2", "blocks.{i}.mlp.fc2"),
    (TOKEN, "block_{i}/layer_scale1", "blocks.{i}.ls1.gamma"),
    (TOKEN, "block_{i}/layer_scale2", "blocks.{i}.ls2.gamma"),
    (NORM, "norm", "norm"),
)
# Facebook's own DeiT III says gamma_1 where timm says ls1.gamma.
_DEIT_3 = tuple(
    (*row[:-1], row[-1].replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2")) for row in _ROWS
)


def rules(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    """Returns the rules of timm's names, which Facebook's DeiT shares."""
    return expand((*_ROWS, *named_heads(config, "head", "head_dist")), config.num_hidden_layers)


def deit_3(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    """Returns the rules of the names in Facebook's DeiT III."""
    return expand((*_DEIT_3, *named_heads(config, "head", "head_dist")), config.num_hidden_layers)
