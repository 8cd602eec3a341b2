"""The names in .keras and .weights.h5 files of this library's models, which Keras numbers."""

from tfdeit.checkpoint.rules import HEADS, SAME, TOKEN, Rule, expand
from tfdeit.config import ViTConfig

_NORM = {"gamma": ("vars/0", SAME), "beta": ("vars/1", SAME)}
_DENSE = {"kernel": ("vars/0", SAME), "bias": ("vars/1", SAME)}
_ROWS = (
    (_DENSE, "patch_embedding/projection", "layers/patch_embedding/projection"),
    (TOKEN, "token_concatenation/cls_token", "layers/token_concatenation/cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "layers/token_concatenation/distillation_token"),
    (TOKEN, "token_concatenation/mask_token", "layers/token_concatenation/mask_token"),
    (TOKEN, "token_concatenation/position_embeddings", "layers/token_concatenation/position_embeddings"),
    (_NORM, "block_{i}/norm1", "blocks/transformer_block_{i}/norm1"),
    (_DENSE, "block_{i}/attention/qkv", "blocks/transformer_block_{i}/attention/qkv"),
    (_DENSE, "block_{i}/attention/projection", "blocks/transformer_block_{i}/attention/projection"),
    (_NORM, "block_{i}/norm2", "blocks/transformer_block_{i}/norm2"),
    (_DENSE, "block_{i}/mlp/fc1", "blocks/transformer_block_{i}/mlp/fc1"),
    (_DENSE, "block_{i}/mlp/fc2", "blocks/transformer_block_{i}/mlp/fc2"),
    (_NORM, "norm", "final_norm"),
    (_DENSE, "pooler", "layers/dense"),
)


def rules(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    """Returns the rules of these names."""
    heads = ((_DENSE, head, head) for head in HEADS)
    return expand(_ROWS, config.num_hidden_layers, theirs=prefix, separator="/") | expand(heads, separator="/")
