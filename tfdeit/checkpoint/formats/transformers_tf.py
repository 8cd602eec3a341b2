"""The names in tf_model.h5, of transformers' TensorFlow classes."""

import numpy as np

from tfdeit.checkpoint.rules import HEADS, SAME, TOKEN, Rule, Transform, expand, pixel_shuffle
from tfdeit.config import ViTConfig

_DENSE = {"kernel": ("kernel", SAME), "bias": ("bias", SAME)}
_NORM = {"gamma": ("gamma", SAME), "beta": ("beta", SAME)}
_QKV = {
    leaf: (leaf, Transform(lambda *parts: np.concatenate(parts, -1), lambda whole: np.split(whole, 3, -1)))
    for leaf in ("kernel", "bias")
}
_ROWS = (
    (_DENSE, "patch_embedding/projection", "embeddings/patch_embeddings/projection"),
    (TOKEN, "token_concatenation/cls_token", "embeddings/cls_token"),
    (TOKEN, "token_concatenation/distillation_token", "embeddings/distillation_token"),
    (TOKEN, "token_concatenation/mask_token", "embeddings/mask_token"),
    (TOKEN, "token_concatenation/position_embeddings", "embeddings/position_embeddings"),
    (_NORM, "block_{i}/norm1", "encoder/layer_._{i}/layernorm_before"),
    (
        _QKV,
        "block_{i}/attention/qkv",
        *(f"encoder/layer_._{{i}}/attention/attention/{part}" for part in ("query", "key", "value")),
    ),
    (_DENSE, "block_{i}/attention/projection", "encoder/layer_._{i}/attention/output/dense"),
    (_NORM, "block_{i}/norm2", "encoder/layer_._{i}/layernorm_after"),
    (_DENSE, "block_{i}/mlp/fc1", "encoder/layer_._{i}/intermediate/dense"),
    (_DENSE, "block_{i}/mlp/fc2", "encoder/layer_._{i}/output/dense"),
    (_NORM, "norm", "layernorm"),
    (_DENSE, "pooler", "pooler/dense"),
)


def rules(config: ViTConfig, prefix: str) -> dict[str, Rule]:
    """Returns the rules of these names."""
    kernel, bias = pixel_shuffle(config.num_channels)
    turned = Transform(
        lambda weight: kernel.decode(np.transpose(weight, (3, 2, 0, 1))),
        lambda ours: (np.transpose(kernel.encode(ours)[0], (2, 3, 1, 0)),),
    )
    decoder = {"kernel": ("kernel", turned), "bias": ("bias", bias)}
    heads = *((_DENSE, head, head) for head in HEADS[:3]), (decoder, "decoder", "decoder/0")
    return expand(_ROWS, config.num_hidden_layers, theirs=prefix, separator="/") | expand(heads, separator="/")
