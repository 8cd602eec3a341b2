"""The names that transformers 5 has in memory; it saves those of the hub, which are in `checkpoint.rules`."""

from tfdeit.checkpoint.rules import CONV, DENSE, HEADS, NORM, QKV, TOKEN, Rule, expand, hugging_face
from tfdeit.config import ViTConfig

_ROWS = (
    (CONV, "patch_embedding/projection", "embeddings.patch_embeddings.projection"),
    (TOKEN, "token_concatenation/cls_token", "embeddings.cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "embeddings.distillation_token"),
    (TOKEN, "token_concatenation/mask_token", "embeddings.mask_token"),
    (TOKEN, "token_concatenation/position_embeddings", "embeddings.position_embeddings"),
    (NORM, "block_{i}/norm1", "layers.{i}.layernorm_before"),
    (QKV, "block_{i}/attention/qkv", *(f"layers.{{i}}.attention.{part}_proj" for part in "qkv")),
    (DENSE, "block_{i}/attention/projection", "layers.{i}.attention.o_proj"),
    (NORM, "block_{i}/norm2", "layers.{i}.layernorm_after"),
    (DENSE, "block_{i}/mlp/fc1", "layers.{i}.mlp.fc1"),
    (DENSE, "block_{i}/mlp/fc2", "layers.{i}.mlp.fc2"),
    (NORM, "norm", "layernorm"),
    (DENSE, "pooler", "pooler.dense"),
)


def rules(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    """Returns the rules of these names; those of the heads are the hub's."""
    heads = {name: rule for name, rule in hugging_face(config).items() if name.split("/")[0] in HEADS}
    return expand(_ROWS, config.num_hidden_layers, theirs=prefix) | heads
