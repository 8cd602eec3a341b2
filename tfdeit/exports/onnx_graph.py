"""ONNX: the network written with the operators of opset 20, for ONNX Runtime 1.17 and later.

It is written node by node, not converted from TensorFlow's graph: that would leave LayerNorm and GELU in pieces, and
could not exceed the 2 GB of a protobuf.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tfdeit.checkpoint.files import named_variables
from tfdeit.exports.readme import Usage
from tfdeit.network.backbone import PretrainedModel

FILE = "model.onnx"
OPSET, IR_VERSION = 20, 9
INLINE_BYTES = 2**31 - 2**24  # a protobuf holds up to 2 GiB: larger weights go into a file beside it
_CLASSIFY = """\
def classify(pixel_values):
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixel_values": pixel_values})[0]"""


def write(model: PretrainedModel, processor: Any, directory: Path, dtype: str, calibration: np.ndarray | None) -> Usage:
    """Writes model.onnx, and model.onnx.data if the weights exceed 2 GB."""
    save(build(model, dtype), directory / FILE)
    return Usage(FILE, dtype, "onnxruntime", "import onnxruntime", _CLASSIFY)


def save(proto: onnx.ModelProto, path: Path):
    """Saves a graph, with the weights in a second file if they are too large for one, and checks what is on disk."""
    external = sum(len(tensor.raw_data) for tensor in proto.graph.initializer) > INLINE_BYTES
    onnx.save(proto, path, save_as_external_data=external, location=f"{path.name}.data" if external else None)
    onnx.checker.check_model(path, full_check=True)


