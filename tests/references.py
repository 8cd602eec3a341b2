"""ViTs in plain numpy that read published names and layouts themselves: independent of the library's rules."""

import itertools
import math

import h5py
import numpy as np

WIDTH, HEADS, DEPTH, HIDDEN, SIDE, PATCH, LABELS = 32, 4, 2, 48, 16, 4, 5
PATCHES = (SIDE // PATCH) ** 2
IMAGES = np.random.default_rng(7).normal(size=(2, SIDE, SIDE, 3)).astype("float32")
# A head has 64 of the width in published models: a small one must say how many it has.
OVERRIDES = {"num_attention_heads": HEADS}
erf = np.vectorize(math.erf)


def layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def gelu(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def random_tensors(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: (rng.normal(size=shape) * 0.3).astype("float32") for name, shape in shapes.items()}


# PyTorch's layout: timm and MMPretrain.

TIMM = {
    "patch": "patch_embed.proj",
    "cls": "cls_token",
    "dist": "dist_token",
    "pos": "pos_embed",
    "norm1": "blocks.{}.norm1",
    "qkv": "blocks.{}.attn.qkv",
    "proj": "blocks.{}.attn.proj",
    "norm2": "blocks.{}.norm2",
    "fc1": "blocks.{}.mlp.fc1",
    "fc2": "blocks.{}.mlp.fc2",
    "norm": "norm",
    "head": "head",
    "head_dist": "head_dist",
}
MMPRETRAIN = {
    "patch": "backbone.patch_embed.projection",
    "cls": "backbone.cls_token",
    "dist": "backbone.dist_token",
    "pos": "backbone.pos_embed",
    "norm1": "backbone.layers.{}.ln1",
    "qkv": "backbone.layers.{}.attn.qkv",
    "proj": "backbone.layers.{}.attn.proj",
    "norm2": "backbone.layers.{}.ln2",
    "fc1": "backbone.layers.{}.ffn.layers.0.0",
    "fc2": "backbone.layers.{}.ffn.layers.1",
    "norm": "backbone.ln1",
    "head": "head.layers.head",
    "head_dist": "head.layers.head_dist",
}


def renamed(tensors, names, other_names):
    """Returns tensors under the names of one table instead of another's."""
    received = {}
    for part, i, leaf in itertools.product(names, range(24), ("", ".weight", ".bias")):
        name = names[part].format(i) + leaf
        if name in tensors:
            received[other_names[part].format(i) + leaf] = tensors[name]
    assert len(received) == len(tensors)
    return received


def torch_shapes(names, distilled):
    def layer(name, out, *inputs):
        return {f"{name}.weight": (out, *inputs), f"{name}.bias": (out,)}

    shapes = {names["cls"]: (1, 1, WIDTH), names["pos"]: (1, PATCHES + 1 + distilled, WIDTH)}
    shapes |= layer(names["patch"], WIDTH, 3, PATCH, PATCH) | layer(names["norm"], WIDTH)
    shapes |= layer(names["head"], LABELS, WIDTH)
    if distilled:
        shapes |= {names["dist"]: (1, 1, WIDTH)} | layer(names["head_dist"], LABELS, WIDTH)
    for i in range(DEPTH):
        shapes |= layer(names["norm1"].format(i), WIDTH) | layer(names["norm2"].format(i), WIDTH)
        shapes |= layer(names["qkv"].format(i), 3 * WIDTH, WIDTH) | layer(names["proj"].format(i), WIDTH, WIDTH)
        shapes |= layer(names["fc1"].format(i), HIDDEN, WIDTH) | layer(names["fc2"].format(i), WIDTH, HIDDEN)
    return shapes


def torch_forward(t, names, distilled):
    """Logits of `IMAGES`: patches as a strided convolution, x @ weight.T, rows of qkv in the order q, k, v, heads."""

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        return layer_norm(x, t[f"{name}.weight"], t[f"{name}.bias"])

    grid = SIDE // PATCH
    cut = IMAGES.reshape(2, grid, PATCH, grid, PATCH, 3)  # batch, row, y, column, x, channel
    x = np.einsum("brycxk,dkyx->brcd", cut, t[f"{names['patch']}.weight"]) + t[f"{names['patch']}.bias"]
    prefix = [t[names["cls"]], t[names["dist"]]] if distilled else [t[names["cls"]]]
    tokens = [np.repeat(token, 2, axis=0) for token in prefix]
    x = np.concatenate([*tokens, x.reshape(2, PATCHES, WIDTH)], axis=1) + t[names["pos"]]
    for i in range(DEPTH):
        qkv = linear(norm(x, names["norm1"].format(i)), names["qkv"].format(i))
        q, k, v = qkv.reshape(2, -1, 3, HEADS, WIDTH // HEADS).transpose(2, 0, 3, 1, 4)
        attention = softmax(q @ k.transpose(0, 1, 3, 2) / math.sqrt(WIDTH // HEADS))
        x = x + linear((attention @ v).transpose(0, 2, 1, 3).reshape(x.shape), names["proj"].format(i))
        x = x + linear(gelu(linear(norm(x, names["norm2"].format(i)), names["fc1"].format(i))), names["fc2"].format(i))
    x = norm(x, names["norm"])
    if distilled:
        return (linear(x[:, 0], names["head"]) + linear(x[:, 1], names["head_dist"])) / 2
    return linear(x[:, 0], names["head"])


# Google's layout: flax.


def google_shapes(prefix="", big_vision=False):
    attention, norm2, mlp = _flax_layers(big_vision)

    def layer(name, *shape, bias=None, scale="kernel"):
        return {f"{prefix}{name}/{scale}": shape, f"{prefix}{name}/bias": bias or shape[-1:]}

    head = (HEADS, WIDTH // HEADS)
    shapes = {f"{prefix}cls": (1, 1, WIDTH)} | layer("embedding", PATCH, PATCH, 3, WIDTH)
    if big_vision:
        shapes[f"{prefix}pos_embedding"] = (1, PATCHES, WIDTH)
    else:
        shapes[f"{prefix}Transformer/posembed_input/pos_embedding"] = (1, PATCHES + 1, WIDTH)
    for i in range(DEPTH):
        block = f"Transformer/encoderblock_{i}"
        shapes |= layer(f"{block}/LayerNorm_0", WIDTH, scale="scale") | layer(f"{block}/{norm2}", WIDTH, scale="scale")
        for part in ("query", "key", "value"):
            shapes |= layer(f"{block}/{attention}/{part}", WIDTH, *head, bias=head)
        shapes |= layer(f"{block}/{attention}/out", *head, WIDTH)
        shapes |= layer(f"{block}/{mlp}/Dense_0", WIDTH, HIDDEN) | layer(f"{block}/{mlp}/Dense_1", HIDDEN, WIDTH)
    return shapes | layer("Transformer/encoder_norm", WIDTH, scale="scale") | layer("head", WIDTH, LABELS)


def _flax_layers(big_vision):
    if big_vision:
        return "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"
    return "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"


def google_forward(tensors, prefix="", big_vision=False):
    """Logits of `IMAGES`: Big Vision adds the positions to the patches, before the class token comes."""
    t = {name.removeprefix(prefix): value for name, value in tensors.items()}
    attention, norm2, mlp = _flax_layers(big_vision)

    def dense(x, name):
        return x @ t[f"{name}/kernel"] + t[f"{name}/bias"]

    def norm(x, name):
        return layer_norm(x, t[f"{name}/scale"], t[f"{name}/bias"])

    grid = SIDE // PATCH
    cut = IMAGES.reshape(2, grid, PATCH, grid, PATCH, 3)
    x = np.einsum("brycxk,yxkd->brcd", cut, t["embedding/kernel"]) + t["embedding/bias"]
    x, cls = x.reshape(2, PATCHES, WIDTH), np.repeat(t["cls"], 2, axis=0)
    if big_vision:
        x = np.concatenate([cls, x + t["pos_embedding"]], axis=1)
    else:
        x = np.concatenate([cls, x], axis=1) + t["Transformer/posembed_input/pos_embedding"]
    for i in range(DEPTH):
        block = f"Transformer/encoderblock_{i}"
        y = norm(x, f"{block}/LayerNorm_0")
        q, k, v = (
            np.einsum("btd,dhe->bhte", y, t[f"{block}/{attention}/{part}/kernel"])
            + t[f"{block}/{attention}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        weights = softmax(np.einsum("bhqe,bhke->bhqk", q, k) / math.sqrt(WIDTH // HEADS))
        y = np.einsum("bhqk,bhke->bqhe", weights, v)
        y = np.einsum("bqhe,hed->bqd", y, t[f"{block}/{attention}/out/kernel"]) + t[f"{block}/{attention}/out/bias"]
        x = x + y
        x = x + dense(gelu(dense(norm(x, f"{block}/{norm2}"), f"{block}/{mlp}/Dense_0")), f"{block}/{mlp}/Dense_1")
    return dense(norm(x, "Transformer/encoder_norm")[:, 0], "head")


def google_tensors(timm, heads):
    """Returns timm's tensors, not distilled, under Google's names: attention has an axis of heads, before that of each.

    What torch applies as x @ weight.T flax applies as x @ kernel, and convolutions have their outputs last.
    """
    tensors = {
        "cls": timm["cls_token"],
        "Transformer/posembed_input/pos_embedding": timm["pos_embed"],
        "embedding/kernel": timm["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": timm["patch_embed.proj.bias"],
    }

    def norm(theirs, ours):
        tensors.update({f"{theirs}/scale": timm[f"{ours}.weight"], f"{theirs}/bias": timm[f"{ours}.bias"]})

    def dense(theirs, ours, kernel_shape=None):
        kernel = timm[f"{ours}.weight"].T
        tensors[f"{theirs}/kernel"] = kernel.reshape(kernel_shape) if kernel_shape else kernel
        tensors[f"{theirs}/bias"] = timm[f"{ours}.bias"]

    width = timm["norm.weight"].size
    for i in itertools.takewhile(lambda i: f"blocks.{i}.norm1.weight" in timm, itertools.count()):
        block, ours = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        norm(f"{block}/LayerNorm_0", f"{ours}.norm1")
        norm(f"{block}/LayerNorm_2", f"{ours}.norm2")
        attention = f"{block}/MultiHeadDotProductAttention_1"
        weight, bias = timm[f"{ours}.attn.qkv.weight"], timm[f"{ours}.attn.qkv.bias"]
        for start, part in zip(range(0, 3 * width, width), ("query", "key", "value"), strict=True):
            rows = slice(start, start + width)
            tensors[f"{attention}/{part}/kernel"] = weight[rows].T.reshape(width, heads, -1)
            tensors[f"{attention}/{part}/bias"] = bias[rows].reshape(heads, -1)
        dense(f"{attention}/out", f"{ours}.attn.proj", (heads, -1, width))
        dense(f"{block}/MlpBlock_3/Dense_0", f"{ours}.mlp.fc1")
        dense(f"{block}/MlpBlock_3/Dense_1", f"{ours}.mlp.fc2")
    norm("Transformer/encoder_norm", "norm")
    dense("head", "head")
    return tensors


# TensorFlow's files.


def write_tf_model(path, tensors, model_name):
    """Writes the tensors of a Hugging Face directory as `save_weights` of transformers 4's TensorFlow models does.

    A dataset is layer/model/layer/...:0. Names and layouts were compared with a file that transformers 4.49 wrote.
    """
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"], file.attrs["backend"] = (
            sorted({name.split(".")[0] for name in tensors}),
            "tensorflow",
        )
        file.create_group("top_level_model_weights").attrs["weight_names"] = []
        for name, tensor in tensors.items():
            *layers, leaf = name.replace(".", "/").replace("/layer/", "/layer_._").split("/")
            if "norm" in layers[-1]:
                leaf = {"weight": "gamma", "bias": "beta"}[leaf]
            elif leaf == "weight":
                leaf, tensor = "kernel", tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
            file["/".join([layers[0], model_name, *layers, f"{leaf}:0"])] = tensor