def load(directory: Path, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the model in ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(directory / FILE, providers=["CPUExecutionProvider"])
    return lambda pixel_values: session.run(None, {"pixel_values": pixel_values})[0]


def build(model: PretrainedModel, dtype: str) -> onnx.ModelProto:
    """Returns the classifier as a graph from pixel_values (batch, H, W, C) to logits (batch, classes), both float32.

    Args:
        model: a classifier; if it has two heads, the logits are their mean.
        dtype: "float32" or "float16", of the weights and the arithmetic.
    """
    config, graph = model.config, _Graph(model, dtype)
    classes, shape = config.num_labels, (*config.image_hw, config.num_channels)
    tokens = _embed(graph, config)
    for index in range(config.num_hidden_layers):
        tokens = _block(graph, config, tokens, f"block_{index}/")
    logits = _classify(graph, config, graph.norm(tokens, "norm"))
    graph.add("Cast", logits, to=TensorProto.FLOAT, name="logits")
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", *shape])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])]
    proto = helper.make_graph(graph.nodes, "tfdeit", inputs, outputs, [*graph.initializers.values()])
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(proto, opset_imports=[opset], ir_version=IR_VERSION, producer_name="tfdeit")


class _Graph:
    """Nodes and constants under construction. Values are named after the variables and layers of the model."""

    def __init__(self, model, dtype):
        prefix = f"{model.config.model_type}/"
        self.variables = {name.removeprefix(prefix): value for name, value in named_variables(model).items()}
        self.dtype, self.epsilon = np.dtype(dtype), model.config.layer_norm_eps
        self.nodes, self.initializers = [], {}

    def add(self, operator: str, *inputs: str, outputs: int = 1, name: str = "", **attributes) -> Any:
        """Adds a node; returns the name of its output, or the names of several."""
        name = name or f"{operator}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, name: str, value: Any) -> str:
        """Adds a float constant, stored as `dtype`."""
        self.initializers[name] = numpy_helper.from_array(np.array(value, self.dtype, order="C"), name)
        return name

    def integers(self, *values: int) -> str:
        """Adds a vector of integers, such as a shape, once."""
        name = "_".join(map(str, ("integers", *values)))
        self.initializers[name] = numpy_helper.from_array(np.array(values, "int64"), name)
        return name

    def value(self, name: str) -> np.ndarray:
        """Returns a variable of the model."""
        return self.variables[name].numpy()

    def weight(self, name: str) -> str:
        """Adds a variable of the model."""
        return self.constant(name, self.value(name))

    def dense(self, tokens: str, name: str, scale: Any = 1.0) -> str:
        """Adds a dense layer, whose outputs are multiplied by `scale`, a scalar or (outputs,)."""
        outputs = self.add("MatMul", tokens, self.constant(f"{name}/kernel", self.value(f"{name}/kernel") * scale))
        if f"{name}/bias" not in self.variables:
            return outputs
        return self.add("Add", outputs, self.constant(f"{name}/bias", self.value(f"{name}/bias") * scale))

    def norm(self, tokens: str, name: str) -> str:
        """Adds a LayerNorm, which computes in float32 whatever `dtype`."""
        weights = self.weight(f"{name}/gamma"), self.weight(f"{name}/beta")
        return self.add("LayerNormalization", tokens, *weights, epsilon=self.epsilon)


def _embed(graph, config):
    """Pixels to tokens (B, T, D). Prefix tokens are zeros put before the patches; the table added to all holds them."""
    values = graph.add("Cast", "pixel_values", to=helper.np_dtype_to_tensor_dtype(graph.dtype))
    values = graph.add("Transpose", values, perm=[0, 3, 1, 2])
    kernel = graph.value("patch_embedding/projection/kernel").transpose(3, 2, 0, 1)
    weights = graph.constant("patch_embedding/kernel", kernel), graph.weight("patch_embedding/projection/bias")
    values = graph.add("Conv", values, *weights, strides=config.patch_hw)
    values = graph.add("Reshape", values, graph.integers(0, config.hidden_size, config.num_patches))
    values = graph.add("Transpose", values, perm=[0, 2, 1])  # (B, N, D)

    names = ("cls_token", "distillation_token")[: config.num_prefix_tokens]
    prefix = np.concatenate([graph.value(f"token_concatenation/{name}") for name in names], axis=1)
    positions = graph.value("token_concatenation/position_embeddings")
    if config.no_embed_class:
        table = np.concatenate([prefix, positions], axis=1)
    else:
        table = positions.copy()
        table[:, : len(names)] += prefix
    values = graph.add("Pad", values, graph.integers(0, len(names), 0, 0, 0, 0))
    return graph.add("Add", values, graph.constant("token_concatenation/table", table))


def _block(graph, config, tokens, name):
    for number, branch in enumerate((_attention, _mlp), 1):
        outputs = branch(graph, config, graph.norm(tokens, f"{name}norm{number}"), name)
        if config.layerscale_value is not None:
            outputs = graph.add("Mul", outputs, graph.weight(f"{name}layer_scale{number}"))
        tokens = graph.add("Add", tokens, outputs)
    return tokens


def _attention(graph, config, tokens, name):
    width, heads = config.hidden_size, config.num_attention_heads
    length = config.num_prefix_tokens + config.num_patches
    scale = np.ones(3 * width, "float32")
    scale[:width] = (width // heads) ** -0.5  # of the queries
    split = graph.add("Split", graph.dense(tokens, f"{name}attention/qkv", scale), outputs=3, axis=-1, num_outputs=3)
    shape = graph.integers(0, length, heads, width // heads)
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    parts = zip(split, orders, strict=True)
    query, key, value = (graph.add("Transpose", graph.add("Reshape", x, shape), perm=order) for x, order in parts)
    probabilities = graph.add("Softmax", graph.add("MatMul", query, key), axis=-1)  # (B, heads, T, T)
    context = graph.add("Transpose", graph.add("MatMul", probabilities, value), perm=[0, 2, 1, 3])
    context = graph.add("Reshape", context, graph.integers(0, length, width))  # (B, T, D)
    return graph.dense(context, f"{name}attention/projection")


def _mlp(graph, config, tokens, name):
    hidden = _ACTIVATIONS[config.hidden_act](graph, graph.dense(tokens, f"{name}mlp/fc1"))
    return graph.dense(hidden, f"{name}mlp/fc2")


def _classify(graph, config, tokens):
    """The logits; with two heads their mean, as a sum of halves."""
    names = ("classifier", "cls_classifier", "distillation_classifier")
    heads = [name for name in names if f"{name}/kernel" in graph.variables]
    logits = []
    for index, head in enumerate(heads):
        token = graph.add("Slice", tokens, *(graph.integers(i) for i in (index, index + 1, 1)))
        token = graph.add("Squeeze", token, graph.integers(1))  # (B, D)
        logits.append(graph.dense(token, head, 1 / len(heads)))
    return graph.add("Sum", *logits)


def _swish(graph, values, slope=None):
    scaled = graph.add("Mul", values, graph.constant("slope", slope)) if slope else values
    return graph.add("Mul", values, graph.add("Sigmoid", scaled))


_ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "gelu": lambda graph, values: graph.add("Gelu", values),
    "gelu_new": lambda graph, values: graph.add("Gelu", values, approximate="tanh"),
    "gelu_pytorch_tanh": lambda graph, values: graph.add("Gelu", values, approximate="tanh"),
    "quick_gelu": lambda graph, values: _swish(graph, values, 1.702),
    "relu": lambda graph, values: graph.add("Relu", values),
    "selu": lambda graph, values: graph.add("Selu", values),
    "sigmoid": lambda graph, values: graph.add("Sigmoid", values),
    "silu": _swish,
    "swish": _swish,
    "tanh": lambda graph, values: graph.add("Tanh", values),
}
